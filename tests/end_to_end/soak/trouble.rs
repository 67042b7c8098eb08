//! Faults of the soak: of the network, of the target, and killed processes.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use jiff::Timestamp;
use local::faulty_proxy::{FaultyProxy, NetworkFault};
use local::stack::{Function, Service};
use local::target::{Behaviour, Fault, Target};
use tokio::time::{Instant, sleep, sleep_until};

use crate::ledger::{Kill, kill_one};
use crate::relay::Relay;

/// Faults to choose from; `Flaky` is the most frequent, as it leaves most work half done.
const NETWORK_FAULTS: [NetworkFault; 8] = [
    NetworkFault::Closed,
    NetworkFault::CutOff,
    NetworkFault::Silent,
    NetworkFault::AnswerLost,
    NetworkFault::Trickling,
    NetworkFault::Flaky,
    NetworkFault::Flaky,
    NetworkFault::Flaky,
];

/// Injected faults.
#[derive(Debug)]
pub(super) struct Troubles {
    pub(super) cuts: Vec<Cut>,
    pub(super) kills: Vec<Kill>,
    /// Changes of the target's behaviour.
    pub(super) changes: usize,
    /// Stops of ingest.
    pub(super) outages: usize,
}

impl Troubles {
    pub(super) fn figures(&self) -> String {
        let mut text = String::new();
        for function in Function::ALL {
            let kills = self
                .kills
                .iter()
                .filter(|kill| kill.function == function)
                .count();
            let _ = write!(text, "{kills} kills of {function}, ");
        }
        for service in Service::ALL {
            let cuts = self
                .cuts
                .iter()
                .filter(|cut| cut.service == service)
                .count();
            let _ = write!(text, "{cuts} cuts of {service}, ");
        }
        text + &format!(
            "{} outages of ingest, {} changes of the target",
            self.outages, self.changes
        )
    }
}

/// Time of a network fault on the way to a service.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) service: Service,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// Waits a random time between two bounds in milliseconds, at most until `end`; returns whether
/// `end` is still to come.
pub(super) async fn pause(rng: &mut Rng, least: u64, most: u64, end: Instant) -> bool {
    sleep_until(end.min(Instant::now() + Duration::from_millis(rng.u64(least..most)))).await;
    Instant::now() < end
}

/// Injects network faults on the way to a service until `end`.
pub(super) async fn cut(
    service: Service,
    proxy: &FaultyProxy,
    mut rng: Rng,
    end: Instant,
) -> Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    while pause(&mut rng, 2000, 6000, end).await {
        let from = Timestamp::now();
        proxy.set(rng.choice(NETWORK_FAULTS).unwrap_or(NetworkFault::CutOff));
        pause(&mut rng, 300, 3000, end).await;
        proxy.set(NetworkFault::None);
        cuts.push(Cut {
            service,
            from,
            to: Timestamp::now(),
        });
    }
    Ok(cuts)
}

fn any_behaviour(rng: &mut Rng) -> Behaviour {
    let status = |code, after: Option<&str>| Behaviour::Status {
        code,
        retry_after: after.map(str::to_owned),
    };
    match rng.u8(..20) {
        0..=6 => Behaviour::Fine,
        7 => Behaviour::Fail(50),
        8 => status(503, Some("1")),
        9 => status(429, None),
        10 | 11 => status(404, None),
        12 => Behaviour::Slow(Duration::from_millis(300)),
        // Longer than the relay waits.
        13 => Behaviour::Slow(Duration::from_millis(1300)),
        14 => Behaviour::Down,
        _ => Behaviour::Wire(rng.choice(Fault::ALL).unwrap_or(Fault::Reset)),
    }
}

/// Changes the target's behaviour until `end`, then lets it accept everything.
pub(super) async fn flap(target: &Target, mut rng: Rng, end: Instant) -> Result<usize> {
    let mut changes = 0;
    while pause(&mut rng, 500, 3000, end).await {
        target.behave(any_behaviour(&mut rng));
        changes += 1;
    }
    target.behave(Behaviour::Fine);
    Ok(changes)
}

/// Stops ingest repeatedly until `end`, each time for longer than senders retry; returns the number
/// of stops.
pub(super) async fn stop_ingest(relay: &Relay, mut rng: Rng, end: Instant) -> Result<usize> {
    let mut outages = 0;
    while pause(&mut rng, 8000, 20_000, end).await {
        relay.stack.set_running(Function::Ingest, false).await?;
        pause(&mut rng, 1500, 2500, end).await;
        relay.stack.set_running(Function::Ingest, true).await?;
        outages += 1;
    }
    Ok(outages)
}

/// Kills processes of ingest and processor until `end`.
pub(super) async fn kill(relay: &Relay, mut rng: Rng, end: Instant) -> Result<Vec<Kill>> {
    let mut kills = Vec::new();
    while pause(&mut rng, 800, 3500, end).await {
        let function = if rng.bool() {
            Function::Processor
        } else {
            Function::Ingest
        };
        kills.extend(kill_one(relay, function, &mut rng)?);
    }
    Ok(kills)
}

/// Kills a process of a function after a short random time.
pub(super) async fn kill_soon(
    relay: &Relay,
    function: Function,
    rng: &mut Rng,
) -> Result<Option<Kill>> {
    sleep(Duration::from_millis(rng.u64(..900))).await;
    kill_one(relay, function, rng)
}
