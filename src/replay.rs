//! Brings dead letters back into the events queue, and tells what there is to bring back.
//!
//! Everything goes by SQS's own move task. A selection goes by a sweep: receive all that is there, send what matches,
//! delete what was sent, and show the rest again. The order is send, confirm, delete: a crash in between leaves an event
//! twice, with one id, and never not at all.

mod report;
mod request;
mod sweep;

use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::Clock;
use crate::logging::chain;
use crate::queue::{Countable, Depth, MoveTask, QueueError, Receiver, Redrive, Sender};

pub use self::report::{Failed, Item, Report};
pub use self::request::{InvalidRequest, Request, Selection};

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use std::time::Duration;

    use jiff::Timestamp;

    use super::sweep::{ANSWER_TIME, HIDDEN_PAST_DEADLINE};
    use super::*;
    use crate::message::Message;
    use crate::queue::VisibilityTimeout;
    use crate::queue::{ReceiptHandle, Received};
    use crate::reason::Reason;
    use crate::reason::ReasonKind;
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
