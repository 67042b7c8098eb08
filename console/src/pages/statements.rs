//! The statements: of each day, whether the relay has everything that Genesys Cloud sent.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use genesys_relay::dead_letters::api::{RequestBody, StatementsRequest};
use genesys_relay::statement::{Listing, Shown};
use maud::{Markup, html};
use serde_json::Value;

use super::elements::table;
use crate::form::Fields;
use crate::problem::Problem;
use crate::state::Console;

/// `GET /statements`, or `?day=` for the whole of one day.
pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Extension(query): Extension<Fields>,
) -> Result<Markup, Problem> {
    let day = query.get("day").filter(|day| !day.is_empty());
    let day = day.map(|day| {
        day.parse()
            .map_err(|_| Problem::invalid("Enter a day as 2026-11-29."))
    });
    let request = StatementsRequest {
        day: day.transpose()?,
        ..StatementsRequest::default()
    };
    let day = request.day;
    let listing: Listing = console.look(RequestBody::Statements(request)).await?;
    let content = html! {
        h1 { "Statements" }
        p { (sentence(&listing)) }
        @if let Some(problem) = &listing.problem {
            p.bad role="alert" { "The chain does not hold: " (problem) "." }
        }
        @if let Some(progress) = &listing.progress {
            p { "The statement of " (progress.day) " is being made: " (grouped(Some(progress.sent))) " messages, " (grouped(Some(progress.calls))) " calls so far." }
        }
        form action="/statements" {
            label.field { span { "Day (UTC)" } input #day name="day" type="date" value=[day]; }
            p.buttons { button { "Show" } }
        }
        (list(&listing.statements))
        @if day.is_some() {
            @for shown in &listing.statements { (whole(shown)) }
        }
    };
    Ok(console.page("Statements", "/statements", &content))
}

/// The newest statement in a sentence.
fn sentence(listing: &Listing) -> String {
    let Some(Shown { statement, .. }) = listing.statements.first() else {
        return "No statement has been written. The parameter Statement writes one each day."
            .to_owned();
    };
    let day = statement["day"].as_str().unwrap_or("unknown day");
    let yesterday = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
        .yesterday();
    let is_yesterday = yesterday.is_ok_and(|yesterday| yesterday.to_string() == day);
    let number = |name: &str| grouped(statement[name].as_u64());
    let (sent, accounted) = (number("sent"), number("accounted"));
    let day = if is_yesterday { "Yesterday" } else { day };
    let mut sentence = format!("{day}: {sent} sent, {accounted} accounted for");
    let unread = &statement["genesys"]["unread"];
    if *unread != 0 {
        sentence.push_str(", ");
        sentence.push_str(&grouped(unread.as_u64()));
        sentence.push_str(" could not be read");
    }
    sentence + "."
}

fn list(statements: &[Shown]) -> Markup {
    let rows = html! {
        @for Shown { key, sha256, statement } in statements {
            @let day = statement["day"].as_str().unwrap_or("?");
            @let relay = &statement["relay"];
            tr {
                th scope="row" { a href=(format!("/statements?day={day}")) { (day) } }
                td { (grouped(statement["sent"].as_u64())) }
                td { (grouped(statement["accounted"].as_u64())) }
                td { @if statement["unaccounted"] == 0 { "0" } @else { strong { (grouped(statement["unaccounted"].as_u64())) } } }
                td { (grouped(relay["total"]["accepted"].as_u64())) @if relay["balances"] != true { " " strong { "does not balance" } } }
                td { (grouped(relay["total"]["waiting"].as_u64())) }
                td { (grouped(relay["total"]["dead"].as_u64())) }
                td { span.id title=(sha256) { (key) } }
            }
        }
    };
    let headings = "Day | Sent | Accounted for | Unaccounted | Accepted | Waiting | Dead | Object";
    table("Statements, newest first", headings, &rows)
}

/// The messages without a record, and what the books say.
fn whole(shown: &Shown) -> Markup {
    let none = Vec::new();
    let unaccounted = shown.statement["genesys"]["unaccounted"]
        .as_array()
        .unwrap_or(&none);
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let rows = html! {
        @for message in unaccounted {
            tr {
                th scope="row" { span.id { (text(&message["messageId"])) } }
                td { a href=(super::conversation::link(&text(&message["conversationId"]), &[])) { (text(&message["conversationId"])) } }
                td { (text(&message["at"])) }
                td { (text(&message["status"])) }
                td { code { (message["request"].to_string()) } }
            }
        }
    };
    html! {
        section {
            h2 { (shown.key) }
            p { "SHA-256 " span.id { (shown.sha256) } }
            @if !unaccounted.is_empty() {
                p { "Genesys Cloud sent these messages, and the relay has no record of them. Each request makes the recovery function fetch one." }
                (table("Unaccounted messages", "Message | Conversation | Sent | Status | Request", &rows))
            }
            details { summary { "The whole object" } pre { (format!("{:#}", shown.statement)) } }
        }
    }
}

/// A number with commas between thousands; a question mark where there is none.
fn grouped(number: Option<u64>) -> String {
    let Some(number) = number else {
        return "?".to_owned();
    };
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
