//! The sender: webhooks at a fixed pace, whether or not those before them have been answered.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use local::genesys::Webhook;
use local::target::ReceivedRequest;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::figures::Samples;

/// Between two webhooks.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// A webhook that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    number: u64,
    status: Option<u16>,
    took: Duration,
}

/// Outcome of a load.
#[derive(Debug)]
pub(super) struct Load(Vec<Sent>);

/// The webhook with this number, of the tutorials' envelope. Both programs take it.
pub(crate) fn webhook(number: u64) -> Webhook {
    let body = json!({
        "webhookId": "11111111-2222-4333-8444-555555555555",
        "webhookName": "orders",
        "payload": { "number": number, "text": "Hi Alice, your parcel will be with you tomorrow before noon." },
        "timestamp": "2026-11-24T09:00:00Z",
    });
    Webhook::with_shared_secret(body.to_string())
}

/// The number of a webhook, by its body.
pub(super) fn number_of(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(body).ok()?["payload"]["number"].as_u64()
}

/// The numbers of the webhooks that the target has taken.
pub(super) fn taken(requests: Vec<ReceivedRequest>) -> BTreeSet<u64> {
    let is_taken = |request: &ReceivedRequest| {
        request
            .answer
            .as_ref()
            .is_some_and(|answer| answer.status == Some(200))
    };
    requests
        .into_iter()
        .filter(is_taken)
        .filter_map(|request| number_of(&request.body))
        .collect()
}

/// Time to send a load.
pub(super) fn length(numbers: &Range<u64>) -> Duration {
    PACE * u32::try_from(numbers.end - numbers.start).unwrap_or(u32::MAX)
}

impl Load {
    /// Sends a webhook for each number, one after each [`PACE`], and waits for all answers.
    ///
    /// An answer took the time since its webhook was due, not since it was sent: a receiver that
    /// holds up the sender does not get to hide it. That counts in the timer's own lateness of up
    /// to a millisecond.
    pub(super) async fn send(
        url: &str,
        numbers: Range<u64>,
        webhook: impl Fn(u64) -> Webhook,
    ) -> Self {
        let mut sending = JoinSet::new();
        let mut due = Instant::now();
        for number in numbers {
            let (webhook, url) = (webhook(number), url.to_owned());
            sleep_until(due).await;
            sending.spawn(async move {
                let status = webhook.send(&url).await.ok().map(|(status, _)| status);
                Sent {
                    number,
                    status,
                    took: due.elapsed(),
                }
            });
            due += PACE;
        }
        Self(sending.join_all().await)
    }

    /// The numbers of the webhooks that were answered with this status.
    pub(super) fn answered(&self, status: u16) -> BTreeSet<u64> {
        self.0
            .iter()
            .filter(|sent| sent.status == Some(status))
            .map(|sent| sent.number)
            .collect()
    }

    /// True where all answers have this status.
    pub(super) fn is_all(&self, status: u16) -> bool {
        self.0.iter().all(|sent| sent.status == Some(status))
    }

    /// Response times in milliseconds.
    pub(super) fn millis(&self) -> Samples {
        self.0
            .iter()
            .map(|sent| sent.took.as_secs_f64() * 1e3)
            .collect()
    }
}
