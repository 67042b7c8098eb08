//! Events of the demo: the repository's examples, each with a mark in its body that tells the
//! target how to treat it.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::{
    genesys::Webhook,
    target::{Answer, ReceivedRequest},
};

/// Events for each treatment but `Accepted`.
const PER_FAILURE: usize = 3;

/// Treatment of an event by the target until it is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    Accepted,
    FailsTwice,
    Refused,
    KeepsFailing,
    /// Not JSON: ingest refuses it and keeps it as a dead letter.
    NotJson,
}

impl Treatment {
    /// Treatments of events that ingest accepts.
    const OF_VALID: [Self; 4] = [
        Self::Accepted,
        Self::FailsTwice,
        Self::Refused,
        Self::KeepsFailing,
    ];

    fn mark(self) -> &'static str {
        match self {
            Self::Accepted => "demo-accepted",
            Self::FailsTwice => "demo-fails-twice",
            Self::Refused => "demo-refused",
            Self::KeepsFailing => "demo-keeps-failing",
            Self::NotJson => "demo-not-json",
        }
    }

    /// Statuses of the target before any replay.
    pub(super) fn statuses(self, max_receive_count: usize) -> Vec<u16> {
        match self {
            Self::Accepted => vec![200],
            Self::FailsTwice => vec![503, 503, 200],
            Self::Refused => vec![404],
            Self::KeepsFailing => vec![503; max_receive_count],
            Self::NotJson => vec![],
        }
    }

    /// True where the event becomes a dead letter.
    pub(super) fn is_dead_letter(self) -> bool {
        matches!(self, Self::Refused | Self::KeepsFailing | Self::NotJson)
    }

    /// Answer of the target to a delivery.
    pub(super) fn answer(request: &ReceivedRequest) -> Answer {
        let body = String::from_utf8_lossy(&request.body);
        let treatment = Self::OF_VALID
            .into_iter()
            .find(|treatment| body.contains(treatment.mark()))
            .unwrap_or(Self::Accepted);
        Answer::status(match treatment {
            Self::Accepted | Self::NotJson => 200,
            Self::FailsTwice if request.nth > 2 => 200,
            Self::FailsTwice | Self::KeepsFailing => 503,
            Self::Refused => 404,
        })
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Accepted => "accepted",
            Self::FailsTwice => "fails twice",
            Self::Refused => "refused",
            Self::KeepsFailing => "keeps failing",
            Self::NotJson => "not JSON",
        })
    }
}

/// Webhook to send.
#[derive(Debug)]
pub(super) struct PlannedEvent {
    /// Name of the example that it was made from.
    pub(super) example: String,
    pub(super) treatment: Treatment,
    pub(super) webhook: Webhook,
}

struct Example {
    name: String,
    signed: bool,
    body: Vec<u8>,
}

/// Plans every example once with a target that accepts it, and some with each other treatment.
pub(super) fn events(events: &Path) -> Result<Vec<PlannedEvent>> {
    let examples = examples(events)?;
    let mut planned = Vec::new();
    let mut sound = Vec::new();
    for example in &examples {
        match serde_json::from_slice(&example.body) {
            Ok(body) => sound.push((example, body)),
            Err(_) => planned.push(example.event(Treatment::NotJson, example.body.clone())),
        }
    }
    ensure!(
        !sound.is_empty(),
        "{} holds no webhooks: files named ingest-*.json",
        events.display()
    );
    for (at, treatment) in Treatment::OF_VALID.into_iter().enumerate() {
        let number = if treatment == Treatment::Accepted {
            sound.len()
        } else {
            PER_FAILURE
        };
        for nth in 0..number {
            let (example, body): &(&Example, Value) =
                &sound[(at * PER_FAILURE + nth) % sound.len()];
            let mark = format!("{}-{nth}", treatment.mark());
            planned.push(example.event(
                treatment,
                marked(body.clone(), mark).to_string().into_bytes(),
            ));
        }
    }
    Ok(planned)
}

