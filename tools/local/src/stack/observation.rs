//! Observations of a running stack: numbers of messages and lines of logs.

use std::ops::Add;

use serde_json::Value;

use super::function::Function;

/// Number of messages of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Can be received now.
    pub visible: u32,
    /// Received and not deleted, or waiting for their next attempt.
    pub in_flight: u32,
    /// Sent with a delay.
    pub delayed: u32,
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            visible: self.visible + other.visible,
            in_flight: self.in_flight + other.in_flight,
            delayed: self.delayed + other.delayed,
        }
    }
}

impl Count {
    /// Sum of all.
    pub fn total(self) -> u32 {
        self.visible + self.in_flight + self.delayed
    }
}

/// Number of messages of the queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Events on their way to the target, in either queue.
    pub events: Count,
    /// Those of them that keep the order of their conversation.
    pub ordered: Count,
    /// Dead letters.
    pub dead_letters: Count,
}

/// Line of a function's log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Function that logged it.
    pub function: Function,
    /// Unique among the lines of the function.
    pub id: String,
    /// Time of ingestion in milliseconds since 1970: the end of its invocation.
    pub at: i64,
    /// The line, parsed where it is JSON.
    pub content: Value,
}
