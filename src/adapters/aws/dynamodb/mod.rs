//! The events table in Amazon DynamoDB.

mod conversations;
mod index;
mod packed;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as StdError;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, ReturnValuesOnConditionCheckFailure,
};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_dynamo::{from_item, to_item};
use uuid::Uuid;

use self::index::{
    INDEX, INDEX_ORDER, INDEX_SHARD, SHARDS, Shard, WAITING_SHARDS, merge, range, shard_of,
    waiting_shard_of,
};
use self::packed::{pack, unpack};
use super::failed;
use crate::domain::attempts::Attempts;
use crate::domain::canary::CanaryRuns;
use crate::domain::circuit::Circuit;
use crate::domain::erasure::Erasures;
use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord, Forgetting, Guard, LIFE, Transition};
use crate::ports::events_table::{
    BackgroundRun, Checkpoint, ConversationPage, EventsTable, LeaseName, Page, Position, RunLease,
    ScannedPage, StatementState, Window, Written,
};
use crate::ports::service::{Service, ServiceError};
use crate::runtime::logging::display_chain;

/// The table's key.
const KEY: &str = "event_id";

/// `BatchGetItem`: at most 100 keys.
const BATCH_KEYS: usize = 100;

/// Number of further requests for the keys of a batch that DynamoDB did not process.
const BATCH_ROUNDS: u32 = 5;

/// An item has at most 400 KB ("Quotas in Amazon DynamoDB"); with base64 in transit, this much is
/// kept of a body.
const MAX_BODY_BYTES: usize = 256 * 1024;

type Item = HashMap<String, AttributeValue>;

/// The events table, by its name.
#[derive(Debug, Clone)]
pub struct DynamoDb {
    client: Client,
    table: String,
}

impl DynamoDb {
    /// The table of this name.
    pub fn new(config: &SdkConfig, table: String) -> Self {
        Self {
            client: Client::new(config),
            table,
        }
    }

    /// Opens the connection that the first claim will use, by reading a record that does not exist.
    pub async fn warm_up(&self) -> Result<(), ServiceError> {
        self.read("warm-up".to_owned()).await.map(drop)
    }

    /// Begins to write a value under a key.
    fn put(
        &self,
        key: String,
        value: &impl Serialize,
    ) -> Result<PutItemFluentBuilder, ServiceError> {
        let item: Item = to_item(value).map_err(unreadable)?;
        let request = self.client.put_item().table_name(&self.table);
        Ok(request
            .set_item(Some(item))
            .item(KEY, AttributeValue::S(key)))
    }

