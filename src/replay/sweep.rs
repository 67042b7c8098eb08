//! The sweep: receives all that is there, sends what matches, deletes what was sent, and shows the rest again.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::{Replay, ReplayError, Report, Selection};
use crate::clock::Clock;
use crate::logging::chain;
use crate::message::Message;
use crate::queue::{Countable, QueueError, ReceiptHandle, Received, Receiver, Redrive, Sender};

/// Messages a run replays when the request does not say.
const DEFAULT_MAX_MESSAGES: u32 = 10_000;

/// A run stops this long before its deadline, or with a quarter of its time left where that is less, to show again what
/// it did not take.
const RELEASE_TIME: Duration = Duration::from_mins(2);

/// The answer is given this long before the deadline, whatever SQS does.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What a run received stays hidden this long past its deadline, so that it receives no message twice.
pub(super) const HIDDEN_PAST_DEADLINE: Duration = Duration::from_secs(30);

/// A run that holds so many messages back stops: some 120,000 can be in flight ("Amazon SQS message quotas"), and past
/// that SQS answers as if the queue were empty. What is not shown again in time comes back by itself.
const MAX_HELD: usize = 100_000;

/// "ReceiveMessage": at most ten at a time.
const RECEIVED_AT_ONCE: u32 = 10;

/// How long a sweep waits for one more message before it takes the queue for empty.
const POLL_WAIT: Duration = Duration::from_secs(2);

impl<E, D, R, C> Replay<E, D, R, C>
where
    E: Sender + Countable,
    D: Receiver + Countable,
    R: Redrive,
    C: Clock,
{
    /// One run over the dead letters. It ends well before `deadline`.
    pub(super) async fn sweep(
        &self,
        run: Uuid,
        selection: &Selection,
        deadline: Instant,
    ) -> Result<Report, ReplayError> {
        let mut sweep = Sweep {
            run,
            selection,
            // What comes later died after the run began: perhaps just replayed, and refused once more.
            began_at: self.clock.now(),
            stop_at: {
                let time = deadline.saturating_duration_since(Instant::now());
                deadline - RELEASE_TIME.min(time / 4)
            },
            hidden_until: deadline + HIDDEN_PAST_DEADLINE,
            report: Report { dry_run: selection.dry_run, ..Report::default() },
            held: Vec::new(),
        };
        let outcome = self.sweep_all(&mut sweep).await;
        let Sweep { mut report, held, .. } = sweep;
        match outcome {
            Ok(complete) => report.complete = complete,
            // Nothing was done, so there is nothing to report.
            Err(error) if report.matched == 0 => {
                self.release(&held, deadline).await;
                return Err(error.into());
            }
            Err(error) => report.fail(None, &chain(&error)),
        }
        self.release(&held, deadline).await;
        report.remaining = timeout_at(deadline - ANSWER_TIME / 2, self.remaining()).await.unwrap_or_else(|_| {
            tracing::warn!("no time left to count what remains");
            None
        });
        Ok(report)
    }

    /// Goes through the dead letters until none is left, or a bound is reached. Says whether it has seen all.
    async fn sweep_all(&self, sweep: &mut Sweep<'_>) -> Result<bool, QueueError> {
        let most = u64::from(sweep.selection.max_messages.unwrap_or(DEFAULT_MAX_MESSAGES));
        let pace = sweep.selection.rate_per_second.map_or(RECEIVED_AT_ONCE, |rate| rate.min(RECEIVED_AT_ONCE));
        let mut due = Instant::now();
        while sweep.report.matched < most && sweep.held.len() < MAX_HELD && Instant::now() < sweep.stop_at {
            let hidden_for = sweep.hidden_until.saturating_duration_since(Instant::now());
            let received = self.dead_letters.receive(hidden_for, POLL_WAIT).await?;
            if received.is_empty() {
                return Ok(true);
            }
            let mut taken = sweep.take(received, most);
            while !taken.is_empty() {
                let rest = taken.split_off(taken.len().min(pace as usize));
                sleep_until(due.min(sweep.stop_at)).await;
                if Instant::now() >= sweep.stop_at {
                    sweep.give_back(taken.into_iter().chain(rest));
                    break;
                }
                if let Some(rate) = sweep.selection.rate_per_second {
                    let sent = u32::try_from(taken.len()).unwrap_or(u32::MAX);
                    due = Instant::now() + Duration::from_secs(1) * sent / rate;
                }
                if let Err(error) = self.send_back(taken, sweep).await {
                    sweep.give_back(rest.into_iter());
                    return Err(error);
                }
                taken = rest;
            }
        }
        Ok(false)
    }

    /// Sends, waits for the confirmation, and only then deletes. Fails when the queue takes nothing at all.
    async fn send_back(&self, taken: Vec<Taken>, sweep: &mut Sweep<'_>) -> Result<(), QueueError> {
        let messages: Vec<Message> = taken.iter().map(|taken| taken.message.clone()).collect();
        let (mut sent, mut outage) = (Vec::new(), None);
        for (taken, result) in taken.into_iter().zip(self.events.send_all(&messages).await) {
            match result {
                Ok(()) => sent.push((taken.receipt, taken.event_id)),
                Err(error) => {
                    sweep.report.fail(taken.event_id, &chain(&error));
                    sweep.held.push(taken.receipt);
                    outage = Some(error).filter(|error| matches!(error, QueueError::Unavailable(_)));
                }
            }
        }
        let (receipts, event_ids): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        sweep.report.replayed += receipts.len() as u64;
        for (event_id, result) in event_ids.into_iter().zip(self.dead_letters.delete(&receipts).await) {
            tracing::info!(audit = "replay", run = %sweep.run, event_id, why = sweep.selection.why, "replayed");
            if let Err(error) = result {
                let error = format!("replayed, but not removed from the dead-letter queue: {}", chain(&error));
                sweep.report.fail(event_id, &error);
            }
        }
        match outage {
            Some(error) if receipts.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Shows again at once what the run hid and did not take.
    async fn release(&self, held: &[ReceiptHandle], deadline: Instant) {
        let mut hidden = held.len();
        let all = async {
            for receipts in held.chunks(RECEIVED_AT_ONCE as usize) {
                let changes: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), Duration::ZERO)).collect();
                let results = self.dead_letters.change_visibility(&changes).await;
                hidden -= results.iter().filter(|result| result.is_ok()).count();
            }
        };
        let in_time = timeout_at(deadline - ANSWER_TIME, all).await.is_ok();
        if hidden > 0 {
            tracing::warn!(hidden, in_time, "dead letters stay hidden until their visibility timeout ends");
        }
    }
}

