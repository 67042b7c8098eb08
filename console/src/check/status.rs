//! What the relay says of itself.

use std::future::ready;

use jiff::{SignedDuration, Timestamp};

use super::call::Fault;
use super::deployment::Deployment;
use super::{Named, named};

/// Time without a run of the breaker, which runs every minute, that is a failure.
const MAX_BREAKER_SILENCE: SignedDuration = SignedDuration::from_mins(5);

/// Age of the oldest event that is a failure (`EventAgeAlarm`).
const OLD_EVENT_SECONDS: u64 = 30 * 60;

/// Age of a dead letter that should be in the archive by now, in days.
const OLD_DEAD_LETTER_DAYS: u64 = 13;

const DAY: u64 = 24 * 3600;

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![
        named(
            "breaker",
            "operate/runbooks/breaker.md",
            ready(breaker(deployment)),
        ),
        named(
            "breaker-ran",
            "operate/runbooks/breaker.md",
            ready(breaker_ran(deployment)),
        ),
        named(
            "waiting-events",
            "operate/runbooks/events-too-old.md",
            ready(waiting(deployment)),
        ),
        named(
            "dead-letters",
            "operate/runbooks/dead-letters-near-retention.md",
            ready(dead_letters(deployment)),
        ),
    ]
}

fn breaker(deployment: &Deployment) -> Result<String, Fault> {
    let status = deployment.status()?;
    if let Some(error) = &status.breaker_error {
        return Fault::failed(format!("its state cannot be read: {error}"));
    }
    let Some(breaker) = &status.breaker else {
        return Fault::not_here("it has not run yet");
    };
    let says = format!("{} since {}: {}", breaker.state, breaker.since, breaker.why);
    if breaker.forced {
        let by = breaker.by.as_deref().unwrap_or("an unknown operator");
        return Fault::failed(format!(
            "{says}; set by hand by {by}, and it stays so until it is set to automatic"
        ));
    }
    if matches!(&*breaker.state, "open" | "exhausting") {
        return Fault::failed(says);
    }
    Ok(says)
}

fn breaker_ran(deployment: &Deployment) -> Result<String, Fault> {
    let Some(breaker) = &deployment.status()?.breaker else {
        return Fault::not_here("it has not run yet");
    };
    let says = format!("its last run was at {}", breaker.last_run_at);
    if breaker.state != "off"
        && Timestamp::now().duration_since(breaker.last_run_at) > MAX_BREAKER_SILENCE
    {
        return Fault::failed(format!("{says}; it runs every minute"));
    }
    Ok(says)
}

fn waiting(deployment: &Deployment) -> Result<String, Fault> {
    let status = deployment.status()?;
    let says = format!(
        "{} events wait, {} are in flight",
        status.queue.visible, status.queue.in_flight
    );
    match status.queue_age_seconds {
        Some(age) if age >= OLD_EVENT_SECONDS => {
            Fault::failed(format!("{says}; the oldest for {} minutes", age / 60))
        }
        Some(age) => Ok(format!("{says}; the oldest for {age} s")),
        None => Ok(says),
    }
}

fn dead_letters(deployment: &Deployment) -> Result<String, Fault> {
    let status = deployment.status()?;
    let says = format!("{} dead letters", status.dead_letters.total());
    match status.dead_letters_age_seconds {
        Some(age) if age >= OLD_DEAD_LETTER_DAYS * DAY => Fault::failed(format!(
            "{says}; the oldest is {} days old, and SQS deletes it after 14",
            age / DAY
        )),
        _ => Ok(says),
    }
}
