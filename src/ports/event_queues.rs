//! The queues that events wait in: the standard one, and one that keeps the order of conversations.

use std::future::Future;
use std::time::Duration;

use crate::domain::conversation::ConversationKey;
use crate::domain::message::Message;
use crate::domain::queue_depth::QueueDepth;
use crate::ports::queue::{Countable, Sender};
use crate::ports::service::ServiceError;

/// The queues that events are sent to.
#[derive(Debug, Clone)]
pub struct EventQueues<Q> {
    /// Queue without order.
    pub standard: Q,
    /// FIFO queue for events with a [`ConversationKey`], where the stack keeps their order.
    pub ordered: Option<Q>,
}

impl<Q> EventQueues<Q> {
    /// The queue that a message belongs to, and the message as that queue takes it.
    fn route(&self, message: &Message) -> (&Q, Option<Message>) {
        let key = |ordered| Some((ordered, conversation_of(message)?));
        match self.ordered.as_ref().and_then(key) {
            Some((ordered, key)) => {
                let group = Some(key.to_string());
                let grouped = Message {
                    group,
                    ..message.clone()
                };
                (ordered, Some(grouped))
            }
            None => (&self.standard, None),
        }
    }
}

/// The conversation of a message whose event has a place in the order.
///
/// The time and id that SQS gives a message do not matter for that.
fn conversation_of(message: &Message) -> Option<ConversationKey> {
    let event = message.to_event(jiff::Timestamp::UNIX_EPOCH).ok()?;
    // What Genesys Cloud failed to deliver has lost its place already.
    if event.is_copy {
        return None;
    }
    ConversationKey::of(&event)
}

impl<Q: Sender> Sender for EventQueues<Q> {
    async fn send(&self, message: &Message) -> Result<(), ServiceError> {
        let (queue, grouped) = self.route(message);
        queue.send(grouped.as_ref().unwrap_or(message)).await
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        let Some(ordered) = &self.ordered else {
            return self.standard.send_all(messages).await;
        };
        let routed: Vec<Option<Message>> = messages
            .iter()
            .map(|message| self.route(message).1)
            .collect();
        let pairs = messages.iter().zip(&routed);
        let of_standard: Vec<_> = pairs
            .filter(|(_, grouped)| grouped.is_none())
            .map(|(message, _)| message.clone())
            .collect();
        let of_ordered: Vec<_> = routed.iter().flatten().cloned().collect();
        let (standard, ordered) = tokio::join!(
            self.standard.send_all(&of_standard),
            ordered.send_all(&of_ordered)
        );
        let (mut standard, mut ordered) = (standard.into_iter(), ordered.into_iter());
        let results = routed.iter().map(|grouped| match grouped {
            Some(_) => ordered.next(),
            None => standard.next(),
        });
        results.flatten().collect()
    }

    /// A FIFO queue has no delay per message: all of them go to the standard queue.
    fn send_delayed(
        &self,
        messages: &[(Message, Duration)],
    ) -> impl Future<Output = Vec<Result<(), ServiceError>>> + Send {
        self.standard.send_delayed(messages)
    }
}

impl<Q: Countable> Countable for EventQueues<Q> {
    fn depth(&self) -> impl Future<Output = Result<QueueDepth, ServiceError>> + Send {
        self.standard.depth()
    }

    fn age(&self) -> impl Future<Output = Result<Option<Duration>, ServiceError>> + Send {
        self.standard.age()
    }
}
