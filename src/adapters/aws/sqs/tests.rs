//! The adapter against the SDK's client with a mocked connection.

use std::sync::{Arc, Mutex};

use aws_sdk_sqs::operation::cancel_message_move_task::CancelMessageMoveTaskOutput;
use aws_sdk_sqs::operation::change_message_visibility_batch::ChangeMessageVisibilityBatchOutput;
use aws_sdk_sqs::operation::get_queue_attributes::GetQueueAttributesOutput;
use aws_sdk_sqs::operation::list_message_move_tasks::{
    ListMessageMoveTasksInput, ListMessageMoveTasksOutput,
};
use aws_sdk_sqs::operation::receive_message::ReceiveMessageOutput;
use aws_sdk_sqs::operation::send_message::{SendMessageError, SendMessageOutput};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
use aws_sdk_sqs::operation::start_message_move_task::StartMessageMoveTaskOutput;
use aws_sdk_sqs::types::error::InvalidMessageContents;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchResultEntry,
    ListMessageMoveTasksResultEntry, SendMessageBatchResultEntry,
};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};

use super::batch::{BATCH_BYTES, batches_of};
use super::*;
use crate::ports::service::{Fault, ServiceError};

fn queue(rules: &[&Rule]) -> SqsQueue {
    Sqs(mock_client!(aws_sdk_sqs, RuleMode::MatchAny, rules)).queue("the-queue".to_owned())
}

fn message(body: &str) -> Message {
    let attribute = Attribute {
        data_type: "String".to_owned(),
        value: AttributeValue::Text("an-event".to_owned()),
    };
    Message {
        body: body.to_owned(),
        attributes: [("event_id".to_owned(), attribute)].into(),
        group: Some("a-webhook".to_owned()),
        trace: None,
    }
}

fn fifo(rules: &[&Rule]) -> SqsQueue {
    Sqs(mock_client!(aws_sdk_sqs, RuleMode::MatchAny, rules)).queue("the-queue.fifo".to_owned())
}

/// A message of a group, told from others by its body.
fn of_group(group: &str, body: &str) -> Message {
    Message {
        group: Some(group.to_owned()),
        ..message(body)
    }
}

fn failed(position: usize, sender_fault: bool) -> BatchResultErrorEntry {
    BatchResultErrorEntry::builder()
        .id(position.to_string())
        .code("InternalError")
        .sender_fault(sender_fault)
        .build()
        .expect("complete")
}

#[tokio::test]
async fn a_message_is_sent_with_its_attributes_and_its_group() {
    let rule = mock!(Client::send_message)
        .match_requests(|request| {
            let id = request
                .message_attributes()
                .and_then(|attributes| attributes.get("event_id"));
            request.queue_url() == Some("the-queue")
                && request.message_body() == Some("{}")
                && request.message_group_id() == Some("a-webhook")
                && request.message_deduplication_id().is_none()
                && id.is_some_and(|id| {
                    id.data_type() == "String" && id.string_value() == Some("an-event")
                })
        })
        .then_output(|| SendMessageOutput::builder().build());
    queue(&[&rule]).send(&message("{}")).await.expect("sent");
}

#[tokio::test]
async fn a_message_goes_with_its_trace() {
    let header = "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1";
    let rule = mock!(Client::send_message)
        .match_requests(move |request| {
            let system = request.message_system_attributes();
            let trace = system
                .and_then(|system| system.get(&MessageSystemAttributeNameForSends::AwsTraceHeader));
            trace.and_then(|trace| trace.string_value()) == Some(header)
        })
        .then_output(|| SendMessageOutput::builder().build());
    let message = Message {
        trace: TraceHeader::new(header),
        ..message("{}")
    };
    queue(&[&rule]).send(&message).await.expect("sent");
}

