//! One JSON object per log line on standard output, where Lambda collects it.

use std::error::Error;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The crates whose lines are wanted at every level. Libraries log requests when they are asked for details, and
/// requests hold secrets: theirs are shown from warnings on.
const OURS: [&str; 6] = ["genesys_relay", "ingest", "processor", "replay", "recovery", "breaker"];

/// Starts logging at `level`. Fields stand at the top level of each line, so that a query can name them.
///
/// A panic is a line as well. As plain text, its message could hold what somebody has sent, and a line break in that would
/// begin a line that looks like ours.
pub fn init(level: LevelFilter) {
    let lines =
        fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false).with_target(false);
    tracing_subscriber::registry().with(lines).with(levels(level)).init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(error = panic.payload_as_str(), place, "panicked");
    }));
}

fn levels(level: LevelFilter) -> Targets {
    let ours = OURS.map(|name| (name, level));
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours)
}

/// An error with all its causes, in one line. Only for the boundary, where it is logged or shown once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn details_are_logged_of_our_own_crates_only() {
        let levels = levels(LevelFilter::DEBUG);
        assert!(levels.would_enable("genesys_relay::process", &Level::DEBUG));
        assert!(levels.would_enable("ingest::handler", &Level::DEBUG));
        assert!(levels.would_enable("hyper", &Level::WARN));
        assert!(!levels.would_enable("aws_smithy_runtime", &Level::INFO));
    }

    #[test]
    fn an_error_is_told_with_all_its_causes() {
        let cause = std::io::Error::other("no route");
        let error = crate::queue::QueueError::Unavailable(cause.into());
        assert_eq!(chain(&error), "the queue is unavailable: no route");
    }
}
