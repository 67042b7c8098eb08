//! The problems that need an operator's attention, at the top of the first page.

use genesys_relay::dead_letters::api::{AttemptsOfMinute, DeadLetter, Filter, OrderStatus, Status};
use genesys_relay::domain::failure::ReasonKind;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::elements::{age, time};
use super::order::waiting_count;
use crate::form::list_path;

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

/// Wait of a conversation that is a problem: longer than any patience (`ConversationWaitAlarm` in the
/// template).
const LONG_WAIT: SignedDuration = SignedDuration::from_mins(20);

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

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    /// Remarks that need no action.
    notes: Vec<Markup>,
}

impl Findings {
    fn report(&mut self, runbook: &'static str, what: Markup) {
        self.problems.push(Problem { what, runbook });
    }
}

fn findings(status: &Status, dead: &[DeadLetter]) -> Findings {
    let mut findings = Findings::default();
    if status.dead_letters.total() > 0 {
        findings.report("dead-letters", dead_letters(status, dead));
        let task = status.move_task.as_ref();
        if let Some(task) = task.filter(|task| task.status == "FAILED") {
            let why = task.failure.as_deref().unwrap_or("SQS gave no reason");
            let what = html! { "The last redrive of the dead letters failed: " (why) };
            findings.report("dead-letters", what);
        }
    }
    breaker(status, &mut findings);
    waiting(status, &mut findings);
    if let Some(order) = &status.order {
        conversations(status, order, &mut findings);
    }
    failures(status, &mut findings);
    let newest = status.canary.as_ref().and_then(|canary| canary.runs.last());
    if let Some(failed) = newest.and_then(|run| run.failed.as_ref()) {
        findings.report(
            "canary",
            html! { "The newest run of the canary failed: " (failed) },
        );
    }
    findings
}

fn breaker(status: &Status, findings: &mut Findings) {
    if let Some(error) = &status.breaker_error {
        let what = html! { "The state of the breaker cannot be read: " (error) };
        findings.report("breaker", what);
    }
    let Some(breaker) = &status.breaker else {
        return;
    };
    let by = breaker.by.as_deref().unwrap_or("an unknown operator");
    match &*breaker.state {
        state if breaker.forced => {
            let what =
                html! { "The breaker was manually set to " (state) " by " (by) ": " (breaker.why) };
            findings.report("breaker", what);
        }
        state @ ("open" | "exhausting") => {
            let what = html! { "The breaker is " (state) ": " (breaker.why) };
            findings.report("target-down", what);
        }
        _ => {}
    }
    let last_run_at = breaker.last_run_at;
    let now = relay_time(status).unwrap_or(last_run_at);
    if breaker.state != "off" && now.duration_since(last_run_at) > MAX_BREAKER_SILENCE {
        let what = html! { "The breaker has not run since " (time(last_run_at)) " and cannot detect an outage" };
        findings.report("breaker", what);
    }
}

/// The beginning of the current minute by the relay's clock: this machine's clock can differ.
fn relay_time(status: &Status) -> Option<Timestamp> {
    status.attempts.first().map(|newest| newest.minute)
}

fn is_open(status: &Status) -> bool {
    let breaker = status.breaker.as_ref();
    breaker.is_some_and(|breaker| breaker.state == "open")
}

fn waiting(status: &Status, findings: &mut Findings) {
    let (queue, oldest) = (status.queue, status.queue_age_seconds);
    let newest = status.attempts.iter().take(QUIET_MINUTES);
    let attempted: u64 = newest.map(AttemptsOfMinute::total).sum();
    let is_waiting = queue.visible > 0 && oldest.is_none_or(|age| age >= 60 * QUIET_MINUTES as u64);
    if is_waiting && attempted == 0 && !is_open(status) {
        let what = html! {
            (queue.visible) " events are waiting, and none was attempted in the last " (QUIET_MINUTES) " minutes: the processor does not receive them"
        };
        findings.report("events-too-old", what);
    }
    if let Some(seconds) = oldest.filter(|seconds| *seconds >= OLD_EVENT_SECONDS) {
        let what = html! { "The oldest event has been waiting for " (age(seconds)) };
        findings.report("events-too-old", what);
    }
    let ordered = status.order.as_ref().map(|order| order.queue);
    let queues = [queue].into_iter().chain(ordered);
    for queue in queues.filter(|queue| queue.in_flight >= MANY_IN_FLIGHT) {
        let what = html! { (queue.in_flight) " events are in flight; SQS allows 120000" };
        findings.report("in-flight-quota", what);
    }
}

