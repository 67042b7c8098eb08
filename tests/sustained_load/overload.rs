//! The borders: what senders and SQS are told when AWS throttles, fails, or does not answer at all.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use local::genesys::Webhook;
use local::runtime_api::FunctionProcess;
use local::stack::secret;
use local::stand_in::{Faults, ServiceFault, StandIn};
use serde_json::{Value, json};

use crate::deliveries::{kept, record};
use crate::target::{ASKS, Target};
use crate::webhooks::request;
use crate::{INGEST_TIME, NOWHERE, PROCESSOR_TIME, returned, start};

/// Functions at the same time, since most of the time is spent in waiting.
const FUNCTIONS: usize = 6;

/// Webhooks for each of them.
const WEBHOOKS: usize = 20;

/// Errors of SQS: throttled ("Common Errors" of the Amazon SQS API Reference) and failed.
const FAULTS: [ServiceFault; 5] = [
    ServiceFault::Refused(400, "ThrottlingException"),
    ServiceFault::Refused(403, "RequestThrottled"),
    ServiceFault::Refused(503, "ServiceUnavailable"),
    ServiceFault::Refused(500, "InternalFailure"),
    ServiceFault::Cut,
];

/// Lets half of the calls of `operation` fail, each in one of these ways.
fn half_of(operation: &'static str, faults: &'static [ServiceFault]) -> Faults {
    let rng = Mutex::new(fastrand::Rng::with_seed(7));
    Box::new(move |called| {
        let mut rng = rng.lock().ok()?;
        (called == operation && rng.bool()).then(|| faults[rng.usize(..faults.len())])
    })
}

/// Lets every call of `operation` go wrong like this.
fn always(operation: &'static str, fault: ServiceFault) -> Faults {
    Box::new(move |called| (called == operation).then_some(fault))
}

/// Sends one event to ingest. Gives its id, or nothing where the sender is told to come again.
async fn send(ingest: &mut FunctionProcess, name: &str) -> Result<Option<String>> {
    let webhook = Webhook::signed(format!("{{\"name\":\"{name}\"}}"));
    let answer = returned(ingest.invoke(request(&webhook, false).to_string()).await?)?;
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
    if answer["statusCode"] == 200 {
        return body["eventId"]
            .as_str()
            .map(|id| Some(id.to_owned()))
            .context("an id");
    }
    ensure!(
        answer["statusCode"] == 503 && answer["headers"]["retry-after"] == "5",
        "neither yes nor later: {answer}"
    );
    Ok(None)
}

/// Sends many events at the same time. Gives the ids of those that were accepted, and how many were
/// not.
async fn send_many(stand_in: &StandIn) -> Result<(Vec<String>, usize)> {
    let senders = (0..FUNCTIONS).map(async |function| {
        let mut ingest = start("ingest", stand_in, NOWHERE, INGEST_TIME).await?;
        let mut answers = Vec::new();
        for webhook in 0..WEBHOOKS {
            answers.push(send(&mut ingest, &format!("{function}/{webhook}")).await?);
        }
        anyhow::Ok(answers)
    });
    let answers: Vec<_> = try_join_all(senders).await?.into_iter().flatten().collect();
    let refused = answers.iter().filter(|answer| answer.is_none()).count();
    Ok((answers.into_iter().flatten().collect(), refused))
}

#[tokio::test]
async fn while_the_queue_throttles_and_fails_just_those_are_told_200_that_it_has() -> Result<()> {
    let stand_in = StandIn::start_failing(&secret(), half_of("SendMessage", &FAULTS)).await?;
    let (mut accepted, refused) = send_many(&stand_in).await?;
    let mut stored = stand_in.messages("events");
    eprintln!(
        "{} accepted, {refused} told to come again, {} stored",
        accepted.len(),
        stored.len()
    );
    assert!(!accepted.is_empty() && refused > 0, "some of each");
    accepted.sort_unstable();
    stored.sort_unstable();
    assert!(
        accepted == stored,
        "each that was accepted is there, once, and no other"
    );
    Ok(())
}

