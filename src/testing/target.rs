//! A target that answers as a closure says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ports::target::{Delivery, Outcome, Target};

/// A target that answers as a closure says.
#[derive(Clone)]
pub struct FakeTarget<F> {
    answer: F,
    deliveries: Arc<AtomicUsize>,
}

impl<F> FakeTarget<F> {
    /// A target that answers an event, and the number of the attempt, as `answer` says.
    pub fn new(answer: F) -> Self {
        Self {
            answer,
            deliveries: Arc::default(),
        }
    }

    /// Deliveries so far.
    pub fn deliveries(&self) -> usize {
        self.deliveries.load(Ordering::Relaxed)
    }
}

impl<F, O> Target for FakeTarget<F>
where
    F: Fn(crate::domain::event::Event, u32) -> O + Send + Sync + 'static,
    O: Future<Output = Outcome> + Send,
{
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        (self.answer)(delivery.event.clone(), delivery.attempt).await
    }

    fn address(&self) -> String {
        "a closure".to_owned()
    }
}