/// A dead letter that a run is to send back.
struct Taken {
    message: Message,
    receipt: ReceiptHandle,
    /// Its event's id, unless it cannot be read.
    event_id: Option<String>,
}

/// One run over the dead letters.
struct Sweep<'a> {
    /// Joins the lines of the audit log that belong together.
    run: Uuid,
    selection: &'a Selection,
    began_at: Timestamp,
    stop_at: Instant,
    hidden_until: Instant,
    report: Report,
    /// What was received and not taken.
    held: Vec<ReceiptHandle>,
}

impl Sweep<'_> {
    /// Sorts what was received: what matches is given back to be sent, the rest is held.
    fn take(&mut self, received: Vec<Received>, most: u64) -> Vec<Taken> {
        let mut taken = Vec::new();
        for Received { message, receipt, sent_at } in received {
            let event = message.to_event(sent_at).ok();
            let matches = sent_at < self.began_at
                && self.report.matched < most
                && self.selection.filter.as_ref().is_none_or(|filter| filter.matches(&message, event.as_ref()));
            if !matches {
                self.report.skipped += 1;
                self.held.push(receipt);
                continue;
            }
            self.report.matched += 1;
            if self.selection.dry_run {
                self.report.list(&message, event);
                self.held.push(receipt);
                continue;
            }
            let message = message.without_reason();
            taken.push(match event {
                Some(event) => {
                    Taken { message: message.with_identity(&event), receipt, event_id: Some(event.id.into()) }
                }
                None => Taken { message, receipt, event_id: None },
            });
        }
        taken
    }

    /// What there was no time for counts as not matched after all.
    fn give_back(&mut self, taken: impl Iterator<Item = Taken>) {
        for taken in taken {
            self.report.matched -= 1;
            self.report.skipped += 1;
            self.held.push(taken.receipt);
        }
    }
}
