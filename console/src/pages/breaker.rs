//! The breaker: what it is, and what the operator wants it to be.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Redirect;
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{time, why_field};
use crate::answers::Breaker;
use crate::functions::Function;
use crate::problem::Problem;
use crate::selection::Fields;
use crate::server::Console;

/// What can be asked of it.
const ACTIONS: [(&str, &str); 3] =
    [("open", "Hold all events back"), ("close", "Let all events flow"), ("automatic", "Leave it to the breaker")];

/// Its part of the first page.
pub(super) fn section(console: &Console, breaker: Option<&Breaker>) -> Markup {
    html! {
        section aria-labelledby="breaker-title" {
            h2 #breaker-title { "Breaker" }
            div #breaker data-live { (state(breaker)) }
            details {
                summary { "Say what it is to be" }
                p { "It stays so until somebody says otherwise, or leaves it to the breaker again." }
                form method="post" action="/breaker" {
                    (console.token())
                    (why_field(true))
                    p.buttons { @for (action, label) in ACTIONS { button name="action" value=(action) { (label) } " " } }
                }
            }
        }
    }
}

/// What its state means for events.
pub(super) fn meaning(breaker: Option<&Breaker>) -> &'static str {
    match breaker.map(|breaker| breaker.state.as_str()) {
        None | Some("closed") => "Events flow",
        Some("closing") => "Events flow slowly, and faster each minute",
        Some("exhausting") => "Events are let go: your system was away for too long",
        Some(_) => "Events are held back",
    }
}

fn state(breaker: Option<&Breaker>) -> Markup {
    let Some(breaker) = breaker else { return html! { p { "It has not looked yet." } } };
    html! {
        p {
            strong { (breaker.state) } " since " (time(breaker.since)) ": " (breaker.why)
            @if let Some(by) = &breaker.by { ", by " (by) }
            @if breaker.forced { " (until somebody says otherwise)" }
            ". It looked at " (time(breaker.last_run_at)) "."
        }
        @if let Some(probe) = &breaker.last_probe {
            p {
                (breaker.probes) " events were let through to see whether your system is back; the last at " (time(probe.at)) ": "
                @if probe.delivered { "delivered." } @else { (probe.error.as_deref().unwrap_or("there was none to let through")) }
            }
        }
    }
}

/// `POST /breaker`
pub(crate) async fn set(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Redirect, Problem> {
    let action = form.get("action").unwrap_or_default();
    if !ACTIONS.iter().any(|(known, _)| *known == action) {
        return Err(Problem::invalid("The form does not say what the breaker is to be."));
    }
    let origin = console.origin(&form);
    if origin.why.is_none() {
        return Err(Problem::invalid("Say why: whoever finds the breaker so wants to know."));
    }
    console.ask::<Value>(Function::Breaker, origin.request(action, Map::new())).await?;
    Ok(Redirect::to("/"))
}
