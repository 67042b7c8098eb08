//! What the breaker goes by, and what it is.

use genesys_relay::attempts::{Attempts, minutes_before};
use genesys_relay::breaker::{Circuit, LastProbe, State as CircuitState};

use super::*;

pub(super) async fn attempts_of_a_minute_add_up(table: &impl EventsTable) -> Result<()> {
    let minutes = minutes_before(at(90), 3);
    assert_eq!(table.attempts(&minutes).await?, vec![Attempts::default(); 3]);

    let (mut one, mut other, mut sum) = (Attempts::default(), Attempts::default(), Attempts::default());
    one.succeeded();
    one.failed(&id("aaaa-1"));
    other.failed(&id("aaaa-1"));
    other.failed(&id("bbbb-2"));
    let mut delivered = Attempts::default();
    delivered.succeeded();
    for attempts in [&one, &other] {
        table.count_attempts(at(0), attempts).await?;
        sum.add(attempts);
    }
    table.count_attempts(at(60), &delivered).await?;

    assert_eq!((sum.delivered, sum.failed, sum.failing_events()), (1, 3, 2), "one event failed twice");
    assert_eq!(table.attempts(&minutes).await?, [delivered, sum, Attempts::default()], "the newest first");
    Ok(())
}

pub(super) async fn the_breaker_is_what_was_saved_last(table: &impl EventsTable) -> Result<()> {
    assert_eq!(table.circuit().await?, None);
    let closed = Circuit::closed(at(0));
    let probe = LastProbe {
        at: at(59),
        event_id: Some("an-event".to_owned()),
        delivered: false,
        error: Some("the target answered 503".to_owned()),
    };
    let open =
        Circuit { state: CircuitState::Open, probes: 3, last_probe: Some(probe), forced: true, ..closed.clone() };
    let closing =
        Circuit { state: CircuitState::Closing { concurrency: 4 }, by: Some("me".to_owned()), ..closed.clone() };
    let exhausting = Circuit { state: CircuitState::Exhausting, last_run_at: at(90), ..closed.clone() };
    let off = Circuit { state: CircuitState::Off, ..closed.clone() };
    for circuit in [closed, open, closing, exhausting, off] {
        table.save_circuit(&circuit).await?;
        assert_eq!(table.circuit().await?, Some(circuit));
    }
    Ok(())
}
