//! A target that answers as a closure says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::domain::event::Event;
use crate::ports::target::{Delivery, Outcome, Target};

/// A target that answers as a closure says.
#[derive(Clone)]
pub struct FakeTarget {
    answer: Arc<dyn Fn(Event, u32) -> BoxFuture<'static, Outcome> + Send + Sync>,
    deliveries: Arc<AtomicUsize>,
}

impl FakeTarget {
    /// A target that answers an event, and the number of the attempt, as `answer` says.
    pub fn new<O>(answer: impl Fn(Event, u32) -> O + Send + Sync + 'static) -> Self
    where
        O: Future<Output = Outcome> + Send + 'static,
    {
        Self {
            answer: Arc::new(move |event, attempt| answer(event, attempt).boxed()),
            deliveries: Arc::default(),
        }
    }

    /// Deliveries so far.
    pub fn deliveries(&self) -> usize {
        self.deliveries.load(Ordering::Relaxed)
    }
}

impl Target for FakeTarget {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        if let Err(postponed) = delivery.turn().await {
            return Outcome::Failed(postponed);
        }
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        (self.answer)(delivery.event.clone(), delivery.attempt).await
    }

    fn address(&self) -> String {
        "a closure".to_owned()
    }
}
