//! Delivers a batch: all messages at the same time, each on its own, and those of one conversation
//! one after another where the relay keeps their order. SQS is told the outcome of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::deliver::backoff::Disposition;
use crate::deliver::order::{Line, lines};
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::deliver::renew::renew;
use crate::ports::clock::Clock;
use crate::ports::queue::ReceivedMessage;
use crate::ports::run_lease::LEASE_PAST_DEADLINE;
use crate::ports::target::{DeliveryFailure, FailureCause};
use crate::runtime::metrics;

/// Tasks that still run are aborted this long before the invocation ends, so that the rest can be
/// reported.
const REPORT_TIME: Duration = Duration::from_millis(1500);

/// New messages in place of old ones are sent by this long before the invocation ends.
const RENEWED_TIME: Duration = Duration::from_secs(1);

/// The answer is given this long before the invocation ends, whether SQS has answered or not:
/// without an answer the whole batch comes back, delivered messages included.
pub(super) const ANSWER_TIME: Duration = Duration::from_millis(500);

impl<T: PortTypes> Processor<T> {
    /// Delivers a batch, and returns the ids of the messages that SQS must keep.
    ///
    /// No task is left at `deadline`: the work of a frozen function would go on in the next
    /// invocation. A message whose delivery panics fails alone.
    pub async fn process(
        self: &Arc<Self>,
        batch: Vec<ReceivedMessage>,
        deadline: Instant,
    ) -> Vec<String> {
        if let Some(pace) = &self.pace {
            pace.begin().await;
        }
        let batch = Arc::new(batch);
        let dispositions = self.deliver_all(&batch, deadline).await;
        let (mut kept, mut spent) = (Vec::new(), Vec::new());
        for (received, disposition) in batch.iter().zip(dispositions) {
            match disposition {
                Disposition::Delete => {}
                Disposition::RetryAt(at) => kept.push((received, at)),
                Disposition::RenewAt(at) => {
                    let received_at = received.message.received_at(received.sent_at);
                    let age = self.ports.clock.now().duration_since(received_at);
                    metrics::WAITING_AGE.time(age.try_into().unwrap_or_default());
                    spent.push((received, at));
                }
            }
        }
        if !spent.is_empty() {
            let renewed =
                timeout_at(deadline - RENEWED_TIME, renew(&self.ports.events, &spent)).await;
            // What is not known to be renewed is kept, although it may come twice.
            let renewed = renewed.unwrap_or_else(|_| vec![false; spent.len()]);
            let failed = spent.into_iter().zip(renewed).filter(|(_, done)| !done);
            kept.extend(failed.map(|(spent, _)| spent));
        }
        let (visibility_set, (), ()) = tokio::join!(
            timeout_at(deadline - ANSWER_TIME, self.set_visibility(&kept)),
            self.attempts
                .write(&self.ports.table, deadline - ANSWER_TIME),
            self.write_journal(deadline - ANSWER_TIME)
        );
        if visibility_set.is_err() {
            tracing::warn!(
                messages = kept.len(),
                "no time left to change visibility timeouts; the messages come back after the queue's own"
            );
        }
        kept.into_iter()
            .map(|(received, _)| received.message_id.clone())
            .collect()
    }

    /// Delivers the lines of a batch side by side, and the messages of a line one after another. The
    /// first message of a line that must come again ends it: those behind come again at the same
    /// time, without an attempt.
    async fn deliver_all(
        self: &Arc<Self>,
        batch: &Arc<Vec<ReceivedMessage>>,
        deadline: Instant,
    ) -> Vec<Disposition> {
        let mut open = lines(batch);
        let mut tasks = JoinSet::new();
        let mut places = HashMap::new();
        let mut outcomes: Vec<Option<Result<Disposition, &str>>> = vec![None; batch.len()];
        let start = |tasks: &mut JoinSet<Disposition>, number: usize, line: &mut Line| {
            let position = line.pop_front()?;
            let (processor, batch) = (Arc::clone(self), Arc::clone(batch));
            // On the heap: a task is moved around, and this one is as large as all that it calls.
            let task = tasks.spawn(Box::pin(async move {
                processor.deliver(&batch[position], deadline).await
            }));
            Some((task.id(), (number, position)))
        };
        for (number, line) in open.iter_mut().enumerate() {
            places.extend(start(&mut tasks, number, line));
        }
        while let Ok(Some(joined)) =
            timeout_at(deadline - REPORT_TIME, tasks.join_next_with_id()).await
        {
            let Some((id, outcome)) = outcome_of(joined) else {
                continue;
            };
            let (number, position) = places[&id];
            let goes_on = matches!(outcome, Ok(Disposition::Delete));
            outcomes[position] = Some(outcome);
            if goes_on && self.has_time_for_next(deadline) {
                places.extend(start(&mut tasks, number, &mut open[number]));
            }
        }
        tasks.abort_all();
        while let Some(joined) = tasks.join_next_with_id().await {
            if let Some((id, outcome)) = outcome_of(joined) {
                outcomes[places[&id].1] = Some(outcome);
            }
        }
        for (_, position) in places.into_values() {
            outcomes[position].get_or_insert(Err("the invocation ran out of time"));
        }
        let mut dispositions = vec![Disposition::Delete; batch.len()];
        for line in lines(batch) {
            let mut comes_again_at = None;
            for position in line {
                let received = &batch[position];
                let disposition = match outcomes[position] {
                    Some(Ok(disposition)) => disposition,
                    Some(Err(detail)) => self.unfinished(received, detail, deadline),
                    // Not begun.
                    None => Disposition::RetryAt(comes_again_at.unwrap_or_else(Instant::now)),
                };
                if let Disposition::RetryAt(at) = disposition {
                    comes_again_at = Some(at);
                }
                dispositions[position] = disposition;
            }
        }
        dispositions
    }

    /// Sends back a message whose task has not ended by itself.
    fn unfinished(
        &self,
        received: &ReceivedMessage,
        detail: &str,
        deadline: Instant,
    ) -> Disposition {
        // Its lease may still hold, and would turn away a delivery before it ends.
        let disposition = self
            .backoff
            .retry_at(received, deadline + LEASE_PAST_DEADLINE);
        self.backoff.log_failure(
            received,
            None,
            &DeliveryFailure::new(FailureCause::NotSent, detail),
            disposition,
        );
        disposition
    }
}

/// The outcome of a task that has ended by itself.
fn outcome_of(
    joined: Result<(Id, Disposition), JoinError>,
) -> Option<(Id, Result<Disposition, &'static str>)> {
    match joined {
        Ok((id, disposition)) => Some((id, Ok(disposition))),
        Err(error) if error.is_panic() => Some((error.id(), Err("the delivery panicked"))),
        Err(_) => None,
    }
}
