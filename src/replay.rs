//! Brings dead letters back into the events queue, and tells what there is to bring back.
//!
//! Everything goes by SQS's own move task. A selection goes by a sweep: receive all that is there, send what matches,
//! delete what was sent, and show the rest again. The order is send, confirm, delete: a crash in between leaves an event
//! twice, with one id, and never not at all.

mod request;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use crate::clock::Clock;
use crate::event::{Event, Source};
use crate::logging::chain;
use crate::message::{Message, Reason};
use crate::queue::{Countable, Depth, MoveTask, QueueError, ReceiptHandle, Received, Receiver, Redrive, Sender};

pub use self::request::{InvalidRequest, Request, Selection};

/// Messages a run replays when the request does not say.
const DEFAULT_MAX_MESSAGES: u32 = 10_000;

/// A run stops this long before its deadline, or with a quarter of its time left where that is less, to show again what
/// it did not take.
const RELEASE_TIME: Duration = Duration::from_mins(2);

/// The answer is given this long before the deadline, whatever SQS does.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What a run received stays hidden this long past its deadline, so that it receives no message twice.
const HIDDEN_PAST_DEADLINE: Duration = Duration::from_secs(30);

/// A run that holds so many messages back stops: some 120,000 can be in flight ("Amazon SQS message quotas"), and past
/// that SQS answers as if the queue were empty. What is not shown again in time comes back by itself.
const MAX_HELD: usize = 100_000;

/// "ReceiveMessage": at most ten at a time.
const RECEIVED_AT_ONCE: u32 = 10;

/// How long a sweep waits for one more message before it takes the queue for empty.
const POLL_WAIT: Duration = Duration::from_secs(2);

/// Dead letters, and failures, that an answer lists one by one.
const MAX_LISTED: usize = 100;

/// The use case, over its ports.
pub struct Replay<E, D, R, C> {
    /// Where replayed events go.
    pub events: E,
    /// Where dead letters lie.
    pub dead_letters: D,
    /// SQS's own way from there to the events queue.
    pub redrive: R,
    /// Tells what was there when a run began.
    pub clock: C,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// SQS is moving messages already.
    #[error("a move task is running ({moved} moved); wait for it or cancel it first")]
    Busy {
        /// How many it has moved.
        moved: u64,
    },
    /// A queue failed, and nothing is known to have been done.
    #[error("the request could not be carried out")]
    Queue(#[from] QueueError),
}

/// The answer to a request.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Answer {
    /// To `status`.
    #[serde(rename_all = "camelCase")]
    Status {
        /// The events queue.
        queue: Depth,
        /// The dead-letter queue.
        dead_letters: Depth,
        /// The newest move task.
        move_task: Option<MoveTask>,
    },
    /// To `replay`.
    Replay(Report),
    /// To `cancel`.
    #[serde(rename_all = "camelCase")]
    Cancel {
        /// Whether there was one to cancel.
        cancelled: bool,
        /// The newest move task.
        move_task: Option<MoveTask>,
    },
}

/// What a replay did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Dead letters that the request asks for, as far as the run looked.
    pub matched: u64,
    /// Of those, how many are in the events queue again.
    pub replayed: u64,
    /// Dead letters that were looked at and left.
    pub skipped: u64,
    /// How many failures there were.
    pub failures: u64,
    /// What went wrong, the first hundred times.
    pub failed: Vec<Failed>,
    /// How many lie in the dead-letter queue now, approximately; nothing when that could not be asked.
    pub remaining: Option<u64>,
    /// Whether the run looked at all that was there when it began. If not, the request can be repeated.
    pub complete: bool,
    /// Whether this only counted.
    pub dry_run: bool,
    /// The move task, when SQS does the work.
    pub move_task: Option<MoveTask>,
    /// In a dry run, the first hundred that match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
}

/// A dead letter that a dry run found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Its event's id, unless the message cannot be read.
    pub event_id: Option<String>,
    /// Its source, unless the message cannot be read.
    pub source: Option<Source>,
    /// When the relay received it.
    pub received_at: Option<Timestamp>,
    /// The reason it carries.
    pub reason: Option<Reason>,
}

/// A dead letter that was not replayed, or not removed afterwards.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Its event's id, unless the message cannot be read.
    pub event_id: Option<String>,
    /// What went wrong.
    pub error: String,
}

