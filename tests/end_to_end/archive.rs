//! Dead letters in the archive, and back.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName};
use flate2::read::MultiGzDecoder;
use local::genesys::Webhook;
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};

use crate::{Relay, name_of, webhook};

const GONE: Behaviour = Behaviour::Status {
    code: 410,
    retry_after: None,
};

/// Message of SQS, without the attributes that SQS adds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Letter {
    body: String,
    attributes: BTreeMap<String, (String, String)>,
    group: Option<String>,
}

/// All that lies in the dead-letter queue, by event id where there is one, and by body where not.
async fn letters(relay: &Relay) -> Result<BTreeMap<String, Letter>> {
    let text =
        |value: MessageAttributeValue| (value.data_type, value.string_value.unwrap_or_default());
    let mut letters = BTreeMap::new();
    for message in relay.dead_letters().await? {
        let body = message.body.context("a body")?;
        let attributes = message
            .message_attributes
            .into_iter()
            .flatten()
            .map(|(name, value)| (name, text(value)));
        let attributes: BTreeMap<_, _> = attributes.collect();
        let id = attributes
            .get("event_id")
            .map_or_else(|| body.clone(), |(_, id)| id.clone());
        let group = message
            .attributes
            .unwrap_or_default()
            .remove(&MessageSystemAttributeName::MessageGroupId);
        ensure!(
            letters
                .insert(
                    id.clone(),
                    Letter {
                        body,
                        attributes,
                        group
                    }
                )
                .is_none(),
            "{id} is there twice"
        );
    }
    Ok(letters)
}

/// The keys of all objects.
pub(crate) async fn keys(relay: &Relay) -> Result<Vec<String>> {
    let objects = relay
        .stack
        .s3()
        .list_objects_v2()
        .bucket(relay.stack.output("ArchiveBucketName")?)
        .send()
        .await?;
    Ok(objects
        .contents
        .unwrap_or_default()
        .into_iter()
        .filter_map(|object| object.key)
        .collect())
}

