//! Live view: log lines of each event, and the numbers of messages.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::{
    screen::{Colour, Screen},
    stack::{Function, LogLine, QueueCounts, Stack},
};

const PAUSE: Duration = Duration::from_millis(250);
/// Lines of concurrent invocations arrive out of order: time for which late lines are looked for.
const LATE_BY_AT_MOST_MS: i64 = 10_000;
const ID_WIDTH: usize = 10;
/// Log fields that are shown elsewhere or of no use to a viewer.
const NOT_SHOWN: [&str; 5] = ["timestamp", "level", "message", "event_id", "message_id"];

/// Log lines seen so far.
#[derive(Debug)]
pub struct Journey {
    screen: Screen,
    started: i64,
    latest: i64,
    seen: HashSet<String>,
    counts: QueueCounts,
    states: BTreeMap<String, usize>,
}

impl Journey {
    /// Starts with the lines from now on.
    #[must_use]
    pub fn new(screen: Screen) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let started = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        Self {
            screen,
            started,
            latest: started,
            seen: HashSet::new(),
            counts: QueueCounts::default(),
            states: BTreeMap::new(),
        }
    }

    /// Prints one line for each step of each event, without end.
    pub async fn follow(&mut self, stack: &Stack) -> Result<Infallible> {
        loop {
            self.catch_up(stack).await?;
            sleep(PAUSE).await;
        }
    }

    /// Prints what is new.
    pub async fn catch_up(&mut self, stack: &Stack) -> Result<()> {
        let since = self.started.max(self.latest - LATE_BY_AT_MOST_MS);
        let mut lines = Vec::new();
        for function in Function::ALL {
            lines.extend(stack.log_lines(function, since).await?);
        }
        lines.sort_by_key(moment);
        for line in lines {
            self.latest = self.latest.max(line.at);
            if self.seen.insert(line.id.clone())
                && let Some(text) = self.describe(&line)
            {
                self.screen.print(&text);
            }
        }
        let (counts, states) = (stack.queue_counts().await?, stack.states().await?);
        if counts != self.counts || states != self.states {
            self.screen.print(
                &self
                    .screen
                    .paint(Colour::Grey, &describe_counts(counts, &states)),
            );
            (self.counts, self.states) = (counts, states);
        }
        Ok(())
    }

    fn describe(&self, line: &LogLine) -> Option<String> {
        let seconds =
            Duration::from_millis(u64::try_from(moment(line) - self.started).unwrap_or_default())
                .as_secs_f32();
        let nothing = Map::new();
        let fields = line.content.as_object().unwrap_or(&nothing);
        let text = match &line.content {
            Value::String(text) if is_platform(text) => return None,
            Value::String(text) => text,
            // Metrics are for CloudWatch.
            _ if fields.contains_key("_aws") => return None,
            _ => fields
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        };
        let id = fields
            .get("event_id")
            .and_then(Value::as_str)
            .unwrap_or("-");
        let short: String = id.chars().take(ID_WIDTH).collect();
        let short = self
            .screen
            .paint(Colour::of(id), &format!("{short:ID_WIDTH$}"));
        let text = match fields
            .get("level")
            .and_then(Value::as_str)
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            Some("error") => self.screen.paint(Colour::Red, text),
            Some("warn") => self.screen.paint(Colour::Yellow, text),
            _ => text.into(),
        };
        let details = self.screen.paint(Colour::Grey, &details(fields));
        Some(format!(
            "{seconds:7.1} s  {short}  {:9}  {text}{details}",
            line.function
        ))
    }
}

/// Time of a line in milliseconds since 1970.
fn moment(line: &LogLine) -> i64 {
    let written = line.content["timestamp"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    written.map_or(line.at, Timestamp::as_millisecond)
}

fn describe_counts(counts: QueueCounts, states: &BTreeMap<String, usize>) -> String {
    let QueueCounts {
        events,
        dead_letters,
        ..
    } = counts;
    let states: Vec<_> = states
        .iter()
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    format!(
        "           queue: {} waiting, {} under way or backing off; dead letters: {}; {}",
        events.visible + events.delayed,
        events.in_flight,
        dead_letters.total(),
        states.join(", ")
    )
}

/// Lambda's own lines about an invocation.
fn is_platform(text: &str) -> bool {
    ["START RequestId:", "END RequestId:", "REPORT RequestId:"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// In the order of their names: a map of JSON has them in one or the other, as its crate was
/// compiled.
fn details(fields: &Map<String, Value>) -> String {
    let mut shown: Vec<_> = fields
        .iter()
        .filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str()))
        .collect();
    shown.sort_by_key(|(name, _)| *name);
    let text = |(name, value): (&String, &Value)| match value.as_str() {
        Some(text) => format!("  {name}={text}"),
        None => format!("  {name}={value}"),
    };
    shown.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn describe(content: Value) -> Option<String> {
        let journey = Journey {
            started: 1000,
            ..Journey::new(Screen::plain())
        };
        journey.describe(&LogLine {
            function: Function::Processor,
            id: "1".into(),
            at: 3500,
            content,
        })
    }

    #[test]
    fn a_step_is_one_line() {
        let content = json!({ "level": "INFO", "message": "delivered", "event_id": "AbCdEfGhIjKlMnOp", "status": 200, "source": "webhook" });
        assert_eq!(
            describe(content).as_deref(),
            Some("    2.5 s  AbCdEfGhIj  processor  delivered  source=webhook  status=200")
        );
    }

    #[test]
    fn a_line_stands_at_the_time_at_which_it_was_written() {
        let content = json!({ "timestamp": "1970-01-01T00:00:02.0Z", "message": "accepted" });
        assert_eq!(
            describe(content).as_deref(),
            Some("    1.0 s  -           processor  accepted")
        );
    }

    #[test]
    fn what_is_not_json_is_shown_too_but_not_lambdas_own_lines() {
        assert_eq!(
            describe("thread panicked".into()).as_deref(),
            Some("    2.5 s  -           processor  thread panicked")
        );
        assert_eq!(describe("START RequestId: 1 Version: $LATEST".into()), None);
    }

    #[test]
    fn metrics_are_not_for_people() {
        assert_eq!(
            describe(json!({ "_aws": { "Timestamp": 1 }, "Delivered": 1 })),
            None
        );
    }
}
