//! Restore of an archived object into the dead-letter queue.

use tokio::time::{Instant, timeout_at};

use super::api::{Done, Report};
use super::error::ReplayError;
use super::message::DeadLetterMessage;
use super::ports::{PortTypes, Ports};
use super::records::Records;
use super::run::{ANSWER_TIME, Run};
use crate::domain::event_record::{Transition, restored};
use crate::domain::message::Message;
use crate::ports::archive::{self, Archive, Archived};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::Sender;
use crate::ports::service::Service;
use crate::runtime::logging::display_chain;

/// Messages that are sent at a time, as many as a batch of SQS takes.
const BATCH: usize = 10;

/// Restore of one archived object.
pub(super) struct Restore<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> Restore<'_, T> {
    /// Sends the messages of an object, and then records their events as dead. Skips events that
    /// are no longer archived, so that a run that was cut short can be repeated.
    pub(super) async fn restore(&self, run: &Run<'_>, key: &str) -> Result<Report, ReplayError> {
        let archived = archive::read(&self.ports.archive.get(key).await?)?;
        if archived.iter().any(|line| line.reason.is_none()) {
            return Err(ReplayError::Journalled(key.to_owned()));
        }
        let mut report = Report::new(Done::Restore { restored: 0 });
        report.complete = true;
        for batch in archived.chunks(BATCH) {
            if Instant::now() + ANSWER_TIME >= run.deadline {
                report.complete = false;
                break;
            }
            if let Err(error) = self.restore_batch(run, batch, &mut report).await {
                if report.matched == 0 {
                    return Err(error);
                }
                report.fail(None, &display_chain(&error));
                report.complete = false;
                break;
            }
            run.save_progress(self.ports, &report).await;
            if run.is_cancelled(self.ports).await {
                (report.cancelled, report.complete) = (true, false);
                break;
            }
        }
        report.remaining = self.ports.remaining().await;
        Ok(report)
    }

    async fn restore_batch(
        &self,
        run: &Run<'_>,
        batch: &[Archived],
        report: &mut Report,
    ) -> Result<(), ReplayError> {
        let mut opened = Vec::new();
        for archived in batch {
            let message = archived
                .clone()
                .into_message()
                .map_err(|error| Service::S3.unreadable(error))?;
            let mut message =
                DeadLetterMessage::new(message, archived.sent_at.into()).under(&archived.event_id);
            message.reason.clone_from(&archived.reason);
            opened.push(message);
        }
        let records = Records {
            ports: self.ports,
            bulk: run.bulk.as_ref(),
        }
        .look_up(&mut opened)
        .await?;
        let mut dead: Vec<(DeadLetterMessage, Transition)> = Vec::new();
        for message in opened {
            let act = run.act(self.ports.clock.now());
            match restored(&message.evidence(), records.get(&message.event_id), act) {
                Some(step) => dead.push((message, step)),
                None => report.skipped += 1,
            }
        }
        report.matched += dead.len() as u64;
        let messages: Vec<Message> = dead.iter().map(|(dead, _)| dead.message.clone()).collect();
        let sent = self.ports.dead_letters.send_all(&messages).await;
        for ((message, step), sent) in dead.into_iter().zip(sent) {
            let id = message.event_id.as_str();
            if let Err(error) = sent {
                report.fail(Some(id), &display_chain(&error));
                continue;
            }
            run.audit_event(id);
            report.done.count_of(step.next().source);
            let recorded = async {
                self.ports
                    .table
                    .keep_body(&message.event_id, message.body(), self.ports.clock.now())
                    .await?;
                self.ports.table.write(&step).await
            };
            // A record that is not written here is written by the next sweep.
            let in_time = timeout_at(run.deadline - ANSWER_TIME, recorded).await;
            match in_time {
                Ok(Ok(Written::Done)) => {}
                Ok(Ok(Written::Lost(_))) => {
                    report.fail(
                        Some(id),
                        "restored, but another worker has changed its record",
                    );
                }
                Ok(Err(error)) => {
                    report.fail(
                        Some(id),
                        &format!("restored, but not recorded: {}", display_chain(&error)),
                    );
                }
                Err(_) => report.fail(Some(id), "restored, but there was no time to record it"),
            }
        }
        Ok(())
    }
}
