//! The breaker's state, and the form that sets it manually.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use genesys_relay::runtime::logging::display_chain;
use maud::{Markup, html};
use serde_json::Map;
use tokio::time::{Instant, sleep};

use super::elements::{time, why_field_with};
use crate::answers::Status;
use crate::functions::{Function, InvokeError};
use crate::problem::Problem;
use crate::runs::request;
use crate::selection::Fields;
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

fn override_form(console: &Console, why: &str) -> Markup {
    html! {
        p {
            "A manual setting stays until it is changed, or until the breaker is set to automatic. After three days of holding, \
             the waiting events go to the dead letters."
        }
        form method="post" action="/breaker" {
            (console.token_field())
            (why_field_with(true, why))
            p.buttons { @for (action, label) in ACTIONS { button name="action" value=(action) { (label) } " " } }
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
    match status
        .breaker
        .as_ref()
        .map(|breaker| breaker.state.as_str())
    {
        None if status.breaker_error.is_some() => "Events may be held in the queue",
        None | Some("closed") => "Events are delivered",
        Some("off") => "Events are delivered; during an outage they are not held",
        Some("closing") => "Delivery resumes slowly and gets faster each minute",
        Some("exhausting") => {
            "Events go to the dead letters: your system was unavailable for three days"
        }
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
    let requester = console.requester(&form);
    if requester.why.is_none() {
        return Err(Problem::invalid(
            "Enter a reason: other operators see it with the breaker's state.",
        ));
    }
    let give_up_at = Instant::now() + MAX_WAIT;
    loop {
        match console
            .functions
            .invoke(Function::Breaker, request(&requester, action, Map::new()))
            .await
        {
            Ok(_) => return Ok(Redirect::to("/").into_response()),
            Err(error) if error.is_temporary() && Instant::now() < give_up_at => sleep(PAUSE).await,
            Err(error) if error.is_temporary() => return Ok(busy(&console, &error, &form)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn busy(console: &Console, error: &InvokeError, form: &Fields) -> Response {
    (
        StatusCode::CONFLICT,
        console.page(
            "The breaker is busy",
            "/",
            &busy_content(console, error, form),
        ),
    )
        .into_response()
}

fn busy_content(console: &Console, error: &InvokeError, form: &Fields) -> Markup {
    html! {
        h1 { "The breaker is busy" }
        p.problem role="alert" { (display_chain(error)) }
        p {
            "Nothing was changed. The breaker is probing your system, which takes at most three minutes. Then press the button \
             again; your reason is kept."
        }
        (override_form(console, form.get("why").unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use serde_json::Value;

    use super::*;
    use crate::functions::{FunctionError, Functions};
    use crate::gate::Gate;
    use crate::runs::Runs;

    struct Busy;

    impl Functions for Busy {
        fn invoke(&self, _: Function, _: Value) -> BoxFuture<'_, Result<Value, InvokeError>> {
            let error = FunctionError {
                kind: "Busy".to_owned(),
                message: "breaker of the schedule is running".to_owned(),
            };
            std::future::ready(Err(InvokeError::Refused(error))).boxed()
        }
    }

    #[tokio::test]
    async fn a_busy_breaker_keeps_the_reason_in_the_form() {
        let console = Console {
            functions: Arc::new(Busy),
            gate: Arc::new(Gate::new(1)),
            runs: Runs::default(),
            place: "a test".to_owned(),
            by: "an operator".to_owned(),
        };
        let error = console
            .functions
            .invoke(Function::Breaker, Value::Null)
            .await
            .expect_err("busy");
        let form = Fields::parse(b"action=open&why=maintenance+until+four");
        let page = busy_content(&console, &error, &form).into_string();
        for text in [
            "breaker of the schedule is running",
            "Nothing was changed",
            "value=\"maintenance until four\"",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }
}
