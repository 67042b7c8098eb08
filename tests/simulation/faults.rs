//! Faults of a run: calls that fail or hang, and processes that crash.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::invariants::Invariants;
use crate::lock;
use crate::scenario::{Outage, Scenario};

/// Service that a function calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Events,
    DeadLetters,
    Table,
    Archive,
    Secrets,
    Genesys,
    Target,
    Mapping,
    TokenEndpoint,
    Ordered,
    Journal,
}

impl Service {
    /// Services that can have an outage.
    pub(crate) const ALL: [Self; 7] = [
        Self::Events,
        Self::DeadLetters,
        Self::Table,
        Self::Archive,
        Self::Secrets,
        Self::Genesys,
        Self::Target,
    ];

    /// Returns whether `other` is down while this one is.
    fn includes(self, other: Self) -> bool {
        self == other || (self == Self::Events && other == Self::Ordered)
    }
}

/// Outcome of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    Works,
    /// Throttled, or not connected.
    Fails,
    /// Takes effect, but the answer is lost.
    AnswerLost,
    /// Has no effect; the client times out.
    Hangs,
    /// Takes effect; the client times out.
    HangsAnswerLost,
}

/// Counts of faults and other events of a run, by name.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

/// Faults of one run, decided by its seed.
pub(crate) struct FaultPlan {
    rng: Mutex<fastrand::Rng>,
    began: Instant,
    ended: AtomicBool,
    faults_per_thousand: u32,
    crashes_per_thousand: u32,
    slowness: Duration,
    outages: Vec<Outage>,
    away: Option<(Range<Duration>, u16)>,
    crash: Option<PlannedCrash>,
    /// Invocations so far, by the name of the process.
    invocations: Mutex<Tally>,
    /// Processes so far.
    processes: AtomicUsize,
    tally: Mutex<Tally>,
    poison_is_retryable: bool,
    has_few_faults: bool,
}

/// Crash of the process with this name, in its nth invocation from 0, after it passed a number of
/// crash points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedCrash {
    pub(crate) of: &'static str,
    pub(crate) nth: u64,
    pub(crate) after: u32,
}

impl FaultPlan {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            rng: Mutex::new(fastrand::Rng::with_seed(scenario.seed ^ 0xfa17)),
            began: Instant::now(),
            ended: AtomicBool::new(false),
            faults_per_thousand: scenario.faults_per_thousand,
            crashes_per_thousand: scenario.crashes_per_thousand,
            slowness: scenario.slowness,
            outages: scenario.outages.clone(),
            away: scenario.away.clone(),
            crash: scenario.crash,
            invocations: Mutex::default(),
            processes: AtomicUsize::new(0),
            tally: Mutex::default(),
            poison_is_retryable: scenario.poison_is_retryable,
            has_few_faults: scenario.faults_per_thousand <= 30
                && scenario.crashes_per_thousand <= 10
                && scenario.refusals_per_thousand <= 100,
        }
    }

    /// Status that the target answers to poison.
    pub(crate) fn answer_to_poison(&self) -> u16 {
        if self.poison_is_retryable { 500 } else { 422 }
    }

    /// Ends all faults.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn have_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, what: &'static str) {
        *lock(&self.tally).entry(what).or_default() += 1;
    }

    pub(crate) fn count_many(&self, what: &'static str, count: u64) {
        *lock(&self.tally).entry(what).or_default() += count;
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Decides at random whether something fails, until the faults end.
    pub(crate) fn should_fail(&self, per_thousand: u32) -> bool {
        !self.have_ended() && lock(&self.rng).u32(..1000) < per_thousand
    }

    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        choose(&mut lock(&self.rng))
    }

    /// Crash points that the next invocation of a process passes before it crashes, if it does.
    fn crash_of(&self, name: &'static str) -> Option<u32> {
        let mut invocations = lock(&self.invocations);
        let nth = invocations.entry(name).or_default();
        *nth += 1;
        if let Some(PlannedCrash {
            of,
            nth: planned,
            after,
        }) = self.crash
        {
            return (of == name && planned + 1 == *nth).then_some(after);
        }
        self.should_fail(self.crashes_per_thousand)
            .then(|| self.random(points_before_crash))
    }

    fn outcome(&self, service: Service) -> CallOutcome {
        if self.have_ended() {
            return CallOutcome::Works;
        }
        let now = self.began.elapsed();
        let is_out = self
            .outages
            .iter()
            .any(|outage| outage.service.includes(service) && outage.during.contains(&now));
        let mut rng = lock(&self.rng);
        // Even in an outage some calls get through.
        let faults = if is_out {
            950
        } else {
            self.faults_per_thousand
        };
        if rng.u32(..1000) >= faults {
            return CallOutcome::Works;
        }
        match rng.u32(..10) {
            0..5 => CallOutcome::Fails,
            5..8 => CallOutcome::AnswerLost,
            8 => CallOutcome::Hangs,
            _ => CallOutcome::HangsAnswerLost,
        }
    }

    /// True where the breaker's services and the target work, but for rare faults.
    pub(crate) fn is_mostly_working(&self) -> bool {
        let now = self.began.elapsed();
        let is_out = self
            .outages
            .iter()
            .any(|outage| outage.during.contains(&now));
        self.have_ended() || (self.has_few_faults && !is_out && self.away().is_none())
    }

    /// Status that the target answers to everything during its outage.
    pub(crate) fn away(&self) -> Option<u16> {
        let now = self.began.elapsed();
        self.away
            .as_ref()
            .filter(|(during, _)| during.contains(&now))
            .map(|(_, status)| *status)
    }

    /// Duration of one way over the network.
    fn latency(&self) -> Duration {
        let most = u64::try_from(self.slowness.as_millis()).unwrap_or_default();
        let mut rng = lock(&self.rng);
        match rng.u32(..8) {
            0..4 => Duration::ZERO,
            4..7 => Duration::from_millis(rng.u64(..=most / 10)),
            _ => Duration::from_millis(rng.u64(..=most)),
        }
    }
}

