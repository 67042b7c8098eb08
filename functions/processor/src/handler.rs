//! Turns a batch of SQS into a call of [`Processor`], and its outcome into a partial batch
//! response.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lambda_events::event::sqs::{
    BatchItemFailure, SqsBatchResponse, SqsMessage, SqsMessageAttribute,
};
use genesys_relay::deliver::{PortTypes, Processor};
use genesys_relay::domain::circuit::Probed;
use genesys_relay::domain::message::{Attribute, AttributeValue, Message};
use genesys_relay::ports::clock::{Clock as _, end_of_invocation};
use genesys_relay::ports::queue::{ReceiptHandle, ReceivedMessage, is_fifo};
use genesys_relay::ports::service::ServiceError;
use genesys_relay::runtime::logging::display_chain;
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::{Deserialize, Serialize};

/// The payload of an invocation.
#[derive(Debug, Deserialize)]
pub(crate) struct Invocation {
    /// The batch of the event source mapping.
    #[serde(rename = "Records")]
    records: Option<Vec<SqsMessage>>,
    /// True in a request of the breaker to attempt one event of the queue.
    #[serde(default)]
    probe: bool,
    /// The time at which the target last accepted an event, with a probe.
    #[serde(default, rename = "deliveredAt")]
    delivered_at: Option<Timestamp>,
}

/// The answer of the function.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// The messages that SQS must keep, for the event source mapping.
    Batch(SqsBatchResponse),
    /// The outcome of a probe, for the breaker.
    Probe(Probed),
}

/// An invocation without an answer, in which nothing was processed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvocationError {
    /// It cannot be reported as failed by itself, so the whole batch must come again.
    #[error("a record has no messageId; nothing of this batch was processed")]
    NoMessageId,
    /// The payload is neither a batch nor a probe.
    #[error(
        r#"the payload has no Records; send {{"probe":true}} to probe the target with one event"#
    )]
    NoRecords,
    /// SQS gave no message.
    #[error("failed to receive an event to probe with")]
    Service(#[from] ServiceError),
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let error_type = match &error {
            InvocationError::NoMessageId => "NoMessageId",
            InvocationError::NoRecords => "NoRecords",
            InvocationError::Service(error) => error.kind(),
        };
        Self {
            error_type: error_type.to_owned(),
            error_message: display_chain(&error),
        }
    }
}

/// Processes one batch, or probes the target with one event.
///
/// Records are decoded one by one, and a body of any kind is carried as text: one that cannot be
/// read fails alone.
pub(crate) async fn handle<T: PortTypes>(
    processor: Arc<Processor<T>>,
    event: LambdaEvent<Invocation>,
) -> Result<Reply, InvocationError> {
    let deadline = end_of_invocation(event.context.deadline());
    if event.payload.probe {
        // Boxed: rare, and too large to be moved around with each batch.
        return Ok(Reply::Probe(
            Box::pin(processor.probe(event.payload.delivered_at, deadline)).await?,
        ));
    }
    let now = processor.ports.clock.now();
    let records = event
        .payload
        .records
        .ok_or(InvocationError::NoRecords)?
        .into_iter();
    let records = records
        .map(|record| read(record, now))
        .collect::<Result<Vec<_>, _>>()?;
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = processor
        .process(records, deadline)
        .await
        .into_iter()
        .map(failure)
        .collect();
    Ok(Reply::Batch(response))
}

fn failure(message_id: String) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = message_id;
    failure
}

fn read(record: SqsMessage, now: Timestamp) -> Result<ReceivedMessage, InvocationError> {
    let number = |name: &str| {
        record
            .attributes
            .get(name)
            .and_then(|number| number.parse::<i64>().ok())
    };
    // SQS always gives both; a test event written by hand may lack them, and counts as new.
    let receive_count = number("ApproximateReceiveCount")
        .unwrap_or(1)
        .max(1)
        .try_into()
        .unwrap_or(u32::MAX);
    let sent_at = number("SentTimestamp")
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or(now);
    let attributes = record
        .message_attributes
        .into_iter()
        .filter_map(|(name, value)| Some((name, attribute(value)?)));
    Ok(ReceivedMessage {
        message_id: record
            .message_id
            .filter(|id| !id.is_empty())
            .ok_or(InvocationError::NoMessageId)?,
        receipt: record
            .receipt_handle
            .map_or_else(ReceiptHandle::absent, ReceiptHandle),
        receive_count,
        is_ordered: record.event_source_arn.as_deref().is_some_and(is_fifo),
        sent_at,
        message: Message {
            body: record.body.unwrap_or_default(),
            attributes: attributes.collect::<BTreeMap<_, _>>(),
            group: record.attributes.get("MessageGroupId").cloned(),
            trace: None,
        },
    })
}

