//! One event: its state, history, payload and headers.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::dead_letters::api::{EventDetails, Place, RequestBody, ShowRequest};
use genesys_relay::domain::event::{EventId, InvalidEventId};
use genesys_relay::domain::event_record::StateName;
use maud::{Markup, html};

use super::conversation;
use super::elements::{hidden_ids, time};
use super::timeline::history;
use crate::functions::Function;
use crate::pretty::pretty;
use crate::problem::Problem;
use crate::state::Console;

/// Bytes of a body that the page shows; the download has all of it.
const MAX_SHOWN: usize = 64 * 1024;

/// `GET /events/{id}`
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Markup, Problem> {
    let event = load(&console, &id).await?;
    Ok(page(&console, &event))
}

/// Renders the page of an event.
pub(super) fn page(console: &Console, event: &EventDetails) -> Markup {
    let content = html! {
        h1 { "Event " span.id { (event.event_id) } }
        (state(event))
        (actions(console, event))
        (history(event))
        (payload(event))
        (headers(event))
        (facts(event))
    };
    let title = format!("Event {}", event.event_id);
    console.page(&title, "/dead-letters", &content)
}

/// `GET /events/{id}/body`: the payload, byte for byte, as a download that browsers do not render.
pub(crate) async fn body(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let event = load(&console, &id).await?;
    let bytes = match (event.body, event.body_base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(encoded)) => BASE64_STANDARD.decode(encoded).map_err(|error| {
            Problem::invalid(format!("The payload is not valid base64: {error}"))
        })?,
        (None, None) => return Err(Problem::invalid("The payload of this event is not stored.")),
    };
    let name = format!("attachment; filename=\"{}.body\"", event.event_id);
    Ok((
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_DISPOSITION, name),
        ],
        bytes,
    ))
}

async fn load(console: &Console, id: &str) -> Result<EventDetails, Problem> {
    let invalid = |error: InvalidEventId| Problem::invalid(error.to_string());
    console.look(request(id.parse().map_err(invalid)?)).await
}

/// The request for all that is known of an event.
pub(super) fn request(event_id: EventId) -> RequestBody {
    RequestBody::Show(ShowRequest { event_id, by: None })
}

fn state(event: &EventDetails) -> Markup {
    html! {
        p.state {
            strong { (event.state) }
            @if let Some(reason) = event.reason { ", " strong { (reason.as_str()) } }
            @if let Some(status) = event.status_code { " (status " (status) ")" }
            @if let Some(error) = &event.error { ": " (error) }
        }
        @if let Some(at) = event.replayed_at { p { "Sent back to the events queue at " (time(at)) "." } }
        @if let Some(at) = event.next_attempt_at { p { "Next attempt at " (time(at)) " or later." } }
        @if let Some(run) = &event.resend {
            p {
                "It was delivered before, and the run " code { (run) }
                @if event.state == StateName::Dead { " could not deliver it again. A discard makes it delivered, as it was." } @else { " sends it again." }
            }
        }
        @if let Some(place) = &event.order { (order(place)) }
        @if let Some(key) = &event.archived_to { p { "Archived in the object " code { (key) } "." } }
    }
}

fn order(place: &Place) -> Markup {
    html! {
        p {
            @match place {
                Place::Waiting { conversation, since } => {
                    "In its place: the later events of conversation " span.id { (conversation) } " have been waiting for it since " (time(*since)) "."
                }
                Place::Late => {
                    "No conversation waits for it. If it belongs to one, it has lost its place: your system gets it with " code { "X-Relay-Order: late" } "."
                }
                Place::Replayed => {
                    "It was replayed. If it belongs to a conversation, it comes behind later events: your system gets it with " code { "X-Relay-Order: replayed" } "."
                }
            }
        }
    }
}

fn actions(console: &Console, event: &EventDetails) -> Markup {
    let ids = std::slice::from_ref(&event.event_id);
    let restore = html! { p.buttons { button name="action" value="restore" { "Restore the archived object" } } };
    html! {
        @if event.state == StateName::Dead {
            form method="post" action="/replay" {
                (console.token_field())
                (hidden_ids(ids))
                p.buttons { button { "Replay…" } " " button formaction="/discard" { "Discard…" } }
            }
        }
        @if event.state == StateName::Delivered {
            form method="post" action="/resend" {
                (console.token_field())
                (hidden_ids(ids))
                p.buttons { button { "Send again…" } }
            }
        }
        @if let Some(key) = &event.archived_to {
            form method="post" action="/runs" {
                (console.run_fields())
                input type="hidden" name="key" value=(key);
                (console.acting(Function::Replay, &restore))
            }
        }
    }
}

fn payload(event: &EventDetails) -> Markup {
    let Some(text) = event.body.as_deref().or(event.body_base64.as_deref()) else {
        let why = match event.state {
            StateName::Delivered => {
                "The payload of a delivered event is not stored here. The journal has it, if the stack keeps one."
            }
            StateName::Erased => "The event was erased: nothing of its content is left here.",
            _ => {
                "Only payloads of dead events up to a size limit are stored here. The message in the queue has the payload."
            }
        };
        return html! { h2 { "Payload" } p { (why) } };
    };
    let shown = &text[..text.floor_char_boundary(MAX_SHOWN)];
    let body = event.body.as_deref().filter(|body| body.len() <= MAX_SHOWN);
    let pretty = body.and_then(pretty);
    html! {
        section aria-labelledby="payload-title" {
            h2 #payload-title { "Payload" }
            @if let Some(pretty) = &pretty { pre #pretty tabindex="0" aria-label="Formatted payload" { (pretty) } }
            details open[pretty.is_none()] {
                summary { @if event.body.is_some() { "Original" } @else { "Original, in base64 because it is not text" } }
                pre #raw tabindex="0" { (shown) }
                @if shown.len() < text.len() { p { "Only the beginning is shown. Download the payload to see all of it." } }
            }
            p { a href={ "/events/" (event.event_id) "/body" } download { "Download the payload" } }
        }
    }
}

fn headers(event: &EventDetails) -> Markup {
    html! {
        section aria-labelledby="headers-title" {
            h2 #headers-title { "Headers" }
            dl {
                @if let Some(kind) = &event.content_type { dt { "content-type" } dd { (kind) } }
                @for (name, value) in &event.headers { dt { (name) } dd { (value) } }
            }
            @if event.headers.is_empty() && event.content_type.is_none() { p { "No headers are stored." } }
        }
    }
}

fn facts(event: &EventDetails) -> Markup {
    let texts = [
        ("Webhook or integration", &event.webhook_id),
        ("Webhook name", &event.webhook_name),
        ("Target", &event.target),
    ];
    html! {
        section aria-labelledby="facts-title" {
            h2 #facts-title { "Details" }
            dl {
                @for (name, value) in texts { @if let Some(value) = value { dt { (name) } dd { (value) } } }
                @if let Some(id) = &event.conversation_id { dt { "Conversation" } dd { a href=(conversation::link(id, &[])) { (id) } } }
                dt { "Attempts" } dd { (event.attempts_made) }
                dt { "Replays" } dd { (event.replays) }
                @if !event.resent.is_empty() { dt { "Sent again by the runs" } dd { (event.resent.join(", ")) } }
                dt { "Record expires at" } dd { (time(event.expires_at)) }
            }
        }
    }
}