    /// Writes an item with a revision on a condition, and returns whether that held.
    async fn put_revised(
        &self,
        request: PutItemFluentBuilder,
        revision: Uuid,
    ) -> Result<bool, ServiceError> {
        #[derive(Deserialize)]
        struct Revised {
            revision: Uuid,
        }
        let request = request
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(context))
                if context.err().is_conditional_check_failed_exception() =>
            {
                let found: Option<Revised> =
                    refused_by(context.into_err()).map(parse).transpose()?;
                // An earlier try of this very call was carried out, and its answer was lost.
                Ok(found.is_some_and(|found| found.revision == revision))
            }
            Err(error) => Err(failed(Service::DynamoDb)(error)),
        }
    }

    async fn read(&self, key: String) -> Result<Option<Item>, ServiceError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(key));
        Ok(request
            .consistent_read(true)
            .send()
            .await
            .map_err(failed(Service::DynamoDb))?
            .item)
    }

    /// Reads up to a hundred items. Requests the keys that DynamoDB did not process again.
    async fn read_batch(
        &self,
        keys: impl Iterator<Item = String>,
    ) -> Result<Vec<Item>, ServiceError> {
        let keys = keys
            .map(|key| HashMap::from([(KEY.to_owned(), AttributeValue::S(key))]))
            .collect();
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(keys))
            .consistent_read(true);
        let mut open = Some(HashMap::from([(
            self.table.clone(),
            keys.build().map_err(cannot_build)?,
        )]));
        let mut items = Vec::new();
        for round in 0..BATCH_ROUNDS {
            tokio::time::sleep(Duration::from_millis(50) * round).await;
            let output = self
                .client
                .batch_get_item()
                .set_request_items(open)
                .send()
                .await
                .map_err(failed(Service::DynamoDb))?;
            items.extend(
                output
                    .responses
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, items)| items),
            );
            open = output.unprocessed_keys.filter(|keys| !keys.is_empty());
            if open.is_none() {
                return Ok(items);
            }
        }
        Err(Service::DynamoDb.unavailable("DynamoDB did not process all keys of a batch"))
    }

    /// Reads a part of one shard of the index, in order, and returns whether more follows.
    async fn query_shard(
        &self,
        shard: u8,
        (from, to): (&str, &str),
        limit: usize,
    ) -> Result<(Vec<(Position, Item)>, bool), ServiceError> {
        let request = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(INDEX)
            .key_condition_expression("dead_shard = :shard AND dead_order BETWEEN :from AND :to")
            .expression_attribute_values(":shard", AttributeValue::S(shard.to_string()))
            .expression_attribute_values(":from", AttributeValue::S(from.to_owned()))
            .expression_attribute_values(":to", AttributeValue::S(to.to_owned()))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let output = request.send().await.map_err(failed(Service::DynamoDb))?;
        let more = output.last_evaluated_key.is_some();
        let mut items = Vec::new();
        for item in output.items.unwrap_or_default() {
            let order = item
                .get(INDEX_ORDER)
                .and_then(|order| order.as_s().ok())
                .cloned();
            let order = order.ok_or_else(|| {
                Service::DynamoDb.unreadable("an item of the index has no place in it")
            })?;
            items.push((Position(order), item));
        }
        if more && items.is_empty() {
            return Err(
                Service::DynamoDb.unavailable("a page of the index is empty and not the last")
            );
        }
        Ok((items, more))
    }

    async fn read_shard(
        &self,
        shard: u8,
        range: (&str, &str),
        limit: usize,
    ) -> Result<Shard, ServiceError> {
        let (items, more) = self.query_shard(shard, range, limit).await?;
        let items = items
            .into_iter()
            .map(|(position, item)| (position, readable(item)))
            .collect();
        Ok(Shard { items, more })
    }
}

impl EventsTable for DynamoDb {
    async fn get(&self, id: &EventId) -> Result<Option<EventRecord>, ServiceError> {
        self.read(id.to_string()).await?.map(parse).transpose()
    }

    async fn get_many(
        &self,
        ids: &[EventId],
    ) -> Result<BTreeMap<EventId, EventRecord>, ServiceError> {
        // A batch that names a key twice is refused.
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut records = BTreeMap::new();
        for ids in ids.chunks(BATCH_KEYS) {
            let batch = self.read_batch(ids.iter().map(ToString::to_string)).await?;
            // One that cannot be read must not hold up the others. A write to it fails.
            let batch = batch.into_iter().filter_map(readable::<EventRecord>);
            records.extend(batch.map(|record| (record.event_id.clone(), record)));
        }
        Ok(records)
    }

