//! The archive of dead letters, and the journal of delivered events beside it: compressed JSON lines,
//! one message each, that `zcat` and `jq` can read.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::event::EventId;
use crate::domain::failure::Reason;
use crate::domain::message::{Attribute, AttributeValue, Message};
use crate::ports::service::{Service, ServiceError};

/// A part is written when it holds this much before compression: what a function of 128 MB has room
/// for.
const PART_BYTES: usize = 16 * 1024 * 1024;

/// No part holds more before compression: what fills it is a message of at most 1 MiB, twice as
/// long where every character is escaped. An object that unpacks to more was not written by the
/// relay, and could use up the memory.
const MAX_UNPACKED_BYTES: u64 = PART_BYTES as u64 + 4 * 1024 * 1024;

/// A part is written when it holds this many messages.
const PART_MESSAGES: usize = 1000;

/// No object of the relay is larger: packing never adds more than this to what is packed. A larger
/// one is not read.
pub const MAX_OBJECT_BYTES: u64 = MAX_UNPACKED_BYTES + 64 * 1024;

/// A failed call to the archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The call failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// There is no such object. S3 answers so for a forbidden one too, unless the caller may list
    /// the bucket.
    #[error("the archive has no object {0:?} that can be read")]
    NotFound(String),
    /// The object is larger than any that the relay has written, and was not read.
    #[error(
        "the object {key:?} is larger than {MAX_OBJECT_BYTES} bytes, more than the relay writes; it was not read"
    )]
    TooLarge { key: String },
    /// The object is none that the relay has written.
    #[error("line {line} of the object cannot be read, so that nothing of it was used")]
    Unreadable {
        /// The number of the line, from 1.
        line: usize,
        /// The reason.
        #[source]
        error: io::Error,
    },
}

/// A page of keys, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    pub keys: Vec<String>,
    /// Key behind which the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// One version of an object, or the mark of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub key: String,
    /// Id of the version.
    pub version: String,
    /// True for the newest version, which a read by the key alone gives.
    pub is_latest: bool,
    /// True for the mark of a deletion, which has no content.
    pub is_delete_marker: bool,
}

/// A page of versions, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPage {
    pub versions: Vec<ObjectVersion>,
    /// Place at which the next page begins; `None` at the end.
    pub next: Option<VersionPosition>,
}

/// A place in the list of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPosition {
    /// The list goes on behind this key, or within it.
    pub key: String,
    /// Version of the key behind which the list goes on; `None` is behind all of them.
    pub version: Option<String>,
}

/// A store of archived dead letters and of the journal. It keeps older versions of its objects for a
/// while.
pub trait Archive: Send + Sync + 'static {
    /// Writes an object. `Ok` means that it is durable.
    fn put(
        &self,
        key: &str,
        object: Vec<u8>,
    ) -> impl Future<Output = Result<(), ArchiveError>> + Send;

    /// Writes a JSON object unless there is one with its key; returns whether there was none. `Ok`
    /// means that one is durable.
    fn put_new(
        &self,
        key: &str,
        object: Vec<u8>,
    ) -> impl Future<Output = Result<bool, ArchiveError>> + Send;

    /// Reads an object, unless it is larger than [`MAX_OBJECT_BYTES`].
    fn get(&self, key: &str) -> impl Future<Output = Result<Vec<u8>, ArchiveError>> + Send;

    /// Reads one version of an object that is no mark of a deletion, under the same bound.
    fn get_version(
        &self,
        key: &str,
        version: &str,
    ) -> impl Future<Output = Result<Vec<u8>, ArchiveError>> + Send;

    /// Lists the keys that begin with `prefix`, from behind the key `after`.
    fn list_keys(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Future<Output = Result<KeyPage, ArchiveError>> + Send;

    /// Lists all versions of the objects whose keys begin with `prefix`, from behind `after`. The
    /// marks of deletions are among them.
    fn versions(
        &self,
        prefix: &str,
        after: Option<&VersionPosition>,
    ) -> impl Future<Output = Result<VersionPage, ArchiveError>> + Send;

    /// Deletes one version of an object, or the mark of a deletion, for good, if it is there.
    fn delete_version(
        &self,
        key: &str,
        version: &str,
    ) -> impl Future<Output = Result<(), ArchiveError>> + Send;
}

