//! The moments of an event's life: its receipt, attempts, and operators' actions.

use genesys_relay::dead_letters::api::{AttemptDetails, EventDetails};
use genesys_relay::domain::event_record::StateName;
use jiff::Timestamp;
use maud::{Markup, html};

use super::elements::time;

/// A moment of an event's life.
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) what: Markup,
}

/// Attempts that are no longer stored.
pub(super) fn attempts_before(event: &EventDetails) -> usize {
    let made = usize::try_from(event.attempts_made).unwrap_or(usize::MAX);
    made.saturating_sub(event.attempts.len())
}

/// The moments of an event in the order of time, its receipt first.
pub(super) fn moments(event: &EventDetails) -> Vec<Moment> {
    let received = html! { "Received from " (event.source) };
    let mut moments = vec![Moment {
        at: event.received_at,
        what: received,
    }];
    let newest = event.attempts.len().saturating_sub(1);
    for (place, made) in event.attempts.iter().enumerate() {
        // The last response often says why the event is dead.
        let is_open = event.state == StateName::Dead && place == newest;
        moments.push(Moment {
            at: made.at,
            what: attempt(attempts_before(event) + place + 1, made, is_open),
        });
    }
    for action in &event.history {
        let what = html! { strong { (action.action) } " by " (action.by) @if let Some(why) = &action.why { ": " (why) } };
        moments.push(Moment {
            at: action.at,
            what,
        });
    }
    if let Some(at) = event.dead_at {
        let what = html! { strong { "Dead" } @if let Some(reason) = event.reason { ": " (reason.as_str()) } };
        moments.push(Moment { at, what });
    }
    // A stable sort: moments of the same time stay in this order.
    moments[1..].sort_by_key(|moment| moment.at);
    moments
}

fn attempt(number: usize, attempt: &AttemptDetails, is_open: bool) -> Markup {
    html! {
        strong { "Attempt " (number) } ": "
        @match (attempt.status_code, &attempt.error) {
            (Some(status), _) if (200..300).contains(&status) => { "delivered, status " (status) }
            (Some(status), _) => { "failed, status " (status) }
            (None, Some(_)) => "failed, no answer",
            (None, None) => "ended",
        }
        @if let Some(duration) = attempt.duration_ms { ", after " (duration) " ms" }
        @if let Some(error) = &attempt.error { br; (error) }
        @if let Some(response) = &attempt.response { details open[is_open] { summary { "Response of your system" } pre tabindex="0" { (response) } } }
    }
}

/// The history of one event.
pub(super) fn history(event: &EventDetails) -> Markup {
    let before = attempts_before(event);
    html! {
        section aria-labelledby="history-title" {
            h2 #history-title { "History" }
            @if before > 0 { p { "The first " (before) " attempts are no longer stored." } }
            ol.timeline { @for moment in moments(event) { li { (time(moment.at)) " " div { (moment.what) } } } }
        }
    }
}
