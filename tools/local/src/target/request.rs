//! Deliveries that the target received.

use std::time::Instant;

use hyper::{HeaderMap, body::Bytes};

use super::answer::Answer;

/// A delivery that has arrived.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// `webhook-id`: the event's id.
    pub event_id: String,
    /// The how many-th delivery of this event it is, from 1.
    pub nth: usize,
    /// Method and path.
    pub line: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
    /// Time of its complete arrival.
    pub at: Instant,
    /// Its answer, once decided.
    pub answer: Option<Answer>,
}
