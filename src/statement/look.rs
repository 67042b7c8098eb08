//! The statements as an operator reads them: along the chain from the newest, or those of a day.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{PREFIX, Previous, sha256_of};
use super::state::Saved;
use crate::ports::archive::{Archive, ArchiveError};
use crate::ports::events_table::EventsTable;
use crate::ports::service::Service;

/// Statements, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    pub statements: Vec<Shown>,
    /// The statement in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Underway>,
    /// The reason for which the chain could not be followed further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A statement, and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    pub key: String,
    /// SHA-256 of the object.
    pub sha256: String,
    /// The object. In a list along the chain, without the names of messages, the hours and the counts
    /// of AWS.
    pub statement: Value,
}

/// A statement in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underway {
    pub day: Date,
    /// Messages that were counted so far.
    pub sent: u64,
    /// Calls to Genesys Cloud so far.
    pub calls: u64,
}

/// Reads the newest statements, each of which names the hash of the one before; or all of one day.
pub(crate) async fn read(
    table: &impl EventsTable,
    archive: &impl Archive,
    day: Option<Date>,
    limit: usize,
) -> Result<Listing, ArchiveError> {
    let saved: Saved<Value> = match table.statement().await? {
        Some(found) => serde_json::from_str(&found.state)
            .map_err(|error| Service::DynamoDb.unreadable(error))?,
        None => Saved::default(),
    };
    let mut listing = Listing {
        progress: saved.progress.map(|progress| Underway {
            day: progress.day,
            sent: progress.tally.sent,
            calls: progress.tally.calls,
        }),
        ..Listing::default()
    };
    if let Some(day) = day {
        let page = archive.list_keys(&format!("{PREFIX}{day}."), None).await?;
        for key in page.keys.into_iter().take(limit) {
            let object = archive.get(&key).await?;
            let sha256 = sha256_of(&object);
            let statement = parse(&object)?;
            listing.statements.push(Shown {
                key,
                sha256,
                statement,
            });
        }
        let sequence = |shown: &Shown| shown.statement["sequence"].as_u64();
        listing
            .statements
            .sort_by_key(|shown| std::cmp::Reverse(sequence(shown)));
        return Ok(listing);
    }
    let mut next = saved.head.as_ref().map(Previous::from);
    while let Some(Previous {
        key,
        sha256: expected,
    }) = next.take()
    {
        if listing.statements.len() >= limit {
            break;
        }
        let object = match archive.get(&key).await {
            Ok(object) => object,
            Err(ArchiveError::NotFound(key)) => {
                listing.problem = Some(format!("the object {key} of the chain is missing"));
                break;
            }
            Err(error) => return Err(error),
        };
        let sha256 = sha256_of(&object);
        if sha256 != expected {
            listing.problem = Some(format!(
                "the object {key} has the hash {sha256}, and the chain names {expected}: it was changed"
            ));
            break;
        }
        let mut statement = parse(&object)?;
        next = serde_json::from_value(statement["previous"].clone()).ok();
        for (book, long) in [("genesys", "unaccounted"), ("relay", "hours")] {
            if let Some(book) = statement[book].as_object_mut() {
                book.remove(long);
            }
        }
        if let Some(statement) = statement.as_object_mut() {
            statement.remove("aws");
        }
        listing.statements.push(Shown {
            key,
            sha256,
            statement,
        });
    }
    Ok(listing)
}

fn parse(object: &[u8]) -> Result<Value, ArchiveError> {
    Ok(serde_json::from_slice(object).map_err(|error| Service::S3.unreadable(error))?)
}
