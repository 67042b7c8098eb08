//! The events table.

use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TimeToLiveStatus};

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::{Named, named, unless_any};

const TABLE: &str = "EventsTable";

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    let runbook = super::stack::RUNBOOK;
    vec![
        named("table", runbook, table(deployment)),
        named("table-ttl", runbook, ttl(deployment)),
        named("table-backups", runbook, backups(deployment)),
    ]
}

fn name(deployment: &Deployment) -> &str {
    deployment.template.physical(TABLE).unwrap_or_default()
}

async fn table(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment
        .dynamodb
        .describe_table()
        .table_name(name(deployment))
        .send();
    let answer = answer.await.map_err(fault("dynamodb:DescribeTable"))?;
    let table = answer
        .table
        .ok_or_else(|| Fault::Failed("DynamoDB described no table".to_owned()))?;
    let mut problems = Vec::new();
    let status = table
        .table_status()
        .map_or("unknown", |status| status.as_str());
    if !matches!(status, "ACTIVE" | "UPDATING") {
        problems.push(format!("it is {status}"));
    }
    let expected = deployment.template.properties(TABLE);
    let wanted: Vec<_> = expected["GlobalSecondaryIndexes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|index| index["IndexName"].as_str())
        .collect();
    for wanted in &wanted {
        let mut indexes = table.global_secondary_indexes().iter();
        let Some(found) = indexes.find(|index| index.index_name() == Some(*wanted)) else {
            problems.push(format!("the index {wanted} is missing"));
            continue;
        };
        let status = found
            .index_status()
            .map_or("ACTIVE", |status| status.as_str());
        match status {
            "ACTIVE" | "UPDATING" => {}
            "CREATING" => {
                return Fault::not_here(format!("DynamoDB is still filling the index {wanted}"));
            }
            _ => problems.push(format!("the index {wanted} is {status}")),
        }
    }
    let items = table.item_count().unwrap_or_default();
    unless_any(
        &problems,
        format!(
            "{status}, indexes {}, about {items} items",
            wanted.join(" and ")
        ),
    )
}

async fn ttl(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment
        .dynamodb
        .describe_time_to_live()
        .table_name(name(deployment))
        .send();
    let answer = answer.await.map_err(fault("dynamodb:DescribeTimeToLive"))?;
    let found = answer
        .time_to_live_description
        .ok_or_else(|| Fault::Failed("DynamoDB described no TTL".to_owned()))?;
    let expected =
        &deployment.template.properties(TABLE)["TimeToLiveSpecification"]["AttributeName"];
    match found.time_to_live_status() {
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
            if found.attribute_name() == expected.as_str() =>
        {
            Ok(format!(
                "items end at {}",
                found.attribute_name().unwrap_or_default()
            ))
        }
        status => Fault::failed(format!(
            "TTL is {} on {}: items are never deleted",
            status.map_or("unknown", |status| status.as_str()),
            found.attribute_name().unwrap_or("no attribute"),
        )),
    }
}

async fn backups(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment
        .dynamodb
        .describe_continuous_backups()
        .table_name(name(deployment))
        .send();
    let answer = answer
        .await
        .map_err(fault("dynamodb:DescribeContinuousBackups"))?;
    let found = answer
        .continuous_backups_description
        .and_then(|found| found.point_in_time_recovery_description);
    let status = found
        .as_ref()
        .and_then(|found| found.point_in_time_recovery_status());
    if status != Some(&PointInTimeRecoveryStatus::Enabled) {
        return Fault::failed("point-in-time recovery is off: the table cannot be brought back");
    }
    let wanted = deployment.template.parameter("BackupDays");
    let days = found.and_then(|found| found.recovery_period_in_days());
    match days {
        Some(days) if days.to_string() != wanted => Fault::failed(format!(
            "backups reach {days} days back, and BackupDays is {wanted}"
        )),
        _ => Ok(format!(
            "backups reach {} days back",
            days.map_or_else(|| wanted.to_owned(), |days| days.to_string())
        )),
    }
}
