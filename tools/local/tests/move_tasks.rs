//! The emulator's move tasks, seen through the SDK: they do what AWS documents, errors included.

use anyhow::{Context, Result};
use aws_sdk_sqs::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        ListMessageMoveTasksResultEntry, Message, MessageAttributeValue,
        MessageSystemAttributeName, QueueAttributeName,
    },
};
use local::{emulator::Emulator, wait, workspace::Workspace};
use serde_json::json;
use tokio::sync::OnceCell;

struct Queue {
    url: String,
    arn: String,
}

/// A source queue with its dead-letter queue. Every test has its own, in an emulator of its own.
struct World {
    sqs: Client,
    source: Queue,
    dead_letters: Queue,
    _emulator: Emulator,
}

impl World {
    async fn new() -> Result<Self> {
        static WORKSPACE: OnceCell<Workspace> = OnceCell::const_new();
        let emulator = Emulator::start(
            WORKSPACE.get_or_try_init(Workspace::locate).await?,
            None,
            &[],
        )
        .await?;
        let sqs = Client::new(&emulator.config().await);
        let dead_letters = queue(&sqs, "dead-letters", None).await?;
        let redrive = json!({ "deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": 1 });
        let source = queue(&sqs, "events", Some(redrive.to_string())).await?;
        Ok(Self {
            sqs,
            source,
            dead_letters,
            _emulator: emulator,
        })
    }

    async fn send(&self, queue: &Queue, body: &str) -> Result<()> {
        let attribute = MessageAttributeValue::builder()
            .data_type("String")
            .string_value("event-1")
            .build()?;
        self.sqs
            .send_message()
            .queue_url(&queue.url)
            .message_body(body)
            .message_attributes("event_id", attribute)
            .send()
            .await?;
        Ok(())
    }

    async fn receive(&self, queue: &Queue, visibility: i32) -> Result<Message> {
        wait::until("a message arrives", || async {
            let request = self
                .sqs
                .receive_message()
                .queue_url(&queue.url)
                .visibility_timeout(visibility)
                .message_attribute_names("All");
            let answer = request
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .send()
                .await?;
            Ok(answer.messages.unwrap_or_default().pop())
        })
        .await
    }

    /// Waits until the dead-letter queue shows this many messages.
    async fn until_dead(&self, visible: usize) -> Result<()> {
        let visible = visible.to_string();
        wait::until("the dead letters are there", || async {
            // Redrive happens when the source is asked for messages.
            self.sqs
                .receive_message()
                .queue_url(&self.source.url)
                .visibility_timeout(0)
                .send()
                .await?;
            let name = QueueAttributeName::ApproximateNumberOfMessages;
            let answer = self
                .sqs
                .get_queue_attributes()
                .queue_url(&self.dead_letters.url)
                .attribute_names(name.clone())
                .send()
                .await?;
            Ok(answer
                .attributes()
                .and_then(|all| all.get(&name))
                .filter(|number| **number == visible)
                .map(|_| ()))
        })
        .await
    }

    async fn list(&self, limit: Option<i32>) -> Result<Vec<ListMessageMoveTasksResultEntry>> {
        let answer = self
            .sqs
            .list_message_move_tasks()
            .source_arn(&self.dead_letters.arn)
            .set_max_results(limit)
            .send()
            .await?;
        Ok(answer.results.unwrap_or_default())
    }

    async fn until_status(&self, status: &str) -> Result<ListMessageMoveTasksResultEntry> {
        wait::until("the task gets its status", || async {
            Ok(self
                .list(None)
                .await?
                .pop()
                .filter(|task| task.status() == Some(status)))
        })
        .await
    }
}

async fn queue(sqs: &Client, name: &str, redrive: Option<String>) -> Result<Queue> {
    let mut request = sqs.create_queue().queue_name(name);
    if let Some(policy) = redrive {
        request = request.attributes(QueueAttributeName::RedrivePolicy, policy);
    }
    let url = request.send().await?.queue_url.context("no URL")?;
    let arn = QueueAttributeName::QueueArn;
    let answer = sqs
        .get_queue_attributes()
        .queue_url(&url)
        .attribute_names(arn.clone())
        .send()
        .await?;
    let arn = answer
        .attributes
        .and_then(|mut all| all.remove(&arn))
        .context("no ARN")?;
    Ok(Queue { url, arn })
}

/// Code, status and message of a refusal.
fn refusal<T, E: ProvideErrorMetadata>(outcome: Result<T, SdkError<E>>) -> (String, u16, String) {
    let error = outcome.err().expect("a refusal");
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    (
        error.code().unwrap_or_default().into(),
        status,
        error.message().unwrap_or_default().into(),
    )
}

#[tokio::test]
async fn a_moved_message_is_a_new_one_with_the_old_content() -> Result<()> {
    let world = World::new().await?;
    world.send(&world.source, "body").await?;
    let before = world.receive(&world.source, 0).await?;
    world.until_dead(1).await?;

    // Without a destination it goes back to where redrive took it from.
    world
        .sqs
        .start_message_move_task()
        .source_arn(&world.dead_letters.arn)
        .send()
        .await?;
    let task = world.until_status("COMPLETED").await?;
    assert_eq!(
        (
            task.approximate_number_of_messages_moved(),
            task.approximate_number_of_messages_to_move()
        ),
        (1, Some(1))
    );
    assert_eq!(
        (
            task.task_handle(),
            task.destination_arn(),
            task.failure_reason()
        ),
        (None, None, None)
    );

    let after = world.receive(&world.source, 30).await?;
    let system =
        |message: &Message, name| message.attributes().and_then(|all| all.get(&name)).cloned();
    assert_eq!(after.body(), Some("body"));
    assert_eq!(after.message_attributes(), before.message_attributes());
    assert_ne!(after.message_id(), before.message_id());
    assert_eq!(
        system(&after, MessageSystemAttributeName::ApproximateReceiveCount).as_deref(),
        Some("1")
    );
    assert!(
        system(&after, MessageSystemAttributeName::SentTimestamp)
            > system(&before, MessageSystemAttributeName::SentTimestamp)
    );
    assert_eq!(
        system(&after, MessageSystemAttributeName::DeadLetterQueueSourceArn),
        None
    );
    Ok(())
}

