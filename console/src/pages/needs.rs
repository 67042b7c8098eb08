//! The problems that need an operator's attention, at the top of the first page.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::elements::{age, time};
use crate::answers::{Attempts, DeadLetter, Status};
use crate::selection::Filter;

/// Fewer failed attempts than this in two minutes are no problem if most succeed
/// (`FailedAttemptsAlarm` in the template).
const FEW_FAILURES: u64 = 20;

/// Minutes without an attempt, while events wait, that are a problem.
const QUIET_MINUTES: usize = 3;

/// Age of the oldest event that is a problem (`EventAgeAlarm` in the template).
const OLD_EVENT_SECONDS: u64 = 30 * 60;

/// Time without a run of the breaker, which runs every minute, that is a problem.
const MAX_BREAKER_SILENCE: SignedDuration = SignedDuration::from_mins(5);

/// In-flight messages that are a problem: four fifths of SQS's quota (`InFlightAlarm` in the
/// template).
const MANY_IN_FLIGHT: u64 = 96_000;

/// The section on the first page; `dead` are the first dead letters, which it groups by reason.
pub(super) fn section(status: &Status, dead: &[DeadLetter]) -> Markup {
    let Findings { problems, notes } = findings(status, dead);
    let is_well = problems.is_empty();
    html! {
        section.needs.well[is_well] aria-labelledby="needs-title" {
            h2 #needs-title { @if is_well { "No problems" } @else { "Needs attention" } }
            @if is_well {
                p { "There are no dead letters, and events are delivered on time." }
            } @else {
                ul {
                    @for Problem { what, runbook } in problems {
                        li { (what) ". " small { "See " code { "docs/operate/runbooks/" (runbook) ".md" } } }
                    }
                }
            }
            @for note in notes { p { (note) "." } }
        }
    }
}

/// A problem that needs attention.
struct Problem {
    what: Markup,
    /// File name of its runbook, without the extension.
    runbook: &'static str,
}

struct Findings {
    problems: Vec<Problem>,
    /// Remarks that need no action.
    notes: Vec<Markup>,
}

