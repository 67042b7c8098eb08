//! The one search field: an event by its id, or a conversation by its id.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use genesys_relay::dead_letters::api::{Conversation, EventDetails};
use genesys_relay::runtime::logging::display_chain;
use maud::Markup;

use super::{conversation, events};
use crate::form::Fields;
use crate::problem::Problem;
use crate::state::Console;

/// `GET /find?id=`: the page of the event with this id, or else of the conversation.
pub(crate) async fn find(
    State(console): State<Arc<Console>>,
    Extension(query): Extension<Fields>,
) -> Result<Markup, Problem> {
    let missing = || Problem::invalid("Enter the id of an event or of a conversation.");
    let id = query.get("id").ok_or_else(missing)?;
    let mut found = "no id of an event looks like this".to_owned();
    if let Ok(event_id) = id.parse() {
        let request = events::request(event_id);
        match console.relay.look::<EventDetails>(request).await {
            Ok(event) => return Ok(events::page(&console, &event)),
            Err(error) if error.kind() == Some("NotFound") => found = display_chain(&error),
            Err(error) => return Err(error.into()),
        }
    }
    let request = conversation::request(id, None);
    match console.relay.look::<Conversation>(request).await {
        Ok(answer) if answer.events.is_empty() && answer.next.is_none() => {
            let detail =
                format!("As an event: {found}. As a conversation: no event of it is recorded.");
            Err(Problem::not_found("Nothing found", &detail))
        }
        Ok(answer) => Ok(conversation::page(&console, &answer, None, false)),
        Err(error) if matches!(error.kind(), Some("InvalidRequest" | "Off")) => {
            let error = display_chain(&error);
            let detail = format!("As an event: {found}. As a conversation: {error}");
            Err(Problem::not_found("Nothing found", &detail))
        }
        Err(error) => Err(error.into()),
    }
}