pub(crate) async fn object(relay: &Relay, key: &str) -> Result<Vec<u8>> {
    let request = relay
        .stack
        .s3()
        .get_object()
        .bucket(relay.stack.output("ArchiveBucketName")?)
        .key(key);
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

/// Content of a file as shell tools read it; `None` where they are missing.
fn piped(file: &Path, tools: &str) -> Result<Option<String>> {
    let missing = |tool: &&str| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .stdout(Stdio::null())
            .status();
        !found.is_ok_and(|status| status.success())
    };
    if ["zcat", "jq"]
        .iter()
        .any(|tool| tools.contains(tool) && missing(tool))
    {
        return Ok(None);
    }
    let output = Command::new("sh")
        .args(["-c", tools, "sh"])
        .arg(file)
        .output()?;
    ensure!(
        output.status.success(),
        "{tools}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Some(String::from_utf8(output.stdout)?))
}

/// A relay with dead letters that the target refuses: `count` by the front door, and what only
/// comes by hand.
async fn relay_with(count: usize) -> Result<(Relay, Vec<String>)> {
    let relay = Relay::start(GONE, &[]).await?;
    let ids = relay
        .accept_all((0..count).map(|number| webhook(&format!("order {number}"))))
        .await?;
    relay.until_dead(u32::try_from(count)?).await?;
    Ok((relay, ids))
}

#[tokio::test]
async fn archived_events_are_readable_by_shell_tools_and_restored_byte_for_byte() -> Result<()> {
    let (relay, mut ids) = relay_with(25).await?;
    let odd =
        " {\"channel\":{\"id\":\"c1\"}, \"type\":\"Text\",\"id\":\"m1\",\"text\":\"Grüße 😀\"}\r\n";
    // SQS takes no character of the kind that this one holds as it is.
    let binary = b"{\"text\":\"\x7f\xef\xbf\xbe\"}";
    ids.push(relay.accept(&Webhook::signed(odd)).await?);
    ids.push(relay.accept(&Webhook::with_shared_secret(*binary)).await?);
    relay.until_dead(27).await?;
    relay
        .send_to_dead_letters(&["{\"pasted\": 1}".to_owned()])
        .await?;
    let before = letters(&relay).await?;
    assert_eq!(before.len(), 28);

    let request = json!({ "action": "archive", "olderThanDays": 0, "by": "an operator", "why": "out of the way" });
    let answer = relay.replay(request).await?;
    assert_eq!(
        (&answer["archived"], &answer["remaining"]),
        (&28.into(), &0.into()),
        "{answer}"
    );
    assert_eq!(
        (&answer["complete"], &answer["failures"]),
        (&true.into(), &0.into()),
        "{answer}"
    );
    relay.until_empty().await?;
    let keys = keys(&relay).await?;
    assert_eq!(json!(keys), answer["keys"]);
    let [key] = &keys[..] else {
        anyhow::bail!("not one object: {keys:?}")
    };
    assert!(
        key.starts_with("dead-letters/") && key.ends_with("/part-0001.jsonl.gz"),
        "{key}"
    );
    for id in &ids {
        let shown = relay.show(id).await?;
        assert_eq!(
            (&shown["state"], &shown["archivedTo"]),
            (&"ARCHIVED".into(), &json!(key)),
            "{shown}"
        );
        assert_eq!(
            (&shown["history"][0]["why"], &shown["statusCode"]),
            (&"out of the way".into(), &410.into())
        );
    }

    let object = object(&relay, key).await?;
    let archived = lines(&object)?;
    assert_eq!(archived.len(), 28);
    for line in archived
        .iter()
        .filter(|line| ids.iter().any(|id| line["eventId"] == *id))
    {
        let letter = &before[line["eventId"].as_str().unwrap_or_default()];
        assert_eq!(
            (&line["body"], &line["reason"]),
            (&json!(letter.body), &"permanent".into()),
            "{line}"
        );
        assert_eq!(line["statusCode"], 410, "{line}");
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("archived.jsonl.gz");
    std::fs::write(&file, &object)?;
    if let Some(text) = piped(&file, "zcat \"$1\"")? {
        let read: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        assert_eq!(read, archived, "zcat reads the same");
    }
    if let Some(read) = piped(
        &file,
        "zcat \"$1\" | jq -r 'select(.statusCode == 410) | .eventId'",
    )? {
        assert_eq!(
            read.lines().collect::<BTreeSet<_>>(),
            ids.iter().map(String::as_str).collect()
        );
    }

    let restore = json!({ "action": "restore", "key": key, "by": "an operator" });
    let answer = relay.replay(restore.clone()).await?;
    assert_eq!(
        (&answer["restored"], &answer["remaining"]),
        (&28.into(), &28.into()),
        "{answer}"
    );
    let mut after = letters(&relay).await?;
    // Restored, it is another message: the id that it was known by goes with it.
    let by_hand = after
        .iter()
        .find_map(|(id, letter)| (letter.body == "{\"pasted\": 1}").then(|| id.clone()));
    let by_hand = by_hand.context("what came by hand")?;
    let mut named = after.remove(&by_hand).context("it is there")?;
    assert_eq!(
        named.attributes.remove("event_id").map(|(_, id)| id),
        Some(by_hand)
    );
    after.insert(named.body.clone(), named);
    assert_eq!(after, before, "bodies and attributes are what they were");
    let answer = relay.replay(restore).await?;
    assert_eq!(
        (&answer["restored"], &answer["skipped"]),
        (&0.into(), &28.into()),
        "once is enough: {answer}"
    );

    relay.target.behave(Behaviour::Fine);
    assert_eq!(
        relay
            .replay(json!({ "action": "replay", "filter": { "reason": "permanent" } }))
            .await?["replayed"],
        27
    );
    relay.until_dead(1).await?;
    let delivered = relay.deliveries();
    assert_eq!(delivered, ids.iter().map(|id| (id.clone(), 1)).collect());
    for (id, bytes) in [(&ids[25], odd.as_bytes()), (&ids[26], binary)] {
        let last = relay.target.requests_of(id).pop().context("a delivery")?;
        assert_eq!(&last.body[..], bytes);
    }
    let history = relay.show(&ids[0]).await?["history"].take();
    let acts: Vec<_> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|act| act["action"].as_str())
        .collect();
    assert_eq!(acts, ["archive", "restore", "replay"]);
    Ok(())
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_costs_nothing() -> Result<()> {
    let (relay, ids) = relay_with(12).await?;
    let before = letters(&relay).await?;
    let role = relay.stack.role("ReplayRole").await?;
    let request = json!({ "action": "archive", "olderThanDays": 0 });
    role.take_away("s3:PutObject").await?;
    let error = relay.replay_fails(request.clone(), "ArchiveError").await?;
    assert!(error.to_string().contains("s3:PutObject"), "{error}");
    assert_eq!(
        (letters(&relay).await?, keys(&relay).await?),
        (before, Vec::<String>::new())
    );
    for id in &ids {
        assert_eq!(relay.show(id).await?["state"], "DEAD");
    }
    role.restore().await?;
    assert_eq!(relay.replay(request).await?["archived"], 12);
    relay.until_empty().await
}

#[tokio::test]
async fn an_archive_that_is_killed_before_it_deletes_and_repeated_loses_and_doubles_nothing()
-> Result<()> {
    let (relay, ids) = relay_with(300).await?;
    relay.set_timeout(Function::Replay, 20).await?;
    let request = json!({ "action": "archive", "olderThanDays": 0 });
    let (outcome, ()) = tokio::try_join!(relay.stack.invoke(Function::Replay, &request), async {
        wait::until("the object is there", || async {
            Ok((!keys(&relay).await?.is_empty()).then_some(()))
        })
        .await?;
        relay.kill(Function::Replay).await.map(drop)
    })?;
    assert!(
        outcome.is_err(),
        "killed before it could answer: {outcome:?}"
    );
    // The runs from now on have all the time that they need.
    relay.set_timeout(Function::Replay, 900).await?;
    let archived = archived_of(&relay, &ids).await?;
    let counts = relay.stack.queue_counts().await?;
    eprintln!(
        "killed with {archived} of 300 recorded, and {} not deleted",
        counts.dead_letters.total()
    );
    assert_eq!(counts.dead_letters.total(), 300, "killed before it deleted");
    assert!(archived < 300, "killed between the two");

    // When the killed run's lease is over, and what it has hidden is there again: on a busy machine
    // not all at the same time.
    let archived = Cell::new(0);
    wait::until("all are archived", || async {
        match relay.stack.invoke(Function::Replay, &request).await? {
            Ok(answer) => {
                ensure!(answer["failures"] == 0, "{answer}");
                archived.set(archived.get() + answer["archived"].as_u64().unwrap_or_default());
                Ok((archived.get() >= 300).then_some(()))
            }
            Err(error) if error.0["errorType"] == "Busy" => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    assert_eq!(archived.get(), 300);
    assert_eq!(archived_of(&relay, &ids).await?, 300);
    let keys = keys(&relay).await?;
    assert!(keys.len() >= 2, "{keys:?}");

    // What the killed run wrote holds events that are in another object as well. A restore of all
    // delivers each of them once.
    let mut lines_of_all = Vec::new();
    for key in &keys {
        lines_of_all.extend(lines(&object(&relay, key).await?)?);
        relay
            .replay(json!({ "action": "restore", "key": key }))
            .await?;
    }
    let held: BTreeSet<_> = lines_of_all
        .iter()
        .map(|line| line["eventId"].to_string())
        .collect();
    assert_eq!((lines_of_all.len(), held.len()), (600, 300));
    assert_eq!(letters(&relay).await?.len(), 300);
    relay.target.behave(Behaviour::Fine);
    assert_eq!(
        relay
            .replay(json!({ "action": "replay", "filter": { "statusCode": 410 } }))
            .await?["remaining"],
        0
    );
    relay.until_empty().await?;
    assert_eq!(
        relay.deliveries(),
        ids.into_iter().map(|id| (id, 1)).collect()
    );
    Ok(())
}

/// Number of these records in the state `ARCHIVED`.
async fn archived_of(relay: &Relay, ids: &[String]) -> Result<usize> {
    let table = relay.stack.output("EventsTableName")?;
    let mut archived = 0;
    for id in ids {
        let request = relay.stack.dynamodb().get_item().table_name(table);
        let item = request
            .key("event_id", AttributeValue::S(id.clone()))
            .send()
            .await?
            .item
            .context("a record")?;
        archived +=
            usize::from(item.get("state") == Some(&AttributeValue::S("ARCHIVED".to_owned())));
    }
    Ok(archived)
}

#[tokio::test]
async fn the_schedule_of_the_archive_is_understood_and_leaves_what_is_young() -> Result<()> {
    let relay = Relay::start(GONE, &[("ArchiveAfterDays", 3)]).await?;
    let id = relay.accept(&webhook("young")).await?;
    relay.until_dead(1).await?;
    relay.stack.aws().schedule_now("Archive", "tonight").await?;
    let line = wait::until("the run of the schedule is in the audit log", || async {
        let lines = relay.stack.log_lines(Function::Replay, 0).await?;
        Ok(lines
            .into_iter()
            .map(|line| line.content)
            .find(|line| line["audit"] == "archive"))
    })
    .await?;
    assert_eq!(
        (&line["by"], &line["selection"]),
        (&"schedule".into(), &"3".into()),
        "{line}"
    );
    assert_eq!(
        (&line["matched"], &line["skipped"], &line["remaining"]),
        (&0.into(), &1.into(), &1.into()),
        "{line}"
    );
    relay.until_dead(1).await?;
    assert_eq!(relay.show(&id).await?["state"], "DEAD");
    assert!(keys(&relay).await?.is_empty());
    assert_eq!(
        name_of(letters(&relay).await?[&id].body.as_bytes()),
        "young"
    );
    Ok(())
}
