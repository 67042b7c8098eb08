//! A retry that takes longer than a caller of the HTTP API can wait.

use std::time::Duration;

use genesys_relay::dead_letters::Request;
use genesys_relay::testing::FakeQueue;
use tokio::time::{Instant, sleep};

use super::super::ANSWER_WITHIN;
use super::*;
use crate::testing::function_over;

/// Ten dead letters, which are received at once, and behind them the one with the number 10.
async fn with_a_slow_queue() -> Fakes {
    let queue = FakeQueue::default();
    queue.delay_receives(Duration::from_secs(16));
    let function = function_over(queue);
    send_to_dead_letters(&function, (0..=10).map(dead_letter)).await;
    function
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_takes_too_long_goes_on_in_the_background() {
    let function = with_a_slow_queue().await;
    let mut event = retry_of(&dead_letter(10));
    event["body"] = json!("{\"why\":\"it is time\"}");
    let began_at = Instant::now();
    let answer = send(&function, event).await;
    let expected = json!({ "status": "accepted", "eventId": id_of(&dead_letter(10)) });
    assert_eq!(
        (answer.status, &answer.body),
        (202, &expected),
        "{answer:?}"
    );
    assert!(
        began_at.elapsed() <= ANSWER_WITHIN,
        "{:?}",
        began_at.elapsed()
    );
    assert!(
        function.dead_letters.ports.events.messages().is_empty(),
        "not yet"
    );

    let [request] = &function.background.requests()[..] else {
        panic!("one request")
    };
    let expected = json!({
        "action": "replay", "eventIds": [id_of(&dead_letter(10))], "why": "it is time",
        "runId": request["runId"], "begin": true,
    });
    assert_eq!(request, &expected);
    sleep(Duration::from_mins(1)).await;
    let report = invoke(&function, request.clone())
        .await
        .expect("carried out");
    assert_eq!(report["replayed"], 1, "{report}");
    let record = function
        .dead_letters
        .ports
        .table
        .record(&id_of(&dead_letter(10)));
    let by = record.and_then(|record| Some(record.history.last()?.by.clone()));
    assert_eq!(by.as_deref(), Some(OPERATOR), "as the table has it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_that_lambda_has_not_taken() {
    let function = with_a_slow_queue().await;
    function.background.fail();
    let answer = send(&function, retry_of(&dead_letter(10))).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        !answer.body.to_string().contains("made to fail"),
        "the cause is for the log"
    );
}

#[tokio::test(start_paused = true)]
async fn an_invocation_cannot_change_the_request_of_a_run() {
    let function = with_a_slow_queue().await;
    assert_eq!(
        send(&function, retry_of(&dead_letter(10))).await.status,
        202
    );
    let begun = function.background.requests().remove(0);
    sleep(Duration::from_mins(1)).await;
    for (field, value) in [
        ("eventIds", json!([id_of(&dead_letter(1))])),
        ("by", json!("another person")),
        ("why", json!("another reason")),
    ] {
        let mut other = begun.clone();
        other[field] = value;
        let error = invoke(&function, other).await.expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest", "{field}: {error:?}");
        assert!(error.error_message.contains("runId"), "{error:?}");
    }
    assert!(function.dead_letters.ports.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_arn_of_any_length_is_understood_in_the_background_too() {
    let function = with_a_slow_queue().await;
    let mut event = retry_of(&dead_letter(10));
    let arn = format!("arn:aws:sts::123456789012:assumed-role/{}", "ä".repeat(600));
    event["requestContext"]["authorizer"]["iam"]["userArn"] = arn.into();
    assert_eq!(send(&function, event).await.status, 202);
    let request = function.background.requests().remove(0);
    Request::parse(request, "a test").expect("understood");
}
