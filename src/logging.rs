//! One JSON object per log line on standard output, where Lambda collects it.

use std::error::Error;

use tracing_subscriber::filter::LevelFilter;

/// Starts logging at `level`. Fields stand at the top level of each line, so that a query can name them.
pub fn init(level: LevelFilter) {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .with_max_level(level)
        .init();
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
