//! The quotas of AWS and the parameters of the template that a load can run into, each with the
//! document it stands in.

use super::model::{Load, Settings};
use crate::cost::{self, TableUse};

/// Messages in flight of a standard queue: received and not deleted, those that wait for their
/// retry included ("Amazon SQS standard queue quotas": approximately).
pub(crate) const IN_FLIGHT: f64 = 120_000.0;

/// Requests a second to all HTTP APIs of an account and region ("Quotas for configuring and running
/// HTTP APIs"). In some regions a quarter of this, by default.
const API_ACCOUNT_RATE: f64 = 10_000.0;

/// Concurrent executions of all functions of an account and region ("Lambda quotas"). New accounts
/// may have less.
const ACCOUNT_CONCURRENCY: f64 = 1000.0;

/// Invocations a second for each unit of concurrency ("Understanding Lambda function scaling").
const REQUESTS_PER_CONCURRENCY: f64 = 10.0;

/// Write units a second that a new table on demand takes at once ("DynamoDB on-demand capacity
/// mode"). It follows a load that grows to twice its earlier peak within 30 minutes.
const NEW_TABLE_WRITES: f64 = 4000.0;

/// Write units a second of one table ("Service, account, and table quotas in Amazon DynamoDB").
const TABLE_WRITES: f64 = 40_000.0;

/// Write units a second of one partition, which is what one key of an index has ("Best practices
/// for designing and using partition keys effectively"), times the eight keys of the dead-letter
/// index (`src/adapters/aws/dynamodb/mod.rs`).
const INDEX_WRITES: f64 = 8.0 * 1000.0;

/// Messages a second of a move task (SQS API Reference, `StartMessageMoveTask`).
pub(crate) const MOVED_PER_SECOND: f64 = 500.0;

/// A quota, and what a load needs of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quota {
    /// Name in the tables.
    pub(crate) name: &'static str,
    /// Need of the load.
    pub(crate) need: f64,
    /// Limit.
    pub(crate) limit: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// Symptom when it is exceeded.
    pub(crate) symptom: &'static str,
    /// Remedy.
    pub(crate) remedy: &'static str,
    /// The AWS document, or the parameter.
    pub(crate) document: &'static str,
    /// True where excess requests are rejected before they become events.
    pub(crate) turns_away: bool,
}

impl Quota {
    /// Share of the quota that is used; more than 1 is more than there is.
    pub(crate) fn utilisation(&self) -> f64 {
        self.need / self.limit
    }
}

/// Everything that `load` can run into, in the order in which an event meets it.
pub(crate) fn quotas(load: &Load, settings: &Settings) -> Vec<Quota> {
    let rate = load.events_per_second;
    let workload = load.workload(settings.batch_size);
    let (ack_ms, _) = cost::billed_ms(&workload, &cost::AS_SHIPPED);
    let acks = rate * ack_ms / 1000.0;
    let batches = rate * load.attempts(settings.max_receives) / settings.batch_size
        * settings.batch_seconds(load);
    let table = TableUse::of(
        &workload,
        &cost::Setup {
            max_receives: settings.max_receives,
            ..cost::AS_SHIPPED
        },
    );
    vec![
        Quota {
            name: "throttle of the stage",
            need: rate,
            limit: settings.throttling_rate,
            unit: "requests/s",
            symptom: "429; Genesys tries five more times within 25 s, then gives up: only the recovery can fetch the event",
            remedy: "`ThrottlingRateLimit`, `ThrottlingBurstLimit`",
            document: "the template's parameter",
            turns_away: true,
        },
        Quota {
            name: "throttle of the account",
            need: rate,
            limit: API_ACCOUNT_RATE,
            unit: "requests/s",
            symptom: "the same, for all APIs of the account and region; 2,500 by default in some regions, see below",
            remedy: "the quota \"Throttle rate\" of API Gateway, or another account or region",
            document: "Quotas for configuring and running HTTP APIs",
            turns_away: true,
        },
        Quota {
            name: "invocations of ingest",
            need: rate,
            limit: ACCOUNT_CONCURRENCY * REQUESTS_PER_CONCURRENCY,
            unit: "acks/s",
            symptom: "5xx from the API (unverified which); Genesys tries again, as with 429",
            remedy: "the quota \"Concurrent executions\" of Lambda: it is a tenth of this",
            document: "Understanding Lambda function scaling",
            turns_away: true,
        },
        Quota {
            name: "concurrency of the account",
            need: acks + batches,
            limit: ACCOUNT_CONCURRENCY,
            unit: "executions",
            symptom: "5xx from the API; the processor is throttled, which costs events a receive each",
            remedy: "the quota \"Concurrent executions\"; `IngestReservedConcurrency`, so that acks come first",
            document: "Lambda quotas",
            turns_away: false,
        },
        Quota {
            name: "`MaximumConcurrency`",
            need: batches,
            limit: settings.maximum_concurrency,
            unit: "batches",
            symptom: "acks as before; the queue and the age of its oldest message grow",
            remedy: "`MaximumConcurrency`, as far as the target bears it; beyond 1,000 the provisioned mode",
            document: "Configuring scaling behavior for SQS event source mappings",
            turns_away: false,
        },
        Quota {
            name: "messages in flight",
            need: rate * settings.seconds_in_flight(load),
            limit: IN_FLIGHT,
            unit: "messages",
            symptom: "acks as before; SQS hands out nothing until a message returns or is deleted, healthy ones included",
            remedy: "`MaxReceiveCount` or `BackoffBaseSeconds` down, more stacks, or a request to AWS",
            document: "Amazon SQS standard queue quotas",
            turns_away: false,
        },
        Quota {
            name: "writes of a new table",
            need: rate * table.writes,
            limit: NEW_TABLE_WRITES,
            unit: "write units/s",
            symptom: "claims are throttled and cost a receive each; a delivery is recorded later, or made again",
            remedy: "the table's warm throughput before the load comes, or a load that grows slowly",
            document: "DynamoDB on-demand capacity mode",
            turns_away: false,
        },
        Quota {
            name: "writes of any table",
            need: rate * table.writes,
            limit: TABLE_WRITES,
            unit: "write units/s",
            symptom: "the same",
            remedy: "the quota of write units of a table",
            document: "Service, account, and table quotas in Amazon DynamoDB",
            turns_away: false,
        },
        Quota {
            name: "writes of the dead-letter index",
            need: rate * table.index_writes,
            limit: INDEX_WRITES,
            unit: "write units/s",
            symptom: "the same, for events on their last receive",
            remedy: "nothing: more shards are a change of the code",
            document: "Best practices for designing and using partition keys effectively",
            turns_away: false,
        },
    ]
}
