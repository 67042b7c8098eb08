//! List prices: us-east-1, as of 2026-11, without free tiers, discounts and volume steps. Each
//! names the page it stands on.

/// Processors of the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Graviton: what the template deploys by default.
    Arm64,
    /// Intel or AMD.
    X86,
}

impl Architecture {
    /// Dollars for a GB-second ("AWS Lambda Pricing").
    pub(crate) fn dollars_per_gb_second(self) -> f64 {
        match self {
            Self::Arm64 => 0.000_013_333_4,
            Self::X86 => 0.000_016_666_7,
        }
    }
}

/// Date of these prices.
pub(crate) const AS_OF: &str = "2026-11";

/// GB of storage, logs and transfer as AWS counts it, in bytes.
pub(crate) const GB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Dollars per million requests to an HTTP API, each for up to [`HTTP_API_BYTES`] ("Amazon API
/// Gateway Pricing").
pub(crate) const HTTP_API: f64 = 1.00;

/// A request to an HTTP API is counted once for every so many bytes ("Amazon API Gateway Pricing").
pub(crate) const HTTP_API_BYTES: f64 = 512.0 * 1024.0;

/// Dollars per million invocations ("AWS Lambda Pricing"). A mapping's polling is not charged by
/// Lambda, but by SQS.
pub(crate) const INVOCATIONS: f64 = 0.20;

/// Dollars per million requests to a standard queue ("Amazon SQS pricing").
pub(crate) const SQS: f64 = 0.40;

/// Dollars per million messages sent with a group id to a standard queue, on top (fair queues,
/// since July 2025; one source, and not AWS's own list).
pub(crate) const FAIR_QUEUE: f64 = 0.10;

/// A request to SQS is counted once for every so many bytes of payload ("Amazon SQS pricing").
pub(crate) const SQS_BYTES: f64 = 64.0 * 1024.0;

/// Dollars per million write units on demand ("Amazon DynamoDB pricing", on-demand capacity).
pub(crate) const WRITES: f64 = 0.625;

/// A write unit is so many bytes of an item ("DynamoDB read and write operations"). A refused
/// condition costs as much.
pub(crate) const WRITE_BYTES: f64 = 1024.0;

/// Dollars per million read units on demand ("Amazon DynamoDB pricing", on-demand capacity).
pub(crate) const READS: f64 = 0.125;

/// A consistent read of so many bytes is one unit ("DynamoDB read and write operations").
pub(crate) const READ_BYTES: f64 = 4096.0;

/// Dollars for an hour of one write a second that was bought in advance ("Amazon DynamoDB pricing",
/// provisioned capacity).
pub(crate) const PROVISIONED_WRITE_HOUR: f64 = 0.000_65;

/// Dollars for a GB and month in a table ("Amazon DynamoDB pricing").
pub(crate) const TABLE_GB_MONTH: f64 = 0.25;

/// Dollars for a GB and month of point-in-time recovery ("Amazon DynamoDB pricing").
pub(crate) const RECOVERY_GB_MONTH: f64 = 0.20;

/// An item is stored with so many bytes more than it has ("Amazon DynamoDB pricing").
pub(crate) const STORED_OVERHEAD_BYTES: f64 = 100.0;

/// Dollars for a GB of logs taken in ("Amazon CloudWatch Pricing"), of functions and of the access
/// log alike.
pub(crate) const LOGS_GB: f64 = 0.50;

/// Dollars for a GB that leaves for the internet ("Amazon EC2 On-Demand Pricing", data transfer:
/// Lambda's is charged so).
pub(crate) const TRANSFER_GB: f64 = 0.09;

/// Dollars per million calls of Secrets Manager ("AWS Secrets Manager Pricing": $0.05 for 10,000).
pub(crate) const SECRET_READS: f64 = 5.00;

/// Dollars for a secret and month ("AWS Secrets Manager Pricing").
pub(crate) const SECRET_MONTH: f64 = 0.40;

/// Dollars for a metric and month ("Amazon CloudWatch Pricing", custom metrics).
pub(crate) const METRIC_MONTH: f64 = 0.30;

/// Dollars for an alarm and month ("Amazon CloudWatch Pricing", standard resolution).
pub(crate) const ALARM_MONTH: f64 = 0.10;

/// Dollars for a dashboard and month ("Amazon CloudWatch Pricing"). Three of an account are free.
pub(crate) const DASHBOARD_MONTH: f64 = 3.00;

/// Dollars per million traces recorded ("AWS X-Ray pricing"). The first 100,000 of a month are
/// free, and not taken off here.
pub(crate) const TRACES: f64 = 5.00;

/// Dollars per million invocations by a schedule ("Amazon EventBridge pricing", Scheduler).
pub(crate) const SCHEDULES: f64 = 1.00;
