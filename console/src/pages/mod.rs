//! The pages: HTML rendered on the server, which works without scripts. `maud` escapes all values.

pub(crate) mod archive;
pub(crate) mod breaker;
pub(crate) mod check;
pub(crate) mod conversation;
pub(crate) mod dead_letters;
mod elements;
pub(crate) mod events;
pub(crate) mod find;
pub(crate) mod flow;
mod needs;
mod order;
pub(crate) mod resend;
pub(crate) mod runs;
pub(crate) mod statements;
mod timeline;

use crate::problem::Problem;

/// Answers requests for unknown paths.
pub(crate) async fn not_found() -> Problem {
    Problem::not_found("Page not found", "Use the navigation to open a page.")
}
