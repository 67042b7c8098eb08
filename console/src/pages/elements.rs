//! Elements that several pages show.

use jiff::Timestamp;
use maud::{Markup, html};

use crate::answers::Failed;
use crate::selection::EVENT_ID;

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

/// The input for the reason, which is recorded on each event.
pub(super) fn why_field(is_required: bool) -> Markup {
    why_field_with(is_required, "")
}

/// The input for the reason, filled in with `why`.
pub(super) fn why_field_with(is_required: bool, why: &str) -> Markup {
    html! {
        label.field {
            span { "Reason" @if !is_required { " (optional)" } }
            input name="why" value=(why) maxlength=(MAX_TEXT) required[is_required] autocomplete="off";
        }
    }
}

/// A link to an event's page.
pub(super) fn event_link(id: &str) -> Markup {
    html! { a.id href={ "/events/" (id) } { (id) } }
}

/// Hidden fields that name events to the next page.
pub(super) fn hidden_ids(ids: &[String]) -> Markup {
    html! { @for id in ids { input type="hidden" name=(EVENT_ID) value=(id); } }
}

/// Lists failures; `failures` counts also those that are not listed.
pub(super) fn failures(failed: &[Failed], failures: u64) -> Markup {
    html! {
        @if failures > 0 {
            h2 { "Failed: " (failures) }
            @if failures > failed.len() as u64 { p { "The first " (failed.len()) " failures:" } }
            table {
                thead { tr { th scope="col" { "Event" } th scope="col" { "State" } th scope="col" { "Error" } } }
                tbody {
                    @for one in failed {
                        tr {
                            td { @match &one.event_id { Some(id) => (event_link(id)), None => "all" } }
                            td { (one.state.as_deref().unwrap_or("unknown")) }
                            td { (one.error) }
                        }
                    }
                }
            }
        }
    }
}
