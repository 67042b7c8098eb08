//! The end of a check: the records of its events are deleted.
//!
//! It takes nothing from a queue, so it needs no lease and does not wait for other runs.

use std::collections::BTreeSet;

use super::api::{Done, Report};
use crate::domain::event::EventId;
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::service::ServiceError;
use crate::runtime::logging::{audit, display_chain};

/// Deletes the records of these check events. Refuses every other event.
///
/// # Errors
/// The records could not be read. Nothing is deleted then.
pub async fn forget(
    table: &impl EventsTable,
    clock: &impl Clock,
    event_ids: &BTreeSet<EventId>,
    requester: &Requester,
) -> Result<Report, ServiceError> {
    let ids: Vec<EventId> = event_ids.iter().cloned().collect();
    let records = table.get_many(&ids).await?;
    let mut report = Report::new(Done::Forget { forgotten: 0 });
    for (id, record) in &records {
        // DynamoDB deletes an expired record late.
        if record.is_expired(clock.now()) {
            continue;
        }
        report.matched += 1;
        let forgetting = match record.forget() {
            Ok(forgetting) => forgetting,
            Err(why) => {
                report.fail(Some(id.as_str()), &why.to_string());
                continue;
            }
        };
        // A crash in between leaves records, which the same request deletes.
        match table.forget(forgetting).await {
            Ok(Written::Done) => report.done.count(),
            Ok(Written::Lost(_)) => report.fail(
                Some(id.as_str()),
                "another worker has changed its record; repeat the request",
            ),
            Err(error) => report.fail(Some(id.as_str()), &display_chain(&error)),
        }
    }
    report.complete = report.failures == 0;
    audit!(
        "forget",
        requester,
        selection = %serde_json::json!(event_ids),
        done = %serde_json::json!(report.done),
        failures = report.failures,
        "forget"
    );
    Ok(report)
}