fn conversations(status: &Status, order: &OrderStatus, findings: &mut Findings) {
    if let Some(longest) = order.waiting.items.first() {
        let count = waiting_count(order);
        let now = relay_time(status).unwrap_or(longest.since);
        let waits = now.duration_since(longest.since);
        // An open breaker explains the wait.
        if waits > LONG_WAIT && !is_open(status) {
            let seconds = waits.as_secs().unsigned_abs();
            let what = html! {
                a href="#waiting" { (count) } " waiting for an event that fails, the longest for " (age(seconds)) ": " (longest.error.as_deref().unwrap_or("unknown error"))
            };
            findings.report("conversation-is-stuck", what);
        } else {
            let note = html! { a href="#waiting" { (count) } " waiting for an event that failed" };
            findings.notes.push(note);
        }
    }
    let dead = order.dead_letters.total();
    if dead > 0 {
        let what = html! { (dead) " messages of the ordered queue were received 1000 times without an outcome; reconcile adds them to the dead letters" };
        findings.report("conversation-is-stuck", what);
    }
}

fn dead_letters(status: &Status, dead: &[DeadLetter]) -> Markup {
    let count = status.dead_letters.total();
    let mut kinds: Vec<(ReasonKind, Option<u16>, usize)> = Vec::new();
    for DeadLetter {
        reason,
        status_code,
        ..
    } in dead
    {
        let mut known = kinds.iter_mut();
        match known.find(|kind| (kind.0, kind.1) == (*reason, *status_code)) {
            Some((.., count)) => *count += 1,
            None => kinds.push((*reason, *status_code, 1)),
        }
    }
    kinds.sort_by_key(|(.., count)| std::cmp::Reverse(*count));
    html! {
        a href="/dead-letters" { (count) @if count == 1 { " dead letter" } @else { " dead letters" } }
        @if let Some(seconds) = status.dead_letters_age_seconds {
            ", the oldest received " (age(seconds)) " ago; SQS deletes it 14 days after it was sent"
        }
        @if !kinds.is_empty() { @if (dead.len() as u64) < count { "; of the first " (dead.len()) ": " } @else { ": " } }
        @for (place, (reason, status_code, count)) in kinds.into_iter().enumerate() {
            @if place > 0 { ", " }
            @let filter = Filter { reason: Some(reason), status_code, ..Filter::default() };
            a href=(list_path(&filter, &[])) {
                (count) " × " (reason.as_str()) @if let Some(status) = status_code { " (" (status) ")" }
            }
        }
    }
}

fn failures(status: &Status, findings: &mut Findings) {
    let attempts = &status.attempts;
    let last_two = || attempts.iter().take(2);
    let all: u64 = last_two().map(AttemptsOfMinute::total).sum();
    let failed: u64 = last_two().map(|minute| minute.failed).sum();
    if failed == 0 {
        return;
    }
    let what = html! { (failed) " of " (all) " attempts failed in the last two minutes" };
    if failed < FEW_FAILURES && failed * 2 < all {
        findings.notes.push(what);
        return;
    }
    let for_credentials: u64 = last_two().map(|minute| minute.credentials_failed).sum();
    let (runbook, cause) = if for_credentials * 2 > failed {
        (
            "target-credentials",
            "your system, or its token endpoint, does not accept the relay's credentials",
        )
    } else {
        (
            "target-down",
            "your system rejects events or is unavailable",
        )
    };
    let what = html! {
        (what) ": " (cause)
        @if let Some((since, is_first)) = failing_since(attempts) {
            "; failing since " @if is_first { "before " } (since.strftime("%H:%M")) " UTC"
        }
    };
    findings.report(runbook, what);
}

