//! The list of dead letters, and the dry runs before a replay or a discard.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use genesys_relay::dead_letters::api::{
    DeadLetter, Filter, List, ListRequest, ReplayRequest, Report, RequestBody,
};
use genesys_relay::domain::event::Source;
use genesys_relay::domain::failure::ReasonKind;
use maud::{Markup, html};

use super::elements::{
    choice, event_link, failures, hidden_filter, hidden_ids, moment, rate_field, table, text, time,
    why_field,
};
use crate::form::{COUNTED, EVENT_ID, Fields, list_path, nothing_selected, pairs};
use crate::functions::Function;
use crate::problem::Problem;
use crate::state::Console;

/// Dead letters on a page.
const PAGE: u32 = 100;

const REASONS: [ReasonKind; 6] = [
    ReasonKind::Exhausted,
    ReasonKind::Permanent,
    ReasonKind::Crashed,
    ReasonKind::Malformed,
    ReasonKind::Unreadable,
    ReasonKind::Unknown,
];

/// `GET /dead-letters`
pub(crate) async fn list(
    State(console): State<Arc<Console>>,
    Extension(query): Extension<Fields>,
) -> Result<Markup, Problem> {
    let (filter, next) = (query.filter()?, query.get("next"));
    let request = ListRequest {
        limit: Some(PAGE),
        next: next.map(str::to_owned),
        ..filter.clone().into()
    };
    let list: List = console.look(RequestBody::List(request)).await?;
    let is_filtered = filter != Filter::default();
    let content = html! {
        h1 { "Dead letters" }
        (filter_form(&filter))
        @if list.items.is_empty() {
            p { @if next.is_some() || list.next.is_some() { "No dead letters on this page." } @else if is_filtered { "No dead letters match the filters." } @else { "There are no dead letters." } }
        } @else {
            (selection_form(&console, &list.items, query.get("select") == Some("all"), &filter, next))
        }
        nav.paging aria-label="More dead letters" {
            @if next.is_some() { a href=(list_path(&filter, &[])) { "First page" } " " }
            @if let Some(next) = &list.next { a rel="next" href=(list_path(&filter, &[("next", next)])) { "Next page" } }
        }
        (all_section(&console, &filter, !list.items.is_empty()))
    };
    Ok(console.page("Dead letters", "/dead-letters", &content))
}

fn filter_form(filter: &Filter) -> Markup {
    let given = pairs(filter);
    html! {
        form.filter action="/dead-letters" aria-label="Filters" {
            (choice(&given, "reason", "Reason", &REASONS.map(ReasonKind::as_str)))
            (text(&given, "statusCode", "HTTP status"))
            (choice(&given, "source", "Source", &Source::ALL.map(Source::as_str)))
            (text(&given, "webhookId", "Webhook or integration"))
            (text(&given, "conversationId", "Conversation"))
            (moment(&given, "since", "Received from (UTC)"))
            (moment(&given, "until", "Received before (UTC)"))
            p.buttons { button { "Apply filters" } " " @if !given.is_empty() { a href="/dead-letters" { "Clear filters" } } }
        }
    }
}

/// The dead letters of a page, with boxes to select them and buttons for the selected.
fn selection_form(
    console: &Console,
    dead_letters: &[DeadLetter],
    are_all_selected: bool,
    filter: &Filter,
    next: Option<&str>,
) -> Markup {
    let mut select = vec![("select", "all")];
    select.extend(next.map(|next| ("next", next)));
    html! {
        form method="post" action="/replay" {
            (console.token_field())
            (hidden_filter(filter))
            p {
                (dead_letters.len()) " on this page, the first received at the top. "
                a href=(list_path(filter, &select)) { "Select all on this page" }
            }
            (listing(dead_letters, Some(are_all_selected)))
            p.buttons {
                button { "Replay selected…" } " "
                button formaction="/discard" { "Discard selected…" }
                " Both ask for confirmation."
            }
        }
    }
}

/// A table of dead letters; with `are_selected` it has boxes to select them.
fn listing(dead_letters: &[DeadLetter], are_selected: Option<bool>) -> Markup {
    let headings = "Event | Reason | Error | Source | Received | Dead since | Attempts | Replays";
    let select = are_selected.map_or("", |_| "Select | ");
    let rows = html! {
        @for dead_letter in dead_letters {
            tr {
                @if let Some(is_selected) = are_selected {
                    td { input type="checkbox" name=(EVENT_ID) value=(dead_letter.event_id) checked[is_selected] aria-label={ "Select " (dead_letter.event_id) }; }
                }
                td { (event_link(&dead_letter.event_id)) }
                td { (dead_letter.reason.as_str()) @if let Some(status) = dead_letter.status_code { " (" (status) ")" } }
                td.text { (dead_letter.error) @if let Some(at) = dead_letter.replayed_at { "; sent back to the events queue at " (time(at)) } }
                td { (dead_letter.source) @if let Some(webhook) = &dead_letter.webhook_id { br; small { (webhook) } } }
                td { (time(dead_letter.received_at)) } td { (time(dead_letter.dead_at)) }
                td.number { (dead_letter.attempts) } td.number { (dead_letter.replays) }
            }
        }
    };
    table("Dead letters", &format!("{select}{headings}"), &rows)
}