impl<E, D, R, C> Replay<E, D, R, C>
where
    E: Sender + Countable,
    D: Receiver + Countable,
    R: Redrive,
    C: Clock,
{
    /// Carries out a request. A sweep ends well before `deadline`, and says what is left.
    pub async fn handle(&self, request: Request, deadline: Instant) -> Result<Answer, ReplayError> {
        match request {
            Request::Status => Ok(Answer::Status {
                queue: self.events.depth().await?,
                dead_letters: self.dead_letters.depth().await?,
                move_task: self.redrive.latest_move().await?,
            }),
            Request::Replay(selection) => self.replay(&selection, deadline).await.map(Answer::Replay),
            Request::Cancel => self.cancel().await,
        }
    }

    async fn replay(&self, selection: &Selection, deadline: Instant) -> Result<Report, ReplayError> {
        if let Some(task) = self.redrive.latest_move().await?.filter(MoveTask::is_active) {
            return Err(ReplayError::Busy { moved: task.moved });
        }
        let run = Uuid::new_v4();
        let report = match &selection.filter {
            None if selection.dry_run => self.count_all(selection).await?,
            None if selection.max_messages.is_none() => self.move_all(selection).await?,
            _ => self.sweep(run, selection, deadline).await?,
        };
        let selected = selection.filter.as_ref().map_or_else(|| "all".into(), |filter| serde_json::json!(filter));
        tracing::info!(
            audit = "replay",
            %run,
            selection = %selected,
            why = selection.why,
            dry_run = report.dry_run,
            matched = report.matched,
            replayed = report.replayed,
            skipped = report.skipped,
            failures = report.failures,
            remaining = report.remaining,
            move_task = report.move_task.is_some(),
            "replay"
        );
        Ok(report)
    }

    async fn count_all(&self, selection: &Selection) -> Result<Report, ReplayError> {
        let depth = self.dead_letters.depth().await?;
        let most = u64::from(selection.max_messages.unwrap_or(u32::MAX));
        Ok(Report {
            matched: depth.visible.min(most),
            remaining: Some(depth.total()),
            complete: true,
            dry_run: true,
            ..Report::default()
        })
    }

    /// SQS moves the messages after the answer is given; `status` shows how far it is.
    async fn move_all(&self, selection: &Selection) -> Result<Report, ReplayError> {
        let matched = self.dead_letters.depth().await?.visible;
        let started = self.redrive.start_move(selection.rate_per_second).await;
        let mut report = Report { matched, complete: true, ..Report::default() };
        match self.redrive.latest_move().await {
            // The answer to a call can be lost although its task has started.
            Ok(task) if started.is_ok() || task.as_ref().is_some_and(MoveTask::is_active) => {
                report.replayed = task.as_ref().map_or(0, |task| task.moved);
                report.move_task = task;
            }
            Err(error) if started.is_ok() => {
                report.fail(None, &format!("the move task has started; {}", chain(&error)));
            }
            Ok(_) | Err(_) => started?,
        }
        report.remaining = self.remaining().await;
        Ok(report)
    }

    async fn sweep(&self, run: Uuid, selection: &Selection, deadline: Instant) -> Result<Report, ReplayError> {
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

    /// Counted for an answer to what was done: that it cannot be counted does not undo it.
    async fn remaining(&self) -> Option<u64> {
        match self.dead_letters.depth().await {
            Ok(depth) => Some(depth.total()),
            Err(error) => {
                tracing::warn!(error = chain(&error), "what remains could not be counted");
                None
            }
        }
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

    async fn cancel(&self) -> Result<Answer, ReplayError> {
        let latest = self.redrive.latest_move().await?;
        let Some(handle) = latest.as_ref().and_then(|task| task.handle.clone()) else {
            return Ok(Answer::Cancel { cancelled: false, move_task: latest });
        };
        self.redrive.cancel_move(&handle).await?;
        tracing::info!(audit = "cancel", "move task cancelled");
        let move_task = self.redrive.latest_move().await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the cancelled move task could not be looked at");
            None
        });
        Ok(Answer::Cancel { cancelled: true, move_task })
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
                if self.report.items.len() < MAX_LISTED {
                    self.report.items.push(Item::describe(&message, event));
                }
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

impl Report {
    fn fail(&mut self, event_id: Option<String>, error: &str) {
        self.failures += 1;
        if self.failed.len() < MAX_LISTED {
            self.failed.push(Failed { event_id, error: error.to_owned() });
        }
    }
}

impl Item {
    fn describe(message: &Message, event: Option<Event>) -> Self {
        Self {
            source: event.as_ref().map(|event| event.source),
            received_at: event.as_ref().map(|event| event.received_at),
            event_id: event.map(|event| event.id.into()),
            reason: message.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::message::ReasonKind;
    use crate::queue::VisibilityTimeout;
    use crate::testing::{FakeClock, FakeQueue};

    type Fake = Replay<FakeQueue, FakeQueue, FakeQueue, FakeClock>;

    fn relay() -> Fake {
        let dead_letters = FakeQueue::default();
        Replay { events: FakeQueue::default(), redrive: dead_letters.clone(), dead_letters, clock: FakeClock }
    }

    fn message(name: &str) -> Message {
        let body = json!({ "webhookId": name, "payload": {}, "timestamp": "2026-01-15T12:00:00Z" });
        Message { body: body.to_string(), attributes: BTreeMap::new(), group: Some(name.to_owned()) }
    }

    fn refused(name: &str, status_code: u16) -> Message {
        message(name).with_reason(&Reason {
            reason: ReasonKind::Permanent,
            detail: "as the test says".to_owned(),
            status_code: Some(status_code),
            response: None,
            attempt: Some(1),
            at: Timestamp::UNIX_EPOCH,
        })
    }

    async fn bury(relay: &Fake, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            relay.dead_letters.send(&message).await.expect("sent");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    async fn replay(relay: &Fake, request: Value) -> Report {
        let deadline = Instant::now() + Duration::from_mins(1);
        let request = Request::parse(request).expect("a request");
        match relay.handle(request, deadline).await.expect("carried out") {
            Answer::Replay(report) => report,
            answer => panic!("{answer:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_takes_what_matches_and_shows_the_rest_again() {
        let relay = relay();
        bury(&relay, [refused("a", 404), refused("b", 410), message("a"), refused("a", 410)]).await;
        let report =
            replay(&relay, json!({ "action": "replay", "filter": { "webhookId": "a", "statusCode": 404 } })).await;
        assert_eq!((report.matched, report.replayed, report.skipped, report.remaining), (1, 1, 3, Some(3)));
        assert!(report.complete);
        let [replayed] = &relay.events.messages()[..] else { panic!("one message") };
        assert_eq!(replayed.body, message("a").body);
        assert!(!replayed.has_reason(), "the reason of its death is left behind");
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn every_field_of_a_filter_selects() {
        for (filter, matched) in [
            (json!({ "source": "webhook" }), 3),
            (json!({ "source": "generic" }), 0),
            (json!({ "reason": "permanent" }), 2),
            (json!({ "reason": "unknown" }), 1),
            (json!({ "reason": "malformed" }), 0),
            (json!({ "webhookId": "b" }), 1),
            (json!({ "statusCode": 410 }), 1),
            (json!({ "since": "2000-01-01T00:00:00Z" }), 3),
            (json!({ "until": "2000-01-01T00:00:00Z" }), 0),
            (json!({ "reason": "permanent", "webhookId": "a" }), 1),
        ] {
            let relay = relay();
            bury(&relay, [refused("a", 404), refused("b", 410), message("a")]).await;
            let report = replay(&relay, json!({ "action": "replay", "filter": filter })).await;
            assert_eq!((report.matched, report.replayed), (matched, matched), "{filter}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_describes_and_leaves_all_as_it_was() {
        let relay = relay();
        bury(&relay, [refused("a", 404), message("b")]).await;
        let before = relay.dead_letters.messages();
        let report =
            replay(&relay, json!({ "action": "replay", "filter": { "statusCode": 404 }, "dryRun": true })).await;
        assert_eq!((report.matched, report.replayed, report.items.len()), (1, 0, 1));
        assert_eq!(report.items[0].reason.as_ref().and_then(|reason| reason.status_code), Some(404));
        let report = replay(&relay, json!({ "action": "replay", "all": true, "dryRun": true })).await;
        assert_eq!((report.matched, report.replayed), (2, 0));
        assert_eq!(relay.dead_letters.messages(), before);
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 2);
        assert!(relay.events.messages().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn everything_goes_by_move_task_and_one_at_a_time() {
        let relay = relay();
        bury(&relay, [message("a")]).await;
        let request = json!({ "action": "replay", "all": true, "ratePerSecond": 5 });
        let report = replay(&relay, request.clone()).await;
        assert_eq!(report.move_task.and_then(|task| task.rate_per_second), Some(5));

        let again = Request::parse(request).expect("a request");
        let deadline = Instant::now() + Duration::from_mins(1);
        assert!(matches!(relay.handle(again.clone(), deadline).await, Err(ReplayError::Busy { .. })));
        let cancelled = relay.handle(Request::Cancel, deadline).await.expect("carried out");
        assert!(matches!(cancelled, Answer::Cancel { cancelled: true, .. }));
        let nothing = relay.handle(Request::Cancel, deadline).await.expect("carried out");
        assert!(matches!(nothing, Answer::Cancel { cancelled: false, .. }));
        assert!(relay.handle(again, deadline).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_bounded_in_messages_and_in_rate() {
        let relay = relay();
        bury(&relay, (0..35).map(|_| message("a"))).await;
        let started = Instant::now();
        let request = json!({ "action": "replay", "all": true, "maxMessages": 25, "ratePerSecond": 5 });
        let report = replay(&relay, request).await;
        assert_eq!((report.matched, report.replayed, report.remaining), (25, 25, Some(10)));
        assert!(!report.complete);
        assert_eq!(started.elapsed(), Duration::from_secs(4), "five at once, then five each second");
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_before_its_deadline_and_says_what_is_left() {
        let relay = relay();
        bury(&relay, (0..50).map(|_| message("a"))).await;
        let deadline = Instant::now() + Duration::from_secs(8);
        let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 5 });
        let answer = relay.handle(Request::parse(request).expect("a request"), deadline).await.expect("carried out");
        let Answer::Replay(report) = answer else { panic!("{answer:?}") };
        assert!(Instant::now() < deadline);
        assert!(report.replayed >= 25 && !report.complete, "{report:?}");
        assert_eq!((report.matched, report.remaining), (report.replayed, Some(50 - report.replayed)));
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 50 - report.replayed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_dies_again_at_once_is_replayed_once() {
        // One queue is both: what is sent back is a dead letter again the next moment.
        let queue = FakeQueue::default();
        let relay = Replay { events: queue.clone(), dead_letters: queue.clone(), redrive: queue, clock: FakeClock };
        bury(&relay, [message("a")]).await;
        let report = replay(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
        assert_eq!((report.matched, report.replayed), (1, 1));
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_attributes_is_the_same_event_after_its_replay() {
        let relay = relay();
        let bare = Message { body: r#"{"pasted":true}"#.to_owned(), attributes: BTreeMap::new(), group: None };
        let id = bare.to_event(FakeClock.now()).expect("readable").id;
        bury(&relay, [bare]).await;
        tokio::time::advance(Duration::from_hours(1)).await;
        replay(&relay, json!({ "action": "replay", "filter": { "source": "generic" } })).await;
        assert_eq!(relay.events.messages()[0].to_event(FakeClock.now()).expect("readable").id, id);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_sent_stays_a_dead_letter() {
        let relay = relay();
        bury(&relay, [message("a")]).await;
        relay.events.fail();
        let report = replay(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
        assert_eq!((report.matched, report.replayed, report.remaining), (1, 0, Some(1)));
        assert!(report.failures > 0 && !report.complete, "{report:?}");
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_stops_when_the_events_queue_takes_nothing() {
        let relay = relay();
        bury(&relay, (0..200).map(|_| message("a"))).await;
        relay.events.fail();
        let report = replay(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
        assert_eq!((report.matched, report.replayed, report.remaining), (10, 0, Some(200)));
        assert_eq!(relay.dead_letters.depth().await.expect("counted").visible, 200);
    }

    /// A dead-letter queue that shows nothing again: SQS does not answer.
    struct NeverShows(FakeQueue);

    impl VisibilityTimeout for NeverShows {
        async fn change_visibility(&self, _: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), QueueError>> {
            std::future::pending().await
        }
    }

    impl Receiver for NeverShows {
        async fn receive(&self, visibility: Duration, wait: Duration) -> Result<Vec<Received>, QueueError> {
            self.0.receive(visibility, wait).await
        }

        async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), QueueError>> {
            self.0.delete(receipts).await
        }
    }

    impl Countable for NeverShows {
        async fn depth(&self) -> Result<Depth, QueueError> {
            self.0.depth().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_in_time_even_when_nothing_can_be_shown_again() {
        let (events, queue) = (FakeQueue::default(), FakeQueue::default());
        queue.send(&message("a")).await.expect("sent");
        tokio::time::advance(Duration::from_secs(1)).await;
        let relay =
            Replay { events, dead_letters: NeverShows(queue.clone()), redrive: queue.clone(), clock: FakeClock };
        let deadline = Instant::now() + Duration::from_mins(1);
        let request = Request::parse(json!({ "action": "replay", "filter": { "webhookId": "b" } }));
        relay.handle(request.expect("a request"), deadline).await.expect("carried out");
        assert!(Instant::now() < deadline, "time is left for the answer");
        tokio::time::advance(HIDDEN_PAST_DEADLINE + ANSWER_TIME).await;
        assert_eq!(queue.depth().await.expect("counted").visible, 1, "it comes back by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_down_is_an_error_not_an_empty_answer() {
        let relay = relay();
        relay.dead_letters.fail();
        for request in [json!({ "action": "status" }), json!({ "action": "replay", "all": true, "maxMessages": 1 })] {
            let request = Request::parse(request).expect("a request");
            let deadline = Instant::now() + Duration::from_mins(1);
            assert!(matches!(relay.handle(request, deadline).await, Err(ReplayError::Queue(_))));
        }
    }
}