/// Plans examples of a webhook or an integration, to be sent while ingest is stopped; returns them
/// and the sources' ids.
pub(super) fn lost_events(events: &Path) -> Result<(Vec<PlannedEvent>, Vec<String>)> {
    let (mut planned, mut ids) = (Vec::new(), Vec::new());
    for example in examples(events)? {
        let Ok(body) = serde_json::from_slice::<Value>(&example.body) else {
            continue;
        };
        let Some(id) = body["webhookId"]
            .as_str()
            .or(body["channel"]["id"].as_str())
        else {
            continue;
        };
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
        let mark = format!("demo-lost-{}", planned.len());
        planned.push(example.event(
            Treatment::Accepted,
            marked(body, mark).to_string().into_bytes(),
        ));
    }
    ensure!(
        !planned.is_empty(),
        "{} holds no webhook that names its webhook or integration",
        events.display()
    );
    Ok((planned, ids))
}

impl Example {
    fn event(&self, treatment: Treatment, body: Vec<u8>) -> PlannedEvent {
        let webhook = if self.signed {
            Webhook::signed(body)
        } else {
            Webhook::with_shared_secret(body)
        };
        PlannedEvent {
            example: self.name.clone(),
            treatment,
            webhook,
        }
    }
}

/// API Gateway events among the example files.
fn examples(events: &Path) -> Result<Vec<Example>> {
    let folder =
        fs::read_dir(events).with_context(|| format!("could not read {}", events.display()))?;
    let mut paths: Vec<_> = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    let of_webhook = |path: &Path| {
        path.file_stem()?
            .to_str()?
            .strip_prefix("ingest-")
            .map(str::to_owned)
    };
    let named = paths
        .iter()
        .filter_map(|path| Some((path, of_webhook(path)?)));
    named
        .map(|(path, name)| {
            example(name, &fs::read(path)?).with_context(|| path.display().to_string())
        })
        .collect()
}

fn example(name: String, file: &[u8]) -> Result<Example> {
    let event: Value = serde_json::from_slice(file)?;
    let body = event["body"].as_str().context("no body")?;
    let encoded = event["isBase64Encoded"].as_bool().unwrap_or_default();
    let body = if encoded {
        BASE64_STANDARD.decode(body)?
    } else {
        body.into()
    };
    Ok(Example {
        name,
        signed: event["headers"].get("x-hub-signature-256").is_some(),
        body,
    })
}

/// Adds the mark to a field that makes it a different event of the same source.
fn marked(mut body: Value, mark: String) -> Value {
    let (holder, field) = match &body {
        Value::Object(fields) if fields.contains_key("channel") => ("", "id"),
        Value::Object(fields) if fields.contains_key("detail") => ("/detail/eventBody", "demo"),
        Value::Object(fields) if fields.get("payload").is_some_and(Value::is_object) => {
            ("/payload", "demo")
        }
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
    fn mark_makes_another_event() {
        let marked = |body| marked(body, "m".into());
        assert_eq!(
            marked(json!({ "channel": {}, "id": "1" })),
            json!({ "channel": {}, "id": "m" })
        );
        assert_eq!(
            marked(json!({ "detail": { "eventBody": {} } })),
            json!({ "detail": { "eventBody": { "demo": "m" } } })
        );
        assert_eq!(
            marked(json!({ "payload": {} })),
            json!({ "payload": { "demo": "m" } })
        );
        assert_eq!(
            marked(json!({ "any": 1 })),
            json!({ "any": 1, "demo": "m" })
        );
    }

    #[test]
    fn lost_events_name_their_source() -> Result<()> {
        let (planned, ids) = lost_events(Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../events"
        )))?;
        assert!(planned.len() > ids.len() && ids.len() >= 2, "{ids:?}");
        Ok(())
    }

    #[test]
    fn every_example_of_the_repository_takes_part() -> Result<()> {
        let planned = events(Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../events"
        )))?;
        for treatment in Treatment::OF_VALID {
            assert!(
                planned
                    .iter()
                    .filter(|event| event.treatment == treatment)
                    .count()
                    >= PER_FAILURE,
                "{treatment}"
            );
        }
        assert!(
            planned
                .iter()
                .any(|event| event.treatment == Treatment::NotJson)
        );
        let bodies: HashSet<_> = planned.iter().map(|event| &event.webhook.body).collect();
        assert_eq!(bodies.len(), planned.len(), "no two have the same body");
        Ok(())
    }
}
