//! One event: its state, history, payload and headers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::dead_letters::api::{EventDetails, Place, RequestBody, ShowRequest};
use genesys_relay::domain::event::{EventId, InvalidEventId};
use genesys_relay::domain::event_record::StateName;
use jiff::Timestamp;
use maud::{Markup, html};

use super::elements::{hidden_ids, time};
use crate::form::Fields;
use crate::pretty::pretty;
use crate::problem::Problem;
use crate::state::Console;

/// Bytes of a body that the page shows; the download has all of it.
const MAX_SHOWN: usize = 64 * 1024;

/// `GET /events?id=`
pub(crate) async fn find(Extension(query): Extension<Fields>) -> Result<Redirect, Problem> {
    let id = checked(query.get("id").unwrap_or_default())?;
    Ok(Redirect::to(&format!("/events/{id}")))
}

/// `GET /events/{id}`
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Markup, Problem> {
    let event = load(&console, &id).await?;
    let content = html! {
        h1 { "Event " span.id { (event.event_id) } }
        (state(&event))
        (actions(&console, &event))
        (timeline(&event))
        (payload(&event))
        (headers(&event))
        (facts(&event))
    };
    Ok(console.page(&format!("Event {id}"), "/dead-letters", &content))
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
    let event_id = checked(id)?;
    let request = RequestBody::Show(ShowRequest { event_id });
    console.ask(request).await
}

fn checked(id: &str) -> Result<EventId, Problem> {
    id.parse()
        .map_err(|error: InvalidEventId| Problem::invalid(error.to_string()))
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
    html! {
        @if event.state == StateName::Dead {
            form method="post" action="/replay" {
                (console.token_field())
                (hidden_ids(ids))
                p.buttons { button { "Replay…" } " " button formaction="/discard" { "Discard…" } }
            }
        }
        @if let Some(key) = &event.archived_to {
            form method="post" action="/runs" {
                (console.run_fields())
                input type="hidden" name="key" value=(key);
                p.buttons { button name="action" value="restore" { "Restore the archived object" } }
            }
        }
    }
}

/// Attempts and operators' actions in the order of time.
fn timeline(event: &EventDetails) -> Markup {
    let made = usize::try_from(event.attempts_made).unwrap_or(usize::MAX);
    let attempts_before = made.saturating_sub(event.attempts.len());
    let mut moments: Vec<(Timestamp, Markup)> =
        vec![(event.received_at, html! { "Received from " (event.source) })];
    let newest = event.attempts.len().saturating_sub(1);
    for (number, attempt) in event.attempts.iter().enumerate() {
        // The last response often says why the event is dead.
        let is_open = event.state == StateName::Dead && number == newest;
        let what = html! {
            strong { "Attempt " (attempts_before + number + 1) } ": "
            @match (attempt.status_code, &attempt.error) {
                (Some(status), _) if (200..300).contains(&status) => { "delivered, status " (status) }
                (Some(status), _) => { "failed, status " (status) }
                (None, Some(_)) => "failed, no answer",
                (None, None) => "ended",
            }
            @if let Some(duration) = attempt.duration_ms { ", after " (duration) " ms" }
            @if let Some(error) = &attempt.error { br; (error) }
            @if let Some(response) = &attempt.response { details open[is_open] { summary { "Response of your system" } pre tabindex="0" { (response) } } }
        };
        moments.push((attempt.at, what));
    }
    for action in &event.history {
        let what = html! { strong { (action.action) } " by " (action.by) @if let Some(why) = &action.why { ": " (why) } };
        moments.push((action.at, what));
    }
    if let Some(at) = event.dead_at {
        moments.push((
            at,
            html! { strong { "Dead" } @if let Some(reason) = event.reason { ": " (reason.as_str()) } },
        ));
    }
    // A stable sort: moments of the same time stay in this order.
    moments.sort_by_key(|(at, _)| *at);
    html! {
        section aria-labelledby="history-title" {
            h2 #history-title { "History" }
            @if attempts_before > 0 { p { "The first " (attempts_before) " attempts are no longer stored." } }
            ol.timeline { @for (at, what) in &moments { li { (time(*at)) " " div { (what) } } } }
        }
    }
}

fn payload(event: &EventDetails) -> Markup {
    let Some(text) = event.body.as_deref().or(event.body_base64.as_deref()) else {
        return html! { h2 { "Payload" } p { "Only payloads of dead events up to a size limit are stored here. The message in the queue has the payload." } };
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
        ("Conversation", &event.conversation_id),
        ("Target", &event.target),
    ];
    html! {
        section aria-labelledby="facts-title" {
            h2 #facts-title { "Details" }
            dl {
                @for (name, value) in texts { @if let Some(value) = value { dt { (name) } dd { (value) } } }
                dt { "Attempts" } dd { (event.attempts_made) }
                dt { "Replays" } dd { (event.replays) }
                dt { "Record expires at" } dd { (time(event.expires_at)) }
            }
        }
    }
}
