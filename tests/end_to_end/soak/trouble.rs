//! Who makes trouble: the weather on the network, a target that flaps, and a killer.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use jiff::Timestamp;
use local::faulty_proxy::{FaultyProxy, Weather};
use local::stack::{Function, Service};
use local::target::{Behaviour, Fault, Target};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Relay;
use crate::ledger::{Kill, kill_one};

/// More often flaky than all else: there most is half done.
const BAD_WEATHER: [Weather; 8] = [
    Weather::Closed,
    Weather::CutOff,
    Weather::Silent,
    Weather::AnswerLost,
    Weather::Trickling,
    Weather::Flaky,
    Weather::Flaky,
    Weather::Flaky,
];

/// All that went wrong on purpose.
#[derive(Debug)]
pub(super) struct Troubles {
    pub(super) cuts: Vec<Cut>,
    pub(super) kills: Vec<Kill>,
    /// How often the target changed its behaviour.
    pub(super) changes: usize,
    /// How often ingest was stopped.
    pub(super) outages: usize,
}

impl Troubles {
    pub(super) fn figures(&self) -> String {
        let mut text = String::new();
        for function in Function::ALL {
            let kills = self.kills.iter().filter(|kill| kill.function == function).count();
            let _ = write!(text, "{kills} kills of {function}, ");
        }
        for service in Service::ALL {
            let cuts = self.cuts.iter().filter(|cut| cut.service == service).count();
            let _ = write!(text, "{cuts} cuts of {service}, ");
        }
        text + &format!("{} outages of ingest, {} changes of the target", self.outages, self.changes)
    }
}

/// A time of bad weather on the way to a service.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) service: Service,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// Waits for some time between the two, in milliseconds, but not past `end`; gives whether that is still to come.
pub(super) async fn pause(rng: &mut Rng, least: u64, most: u64, end: Instant) -> bool {
    sleep_until(end.min(Instant::now() + Duration::from_millis(rng.u64(least..most)))).await;
    Instant::now() < end
}

/// Changes the weather on the way to a service until then, and leaves it fine.
pub(super) async fn rain(service: Service, proxy: &FaultyProxy, mut rng: Rng, end: Instant) -> Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    while pause(&mut rng, 2000, 6000, end).await {
        let from = Timestamp::now();
        proxy.set(rng.choice(BAD_WEATHER).unwrap_or(Weather::CutOff));
        pause(&mut rng, 300, 3000, end).await;
        proxy.set(Weather::Fine);
        cuts.push(Cut { service, from, to: Timestamp::now() });
    }
    Ok(cuts)
}

fn any_behaviour(rng: &mut Rng) -> Behaviour {
    let status = |code, after: Option<&str>| Behaviour::Status { code, retry_after: after.map(str::to_owned) };
    match rng.u8(..20) {
        0..=6 => Behaviour::Fine,
        7 => Behaviour::Fail(50),
        8 => status(503, Some("1")),
        9 => status(429, None),
        10 | 11 => status(404, None),
        12 => Behaviour::Slow(Duration::from_millis(300)),
        // Past the time that the relay gives it.
        13 => Behaviour::Slow(Duration::from_millis(1300)),
        14 => Behaviour::Down,
        _ => Behaviour::Wire(rng.choice(Fault::ALL).unwrap_or(Fault::Reset)),
    }
}

/// Changes the target's behaviour until then, and leaves it fine.
pub(super) async fn flap(target: &Target, mut rng: Rng, end: Instant) -> Result<usize> {
    let mut changes = 0;
    while pause(&mut rng, 500, 3000, end).await {
        target.behave(any_behaviour(&mut rng));
        changes += 1;
    }
    target.behave(Behaviour::Fine);
    Ok(changes)
}

/// Stops ingest now and then until then, for longer than senders try; gives how often.
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

/// Kills processes of the functions that work by themselves until then.
pub(super) async fn kill(relay: &Relay, mut rng: Rng, end: Instant) -> Result<Vec<Kill>> {
    let mut kills = Vec::new();
    while pause(&mut rng, 800, 3500, end).await {
        let function = if rng.bool() { Function::Processor } else { Function::Ingest };
        kills.extend(kill_one(relay, function, &mut rng)?);
    }
    Ok(kills)
}

/// Kills a process of a function a moment later.
pub(super) async fn kill_soon(relay: &Relay, function: Function, rng: &mut Rng) -> Result<Option<Kill>> {
    sleep(Duration::from_millis(rng.u64(..900))).await;
    kill_one(relay, function, rng)
}
