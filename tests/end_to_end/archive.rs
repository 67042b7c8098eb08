//! Dead letters in the archive, and back.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName};
use flate2::read::MultiGzDecoder;
use genesys_relay::domain::event_record::StateName;
use local::genesys::Webhook;
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};

use crate::relay::{REFUSED, Relay, assert_has, name_of};

/// Message of SQS, without the attributes that SQS adds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Letter {
    body: String,
    attributes: BTreeMap<String, (String, String)>,
    group: Option<String>,
}

/// All dead letters, by event id, or by body where a person sent them.
async fn letters(relay: &Relay) -> Result<BTreeMap<String, Letter>> {
    let text = |value: MessageAttributeValue| value.string_value.unwrap_or_default();
    let mut letters = BTreeMap::new();
    for message in relay.dead_letters().await? {
        let attributes = message.message_attributes.unwrap_or_default().into_iter();
        let attributes: BTreeMap<_, _> = attributes
            .map(|(name, value)| (name, (value.data_type.clone(), text(value))))
            .collect();
        let body = message.body.context("a body")?;
        let id = attributes
            .get("event_id")
            .map_or(&body, |(_, id)| id)
            .clone();
        let mut system = message.attributes.unwrap_or_default();
        let group = system.remove(&MessageSystemAttributeName::MessageGroupId);
        let letter = Letter {
            body,
            attributes,
            group,
        };
        ensure!(
            letters.insert(id.clone(), letter).is_none(),
            "{id} is there twice"
        );
    }
    Ok(letters)
}

/// Keys of all objects.
pub(crate) async fn keys(relay: &Relay) -> Result<Vec<String>> {
    let bucket = relay.stack.output("ArchiveBucketName")?;
    let objects = relay
        .stack
        .s3()
        .list_objects_v2()
        .bucket(bucket)
        .send()
        .await?;
    Ok(objects
        .contents()
        .iter()
        .filter_map(|object| object.key.clone())
        .collect())
}

pub(crate) async fn object(relay: &Relay, key: &str) -> Result<Vec<u8>> {
    let bucket = relay.stack.output("ArchiveBucketName")?;
    let request = relay.stack.s3().get_object().bucket(bucket).key(key);
    Ok(request.send().await?.body.collect().await?.to_vec())
}

