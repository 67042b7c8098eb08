//! Reading of the webhook delivery log with any answers.

use genesys_relay::adapters::delivery_log::webhook_deliveries::{LogPlace, WebhookDeliveries};
use genesys_relay::ports::delivery_log::{Entry, Part};
use serde_json::Value;

use crate::answers::{Answers, Client};
use crate::entries::{self, check_parts, check_recovery};

/// Every entity of an answer is an entry; and every entry that counts becomes one event or one dead
/// letter.
///
/// The input is answers, which `---` in a line of its own separates; one may begin with a status
/// and headers.
pub(crate) fn webhook_deliveries(input: &[u8]) {
    let answers = Answers::read(input, false);
    let hides_nothing = |(), part: &Part<LogPlace>| {
        let answer: Option<Value> = serde_json::from_slice(&answers.last()).ok();
        let listed = answer
            .as_ref()
            .and_then(|answer| answer["entities"].as_array());
        if let Some(listed) = listed {
            assert_eq!(part.entries.len(), listed.len(), "something is hidden");
        }
        part.entries.iter().for_each(check);
    };
    check_parts(&log_of(&answers), |_| (), hides_nothing);
    check_recovery(|| log_of(&Answers::read(input, false)));
}

fn log_of(answers: &Answers) -> WebhookDeliveries<Client> {
    WebhookDeliveries {
        api: answers.client(),
        path: "/api/v2/webhooks/{webhookId}/deliveries"
            .parse()
            .expect("a path"),
        webhook_ids: vec!["w1".to_owned(), "w2".to_owned()],
    }
}

fn check(entry: &Entry) {
    if let Entry::Unreadable(unreadable) = entry {
        let whole: Option<Value> = serde_json::from_str(&unreadable.whole).ok();
        let headers = whole
            .as_ref()
            .and_then(|whole| whole["headers"].as_object());
        for name in headers.into_iter().flat_map(serde_json::Map::keys) {
            assert!(entries::is_kept(name), "{name} may be a credential");
        }
    }
}
