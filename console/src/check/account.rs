//! Quotas of the account.

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::{Named, named};

/// Invocations beside those of the processor and ingest: the other functions.
const OTHERS: i32 = 10;

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![named(
        "account-concurrency",
        "operate/runbooks/processor-failing.md",
        concurrency(deployment),
    )]
}

/// The account has room for the processor's invocations beside ingest's.
async fn concurrency(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment.lambda.get_account_settings().send();
    let answer = answer.await.map_err(fault("lambda:GetAccountSettings"))?;
    let limit = answer
        .account_limit
        .ok_or_else(|| Fault::Failed("Lambda named no limit".to_owned()))?;
    let shared = limit.unreserved_concurrent_executions().unwrap_or_default();
    let number = |name: &str| {
        deployment
            .template
            .parameter(name)
            .parse::<i32>()
            .unwrap_or_default()
    };
    let queues = if deployment.template.physical("OrderedQueue").is_some() {
        2
    } else {
        1
    };
    let reserved = number("IngestReservedConcurrency");
    // Without a reservation, ingest needs as much room as the processor, or webhooks are throttled.
    let needed = number("MaximumConcurrency") * (queues + i32::from(reserved == 0)) + OTHERS;
    let says = format!(
        "{} executions at the same time in the account, {shared} not reserved; the relay needs {needed}",
        limit.concurrent_executions()
    );
    if shared < needed {
        Fault::failed(says)
    } else {
        Ok(says)
    }
}
