//! Brings an archived object back into the dead-letter queue.

use tokio::time::{Instant, timeout_at};

use super::report::{Done, Report};
use super::{Ports, Replay, ReplayError, Run};
use crate::domain::event_record::{Transition, restored};
use crate::domain::message::Message;
use crate::ports::archive::{self, Archive, ArchiveError, Archived};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{ReceiptHandle, Sender};
use crate::runtime::logging::display_chain;

use super::sweep::{ANSWER_TIME, Opened};

/// Messages that are sent at a time, as many as a batch of SQS takes.
const BATCH: usize = 10;

impl<P: Ports> Replay<P> {
    /// Sends what an object holds, and then records it as dead. What is not archived any more is left out, so that a
    /// run that was cut short can be repeated.
    pub(super) async fn restore(&self, run: &Run<'_>, key: &str) -> Result<Report, ReplayError> {
        let archived = archive::read(&self.archive.get(key).await?)?;
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
            self.tell_progress(run.tracked, &report).await;
        }
        report.remaining = self.remaining().await;
        Ok(report)
    }

    async fn restore_batch(&self, run: &Run<'_>, batch: &[Archived], report: &mut Report) -> Result<(), ReplayError> {
        let mut opened = Vec::new();
        for archived in batch {
            let message = archived.clone().into_message().map_err(|error| ArchiveError::Refused(error.into()))?;
            let letter = Opened::new(message, ReceiptHandle(String::new()), archived.sent_at.into());
            let mut letter = letter.under(&archived.event_id);
            letter.reason = Some(archived.reason.clone());
            opened.push(letter);
        }
        let (opened, records) = self.look_up(opened, run.bulk.as_ref()).await.map_err(|(_, error)| error)?;
        let mut letters: Vec<(Message, Opened, Transition)> = Vec::new();
        for opened in opened {
            let act = run.act(self.clock.now());
            match restored(&opened.letter(), records.get(&opened.event_id), act) {
                Some(step) => letters.push((opened.message.clone(), opened, step)),
                None => report.skipped += 1,
            }
        }
        report.matched += letters.len() as u64;
        let messages: Vec<Message> = letters.iter().map(|(message, ..)| message.clone()).collect();
        let sent = self.dead_letters.send_all(&messages).await;
        for ((_, opened, step), sent) in letters.into_iter().zip(sent) {
            let id = opened.event_id.as_str();
            if let Err(error) = sent {
                report.fail(Some(id), &display_chain(&error));
                continue;
            }
            tracing::info!(audit = run.action, run = %run.id, event_id = id, by = run.requester.by, why = run.requester.why, "restore of one event");
            report.done.count();
            let recorded = async {
                self.table.keep_body(&opened.event_id, opened.body(), self.clock.now()).await?;
                self.table.write(&step).await
            };
            // What is not recorded, the next sweep records.
            let in_time = timeout_at(run.deadline - ANSWER_TIME, recorded).await;
            match in_time {
                Ok(Ok(Written::Done)) => {}
                Ok(Ok(Written::Lost(_))) => report.fail(Some(id), "restored, but its record has changed this moment"),
                Ok(Err(error)) => {
                    report.fail(Some(id), &format!("restored, but not recorded: {}", display_chain(&error)));
                }
                Err(_) => report.fail(Some(id), "restored, but there was no time to record it"),
            }
        }
        Ok(())
    }
}
