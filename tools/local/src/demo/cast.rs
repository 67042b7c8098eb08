//! The events of the demo: the repository's own examples, each with a fate that the target reads from its body.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::{
    genesys::Webhook,
    target::{Answer, ReceivedRequest},
};

/// How many events share each of the fates that are not simply fine.
const PER_MISFORTUNE: usize = 3;

/// What the target does with an event until it is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    FailsTwice,
    Permanent,
    Exhausts,
    /// Not JSON: ingest refuses it, and keeps it as a dead letter.
    Refused,
}

impl Fate {
    /// Those of events that ingest accepts.
    const ACCEPTED: [Self; 4] = [Self::Fine, Self::FailsTwice, Self::Permanent, Self::Exhausts];

    fn mark(self) -> &'static str {
        match self {
            Self::Fine => "demo-fine",
            Self::FailsTwice => "demo-fails-twice",
            Self::Permanent => "demo-permanent",
            Self::Exhausts => "demo-exhausts",
            Self::Refused => "demo-refused",
        }
    }

    /// The statuses that an event of this fate gets before anything is replayed.
    pub(super) fn statuses(self, max_receive_count: usize) -> Vec<u16> {
        match self {
            Self::Fine => vec![200],
            Self::FailsTwice => vec![503, 503, 200],
            Self::Permanent => vec![404],
            Self::Exhausts => vec![503; max_receive_count],
            Self::Refused => vec![],
        }
    }

    /// Whether it ends in the dead-letter queue.
    pub(super) fn dies(self) -> bool {
        matches!(self, Self::Permanent | Self::Exhausts | Self::Refused)
    }

    /// What the target answers to a delivery.
    pub(super) fn answer(request: &ReceivedRequest) -> Answer {
        let body = String::from_utf8_lossy(&request.body);
        let fate = Self::ACCEPTED.into_iter().find(|fate| body.contains(fate.mark())).unwrap_or(Self::Fine);
        Answer::status(match fate {
            Self::Fine | Self::Refused => 200,
            Self::FailsTwice if request.nth > 2 => 200,
            Self::FailsTwice | Self::Exhausts => 503,
            Self::Permanent => 404,
        })
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Fine => "fine",
            Self::FailsTwice => "fails twice",
            Self::Permanent => "permanent",
            Self::Exhausts => "fails for long",
            Self::Refused => "not JSON",
        })
    }
}

/// A webhook to send.
#[derive(Debug)]
pub(super) struct Role {
    /// The example it was made from.
    pub(super) example: String,
    pub(super) fate: Fate,
    /// No two have the same body.
    pub(super) webhook: Webhook,
}

struct Example {
    name: String,
    signed: bool,
    body: Vec<u8>,
}

/// Every example once with a target that is fine, and some of them with each misfortune.
pub(super) fn cast(events: &Path) -> Result<Vec<Role>> {
    let examples = examples(events)?;
    let mut roles = Vec::new();
    let mut sound = Vec::new();
    for example in &examples {
        match serde_json::from_slice(&example.body) {
            Ok(body) => sound.push((example, body)),
            Err(_) => roles.push(example.role(Fate::Refused, example.body.clone())),
        }
    }
    ensure!(!sound.is_empty(), "{} holds no webhooks: files named ingest-*.json", events.display());
    for (at, fate) in Fate::ACCEPTED.into_iter().enumerate() {
        let number = if fate == Fate::Fine { sound.len() } else { PER_MISFORTUNE };
        for nth in 0..number {
            let (example, body): &(&Example, Value) = &sound[(at * PER_MISFORTUNE + nth) % sound.len()];
            let mark = format!("{}-{nth}", fate.mark());
            roles.push(example.role(fate, marked(body.clone(), mark).to_string().into_bytes()));
        }
    }
    Ok(roles)
}