/// An archived message, as one line has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// Its event's id.
    pub event_id: EventId,
    /// The time of archiving.
    pub archived_at: Timestamp,
    /// The time at which SQS accepted it.
    pub sent_at: Timestamp,
    /// The reason and time of its death; `None` in the journal, for the target accepted it.
    #[serde(flatten)]
    pub reason: Option<Reason>,
    /// The message's body, as SQS held it.
    pub body: String,
    /// The message's attributes.
    pub attributes: BTreeMap<String, ArchivedAttribute>,
    /// The message's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A message attribute: its data type, and its value as text or as base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchivedAttribute {
    data_type: String,
    #[serde(flatten)]
    value: ArchivedValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ArchivedValue {
    Text(String),
    Base64(String),
}

impl ArchivedAttribute {
    /// The attribute as a line has it.
    pub fn of(attribute: &Attribute) -> Self {
        let value = match &attribute.value {
            AttributeValue::Text(text) => ArchivedValue::Text(text.clone()),
            AttributeValue::Binary(bytes) => ArchivedValue::Base64(BASE64_STANDARD.encode(bytes)),
        };
        Self {
            data_type: attribute.data_type.clone(),
            value,
        }
    }

    fn restore(self) -> io::Result<Attribute> {
        let value = match self.value {
            ArchivedValue::Text(text) => AttributeValue::Text(text),
            ArchivedValue::Base64(text) => {
                AttributeValue::Binary(BASE64_STANDARD.decode(text).map_err(io::Error::other)?)
            }
        };
        Ok(Attribute {
            data_type: self.data_type,
            value,
        })
    }
}

impl Archived {
    /// The line of a message.
    pub fn of(
        message: &Message,
        event_id: EventId,
        sent_at: Timestamp,
        reason: Option<Reason>,
        now: Timestamp,
    ) -> Self {
        let attributes = message.attributes.iter();
        Self {
            event_id,
            archived_at: now,
            sent_at,
            reason,
            body: message.body.clone(),
            attributes: attributes
                .map(|(name, value)| (name.clone(), ArchivedAttribute::of(value)))
                .collect(),
            group: message.group.clone(),
        }
    }

    /// The message, byte for byte and attribute for attribute.
    pub fn into_message(self) -> io::Result<Message> {
        let restore =
            |(name, attribute): (String, ArchivedAttribute)| Ok((name, attribute.restore()?));
        let attributes = self
            .attributes
            .into_iter()
            .map(restore)
            .collect::<io::Result<_>>()?;
        Ok(Message {
            body: self.body,
            attributes,
            group: self.group,
            trace: None,
        })
    }
}

/// One object of a run, while it is put together.
pub struct ArchivePart {
    encoder: GzEncoder<Vec<u8>>,
    bytes: usize,
    messages: usize,
    full_bytes: usize,
    full_messages: usize,
}

impl Default for ArchivePart {
    fn default() -> Self {
        Self::full_at(PART_BYTES, PART_MESSAGES)
    }
}

impl ArchivePart {
    /// A part that is full when it holds this much before compression, or this many messages.
    pub fn full_at(bytes: usize, messages: usize) -> Self {
        Self {
            encoder: GzEncoder::new(Vec::new(), Compression::fast()),
            bytes: 0,
            messages: 0,
            full_bytes: bytes,
            full_messages: messages,
        }
    }

    /// Adds a line.
    pub fn add(&mut self, message: &Archived) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.bytes += line.len();
        self.messages += 1;
        self.encoder.write_all(&line)
    }

    /// Returns whether the object should be written.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.full_bytes || self.messages >= self.full_messages
    }

    /// The object.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// An object without some of its lines.