fn findings(status: &Status, dead: &[DeadLetter]) -> Findings {
    let mut findings = Findings {
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let mut report =
        |what: Markup, runbook: &'static str| findings.problems.push(Problem { what, runbook });
    if status.dead_letters.total() > 0 {
        report(dead_letters(status, dead), "dead-letters");
    }
    if let Some(task) = status
        .move_task
        .as_ref()
        .filter(|task| task.status == "FAILED")
        && status.dead_letters.total() > 0
    {
        let why = task.failure.as_deref().unwrap_or("SQS gave no reason");
        report(
            html! { "The last redrive of the dead letters failed: " (why) },
            "dead-letters",
        );
    }
    if let Some(error) = &status.breaker_error {
        report(
            html! { "The state of the breaker cannot be read: " (error) },
            "breaker",
        );
    }
    let is_open = status
        .breaker
        .as_ref()
        .is_some_and(|breaker| breaker.state == "open");
    if let Some(breaker) = &status.breaker {
        let by = breaker.by.as_deref().unwrap_or("an unknown operator");
        match breaker.state.as_str() {
            state if breaker.forced => {
                report(
                    html! { "The breaker was manually set to " (state) " by " (by) ": " (breaker.why) },
                    "breaker",
                );
            }
            state @ ("open" | "exhausting") => {
                report(
                    html! { "The breaker is " (state) ": " (breaker.why) },
                    "target-down",
                );
            }
            _ => {}
        }
        // By the relay's clock: this machine's clock can differ.
        let now = status
            .attempts
            .first()
            .map_or(breaker.last_run_at, |newest| newest.minute);
        if breaker.state != "off" && now.duration_since(breaker.last_run_at) > MAX_BREAKER_SILENCE {
            let what = html! {
                "The breaker has not run since " (time(breaker.last_run_at)) " and cannot detect an outage"
            };
            report(what, "breaker");
        }
    }
    let attempted: u64 = status
        .attempts
        .iter()
        .take(QUIET_MINUTES)
        .map(Attempts::total)
        .sum();
    let is_waiting = status.queue.visible > 0
        && status
            .queue_age_seconds
            .is_none_or(|age| age >= 60 * QUIET_MINUTES as u64);
    if is_waiting && attempted == 0 && !is_open {
        let what = html! {
            (status.queue.visible) " events are waiting, and none was attempted in the last " (QUIET_MINUTES) " minutes: the processor does not receive them"
        };
        report(what, "events-too-old");
    }
    if let Some(seconds) = status
        .queue_age_seconds
        .filter(|seconds| *seconds >= OLD_EVENT_SECONDS)
    {
        report(
            html! { "The oldest event has been waiting for " (age(seconds)) },
            "events-too-old",
        );
    }
    if status.queue.in_flight >= MANY_IN_FLIGHT {
        let what = html! { (status.queue.in_flight) " events are in flight; SQS allows 120000" };
        report(what, "in-flight-quota");
    }
    failures(&status.attempts, &mut findings);
    findings
}

fn dead_letters(status: &Status, dead: &[DeadLetter]) -> Markup {
    let count = status.dead_letters.total();
    let mut kinds: BTreeMap<(&str, Option<u16>), usize> = BTreeMap::new();
    for dead_letter in dead {
        *kinds
            .entry((&dead_letter.reason, dead_letter.status_code))
            .or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    html! {
        a href="/dead-letters" { (count) @if count == 1 { " dead letter" } @else { " dead letters" } }
        @if let Some(seconds) = status.dead_letters_age_seconds {
            ", the oldest received " (age(seconds)) " ago; SQS deletes it 14 days after it was sent"
        }
        @if !kinds.is_empty() { @if (dead.len() as u64) < count { "; of the first " (dead.len()) ": " } @else { ": " } }
        @for (place, ((reason, status), count)) in kinds.into_iter().enumerate() {
            @if place > 0 { ", " }
            a href={ "/dead-letters?" (Filter::of_kind(reason, status).query(&[])) } {
                (count) " × " (reason) @if let Some(status) = status { " (" (status) ")" }
            }
        }
    }
}

fn failures(attempts: &[Attempts], findings: &mut Findings) {
    let (all, failed) = attempts
        .iter()
        .take(2)
        .fold((0, 0), |(all, failed), minute| {
            (all + minute.total(), failed + minute.failed)
        });
    if failed == 0 {
        return;
    }
    let what = html! { (failed) " of " (all) " attempts failed in the last two minutes" };
    if failed < FEW_FAILURES && failed * 2 < all {
        findings.notes.push(what);
        return;
    }
    let what = html! {
        (what) ": your system rejects events or is unavailable"
        @if let Some((since, is_first)) = failing_since(attempts) {
            "; failing since " @if is_first { "before " } (since.strftime("%H:%M")) " UTC"
        }
    };
    findings.problems.push(Problem {
        what,
        runbook: "target-down",
    });
}

/// Finds the first minute of an unbroken series of failures up to now. The flag is set if earlier
/// minutes are unknown.
fn failing_since(attempts: &[Attempts]) -> Option<(Timestamp, bool)> {
    // The current minute may have no counts yet.
    let begun = attempts
        .iter()
        .take(1)
        .take_while(|minute| minute.failed == 0)
        .count();
    let (place, first) = attempts
        .iter()
        .enumerate()
        .skip(begun)
        .take_while(|(_, minute)| minute.failed > 0)
        .last()?;
    Some((first.minute, place + 1 == attempts.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-15T12:00:00Z";

    /// The problems and notes for a healthy status after `change`.
    fn found(change: impl FnOnce(&mut Value)) -> (Vec<(String, &'static str)>, Vec<String>) {
        let now: Timestamp = NOW.parse().expect("a time");
        let minutes: Vec<Value> = (0..15)
            .map(|ago| json!({ "minute": now - SignedDuration::from_mins(ago), "delivered": 10, "failed": 0 }))
            .collect();
        let none = json!({ "visible": 0, "inFlight": 0, "delayed": 0 });
        let breaker = json!({
            "state": "closed", "since": NOW, "why": "deliveries succeed", "by": null, "forced": false, "probes": 0,
            "lastProbe": null, "lastRunAt": NOW,
        });
        let mut status = json!({
            "queue": none, "deadLetters": none, "queueAgeSeconds": 1, "deadLettersAgeSeconds": null, "moveTask": null,
            "run": null, "breaker": breaker, "attempts": minutes,
        });
        change(&mut status);
        let findings = findings(&serde_json::from_value(status).expect("a status"), &[]);
        let problems = findings
            .problems
            .into_iter()
            .map(|problem| (problem.what.into_string(), problem.runbook));
        (
            problems.collect(),
            findings
                .notes
                .into_iter()
                .map(Markup::into_string)
                .collect(),
        )
    }

    #[test]
    fn a_healthy_relay_has_no_problems() {
        let nothing = (Vec::new(), Vec::new());
        assert_eq!(found(|_| {}), nothing);
        assert_eq!(found(|status| status["breaker"] = Value::Null), nothing);
        // New events are about to be attempted.
        let quiet = |status: &mut Value| {
            status["queue"]["visible"] = 3.into();
            (0..15).for_each(|minute| status["attempts"][minute]["delivered"] = 0.into());
        };
        assert_eq!(found(quiet), nothing);
    }

    #[test]
    fn each_outage_is_named_with_its_runbook() {
        let expect = |change: &dyn Fn(&mut Value), says: &str, runbook: &str| {
            let (problems, _) = found(change);
            let is_named = problems
                .iter()
                .any(|(what, book)| what.contains(says) && *book == runbook);
            assert!(is_named, "{says}: {problems:?}");
        };
        let quiet = |status: &mut Value| {
            status["queue"]["visible"] = 7.into();
            status["queueAgeSeconds"] = 200.into();
            (0..3).for_each(|minute| status["attempts"][minute]["delivered"] = 0.into());
        };
        expect(
            &quiet,
            "7 events are waiting, and none was attempted in the last 3 minutes",
            "events-too-old",
        );
        expect(
            &|status| status["queueAgeSeconds"] = 1800.into(),
            "has been waiting for 30 min",
            "events-too-old",
        );
        expect(
            &|status| status["queue"]["inFlight"] = 96_000.into(),
            "96000 events are in flight",
            "in-flight-quota",
        );
        expect(
            &|status| status["breaker"]["lastRunAt"] = "2026-01-15T11:54:00Z".into(),
            "has not run since <time datetime=\"2026-01-15T11:54:00Z\">",
            "breaker",
        );
        expect(
            &|status| status["breaker"]["state"] = "open".into(),
            "The breaker is open",
            "target-down",
        );
        let unreadable = |status: &mut Value| {
            status["breaker"] = Value::Null;
            status["breakerError"] = "an item of a later version".into();
        };
        expect(
            &unreadable,
            "cannot be read: an item of a later version",
            "breaker",
        );
        let forced = |status: &mut Value| {
            status["breaker"]["forced"] = true.into();
            status["breaker"]["by"] = "an operator".into();
        };
        expect(&forced, "manually set to closed by an operator", "breaker");
        let moved = |status: &mut Value| {
            status["deadLetters"]["visible"] = 1.into();
            status["moveTask"] = json!({ "status": "FAILED", "moved": 3, "toMove": 4, "failure": "AccessDenied", "startedAt": NOW });
        };
        expect(&moved, "failed: AccessDenied", "dead-letters");
        expect(&moved, "1 dead letter<", "dead-letters");
        let held = |status: &mut Value| {
            quiet(status);
            status["breaker"]["state"] = "open".into();
        };
        assert_eq!(
            found(held).0.len(),
            1,
            "an open breaker explains waiting events"
        );
    }

    #[test]
    fn few_failures_are_a_note_and_many_are_a_problem() {
        let few = |status: &mut Value| status["attempts"][1]["failed"] = 4.into();
        assert_eq!(
            found(few),
            (
                vec![],
                vec!["4 of 24 attempts failed in the last two minutes".to_owned()]
            )
        );
        let many = |minutes: std::ops::Range<usize>| {
            let (problems, notes) = found(|status| {
                minutes.for_each(|minute| status["attempts"][minute]["failed"] = 20.into())
            });
            assert!(
                notes.is_empty() && problems.len() == 1 && problems[0].1 == "target-down",
                "{problems:?} {notes:?}"
            );
            problems[0].0.clone()
        };
        assert!(many(1..4).ends_with("failing since 11:57 UTC"));
        assert!(many(0..1).ends_with("failing since 12:00 UTC"));
        assert!(many(0..15).ends_with("failing since before 11:46 UTC"));
    }
}
