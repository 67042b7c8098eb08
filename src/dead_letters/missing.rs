//! Explanation of dead events whose messages a run has not found.

use jiff::{SignedDuration, Timestamp};

use super::api::{ARRIVES_WITHIN, Missing, Report};
use super::error::ReplayError;
use super::ports::{PortTypes, Ports};
use super::records::Records;
use crate::domain::event::EventId;
use crate::domain::event_record::{EventRecord, State};
use crate::ports::clock::Clock;

/// No queue keeps a message for longer ("Amazon SQS message quotas").
const KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Explains where the events are whose messages a run has not found.
pub(super) struct MissingEvents<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> MissingEvents<'_, T> {
    /// Adds the state of each missing event to the report. `hidden` and `unseen` count the messages
    /// of the dead-letter queue that were hidden, and those that the run did not receive.
    pub(super) async fn explain(
        &self,
        missing: &[EventId],
        hidden: u64,
        unseen: u64,
        report: &mut Report,
    ) -> Result<(), ReplayError> {
        if missing.is_empty() {
            return Ok(());
        }
        // While the breaker is open, a message whose receives are used up waits in the events queue
        // for one more receive.
        let waiting = self.ports.outside().await?;
        let (hidden, unseen) = (hidden + waiting, unseen + waiting);
        let bulk = self.ports.bulk_replay().await?;
        let records = Records {
            ports: self.ports,
            bulk: bulk.as_ref(),
        }
        .of(missing)
        .await?;
        let now = self.ports.clock.now();
        for id in missing {
            let record = records.get(id).filter(|record| !record.is_expired(now));
            let (state, error) = match record {
                Some(record) => why_missing(record, hidden, now),
                None if unseen > 0 => {
                    let error = format!(
                        "it has no record yet, and {unseen} messages are hidden, not listed, or wait in the events queue; ask again \
                         in five minutes"
                    );
                    (Missing::Pending, error)
                }
                None => (Missing::Unknown, "it has no record".to_owned()),
            };
            report.miss(id.as_str(), state, error);
        }
        Ok(())
    }
}

/// State of an event whose message was not found, by its record.
fn why_missing(record: &EventRecord, hidden: u64, now: Timestamp) -> (Missing, String) {
    match &record.state {
        State::Delivered => (Missing::Delivered, "the target has it".to_owned()),
        State::Discarded(_) => (Missing::Discarded, "it was discarded".to_owned()),
        State::Erased => (Missing::Erased, "it was erased".to_owned()),
        State::Archived { archived_to, .. } => (
            Missing::Archived,
            format!("it is in the archive: {archived_to}"),
        ),
        state => match state.death(now) {
            None => (
                Missing::Alive,
                "it is not dead: it is being delivered, or waits for its next attempt".to_owned(),
            ),
            Some(death) => {
                let replayed_at = match state {
                    State::Dead(dead) => dead.replayed_at,
                    _ => None,
                };
                let age = now.duration_since(replayed_at.unwrap_or(death.dead_at));
                if age < KEPT && (replayed_at.is_some() || hidden > 0 || age < ARRIVES_WITHIN) {
                    let error = "its message is hidden, on its way, or waits in the events queue; ask again in some minutes";
                    (Missing::Pending, error.to_owned())
                } else {
                    (Missing::Expired, "its message is gone".to_owned())
                }
            }
        },
    }
}