fn attribute(attribute: SqsMessageAttribute) -> Option<Attribute> {
    let value = match (attribute.string_value, attribute.binary_value) {
        (Some(text), _) => AttributeValue::Text(text),
        (None, Some(bytes)) => AttributeValue::Binary(bytes.0),
        (None, None) => return None,
    };
    Some(Attribute {
        data_type: attribute.data_type.unwrap_or_else(|| "String".to_owned()),
        value,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    use genesys_relay::deliver::Ports;
    use genesys_relay::domain::conversation::ConversationKey;
    use genesys_relay::domain::failure::ReasonKind;
    use genesys_relay::domain::retry::Schedule;
    use genesys_relay::ports::queue::Sender as _;
    use genesys_relay::ports::target::{DeliveryFailure, FailureCause, Outcome, Target};
    use genesys_relay::testing::{FakeClock, FakePorts, FakeQueue, FakeTable, FakeTarget};
    use lambda_runtime::Context;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn payload(name: &str) -> Value {
        let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).expect("JSON")
    }

    struct Function {
        delivered: Arc<Mutex<Vec<String>>>,
        dead_letters: FakeQueue,
        failures: Vec<String>,
    }

    fn processor<T: Target>(target: T, dead_letters: FakeQueue) -> Processor<FakePorts<T>> {
        let schedule =
            Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 10).expect("a schedule");
        let (events, table) = (FakeQueue::default(), FakeTable::default());
        Processor::new(
            Ports {
                events,
                ordered: None,
                dead_letters,
                journal: None,
                table,
                target,
                clock: FakeClock,
            },
            schedule,
        )
    }

    fn invocation(payload: Value) -> LambdaEvent<Invocation> {
        let mut context = Context::default();
        let in_a_minute = SystemTime::now() + Duration::from_mins(1);
        let since_epoch = in_a_minute
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        context.deadline = u64::try_from(since_epoch.as_millis()).expect("in range");
        LambdaEvent::new(
            serde_json::from_value(payload).expect("an SQS event"),
            context,
        )
    }

    /// Runs one batch against a target that answers by the position of the record.
    async fn run(payload: Value, status: fn(usize) -> u16) -> Function {
        let delivered = Arc::<Mutex<Vec<String>>>::default();
        let dead_letters = FakeQueue::default();
        let ids: Vec<Value> = payload["Records"]
            .as_array()
            .expect("records")
            .iter()
            .map(|record| record["messageAttributes"]["event_id"]["stringValue"].clone())
            .collect();
        let seen = Arc::clone(&delivered);
        let target = FakeTarget::new(
            move |event: genesys_relay::domain::event::Event, _attempt| {
                let position = ids.iter().position(|id| *id == event.id.as_str());
                let status = status(position.unwrap_or(usize::MAX));
                assert_ne!(status, 0, "this target panics");
                let outcome = if status < 300 {
                    seen.lock()
                        .expect("not poisoned")
                        .push(event.id.to_string());
                    Outcome::Delivered {
                        status: Some(status),
                    }
                } else {
                    Outcome::Failed(DeliveryFailure::new(
                        FailureCause::Status(status),
                        "as the test says",
                    ))
                };
                std::future::ready(outcome)
            },
        );
        let processor = processor(target, dead_letters.clone());
        let reply = handle(Arc::new(processor), invocation(payload))
            .await
            .expect("a reply");
        let Reply::Batch(response) = reply else {
            panic!("not to a batch: {reply:?}")
        };
        let failures = response
            .batch_item_failures
            .into_iter()
            .map(|failure| failure.item_identifier)
            .collect();
        Function {
            delivered,
            dead_letters,
            failures,
        }
    }

    fn message_ids(payload: &Value) -> Vec<String> {
        let records = payload["Records"].as_array().expect("records").iter();
        records
            .map(|record| record["messageId"].as_str().expect("an id").to_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_mixed_batch_reports_just_what_has_to_come_again() {
        let batch = payload("processor-batch-of-ten");
        let ids = message_ids(&batch);
        assert_eq!(ids.len(), 10);
        let function = run(batch, |position| match position {
            0 | 1 => 503,
            2 | 3 => 404,
            4 => 0,
            _ => 200,
        })
        .await;
        assert_eq!(
            function.failures,
            [&ids[0], &ids[1], &ids[4]].map(Clone::clone)
        );
        assert_eq!(function.delivered.lock().expect("not poisoned").len(), 5);
        let dead = function.dead_letters.messages();
        assert_eq!(dead.len(), 2);
        assert!(dead.iter().all(|message| {
            message
                .reason(FakeClock.now())
                .is_some_and(|reason| reason.status_code == Some(404) && reason.attempt == Some(1))
        }));
    }

    #[tokio::test]
    async fn a_batch_without_failures_reports_none() {
        let function = run(payload("processor-batch-of-ten"), |_| 200).await;
        assert_eq!(function.failures, Vec::<String>::new());
        assert!(function.dead_letters.messages().is_empty());
    }

    #[tokio::test]
    async fn a_bare_event_of_eventbridge_or_a_person_is_delivered() {
        for (name, events) in [
            ("processor-eventbridge", 1),
            ("processor-eventbridge-topics", 5),
            ("processor-sent-by-hand", 1),
        ] {
            let function = run(payload(name), |_| 200).await;
            assert_eq!(function.failures, Vec::<String>::new(), "{name}");
            let delivered: BTreeSet<String> = function
                .delivered
                .lock()
                .expect("not poisoned")
                .drain(..)
                .collect();
            assert_eq!(
                delivered.len(),
                events,
                "changes of one user or conversation are events of their own: {name}"
            );
        }
    }

    #[tokio::test]
    async fn poison_goes_to_the_dead_letters_alone_and_says_what_is_wrong() {
        let batch = payload("processor-poison");
        let records = message_ids(&batch).len();
        let function = run(batch, |_| 200).await;
        let dead = function.dead_letters.messages();
        assert_eq!(
            function.failures,
            Vec::<String>::new(),
            "poison is not tried again"
        );
        assert!(
            dead.len() >= 3 && dead.len() < records,
            "{} of {records}",
            dead.len()
        );
        assert_eq!(
            function.delivered.lock().expect("not poisoned").len(),
            records - dead.len()
        );
        for message in dead {
            assert_eq!(
                message.reason(FakeClock.now()).map(|reason| reason.reason),
                Some(ReasonKind::Malformed)
            );
        }
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_named_fails_the_batch_before_anything_is_delivered() {
        let mut batch = payload("processor-batch-of-ten");
        batch["Records"][9]["messageId"] = json!("");
        let target = FakeTarget::new(|event, _| -> std::future::Ready<Outcome> {
            panic!("{event:?} was delivered")
        });
        let answer = handle(
            Arc::new(processor(target, FakeQueue::default())),
            invocation(batch),
        )
        .await;
        assert!(answer.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_takes_one_event_from_the_queue_and_says_what_came_of_it() {
        let target =
            FakeTarget::new(|_, _| std::future::ready(Outcome::Delivered { status: Some(200) }));
        let processor = Arc::new(processor(target, FakeQueue::default()));
        let probe = || handle(Arc::clone(&processor), invocation(json!({ "probe": true })));
        assert_eq!(
            json!(probe().await.expect("probed")),
            json!({ "outcome": "nothing" })
        );
        let message = Message {
            body: "{}".to_owned(),
            attributes: BTreeMap::new(),
            group: None,
            trace: None,
        };
        processor.ports.events.send(&message).await.expect("sent");
        let reply = json!(probe().await.expect("probed"));
        assert_eq!(reply["outcome"], "delivered");
        assert!(reply["eventId"].is_string(), "{reply}");
        assert!(processor.ports.events.messages().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_sent_once_more_stays_in_its_group() {
        for (body, is_probe) in [("{}", true), ("{}", false), ("no json", false)] {
            let target = FakeTarget::new(|_, _| {
                std::future::ready(Outcome::Failed(DeliveryFailure::new(
                    FailureCause::Status(404),
                    "as the test says",
                )))
            });
            let processor = Arc::new(processor(target, FakeQueue::default()));
            let payload = if is_probe {
                let group = Some("w1".to_owned());
                let message = Message {
                    body: body.to_owned(),
                    attributes: BTreeMap::new(),
                    group,
                    trace: None,
                };
                processor.ports.events.send(&message).await.expect("sent");
                json!({ "probe": true })
            } else {
                let system = json!({ "MessageGroupId": "w1" });
                json!({ "Records": [{ "messageId": "m1", "body": body, "attributes": system }] })
            };
            handle(Arc::clone(&processor), invocation(payload))
                .await
                .expect("a reply");
            let queue = if is_probe {
                &processor.ports.events
            } else {
                &processor.ports.dead_letters
            };
            let groups: Vec<_> = queue
                .messages()
                .into_iter()
                .map(|message| message.group)
                .collect();
            assert_eq!(groups, [Some("w1".to_owned())], "{body}, probe: {is_probe}");
        }
    }

    #[tokio::test]
    async fn payload_other_than_batch_or_probe_is_refused() {
        for payload in [json!({}), json!({ "probe": false })] {
            let target = FakeTarget::new(|_, _| -> std::future::Ready<Outcome> { unreachable!() });
            let answer = handle(
                Arc::new(processor(target, FakeQueue::default())),
                invocation(payload),
            )
            .await;
            assert!(
                matches!(answer, Err(InvocationError::NoRecords)),
                "{answer:?}"
            );
        }
    }

    /// One record with these system attributes.
    fn record(attributes: &Value) -> Value {
        json!({ "messageId": "m1", "body": "{}", "attributes": attributes })
    }

    /// The time at which it is read.
    const NOW: Timestamp = Timestamp::constant(1_768_478_400, 0);

    fn read_of(record: &Value) -> ReceivedMessage {
        read(
            serde_json::from_value(record.clone()).expect("a record"),
            NOW,
        )
        .expect("named")
    }

    #[test]
    fn all_of_a_record_is_read() {
        let record = read_of(&json!({
            "messageId": "m1",
            "receiptHandle": "a-receipt",
            "body": "the body",
            "attributes": { "ApproximateReceiveCount": "3", "SentTimestamp": "1768478399000", "MessageGroupId": "w1" },
            "messageAttributes": {
                "text": { "dataType": "String", "stringValue": "a text" },
                "bytes": { "dataType": "Binary.own", "binaryValue": "AP8=" },
            },
        }));
        let attribute = |data_type: &str, value| Attribute {
            data_type: data_type.to_owned(),
            value,
        };
        let attributes = [
            (
                "text".to_owned(),
                attribute("String", AttributeValue::Text("a text".to_owned())),
            ),
            (
                "bytes".to_owned(),
                attribute("Binary.own", AttributeValue::Binary(vec![0, 255])),
            ),
        ];
        let message = Message {
            body: "the body".to_owned(),
            attributes: attributes.into(),
            group: Some("w1".to_owned()),
            trace: None,
        };
        assert_eq!(record.message, message);
        assert_eq!(
            (record.message_id.as_str(), record.receive_count),
            ("m1", 3)
        );
        assert_eq!(record.receipt, ReceiptHandle("a-receipt".to_owned()));
        assert_eq!(record.sent_at, NOW - Duration::from_secs(1));
    }

    #[test]
    fn queue_of_a_record_tells_whether_it_is_in_order() {
        for (queue, is_ordered) in [("events", false), ("ordered.fifo", true)] {
            let arn = format!("arn:aws:sqs:us-east-1:123456789012:{queue}");
            let record = json!({ "messageId": "m1", "eventSourceARN": arn });
            assert_eq!(read_of(&record).is_ordered, is_ordered, "{queue}");
        }
        assert!(!read_of(&json!({ "messageId": "m1" })).is_ordered);
        let batch = payload("processor-ordered-batch");
        for record in batch["Records"].as_array().expect("records") {
            let read = read_of(record);
            let event = read.message.to_event(read.stamp()).expect("an event");
            let key = ConversationKey::of(&event).map(|key| key.to_string());
            assert!(read.is_ordered && key.is_some() && read.message.group == key);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_before_the_invocation_ends() {
        let target = FakeTarget::new(|_, _| std::future::pending::<Outcome>());
        let batch = json!({ "Records": [{ "messageId": "m1", "body": "{}", "attributes": {} }] });
        let began = tokio::time::Instant::now();
        handle(
            Arc::new(processor(target, FakeQueue::default())),
            invocation(batch),
        )
        .await
        .expect("a reply");
        assert!(
            began.elapsed() < Duration::from_mins(1),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn numbers_at_their_ends_count_as_what_they_are_nearest_to() {
        for (count, receive_count) in [
            ("1", 1),
            ("2", 2),
            ("10", 10),
            ("0", 1),
            ("-1", 1),
            ("4294967296", u32::MAX),
            ("9223372036854775807", u32::MAX),
            ("9223372036854775808", 1),
            ("1e3", 1),
            ("many", 1),
            ("", 1),
        ] {
            assert_eq!(
                read_of(&record(&json!({ "ApproximateReceiveCount": count }))).receive_count,
                receive_count,
                "{count}"
            );
        }
        for sent in [
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "yesterday",
            "",
        ] {
            assert_eq!(
                read_of(&record(&json!({ "SentTimestamp": sent }))).sent_at,
                NOW,
                "{sent}"
            );
        }
        for millis in [-1, 1_768_478_400_123] {
            let sent = record(&json!({ "SentTimestamp": millis.to_string() }));
            assert_eq!(read_of(&sent).sent_at.as_millisecond(), millis);
        }
        let bare = read_of(&json!({ "messageId": "m1" }));
        assert!(
            bare.message.body.is_empty() && bare.receipt.is_absent(),
            "{bare:?}"
        );
    }

    proptest! {
        #[test]
        fn odd_message_is_delivered_or_dead_and_delays_no_other(
            body in prop_oneof![".*", "[\\[{\"]{0,200}", Just("[".repeat(50_000) + &"]".repeat(50_000))],
            system in prop::collection::btree_map("ApproximateReceiveCount|SentTimestamp|MessageGroupId|other", "-?[0-9]{0,25}", 0..4),
            attributes in prop::collection::btree_map(
                "event_id|source|received_at|headers|encoding|content_type|reason|RULE_ARN|other", (".*", any::<bool>()), 0..6),
        ) {
            let attribute = |(value, is_text): &(String, bool)| match is_text {
                true => json!({ "dataType": "String", "stringValue": value, "stringListValues": [], "unknown": {} }),
                false => json!({ "dataType": "Binary", "binaryValue": "AAEC" }),
            };
            let attributes: serde_json::Map<String, Value> =
                attributes.iter().map(|(name, value)| (name.clone(), attribute(value))).collect();
            let odd = json!({ "messageId": "odd", "body": body, "attributes": system, "messageAttributes": attributes, "unknown": 1 });
            let fine = json!({ "messageId": "fine", "body": r#"{"fine":true}"#, "attributes": {} });
            let delivered = Arc::<Mutex<Vec<Vec<u8>>>>::default();
            let seen = Arc::clone(&delivered);
            let target = FakeTarget::new(move |event: genesys_relay::domain::event::Event, _| {
                seen.lock().expect("not poisoned").push(event.body);
                std::future::ready(Outcome::Delivered { status: Some(200) })
            });
            let dead_letters = FakeQueue::default();
            let processor = Arc::new(processor(target, dead_letters.clone()));
            let event = invocation(json!({ "Records": [odd, fine] }));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let reply = runtime.block_on(handle(processor, event)).expect("answered");
            let Reply::Batch(response) = reply else { panic!("not to a batch: {reply:?}") };
            prop_assert!(response.batch_item_failures.is_empty());
            let delivered = delivered.lock().expect("not poisoned").clone();
            let is_fine = |body: &Vec<u8>| body == br#"{"fine":true}"#;
            prop_assert!(delivered.iter().any(is_fine), "the other record was held up");
            let dead = dead_letters.messages();
            prop_assert_eq!(delivered.len() + dead.len(), 2);
            prop_assert!(dead.iter().all(|letter| letter.body == body && letter.reason(FakeClock.now()).is_some()));
        }
    }
}
