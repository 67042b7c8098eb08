//! New messages in place of old ones, whose receives then do not count.

use tokio::time::Instant;

use crate::domain::message::Message;
use crate::ports::queue::{ReceivedMessage, Sender};
use crate::runtime::logging::display_chain;

/// Sends a copy of each message, to be received from its time on, and returns which of them SQS
/// accepted. Only those may be deleted.
pub(super) async fn renew(
    events: &impl Sender,
    spent: &[(&ReceivedMessage, Instant)],
) -> Vec<bool> {
    let now = Instant::now();
    let copies: Vec<(Message, _)> = spent
        .iter()
        .map(|(received, at)| {
            let copy = received.message.clone().with_identity(received.stamp());
            (copy, at.saturating_duration_since(now))
        })
        .collect();
    let results = events.send_delayed(&copies).await;
    let noted = spent.iter().zip(results).map(|((received, _), result)| {
        if let Err(error) = &result {
            tracing::warn!(
                event_id = received.message.event_id(),
                message_id = received.message_id,
                error = display_chain(error),
                "failed to put the event back as a new message; it has used up a receive"
            );
        }
        result.is_ok()
    });
    noted.collect()
}