    async fn write(
        &self,
        Transition { next, guard }: &Transition,
    ) -> Result<Written, ServiceError> {
        let mut item: Item = to_item(next).map_err(unreadable)?;
        if next.state.is_indexed() {
            let order = Position::of(next.received_at, &next.event_id).0;
            item.insert(
                INDEX_SHARD.to_owned(),
                AttributeValue::S(shard_of(&next.event_id).to_string()),
            );
            item.insert(INDEX_ORDER.to_owned(), AttributeValue::S(order));
        } else if let Some(waiting) = &next.waiting {
            let order = Position::of(waiting.since, &next.event_id).0;
            item.insert(
                INDEX_SHARD.to_owned(),
                AttributeValue::S(waiting_shard_of(&next.event_id).to_string()),
            );
            item.insert(INDEX_ORDER.to_owned(), AttributeValue::S(order));
        }
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item));
        let request = match guard {
            Guard::Absent => request.condition_expression("attribute_not_exists(event_id)"),
            Guard::Unchanged(revision) => request
                .condition_expression("revision = :revision")
                .expression_attribute_values(":revision", AttributeValue::S(revision.to_string())),
        };
        let request = request
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Written::Done),
            Err(SdkError::ServiceError(context))
                if context.err().is_conditional_check_failed_exception() =>
            {
                let found: Option<EventRecord> =
                    refused_by(context.into_err()).map(parse).transpose()?;
                // An earlier try of this very call was carried out, and its answer was lost.
                let ours = found
                    .as_ref()
                    .is_some_and(|found| found.revision == next.revision);
                Ok(if ours {
                    Written::Done
                } else {
                    Written::Lost(found.map(Box::new))
                })
            }
            Err(error) => Err(failed(Service::DynamoDb)(error)),
        }
    }

    async fn forget(
        &self,
        Forgetting { event_id, revision }: Forgetting<'_>,
    ) -> Result<Written, ServiceError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(event_id.to_string()))
            .condition_expression("attribute_not_exists(event_id) OR revision = :revision")
            .expression_attribute_values(":revision", AttributeValue::S(revision.to_string()));
        match request.send().await {
            Ok(_) => Ok(Written::Done),
            Err(SdkError::ServiceError(context))
                if context.err().is_conditional_check_failed_exception() =>
            {
                let found = self.get(event_id).await?;
                Ok(found.map_or(Written::Done, |found| Written::Lost(Some(Box::new(found)))))
            }
            Err(error) => Err(failed(Service::DynamoDb)(error)),
        }
    }

    async fn keep_body(
        &self,
        id: &EventId,
        body: &[u8],
        now: Timestamp,
    ) -> Result<bool, ServiceError> {
        let packed = pack(body).map_err(unreadable)?;
        if packed.len() > MAX_BODY_BYTES {
            return Ok(false);
        }
        let expires_at = (now + LIFE).as_second();
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .item(KEY, AttributeValue::S(body_key(id)))
            .item("body", AttributeValue::B(Blob::new(packed)))
            .item("expires_at", AttributeValue::N(expires_at.to_string()));
        request
            .send()
            .await
            .map(|_| true)
            .map_err(failed(Service::DynamoDb))
    }

    async fn body(&self, id: &EventId, now: Timestamp) -> Result<Option<Vec<u8>>, ServiceError> {
        let Some(mut item) = self.read(body_key(id)).await? else {
            return Ok(None);
        };
        let expires_at = item
            .get("expires_at")
            .and_then(|at| at.as_n().ok()?.parse::<i64>().ok());
        let (Some(AttributeValue::B(packed)), Some(expires_at)) = (item.remove("body"), expires_at)
        else {
            return Err(Service::DynamoDb.unreadable("a kept body has no bytes, or no expiry"));
        };
        if expires_at <= now.as_second() {
            return Ok(None);
        }
        unpack(packed.as_ref()).map(Some).map_err(unreadable)
    }

    async fn delete_body(&self, id: &EventId) -> Result<(), ServiceError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(body_key(id)));
        request
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }

    async fn take_back_body(&self, id: &EventId, kept_at: Timestamp) -> Result<(), ServiceError> {
        let expires_at = (kept_at + LIFE).as_second();
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(body_key(id)))
            .condition_expression("expires_at <= :kept")
            .expression_attribute_values(":kept", AttributeValue::N(expires_at.to_string()));
        match request.send().await {
            // Or another was kept since, or none is there.
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(context))
                if matches!(
                    context.err(),
                    DeleteItemError::ConditionalCheckFailedException(_)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(Service::DynamoDb)(error)),
        }
    }

    async fn dead_letters(
        &self,
        window: Window,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Page, ServiceError> {
        let (from, to) = range(window, after);
        if from > to {
            return Ok(Page::default());
        }
        let of_each = limit.div_ceil(usize::from(SHARDS) / 2).max(1);
        let shards = (0..SHARDS).map(|shard| self.read_shard(shard, (&from, &to), of_each));
        Ok(merge(try_join_all(shards).await?, limit))
    }

    async fn waiting(
        &self,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Vec<EventRecord>, bool), ServiceError> {
        let (from, to) = range(Window::default(), None);
        let shards =
            WAITING_SHARDS.map(|shard| self.query_shard(shard, (&from, &to), limit.max(1)));
        let shards = try_join_all(shards).await?;
        let mut are_more = shards.iter().any(|(_, more)| *more);
        let items = shards.into_iter().flat_map(|(items, _)| items);
        let mut positions: Vec<_> = items.map(|(position, _)| position).collect();
        positions.sort_unstable();
        are_more |= positions.len() > limit;
        positions.truncate(limit);
        let ids: Vec<EventId> = positions.iter().filter_map(Position::event_id).collect();
        // The index holds too little of a record, and lags behind it.
        let mut records = self.get_many(&ids).await?;
        let records = ids.into_iter().filter_map(|id| records.remove(&id));
        let waiting = records.filter(|record| record.waiting.is_some() && !record.is_expired(now));
        Ok((waiting.collect(), are_more))
    }

    async fn conversation(
        &self,
        conversation_id: &str,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<ConversationPage, ServiceError> {
        self.query_conversation(conversation_id, after, limit).await
    }

    async fn scan(&self, after: Option<&str>, limit: usize) -> Result<ScannedPage, ServiceError> {
        self.scan_page(after, limit).await
    }

    async fn erasures(&self) -> Result<Erasures, ServiceError> {
        let found = self.read(ERASURES_KEY.to_owned()).await?;
        found.map_or_else(|| Ok(Erasures::default()), parse)
    }

    async fn save_erasures(&self, erasures: &Erasures) -> Result<(), ServiceError> {
        let mut request = self.put(ERASURES_KEY.to_owned(), erasures)?;
        if let Some(newest_at) = erasures.newest_at() {
            request = request.item("expires_at", seconds(newest_at + LIFE));
        }
        request
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }

    async fn acquire(
        &self,
        what: LeaseName,
        lease: &RunLease,
        now: Timestamp,
    ) -> Result<Option<RunLease>, ServiceError> {
        let request = self
            .put(lease_key(what), lease)?
            .condition_expression(
                "attribute_not_exists(event_id) OR #owner = :owner OR #until <= :now",
            )
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":owner", AttributeValue::S(lease.owner.to_string()))
            .expression_attribute_values(
                ":now",
                AttributeValue::N(now.as_millisecond().to_string()),
            )
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(None),
            Err(SdkError::ServiceError(context))
                if context.err().is_conditional_check_failed_exception() =>
            {
                let held = refused_by(context.into_err());
                held.ok_or_else(|| {
                    Service::DynamoDb.unavailable("DynamoDB refused the lease and named no holder")
                })
                .and_then(parse)
                .map(Some)
            }
            Err(error) => Err(failed(Service::DynamoDb)(error)),
        }
    }

    async fn release(&self, what: LeaseName, owner: Uuid) -> Result<(), ServiceError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(lease_key(what)))
            .condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", AttributeValue::S(owner.to_string()));
        match request.send().await {
            Ok(_) => Ok(()),
            // It has expired, and another run holds it.
            Err(SdkError::ServiceError(context))
                if matches!(
                    context.err(),
                    DeleteItemError::ConditionalCheckFailedException(_)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(Service::DynamoDb)(error)),
        }
    }

    async fn lease(
        &self,
        what: LeaseName,
        now: Timestamp,
    ) -> Result<Option<RunLease>, ServiceError> {
        let lease = self
            .read(lease_key(what))
            .await?
            .map(parse::<RunLease>)
            .transpose()?;
        Ok(lease.filter(|lease| lease.until > now))
    }

    async fn bulk_replay(&self) -> Result<Option<BulkReplay>, ServiceError> {
        self.read(BULK_REPLAY_KEY.to_owned())
            .await?
            .map(parse)
            .transpose()
    }

    async fn save_bulk_replay(&self, replay: &BulkReplay) -> Result<(), ServiceError> {
        // By then every dead letter that it could stand for has expired.
        let expires_at = (replay.act.at + LIFE).as_second().to_string();
        self.put(BULK_REPLAY_KEY.to_owned(), replay)?
            .item("expires_at", AttributeValue::N(expires_at))
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }

    async fn background_run(
        &self,
        run_id: &str,
        now: Timestamp,
    ) -> Result<Option<BackgroundRun>, ServiceError> {
        let Some(item) = self.read(run_key(run_id)).await? else {
            return Ok(None);
        };
        let expires_at = item
            .get("expires_at")
            .and_then(|at| at.as_n().ok()?.parse::<i64>().ok());
        if expires_at.is_some_and(|at| at <= now.as_second()) {
            return Ok(None);
        }
        parse(item).map(Some)
    }

    async fn save_background_run(
        &self,
        run: &BackgroundRun,
        from: Option<Uuid>,
        now: Timestamp,
    ) -> Result<bool, ServiceError> {
        let request = self
            .put(run_key(&run.run_id), run)?
            .item("expires_at", seconds(now + LIFE));
        let request = match from {
            None => request
                .condition_expression("attribute_not_exists(event_id) OR expires_at <= :now")
                .expression_attribute_values(":now", seconds(now)),
            Some(revision) => request
                .condition_expression("revision = :revision")
                .expression_attribute_values(":revision", AttributeValue::S(revision.to_string())),
        };
        self.put_revised(request, run.revision).await
    }

    async fn checkpoint(&self, source: &str) -> Result<Option<Checkpoint>, ServiceError> {
        self.read(checkpoint_key(source))
            .await?
            .map(parse)
            .transpose()
    }

    async fn save_checkpoint(
        &self,
        source: &str,
        checkpoint: &Checkpoint,
    ) -> Result<(), ServiceError> {
        let request = self.put(checkpoint_key(source), checkpoint)?;
        request
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }

    async fn statement(&self) -> Result<Option<StatementState>, ServiceError> {
        let found = self.read(STATEMENT_KEY.to_owned()).await?;
        found.map(parse).transpose()
    }

    async fn save_statement(
        &self,
        state: &StatementState,
        from: Option<Uuid>,
    ) -> Result<bool, ServiceError> {
        let request = self.put(STATEMENT_KEY.to_owned(), state)?;
        let request = match from {
            None => request.condition_expression("attribute_not_exists(event_id)"),
            Some(revision) => request
                .condition_expression("revision = :revision")
                .expression_attribute_values(":revision", AttributeValue::S(revision.to_string())),
        };
        self.put_revised(request, state.revision).await
    }

    async fn count_attempts(
        &self,
        minute: Timestamp,
        attempts: &Attempts,
    ) -> Result<(), ServiceError> {
        let expires_at = minute.as_second() + ATTEMPTS_KEPT_SECONDS;
        let number = |number: &dyn std::fmt::Display| AttributeValue::N(number.to_string());
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(attempts_key(minute)))
            .expression_attribute_values(":delivered", number(&attempts.delivered))
            .expression_attribute_values(":failed", number(&attempts.failed))
            .expression_attribute_values(
                ":credentials_failed",
                number(&attempts.credentials_failed),
            )
            .expression_attribute_values(":first_delivered", number(&attempts.first_delivered))
            .expression_attribute_values(":first_failed", number(&attempts.first_failed))
            .expression_attribute_values(":expires_at", number(&expires_at));
        let add = "SET expires_at = :expires_at ADD delivered :delivered, failed :failed, \
                   credentials_failed :credentials_failed, first_delivered :first_delivered, first_failed :first_failed";
        // DynamoDB takes no empty set.
        let request = if attempts.failing.is_empty() {
            request.update_expression(add)
        } else {
            let failing = attempts.failing.iter().cloned().collect();
            request
                .update_expression(format!("{add}, failing :failing"))
                .expression_attribute_values(":failing", AttributeValue::Ss(failing))
        };
        request
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }

    async fn attempts(&self, minutes: &[Timestamp]) -> Result<Vec<Attempts>, ServiceError> {
        let mut found = BTreeMap::new();
        for keys in minutes.chunks(BATCH_KEYS) {
            for item in self
                .read_batch(keys.iter().copied().map(attempts_key))
                .await?
            {
                let counted: CountedAttempts = parse(item)?;
                found.insert(counted.event_id.clone(), counted);
            }
        }
        let of = |minute: &Timestamp| {
            found
                .remove(&attempts_key(*minute))
                .map(Attempts::from)
                .unwrap_or_default()
        };
        Ok(minutes.iter().map(of).collect())
    }

    async fn circuit(&self) -> Result<Option<Circuit>, ServiceError> {
        self.read(CIRCUIT_KEY.to_owned())
            .await?
            .map(parse)
            .transpose()
    }

    async fn save_circuit(&self, circuit: &Circuit) -> Result<(), ServiceError> {
        let request = self.put(CIRCUIT_KEY.to_owned(), circuit)?;
        request
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }

    async fn canary_runs(&self) -> Result<CanaryRuns, ServiceError> {
        let found = self.read(CANARY_KEY.to_owned()).await?;
        found.map_or_else(|| Ok(CanaryRuns::default()), parse)
    }

    async fn save_canary_runs(&self, runs: &CanaryRuns) -> Result<(), ServiceError> {
        let request = self.put(CANARY_KEY.to_owned(), runs)?;
        request
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::DynamoDb))
    }
}

