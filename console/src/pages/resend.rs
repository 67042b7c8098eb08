//! Send delivered events again: by their ids, by the time of their delivery, or by conversation.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use genesys_relay::dead_letters::api::{MAX_MESSAGES, Report, RequestBody, ResendRequest};
use genesys_relay::domain::event::Source;
use jiff::Timestamp;
use maud::{Markup, html};
use uuid::Uuid;

use super::elements::{
    choice, event_link, failures, hidden_filter, hidden_ids, moment, rate_field, table, text,
    why_field,
};
use crate::form::{COUNTED, Fields, pairs, path};
use crate::functions::Function;
use crate::problem::Problem;
use crate::state::Console;

/// `GET /resend`: the form for a range of time.
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Extension(query): Extension<Fields>,
) -> Result<Markup, Problem> {
    let given = pairs(&query.resend_filter()?);
    let content = html! {
        h1 { "Send again" }
        p {
            "Sends events again that your system has accepted, for example because it has lost them. The journal of the relay has them: those that were delivered within "
            code { "JournalDays" } ". To send some events of one conversation again, find the conversation and select them. Dead letters are replayed, not sent again."
        }
        form.filter method="post" action="/resend" aria-label="Events to send again" {
            (console.token_field())
            (moment(&given, "since", "Delivered from (UTC)"))
            (moment(&given, "until", "Delivered before (UTC)"))
            (text(&given, "webhookId", "Webhook or integration"))
            (choice(&given, "source", "Source", &Source::ALL.map(Source::as_str)))
            (text(&given, "conversationId", "Conversation"))
            p.buttons { button { "Count them…" } }
        }
    };
    Ok(console.page("Send again", "/resend", &content))
}

/// `POST /resend`: a dry run, and the form that starts the run.
pub(crate) async fn check(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Markup, Problem> {
    let mut selection = form.resend_selection()?;
    if let Some(filter) = &mut selection.filter {
        // What is delivered from now on was not counted.
        filter.until.get_or_insert(next_second()?);
    }
    let request = ResendRequest {
        dry_run: true,
        max_messages: Some(MAX_MESSAGES),
        ..selection.clone()
    };
    let report: Report = console.look(RequestBody::Resend(request)).await?;
    let is_partial = !report.complete && report.matched <= u64::from(MAX_MESSAGES);
    let failures = failures(&report.failed, report.failures);
    let run = Uuid::new_v4().simple().to_string();
    let options = html! {
        (why_field(true, ""))
        (rate_field())
        p.buttons { button.strong name="action" value="resend" { "Send " (report.matched) " again" } " " (back(&selection)) }
    };
    let content = html! {
        h1 { "Send again: dry run" }
        p.result role="status" { strong { (report.matched) " would be sent again" } ". Nothing has been done yet." }
        @if let Some(waiting @ 1..) = report.not_yet_journalled {
            p { (waiting) " delivered events are not in the journal yet. The run writes them into it first, so it can find more." }
        }
        @if report.matched > u64::from(MAX_MESSAGES) { p { "One run sends at most " (MAX_MESSAGES) ". Choose a shorter time, and send the rest by other runs." } }
        @if is_partial {
            p.problem { "The journal could not be searched completely, so the number is a lower bound: see the failures. Choose a shorter time." }
            (failures)
        }
        @if report.matched > 0 && !is_partial {
            form method="post" action="/runs" {
                (console.named_run_fields(&run))
                @if let Some(filter) = &selection.filter { (hidden_filter(filter)) }
                (hidden_ids(selection.event_ids.as_deref().unwrap_or_default()))
                input type="hidden" name=(COUNTED) value=(report.matched);
                p {
                    "Your system gets each event once more, under the id that it had, with the header " code { "X-Relay-Resend: " (run) }
                    ". If it drops ids that it knows, it must let this run through."
                }
                (console.acting(Function::Replay, &options))
            }
        } @else { p { (back(&selection)) } }
        (hours(&report))
        @if !is_partial { (failures) }
        @if !report.event_ids.is_empty() {
            details {
                summary { @if report.matched > report.event_ids.len() as u64 { "The first " (report.event_ids.len()) " events" } @else { "Show the events" } }
                ul { @for id in &report.event_ids { li { (event_link(id)) } } }
            }
        }
    };
    Ok(console.page("Send again: dry run", "/resend", &content))
}

/// The next full second: browsers' fields of times accept no fractions.
fn next_second() -> Result<Timestamp, Problem> {
    let next = Timestamp::from_second(Timestamp::now().as_second() + 1);
    next.map_err(|error| Problem::invalid(error.to_string()))
}

/// The number of events by the hour of their delivery.
fn hours(report: &Report) -> Markup {
    let rows = html! {
        @for hour in &report.hours {
            tr { td { (hour.hour.strftime("%Y-%m-%d %H:00")) } td.number { (hour.events) } }
        }
    };
    html! {
        @if !report.hours.is_empty() {
            h2 { "By the hour of delivery" }
            (table("Events by the hour of delivery", "Hour (UTC) | Events", &rows))
        }
    }
}

/// The path of the form with the conditions of a selection.
pub(super) fn form_path(selection: &ResendRequest) -> String {
    let filter = selection.filter.clone().unwrap_or_default();
    path("/resend", &pairs(&filter), &[])
}

fn back(selection: &ResendRequest) -> Markup {
    html! { a href=(form_path(selection)) { "Back" } }
}
