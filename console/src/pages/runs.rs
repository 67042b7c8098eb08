//! The runs that the operator started: their progress and results.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Redirect;
use genesys_relay::dead_letters::api::{
    CancelRequest, DiscardRequest, MAX_MESSAGES, ReconcileRequest, ReplayRequest, RequestBody,
    ResendRequest,
};
use maud::{Markup, html};
use serde_json::Value;

use super::elements::{failures, table, time};
use super::resend;
use crate::form::{COUNTED, Fields, list_path, nothing_selected};
use crate::functions::Function;
use crate::problem::Problem;
use crate::runs::{End, Order, Progress, Run, Runs};
use crate::state::{Console, ONCE};

/// Seconds between two refreshes while a run is in progress. Only the console answers, not the
/// relay.
const LOOK_SECONDS: u32 = 2;

/// `POST /runs`
pub(crate) async fn start(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Redirect, Problem> {
    let why = form.get("why").map(str::to_owned);
    let incomplete = || Problem::invalid("The form is incomplete. Reload the page.");
    let request = request(&form, why.as_deref())?;
    let back = match &request {
        RequestBody::Resend(request) => resend::form_path(request),
        _ => list_path(&form.filter()?, &[]),
    };
    let order = Order {
        request,
        why,
        name: form.get(ONCE).ok_or_else(incomplete)?.to_owned(),
        counted: form.get(COUNTED).and_then(|count| count.parse().ok()),
        back,
    };
    let id = console.runs.start(&console.relay, order);
    Ok(Redirect::to(&format!("/runs/{id}")))
}

fn request(form: &Fields, why: Option<&str>) -> Result<RequestBody, Problem> {
    Ok(match form.get("action") {
        Some("replay") => {
            let options: ReplayRequest = form.read(&["ratePerSecond"])?;
            let request = ReplayRequest {
                rate_per_second: options.rate_per_second,
                force: form.get("force").is_some(),
                ..form.selection()?
            };
            if request.filter.is_some() {
                return Err(Problem::invalid(
                    "Start with a dry run: it names the dead letters to replay.",
                ));
            }
            RequestBody::Replay(request)
        }
        Some("discard") => RequestBody::Discard(DiscardRequest {
            event_ids: Some(form.selection()?.event_ids.ok_or_else(nothing_selected)?),
            filter: None,
            by: None,
            why: why.map(str::to_owned).ok_or_else(|| {
                Problem::invalid("Enter a reason for the discard: it is recorded on each event.")
            })?,
        }),
        Some("resend") => {
            let options: ResendRequest = form.read(&["ratePerSecond"])?;
            let missing = || Problem::invalid("Enter a reason: it is recorded on each event.");
            why.ok_or_else(missing)?;
            RequestBody::Resend(ResendRequest {
                rate_per_second: options.rate_per_second,
                max_messages: Some(MAX_MESSAGES),
                ..form.resend_selection()?
            })
        }
        Some("archive") => {
            let is_given = form.get("olderThanDays").is_some();
            let missing = || Problem::invalid("Enter the age of the dead letters to archive.");
            is_given.then_some(()).ok_or_else(missing)?;
            RequestBody::Archive(form.read(&["olderThanDays"])?)
        }
        Some("restore") => RequestBody::Restore(form.read(&["key"])?),
        Some("reconcile") => RequestBody::Reconcile(ReconcileRequest::default()),
        _ => return Err(Problem::invalid("The form names no action.")),
    })
}

/// `GET /runs`
pub(crate) async fn list(State(console): State<Arc<Console>>) -> Markup {
    let runs = console.runs.all();
    let is_live = runs.iter().any(|run| run.progress().end.is_none());
    let rows = html! {
        @for run in &runs {
            @let progress = run.progress();
            tr {
                td { a href={ "/runs/" (run.id) } { (run.action()) " " (run.id) } }
                td { (time(run.began_at)) }
                td.text { (run.order.why.as_deref().unwrap_or("")) }
                td { (progress.done + progress.under_way) " " (run.done()) }
                td { (state(run, &progress)) }
            }
        }
    };
    let content = html! {
        h1 { "Runs" }
        p { "Runs started from this console. For all operators' actions see the histories of events and the audit log." }
        @if runs.is_empty() { p { "No runs yet." } } @else {
            div #runs data-live=[is_live.then_some(LOOK_SECONDS)] {
                (table("Runs", "Run | Started | Reason | Done | State", &rows))
            }
        }
    };
    console.page("Runs", "/runs", &content)
}

/// `GET /runs/{id}`
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Path(id): Path<u32>,
) -> Result<Markup, Problem> {
    let run = console.runs.get(id).ok_or_else(no_such_run)?;
    let progress = run.progress();
    let live = progress.end.is_none().then_some(LOOK_SECONDS);
    let content = html! {
        h1 { "Run " (run.id) ": " (run.action()) }
        div #progress role="status" data-live=[live] { (shown(&run, &progress)) }
        div #cancel data-live=[live] { (cancel_form(&console, &run, &progress)) }
        div #result data-live=[live] { (result(&console, &run, &progress)) }
        p { a href=(run.order.back) { @if run.is_resend() { "Send more again" } @else { "Back to the dead letters" } } }
    };
    let title = format!("Run {id}");
    Ok(match progress.end {
        Some(_) => console.page(&title, "/runs", &content),
        None => console.changing_page(&title, "/runs", &content),
    })
}

