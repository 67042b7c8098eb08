//! Conversations that are sent message by message, and the order in which the target accepted them.

use std::fmt;
use std::ops::Range;

use anyhow::{Context as _, Result};
use local::genesys::Webhook;
use local::target::ReceivedRequest;
use serde_json::{Value, json};

use crate::relay::Relay;

/// A message of a conversation, as Open Messaging sends it.
pub(crate) fn message(conversation: &str, number: usize) -> Webhook {
    let body = json!({
        "id": format!("{conversation}-{number}"),
        "channel": {
            "id": "integration-1",
            "platform": "Open",
            "type": "Private",
            "to": { "id": format!("user of {conversation}") },
            "time": "2026-01-15T12:00:00Z",
        },
        "type": "Text",
        "text": format!("{conversation} {number}"),
        "direction": "Outbound",
        "conversationId": conversation,
    });
    Webhook::signed(body.to_string())
}

/// Text of a message, as the target received it.
pub(crate) fn text_of(request: &ReceivedRequest) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    body["text"].as_str().unwrap_or_default().to_owned()
}

/// Mark of an event that did not come in its place.
pub(crate) fn mark_of(request: &ReceivedRequest) -> Option<&str> {
    request.headers.get("x-relay-order")?.to_str().ok()
}

/// The first request with an event that the target accepted.
pub(super) fn acceptance(relay: &Relay, id: &str) -> Option<ReceivedRequest> {
    let requests = relay.target.requests_of(id).into_iter();
    let mut accepted = requests.filter(is_accepted);
    accepted.next()
}

fn is_accepted(request: &ReceivedRequest) -> bool {
    let answer = request.answer.as_ref();
    answer.is_some_and(|answer| answer.status == Some(200))
}

/// The event ids of conversations, each in the order in which ingest accepted its messages.
pub(super) struct Conversations(pub(super) Vec<Vec<String>>);

impl Conversations {
    /// Sends messages of each of `count` conversations in turn: none before the one before it was
    /// accepted.
    pub(super) async fn send(
        relay: &Relay,
        name: &str,
        count: usize,
        messages: Range<usize>,
    ) -> Result<Self> {
        let mut sent = vec![Vec::new(); count];
        for number in messages {
            let round = (0..count).map(|of| message(&format!("{name}-{of}"), number));
            let ids = relay.accept_all(round).await?;
            for (conversation, id) in sent.iter_mut().zip(ids) {
                conversation.push(id);
            }
        }
        Ok(Self(sent))
    }

    /// The order in which the target accepted them. All of them must have arrived.
    pub(super) fn tally(&self, relay: &Relay) -> Result<Tally> {
        let mut tally = Tally::default();
        let requests: Vec<_> = relay.target.requests();
        for conversation in &self.0 {
            let mut places = Vec::new();
            for id in conversation {
                let of_event =
                    |request: &ReceivedRequest| request.event_id == *id && is_accepted(request);
                let place = requests.iter().position(of_event);
                let place = place.with_context(|| format!("{id} was not delivered"))?;
                match mark_of(&requests[place]) {
                    Some(_) => tally.marked += 1,
                    None => places.push(place),
                }
            }
            let is_overtaken = |from: &usize| {
                let mut later = places[*from..].iter();
                later.any(|place| *place < places[*from])
            };
            let inversions = (0..places.len()).filter(is_overtaken).count();
            tally.conversations += 1;
            tally.out_of_order += usize::from(inversions > 0);
            tally.inversions += inversions;
        }
        Ok(tally)
    }
}

/// The order in which a target accepted conversations for the first time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) conversations: usize,
    /// Conversations with an inversion.
    pub(super) out_of_order: usize,
    /// Events that were accepted after a later one of their conversation. Marked events do not
    /// count.
    pub(super) inversions: usize,
    /// Events with the header `X-Relay-Order`.
    pub(super) marked: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            conversations,
            out_of_order,
            inversions,
            marked,
        } = self;
        write!(
            formatter,
            "{out_of_order} of {conversations} conversations out of order, {inversions} inversions, {marked} marked"
        )
    }
}
