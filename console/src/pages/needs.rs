//! What needs somebody, and what is only told: the first thing that the first page says.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::{age, time};
use crate::answers::{Attempts, DeadLetter, Status};
use crate::selection::Filter;

/// Fewer failed attempts than this, in two minutes, are no alarm as long as most succeed: `FailedAttemptsAlarm` of the template.
const FEW_FAILURES: u64 = 20;

/// In minutes: nothing is tried for so long although events wait.
const QUIET_MINUTES: usize = 3;

/// `EventAgeAlarm` of the template.
const OLD_EVENT_SECONDS: u64 = 30 * 60;

/// The breaker looks every minute.
const LONGEST_SILENCE: SignedDuration = SignedDuration::from_mins(5);

/// `InFlightAlarm` of the template: four fifths of what SQS allows.
const MANY_IN_FLIGHT: u64 = 96_000;

/// The part of the first page; `dead` are some of the dead letters, to say what they are.
pub(super) fn section(status: &Status, dead: &[DeadLetter]) -> Markup {
    let Lines { needs, told } = lines(status, dead);
    let is_well = needs.is_empty();
    html! {
        section.needs.well[is_well] aria-labelledby="needs-title" {
            h2 #needs-title { @if is_well { "All is well" } @else { "Needs somebody" } }
            @if is_well {
                p { "No dead letters, events flow, and none waits for long." }
            } @else {
                ul {
                    @for Line { what, runbook } in needs {
                        li { (what) ". " small { "See " code { "docs/runbooks/" (runbook) ".md" } } }
                    }
                }
            }
            @for line in told { p { (line) "." } }
        }
    }
}

/// Something that needs somebody.
struct Line {
    what: Markup,
    /// The name of its runbook.
    runbook: &'static str,
}

struct Lines {
    needs: Vec<Line>,
    told: Vec<Markup>,
}

fn lines(status: &Status, dead: &[DeadLetter]) -> Lines {
    let mut lines = Lines { needs: Vec::new(), told: Vec::new() };
    let mut need = |what: Markup, runbook: &'static str| lines.needs.push(Line { what, runbook });
    if status.dead_letters.total() > 0 {
        need(dead_letters(status, dead), "dead-letters");
    }
    if let Some(task) = status.move_task.as_ref().filter(|task| task.status == "FAILED")
        && status.dead_letters.total() > 0
    {
        let why = task.failure.as_deref().unwrap_or("SQS does not say why");
        need(html! { "The last move of the dead letters failed: " (why) }, "dead-letters");
    }
    if let Some(error) = &status.breaker_error {
        need(html! { "The state of the breaker cannot be read: " (error) }, "breaker");
    }
    let is_open = status.breaker.as_ref().is_some_and(|breaker| breaker.state == "open");
    if let Some(breaker) = &status.breaker {
        let by = breaker.by.as_deref().unwrap_or("somebody");
        match breaker.state.as_str() {
            state if breaker.forced => {
                need(html! { "The breaker is held " (state) " by hand, by " (by) ": " (breaker.why) }, "breaker");
            }
            state @ ("open" | "exhausting") => {
                need(html! { "The breaker is " (state) ": " (breaker.why) }, "target-down");
            }
            _ => {}
        }
        // By the relay's own clock, which need not be that of this machine.
        let now = status.attempts.first().map_or(breaker.last_run_at, |newest| newest.minute);
        if breaker.state != "off" && now.duration_since(breaker.last_run_at) > LONGEST_SILENCE {
            let what = html! {
                "The breaker has not looked since " (time(breaker.last_run_at)) ": it notices no outage"
            };
            need(what, "breaker");
        }
    }
    let tried: u64 = status.attempts.iter().take(QUIET_MINUTES).map(Attempts::total).sum();
    let is_waiting =
        status.queue.visible > 0 && status.queue_age_seconds.is_none_or(|age| age >= 60 * QUIET_MINUTES as u64);
    if is_waiting && tried == 0 && !is_open {
        let what = html! {
            (status.queue.visible) " events wait, and none was tried in the last " (QUIET_MINUTES) " minutes: nothing takes them"
        };
        need(what, "events-too-old");
    }
    if let Some(seconds) = status.queue_age_seconds.filter(|seconds| *seconds >= OLD_EVENT_SECONDS) {
        need(html! { "The oldest event has waited for " (age(seconds)) }, "events-too-old");
    }
    if status.queue.in_flight >= MANY_IN_FLIGHT {
        let what = html! { (status.queue.in_flight) " events are in hand or in backoff, and SQS allows 120000" };
        need(what, "in-flight-quota");
    }
    failures(&status.attempts, &mut lines);
    lines
}