#[tokio::test]
async fn a_message_sent_to_the_dead_letter_queue_needs_a_destination() -> Result<()> {
    let world = World::new().await?;
    world.send(&world.dead_letters, "sent directly").await?;
    let start = || {
        world
            .sqs
            .start_message_move_task()
            .source_arn(&world.dead_letters.arn)
    };

    start().send().await?;
    let task = world.until_status("FAILED").await?;
    assert_eq!(
        (
            task.failure_reason(),
            task.approximate_number_of_messages_moved()
        ),
        (Some("CouldNotDetermineMessageSource"), 0)
    );

    start().destination_arn(&world.source.arn).send().await?;
    assert_eq!(
        world.until_status("COMPLETED").await?.destination_arn(),
        Some(world.source.arn.as_str())
    );
    assert_eq!(
        world.receive(&world.source, 30).await?.body(),
        Some("sent directly")
    );
    assert_eq!(world.list(None).await?.len(), 1, "one is the default");
    let statuses: Vec<_> = world
        .list(Some(10))
        .await?
        .into_iter()
        .filter_map(|task| task.status)
        .collect();
    assert_eq!(statuses, ["COMPLETED", "FAILED"], "newest first");
    Ok(())
}

#[tokio::test]
async fn only_visible_messages_move() -> Result<()> {
    let world = World::new().await?;
    world.send(&world.dead_letters, "in flight").await?;
    world.receive(&world.dead_letters, 600).await?;
    world.send(&world.dead_letters, "visible").await?;
    world
        .sqs
        .start_message_move_task()
        .source_arn(&world.dead_letters.arn)
        .destination_arn(&world.source.arn)
        .send()
        .await?;
    assert_eq!(
        world
            .until_status("COMPLETED")
            .await?
            .approximate_number_of_messages_moved(),
        1
    );
    assert_eq!(
        world.receive(&world.source, 30).await?.body(),
        Some("visible")
    );
    Ok(())
}

#[tokio::test]
async fn one_task_runs_at_a_time_and_can_be_cancelled_once() -> Result<()> {
    let world = World::new().await?;
    for number in 0..30 {
        world.send(&world.dead_letters, &number.to_string()).await?;
    }
    let start = || {
        world
            .sqs
            .start_message_move_task()
            .source_arn(&world.dead_letters.arn)
            .destination_arn(&world.source.arn)
    };
    let handle = start()
        .max_number_of_messages_per_second(1)
        .send()
        .await?
        .task_handle
        .context("no handle")?;
    let running = world.until_status("RUNNING").await?;
    assert_eq!(
        (
            running.task_handle(),
            running.max_number_of_messages_per_second()
        ),
        (Some(handle.as_str()), Some(1))
    );
    let (code, status, message) = refusal(start().send().await);
    assert_eq!((code.as_str(), status), ("InvalidParameterValue", 400));
    assert!(
        message.starts_with("There is already a task running."),
        "{message}"
    );

    let cancel = || {
        world
            .sqs
            .cancel_message_move_task()
            .task_handle(&handle)
            .send()
    };
    assert!(cancel().await?.approximate_number_of_messages_moved() < 30);
    assert_eq!(world.until_status("CANCELLED").await?.task_handle(), None);
    let error = cancel()
        .await
        .err()
        .context("cancelled twice")?
        .into_service_error();
    assert!(error.is_unsupported_operation(), "{error:?}");

    // What is left can be moved by a new task.
    start().send().await?;
    world.until_status("COMPLETED").await?;
    Ok(())
}

#[tokio::test]
async fn requests_that_name_nothing_or_too_much_are_refused() -> Result<()> {
    let world = World::new().await?;
    let start = || world.sqs.start_message_move_task();
    let missing = format!("{}-missing", world.source.arn);

    let (code, status, _) = refusal(start().source_arn(&missing).send().await);
    assert_eq!((code.as_str(), status), ("ResourceNotFoundException", 404));
    let error = start()
        .source_arn(&world.dead_letters.arn)
        .destination_arn(&missing)
        .send()
        .await;
    let error = error
        .err()
        .context("moved to nowhere")?
        .into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");
    let (code, _, message) = refusal(start().source_arn(&world.source.arn).send().await);
    assert_eq!(
        (code.as_str(), message.as_str()),
        (
            "InvalidParameterValue",
            "Source queue must be configured as a Dead Letter Queue."
        )
    );
    for rate in [0, 501] {
        let request = start()
            .source_arn(&world.dead_letters.arn)
            .max_number_of_messages_per_second(rate);
        assert_eq!(refusal(request.send().await).0, "InvalidParameterValue");
    }
    let cancel = |handle: &str| {
        world
            .sqs
            .cancel_message_move_task()
            .task_handle(handle)
            .send()
    };
    assert_eq!(refusal(cancel("nonsense").await).0, "InvalidParameterValue");
    let list = world
        .sqs
        .list_message_move_tasks()
        .source_arn(&world.dead_letters.arn)
        .max_results(11);
    assert_eq!(refusal(list.send().await).0, "InvalidParameterValue");
    Ok(())
}
