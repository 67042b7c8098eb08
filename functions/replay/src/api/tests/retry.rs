//! `POST /dlq/{eventId}/retry`: what it understands, and when it cannot be done now.

use std::time::Duration;

use genesys_relay::domain::event_record::{
    Attempt, Claim, ClaimRequest, ClaimResult, Context, Death, REPLAY_CEILING,
};
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::events_table::{EventsTable as _, Written};
use genesys_relay::ports::queue::{Receiver as _, Redrive as _};
use genesys_relay::testing::FakeClock;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_understood_is_refused_and_nothing_is_done() {
    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    for (body, base64, parameter) in [
        (json!("no JSON"), false, "body"),
        (json!("null"), false, "body"),
        (json!("[]"), false, "body"),
        (json!(" "), false, "body"),
        (json!("{\"why\":\"\u{0}\"}"), false, "body"),
        (json!("{\"why\":\"an end is missing"), false, "body"),
        (json!("no base64"), true, "body"),
        (json!("/w=="), true, "body"),
        (json!("{\"why\":7}"), false, "why"),
        (json!("{\"why\":\" \"}"), false, "why"),
        (json!("{\"why\":\"two\\nlines\"}"), false, "why"),
        (
            json!(format!("{{\"why\":\"{}\"}}", "x".repeat(501))),
            false,
            "why",
        ),
        (json!("{\"force\":true}"), false, "force"),
        (json!("{\"by\":\"another person\"}"), false, "by"),
        (
            json!("{\"all\":true,\"why\":\"all of them\"}"),
            false,
            "all",
        ),
        (json!("{\"action\":\"discard\"}"), false, "action"),
    ] {
        let mut event = retry_of(&dead_letter(1));
        event["body"] = body.clone();
        event["isBase64Encoded"] = base64.into();
        let answer = send(&function, event).await;
        assert_eq!(
            (answer.status, &answer.body["parameter"]),
            (400, &json!(parameter)),
            "{body}: {answer:?}"
        );
    }
    assert!(function.dead_letters.ports.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_body_and_an_empty_one_are_the_same() {
    for body in [Value::Null, json!(""), json!("{}"), json!("{\"why\":null}")] {
        let function = function();
        send_to_dead_letters(&function, [dead_letter(1)]).await;
        let mut event = retry_of(&dead_letter(1));
        event["body"] = body.clone();
        let answer = send(&function, event).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        assert_eq!(
            function.dead_letters.ports.table.only_record().history[0].why,
            None
        );
    }
}

/// Claims an event as the processor does.
async fn claim(function: &Fakes, message: &Message) -> Claim {
    let event = message.to_event(FakeClock.now()).expect("readable");
    let now = FakeClock.now();
    let lease_until = now + Duration::from_mins(1);
    let request = ClaimRequest {
        event: &event,
        message_id: "a-message",
        sent_at: now,
        bulk: None,
        last: false,
        conversation: None,
        resend: None,
        lease_until,
        now,
    };
    let found = function
        .dead_letters
        .ports
        .table
        .get(&event.id)
        .await
        .expect("read");
    let ClaimResult::Claimed(claim) = Claim::on(found.as_ref(), request) else {
        panic!("{found:?}")
    };
    assert_eq!(
        function
            .dead_letters
            .ports
            .table
            .write(claim.transition())
            .await
            .expect("written"),
        Written::Done
    );
    claim
}

fn attempt() -> Attempt {
    Attempt {
        at: FakeClock.now(),
        duration_ms: Some(7),
        status: Some(404),
        error: None,
        response: None,
    }
}

/// Detail of the 409 that answers a retry.
async fn conflict(function: &Fakes) -> String {
    let answer = send(function, retry_of(&dead_letter(1))).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(
        function.dead_letters.ports.events.messages().is_empty(),
        "nothing is sent"
    );
    answer.body["detail"].as_str().expect("a text").to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_not_dead_is_a_conflict_that_says_where_it_is() {
    let function = function();
    let claimed = claim(&function, &dead_letter(1)).await;
    assert!(conflict(&function).await.contains("being delivered"));
    let later = FakeClock.now() + Duration::from_mins(9);
    function
        .dead_letters
        .ports
        .table
        .write(&claimed.retrying(attempt(), later, FakeClock.now()))
        .await
        .expect("written");
    assert!(conflict(&function).await.contains("next attempt"));

    let function = crate::testing::function();
    let claimed = claim(&function, &dead_letter(1)).await;
    function
        .dead_letters
        .ports
        .table
        .write(&claimed.delivered(attempt()))
        .await
        .expect("written");
    assert!(conflict(&function).await.contains("the target has it"));

    let function = crate::testing::function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    let discard =
        json!({ "action": "discard", "eventIds": [id_of(&dead_letter(1))], "why": "a test" });
    invoke(&function, discard).await.expect("discarded");
    assert!(conflict(&function).await.contains("discarded"));

    let function = crate::testing::function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    invoke(
        &function,
        json!({ "action": "archive", "olderThanDays": 0 }),
    )
    .await
    .expect("archived");
    assert!(
        conflict(&function)
            .await
            .contains(&function.dead_letters.ports.archive.keys()[0])
    );
}

#[tokio::test(start_paused = true)]
async fn event_replayed_too_often_needs_force() {
    let function = function();
    for _ in 0..=REPLAY_CEILING {
        // What comes back unasked waits, up to an hour at last.
        tokio::time::advance(Duration::from_hours(2)).await;
        let claimed = claim(&function, &dead_letter(1)).await;
        let death = Death {
            reason: ReasonKind::Permanent,
            error: "the target answered 404".to_owned(),
            status_code: Some(404),
            dead_at: FakeClock.now(),
        };
        let dead = claimed.dead(attempt(), death, None, Context::default());
        function
            .dead_letters
            .ports
            .table
            .write(&dead)
            .await
            .expect("written");
    }
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    assert!(conflict(&function).await.contains("\"force\": true"));
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_the_run_or_the_move_task_that_is_at_work() {
    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    function
        .dead_letters
        .ports
        .redrive
        .start_move(None)
        .await
        .expect("started");
    let answer = send(&function, retry_of(&dead_letter(1))).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, "30"),
        "{answer:?}"
    );
    assert!(
        answer.body["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("move task")),
        "{answer:?}"
    );

    function
        .dead_letters
        .ports
        .redrive
        .cancel_move("task-0")
        .await
        .expect("cancelled");
    let run = {
        let function = Fakes::clone(&function);
        // Holds the lease for the two seconds that it waits for one more message.
        tokio::spawn(async move { invoke(&function, json!({ "action": "reconcile" })).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = send(&function, retry_of(&dead_letter(1))).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer.body["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("Reconcile")),
        "{answer:?}"
    );

    run.await.expect("no panic").expect("reconciled");
    assert_eq!(send(&function, retry_of(&dead_letter(1))).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_hidden_is_there_later() {
    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    let hidden_for = Duration::from_mins(5);
    function
        .dead_letters
        .ports
        .dead_letters
        .receive(10, hidden_for, Duration::ZERO)
        .await
        .expect("received");
    let answer = send(&function, retry_of(&dead_letter(1))).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, "60"),
        "{answer:?}"
    );
    tokio::time::advance(hidden_for).await;
    assert_eq!(send(&function, retry_of(&dead_letter(1))).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn expired_event_is_not_found() {
    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    tokio::time::advance(Duration::from_hours(15 * 24 - 1)).await;
    assert_eq!(send(&function, retry_of(&dead_letter(1))).await.status, 200);
    tokio::time::advance(Duration::from_hours(15 * 24)).await;
    assert_eq!(send(&function, retry_of(&dead_letter(1))).await.status, 404);
}
