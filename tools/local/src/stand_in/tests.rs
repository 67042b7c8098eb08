use std::{collections::HashMap, time::Duration};

use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue, SendMessageBatchRequestEntry,
};

use super::*;
use crate::clients::{self, Keys};

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

#[tokio::test]
async fn the_sdk_takes_the_answers_of_the_queue_and_what_it_took_is_known() -> Result<()> {
    let stand_in = StandIn::start(&json!({})).await?;
    let sqs = aws_sdk_sqs::Client::new(&clients::config(&stand_in.url(), &Keys::unchecked()).await);
    let (events, dead) = (stand_in.queue_url("events"), stand_in.queue_url("dead"));
    let id = MessageAttributeValue::builder()
        .data_type("String")
        .string_value("one")
        .build()?;
    let one = sqs
        .send_message()
        .queue_url(&events)
        .message_body("{}")
        .message_attributes("event_id", id.clone());
    one.send().await?;
    let entry = |position: usize| {
        let entry = SendMessageBatchRequestEntry::builder()
            .id(position.to_string())
            .message_body("{}");
        entry.message_attributes("event_id", id.clone()).build()
    };
    let batch = sqs
        .send_message_batch()
        .queue_url(&dead)
        .entries(entry(0)?)
        .entries(entry(1)?)
        .send()
        .await?;
    assert_eq!((batch.successful.len(), batch.failed.len()), (2, 0));
    let change = ChangeMessageVisibilityBatchRequestEntry::builder()
        .id("0")
        .receipt_handle("r")
        .build()?;
    let changed = sqs
        .change_message_visibility_batch()
        .queue_url(&events)
        .entries(change)
        .send()
        .await?;
    assert_eq!((changed.successful.len(), changed.failed.len()), (1, 0));
    assert_eq!(
        (
            stand_in.messages("events").as_slice(),
            stand_in.messages("dead").len()
        ),
        (&["one".to_owned()][..], 2)
    );
    assert_eq!(stand_in.calls("SendMessage"), 1);
    Ok(())
}

#[tokio::test]
async fn the_table_holds_writers_to_their_conditions_and_tells_what_is_in_the_way() -> Result<()> {
    let stand_in = StandIn::start(&json!({})).await?;
    let dynamodb =
        aws_sdk_dynamodb::Client::new(&clients::config(&stand_in.url(), &Keys::unchecked()).await);
    let put = |revision: &str, state: &str| {
        let item = [("event_id", "e"), ("revision", revision), ("state", state)];
        let item: HashMap<_, _> = item
            .into_iter()
            .map(|(name, value)| (name.to_owned(), text(value)))
            .collect();
        let all = ReturnValuesOnConditionCheckFailure::AllOld;
        dynamodb
            .put_item()
            .table_name("t")
            .set_item(Some(item))
            .return_values_on_condition_check_failure(all)
    };
    put("1", "IN_PROGRESS")
        .condition_expression("attribute_not_exists(event_id)")
        .send()
        .await?;
    let refused = put("2", "IN_PROGRESS")
        .condition_expression("attribute_not_exists(event_id)")
        .send()
        .await;
    let refused = refused.expect_err("it is there").into_service_error();
    let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(
        refused,
    ) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(
        refused.item.and_then(|mut item| item.remove("revision")),
        Some(text("1"))
    );
    let unchanged =
        |request: aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder,
         revision| {
            let request = request.condition_expression("revision = :revision");
            request.expression_attribute_values(":revision", text(revision))
        };
    unchanged(put("3", "DELIVERED"), "2")
        .send()
        .await
        .expect_err("another revision");
    unchanged(put("3", "DELIVERED"), "1").send().await?;
    let read = dynamodb
        .get_item()
        .table_name("t")
        .key("event_id", text("e"))
        .send()
        .await?;
    assert_eq!(
        read.item.and_then(|mut item| item.remove("state")),
        Some(text("DELIVERED"))
    );
    assert_eq!(
        (
            stand_in.written("IN_PROGRESS"),
            stand_in.written("DELIVERED")
        ),
        (1, 1)
    );
    Ok(())
}

#[tokio::test]
async fn the_secret_is_what_it_was_started_with() -> Result<()> {
    let secret = json!({ "webhookSecrets": "0123456789abcdef" });
    let stand_in = StandIn::start(&secret).await?;
    let secrets = aws_sdk_secretsmanager::Client::new(
        &clients::config(&stand_in.url(), &Keys::unchecked()).await,
    );
    let value = secrets
        .get_secret_value()
        .secret_id("arn:of:it")
        .send()
        .await?;
    assert_eq!(value.secret_string(), Some(secret.to_string().as_str()));
    Ok(())
}

#[tokio::test]
async fn what_is_to_go_wrong_does() -> Result<()> {
    for (fault, code, taken) in [
        (
            ServiceFault::Refused(400, "ThrottlingException"),
            Some("ThrottlingException"),
            0,
        ),
        (
            ServiceFault::Refused(503, "ServiceUnavailable"),
            Some("ServiceUnavailable"),
            0,
        ),
        (ServiceFault::Cut, None, 0),
        (ServiceFault::Hang, None, 0),
        (ServiceFault::AnswerLost, None, 1),
    ] {
        let stand_in = StandIn::start_failing(&json!({}), Box::new(move |_| Some(fault))).await?;
        // Long enough for a call that is answered, on a busy machine too, except where none is to
        // be.
        let patience = Duration::from_millis(if fault == ServiceFault::Hang {
            100
        } else {
            60_000
        });
        let config = clients::config(&stand_in.url(), &Keys::unchecked())
            .await
            .to_builder();
        let config = config
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(patience).build())
            .build();
        let sqs = aws_sdk_sqs::Client::new(&config);
        let sent = sqs
            .send_message()
            .queue_url(stand_in.queue_url("events"))
            .message_body("{}")
            .send()
            .await;
        let error = sent.expect_err("it goes wrong");
        assert_eq!(error.code(), code, "{fault:?}: {error:?}");
        assert_eq!(stand_in.messages("events").len(), taken, "{fault:?}");
    }
    Ok(())
}
