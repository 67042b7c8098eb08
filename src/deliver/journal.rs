//! Delivered events on their way to the journal.
//!
//! They are sent before SQS hears that their messages can go. A worker that ends earlier gets the
//! messages again and sends the events then: twice rather than never. The journal can fail, and no
//! delivery fails or is repeated for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::domain::event::Event;
use crate::domain::message::Message;
use crate::ports::queue::{ReceivedMessage, Sender};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Upper bound on the time for which a batch waits for the journal.
const LONGEST_WRITE: Duration = Duration::from_secs(3);

/// Messages of delivered events that are not in the journal's queue yet.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Vec<Message>>);

impl Journal {
    fn add(&self, message: Message) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(message);
    }

    fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: PortTypes> Processor<T> {
    /// Notes a delivered event for the journal, if the stack keeps one. It keeps no check events.
    pub(super) fn note_for_journal(&self, received: &ReceivedMessage, event: &Event) {
        if self.ports.journal.is_some() && !event.is_check() {
            let message = received.message.clone().without_reason();
            self.journal
                .add(message.with_identity(received.stamp()).named(&event.id));
        }
    }

    /// Sends the noted events to the journal's queue, until `deadline` at most, and for no longer
    /// than a call takes: the next batch waits for it.
    pub(super) async fn write_journal(&self, deadline: Instant) {
        let messages = self.journal.take();
        let Some(queue) = self.ports.journal.as_ref().filter(|_| !messages.is_empty()) else {
            return;
        };
        let deadline = deadline.min(Instant::now() + LONGEST_WRITE);
        let Ok(results) = timeout_at(deadline, queue.send_all(&messages)).await else {
            tracing::error!(
                events = messages.len(),
                "the journal's queue did not answer in time; some delivered events may be missing there"
            );
            metrics::JOURNAL_FAILED.add(messages.len() as u64);
            return;
        };
        for (message, result) in messages.iter().zip(results) {
            match result {
                Ok(()) => metrics::JOURNALLED.add(1),
                Err(error) => {
                    tracing::error!(
                        event_id = message.event_id(),
                        error = display_chain(&error),
                        "failed to send a delivered event to the journal; it is missing there"
                    );
                    metrics::JOURNAL_FAILED.add(1);
                }
            }
        }
    }
}
