//! What goes wrong: the weather between a function and everything it calls, and the death of functions.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::law::Invariants;
use crate::lock;
use crate::scenario::{Outage, Scenario};

/// What a function calls.
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
}

impl Service {
    /// What can be down for a while.
    pub(crate) const ALL: [Self; 7] =
        [Self::Events, Self::DeadLetters, Self::Table, Self::Archive, Self::Secrets, Self::Genesys, Self::Target];
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// It works.
    Works,
    /// It is throttled, or does not get through.
    Fails,
    /// It works, and its answer is lost.
    Unheard,
    /// It does not work, and nobody says so before the client gives up.
    Hangs,
    /// It works, and nobody says so before the client gives up.
    HangsUnheard,
}

/// Faults and other events of a run, counted by name.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

/// Faults, by a seed.
pub(crate) struct FaultPlan {
    rng: Mutex<fastrand::Rng>,
    began: Instant,
    calm: AtomicBool,
    faults_per_thousand: u32,
    crashes_per_thousand: u32,
    slowness: Duration,
    outages: Vec<Outage>,
    away: Option<(Range<Duration>, u16)>,
    death: Option<Death>,
    /// Invocations so far, by the name of the process.
    invocations: Mutex<Tally>,
    tally: Mutex<Tally>,
    indigestible: bool,
    is_mostly_fine: bool,
}

/// A death that is planned: of the process with this name, in its nth invocation from 0, after passing so many places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) of: &'static str,
    pub(crate) nth: u64,
    pub(crate) after: u32,
}

impl FaultPlan {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            rng: Mutex::new(fastrand::Rng::with_seed(scenario.seed ^ 0xfa17)),
            began: Instant::now(),
            calm: AtomicBool::new(false),
            faults_per_thousand: scenario.faults_per_thousand,
            crashes_per_thousand: scenario.crashes_per_thousand,
            slowness: scenario.slowness,
            outages: scenario.outages.clone(),
            away: scenario.away.clone(),
            death: scenario.death,
            invocations: Mutex::default(),
            tally: Mutex::default(),
            indigestible: scenario.indigestible,
            is_mostly_fine: scenario.faults_per_thousand <= 30
                && scenario.crashes_per_thousand <= 10
                && scenario.refusals_per_thousand <= 100,
        }
    }

    /// The target's answer to poison.
    pub(crate) fn answer_to_poison(&self) -> u16 {
        if self.indigestible { 500 } else { 422 }
    }

    /// From now on everything works.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, what: &'static str) {
        *lock(&self.tally).entry(what).or_default() += 1;
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Throws dice that show `yes` so many times in a thousand, in bad weather.
    pub(crate) fn strikes(&self, per_thousand: u32) -> bool {
        !self.is_calm() && lock(&self.rng).u32(..1000) < per_thousand
    }

    pub(crate) fn dice<T>(&self, throw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        throw(&mut lock(&self.rng))
    }

    /// After how many places the next invocation of a process dies, if it does.
    fn death_of(&self, name: &'static str) -> Option<u32> {
        let mut invocations = lock(&self.invocations);
        let nth = invocations.entry(name).or_default();
        *nth += 1;
        if let Some(Death { of, nth: planned, after }) = self.death {
            return (of == name && planned + 1 == *nth).then_some(after);
        }
        self.strikes(self.crashes_per_thousand).then(|| self.dice(places_before_death))
    }

    fn fate(&self, service: Service) -> CallOutcome {
        if self.is_calm() {
            return CallOutcome::Works;
        }
        let now = self.began.elapsed();
        let is_out = self.outages.iter().any(|outage| outage.service == service && outage.during.contains(&now));
        let mut rng = lock(&self.rng);
        // Even in an outage some calls get through.
        let faults = if is_out { 950 } else { self.faults_per_thousand };
        if rng.u32(..1000) >= faults {
            return CallOutcome::Works;
        }
        match rng.u32(..10) {
            0..5 => CallOutcome::Fails,
            5..8 => CallOutcome::Unheard,
            8 => CallOutcome::Hangs,
            _ => CallOutcome::HangsUnheard,
        }
    }

    /// Whether all that the breaker needs mostly works now, and the target takes what it can digest.
    pub(crate) fn is_fair(&self) -> bool {
        let now = self.began.elapsed();
        let is_out = self.outages.iter().any(|outage| outage.during.contains(&now));
        self.is_calm() || (self.is_mostly_fine && !is_out && self.away().is_none())
    }

    /// What the target answers to everything, while it does.
    pub(crate) fn away(&self) -> Option<u16> {
        let now = self.began.elapsed();
        self.away.as_ref().filter(|(during, _)| during.contains(&now)).map(|(_, status)| *status)
    }

    /// How long something on the network takes.
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

