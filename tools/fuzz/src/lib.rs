//! Hostile input: what each parser that meets the network has to hold, whatever arrives.
//!
//! Each property takes any bytes and panics when a law is broken. `tests/mutations.rs` feeds them
//! the corpus and what can be made of it; `cargo xtask fuzz TARGET` looks for more, guided by coverage.
//! `README.md` says how.

mod answers;
mod archive;
mod entries;
mod json;
mod message;
mod open_messaging;
mod platform_api;
mod position;
mod requests;
mod runtime;
mod secret;
mod target_answer;
mod webhook;
mod webhook_deliveries;

use self::archive::archive;
use self::json::json;
use self::message::message;
use self::open_messaging::open_messaging;
use self::platform_api::platform_api;
use self::position::position;
use self::requests::{recovery_request, replay_request};
use self::secret::secret;
use self::target_answer::target_answer;
use self::webhook::{webhook_body, webhook_headers};
use self::webhook_deliveries::webhook_deliveries;

/// Property of any bytes; panics where it does not hold.
pub type Property = fn(&[u8]);

/// All properties, by their names as targets and those of their folders under `corpus/`.
pub const PROPERTIES: [(&str, Property); 13] = [
    ("archive", archive),
    ("json", json),
    ("message", message),
    ("open_messaging", open_messaging),
    ("platform_api", platform_api),
    ("position", position),
    ("recovery_request", recovery_request),
    ("replay_request", replay_request),
    ("secret", secret),
    ("target_answer", target_answer),
    ("webhook_body", webhook_body),
    ("webhook_deliveries", webhook_deliveries),
    ("webhook_headers", webhook_headers),
];