#[tokio::test]
async fn an_answer_of_the_queue_that_is_lost_makes_two_of_one_and_never_none() -> Result<()> {
    let stand_in = StandIn::start_failing(
        &secret(),
        half_of("SendMessage", &[ServiceFault::AnswerLost]),
    )
    .await?;
    let (accepted, refused) = send_many(&stand_in).await?;
    let stored = stand_in.messages("events");
    let distinct: BTreeSet<_> = stored.iter().collect();
    eprintln!(
        "{} accepted, {refused} told to come again, {} stored",
        accepted.len(),
        stored.len()
    );
    assert!(accepted.iter().all(|id| distinct.contains(id)));
    assert_eq!(
        distinct.len(),
        FUNCTIONS * WEBHOOKS,
        "here it was stored each time, whatever the sender was told"
    );
    assert!(
        stored.len() > distinct.len(),
        "and the same id twice where the call was made again"
    );
    Ok(())
}

/// Were it too late, the function would be killed, and the test fail by that.
#[tokio::test]
async fn while_aws_does_not_answer_the_sender_is_told_so_in_time() -> Result<()> {
    try_join_all(["SendMessage", "GetSecretValue"].map(async |operation| {
        let stand_in =
            StandIn::start_failing(&secret(), always(operation, ServiceFault::Hang)).await?;
        let mut ingest = start("ingest", &stand_in, NOWHERE, INGEST_TIME).await?;
        ingest.init().await?;
        let answer = send(&mut ingest, "hanging").await.context(operation)?;
        ensure!(
            answer.is_none() && stand_in.messages("events").is_empty(),
            "{operation}: {answer:?}"
        );
        Ok(())
    }))
    .await?;
    Ok(())
}

/// Less time than a call may take.
#[tokio::test]
async fn an_invocation_that_runs_out_of_time_still_answers_and_so_does_the_next() -> Result<()> {
    let stand_in =
        StandIn::start_failing(&secret(), always("SendMessage", ServiceFault::Hang)).await?;
    let mut ingest = start("ingest", &stand_in, NOWHERE, Duration::from_millis(3500)).await?;
    // A start takes as long as the machine is busy.
    ingest.init().await?;
    for name in ["first", "second"] {
        assert_eq!(send(&mut ingest, name).await.context(name)?, None);
    }
    Ok(())
}

#[tokio::test]
async fn while_the_table_throttles_nothing_is_acknowledged_that_it_does_not_have() -> Result<()> {
    const THROTTLED: [ServiceFault; 2] = [
        ServiceFault::Refused(400, "ProvisionedThroughputExceededException"),
        ServiceFault::Refused(400, "ThrottlingException"),
    ];
    let stand_in = StandIn::start_failing(&secret(), half_of("PutItem", &THROTTLED)).await?;
    let target = Target::start().await?;
    let batches = (0..FUNCTIONS).map(async |function| {
        let mut processor = start("processor", &stand_in, &target.url(), PROCESSOR_TIME).await?;
        let mut acknowledged = 0;
        for batch in 0..2 {
            let id = |record: usize| format!("throttled-{function}-{batch}-{record}");
            let records = (0..10).map(|number| record(&id(number), &format!("{ASKS}200}}"), 1));
            let records = json!({ "Records": records.collect::<Vec<_>>() });
            let answer = returned(processor.invoke(records.to_string()).await?)?;
            acknowledged += 10 - kept(&answer).len();
        }
        anyhow::Ok(acknowledged)
    });
    let acknowledged: usize = try_join_all(batches).await?.into_iter().sum();
    eprintln!(
        "{acknowledged} acknowledged, {} delivered",
        target.answered(200)
    );
    assert!(
        acknowledged > 0 && acknowledged < FUNCTIONS * 20,
        "some of each"
    );
    assert_eq!(stand_in.written("DELIVERED"), acknowledged);
    assert_eq!(
        target.answered(200),
        acknowledged,
        "and what could not be claimed was not delivered"
    );
    Ok(())
}