#[tokio::test]
async fn each_message_of_a_batch_goes_with_its_attributes_and_its_group() {
    let rule = mock!(Client::send_message_batch)
        .match_requests(|request| {
            let [text, bytes] = request.entries() else {
                return false;
            };
            let value = |entry: &SendMessageBatchRequestEntry| {
                entry
                    .message_attributes()
                    .and_then(|attributes| attributes.get("event_id"))
                    .cloned()
            };
            let is_grouped = |entry: &SendMessageBatchRequestEntry| {
                entry.message_group_id() == Some("a-webhook")
            };
            is_grouped(text)
                && is_grouped(bytes)
                && value(text).is_some_and(|value| value.string_value() == Some("an-event"))
                && value(bytes).is_some_and(|value| {
                    value.binary_value().map(AsRef::as_ref) == Some(&[0, 255][..])
                })
        })
        .then_output(|| {
            let sent = |id| {
                SendMessageBatchResultEntry::builder()
                    .id(id)
                    .message_id("m")
                    .md5_of_message_body("-")
                    .build()
            };
            let output = SendMessageBatchOutput::builder().set_failed(Some(Vec::new()));
            output
                .successful(sent("0").expect("complete"))
                .successful(sent("1").expect("complete"))
                .build()
                .expect("complete")
        });
    let mut bytes = message("{}");
    let value = AttributeValue::Binary(vec![0, 255]);
    bytes.attributes.insert(
        "event_id".to_owned(),
        Attribute {
            data_type: "Binary".to_owned(),
            value,
        },
    );
    let results = queue(&[&rule]).send_all(&[message("{}"), bytes]).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn each_send_to_a_fifo_queue_has_an_id_of_its_own() {
    let ids = Mutex::<HashSet<String>>::default();
    let one = mock!(Client::send_message)
        .match_requests(|request| request.message_group_id() == Some("a-webhook"))
        .then_compute_output(move |request| {
            let id = request.message_deduplication_id().expect("an id");
            assert!(ids.lock().expect("not poisoned").insert(id.to_owned()));
            SendMessageOutput::builder().build()
        });
    let queue = fifo(&[&one]);
    for _ in 0..2 {
        queue.send(&message("{}")).await.expect("sent");
    }
    assert_eq!(one.num_calls(), 2);
}

/// Bodies of the batches that are sent to a FIFO queue, where SQS refuses the body `refused`, and
/// the results.
async fn sent_in_order(
    messages: &[Message],
    refused: &'static str,
) -> (Vec<Vec<String>>, Vec<Result<(), ServiceError>>) {
    let batches = Arc::<Mutex<Vec<Vec<String>>>>::default();
    let seen = Arc::clone(&batches);
    let rule = mock!(Client::send_message_batch).then_compute_output(move |request| {
        let entries = request.entries();
        let ids: HashSet<_> = entries
            .iter()
            .filter_map(SendMessageBatchRequestEntry::message_deduplication_id)
            .collect();
        assert_eq!(ids.len(), entries.len(), "an id for each");
        assert!(entries.iter().all(|entry| entry.delay_seconds().is_none()));
        let bodies = entries.iter().map(|entry| entry.message_body().to_owned());
        seen.lock().expect("not poisoned").push(bodies.collect());
        let mut output = SendMessageBatchOutput::builder()
            .set_successful(Some(Vec::new()))
            .set_failed(Some(Vec::new()));
        for (position, entry) in entries.iter().enumerate() {
            output = if entry.message_body() == refused {
                output.failed(failed(position, false))
            } else {
                let sent = SendMessageBatchResultEntry::builder()
                    .id(entry.id())
                    .message_id("m")
                    .md5_of_message_body("-");
                output.successful(sent.build().expect("complete"))
            };
        }
        output.build().expect("complete")
    });
    let results = fifo(&[&rule]).send_all(messages).await;
    let batches = batches.lock().expect("not poisoned").clone();
    (batches, results)
}

#[tokio::test]
async fn message_of_a_group_follows_once_the_one_before_is_confirmed() {
    let messages = ["a1", "b1", "a2", "a3", "b2"].map(|body| of_group(&body[..1], body));
    let (batches, results) = sent_in_order(&messages, "").await;
    assert_eq!(batches, [vec!["a1", "b1"], vec!["a2", "b2"], vec!["a3"]]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");

    let (batches, results) = sent_in_order(&messages, "a2").await;
    assert_eq!(batches, [["a1", "b1"], ["a2", "b2"]], "a3 is not sent");
    let are_sent: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(are_sent, [true, true, false, false, true]);
}

#[tokio::test]
async fn each_number_of_a_depth_is_its_own() {
    let names =
        ["", "NotVisible", "Delayed"].map(|name| format!("ApproximateNumberOfMessages{name}"));
    let asked = names.clone();
    let rule = mock!(Client::get_queue_attributes)
        .match_requests(move |request| {
            request
                .attribute_names()
                .iter()
                .map(QueueAttributeName::as_str)
                .eq(&asked)
        })
        .then_output(move || {
            let counts = names
                .iter()
                .zip(1..)
                .map(|(name, count): (_, u32)| (name.as_str().into(), count.to_string()));
            GetQueueAttributesOutput::builder()
                .set_attributes(Some(counts.collect()))
                .build()
        });
    let depth = queue(&[&rule]).depth().await.expect("counted");
    assert_eq!(
        (depth.visible, depth.in_flight, depth.delayed, depth.total()),
        (1, 2, 3, 6)
    );
}

#[tokio::test]
async fn a_refusal_and_an_outage_are_told_apart() {
    let refusal = mock!(Client::send_message).then_error(|| {
        SendMessageError::InvalidMessageContents(InvalidMessageContents::builder().build())
    });
    let error = queue(&[&refusal])
        .send(&message("{}"))
        .await
        .expect_err("refused");
    assert!(error.fault == Fault::Refused, "{error:?}");

    let outage = mock!(Client::send_message)
        .sequence()
        .http_status(503, None)
        .times(9)
        .build();
    let error = queue(&[&outage])
        .send(&message("{}"))
        .await
        .expect_err("down");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_batch_that_fails_in_part_fails_in_part() {
    let rule = mock!(Client::send_message_batch).then_output(|| {
        let sent = SendMessageBatchResultEntry::builder()
            .id("0")
            .message_id("m")
            .md5_of_message_body("-");
        let output = SendMessageBatchOutput::builder().successful(sent.build().expect("complete"));
        output
            .failed(failed(1, true))
            .failed(failed(2, false))
            .build()
            .expect("complete")
    });
    // Nothing is said of the last one, so it cannot be counted on either.
    let results = queue(&[&rule])
        .send_all(&["a", "b", "c", "d"].map(message))
        .await;
    assert!(matches!(
        &results[..],
        [
            Ok(()),
            Err(ServiceError {
                fault: Fault::Refused,
                ..
            }),
            Err(ServiceError {
                fault: Fault::Unavailable,
                ..
            }),
            Err(ServiceError {
                fault: Fault::Unavailable,
                ..
            })
        ]
    ));
}

#[tokio::test]
async fn a_batch_call_that_fails_fails_every_entry() {
    let rule = mock!(Client::change_message_visibility_batch)
        .sequence()
        .http_status(500, None)
        .times(9)
        .build();
    let change = (ReceiptHandle("receipt".to_owned()), Duration::from_secs(2));
    let results = queue(&[&rule])
        .change_visibility(&[change.clone(), change])
        .await;
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|result| matches!(
        result,
        Err(ServiceError {
            fault: Fault::Unavailable,
            ..
        })
    )));
}

#[tokio::test]
async fn visibility_is_changed_ten_at_a_time_in_whole_seconds_by_position() {
    let rule = mock!(Client::change_message_visibility_batch)
        .match_requests(|request| {
            let entries = request.entries();
            entries.len() <= 10
                && entries.iter().enumerate().all(|(position, entry)| {
                    entry.id() == position.to_string() && entry.visibility_timeout() == Some(3)
                })
        })
        .then_compute_output(|request| {
            let done = |entry: &ChangeMessageVisibilityBatchRequestEntry| {
                let done = ChangeMessageVisibilityBatchResultEntry::builder().id(entry.id());
                done.build().expect("complete")
            };
            ChangeMessageVisibilityBatchOutput::builder()
                .set_successful(Some(request.entries().iter().map(done).collect()))
                .set_failed(Some(Vec::new()))
                .build()
                .expect("complete")
        });
    let change = (
        ReceiptHandle("receipt".to_owned()),
        Duration::from_millis(2001),
    );
    let results = queue(&[&rule]).change_visibility(&vec![change; 25]).await;
    assert!(results.len() == 25 && results.iter().all(Result::is_ok));
    assert_eq!(rule.num_calls(), 3);
}

#[tokio::test]
async fn a_received_message_is_what_was_sent() {
    let rule = receive();
    // SQS refuses to be asked for more than ten.
    let received = queue(&[&rule])
        .receive(1000, Duration::from_secs(930), Duration::from_secs(2))
        .await;
    let received = received.expect("received").pop().expect("one message");
    assert_eq!(received.message, message("{}"));
    assert_eq!(received.sent_at.as_second(), 1_768_478_400);
    assert_eq!(
        (received.message_id.as_str(), received.receive_count),
        ("the-message", 3)
    );
    assert!(!received.is_ordered);
    let received = fifo(&[&rule])
        .receive(10, Duration::from_secs(930), Duration::from_secs(2))
        .await;
    let received = received.expect("received").pop().expect("one message");
    assert!(received.is_ordered && received.message == message("{}"));
}

fn receive() -> Rule {
    mock!(Client::receive_message)
        .match_requests(|request| {
            let system = request
                .message_system_attribute_names()
                .iter()
                .map(MessageSystemAttributeName::as_str);
            let system: std::collections::BTreeSet<_> = system.collect();
            request.visibility_timeout() == Some(930)
                && request.wait_time_seconds() == Some(2)
                && request.max_number_of_messages() == Some(10)
                && request.message_attribute_names() == ["All"]
                && request.receive_request_attempt_id().is_some()
                    == request.queue_url().is_some_and(is_fifo)
                && system == ["SentTimestamp", "MessageGroupId", "ApproximateReceiveCount"].into()
        })
        .then_output(|| {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value("an-event");
            ReceiveMessageOutput::builder()
                .messages(
                    aws_sdk_sqs::types::Message::builder()
                        .body("{}")
                        .message_id("the-message")
                        .receipt_handle("receipt")
                        .message_attributes("event_id", value.build().expect("complete"))
                        .attributes(MessageSystemAttributeName::SentTimestamp, "1768478400000")
                        .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "3")
                        .attributes(MessageSystemAttributeName::MessageGroupId, "a-webhook")
                        .build(),
                )
                .build()
        })
}

