//! The list of dead letters, and the dry runs before a replay or a discard.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use genesys_relay::domain::event::Source;
use maud::{Markup, html};
use serde_json::json;

use super::elements::{event_link, failures, hidden_ids, time, why_field};
use crate::answers::{DeadLetter, List, Report};
use crate::functions::Function;
use crate::problem::Problem;
use crate::selection::{COUNTED, EVENT_ID, Fields, Filter, Selection};
use crate::state::Console;

/// Dead letters on a page.
const PAGE: u32 = 100;

const REASONS: [&str; 6] = [
    "exhausted",
    "permanent",
    "crashed",
    "malformed",
    "unreadable",
    "unknown",
];

/// `GET /dead-letters`
pub(crate) async fn list(
    State(console): State<Arc<Console>>,
    RawQuery(query): RawQuery,
) -> Result<Markup, Problem> {
    let query = Fields::parse(query.unwrap_or_default().as_bytes());
    let (filter, next) = (Filter::of(&query), query.get("next"));
    let mut request = filter.request();
    request.insert("action".to_owned(), "list".into());
    request.insert("limit".to_owned(), PAGE.into());
    if let Some(next) = next {
        request.insert("next".to_owned(), next.into());
    }
    let list: List = console.ask(Function::Replay, request.into()).await?;
    let content = html! {
        h1 { "Dead letters" }
        (filter_form(&filter))
        @if list.items.is_empty() {
            p { @if next.is_some() || list.next.is_some() { "No dead letters on this page." } @else if filter.is_empty() { "There are no dead letters." } @else { "No dead letters match the filters." } }
        } @else {
            (selection_form(&console, &list.items, query.get("select") == Some("all"), &filter, next))
        }
        nav.paging aria-label="More dead letters" {
            @if next.is_some() { a href={ "/dead-letters?" (filter.query(&[])) } { "First page" } " " }
            @if let Some(next) = &list.next { a rel="next" href={ "/dead-letters?" (filter.query(&[("next", next)])) } { "Next page" } }
        }
        (all_section(&console, &filter, !list.items.is_empty()))
    };
    Ok(console.page("Dead letters", "/dead-letters", &content))
}

fn filter_form(filter: &Filter) -> Markup {
    let choice = |name: &'static str, label: &str, values: &[&str]| {
        html! {
            p {
                label for=(name) { (label) }
                select id=(name) name=(name) {
                    option value="" { "any" }
                    @for value in values { option value=(value) selected[filter.get(name) == Some(value)] { (value) } }
                }
            }
        }
    };
    let text = |name: &'static str, label: &str, kind: &str| {
        let value = filter.get(name).unwrap_or_default();
        // Browsers' `datetime-local` fields accept no zone.
        let value = if kind == "datetime-local" {
            value.trim_end_matches('Z')
        } else {
            value
        };
        html! {
            p {
                label for=(name) { (label) }
                input id=(name) name=(name) type=(kind) value=(value) step=[(kind == "datetime-local").then_some("1")];
            }
        }
    };
    html! {
        form.filter action="/dead-letters" aria-label="Filters" {
            (choice("reason", "Reason", &REASONS))
            (text("statusCode", "HTTP status", "text"))
            (choice("source", "Source", &Source::ALL.map(Source::as_str)))
            (text("webhookId", "Webhook or integration", "text"))
            (text("since", "Received from (UTC)", "datetime-local"))
            (text("until", "Received before (UTC)", "datetime-local"))
            p.buttons { button { "Apply filters" } " " @if !filter.is_empty() { a href="/dead-letters" { "Clear filters" } } }
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
                a href={ "/dead-letters?" (filter.query(&select)) } { "Select all on this page" }
            }
            (table(dead_letters, Some(are_all_selected)))
            p.buttons {
                button { "Replay selected…" } " "
                button formaction="/discard" { "Discard selected…" }
                " Both ask for confirmation."
            }
        }
    }
}

/// A table of dead letters; with `are_selected` it has boxes to select them.
fn table(dead_letters: &[DeadLetter], are_selected: Option<bool>) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Dead letters" {
            table {
                thead {
                    tr {
                        @if are_selected.is_some() { th scope="col" { "Select" } }
                        th scope="col" { "Event" } th scope="col" { "Reason" } th scope="col" { "Error" }
                        th scope="col" { "Source" } th scope="col" { "Received" } th scope="col" { "Dead since" }
                        th scope="col" { "Attempts" } th scope="col" { "Replays" }
                    }
                }
                tbody {
                    @for dead_letter in dead_letters {
                        tr {
                            @if let Some(is_selected) = are_selected {
                                td { input type="checkbox" name=(EVENT_ID) value=(dead_letter.event_id) checked[is_selected] aria-label={ "Select " (dead_letter.event_id) }; }
                            }
                            td { (event_link(&dead_letter.event_id)) }
                            td { (dead_letter.reason) @if let Some(status) = dead_letter.status_code { " (" (status) ")" } }
                            td.text { (dead_letter.error) @if let Some(at) = dead_letter.replayed_at { " Sent back to the events queue at " (time(at)) "." } }
                            td { (dead_letter.source) @if let Some(webhook) = &dead_letter.webhook_id { br; small { (webhook) } } }
                            td { (time(dead_letter.received_at)) } td { (time(dead_letter.dead_at)) }
                            td.number { (dead_letter.attempts) } td.number { (dead_letter.replays) }
                        }
                    }
                }
            }
        }
    }
}

