//! Background runs.

use super::*;
use crate::ports::service::Service;

async fn background(relay: &Fake, request: Value) -> Value {
    match handle(relay, request).await.expect("carried out") {
        Answer::Status(StatusAnswer::Background(answer)) => json!(answer.background),
        answer => panic!("{answer:?}"),
    }
}

/// Starts a run as the function does, and returns whether it must be handed over.
async fn start(relay: &Fake, request: &Value) -> Result<(Value, bool), ReplayError> {
    let Request::Start(start) = Request::parse(request.clone(), "a test").expect("a request")
    else {
        panic!("no start")
    };
    let (shown, is_open) = relay.enlist(&start).await?;
    assert_eq!(start.payload["begin"], true);
    Ok((json!(shown), is_open))
}

fn begun(request: &Value) -> Value {
    let mut request = request.clone();
    request["begin"] = true.into();
    request
}

#[tokio::test(start_paused = true)]
async fn a_run_is_started_under_a_name_once_and_watched_to_its_end() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..30).map(|name| message("a", name))).await;
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 1, "runId": "outage-1", "why": "over" });
    let status = json!({ "action": "status", "runId": "outage-1" });
    assert!(matches!(
        handle(&relay, status.clone()).await,
        Err(ReplayError::UnknownRun(_))
    ));
    let (shown, is_open) = start(&relay, &request).await.expect("noted");
    assert_eq!(
        (&shown["state"], &shown["why"], is_open),
        (&json!("waiting"), &json!("over"), true)
    );
    // A client without an answer asks again, and the invocations exclude each other.
    assert!(start(&relay, &request).await.expect("noted").1);
    let relay = std::sync::Arc::new(relay);
    let run = tokio::spawn({
        let (relay, request) = (std::sync::Arc::clone(&relay), begun(&request));
        async move { handle(&relay, request).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let shown = background(&relay, status.clone()).await;
    assert_eq!(shown["state"], "running");
    assert!(
        shown["report"]["replayed"]
            .as_u64()
            .is_some_and(|replayed| (1..30).contains(&replayed)),
        "{shown}"
    );
    assert_eq!(
        start(&relay, &request).await.expect("known").0["state"],
        "running",
        "it is not begun twice"
    );
    let other = json!({ "action": "archive", "runId": "another" });
    assert!(matches!(
        start(&relay, &other).await,
        Err(ReplayError::Busy(_))
    ));
    run.await.expect("no panic").expect("carried out");
    let shown = background(&relay, status.clone()).await;
    assert_eq!(
        (&shown["state"], &shown["report"]["replayed"]),
        (&json!("ended"), &json!(30)),
        "{shown}"
    );
    assert_eq!(relay.ports.events.messages().len(), 30);
    send_to_dead_letters(&relay, [message("a", 31)]).await;
    assert_eq!(
        background(&relay, begun(&request)).await["report"]["replayed"],
        30,
        "what has ended is not repeated"
    );
    assert!(!start(&relay, &request).await.expect("known").1);
    let mut other = request.clone();
    other["why"] = "another".into();
    assert!(
        matches!(
            start(&relay, &other).await,
            Err(ReplayError::NameTaken { .. })
        ),
        "it would be swallowed"
    );
    tokio::time::advance(Duration::from_mins(11)).await;
    let later = start(&relay, &request)
        .await
        .expect_err("its report is of long ago")
        .to_string();
    assert!(
        later.contains("outage-1") && later.contains("it ended at"),
        "{later}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_lambda_gave_up_is_unfinished_until_it_is_asked_for_again() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let request = json!({ "action": "archive", "olderThanDays": 0, "runId": "a-run" });
    let status = json!({ "action": "status", "runId": "a-run" });
    start(&relay, &request).await.expect("noted");
    for (minutes, state) in [(64, "waiting"), (1, "unfinished")] {
        tokio::time::advance(Duration::from_mins(minutes)).await;
        assert_eq!(background(&relay, status.clone()).await["state"], state);
    }
    let (shown, is_open) = start(&relay, &request).await.expect("taken up");
    assert_eq!((&shown["state"], is_open), (&json!("waiting"), true));
    handle(&relay, begun(&request)).await.expect("carried out");
    assert_eq!(background(&relay, status).await["report"]["archived"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_or_is_cut_off_says_so_and_goes_on_under_its_name() {
    let relay = std::sync::Arc::new(relay());
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let request = json!({ "action": "archive", "olderThanDays": 0, "runId": "a-run" });
    let status = json!({ "action": "status", "runId": "a-run" });
    start(&relay, &request).await.expect("noted");
    relay.ports.dead_letters.fail_times(1);
    assert!(
        matches!(
            handle(&relay, begun(&request)).await,
            Err(ReplayError::Service(error)) if error.service == Service::Sqs
        ),
        "so that Lambda begins it again"
    );
    let shown = background(&relay, status.clone()).await;
    assert_eq!(shown["state"], "failed");
    assert!(
        shown["error"]
            .as_str()
            .is_some_and(|error| error.contains("SQS did not answer")),
        "{shown}"
    );

    relay.ports.table.halt_after(6);
    let doomed = tokio::spawn({
        let (relay, request) = (std::sync::Arc::clone(&relay), begun(&request));
        async move { handle(&relay, request).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(30)).await;
    doomed.abort();
    relay.ports.table.resume();
    assert_eq!(
        background(&relay, status.clone()).await["state"],
        "running",
        "its lease has not ended"
    );
    tokio::time::advance(Duration::from_mins(2)).await;
    assert_eq!(
        background(&relay, status.clone()).await["state"],
        "unfinished"
    );
    assert!(start(&relay, &request).await.expect("known").1);
    handle(&relay, begun(&request)).await.expect("carried out");
    let shown = background(&relay, status).await;
    assert_eq!(
        (&shown["state"], visible(&relay).await),
        (&json!("ended"), 0),
        "{shown}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_killed_goes_on_when_lambda_begins_it_again() {
    for (killed_after, is_waited_for) in [(1, true), (7, true), (40, false)] {
        let relay = std::sync::Arc::new(relay());
        send_to_dead_letters(&relay, (0..120).map(|name| message("a", name))).await;
        let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 1, "runId": "a-run" });
        start(&relay, &request).await.expect("noted");
        let doomed = tokio::spawn({
            let (relay, request) = (std::sync::Arc::clone(&relay), begun(&request));
            async move { handle(&relay, request).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(killed_after)).await;
        doomed.abort();
        // The first time after a minute, by when the messages that a run of a minute hid may still
        // be hidden.
        tokio::time::sleep(Duration::from_mins(1)).await;
        if is_waited_for {
            let first = handle(&relay, begun(&request)).await;
            assert!(
                matches!(&first, Err(ReplayError::Busy(held)) if held.until <= FakeClock.now()),
                "{first:?}"
            );
            tokio::time::sleep(Duration::from_mins(2)).await;
        }
        handle(&relay, begun(&request)).await.expect("carried out");
        let shown = background(&relay, json!({ "action": "status", "runId": "a-run" })).await;
        assert_eq!(shown["state"], "ended", "{killed_after}: {shown}");
    }
}