#[tokio::test]
async fn a_move_task_always_names_its_destination() {
    let start = mock!(Client::start_message_move_task)
        .match_requests(|request| {
            request.source_arn() == Some("arn:dead")
                && request.destination_arn() == Some("arn:events")
                && request.max_number_of_messages_per_second() == Some(50)
        })
        .then_output(|| StartMessageMoveTaskOutput::builder().build());
    let is_newest = |request: &ListMessageMoveTasksInput| {
        request.source_arn() == Some("arn:dead") && request.max_results() == Some(1)
    };
    let list = mock!(Client::list_message_move_tasks)
        .match_requests(is_newest)
        .then_output(|| {
            let task = ListMessageMoveTasksResultEntry::builder()
                .status("RUNNING")
                .approximate_number_of_messages_moved(3)
                .approximate_number_of_messages_to_move(7)
                .max_number_of_messages_per_second(50)
                .started_timestamp(1_768_478_400_000)
                .failure_reason("none")
                .task_handle("handle");
            ListMessageMoveTasksOutput::builder()
                .results(task.build())
                .build()
        });
    let cancel = mock!(Client::cancel_message_move_task)
        .match_requests(|request| request.task_handle() == Some("handle"))
        .then_output(|| CancelMessageMoveTaskOutput::builder().build());
    let sqs = Sqs(mock_client!(
        aws_sdk_sqs,
        RuleMode::MatchAny,
        [&start, &list, &cancel]
    ));
    let redrive = sqs.redrive("arn:dead".to_owned(), "arn:events".to_owned());
    redrive.start_move(Some(50)).await.expect("started");
    let task = redrive
        .latest_move()
        .await
        .expect("listed")
        .expect("a task");
    assert!(task.is_active() && task.handle.as_deref() == Some("handle"));
    assert_eq!(
        (task.moved, task.to_move, task.rate_per_second),
        (3, Some(7), Some(50))
    );
    assert_eq!(
        task.started_at.map(Timestamp::as_second),
        Some(1_768_478_400)
    );
    assert_eq!(task.failure.as_deref(), Some("none"));
    redrive.cancel_move("handle").await.expect("cancelled");
}

#[test]
fn batches_fit_into_sqs() {
    let sizes = |items: &[usize]| {
        let batches = batches_of(items, |size| *size);
        batches.into_iter().map(<[usize]>::len).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&[1; 25]), [10, 10, 5]);
    assert_eq!(sizes(&[BATCH_BYTES, 1, BATCH_BYTES - 1, 1]), [1, 2, 1]);
    assert_eq!(sizes(&[]), [0; 0]);
}
