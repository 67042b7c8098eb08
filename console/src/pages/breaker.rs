//! The breaker: what it is, and what the operator wants it to be.

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

use super::{time, why_field_with};
use crate::answers::Status;
use crate::functions::{Function, InvokeError};
use crate::problem::Problem;
use crate::selection::Fields;
use crate::server::Console;

/// What can be asked of it.
const ACTIONS: [(&str, &str); 3] =
    [("open", "Hold all events back"), ("close", "Let all events flow"), ("automatic", "Leave it to the breaker")];

/// A page is not waited for much longer.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(1);

/// Its part of the first page.
pub(super) fn section(console: &Console, status: &Status, look_seconds: u32) -> Markup {
    let breaker = status.breaker.as_ref();
    html! {
        section aria-labelledby="breaker-title" {
            h2 #breaker-title { "Breaker" }
            div #breaker data-live=(look_seconds) { (state(status)) }
            // One that is off can be told nothing.
            @if breaker.is_none_or(|breaker| breaker.state != "off") {
                details {
                    summary { "Hold events back or let them flow, by hand" }
                    (wish_form(console, ""))
                }
            }
        }
    }
}

fn wish_form(console: &Console, why: &str) -> Markup {
    html! {
        p {
            "It stays so until somebody says otherwise, or leaves it to the breaker again. But after three days of holding back, \
             what waits goes to the dead letters."
        }
        form method="post" action="/breaker" {
            (console.token())
            (why_field_with(true, why))
            p.buttons { @for (action, label) in ACTIONS { button name="action" value=(action) { (label) } " " } }
        }
    }
}

/// What its state is called.
pub(super) fn name(status: &Status) -> &str {
    match &status.breaker {
        Some(breaker) => &breaker.state,
        None if status.breaker_error.is_some() => "not known",
        None => "none yet",
    }
}

/// What its state means for events.
pub(super) fn meaning(status: &Status) -> &'static str {
    match status.breaker.as_ref().map(|breaker| breaker.state.as_str()) {
        None if status.breaker_error.is_some() => "Events may be held back",
        None | Some("closed") => "Events flow",
        Some("off") => "Events flow, and nothing holds them back in an outage",
        Some("closing") => "Events flow slowly, and faster each minute",
        Some("exhausting") => "Events go to the dead letters: your system was away for three days",
        Some(_) => "Events are held back",
    }
}

fn state(status: &Status) -> Markup {
    if let Some(error) = &status.breaker_error {
        return html! { p { "Its state cannot be read: " (error) ". A later version of the relay may have written it." } };
    }
    let Some(breaker) = &status.breaker else { return html! { p { "It has not looked yet." } } };
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
) -> Result<Response, Problem> {
    let action = form.get("action").unwrap_or_default();
    if !ACTIONS.iter().any(|(known, _)| *known == action) {
        return Err(Problem::invalid("The form does not say what the breaker is to be."));
    }
    let origin = console.origin(&form);
    if origin.why.is_none() {
        return Err(Problem::invalid("Say why: whoever finds the breaker so wants to know."));
    }
    let give_up = Instant::now() + PATIENCE;
    loop {
        match console.functions.invoke(Function::Breaker, origin.request(action, Map::new())).await {
            Ok(_) => return Ok(Redirect::to("/").into_response()),
            Err(error) if error.is_temporary() && Instant::now() < give_up => sleep(PAUSE).await,
            Err(error) if error.is_temporary() => return Ok(busy(&console, &error, &form)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn busy(console: &Console, error: &InvokeError, form: &Fields) -> Response {
    (StatusCode::CONFLICT, console.page("The breaker is at work", "/", &busy_content(console, error, form)))
        .into_response()
}

fn busy_content(console: &Console, error: &InvokeError, form: &Fields) -> Markup {
    html! {
        h1 { "The breaker is at work" }
        p.problem role="alert" { (display_chain(error)) }
        p {
            "Nothing was changed. It is letting an event through, to see whether your system is back, and is done within three \
             minutes. Press the button again then; what you have written is still there."
        }
        (wish_form(console, form.get("why").unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use serde_json::Value;

    use super::*;
    use crate::functions::{Functions, Refusal};
    use crate::gate::Gate;
    use crate::runs::Runs;

    struct AtWork;

    impl Functions for AtWork {
        fn invoke(&self, _: Function, _: Value) -> BoxFuture<'_, Result<Value, InvokeError>> {
            let refusal = Refusal { kind: "Busy".to_owned(), message: "breaker of the schedule is at work".to_owned() };
            std::future::ready(Err(InvokeError::Refused(refusal))).boxed()
        }
    }

    #[tokio::test]
    async fn while_the_breaker_is_at_work_the_form_keeps_the_reason() {
        let console = Console {
            functions: Arc::new(AtWork),
            gate: Arc::new(Gate::new(1)),
            runs: Runs::default(),
            place: "a test".to_owned(),
            by: "an operator".to_owned(),
        };
        let error = console.functions.invoke(Function::Breaker, Value::Null).await.expect_err("at work");
        let form = Fields::parse(b"action=open&why=maintenance+until+four");
        let page = busy_content(&console, &error, &form).into_string();
        for text in ["breaker of the schedule is at work", "Nothing was changed", "value=\"maintenance until four\""] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }
}
