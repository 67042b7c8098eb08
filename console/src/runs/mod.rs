//! Runs that the operator started; they continue whichever page is open.
//!
//! A run handles dead letters by their ids, a step at a time, so that it shows its progress and can
//! be cancelled between steps. The ids are fixed at the start: an event that dies again is not
//! handled twice by the same run.

mod run;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use genesys_relay::domain::request::Requester;

pub(crate) use self::run::{End, Progress, Run, Which, Work, request};
use self::worker::Worker;
use crate::functions::Functions;
use crate::selection::Filter;

/// All runs since the console started.
#[derive(Default)]
pub(crate) struct Runs(Mutex<Started>);

#[derive(Default)]
struct Started {
    runs: BTreeMap<u32, Arc<Run>>,
    /// Ids of runs by the form that started them.
    forms: BTreeMap<String, u32>,
}

impl Runs {
    /// Starts a run in the background. The same form, sent again, returns the run that it started.
    pub(crate) fn start(
        &self,
        functions: &Arc<dyn Functions>,
        form: &str,
        work: Work,
        requester: Requester,
        filter: Filter,
    ) -> Arc<Run> {
        let mut started = self.lock();
        let Started { runs, forms } = &mut *started;
        if let Some(run) = forms.get(form).and_then(|id| runs.get(id)) {
            return Arc::clone(run);
        }
        let id = runs.keys().next_back().map_or(1, |newest| newest + 1);
        let run = Arc::new(Run::new(id, work, requester, filter));
        runs.insert(id, Arc::clone(&run));
        forms.insert(form.to_owned(), id);
        tokio::spawn(
            Worker {
                functions: Arc::clone(functions),
                run: Arc::clone(&run),
            }
            .work(),
        );
        run
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<Run>> {
        self.lock().runs.get(&id).cloned()
    }

    /// All runs, newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        self.lock().runs.values().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Started> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
