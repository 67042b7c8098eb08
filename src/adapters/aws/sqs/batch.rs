//! Batch calls: as few as the items fit into, with a result for each item.

use aws_sdk_sqs::types::BatchResultErrorEntry;

use super::super::errors::is_transient_code;
use crate::ports::service::{Service, ServiceError};
use crate::runtime::metrics;

/// `SendMessageBatch`: up to 10 entries, 1 MiB in all; the other batch calls take 10 as well.
const BATCH_ENTRIES: usize = 10;
pub(super) const BATCH_BYTES: usize = 1024 * 1024;

/// Answer of a batch call about its entries.
pub(super) struct Confirmed {
    /// Entries that are done.
    ids: Vec<String>,
    /// Entries that failed.
    failed: Vec<BatchResultErrorEntry>,
}

impl Confirmed {
    pub(super) fn new(
        ids: impl Iterator<Item = String>,
        failed: Vec<BatchResultErrorEntry>,
    ) -> Self {
        let ids = ids.collect();
        Self { ids, failed }
    }
}

/// Makes as few batch calls as the items fit into, and gives one result per item, in order.
pub(super) async fn in_batches<T, E, F>(
    items: &[T],
    size: impl Fn(&T) -> usize,
    entry: impl Fn(String, &T) -> Result<E, ServiceError>,
    call: impl Fn(Vec<E>) -> F,
) -> Vec<Result<(), ServiceError>>
where
    F: Future<Output = Result<Confirmed, ServiceError>>,
{
    let mut results = Vec::with_capacity(items.len());
    for items in batches_of(items, size) {
        results.extend(batch(items, &entry, &call).await);
    }
    results
}

/// Makes one batch call. Entries are named by their position, so that each result finds its item.
///
/// An item is done only when the answer says so: a message that was not confirmed must not be
/// deleted elsewhere.
async fn batch<T, E, F>(
    items: &[T],
    entry: impl Fn(String, &T) -> Result<E, ServiceError>,
    call: impl Fn(Vec<E>) -> F,
) -> Vec<Result<(), ServiceError>>
where
    F: Future<Output = Result<Confirmed, ServiceError>>,
{
    let mut entries = Vec::new();
    let mut results = Vec::with_capacity(items.len());
    for (position, item) in items.iter().enumerate() {
        results.push(entry(position.to_string(), item).and_then(|entry| {
            entries.push(entry);
            Err(Service::Sqs.unavailable("SQS did not confirm the entry"))
        }));
    }
    if entries.is_empty() {
        return results;
    }
    let Confirmed { ids, failed } = match call(entries).await {
        Ok(confirmed) => confirmed,
        Err(error) => return items.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut note = |id: &str, result| {
        if let Some(noted) = id
            .parse::<usize>()
            .ok()
            .and_then(|position| results.get_mut(position))
        {
            *noted = result;
        }
    };
    for id in ids {
        note(&id, Ok(()));
    }
    if !failed.is_empty() {
        metrics::QUEUE_ERRORS.add(1);
    }
    for failure in failed {
        let text = format!(
            "{}: {}",
            failure.code(),
            failure.message().unwrap_or_default()
        );
        // SQS calls it the sender's fault, too, that the sender's key is throttled.
        let is_final = failure.sender_fault() && !is_transient_code(failure.code());
        let error = if is_final {
            Service::Sqs.refused(text)
        } else {
            Service::Sqs.unavailable(text)
        };
        note(failure.id(), Err(error));
    }
    results
}

/// Cuts `items` into runs that each fit into one batch call.
pub(super) fn batches_of<T>(items: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (position, item) in items.iter().enumerate() {
        let more = size(item);
        if position > start && (position - start == BATCH_ENTRIES || bytes + more > BATCH_BYTES) {
            batches.push(&items[start..position]);
            (start, bytes) = (position, 0);
        }
        bytes += more;
    }
    if start < items.len() {
        batches.push(&items[start..]);
    }
    batches
}
