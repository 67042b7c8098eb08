//! Attempts and state of the breaker.

use genesys_relay::domain::attempts::{Attempts, minutes_before};
use genesys_relay::domain::circuit::State as CircuitState;
use genesys_relay::domain::circuit::{Circuit, LastProbe};

use super::*;

pub(super) async fn attempts_of_a_minute_add_up(table: &impl EventsTable) -> Result<()> {
    let minutes = minutes_before(at(90), 3);
    assert_eq!(
        table.attempts(&minutes).await?,
        vec![Attempts::default(); 3]
    );

    let (mut one, mut other, mut sum) = (
        Attempts::default(),
        Attempts::default(),
        Attempts::default(),
    );
    one.count(&id("cccc-3"), 1, true);
    one.count(&id("aaaa-1"), 1, false);
    other.count(&id("aaaa-1"), 1, false);
    other.count(&id("bbbb-2"), 1, false);
    other.count(&id("dddd-4"), 2, false);
    other.credentials_failed = 2;
    let mut delivered = Attempts::default();
    delivered.count(&id("aaaa-1"), 2, true);
    for attempts in [&one, &other] {
        table.count_attempts(at(0), attempts).await?;
        sum.add(attempts);
    }
    table.count_attempts(at(60), &delivered).await?;

    assert_eq!(
        (
            sum.delivered,
            sum.failed,
            sum.failing_events(),
            sum.failure_percent()
        ),
        (1, 4, 2, 75)
    );
    assert_eq!(
        table.attempts(&minutes).await?,
        [delivered, sum, Attempts::default()],
        "the newest first"
    );
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
    let open = Circuit {
        state: CircuitState::Open,
        probes: 3,
        last_probe: Some(probe),
        forced: true,
        stepped_at: Some(at(59)),
        delivered_at: Some(at(1)),
        waiting_since: Some(at(2)),
        ..closed.clone()
    };
    let closing = Circuit {
        state: CircuitState::Closing { concurrency: 4 },
        by: Some("me".to_owned()),
        ..closed.clone()
    };
    let exhausting = Circuit {
        state: CircuitState::Exhausting,
        last_run_at: at(90),
        ..closed.clone()
    };
    let off = Circuit {
        state: CircuitState::Off,
        ..closed.clone()
    };
    for circuit in [closed, open, closing, exhausting, off] {
        table.save_circuit(&circuit).await?;
        assert_eq!(table.circuit().await?, Some(circuit));
    }
    Ok(())
}