/// Lines of an archive object.
pub(crate) fn lines(object: &[u8]) -> Result<Vec<Value>> {
    let mut text = String::new();
    MultiGzDecoder::new(object).read_to_string(&mut text)?;
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

/// Output of a shell command over a file; `None` where its tools are missing.
fn piped(file: &Path, command: &str) -> Result<Option<String>> {
    let has = |tool: &&str| {
        let mut found = Command::new("sh");
        let found = found
            .args(["-c", &format!("command -v {tool}")])
            .stdout(Stdio::null());
        found.status().is_ok_and(|status| status.success())
    };
    if !["zcat", "jq"]
        .iter()
        .filter(|tool| command.contains(**tool))
        .all(has)
    {
        return Ok(None);
    }
    let output = Command::new("sh")
        .args(["-c", command, "sh"])
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "{command}: {output:?}");
    Ok(Some(String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn archived_events_are_readable_by_shell_tools_and_restored_byte_for_byte() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let mut ids = relay
        .accept_dead((0..25).map(|number| format!("order {number}")))
        .await?;
    let odd =
        " {\"channel\":{\"id\":\"c1\"}, \"type\":\"Text\",\"id\":\"m1\",\"text\":\"Grüße 😀\"}\r\n";
    // SQS takes no character of the kind that this one holds as it is.
    let binary = b"{\"text\":\"\x7f\xef\xbf\xbe\"}";
    ids.push(relay.accept(&Webhook::signed(odd)).await?);
    ids.push(relay.accept(&Webhook::with_shared_secret(*binary)).await?);
    relay.until_dead(27).await?;
    let pasted = "{\"pasted\": 1}";
    relay.send_to_dead_letters([pasted.to_owned()]).await?;
    let before = letters(&relay).await?;
    assert_eq!(before.len(), 28);

    let why = "out of the way";
    let request =
        json!({ "action": "archive", "olderThanDays": 0, "by": "an operator", "why": why });
    let answer = relay.replay(request).await?;
    let keys = keys(&relay).await?;
    let done =
        json!({ "archived": 28, "remaining": 0, "complete": true, "failures": 0, "keys": keys });
    assert_has(&answer, done);
    relay.until_empty().await?;
    let [key] = &keys[..] else {
        anyhow::bail!("not one object: {keys:?}")
    };
    let is_named = key.starts_with("dead-letters/") && key.ends_with("/part-0001.jsonl.gz");
    assert!(is_named, "{key}");
    for id in &ids {
        let archived = json!({ "state": "ARCHIVED", "archivedTo": key, "statusCode": 404, "/history/0/why": why });
        assert_has(&relay.show(id).await?, archived);
    }

    let object = object(&relay, key).await?;
    let archived = lines(&object)?;
    assert_eq!(archived.len(), 28);
    for id in &ids {
        let mut lines = archived.iter();
        let line = lines
            .find(|line| line["eventId"] == *id)
            .context("a line")?;
        let letter = json!({ "body": before[id].body, "reason": "permanent", "statusCode": 404 });
        assert_has(line, letter);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("archived.jsonl.gz");
    std::fs::write(&file, &object)?;
    if let Some(text) = piped(&file, "zcat \"$1\"")? {
        let read = text.lines().map(serde_json::from_str);
        let read: Vec<Value> = read.collect::<Result<_, _>>()?;
        assert_eq!(read, archived, "zcat reads the same");
    }
    let command = "zcat \"$1\" | jq -r 'select(.statusCode == 404) | .eventId'";
    if let Some(read) = piped(&file, command)? {
        let expected: BTreeSet<_> = ids.iter().map(String::as_str).collect();
        assert_eq!(read.lines().collect::<BTreeSet<_>>(), expected);
    }

    let restore = json!({ "action": "restore", "key": key, "by": "an operator" });
    let answer = relay.replay(restore.clone()).await?;
    assert_has(&answer, json!({ "restored": 28, "remaining": 28 }));
    let mut after = letters(&relay).await?;
    // The restored message by hand has the id that it was known by.
    let by_hand = after.iter().find(|(_, letter)| letter.body == pasted);
    let by_hand = by_hand.context("the message by hand")?.0.clone();
    let mut named = after.remove(&by_hand).context("it is there")?;
    let id = named.attributes.remove("event_id").map(|(_, id)| id);
    assert_eq!(id, Some(by_hand));
    after.insert(pasted.to_owned(), named);
    assert_eq!(after, before, "bodies and attributes are the same");
    let answer = relay.replay(restore).await?;
    assert_has(&answer, json!({ "restored": 0, "skipped": 28 }));

    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "reason": "permanent" } });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 27 }));
    relay.until_dead(1).await?;
    relay.assert_delivered_once(&ids);
    for (id, bytes) in [(&ids[25], odd.as_bytes()), (&ids[26], binary)] {
        let last = relay.target.requests_of(id).pop().context("a delivery")?;
        assert_eq!(&last.body[..], bytes);
    }
    let history = relay.show(&ids[0]).await?["history"].take();
    let acts: Vec<_> = history
        .as_array()
        .into_iter()
        .flatten()
        .map(|act| &act["action"])
        .collect();
    assert_eq!(acts, ["archive", "restore", "replay"]);
    Ok(())
}

/// Dead letters of the run that is killed.
const KILLED: usize = 200;

