//! Hostile input: what each parser that meets the network has to hold, whatever arrives.
//!
//! Each property takes any bytes and panics when a law is broken. `tests/mutations.rs` feeds them
//! the corpus and what can be made of it; `cargo fuzz` looks for more, guided by coverage.
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

pub use self::archive::archive;
pub use self::json::json;
pub use self::message::message;
pub use self::open_messaging::open_messaging;
pub use self::platform_api::platform_api;
pub use self::position::position;
pub use self::requests::{recovery_request, replay_request};
pub use self::secret::secret;
pub use self::target_answer::target_answer;
pub use self::webhook::{webhook_body, webhook_headers};
pub use self::webhook_deliveries::webhook_deliveries;

/// Property of any bytes; panics where it does not hold.
pub type Property = fn(&[u8]);

/// All properties, by the names of their targets and of their folders under `corpus/`.
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

/// The program of one target: the fuzzer under `cargo fuzz`, and else one that feeds the property
/// the files it is given.
#[macro_export]
macro_rules! target {
    ($property:ident) => {
        #[cfg(fuzzing)]
        ::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$property(data));

        #[cfg(not(fuzzing))]
        fn main() -> ::std::io::Result<()> {
            for path in ::std::env::args_os().skip(1) {
                $crate::$property(&::std::fs::read(path)?);
            }
            Ok(())
        }
    };
}
