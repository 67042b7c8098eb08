//! The ports to the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Entry, FakeQueue, unavailable};
use crate::domain::message::Message;
use crate::domain::queue_depth::QueueDepth;
use crate::ports::clock::Clock;
use crate::ports::queue::{
    Countable, LONGEST_DELAY, MoveTask, RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver,
    Redrive, Sender, VisibilityTimeout, deduplication_id,
};
use crate::ports::service::{Service, ServiceError};
use crate::testing::FakeClock;

/// The default rate of a move task, per second.
const MOVED_PER_SECOND: u32 = 500;

/// One in this many messages that are deleted from an unordered queue comes back all the same.
const COMES_BACK: u32 = 60;

impl FakeQueue {
    /// Takes a message that was sent.
    fn accept(&self, message: &Message, delay: Duration) -> Result<(), ServiceError> {
        let mut state = self.working()?;
        if let Some(fifo) = &mut state.fifo {
            let refused = |what: &str| Err(Service::Sqs.refused(what));
            let Some(group) = &message.group else {
                return refused("a message of a FIFO queue needs a MessageGroupId");
            };
            if !delay.is_zero() {
                return refused("a message of a FIFO queue has no DelaySeconds");
            }
            if !fifo.is_new(group, deduplication_id(message)) {
                return Ok(());
            }
        }
        drop(state);
        self.put(message.clone(), delay);
        Ok(())
    }
}

impl Sender for FakeQueue {
    async fn send(&self, message: &Message) -> Result<(), ServiceError> {
        self.wait(|state| state.send_delay).await;
        self.accept(message, Duration::ZERO)
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        let (mut results, mut failed): (Vec<Result<(), ServiceError>>, _) =
            (Vec::new(), BTreeMap::new());
        for message in messages {
            // As the adapter of SQS does: of a group in order, nothing is sent behind what failed.
            let before = failed.get(&message.group).filter(|_| self.is_fifo());
            let result = match before.cloned() {
                Some(error) => Err(error),
                None => self.send(message).await,
            };
            if let Err(error) = &result {
                failed.insert(message.group.clone(), error.clone());
            }
            results.push(result);
        }
        results
    }

    async fn send_delayed(
        &self,
        messages: &[(Message, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        let mut results = Vec::new();
        for (message, delay) in messages {
            self.wait(|state| state.send_delay).await;
            let whole = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            let delay = Duration::from_secs(whole).min(LONGEST_DELAY);
            results.push(self.accept(message, delay));
        }
        results
    }
}

impl VisibilityTimeout for FakeQueue {
    async fn change_visibility(
        &self,
        changes: &[(ReceiptHandle, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        self.wait(|state| state.change_delay).await;
        let now = Instant::now();
        let change = |(receipt, visibility): &(ReceiptHandle, Duration)| {
            let mut state = self.working()?;
            state
                .visibility_changes
                .push((receipt.clone(), *visibility));
            match state
                .by_receipt(receipt)
                .filter(|entry| entry.visible_at > now)
            {
                Some(entry) => {
                    let seconds = visibility.as_secs() + u64::from(visibility.subsec_nanos() > 0);
                    entry.visible_at = now + Duration::from_secs(seconds);
                }
                None => return Err(Service::Sqs.refused("MessageNotInflight")),
            }
            Ok(())
        };
        let results = changes.iter().map(change).collect();
        self.changed.notify_waiters();
        results
    }
}

impl Receiver for FakeQueue {
    async fn receive(
        &self,
        most: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<ReceivedMessage>, ServiceError> {
        self.wait(|state| state.receive_delay).await;
        let until = Instant::now() + wait;
        loop {
            if self.working()?.receives_refused {
                return Err(unavailable());
            }
            let records = self.hand_out(most.min(RECEIVED_AT_ONCE), visibility);
            if !records.is_empty() || timeout_at(until, self.until_visible()).await.is_err() {
                return Ok(records);
            }
        }
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), ServiceError>> {
        let delete = |receipt: &ReceiptHandle| {
            let mut state = self.working()?;
            if state.fifo.is_some() {
                let is_current = |entry: &mut Entry| entry.visible_at > Instant::now();
                if !state.by_receipt(receipt).is_some_and(is_current) {
                    return Err(Service::Sqs.refused("the receipt handle has expired"));
                }
                state.retain(|entry| entry.receipt.as_ref() != Some(receipt));
                return Ok(());
            }
            let comes_back = state
                .disorder
                .as_mut()
                .is_some_and(|rng| rng.u32(..COMES_BACK) == 0);
            if comes_back {
                if let Some(entry) = state.by_receipt(receipt) {
                    entry.is_deleted = true;
                }
            } else {
                // An older receipt of a message that was received again deletes nothing, and that
                // is no error.
                state.retain(|entry| entry.receipt.as_ref() != Some(receipt));
            }
            Ok(())
        };
        let results = receipts.iter().map(delete).collect();
        if self.is_fifo() {
            // The rest of a group may be visible now.
            self.changed.notify_waiters();
        }
        results
    }
}

impl Countable for FakeQueue {
    async fn depth(&self) -> Result<QueueDepth, ServiceError> {
        let now = Instant::now();
        let state = self.working()?;
        let visible = state
            .entries
            .iter()
            .filter(|entry| entry.visible_at <= now)
            .count();
        let hidden = (state.entries.len() - visible) as u64;
        let late = state.late_count.filter(|(_, until)| *until > now);
        Ok(QueueDepth {
            visible: visible as u64,
            in_flight: late.map_or(hidden, |(count, _)| hidden.max(count)),
            delayed: 0,
        })
    }

    async fn age(&self) -> Result<Option<Duration>, ServiceError> {
        let now = FakeClock.now();
        let oldest = self
            .working()?
            .entries
            .iter()
            .map(|entry| entry.sent_at)
            .min();
        Ok(oldest.and_then(|sent_at| Duration::try_from(now.duration_since(sent_at)).ok()))
    }
}

impl Redrive for FakeQueue {
    async fn start_move(&self, rate: Option<u32>) -> Result<(), ServiceError> {
        let mut state = self.working()?;
        if state.moves_refused || state.moves.last().is_some_and(MoveTask::is_active) {
            return Err(Service::Sqs.refused("no task can be started, or one is running"));
        }
        let task = state.moves.len();
        let to_move = state.entries.len() as u64;
        state.moves.push(MoveTask {
            status: "RUNNING".to_owned(),
            moved: 0,
            to_move: Some(to_move),
            rate_per_second: rate,
            failure: None,
            started_at: Some(FakeClock.now()),
            handle: Some(format!("task-{task}")),
        });
        if let Some(destination) = state.moves_to.clone() {
            tokio::spawn(self.clone().carry_out_move(
                destination,
                task,
                rate.unwrap_or(MOVED_PER_SECOND),
            ));
        }
        Ok(())
    }

    async fn latest_move(&self) -> Result<Option<MoveTask>, ServiceError> {
        Ok(self.working()?.moves.last().cloned())
    }

    async fn cancel_move(&self, handle: &str) -> Result<(), ServiceError> {
        let mut state = self.working()?;
        for task in &mut state.moves {
            if task.handle.as_deref() == Some(handle) {
                "CANCELLED".clone_into(&mut task.status);
                task.handle = None;
            }
        }
        Ok(())
    }
}
