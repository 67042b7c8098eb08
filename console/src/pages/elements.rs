//! Elements that several pages show.

use std::fmt::Display;

use genesys_relay::dead_letters::api::{Failed, MAX_RATE};
use genesys_relay::domain::queue_depth::QueueDepth;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use crate::form::{EVENT_ID, pairs};

/// Longest name or reason that the relay accepts, in characters.
const MAX_TEXT: &str = "500";

/// A time, to the second.
pub(super) fn time(time: Timestamp) -> Markup {
    html! { time datetime=(time) { (time.strftime("%Y-%m-%d %H:%M:%S")) " UTC" } }
}

/// A duration in seconds, in the unit that fits its length.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The messages of a queue that can be received, that are in flight, and that are delayed.
pub(super) fn depth(depth: QueueDepth, in_flight: &str) -> Markup {
    html! {
        p {
            (depth.visible) " waiting, " (depth.in_flight) " " (in_flight)
            @if depth.delayed > 0 { ", " (depth.delayed) " delayed" }
        }
    }
}

/// A table with these headings, which ` | ` separates; one that is too wide can be scrolled.
pub(super) fn table(label: &str, headings: &str, rows: &Markup) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr { @for heading in headings.split(" | ") { th scope="col" { (heading) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// The input for the reason, which is recorded on each event.
pub(super) fn why_field(is_required: bool, why: &str) -> Markup {
    let optional = if is_required { "" } else { " (optional)" };
    html! {
        label.field {
            span { "Reason" (optional) }
            input name="why" value=(why) maxlength=(MAX_TEXT) required[is_required] autocomplete="off";
        }
    }
}

/// The input for the largest rate of a run.
pub(super) fn rate_field() -> Markup {
    html! {
        label.field {
            span { "Maximum per second (optional)" }
            input #rate name="ratePerSecond" type="number" min="1" max=(MAX_RATE) inputmode="numeric";
        }
    }
}

/// A link to an event's page.
pub(super) fn event_link(id: impl Display) -> Markup {
    html! { a.id href={ "/events/" (id) } { (id) } }
}

/// Hidden fields that name events to the next page.
pub(super) fn hidden_ids(ids: &[impl Display]) -> Markup {
    html! { @for id in ids { input type="hidden" name=(EVENT_ID) value=(id); } }
}

/// The value of a filter's field.
fn given<'a>(filter: &'a [(String, String)], name: &str) -> &'a str {
    let field = filter.iter().find(|(given, _)| given == name);
    field.map_or("", |(_, value)| value.as_str())
}

/// A field of a filter, with a list of values to choose from.
pub(super) fn choice(
    filter: &[(String, String)],
    name: &str,
    label: &str,
    values: &[&str],
) -> Markup {
    let value = given(filter, name);
    html! {
        p {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                option value="" { "any" }
                @for choice in values { option value=(choice) selected[value == *choice] { (choice) } }
            }
        }
    }
}

/// A field of a filter for a text.
pub(super) fn text(filter: &[(String, String)], name: &str, label: &str) -> Markup {
    html! { p { label for=(name) { (label) } input id=(name) name=(name) value=(given(filter, name)); } }
}

/// A field of a filter for a time.
pub(super) fn moment(filter: &[(String, String)], name: &str, label: &str) -> Markup {
    // Browsers' fields accept no zone.
    let value = given(filter, name).trim_end_matches('Z');
    html! { p { label for=(name) { (label) } input id=(name) name=(name) type="datetime-local" step="1" value=(value); } }
}

/// Hidden fields that keep a filter.
pub(super) fn hidden_filter(filter: &impl Serialize) -> Markup {
    html! { @for (name, value) in pairs(filter) { input type="hidden" name=(name) value=(value); } }
}

/// Lists failures; `failures` counts also those that are not listed.
pub(super) fn failures(failed: &[Failed], failures: u64) -> Markup {
    let rows = html! {
        @for one in failed {
            tr {
                td { @match &one.event_id { Some(id) => (event_link(id)), None => "all" } }
                td { @match one.state { Some(state) => (state), None => "unknown" } }
                td.text { (one.error) }
            }
        }
    };
    html! {
        @if failures > 0 {
            h2 { "Failed: " (failures) }
            @if failures > failed.len() as u64 { p { "The first " (failed.len()) " failures:" } }
            (table("Failures", "Event | State | Error", &rows))
        }
    }
}
