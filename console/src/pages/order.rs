//! Order per conversation: the queue that keeps it, and the conversations that wait. Only a stack
//! with `Order` shows any of it.

use genesys_relay::dead_letters::api::{OrderMode, OrderStatus, WaitingConversation};
use maud::{Markup, html};

use super::elements::{depth, event_link, table, time};

/// The ordered queue, beside the events queue.
pub(super) fn queue(order: &OrderStatus) -> Markup {
    let is_draining = order.mode == OrderMode::Draining;
    html! {
        h3 { "Ordered queue" @if is_draining { " (draining)" } }
        p.count { (order.queue.total()) }
        (depth(order.queue, "in flight (including backoff)"))
        p { a href="#waiting" { (waiting_count(order)) } " waiting" }
        @if is_draining { p { "New events go to the events queue." } }
    }
}

/// The dead-letter queue of the ordered queue, beside the dead letters.
pub(super) fn dead_letters(order: &OrderStatus) -> Markup {
    html! {
        h3 { "Ordered dead-letter queue" }
        p.count { (order.dead_letters.total()) }
        (depth(order.dead_letters, "in flight"))
    }
}

/// The list of conversations that wait, the longest wait first.
pub(super) fn waiting(order: &OrderStatus) -> Markup {
    let items = &order.waiting.items;
    let row = |item: &WaitingConversation| {
        html! {
            tr {
                td.text { span.id { (item.conversation) } }
                td { (time(item.since)) }
                td { (event_link(&item.event_id)) }
                td.number { (item.attempts) }
                td { @match item.next_attempt_at { Some(at) => (time(at)), None => "in progress" } }
                td.text { @match &item.error { Some(error) => (error), None => "unknown" } }
            }
        }
    };
    let rows = html! { @for item in items { (row(item)) } };
    let headings =
        "Conversation | Waiting since | Behind event | Attempts | Next attempt | Last error";
    html! {
        section aria-labelledby="waiting-title" {
            h2 #waiting-title { "Waiting conversations" }
            @if items.is_empty() {
                p { "No conversation waits for an event that failed." }
            } @else {
                p {
                    "Each waits for an event that failed. Its later events are not attempted until that event is delivered, is dead or leaves the line."
                    @if order.waiting.more { " These are the " (items.len()) " longest waits; there are more." }
                }
                (table("Waiting conversations", headings, &rows))
            }
        }
    }
}

/// The number of conversations that wait, in words.
pub(super) fn waiting_count(order: &OrderStatus) -> String {
    match (order.waiting.items.len(), order.waiting.more) {
        (1, false) => "1 conversation".to_owned(),
        (count, false) => format!("{count} conversations"),
        (count, true) => format!("More than {count} conversations"),
    }
}