/// Examples that are known by a webhook or an integration, to be sent while nobody listens; and the ids of those.
pub(super) fn lost(events: &Path) -> Result<(Vec<Role>, Vec<String>)> {
    let (mut roles, mut ids) = (Vec::new(), Vec::new());
    for example in examples(events)? {
        let Ok(body) = serde_json::from_slice::<Value>(&example.body) else { continue };
        let Some(id) = body["webhookId"].as_str().or(body["channel"]["id"].as_str()) else { continue };
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
        let mark = format!("demo-lost-{}", roles.len());
        roles.push(example.role(Fate::Fine, marked(body, mark).to_string().into_bytes()));
    }
    ensure!(!roles.is_empty(), "{} holds no webhook that names where it is from", events.display());
    Ok((roles, ids))
}

impl Example {
    fn role(&self, fate: Fate, body: Vec<u8>) -> Role {
        let webhook = if self.signed { Webhook::signed(body) } else { Webhook::with_shared_secret(body) };
        Role { example: self.name.clone(), fate, webhook }
    }
}

/// The API Gateway events among the example files.
fn examples(events: &Path) -> Result<Vec<Example>> {
    let folder = fs::read_dir(events).with_context(|| format!("cannot read {}", events.display()))?;
    let mut paths: Vec<_> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let of_webhook = |path: &Path| path.file_stem()?.to_str()?.strip_prefix("ingest-").map(str::to_owned);
    let named = paths.iter().filter_map(|path| Some((path, of_webhook(path)?)));
    named.map(|(path, name)| example(name, &fs::read(path)?).with_context(|| path.display().to_string())).collect()
}

fn example(name: String, file: &[u8]) -> Result<Example> {
    let event: Value = serde_json::from_slice(file)?;
    let body = event["body"].as_str().context("no body")?;
    let encoded = event["isBase64Encoded"].as_bool().unwrap_or_default();
    let body = if encoded { BASE64_STANDARD.decode(body)? } else { body.into() };
    Ok(Example { name, signed: event["headers"].get("x-hub-signature-256").is_some(), body })
}

/// Puts the mark where it makes a different event of the same source.
fn marked(mut body: Value, mark: String) -> Value {
    let (holder, field) = match &body {
        Value::Object(fields) if fields.contains_key("channel") => ("", "id"),
        Value::Object(fields) if fields.contains_key("detail") => ("/detail/eventBody", "demo"),
        Value::Object(fields) if fields.get("payload").is_some_and(Value::is_object) => ("/payload", "demo"),
        _ => ("", "demo"),
    };
    if let Some(Value::Object(fields)) = body.pointer_mut(holder) {
        fields.insert(field.into(), mark.into());
    }
    body
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_mark_stands_where_it_makes_another_event() {
        let marked = |body| marked(body, "m".into());
        assert_eq!(marked(json!({ "channel": {}, "id": "1" })), json!({ "channel": {}, "id": "m" }));
        assert_eq!(
            marked(json!({ "detail": { "eventBody": {} } })),
            json!({ "detail": { "eventBody": { "demo": "m" } } })
        );
        assert_eq!(marked(json!({ "payload": {} })), json!({ "payload": { "demo": "m" } }));
        assert_eq!(marked(json!({ "any": 1 })), json!({ "any": 1, "demo": "m" }));
    }

    #[test]
    fn what_is_lost_is_known_by_where_it_is_from() -> Result<()> {
        let (roles, ids) = lost(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events")))?;
        assert!(roles.len() > ids.len() && ids.len() >= 2, "{ids:?}");
        Ok(())
    }

    #[test]
    fn every_example_of_the_repository_takes_part() -> Result<()> {
        let roles = cast(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events")))?;
        for fate in Fate::ACCEPTED {
            assert!(roles.iter().filter(|role| role.fate == fate).count() >= PER_MISFORTUNE, "{fate}");
        }
        assert!(roles.iter().any(|role| role.fate == Fate::Refused));
        let bodies: HashSet<_> = roles.iter().map(|role| &role.webhook.body).collect();
        assert_eq!(bodies.len(), roles.len(), "no two have the same body");
        Ok(())
    }
}