/// Actions on all dead letters, not only those of the page.
fn all_section(console: &Console, filter: &Filter, has_items: bool) -> Markup {
    html! {
        section aria-labelledby="all-title" {
            h2 #all-title { "All dead letters" }
            @if has_items {
                form method="post" action="/replay" {
                    (console.token_field())
                    (hidden_filter(filter))
                    @if filter.is_empty() {
                        button name="which" value="all" { "Replay all dead letters…" }
                    } @else {
                        button name="which" value="matching" { "Replay all matching dead letters…" }
                    }
                }
            }
            form method="post" action="/runs" {
                (console.run_fields())
                button name="action" value="reconcile" { "Reconcile the list with the queue" }
                " The relay does this every five minutes if the counts differ."
            }
        }
    }
}

/// `POST /replay`: a dry run of the replay, and the form that starts it.
pub(crate) async fn check_replay(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Markup, Problem> {
    let selection = Selection::of(&form).ok_or_else(nothing_selected)?;
    let mut request = selection.request();
    request.insert("action".to_owned(), "replay".into());
    request.insert("dryRun".to_owned(), true.into());
    let force = form.get("force").is_some();
    request.insert("force".to_owned(), force.into());
    let report: Report = console.ask(Function::Replay, request.into()).await?;
    let filter = Filter::of(&form);
    let fields = html! {
        (hidden_filter(&filter))
        @match &selection {
            Selection::Ids(ids) => (hidden_ids(ids)),
            Selection::Matching(_) => { input type="hidden" name="which" value="matching"; }
            Selection::All => { input type="hidden" name="which" value="all"; }
        }
    };
    // Only what the dry run found is replayed, not what matches later.
    let confirmed = html! {
        @match &selection {
            Selection::Matching(_) => { (hidden_filter(&filter)) (hidden_ids(&report.event_ids)) }
            Selection::Ids(_) | Selection::All => { (fields) input type="hidden" name=(COUNTED) value=(report.matched); }
        }
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
                (why_field(false))
                label.field {
                    span { "Maximum per second (optional)" }
                    input #rate name="rate" type="number" min="1" max="500" inputmode="numeric";
                }
                p.buttons { button.strong name="action" value="replay" { "Replay " (report.matched) } " " (back(&filter)) }
            }
        } @else { p { (back(&filter)) } }
        (failures(&report.failed, report.failures))
        @if report.failures > 0 && !force {
            form method="post" action="/replay" { (console.token_field()) (fields) button name="force" value="yes" { "Include events that reached the replay limit" } }
        }
        @if !report.items.is_empty() {
            h2 { @if report.matched > report.items.len() as u64 { "The first " (report.items.len()) " dead letters" } @else { "Dead letters" } }
            (table(&report.items, None))
        }
    };
    Ok(console.page("Replay: dry run", "/dead-letters", &content))
}

/// `POST /discard`: a dry run of the discard, and the form that starts it.
pub(crate) async fn check_discard(
    State(console): State<Arc<Console>>,
    Extension(form): Extension<Fields>,
) -> Result<Markup, Problem> {
    let Some(selection @ Selection::Ids(_)) = Selection::of(&form) else {
        return Err(nothing_selected());
    };
    let mut request = selection.request();
    request.extend([
        ("action".to_owned(), json!("replay")),
        ("dryRun".to_owned(), json!(true)),
        ("force".to_owned(), json!(true)),
    ]);
    // A discard has no dry run of its own; the dry run of a replay finds the same events.
    let report: Report = console.ask(Function::Replay, request.into()).await?;
    let Selection::Ids(ids) = selection else {
        return Err(nothing_selected());
    };
    let filter = Filter::of(&form);
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
                (why_field(true))
                p.buttons { button.danger name="action" value="discard" { "Discard " (report.matched) } " " (back(&filter)) }
            }
        }
        (failures(&report.failed, report.failures))
        (table(&report.items, None))
    };
    Ok(console.page("Discard", "/dead-letters", &content))
}

/// Hidden fields that keep the list's filter.
fn hidden_filter(filter: &Filter) -> Markup {
    html! { @for (name, value) in filter.iter() { input type="hidden" name=(name) value=(value); } }
}

fn back(filter: &Filter) -> Markup {
    html! { a href={ "/dead-letters?" (filter.query(&[])) } { "Back" } }
}

fn nothing_selected() -> Problem {
    Problem::invalid("Nothing is selected. Go back and select dead letters.")
}