/// The attempts of a minute as an item.
#[derive(Deserialize)]
struct CountedAttempts {
    event_id: String,
    delivered: u64,
    failed: u64,
    // Absent from what an earlier version wrote.
    #[serde(default)]
    credentials_failed: u64,
    #[serde(default)]
    first_delivered: u64,
    #[serde(default)]
    first_failed: u64,
    #[serde(default)]
    failing: BTreeSet<String>,
}

impl From<CountedAttempts> for Attempts {
    fn from(counted: CountedAttempts) -> Self {
        let CountedAttempts {
            event_id: _,
            delivered,
            failed,
            credentials_failed,
            first_delivered,
            first_failed,
            failing,
        } = counted;
        Self {
            delivered,
            failed,
            credentials_failed,
            first_delivered,
            first_failed,
            failing,
        }
    }
}

// `#` is in no event id.

/// The newest bulk replay.
const BULK_REPLAY_KEY: &str = "#bulk-replay";

/// The erasures of the last 15 days. One item, which the processor reads.
const ERASURES_KEY: &str = "#erasures";

/// State of the breaker.
const CIRCUIT_KEY: &str = "#breaker";

/// State of the statements.
const STATEMENT_KEY: &str = "#statement";

/// The key of the runs of the canary.
const CANARY_KEY: &str = "#canary";