fn dead_letters(status: &Status, dead: &[DeadLetter]) -> Markup {
    let count = status.dead_letters.total();
    let mut kinds: BTreeMap<(&str, Option<u16>), usize> = BTreeMap::new();
    for letter in dead {
        *kinds.entry((&letter.reason, letter.status_code)).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    html! {
        a href="/dead-letters" { (count) @if count == 1 { " dead letter" } @else { " dead letters" } }
        @if let Some(seconds) = status.dead_letters_age_seconds {
            ", the oldest received " (age(seconds)) " ago; SQS drops it 14 days after it was sent"
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

fn failures(attempts: &[Attempts], lines: &mut Lines) {
    let (all, failed) =
        attempts.iter().take(2).fold((0, 0), |(all, failed), minute| (all + minute.total(), failed + minute.failed));
    if failed == 0 {
        return;
    }
    let what = html! { (failed) " of " (all) " attempts failed in this minute and the one before" };
    if failed < FEW_FAILURES && failed * 2 < all {
        lines.told.push(what);
        return;
    }
    let what = html! {
        (what) ": your system refuses events, or is away"
        @if let Some((since, is_first)) = failing_since(attempts) {
            "; failing since " @if is_first { "before " } (since.strftime("%H:%M")) " UTC"
        }
    };
    lines.needs.push(Line { what, runbook: "target-down" });
}

/// The first minute of those with failures up to now, and whether no more minutes are known.
fn failing_since(attempts: &[Attempts]) -> Option<(Timestamp, bool)> {
    // Of the minute that has just begun, nothing may be known yet.
    let begun = attempts.iter().take(1).take_while(|minute| minute.failed == 0).count();
    let (place, first) = attempts.iter().enumerate().skip(begun).take_while(|(_, minute)| minute.failed > 0).last()?;
    Some((first.minute, place + 1 == attempts.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-15T12:00:00Z";

    /// What is said where these of the answers are different.
    fn said(change: impl FnOnce(&mut Value)) -> (Vec<(String, &'static str)>, Vec<String>) {
        let now: Timestamp = NOW.parse().expect("a time");
        let minutes: Vec<Value> = (0..15)
            .map(|ago| json!({ "minute": now - SignedDuration::from_mins(ago), "delivered": 10, "failed": 0 }))
            .collect();
        let none = json!({ "visible": 0, "inFlight": 0, "delayed": 0 });
        let breaker = json!({
            "state": "closed", "since": NOW, "why": "nothing is wrong", "by": null, "forced": false, "probes": 0,
            "lastProbe": null, "lastRunAt": NOW,
        });
        let mut status = json!({
            "queue": none, "deadLetters": none, "queueAgeSeconds": 1, "deadLettersAgeSeconds": null, "moveTask": null,
            "run": null, "breaker": breaker, "attempts": minutes,
        });
        change(&mut status);
        let lines = lines(&serde_json::from_value(status).expect("a status"), &[]);
        let needs = lines.needs.into_iter().map(|line| (line.what.into_string(), line.runbook));
        (needs.collect(), lines.told.into_iter().map(Markup::into_string).collect())
    }

    #[test]
    fn nothing_is_said_while_all_is_well() {
        let nothing = (Vec::new(), Vec::new());
        assert_eq!(said(|_| {}), nothing);
        assert_eq!(said(|status| status["breaker"] = Value::Null), nothing);
        // What has just come is about to be tried.
        let quiet = |status: &mut Value| {
            status["queue"]["visible"] = 3.into();
            (0..15).for_each(|minute| status["attempts"][minute]["delivered"] = 0.into());
        };
        assert_eq!(said(quiet), nothing);
    }

    #[test]
    fn each_outage_is_named_with_its_runbook() {
        let expect = |change: &dyn Fn(&mut Value), says: &str, runbook: &str| {
            let (needs, _) = said(change);
            assert!(needs.iter().any(|(what, book)| what.contains(says) && *book == runbook), "{says}: {needs:?}");
        };
        let quiet = |status: &mut Value| {
            status["queue"]["visible"] = 7.into();
            status["queueAgeSeconds"] = 200.into();
            (0..3).for_each(|minute| status["attempts"][minute]["delivered"] = 0.into());
        };
        expect(&quiet, "7 events wait, and none was tried in the last 3 minutes", "events-too-old");
        expect(&|status| status["queueAgeSeconds"] = 1800.into(), "has waited for 30 min", "events-too-old");
        expect(&|status| status["queue"]["inFlight"] = 96_000.into(), "96000 events are in hand", "in-flight-quota");
        expect(
            &|status| status["breaker"]["lastRunAt"] = "2026-01-15T11:54:00Z".into(),
            "has not looked since <time datetime=\"2026-01-15T11:54:00Z\">",
            "breaker",
        );
        expect(&|status| status["breaker"]["state"] = "open".into(), "The breaker is open", "target-down");
        let unreadable = |status: &mut Value| {
            status["breaker"] = Value::Null;
            status["breakerError"] = "an item of a later version".into();
        };
        expect(&unreadable, "cannot be read: an item of a later version", "breaker");
        let forced = |status: &mut Value| {
            status["breaker"]["forced"] = true.into();
            status["breaker"]["by"] = "an operator".into();
        };
        expect(&forced, "held closed by hand, by an operator", "breaker");
        let moved = |status: &mut Value| {
            status["deadLetters"]["visible"] = 1.into();
            status["moveTask"] =
                json!({ "status": "FAILED", "moved": 3, "toMove": 4, "failure": "AccessDenied", "startedAt": NOW });
        };
        expect(&moved, "failed: AccessDenied", "dead-letters");
        expect(&moved, "1 dead letter<", "dead-letters");
        let held = |status: &mut Value| {
            quiet(status);
            status["breaker"]["state"] = "open".into();
        };
        assert_eq!(said(held).0.len(), 1, "held back, and not forgotten");
    }

    #[test]
    fn few_failures_are_told_and_many_need_somebody_with_their_beginning() {
        let few = |status: &mut Value| status["attempts"][1]["failed"] = 4.into();
        assert_eq!(said(few), (vec![], vec!["4 of 24 attempts failed in this minute and the one before".to_owned()]));
        let many = |minutes: std::ops::Range<usize>| {
            let (needs, told) =
                said(|status| minutes.for_each(|minute| status["attempts"][minute]["failed"] = 20.into()));
            assert!(told.is_empty() && needs.len() == 1 && needs[0].1 == "target-down", "{needs:?} {told:?}");
            needs[0].0.clone()
        };
        assert!(many(1..4).ends_with("failing since 11:57 UTC"));
        assert!(many(0..1).ends_with("failing since 12:00 UTC"));
        assert!(many(0..15).ends_with("failing since before 11:46 UTC"));
    }
}
