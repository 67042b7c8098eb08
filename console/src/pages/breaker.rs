//! The breaker's state, and the form that sets it manually.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use genesys_relay::dead_letters::api::Status;
use genesys_relay::runtime::logging::display_chain;
use maud::{Markup, html};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::elements::{time, why_field};
use crate::form::Fields;
use crate::functions::{Function, InvokeError};
use crate::problem::Problem;
use crate::state::Console;

/// Actions that the breaker function accepts, with their labels.
const ACTIONS: [(&str, &str); 3] = [
    ("open", "Open: hold all events"),
    ("close", "Close: deliver all events"),
    ("automatic", "Automatic"),
];

/// Time for which a busy breaker is asked again before the page says so.
const MAX_WAIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(1);

/// The breaker's section on the first page.
pub(super) fn section(console: &Console, status: &Status, look_seconds: u32) -> Markup {
    let breaker = status.breaker.as_ref();
    html! {
        section aria-labelledby="breaker-title" {
            h2 #breaker-title { "Breaker" }
            div #breaker data-live=(look_seconds) { (state(status)) }
            // A breaker that is off accepts no actions.
            @if breaker.is_none_or(|breaker| breaker.state != "off") {
                details {
                    summary { "Set the breaker manually" }
                    (override_form(console, ""))
                }
            }
        }
    }
}

fn override_fields(why: &str) -> Markup {
    html! {
        (why_field(true, why))
        p.buttons { @for (action, label) in ACTIONS { button name="action" value=(action) { (label) } " " } }
    }
}

fn override_form(console: &Console, why: &str) -> Markup {
    html! {
        p {
            "A manual setting stays until it is changed, or until the breaker is set to automatic. After three days of holding, \
             the waiting events go to the dead letters."
        }
        form method="post" action="/breaker" {
            (console.token_field())
            (console.acting(Function::Breaker, &override_fields(why)))
        }
    }
}

/// Names the state.
pub(super) fn name(status: &Status) -> &str {
    match &status.breaker {
        Some(breaker) => &breaker.state,
        None => "unknown",
    }
}

/// Describes what the state means for events.
pub(super) fn meaning(status: &Status) -> &'static str {
    match status.breaker.as_ref().map(|breaker| &*breaker.state) {
        None if status.breaker_error.is_some() => "Events may be held in the queue",
        None | Some("closed") => "Events are delivered",
        Some("off") => "Events are delivered; during an outage they are not held",
        Some("closing") => "Delivery resumes slowly and gets faster each minute",
        Some("exhausting") => "Events go to the dead letters: your system was down for three days",
        Some(_) => "Events are held in the queue",
    }
}

fn state(status: &Status) -> Markup {
    if let Some(error) = &status.breaker_error {
        return html! { p { "The state cannot be read: " (error) ". A later version of the relay may have written it." } };
    }
    let Some(breaker) = &status.breaker else {
        return html! { p { "No check has run yet." } };
    };
    html! {
        p {
            strong { (breaker.state) } " since " (time(breaker.since)) ": " (breaker.why)
            @if let Some(by) = &breaker.by { ", by " (by) }
            @if breaker.forced { " (set manually)" }
            ". Last check at " (time(breaker.last_run_at)) "."
        }
        @if let Some(probe) = &breaker.last_probe {
            p {
                "Probes since the breaker opened: " (breaker.probes) ". Last probe at " (time(probe.at)) ": "
                @if probe.delivered { "delivered." } @else { (probe.error.as_deref().unwrap_or("no event was waiting.")) }
            }
        }
    }
}

/// `POST /breaker`
pub(crate) async fn set(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Response, Problem> {
    let action = form.get("action").unwrap_or_default();
    if !ACTIONS.iter().any(|(known, _)| *known == action) {
        return Err(Problem::invalid("The form names no action of the breaker."));
    }
    let Some(why) = form.get("why") else {
        return Err(Problem::invalid(
            "Enter a reason: other operators see it with the breaker's state.",
        ));
    };
    let request = json!({ "action": action });
    let give_up_at = Instant::now() + MAX_WAIT;
    loop {
        let relay = &console.relay;
        match relay
            .act::<Value>(Function::Breaker, &request, Some(why))
            .await
        {
            Ok(_) => return Ok(Redirect::to("/").into_response()),
            Err(error) if error.is_temporary() && Instant::now() < give_up_at => sleep(PAUSE).await,
            Err(error) if error.is_temporary() => {
                let content = busy(&override_form(&console, why), &error);
                let page = console.page("The breaker is busy", "/", &content);
                return Ok((StatusCode::CONFLICT, page).into_response());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn busy(override_form: &Markup, error: &InvokeError) -> Markup {
    html! {
        h1 { "The breaker is busy" }
        p.problem role="alert" { (display_chain(error)) }
        p {
            "Nothing was changed. The breaker is probing your system, which takes at most three minutes. Then press the button \
             again; your reason is kept."
        }
        (override_form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::FunctionError;

    #[test]
    fn a_busy_breaker_keeps_the_reason_in_the_form() {
        let error = InvokeError::Refused(FunctionError {
            kind: "Busy".to_owned(),
            message: "breaker of the schedule is running".to_owned(),
        });
        let fields = override_fields("maintenance until four");
        let page = busy(&fields, &error).into_string();
        for text in [
            "breaker of the schedule is running",
            "Nothing was changed",
            "value=\"maintenance until four\"",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }
}
