//! Sender of webhooks with the retries of Genesys Cloud.

use std::{sync::Mutex, time::Duration};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    format::{iso, new_id},
    state::{CloudState, lock},
};
use crate::genesys::Webhook;

/// Between two tries.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

const RETRIES: usize = 5;
const TIME_OUT: Duration = Duration::from_secs(10);

/// Sends until the outcome is final, and logs it; gives whether it was delivered.
pub(super) async fn deliver(
    state: &Mutex<CloudState>,
    url: &str,
    webhook: &Webhook,
    pause: Duration,
) -> bool {
    let mut status = send(url, webhook).await;
    for _ in 0..RETRIES {
        if status.is_some_and(|status| status != 429 && status < 500) {
            break;
        }
        sleep(pause).await;
        status = send(url, webhook).await;
    }
    lock(state).log(url, webhook, status);
    is_delivered(status)
}

async fn send(url: &str, webhook: &Webhook) -> Option<u16> {
    let (status, _) = timeout(TIME_OUT, webhook.send(url)).await.ok()?.ok()?;
    Some(status)
}

fn is_delivered(status: Option<u16>) -> bool {
    status.is_some_and(|status| (200..300).contains(&status))
}

impl CloudState {
    fn log(&mut self, url: &str, webhook: &Webhook, status: Option<u16>) {
        let body: Value = serde_json::from_slice(&webhook.body).unwrap_or_default();
        let integration = body["channel"]["id"].as_str();
        let (authentication, secret) = &webhook.authentication;
        self.deliveries.add(json!({
            "id": new_id(),
            "webhookId": body["webhookId"].as_str().or(integration),
            "status": if is_delivered(status) { "delivered" } else { "failed" },
            "httpStatusCode": status,
            "body": String::from_utf8_lossy(&webhook.body),
            "headers": { "Content-Type": "application/json", *authentication: secret },
            "webhookUrl": url,
            "timestamp": iso(self.now()),
        }));
        if integration.is_some() {
            let conversation_id = body["conversationId"]
                .as_str()
                .map_or_else(new_id, str::to_owned);
            self.add_message(
                &conversation_id,
                if is_delivered(status) {
                    "sent"
                } else {
                    "failed"
                },
                body,
            );
        }
    }
}
