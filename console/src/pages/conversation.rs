//! One conversation: all its events, delivered ones too, on one time line, and the selection of
//! events to send again.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use genesys_relay::dead_letters::api::{
    Conversation, ConversationRequest, EventDetails, Filter, RequestBody, ResendFilter,
};
use genesys_relay::domain::event_record::StateName;
use maud::{Markup, html};

use super::elements::{event_link, hidden_filter, table, time};
use super::timeline::{Moment, moments};
use crate::form::{EVENT_ID, Fields, list_path, path};
use crate::problem::Problem;
use crate::state::Console;

/// Events on a page.
const PAGE: u32 = 50;

/// `GET /conversations?id=`. The id stands in the query: it is any text of a sender, and browsers
/// take some texts, as `..`, out of a path.
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Extension(query): Extension<Fields>,
) -> Result<Markup, Problem> {
    let missing = || Problem::invalid("The link names no conversation.");
    let (id, next) = (query.get("id").ok_or_else(missing)?, query.get("next"));
    let answer: Conversation = console.look(request(id, next)).await?;
    let are_all_selected = query.get("select") == Some("all");
    Ok(page(&console, &answer, next, are_all_selected))
}

/// The request for a page of a conversation.
pub(super) fn request(id: &str, next: Option<&str>) -> RequestBody {
    RequestBody::Conversation(ConversationRequest {
        id: id.to_owned(),
        limit: Some(PAGE),
        next: next.map(str::to_owned),
        ..ConversationRequest::default()
    })
}

/// The path of a conversation's page.
pub(super) fn link(id: &str, more: &[(&str, &str)]) -> String {
    path("/conversations", &[("id", id)], more)
}

/// Renders a page of a conversation.
pub(super) fn page(
    console: &Console,
    answer: &Conversation,
    next: Option<&str>,
    are_all_selected: bool,
) -> Markup {
    let Conversation { id, events, .. } = answer;
    let mut select = vec![("select", "all")];
    select.extend(next.map(|next| ("next", next)));
    let has_dead = events.iter().any(|event| event.state == StateName::Dead);
    let content = html! {
        h1 { "Conversation " span.id { (id) } }
        @if events.is_empty() {
            p { @if next.is_some() || answer.next.is_some() { "No events on this page." } @else { "No event of this conversation is recorded." } }
        } @else {
            form method="post" action="/resend" {
                (console.token_field())
                p {
                    (events.len()) @if events.len() == 1 { " event" } @else { " events" } " on this page, by the time at which the relay received them. "
                    a href=(link(id, &select)) { "Select all on this page" }
                }
                (timeline(events, are_all_selected))
                p.buttons { button { "Send selected again…" } " Asks for confirmation." }
            }
        }
        nav.paging aria-label="More events" {
            @if next.is_some() { a href=(link(id, &[])) { "First page" } " " }
            @if let Some(next) = &answer.next { a rel="next" href=(link(id, &[("next", next)])) { "Next page" } }
        }
        form method="post" action="/resend" {
            (console.token_field())
            (hidden_filter(&ResendFilter { conversation_id: Some(id.clone()), ..ResendFilter::default() }))
            p.buttons { button { "Send the whole conversation again…" } " Takes what was delivered and is in the journal." }
        }
        @if has_dead {
            @let dead = Filter { conversation_id: Some(id.clone()), ..Filter::default() };
            p { a href=(list_path(&dead, &[])) { "Dead letters of this conversation" } }
        }
    };
    console.page("Conversation", "", &content)
}

/// All moments of all events in the order of time. The row of an event's receipt has its box.
fn timeline(events: &[EventDetails], are_all_selected: bool) -> Markup {
    let mut rows: Vec<(Moment, &EventDetails, bool)> = Vec::new();
    for event in events {
        let moments = moments(event).into_iter().enumerate();
        rows.extend(moments.map(|(place, moment)| (moment, event, place == 0)));
    }
    rows.sort_by_key(|(moment, ..)| moment.at);
    let rows = html! {
        @for (moment, event, is_receipt) in &rows {
            tr {
                td {
                    @if *is_receipt {
                        input type="checkbox" name=(EVENT_ID) value=(event.event_id) checked[are_all_selected] aria-label={ "Select " (event.event_id) };
                    }
                }
                td { (time(moment.at)) }
                td { (event_link(&event.event_id)) }
                td.text { (moment.what) @if *is_receipt { ", now " strong { (event.state) } } }
            }
        }
    };
    table(
        "Time line of the conversation",
        "Select | Time | Event | What happened",
        &rows,
    )
}
