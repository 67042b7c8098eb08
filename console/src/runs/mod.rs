//! Runs that the operator started; they continue whichever page is open.
//!
//! A run handles dead letters by their ids, a step at a time, so that it shows its progress and can
//! be cancelled between steps. The ids are fixed at the start: an event that dies again is not
//! handled twice by the same run.

mod run;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use self::run::{End, Order, Progress, Run};
use self::worker::Worker;
use crate::lock::Lock;
use crate::relay::Relay;

/// All runs since the console started.
#[derive(Default)]
pub(crate) struct Runs(Lock<Started>);

#[derive(Default)]
struct Started {
    runs: BTreeMap<u32, Arc<Run>>,
    /// Ids of runs by the names that their forms gave.
    names: BTreeMap<String, u32>,
}

impl Runs {
    /// Starts a run in the background. The same form, sent again, returns the run that it started.
    pub(crate) fn start(&self, relay: &Arc<Relay>, order: Order) -> u32 {
        let Started { runs, names } = &mut *self.0.lock();
        if let Some(id) = names.get(&order.name) {
            return *id;
        }
        let name = order.name.clone();
        let id = runs.keys().next_back().map_or(1, |newest| newest + 1);
        let run = Arc::new(Run::new(id, order));
        runs.insert(id, Arc::clone(&run));
        names.insert(name, id);
        let relay = Arc::clone(relay);
        tokio::spawn(Worker { relay, run }.work());
        id
    }

    /// Lets a run that has stopped go on; one that is in progress continues as it is.
    pub(crate) fn go_on(relay: &Arc<Relay>, run: Arc<Run>) {
        if run.reopen() {
            let relay = Arc::clone(relay);
            tokio::spawn(Worker { relay, run }.work());
        }
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<Run>> {
        self.0.lock().runs.get(&id).cloned()
    }

    /// All runs, newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        self.0.lock().runs.values().rev().cloned().collect()
    }
}