/// Finds the first minute of an unbroken series of failures up to now. The flag is set if earlier
/// minutes are unknown.
fn failing_since(attempts: &[AttemptsOfMinute]) -> Option<(Timestamp, bool)> {
    // The current minute may have no counts yet.
    let begun = usize::from(attempts.first()?.failed == 0);
    let minutes = attempts.iter().enumerate().skip(begun);
    let (place, first) = minutes.take_while(|(_, minute)| minute.failed > 0).last()?;
    Some((first.minute, place + 1 == attempts.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-15T12:00:00Z";

    /// The problems with their runbooks, and the notes, for a healthy status after `change`.
    fn found(change: impl FnOnce(&mut Value)) -> (Vec<(String, &'static str)>, Vec<String>) {
        let now: Timestamp = NOW.parse().expect("a time");
        let minutes: Vec<Value> = (0..15)
            .map(|ago| json!({ "minute": now - SignedDuration::from_mins(ago), "delivered": 10, "failed": 0 }))
            .collect();
        let none = json!({ "visible": 0, "inFlight": 0, "delayed": 0 });
        let breaker = json!({
            "state": "closed", "since": NOW, "why": "deliveries succeed", "by": null,
            "forced": false, "probes": 0, "lastRunAt": NOW,
        });
        let mut status = json!({
            "queue": none, "deadLetters": none, "queueAgeSeconds": 1, "moveTask": null, "breaker": breaker,
            "breakerError": null, "attempts": minutes,
        });
        change(&mut status);
        let Findings { problems, notes } =
            findings(&serde_json::from_value(status).expect("a status"), &[]);
        let problem = |problem: Problem| (problem.what.into_string(), problem.runbook);
        let notes = notes.into_iter().map(Markup::into_string);
        (problems.into_iter().map(problem).collect(), notes.collect())
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
        // Each change is a list of paths and values.
        let expect = |changes: Value, says: &str, runbook: &str| {
            let (problems, _) = found(|status| {
                for (path, value) in changes.as_object().expect("changes") {
                    *status.pointer_mut(path).expect("a field") = value.clone();
                }
            });
            let is_named = |(what, book): &(String, &str)| what.contains(says) && *book == runbook;
            assert!(problems.iter().any(is_named), "{says}: {problems:?}");
            problems.len()
        };
        let mut quiet = json!({
            "/queue/visible": 7, "/queueAgeSeconds": 200,
            "/attempts/0/delivered": 0, "/attempts/1/delivered": 0, "/attempts/2/delivered": 0,
        });
        let says = "7 events are waiting, and none was attempted in the last 3 minutes";
        expect(quiet.clone(), says, "events-too-old");
        let says = "has been waiting for 30 min";
        expect(json!({ "/queueAgeSeconds": 1800 }), says, "events-too-old");
        let says = "96000 events are in flight";
        expect(
            json!({ "/queue/inFlight": 96_000 }),
            says,
            "in-flight-quota",
        );
        let says = "has not run since <time datetime=\"2026-01-15T11:54:00Z\">";
        expect(
            json!({ "/breaker/lastRunAt": "2026-01-15T11:54:00Z" }),
            says,
            "breaker",
        );
        let unreadable = json!({ "/breaker": null, "/breakerError": "an item of a later version" });
        expect(
            unreadable,
            "cannot be read: an item of a later version",
            "breaker",
        );
        let forced = json!({ "/breaker/forced": true, "/breaker/by": "an operator" });
        expect(forced, "manually set to closed by an operator", "breaker");
        let task = json!({ "status": "FAILED", "moved": 3, "failure": "AccessDenied" });
        let moved = json!({ "/deadLetters/visible": 1, "/moveTask": task });
        expect(moved.clone(), "failed: AccessDenied", "dead-letters");
        expect(moved, "1 dead letter<", "dead-letters");
        // An open breaker explains events that wait.
        quiet["/breaker/state"] = "open".into();
        assert_eq!(expect(quiet, "The breaker is open", "target-down"), 1);
    }

    /// A stack that keeps the order of conversations, of which one has waited since this time.
    fn with_order(status: &mut Value, waiting_since: &str) {
        let none = status["queue"].clone();
        let item = json!({
            "conversation": "c1", "eventId": "e1", "since": waiting_since, "attempts": 3,
            "nextAttemptAt": NOW, "error": "the target answered 503",
        });
        status["order"] = json!({
            "mode": "conversation", "queue": none, "deadLetters": none,
            "waiting": { "items": [item], "more": false },
        });
    }

    #[test]
    fn a_conversation_that_waits_too_long_is_a_problem() {
        let short = "2026-01-15T11:41:00Z";
        let note = "<a href=\"#waiting\">1 conversation</a> waiting for an event that failed";
        let is_note = (vec![], vec![note.to_owned()]);
        assert_eq!(found(|status| with_order(status, short)), is_note);
        let long = "2026-01-15T11:30:00Z";
        let (problems, _) = found(|status| with_order(status, long));
        let says = "the longest for 30 min: the target answered 503";
        assert!(
            matches!(&problems[..], [(what, "conversation-is-stuck")] if what.ends_with(says)),
            "{problems:?}"
        );
        // An open breaker explains the wait.
        let (problems, notes) = found(|status| {
            with_order(status, long);
            status["breaker"]["state"] = "open".into();
        });
        assert!(
            matches!(&problems[..], [(_, "target-down")]),
            "{problems:?}"
        );
        assert_eq!(notes, is_note.1);
    }

    #[test]
    fn order_without_waiting_conversations_is_no_problem() {
        let calm = |status: &mut Value| {
            with_order(status, NOW);
            status["order"]["waiting"]["items"] = json!([]);
        };
        assert_eq!(found(calm), (Vec::new(), Vec::new()));
        let (problems, _) = found(|status| {
            calm(status);
            status["order"]["deadLetters"]["visible"] = 2.into();
            status["order"]["queue"]["inFlight"] = 96_000.into();
        });
        let runbooks: Vec<_> = problems.iter().map(|(_, runbook)| *runbook).collect();
        assert_eq!(runbooks, ["in-flight-quota", "conversation-is-stuck"]);
    }

    #[test]
    fn failures_of_the_credentials_have_their_own_runbook() {
        let refused = |status: &mut Value| {
            for count in ["failed", "credentialsFailed"] {
                status["attempts"][0][count] = 30.into();
            }
        };
        let (problems, _) = found(refused);
        assert!(
            matches!(&problems[..], [(what, "target-credentials")] if what.contains("the relay's credentials")),
            "{problems:?}"
        );
    }

    #[test]
    fn few_failures_are_a_note_and_many_are_a_problem() {
        let few = |status: &mut Value| status["attempts"][1]["failed"] = 4.into();
        let note = "4 of 24 attempts failed in the last two minutes".to_owned();
        assert_eq!(found(few), (vec![], vec![note]));
        let many = |minutes: std::ops::Range<usize>| {
            let (problems, notes) = found(|status| {
                minutes.for_each(|minute| status["attempts"][minute]["failed"] = 20.into());
            });
            assert!(notes.is_empty(), "{notes:?}");
            let [(what, "target-down")] = &problems[..] else {
                panic!("{problems:?}")
            };
            what.clone()
        };
        assert!(many(1..4).ends_with("failing since 11:57 UTC"));
        assert!(many(0..1).ends_with("failing since 12:00 UTC"));
        assert!(many(0..15).ends_with("failing since before 11:46 UTC"));
    }
}
