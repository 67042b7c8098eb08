//! Progress of a run along the time line, window by window, as a pure state machine: the caller
//! reads the windows and saves the checkpoints.
//!
//! [`Windows`] is the state between two windows and [`OpenWindow`] the state inside one. A method
//! that takes a step consumes the state it starts from, and every step is in [`STEPS`].

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::request::SHORTEST_SPAN;
use crate::ports::delivery_log::Window;
use crate::ports::events_table::Checkpoint;

/// A run that follows the checkpoint reads this far into the future, since the clock of Genesys
/// Cloud may be ahead.
pub(super) const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// States of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WindowState {
    /// No window is open.
    Between,
    /// A window is open.
    Reading,
    /// Everything was read.
    Complete,
    /// The run ended inside a window; the next one continues there.
    CutShort,
    /// The run ended inside a window and got nowhere, so that the next one would do the same.
    Stuck,
}

/// Every step there is: from, to, and its cause.
pub(super) const STEPS: [(WindowState, WindowState, &str); 5] = [
    (
        WindowState::Between,
        WindowState::Reading,
        "time is left to read",
    ),
    (
        WindowState::Between,
        WindowState::Complete,
        "the end is reached",
    ),
    (
        WindowState::Reading,
        WindowState::Between,
        "the window was read to its end",
    ),
    (
        WindowState::Reading,
        WindowState::CutShort,
        "reading stopped, and the next run gets further",
    ),
    (
        WindowState::Reading,
        WindowState::Stuck,
        "reading stopped, and the next run would not get further",
    ),
];

/// The part of the time line that a run reads, and the bounds of its windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLine {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) began_at: Timestamp,
    /// Distance that the checkpoint keeps from the present: deliveries before it may still fail
    /// late.
    pub(super) overlap: SignedDuration,
    /// Length of the longest window, in seconds.
    pub(super) longest_span: u32,
}

/// A run between two windows.
#[derive(Debug)]
pub(super) struct Windows<P> {
    line: TimeLine,
    /// Beginning of the next window.
    at: Timestamp,
    /// Bound of the checkpoint.
    settled: Timestamp,
    span_seconds: u32,
    /// Window in which an earlier run was cut short.
    resume: Option<Resume<P>>,
}

/// A run inside a window.
#[derive(Debug)]
pub(super) struct OpenWindow<P> {
    windows: Windows<P>,
    /// The window, as this run has opened it.
    opened: Resume<P>,
}

/// Outcome of [`Windows::open`].
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and never stored"
)]
pub(super) enum Opened<P> {
    /// The next window.
    Window(OpenWindow<P>),
    /// No window is left.
    Complete,
}

/// End of a run inside a window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Beginning of the window.
    pub(super) at: Timestamp,
    /// Place where the next run continues; `None` if this run has not moved.
    pub(super) checkpoint: Option<Checkpoint>,
    /// `CutShort` or `Stuck`.
    pub(super) state: WindowState,
    /// Length of the next window.
    pub(super) span_seconds: u32,
}

/// A window in which a run was cut short, and the place where it stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Resume<P> {
    from: Timestamp,
    to: Timestamp,
    /// Time when the reading of the window began: a later failure may stand before the place.
    began_at: Timestamp,
    /// Cause of an entry before the place that could not be fetched, so that the window must be
    /// read once more.
    #[serde(rename = "withheld")]
    unavailable: Option<String>,
    place: P,
}

impl<P: Serialize + DeserializeOwned> Resume<P> {
    fn token(&self) -> Option<String> {
        serde_json::to_vec(self)
            .ok()
            .map(|json| BASE64_URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads a token. One that cannot be read, of another version perhaps, is ignored: the window
    /// is read from its beginning.
    fn read(token: &str) -> Option<Self> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()
    }

    /// Checks that a run of this time line, or an earlier one, can have left it: an operator can
    /// write anything there.
    fn is_plausible(&self, line: &TimeLine) -> bool {
        let began = line.began_at;
        self.from < self.to
            && self.to <= line.to
            && (self.from - AHEAD..=began).contains(&self.began_at)
    }
}

impl<P: Default + Clone + PartialEq + Serialize + DeserializeOwned> Windows<P> {
    /// Begins a run. `resume` is the token that an earlier run has left.
    pub(super) fn begin(line: TimeLine, span_seconds: u32, resume: Option<&str>) -> Self {
        let resume = resume.and_then(Resume::read);
        Self {
            line,
            at: line.from,
            settled: line.began_at - line.overlap,
            span_seconds,
            resume,
        }
    }

