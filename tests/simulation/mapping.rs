//! Model of the event source mapping: its settings, and the number of concurrent invocations.

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::domain::circuit::Settings;
use genesys_relay::ports::event_source::EventSource;
use genesys_relay::ports::service::{Service, ServiceError};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::ports::Remote;

/// Time until a change takes effect; Lambda accepts no other change until then.
const CHANGE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Mapping(Arc<watch::Sender<State>>);

struct State {
    settings: Settings,
    is_changing: bool,
    running: u32,
    /// Times that it was enabled. Invocations from before may not count any more: Lambda does not
    /// document it.
    enabled: u32,
}

/// Permit for one invocation, until it is dropped.
pub(crate) struct Permit(Mapping, u32);

impl Mapping {
    pub(crate) fn new(maximum_concurrency: u32) -> Self {
        let settings = Settings {
            enabled: true,
            maximum_concurrency,
        };
        Self(Arc::new(watch::Sender::new(State {
            settings,
            is_changing: false,
            running: 0,
            enabled: 1,
        })))
    }

    /// Makes it a new one.
    pub(crate) fn reset(&self, maximum_concurrency: u32) {
        self.0.send_modify(|state| {
            state.is_changing = false;
            state.settings = Settings {
                enabled: true,
                maximum_concurrency,
            };
        });
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.0.borrow().settings.enabled
    }

    /// Waits until another invocation may begin.
    pub(crate) async fn permit(&self) -> Permit {
        let may = |state: &State| {
            state.settings.enabled && state.running < state.settings.maximum_concurrency
        };
        // The sender is kept by `self`.
        drop(self.0.subscribe().wait_for(may).await);
        self.0.send_modify(|state| state.running += 1);
        Permit(self.clone(), self.0.borrow().enabled)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counts = |state: &State| state.enabled == self.1;
        self.0
            .0
            .send_modify(|state| state.running -= u32::from(counts(state)));
    }
}

impl EventSource for Remote<Mapping> {
    async fn settings(&self) -> Result<Option<Settings>, ServiceError> {
        let read = async {
            let state = self.port.0.borrow();
            Ok((!state.is_changing).then_some(state.settings))
        };
        self.process.call(self.service, read, unavailable).await
    }

    async fn set(&self, settings: Settings) -> Result<(), ServiceError> {
        let set = async {
            if self.port.0.borrow().is_changing {
                return Err(
                    Service::EventSourceMapping.unavailable("another change is in progress")
                );
            }
            self.port.0.send_modify(|state| state.is_changing = true);
            let mapping = self.port.clone();
            tokio::spawn(async move {
                sleep(CHANGE).await;
                mapping.0.send_modify(|state| {
                    if settings.enabled && !state.settings.enabled {
                        (state.enabled, state.running) = (state.enabled + 1, 0);
                    }
                    (state.settings, state.is_changing) = (settings, false);
                });
            });
            Ok(())
        };
        self.process.call(self.service, set, unavailable).await
    }
}

fn unavailable<T>() -> Result<T, ServiceError> {
    Err(Service::EventSourceMapping.unavailable("injected fault"))
}
