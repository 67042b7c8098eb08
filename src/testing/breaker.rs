//! An event source mapping and a processor in memory.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::lock;
use crate::domain::circuit::Probed;
use crate::domain::circuit::Settings;
use crate::ports::event_source::{EventSource, Prober};
use crate::ports::service::{Service, ServiceError};

/// An event source mapping in memory: enabled, with ten invocations at the same time.
#[derive(Clone)]
pub struct FakeEventSource {
    settings: Arc<Mutex<Settings>>,
    fails: Arc<AtomicBool>,
    changes: Arc<AtomicBool>,
}

impl Default for FakeEventSource {
    fn default() -> Self {
        let settings = Arc::new(Mutex::new(Settings {
            enabled: true,
            maximum_concurrency: 10,
        }));
        Self {
            settings,
            fails: Arc::default(),
            changes: Arc::default(),
        }
    }
}

impl FakeEventSource {
    /// The current settings.
    pub fn now(&self) -> Settings {
        *lock(&self.settings)
    }

    /// Makes calls fail, or work again.
    pub fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    /// Starts or ends a change in progress.
    pub fn change(&self, changes: bool) {
        self.changes.store(changes, Ordering::Relaxed);
    }

    fn working(&self) -> Result<(), ServiceError> {
        let fails = self.fails.load(Ordering::Relaxed);
        if fails {
            Err(Service::EventSourceMapping.unavailable("as a test has it"))
        } else {
            Ok(())
        }
    }
}

impl EventSource for FakeEventSource {
    async fn settings(&self) -> Result<Option<Settings>, ServiceError> {
        self.working()?;
        Ok((!self.changes.load(Ordering::Relaxed)).then(|| self.now()))
    }

    async fn set(&self, settings: Settings) -> Result<(), ServiceError> {
        self.working()?;
        *lock(&self.settings) = settings;
        Ok(())
    }
}

/// Outcomes of probes, set beforehand; without one there is no event to probe with.
#[derive(Clone, Default)]
pub struct FakeProber(Arc<Mutex<VecDeque<Result<Probed, String>>>>);

impl FakeProber {
    /// The next probe comes to this.
    pub fn will(&self, outcome: Result<Probed, String>) {
        lock(&self.0).push_back(outcome);
    }
}

impl Prober for FakeProber {
    async fn probe(
        &self,
        _delivered_at: Option<Timestamp>,
    ) -> Result<Probed, Box<dyn StdError + Send + Sync>> {
        lock(&self.0)
            .pop_front()
            .unwrap_or(Ok(Probed::Nothing))
            .map_err(Into::into)
    }
}