    /// Time up to which everything was read.
    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    /// Opens the next window: the one that an earlier run left, or a new one.
    pub(super) fn open(mut self) -> Opened<P> {
        if self.at >= self.line.to {
            step(WindowState::Between, WindowState::Complete);
            return Opened::Complete;
        }
        step(WindowState::Between, WindowState::Reading);
        self.span_seconds = self.span_seconds.min(self.line.longest_span);
        let resumed = self
            .resume
            .take()
            .filter(|resume| resume.from == self.at && resume.is_plausible(&self.line));
        let opened = resumed.unwrap_or_else(|| Resume {
            from: self.at,
            to: self
                .line
                .to
                .min(self.at + SignedDuration::from_secs(self.span_seconds.into())),
            began_at: self.line.began_at,
            unavailable: None,
            place: P::default(),
        });
        self.settled = self.settled.min(opened.began_at - self.line.overlap);
        Opened::Window(OpenWindow {
            windows: self,
            opened,
        })
    }

    /// Keeps the checkpoint before the open window, which must be read again.
    fn wait(&mut self, is_waiting: bool) {
        if is_waiting {
            self.settled = self.settled.min(self.at);
        }
    }

    fn checkpoint(&self, resume: Option<String>) -> Checkpoint {
        Checkpoint {
            cursor: self.at.min(self.settled),
            span_seconds: self.span_seconds,
            resume,
        }
    }
}

impl<P: Default + Clone + PartialEq + Serialize + DeserializeOwned> OpenWindow<P> {
    /// Part of the time line to read.
    pub(super) fn window(&self) -> Window {
        Window {
            from: self.opened.from,
            to: self.opened.to,
        }
    }

    /// Place to begin at.
    pub(super) fn place(&self) -> P {
        self.opened.place.clone()
    }

    /// Cause of an entry that an earlier run could not fetch from this window.
    pub(super) fn unavailable(&self) -> Option<String> {
        self.opened.unavailable.clone()
    }

    /// Closes a window that was read to its end. The next one is twice as long. `is_waiting` tells
    /// that some entry could not be fetched.
    pub(super) fn finish(self, is_waiting: bool) -> (Windows<P>, Checkpoint) {
        step(WindowState::Reading, WindowState::Between);
        let Self {
            mut windows,
            opened,
        } = self;
        windows.wait(is_waiting);
        windows.at = opened.to;
        windows.span_seconds = (windows.span_seconds * 2).min(windows.line.longest_span);
        let checkpoint = windows.checkpoint(None);
        (windows, checkpoint)
    }

    /// Ends the run at the place `reached`. `resumable` is the place where a later run can continue
    /// in the same window; without one, this window was too long, and the next is half as long.
    /// `unavailable` is the cause of the first entry that could not be fetched.
    pub(super) fn cut_short(
        self,
        reached: &P,
        resumable: Option<P>,
        unavailable: Option<String>,
    ) -> Cut {
        let Self {
            mut windows,
            opened,
        } = self;
        windows.wait(unavailable.is_some());
        let is_first = windows.at == windows.line.from;
        let has_moved = !is_first || *reached != opened.place;
        let is_shortest = resumable.is_none() && windows.span_seconds == SHORTEST_SPAN && is_first;
        let state = if has_moved && !is_shortest {
            WindowState::CutShort
        } else {
            WindowState::Stuck
        };
        step(WindowState::Reading, state);
        if resumable.is_none() {
            windows.span_seconds = (windows.span_seconds / 2).max(SHORTEST_SPAN);
        }
        let resume = resumable.and_then(|place| {
            Resume {
                unavailable,
                place,
                ..opened
            }
            .token()
        });
        let checkpoint = has_moved.then(|| windows.checkpoint(resume));
        Cut {
            at: windows.at,
            checkpoint,
            state,
            span_seconds: windows.span_seconds,
        }
    }
}

/// Takes a step.
fn step(from: WindowState, to: WindowState) {
    debug_assert!(
        STEPS.iter().any(|step| (step.0, step.1) == (from, to)),
        "{from:?} to {to:?} is no step"
    );
}