/// Instance of a function: takes one invocation at a time, and can be killed.
#[derive(Clone)]
pub(crate) struct Process(Arc<State>);

struct State {
    name: &'static str,
    number: usize,
    faults: Arc<FaultPlan>,
    invariants: Arc<Invariants>,
    /// Time-out of the SDK for one call.
    call_timeout: Duration,
    life: Mutex<Life>,
    is_faultless: AtomicBool,
    killed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// No invocation runs.
    Frozen,
    /// An invocation runs, and crashes after this many more crash points, if at all.
    Working(Option<u32>),
    Killed,
}

/// Error of an invocation that ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crashed;

impl Process {
    pub(crate) fn new(
        name: &'static str,
        faults: &Arc<FaultPlan>,
        invariants: &Arc<Invariants>,
        call_timeout: Duration,
    ) -> Self {
        Self(Arc::new(State {
            name,
            number: faults.processes.fetch_add(1, Ordering::Relaxed),
            faults: Arc::clone(faults),
            invariants: Arc::clone(invariants),
            call_timeout,
            life: Mutex::new(Life::Frozen),
            is_faultless: AtomicBool::new(true),
            killed: Notify::new(),
        }))
    }

    pub(crate) fn faults(&self) -> &FaultPlan {
        &self.0.faults
    }

    pub(crate) fn invariants(&self) -> &Invariants {
        &self.0.invariants
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0.name
    }

    /// True where no call of the last invocation had a fault.
    pub(crate) fn ran_without_faults(&self) -> bool {
        self.0.is_faultless.load(Ordering::Relaxed)
    }

    /// A number that no other process of the run has.
    pub(crate) fn number(&self) -> usize {
        self.0.number
    }

    /// Counts a fault of a call. A fault of the journal's queue excuses nothing.
    pub(crate) fn record_fault(&self, service: Service, what: &'static str) {
        if service != Service::Journal {
            self.0.is_faultless.store(false, Ordering::Relaxed);
        }
        self.0.faults.count(what);
    }

    /// Runs one invocation until it answers, crashes at an await, or is killed at its time-out as
    /// Lambda does.
    pub(crate) async fn invoke<T>(
        &self,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Crashed> {
        let faults = &self.0.faults;
        *lock(&self.0.life) = Life::Working(faults.crash_of(self.0.name));
        self.0.is_faultless.store(true, Ordering::Relaxed);
        faults.count("invocations");
        let killed = self.0.killed.notified();
        let outcome = tokio::select! {
            biased;
            answer = work => Ok(answer),
            () = killed => Err("crashes"),
            () = sleep(time) => Err("killed at the time-out"),
        };
        match outcome {
            Ok(answer) => {
                *lock(&self.0.life) = Life::Frozen;
                Ok(answer)
            }
            Err(how) => {
                *lock(&self.0.life) = Life::Killed;
                faults.count(how);
                self.0.invariants.note(|| format!("{} {how}", self.0.name));
                Err(Crashed)
            }
        }
    }

    /// Crashes here, if this is the planned point.
    async fn crash_point(&self) {
        let continues = match &mut *lock(&self.0.life) {
            Life::Working(Some(0)) | Life::Killed => false,
            Life::Working(Some(left)) => {
                *left -= 1;
                true
            }
            Life::Working(None) => true,
            Life::Frozen => {
                self.0
                    .invariants
                    .violate(&format!("{}: a task outlived its invocation", self.0.name));
                false
            }
        };
        if !continues {
            self.0.killed.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Calls a service over the network. The process may crash before and after the call, and the
    /// call may fail.
    pub(crate) async fn call<T>(
        &self,
        service: Service,
        work: impl Future<Output = T>,
        unavailable: impl FnOnce() -> T,
    ) -> T {
        self.crash_point().await;
        let faults = &self.0.faults;
        let (there, outcome, back) = (faults.latency(), faults.outcome(service), faults.latency());
        self.0
            .invariants
            .trace(&(service as u8, outcome as u8, there, back));
        pause(there).await;
        let result = match outcome {
            CallOutcome::Works => work.await,
            CallOutcome::Fails => {
                self.record_fault(service, "calls failed");
                unavailable()
            }
            CallOutcome::AnswerLost => {
                self.record_fault(service, "answers lost");
                work.await;
                unavailable()
            }
            CallOutcome::Hangs | CallOutcome::HangsAnswerLost => {
                self.record_fault(service, "calls hung");
                if outcome == CallOutcome::HangsAnswerLost {
                    work.await;
                }
                sleep(self.0.call_timeout.saturating_sub(there)).await;
                unavailable()
            }
        };
        if outcome != CallOutcome::Works {
            self.0
                .invariants
                .note(|| format!("{}: a call to {service:?} {outcome:?}", self.0.name));
        }
        pause(back).await;
        self.crash_point().await;
        result
    }
}

/// Early crashes are more likely: most invocations pass few crash points.
fn points_before_crash(rng: &mut fastrand::Rng) -> u32 {
    let most = *rng.choice(&[4, 12, 40, 200]).unwrap_or(&4);
    rng.u32(..most)
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        sleep(duration).await;
    }
}
