//! State of one sweep: its purpose, its bounds, the messages that it holds, and its report.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::dead_letters::api::{DEFAULT_MAX_MESSAGES, Done, Report, Selection, Which, too_often};
use crate::dead_letters::erase::{self, Erasing};
use crate::dead_letters::message::DeadLetterMessage;
use crate::dead_letters::run::Run;
use crate::domain::erasure::Erasures;
use crate::domain::event::{EventId, Source};
use crate::domain::event_record::{CHECK_LIFE, DeadRecord, REPLAY_CEILING};
use crate::ports::archive::ArchivePart;
use crate::ports::queue::ReceiptHandle;

/// Held messages at which a sweep stops: some 120,000 can be in flight ("Amazon SQS message
/// quotas"), and past that SQS answers as if the queue were empty. A message that is not released
/// in time comes back by itself.
const MAX_HELD: usize = 100_000;

/// Purpose of a sweep.
#[expect(clippy::large_enum_variant, reason = "there is one for each run")]
pub(in crate::dead_letters) enum Purpose<'a> {
    /// To send selected dead letters back.
    Replay(&'a Selection),
    /// To drop these.
    Discard(&'a Which),
    /// To archive dead letters that SQS took before a time.
    Archive {
        before: Timestamp,
        /// The object that is being put together, and its messages.
        part: ArchivePart,
        parted: Vec<Selected>,
    },
    /// To make the records agree with the queue, and no more.
    Reconcile,
    /// To erase these, dead or not.
    Erase(&'a mut Erasing),
}

impl Purpose<'_> {
    /// To archive dead letters that SQS took before a time.
    pub(in crate::dead_letters) fn archive(before: Timestamp) -> Self {
        Self::Archive {
            before,
            part: ArchivePart::default(),
            parted: Vec::new(),
        }
    }

    pub(super) fn done(&self) -> Done {
        match self {
            Self::Replay(_) => Done::Replay { replayed: 0 },
            Self::Discard(_) => Done::Discard { discarded: 0 },
            Self::Archive { .. } => Done::Archive {
                archived: 0,
                keys: Vec::new(),
            },
            Self::Reconcile => Done::Reconcile { unlisted: 0 },
            Self::Erase(_) => erase::nothing_done(),
        }
    }

    /// The events that the request names by id.
    pub(super) fn named(&self) -> Option<&BTreeSet<EventId>> {
        match self {
            Self::Discard(Which::These(ids))
            | Self::Replay(Selection {
                which: Which::These(ids),
                ..
            }) => Some(ids),
            Self::Replay(_)
            | Self::Discard(_)
            | Self::Archive { .. }
            | Self::Reconcile
            | Self::Erase(_) => None,
        }
    }
}

/// A recorded dead letter that the sweep acts on.
pub(in crate::dead_letters) struct Selected {
    pub(super) message: DeadLetterMessage,
    pub(super) receipt: ReceiptHandle,
    pub(super) dead: DeadRecord,
}

impl Selected {
    pub(super) fn event_id(&self) -> &str {
        self.dead.record().event_id.as_str()
    }

    pub(super) fn is_check(&self) -> bool {
        self.dead.record().source == Source::Check
    }
}

/// State of one run over the dead letters.
pub(super) struct SweepState<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) purpose: Purpose<'a>,
    pub(super) stop_at: Instant,
    /// Time at which the next message may be sent.
    pub(super) due: Instant,
    pub(super) report: Report,
    /// True if the sweep left a message that it is for.
    pub(super) cut_short: bool,
    /// Receipts of messages that were received and not selected.
    pub(super) held: Vec<ReceiptHandle>,
    /// Every event whose message was received.
    pub(super) seen: HashSet<EventId>,
    /// Events that the run acts on.
    pub(super) taken: HashSet<EventId>,
    /// Events that the report explains already.
    pub(super) refused: HashSet<EventId>,
    /// Erasures that were noted before the run. None begins while the run has its lease.
    pub(super) erasures: Erasures,
}

impl<'a> SweepState<'a> {
    pub(super) fn new(
        run: &'a Run<'a>,
        purpose: Purpose<'a>,
        stop_at: Instant,
        erasures: Erasures,
    ) -> Self {
        Self {
            run,
            stop_at,
            report: Report::new(purpose.done()),
            purpose,
            due: Instant::now(),
            cut_short: false,
            held: Vec::new(),
            seen: HashSet::new(),
            taken: HashSet::new(),
            refused: HashSet::new(),
            erasures,
        }
    }

    /// Returns whether the run must end, whatever is left.
    pub(super) fn is_bounded(&self) -> bool {
        let most = match self.purpose {
            Purpose::Replay(selection) => {
                u64::from(selection.max_messages.unwrap_or(DEFAULT_MAX_MESSAGES))
            }
            Purpose::Discard(_)
            | Purpose::Archive { .. }
            | Purpose::Reconcile
            | Purpose::Erase(_) => u64::MAX,
        };
        self.report.matched >= most || self.held.len() >= MAX_HELD || Instant::now() >= self.stop_at
    }

    /// Returns whether all named events are found, so that the rest can stay unread.
    pub(super) fn has_all_named(&self) -> bool {
        self.purpose
            .named()
            .is_some_and(|named| named.iter().all(|id| self.seen.contains(id)))
    }

    /// Selects a dead letter if the run is for it, and holds it otherwise.
    pub(super) fn select(
        &mut self,
        message: DeadLetterMessage,
        receipt: ReceiptHandle,
        dead: DeadRecord,
        now: Timestamp,
    ) -> Option<Selected> {
        // A later message died after the run began: perhaps it was just replayed, and refused once
        // more.
        if message.sent_at >= self.run.began_at || !self.is_for(&message, &dead, now) {
            self.hold(receipt);
            return None;
        }
        if self.is_bounded() {
            self.cut_short = true;
            self.hold(receipt);
            return None;
        }
        if let Purpose::Replay(Selection { force: false, .. }) = self.purpose
            && dead.record().replays_made >= REPLAY_CEILING
        {
            self.report
                .fail(Some(message.event_id.as_str()), &too_often());
            self.refused.insert(message.event_id);
            self.hold(receipt);
            return None;
        }
        self.report.matched += 1;
        self.taken.insert(message.event_id.clone());
        Some(Selected {
            message,
            receipt,
            dead,
        })
    }

    fn is_for(&self, message: &DeadLetterMessage, dead: &DeadRecord, now: Timestamp) -> bool {
        match &self.purpose {
            Purpose::Replay(selection) => selection.which.includes_record(dead.record(), now),
            Purpose::Discard(which) => which.includes_record(dead.record(), now),
            // A check that ended early left its dead letter; no record of it lives longer.
            Purpose::Archive { .. } if dead.record().source == Source::Check => {
                message.sent_at + CHECK_LIFE <= now
            }
            Purpose::Archive { before, .. } => message.sent_at <= *before,
            Purpose::Reconcile | Purpose::Erase(_) => false,
        }
    }

    pub(super) fn hold(&mut self, receipt: ReceiptHandle) {
        self.report.skipped += 1;
        self.held.push(receipt);
    }

    /// Counts messages as not matched after all, because the time is up.
    pub(super) fn give_back(&mut self, selected: impl Iterator<Item = Selected>) {
        for selected in selected {
            self.cut_short = true;
            self.report.matched -= 1;
            self.hold(selected.receipt);
        }
    }
}
