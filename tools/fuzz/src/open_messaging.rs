//! Reading of Open Messaging conversations with any answers.

use std::collections::BTreeSet;

use genesys_relay::adapters::delivery_log::open_messaging::{OpenMessaging, Place};
use genesys_relay::ports::delivery_log::{Part, Window};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::answers::{Answers, Client};
use crate::entries::{self, check_parts, check_recovery};

/// Every conversation of an answer that may matter is looked at or is an entry, and so is every
/// message that failed; and every entry that counts becomes one event or one dead letter.
///
/// The input is answers, which `---` in a line of its own separates; one may begin with a status
/// and headers.
pub(crate) fn open_messaging(input: &[u8]) {
    let answers = Answers::read(input, false);
    let before = |place: &Place| (answers.exchanges().len(), open(place) > 0);
    let hides_nothing = |(asked, was_open): (usize, bool), part: &Part<Place>| {
        let asked = answers.exchanges().split_off(asked);
        // Of several tries, the last counts; the messages themselves are asked for behind it.
        let list = asked.iter().rfind(|(path, _)| !path.ends_with("/details"));
        let answer = list.and_then(|(_, body)| serde_json::from_slice::<Value>(body).ok());
        let left = part.next.as_ref().map_or(0, open);
        let begins_again =
            part.next.as_ref().is_some_and(begins_again) && part.entries.is_empty() && left == 0;
        match answer {
            Some(answer) if was_open => assert!(
                part.entries.len() >= failed(&answer),
                "a failed message is hidden: {answer}"
            ),
            Some(answer) if !begins_again => {
                let (listed, found) = (conversations(&answer), part.entries.len() + left);
                assert_eq!(Some(found), listed, "a conversation is hidden: {answer}");
            }
            _ => {}
        }
    };
    check_parts(&log_of(&answers), before, hides_nothing);
    check_recovery(|| log_of(&Answers::read(input, false)));
}

fn log_of(answers: &Answers) -> OpenMessaging<Client> {
    OpenMessaging {
        api: answers.client(),
        integration_ids: ["i1".to_owned()].into(),
        statuses: ["failed".to_owned()].into(),
        look_back: SignedDuration::from_hours(24),
    }
}

/// Number of conversations left.
fn open(place: &Place) -> usize {
    let place = serde_json::to_value(place).expect("a place is JSON");
    place["conversations"].as_array().map_or(0, Vec::len)
}

fn begins_again(place: &Place) -> bool {
    serde_json::to_value(place).expect("a place is JSON")["is_anew"] == true
}

/// Number of the listed conversations that may have had something in the window; `None` where the
/// answer lists nothing that can be read.
fn conversations(answer: &Value) -> Option<usize> {
    let Window { from, to } = entries::window();
    let time =
        |conversation: &Value, name: &str| conversation[name].as_str()?.parse::<Timestamp>().ok();
    let is_outside = |conversation: &Value| {
        conversation["conversationId"].is_string()
            && (time(conversation, "conversationEnd").is_some_and(|ended_at| ended_at < from)
                || time(conversation, "conversationStart").is_some_and(|began_at| began_at >= to))
    };
    match &answer["conversations"] {
        Value::Null => Some(0),
        Value::Array(listed) => Some(
            listed
                .iter()
                .filter(|conversation| !is_outside(conversation))
                .count(),
        ),
        _ => None,
    }
}

/// Number of messages of a conversation that failed in the window, or cannot be read. A message that
/// is listed twice is one.
fn failed(conversation: &Value) -> usize {
    let Some(participants) = conversation["participants"].as_array() else {
        return 1;
    };
    let messages = participants
        .iter()
        .filter_map(|participant| participant["messages"].as_array())
        .flatten();
    let counts = |message: &&Value| {
        let time = message["messageTime"]
            .as_str()
            .and_then(|time| time.parse().ok());
        let status = &message["messageStatus"];
        let is_known = status.is_null() || status.is_string() && status != "failed";
        !message.is_object() || !is_known && time.is_none_or(|time| entries::window().holds(time))
    };
    let name = |message: &Value| match message["messageId"].as_str() {
        Some(id) if message["messageStatus"] == "failed" && !id.is_empty() => id.to_owned(),
        _ => message.to_string(),
    };
    messages
        .filter(counts)
        .map(name)
        .collect::<BTreeSet<_>>()
        .len()
}