/// Counts of attempts expire after some hours.
const ATTEMPTS_KEPT_SECONDS: i64 = 6 * 3600;

fn attempts_key(minute: Timestamp) -> String {
    format!("attempts#{minute}")
}

fn lease_key(what: LeaseName) -> String {
    match what {
        LeaseName::DeadLetters => "lease#dead-letters".to_owned(),
        LeaseName::Journal => "lease#journal".to_owned(),
        LeaseName::Recovery => "lease#recovery".to_owned(),
        LeaseName::Breaker => "lease#breaker".to_owned(),
    }
}

/// A time as DynamoDB's time to live wants it.
fn seconds(at: Timestamp) -> AttributeValue {
    AttributeValue::N(at.as_second().to_string())
}

fn run_key(run_id: &str) -> String {
    format!("run#{run_id}")
}

fn checkpoint_key(source: &str) -> String {
    format!("checkpoint#{source}")
}

fn body_key(id: &EventId) -> String {
    format!("body#{id}")
}

fn parse<T: DeserializeOwned>(item: Item) -> Result<T, ServiceError> {
    from_item(item).map_err(unreadable)
}

/// The key of an item.
fn key_of(item: &Item) -> Option<&str> {
    item.get(KEY)?.as_s().ok().map(String::as_str)
}

/// Reads one of many items. One that this program did not write, or that a later version wrote, is
/// logged and skipped.
fn readable<T: DeserializeOwned>(item: Item) -> Option<T> {
    let key = key_of(&item).map(str::to_owned);
    parse(item)
        .inspect_err(|error| {
            tracing::error!(
                event_id = key,
                error = display_chain(error),
                "skipped an unreadable table item"
            );
        })
        .ok()
}

/// The record that the table holds instead.
fn refused_by(error: PutItemError) -> Option<Item> {
    match error {
        PutItemError::ConditionalCheckFailedException(error) => error.item,
        _ => None,
    }
}

fn unreadable(error: impl StdError + Send + Sync + 'static) -> ServiceError {
    Service::DynamoDb.unreadable(error)
}

fn cannot_build(error: BuildError) -> ServiceError {
    Service::DynamoDb.refused(error)
}
