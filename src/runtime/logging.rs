//! One JSON object per log line on standard output, where Lambda collects it.

use std::error::Error;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::domain::event::EventId;

/// The crates whose lines are wanted at every level. Libraries log requests when they are asked for
/// details, and requests hold secrets: theirs are shown from warnings on.
const OURS: [&str; 6] = [
    "genesys_relay",
    "ingest",
    "processor",
    "replay",
    "recovery",
    "breaker",
];

/// The target of the lines of the audit log, which are written at every level.
pub const AUDIT: &str = "audit";

/// Writes a line of the audit log: the action, its requester, more fields, and a text.
macro_rules! audit {
    (error, $($rest:tt)+) => {
        $crate::runtime::logging::audit!(@error, $($rest)+)
    };
    (@$level:ident, $action:expr, $requester:expr, $($rest:tt)+) => {{
        let requester: &$crate::domain::request::Requester = $requester;
        tracing::$level!(
            target: $crate::runtime::logging::AUDIT,
            audit = $action,
            by = requester.by,
            said_by = requester.said_by,
            caller = requester.caller,
            request_id = requester.request_id,
            api_request_id = requester.api_request_id,
            why = requester.why,
            $($rest)+
        );
    }};
    ($($rest:tt)+) => {
        $crate::runtime::logging::audit!(@info, $($rest)+)
    };
}
pub(crate) use audit;

/// Of how many events in a hundred it is logged that all went well.
static SAMPLE_PERCENT: AtomicU8 = AtomicU8::new(100);

/// Of how many events in a hundred it is logged that all went well: from 0 to 100. What went wrong
/// is always logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample(u8);

impl Sample {
    /// Shares above 100 are 100.
    pub fn of_percent(percent: u8) -> Self {
        Self(percent.min(100))
    }

    /// From now on so many are logged.
    pub fn apply(self) {
        SAMPLE_PERCENT.store(self.0, Ordering::Relaxed);
    }

    /// Decides by the id, so that of an event all functions tell, or none.
    fn takes(self, id: &EventId) -> bool {
        let hash = id.as_str().bytes().fold(0_u32, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        hash % 100 < self.0.into()
    }
}

/// Returns whether the success of this event is logged.
pub fn should_log(id: &EventId) -> bool {
    Sample(SAMPLE_PERCENT.load(Ordering::Relaxed)).takes(id)
}

/// Starts logging at `level`. Fields stand at the top level of each line, so that a query can name
/// them.
///
/// A panic is a line as well. As plain text, its message could hold text of a sender, and a line
/// break in it would begin a line that looks like ours.
pub fn init(level: LevelFilter) {
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(levels(level))
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(error = panic.payload_as_str(), place, "panicked");
    }));
}

pub(crate) fn levels(level: LevelFilter) -> Targets {
    let ours = OURS.map(|name| (name, level));
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(ours)
        .with_target(AUDIT, LevelFilter::INFO)
}

/// An error with all its causes, in one line. Only for the boundary, where it is logged or shown
/// once.
pub fn display_chain(error: &dyn Error) -> String {
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
        assert!(levels.would_enable("genesys_relay::deliver", &Level::DEBUG));
        assert!(levels.would_enable("ingest::handler", &Level::DEBUG));
        assert!(levels.would_enable("hyper", &Level::WARN));
        assert!(!levels.would_enable("aws_smithy_runtime", &Level::INFO));
    }

    #[test]
    fn the_audit_log_is_written_at_every_level() {
        for level in [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::DEBUG] {
            assert!(levels(level).would_enable(AUDIT, &Level::INFO), "{level}");
        }
    }

    #[test]
    fn of_so_many_events_in_a_hundred_it_is_told() {
        let ids: Vec<EventId> = (0..10_000)
            .map(|number| format!("event-{number}").parse().expect("an id"))
            .collect();
        let taken = |percent: u8| {
            ids.iter()
                .filter(|id| Sample::of_percent(percent).takes(id))
                .count()
        };
        assert_eq!((taken(0), taken(100), taken(101)), (0, 10_000, 10_000));
        assert!((800..1200).contains(&taken(10)), "{}", taken(10));
    }

    #[test]
    fn an_error_is_told_with_all_its_causes() {
        let cause = std::io::Error::other("no route");
        let error = crate::ports::service::Service::Sqs.unavailable(cause);
        assert_eq!(
            display_chain(&error),
            "SQS did not answer or throttled the request: no route"
        );
    }
}
