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
use crate::functions::Functions;
use crate::lock::Lock;

/// All runs since the console started.
#[derive(Default)]
pub(crate) struct Runs(Lock<Started>);

#[derive(Default)]
struct Started {
    runs: BTreeMap<u32, Arc<Run>>,
    /// Ids of runs by the form that started them.
    forms: BTreeMap<String, u32>,
}

impl Runs {
    /// Starts a run in the background. The same form, sent again, returns the run that it started.
    pub(crate) fn start(&self, functions: &Arc<dyn Functions>, form: &str, order: Order) -> u32 {
        let Started { runs, forms } = &mut *self.0.lock();
        if let Some(id) = forms.get(form) {
            return *id;
        }
        let id = runs.keys().next_back().map_or(1, |newest| newest + 1);
        let run = Arc::new(Run::new(id, order));
        runs.insert(id, Arc::clone(&run));
        forms.insert(form.to_owned(), id);
        let functions = Arc::clone(functions);
        tokio::spawn(Worker { functions, run }.work());
        id
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<Run>> {
        self.0.lock().runs.get(&id).cloned()
    }

    /// All runs, newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        self.0.lock().runs.values().rev().cloned().collect()
    }
}
