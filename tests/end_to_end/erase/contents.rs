//! Contents of all places in which the relay keeps events: items, versions of objects, messages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::types::Message;
use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::archive::{keys, object};
use crate::relay::{Item, Relay};

/// All that the relay keeps beside some events.
#[derive(Debug)]
pub(super) struct Contents {
    /// Records and bodies, by key.
    items: BTreeMap<String, Item>,
    /// Visible messages of each queue, with their attributes.
    messages: BTreeMap<String, BTreeMap<String, String>>,
    /// Lines of objects, byte for byte.
    lines: BTreeSet<Vec<u8>>,
}

impl Contents {
    pub(super) async fn beside(relay: &Relay, ids: &[String]) -> Result<Self> {
        let is_other = |id: &str| ids.iter().all(|one| one != id);
        let mut items = relay.items().await?;
        // The erasures, leases and runs are no events.
        let of_no_event = ["#", "lease#", "run#"];
        items.retain(|key, _| {
            let is_of_event = !of_no_event
                .iter()
                .any(|beginning| key.starts_with(beginning));
            is_of_event && is_other(key.strip_prefix("body#").unwrap_or(key))
        });
        let mut messages: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for queue in queues(relay).await? {
            let of_queue = messages.entry(name_of(&queue).to_owned()).or_default();
            for message in relay.messages(&queue).await? {
                if is_other(&event_id_of(&message)) {
                    of_queue.insert(content_of(&message), event_id_of(&message));
                }
            }
        }
        let mut lines = BTreeSet::new();
        for key in keys(relay).await? {
            let object = unpacked(&object(relay, &key).await?)?;
            for line in object.split_inclusive(|byte| *byte == b'\n') {
                if is_other(&event_id_of_line(line)?) {
                    lines.insert(line.to_vec());
                }
            }
        }
        Ok(Self {
            items,
            messages,
            lines,
        })
    }

    /// Checks that all is as it was, but that messages of the journal's queue may be lines.
    pub(super) fn check_unchanged(&self, before: &Self) -> Result<()> {
        for (key, item) in &before.items {
            let now = self.items.get(key);
            ensure!(now == Some(item), "{key} is {now:?} and was {item:?}");
        }
        let new = self
            .items
            .keys()
            .find(|key| !before.items.contains_key(*key));
        ensure!(new.is_none(), "a new item: {new:?}");
        let lost: Vec<_> = before.lines.difference(&self.lines).collect();
        ensure!(lost.is_empty(), "lines are lost: {lost:?}");
        let new = self.lines.difference(&before.lines);
        let mut new: BTreeSet<_> = new
            .map(|line| event_id_of_line(line))
            .collect::<Result<_>>()?;
        for (queue, messages) in &before.messages {
            let now = &self.messages[queue];
            for (message, id) in messages {
                let is_journalled = queue.ends_with("-journal") && new.remove(id);
                let is_there = is_journalled || now.contains_key(message);
                ensure!(is_there, "{queue} has lost {message}");
            }
            let new = now.keys().find(|message| !messages.contains_key(*message));
            ensure!(new.is_none(), "{queue} has a new message: {new:?}");
        }
        ensure!(new.is_empty(), "lines of other events are new: {new:?}");
        Ok(())
    }
}

/// Places with this text, over every item, every version of every object, and every message.
/// No message may be hidden.
pub(super) async fn traces(relay: &Relay, text: &str) -> Result<Vec<String>> {
    let mut traces = Vec::new();
    for (key, item) in relay.items().await? {
        if format!("{key} {item:?}").contains(text) {
            traces.push(format!("item {key}: {item:?}"));
        }
    }
    let bucket = relay.stack.output("ArchiveBucketName")?;
    for (key, version) in versions(relay).await? {
        let request = relay.stack.s3().get_object().bucket(bucket).key(&key);
        let object = request
            .version_id(&version)
            .send()
            .await?
            .body
            .collect()
            .await?;
        let unpacked = unpacked(&object.to_vec())?;
        if String::from_utf8_lossy(&unpacked).contains(text) {
            traces.push(format!("object {key} in version {version}"));
        }
    }
    for queue in queues(relay).await? {
        let name = name_of(&queue);
        for message in relay.messages(&queue).await? {
            let content = content_of(&message);
            if content.contains(text) {
                traces.push(format!("{name}: {content}"));
            }
        }
    }
    Ok(traces)
}

/// Every version of every object, with its key.
pub(super) async fn versions(relay: &Relay) -> Result<Vec<(String, String)>> {
    let bucket = relay.stack.output("ArchiveBucketName")?;
    let request = relay.stack.s3().list_object_versions().bucket(bucket);
    let listed = request.send().await?;
    ensure!(
        listed.is_truncated != Some(true),
        "more than a page of versions"
    );
    let version = |version: &aws_sdk_s3::types::ObjectVersion| {
        Some((version.key.clone()?, version.version_id.clone()?))
    };
    Ok(listed.versions().iter().filter_map(version).collect())
}

fn name_of(queue: &str) -> &str {
    queue.rsplit('/').next().unwrap_or_default()
}

async fn queues(relay: &Relay) -> Result<Vec<String>> {
    let answer = relay.stack.sqs().list_queues().send().await?;
    Ok(answer.queue_urls.unwrap_or_default())
}

fn event_id_of(message: &Message) -> String {
    let id = message
        .message_attributes
        .as_ref()
        .and_then(|all| all.get("event_id"));
    let id = id.and_then(|id| id.string_value.clone());
    id.unwrap_or_default()
}

fn event_id_of_line(line: &[u8]) -> Result<String> {
    let line: Value = serde_json::from_slice(line)?;
    Ok(line["eventId"].as_str().context("an id")?.to_owned())
}

fn content_of(message: &Message) -> String {
    let attributes: BTreeMap<_, _> = message.message_attributes.iter().flatten().collect();
    format!("{:?} {attributes:?}", message.body)
}

fn unpacked(object: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(object).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}