/// `POST /runs/{id}/cancel`
pub(crate) async fn cancel(
    State(console): State<Arc<Console>>,
    Path(id): Path<u32>,
) -> Result<Redirect, Problem> {
    console.runs.get(id).ok_or_else(no_such_run)?.cancel();
    Ok(Redirect::to(&format!("/runs/{id}")))
}

/// `POST /runs/{id}/go-on`
pub(crate) async fn go_on(
    State(console): State<Arc<Console>>,
    Path(id): Path<u32>,
) -> Result<Redirect, Problem> {
    let run = console.runs.get(id).ok_or_else(no_such_run)?;
    Runs::go_on(&console.relay, run);
    Ok(Redirect::to(&format!("/runs/{id}")))
}

/// `POST /move-task/cancel`: cancels the SQS redrive, whichever operator started it.
pub(crate) async fn cancel_move_task(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Redirect, Problem> {
    let cancel = RequestBody::Cancel(CancelRequest::default());
    let (relay, why) = (&console.relay, form.get("why"));
    relay.act::<Value>(Function::Replay, cancel, why).await?;
    Ok(Redirect::to("/"))
}

fn no_such_run() -> Problem {
    Problem::not_found(
        "Run not found",
        "The console keeps runs only until it exits.",
    )
}

fn state(run: &Run, progress: &Progress) -> &'static str {
    match &progress.end {
        None if run.is_cancelled() && run.can_be_cancelled(progress) => "cancelling",
        None => "running",
        Some(End::Finished) => "finished",
        Some(End::Cancelled) => "cancelled",
        Some(End::Stopped(_)) => "stopped by an error",
    }
}

fn shown(run: &Run, progress: &Progress) -> Markup {
    html! {
        p {
            strong { (state(run, progress)) } ". "
            (progress.done + progress.under_way) @if let Some(asked) = progress.asked { " of " (asked) } " " (run.done())
            @if progress.failures > 0 { ", " (progress.failures) " failed" } "."
        }
        @if let Some(asked) = progress.asked {
            progress max=(asked.max(1)) value=(progress.looked_at + progress.under_way) aria-label="Progress" {}
        }
        @if let Some(waiting) = &progress.waiting { p { "Waiting: " (waiting) } }
        @if let Some(unheard) = &progress.unheard { p { (unheard) } }
        @if let Some(End::Stopped(error)) = &progress.end { p.problem { (error) } }
        @if let Some(note) = &progress.note { p { (note) } }
        @if run.is_resend() { p { "Name of the run: " code { (run.order.name) } ". Your system finds it in " code { "X-Relay-Resend" } "." } }
        @if progress.done > 0 && matches!(run.action(), "replay" | "resend") {
            p { @if run.is_resend() { "They are in the queue. " } @else { "They are back in the events queue. " } a href="/" { "Flow" } " shows whether your system accepts them." }
        }
    }
}

fn cancel_form(console: &Console, run: &Run, progress: &Progress) -> Markup {
    html! {
        @if run.can_be_cancelled(progress) {
            form method="post" action={ "/runs/" (run.id) "/cancel" } {
                (console.token_field())
                p.buttons { button disabled[run.is_cancelled()] { "Cancel" } " The current step finishes. Finished steps are not undone." }
            }
        }
        @if run.can_go_on(progress) {
            form method="post" action={ "/runs/" (run.id) "/go-on" } {
                (console.token_field())
                (console.acting(Function::Replay, &html! { p.buttons { button { "Go on" } " Continues where it stopped, under the same name. What it has done is not done again." } }))
            }
        }
    }
}

fn result(console: &Console, run: &Run, progress: &Progress) -> Markup {
    html! {
        @if progress.recorded > 0 { p { (progress.recorded) " records were created or corrected." } }
        @if progress.removed > 0 { p { (progress.removed) " copies of delivered or discarded events were removed." } }
        @if let Some(remaining) = progress.remaining.filter(|_| !run.is_resend()) { p { (remaining) " dead letters are left (approximate count of SQS)." } }
        (failures(&progress.failed, progress.failures))
        @if !progress.keys.is_empty() {
            h2 { "Written to the archive" }
            ul {
                @for key in &progress.keys {
                    li {
                        form method="post" action="/runs" {
                            (console.run_fields())
                            input type="hidden" name="key" value=(key);
                            code { (key) } " " (console.acting(Function::Replay, &html! { button name="action" value="restore" { "Restore" } }))
                        }
                    }
                }
            }
        }
        @if run.is_resend() {
            details {
                summary { "The request, to go on from a shell" }
                pre tabindex="0" { (run.request_of(console.relay.by())) }
            }
        }
        p.taken { "By " (console.relay.by()) @if let Some(why) = &run.order.why { ": " (why) } ". Started at " (time(run.began_at)) "." }
    }
}