/// One process of a function: an instance that takes one invocation at a time, and that can be killed.
#[derive(Clone)]
pub(crate) struct Process(Arc<State>);

struct State {
    name: &'static str,
    weather: Arc<FaultPlan>,
    law: Arc<Invariants>,
    /// When the SDK gives up on a call.
    call_timeout: Duration,
    life: Mutex<Life>,
    /// Whether every call of the invocation worked.
    is_lucky: AtomicBool,
    killed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// No invocation is under way.
    Frozen,
    /// It dies after passing so many more places, if at all.
    Working(Option<u32>),
    Killed,
}

/// How an invocation ended that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Died;

impl Process {
    pub(crate) fn new(
        name: &'static str,
        weather: &Arc<FaultPlan>,
        law: &Arc<Invariants>,
        call_timeout: Duration,
    ) -> Self {
        Self(Arc::new(State {
            name,
            weather: Arc::clone(weather),
            law: Arc::clone(law),
            call_timeout,
            life: Mutex::new(Life::Frozen),
            is_lucky: AtomicBool::new(true),
            killed: Notify::new(),
        }))
    }

    pub(crate) fn weather(&self) -> &FaultPlan {
        &self.0.weather
    }

    pub(crate) fn law(&self) -> &Invariants {
        &self.0.law
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0.name
    }

    /// Whether every call of the last invocation worked.
    pub(crate) fn was_lucky(&self) -> bool {
        self.0.is_lucky.load(Ordering::Relaxed)
    }

    /// Something of a call went wrong.
    pub(crate) fn has_bad_luck(&self, what: &'static str) {
        self.0.is_lucky.store(false, Ordering::Relaxed);
        self.0.weather.count(what);
    }

    /// Runs one invocation until it answers, is killed at some await, or at its time-out as Lambda kills it.
    pub(crate) async fn invoke<T>(&self, time: Duration, work: impl Future<Output = T>) -> Result<T, Died> {
        let weather = &self.0.weather;
        *lock(&self.0.life) = Life::Working(weather.death_of(self.0.name));
        self.0.is_lucky.store(true, Ordering::Relaxed);
        weather.count("invocations");
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
                weather.count(how);
                self.0.law.note(|| format!("{} {how}", self.0.name));
                Err(Died)
            }
        }
    }

    /// A place where a process can die.
    async fn pass(&self) {
        let goes_on = match &mut *lock(&self.0.life) {
            Life::Working(Some(0)) | Life::Killed => false,
            Life::Working(Some(left)) => {
                *left -= 1;
                true
            }
            Life::Working(None) => true,
            Life::Frozen => {
                self.0.law.violate(&format!("{}: a task outlived its invocation", self.0.name));
                false
            }
        };
        if !goes_on {
            self.0.killed.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Calls something over the network: each side of the call is a place to die, and what lies between may fail.
    pub(crate) async fn call<T>(
        &self,
        service: Service,
        work: impl Future<Output = T>,
        unavailable: impl FnOnce() -> T,
    ) -> T {
        self.pass().await;
        let weather = &self.0.weather;
        let (there, fate, back) = (weather.latency(), weather.fate(service), weather.latency());
        self.0.law.trace(&(service as u8, fate as u8, there, back));
        pause(there).await;
        let result = match fate {
            CallOutcome::Works => work.await,
            CallOutcome::Fails => {
                self.has_bad_luck("calls failed");
                unavailable()
            }
            CallOutcome::Unheard => {
                self.has_bad_luck("answers lost");
                work.await;
                unavailable()
            }
            CallOutcome::Hangs | CallOutcome::HangsUnheard => {
                self.has_bad_luck("calls hung");
                if fate == CallOutcome::HangsUnheard {
                    work.await;
                }
                sleep(self.0.call_timeout.saturating_sub(there)).await;
                unavailable()
            }
        };
        if fate != CallOutcome::Works {
            self.0.law.note(|| format!("{}: a call to {service:?} {fate:?}", self.0.name));
        }
        pause(back).await;
        self.pass().await;
        result
    }
}

/// Early deaths are likelier: most invocations pass few places.
fn places_before_death(rng: &mut fastrand::Rng) -> u32 {
    let most = *rng.choice(&[4, 12, 40, 200]).unwrap_or(&4);
    rng.u32(..most)
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        sleep(duration).await;
    }
}
