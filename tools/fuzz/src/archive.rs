//! Reading of archive objects.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use genesys_relay::ports::archive::{ArchivePart, Archived, ArchivedAttribute, read};

/// An object is read whole or not at all, and what was read can be written and read again.
///
/// The input is taken once as an object and once as its lines.
pub(crate) fn archive(input: &[u8]) {
    check(input);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(input).expect("written");
    check(&encoder.finish().expect("packed"));
}

fn check(object: &[u8]) {
    let Ok(archived) = read(object) else { return };
    let mut part = ArchivePart::default();
    for message in &archived {
        let restored = message
            .clone()
            .into_message()
            .expect("what was read is a message");
        let attributes = restored
            .attributes
            .iter()
            .map(|(name, value)| (name.clone(), ArchivedAttribute::of(value)));
        assert_eq!(
            attributes.collect::<BTreeMap<_, _>>(),
            message.attributes,
            "archived again, it is another message"
        );
        part.add(message).expect("added");
    }
    let again: Vec<Archived> = read(&part.finish().expect("packed")).expect("readable");
    assert_eq!(again, archived);
}