pub struct Without {
    /// The events of the lines that are left out.
    pub removed: Vec<EventId>,
    /// The other lines, byte for byte, as an object; `None` where there is none.
    pub kept: Option<Vec<u8>>,
}

/// Leaves lines out of an object; `None` where there is nothing to leave out.
pub fn without(
    object: &[u8],
    mut is_left_out: impl FnMut(&Archived) -> bool,
) -> Result<Option<Without>, ArchiveError> {
    let (mut removed, mut is_kept) = (Vec::new(), Vec::new());
    for_each_line(object, |_, archived| {
        let is_left_out = is_left_out(&archived);
        is_kept.push(!is_left_out);
        if is_left_out {
            removed.push(archived.event_id);
        }
        Ok(())
    })?;
    if removed.is_empty() {
        return Ok(None);
    }
    if removed.len() == is_kept.len() {
        return Ok(Some(Without {
            removed,
            kept: None,
        }));
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut is_kept = is_kept.into_iter();
    for_each_line(object, |line, _| match is_kept.next() {
        Some(true) => encoder.write_all(line.as_bytes()),
        Some(false) | None => Ok(()),
    })?;
    let kept = encoder
        .finish()
        .map_err(|error| ArchiveError::Service(Service::S3.refused(error)))?;
    Ok(Some(Without {
        removed,
        kept: Some(kept),
    }))
}

/// Reads an object, all of it or nothing.
pub fn read(object: &[u8]) -> Result<Vec<Archived>, ArchiveError> {
    let mut messages = Vec::new();
    for_each_line(object, |_, archived| {
        archived.clone().into_message()?;
        messages.push(archived);
        Ok(())
    })?;
    Ok(messages)
}

/// Calls `read` with each line of an object, as it is and as it reads.
pub fn for_each_line(
    object: &[u8],
    mut read: impl FnMut(&str, Archived) -> io::Result<()>,
) -> Result<(), ArchiveError> {
    let unreadable = |line: usize| {
        move |error: io::Error| ArchiveError::Unreadable {
            line: line + 1,
            error,
        }
    };
    let mut unpacked = BufReader::new(MultiGzDecoder::new(object)).take(MAX_UNPACKED_BYTES + 1);
    for number in 0.. {
        let mut line = String::new();
        if unpacked.read_line(&mut line).map_err(unreadable(number))? == 0 {
            break;
        }
        if unpacked.limit() == 0 {
            let problem = format!("the object unpacks to more than {MAX_UNPACKED_BYTES} bytes");
            return Err(unreadable(number)(io::Error::other(problem)));
        }
        let archived: Archived =
            serde_json::from_str(&line).map_err(|error| unreadable(number)(error.into()))?;
        read(&line, archived).map_err(unreadable(number))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::failure::ReasonKind;

    fn archived(body: String, attributes: &BTreeMap<String, Attribute>) -> Archived {
        Archived {
            event_id: "an-event".parse().expect("an id"),
            archived_at: Timestamp::UNIX_EPOCH,
            sent_at: Timestamp::UNIX_EPOCH,
            reason: Some(Reason::new(
                ReasonKind::Permanent,
                "as the test says",
                Timestamp::UNIX_EPOCH,
            )),
            body,
            attributes: attributes
                .iter()
                .map(|(name, value)| (name.clone(), ArchivedAttribute::of(value)))
                .collect(),
            group: Some("a-webhook".to_owned()),
        }
    }

    #[test]
    fn a_part_is_full_at_a_thousand_messages() {
        let mut part = ArchivePart::default();
        for number in 1..=1000 {
            assert!(!part.is_full(), "{number}");
            part.add(&archived("{}".to_owned(), &BTreeMap::new()))
                .expect("added");
        }
        assert!(part.is_full());
    }

    #[test]
    fn lines_that_stay_are_the_same_bytes() {
        // As another version may write it.
        let foreign = br#"{"body":"{}",  "eventId":"kept","sentAt":"1970-01-01T00:00:00Z","archivedAt":"1970-01-01T00:00:00Z","attributes":{},"later":1}"#;
        let lines = [&foreign[..], b"\n"].concat();
        let mut part = ArchivePart::default();
        part.encoder.write_all(&lines).expect("written");
        part.add(&archived("{}".to_owned(), &BTreeMap::new()))
            .expect("added");
        let object = part.finish().expect("packed");
        let is = |name: &'static str| move |line: &Archived| line.event_id.as_str() == name;
        assert!(without(&object, is("none")).expect("readable").is_none());
        let cut = without(&object, is("an-event")).expect("readable");
        let cut = cut.expect("a line less");
        assert_eq!(cut.removed, ["an-event".parse().expect("an id")]);
        let kept = cut.kept.expect("a line");
        let mut unpacked = Vec::new();
        let mut decoder = MultiGzDecoder::new(kept.as_slice());
        decoder.read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(unpacked, lines);
        let all = without(&object, |_| true).expect("readable");
        let all = all.expect("two lines less");
        assert!(all.kept.is_none() && all.removed.len() == 2);
        assert!(without(b"no gzip", |_| true).is_err());
    }

    #[test]
    fn malformed_archive_is_refused_with_its_line() {
        let mut part = ArchivePart::default();
        part.add(&archived("{}".to_owned(), &BTreeMap::new()))
            .expect("added");
        part.encoder
            .write_all(b"{\"eventId\":7}\n")
            .expect("written");
        let error = read(&part.finish().expect("packed")).expect_err("refused");
        assert!(
            matches!(error, ArchiveError::Unreadable { line: 2, .. }),
            "{error}"
        );
        assert!(read(b"no gzip").is_err());
    }

    #[test]
    fn oversized_archive_is_refused_before_it_fills_the_memory() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for _ in 0..=MAX_UNPACKED_BYTES / 1024 {
            encoder.write_all(&[b' '; 1024]).expect("written");
        }
        let bomb = encoder.finish().expect("packed");
        assert!(bomb.len() < 1024 * 1024, "{}", bomb.len());
        let error = read(&bomb).expect_err("refused");
        let ArchiveError::Unreadable { line: 1, error } = &error else {
            panic!("{error}")
        };
        assert!(error.to_string().contains("unpacks to more"), "{error}");
    }

    #[test]
    fn the_largest_part_can_be_read() {
        let largest = archived("\n".repeat(1024 * 1024), &BTreeMap::new());
        let mut part = ArchivePart::default();
        while !part.is_full() {
            part.add(&largest).expect("added");
        }
        assert!(part.bytes as u64 > PART_BYTES as u64 && part.bytes as u64 <= MAX_UNPACKED_BYTES);
        assert_eq!(
            read(&part.finish().expect("packed"))
                .expect("readable")
                .len(),
            8
        );
    }

    proptest! {
        #[test]
        fn a_message_comes_out_as_it_went_in(bodies in prop::collection::vec(".*", 1..4), bytes: Vec<u8>, text in ".*") {
            let attributes: BTreeMap<_, _> = [
                ("text", Attribute { data_type: "String".to_owned(), value: AttributeValue::Text(text) }),
                ("bytes", Attribute { data_type: "Binary.own".to_owned(), value: AttributeValue::Binary(bytes) }),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
            let mut part = ArchivePart::default();
            for body in &bodies {
                part.add(&archived(body.clone(), &attributes)).expect("added");
            }
            let read = read(&part.finish().expect("packed")).expect("readable");
            prop_assert_eq!(read.len(), bodies.len());
            for (archived, body) in read.into_iter().zip(bodies) {
                let message = archived.into_message().expect("readable");
                let group = Some("a-webhook".to_owned());
                prop_assert_eq!(message, Message { body, attributes: attributes.clone(), group, trace: None });
            }
        }
    }
}