#[tokio::test]
async fn an_archive_that_is_killed_and_repeated_loses_and_doubles_nothing() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let ids = relay
        .accept_dead((0..KILLED).map(|number| format!("order {number}")))
        .await?;
    relay.set_timeout(Function::Replay, 20).await?;
    let request = json!({ "action": "archive", "olderThanDays": 0 });
    let mut run = pin!(relay.stack.invoke(Function::Replay, &request));
    let killed = async {
        // Without a pause: the messages are deleted soon after.
        while keys(&relay).await?.is_empty() {}
        relay.kill(Function::Replay).await
    };
    let outcome = tokio::select! {
        outcome = &mut run => outcome?,
        killed = killed => {
            killed?;
            run.await?
        }
    };
    assert!(
        outcome.is_err(),
        "killed before it could answer: {outcome:?}"
    );
    // All later runs have the time that they need.
    relay.set_timeout(Function::Replay, 900).await?;
    let archived = archived_of(&relay, &ids).await?;
    assert!(archived < KILLED, "killed before all were recorded");
    assert_eq!(
        relay.held().await?,
        (0, u32::try_from(KILLED)?),
        "killed before it deleted"
    );

    // When the lease of the killed run ends, and its messages are visible again: on a busy machine
    // not all at the same time.
    let archived = Cell::new(0);
    wait::until("all are archived", || async {
        let answer = relay.until_free(Function::Replay, &request).await?;
        ensure!(answer["failures"] == 0, "{answer}");
        archived.set(archived.get() + answer["archived"].as_u64().unwrap_or_default());
        Ok((archived.get() >= KILLED as u64).then_some(()))
    })
    .await?;
    assert_eq!(archived.get(), KILLED as u64);
    assert_eq!(archived_of(&relay, &ids).await?, KILLED);
    let keys = keys(&relay).await?;
    assert!(keys.len() >= 2, "{keys:?}");

    // The object of the killed run holds events that are in another object as well. A restore of
    // both delivers each of them once.
    let mut lines_of_all = Vec::new();
    for key in &keys {
        lines_of_all.extend(lines(&object(&relay, key).await?)?);
        let restore = json!({ "action": "restore", "key": key });
        relay.replay(restore).await?;
    }
    let held: BTreeSet<_> = lines_of_all
        .iter()
        .map(|line| line["eventId"].to_string())
        .collect();
    assert_eq!((lines_of_all.len(), held.len()), (2 * KILLED, KILLED));
    assert_eq!(letters(&relay).await?.len(), KILLED);
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 } });
    assert_has(&relay.replay(request).await?, json!({ "remaining": 0 }));
    relay.until_empty().await?;
    relay.assert_delivered_once(&ids);
    Ok(())
}

/// Number of these events in the state `ARCHIVED`.
async fn archived_of(relay: &Relay, ids: &[String]) -> Result<usize> {
    let mut archived = 0;
    for id in ids {
        let record = relay.record(id).await?.context("a record")?;
        archived += usize::from(record.state.name() == StateName::Archived);
    }
    Ok(archived)
}

#[tokio::test]
async fn the_schedule_of_the_archive_leaves_young_dead_letters() -> Result<()> {
    let relay = Relay::start(REFUSED, &[("ArchiveAfterDays", "3")]).await?;
    let id = relay.accept_dead(["young"]).await?.remove(0);
    relay.run_schedule("Archive", "tonight").await?;
    let is_it = |line: &Value| line["audit"] == "archive";
    let line = relay
        .until_logged(Function::Replay, 1, "its audit", is_it)
        .await?;
    let expected =
        json!({ "by": "schedule", "selection": "3", "matched": 0, "skipped": 1, "remaining": 1 });
    assert_has(&line, expected);
    relay.until_dead(1).await?;
    assert_has(&relay.show(&id).await?, json!({ "state": "DEAD" }));
    assert!(keys(&relay).await?.is_empty());
    let body = letters(&relay).await?[&id].body.clone();
    assert_eq!(name_of(body.as_bytes()), "young");
    Ok(())
}