/// Actions on all dead letters, not only those of the page.
fn all_section(console: &Console, filter: &Filter, has_items: bool) -> Markup {
    let reconcile = html! {
        button name="action" value="reconcile" { "Reconcile the list with the queue" }
        " The relay does this every five minutes if the counts differ."
    };
    html! {
        section aria-labelledby="all-title" {
            h2 #all-title { "All dead letters" }
            @if has_items {
                form method="post" action="/replay" {
                    (console.token_field())
                    (hidden_filter(filter))
                    @if *filter == Filter::default() {
                        button name="which" value="all" { "Replay all dead letters…" }
                    } @else {
                        button name="which" value="matching" { "Replay all matching dead letters…" }
                    }
                }
            }
            form method="post" action="/runs" {
                (console.run_fields())
                (console.acting(Function::Replay, &reconcile))
            }
        }
    }
}

/// `POST /replay`: a dry run of the replay, and the form that starts it.
pub(crate) async fn check_replay(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Markup, Problem> {
    let (selection, filter) = (form.selection()?, form.filter()?);
    let ids = selection.event_ids.as_deref().unwrap_or_default();
    let force = form.get("force").is_some();
    let report = dry_run(&console, selection.clone(), force).await?;
    let selected = html! {
        (hidden_filter(&filter))
        (hidden_ids(ids))
        @if selection.filter.is_some() { input type="hidden" name="which" value="matching"; }
        @if selection.all.is_some() { input type="hidden" name="which" value="all"; }
    };
    // Only what the dry run found is replayed, not what matches later.
    let confirmed = html! {
        @if selection.filter.is_some() { (hidden_filter(&filter)) (hidden_ids(&report.event_ids)) }
        @else { (selected) input type="hidden" name=(COUNTED) value=(report.matched); }
    };
    let options = html! {
        (why_field(false, ""))
        (rate_field())
        p.buttons { button.strong name="action" value="replay" { "Replay " (report.matched) } " " (back(&filter)) }
    };
    let content = html! {
        h1 { "Replay: dry run" }
        p.result role="status" {
            strong { (report.matched) " would be replayed" } ". Nothing has been done yet. "
            @if let Some(remaining) = report.remaining { "The dead-letter queue holds " (remaining) "." }
        }
        @if !report.complete { p { "One run cannot handle all of them. Start another run afterwards." } }
        @if report.matched > 0 {
            form method="post" action="/runs" {
                (console.run_fields())
                (confirmed)
                @if force { input type="hidden" name="force" value="yes"; }
                (console.acting(Function::Replay, &options))
            }
        } @else { p { (back(&filter)) } }
        (failures(&report.failed, report.failures))
        @if report.failures > 0 && !force {
            form method="post" action="/replay" { (console.token_field()) (selected) button name="force" value="yes" { "Include events that reached the replay limit" } }
        }
        @if !report.items.is_empty() {
            h2 { @if report.matched > report.items.len() as u64 { "The first " (report.items.len()) " dead letters" } @else { "Dead letters" } }
            (listing(&report.items, None))
        }
    };
    Ok(console.page("Replay: dry run", "/dead-letters", &content))
}

/// `POST /discard`: a dry run of the discard, and the form that starts it.
pub(crate) async fn check_discard(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Markup, Problem> {
    let (selection, filter) = (form.selection()?, form.filter()?);
    let ids = selection.event_ids.clone().ok_or_else(nothing_selected)?;
    // A discard has no dry run of its own; the dry run of a replay finds the same events.
    let report = dry_run(&console, selection, true).await?;
    let confirm = html! {
        (why_field(true, ""))
        p.buttons { button.danger name="action" value="discard" { "Discard " (report.matched) } " " (back(&filter)) }
    };
    let content = html! {
        h1 { "Discard" }
        p.result role="status" {
            strong { (report.matched) " would be deleted permanently" } ". Copies that arrive within 15 days are deleted as well."
        }
        @if report.matched > 0 {
            form method="post" action="/runs" {
                (console.run_fields())
                (hidden_filter(&filter))
                (hidden_ids(&ids))
                (console.acting(Function::Replay, &confirm))
            }
        }
        (failures(&report.failed, report.failures))
        (listing(&report.items, None))
    };
    Ok(console.page("Discard", "/dead-letters", &content))
}

async fn dry_run(
    console: &Console,
    selection: ReplayRequest,
    force: bool,
) -> Result<Report, Problem> {
    let request = ReplayRequest {
        dry_run: true,
        force,
        ..selection
    };
    console.look(RequestBody::Replay(request)).await
}

fn back(filter: &Filter) -> Markup {
    html! { a href=(list_path(filter, &[])) { "Back" } }
}
