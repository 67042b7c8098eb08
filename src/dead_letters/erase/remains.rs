//! Places that may hold something of erased events after a run, and for how long.

use jiff::{SignedDuration, Timestamp};

use crate::dead_letters::Settings;
use crate::dead_letters::api::Remaining;
use crate::domain::event_record::LIFE;

/// Retention of the events queues (`MessageRetentionPeriod` in the template).
const QUEUED_FOR: SignedDuration = SignedDuration::from_hours(10 * 24);

/// No queue keeps a message for longer ("Amazon SQS message quotas").
const LONGEST_QUEUED: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Facts of a run that decide what remains.
pub(super) struct Kind {
    /// True if the run has searched everything.
    pub(super) is_complete: bool,
    pub(super) is_by_conversation: bool,
    /// True if the run has the queues of the order per conversation.
    pub(super) keeps_order: bool,
    /// Messages and lines whose conversation is unknown.
    pub(super) unknown: u64,
}

/// Lists them after a run that ends now.
pub(super) fn list(settings: Settings, kind: &Kind, now: Timestamp) -> Vec<Remaining> {
    let days = |days: u32| SignedDuration::from_hours(24 * i64::from(days));
    let within = |place: &str, what: &str, time: Option<SignedDuration>| Remaining {
        place: place.to_owned(),
        what: what.to_owned(),
        until: time.and_then(|time| now.checked_add(time).ok()),
    };
    let unreached = within(
        "dead-letter queue, journal queue and archive bucket",
        "what this run did not reach: see complete and failed, and repeat the request",
        None,
    );
    let unknown = format!(
        "{} messages and lines whose bodies are no JSON, so that their conversation is unknown: show each dead letter of the \
         reason malformed or unreadable, and erase those of the conversation by eventIds",
        kind.unknown
    );
    let sometimes = [
        (!kind.is_complete).then_some(unreached),
        (kind.unknown > 0).then(|| within("dead-letter queue and archive bucket", &unknown, None)),
        kind.is_by_conversation.then(|| {
            within(
                "events table",
                "records that were last written by a version without conversations, if the stack was updated in the last 15 \
                 days: erase those events by eventIds",
                Some(LIFE),
            )
        }),
        (!kind.keeps_order).then(|| {
            within(
                "FIFO queues of an earlier parameter Order",
                "messages that were left there when the order was switched off; no function of the stack reads them",
                Some(LONGEST_QUEUED),
            )
        }),
    ];
    let always = [
        within(
            "events queue",
            "messages that still wait there; the processor drops each one when it receives it, and delivers none; one that \
             SQS moves to the dead letters is removed by the next run over these",
            Some(QUEUED_FOR),
        ),
        within(
            "events table",
            "of each event a record without content: id, source, times, digest of the body, and this erasure with its \
             reason; of the conversation a hash of its id",
            Some(LIFE),
        ),
        within(
            "point-in-time recovery of the events table",
            "records and bodies of dead letters as they were; a table that is restored to an earlier time has them again",
            Some(days(settings.backup_days)),
        ),
        within(
            "log groups",
            "ids of the events, errors, beginnings of the target's answers, and the requests about them",
            Some(days(settings.log_retention_days)),
        ),
        within(
            "statements in the archive bucket",
            "ids and times of messages without a record, and ids of their conversations, where a statement names them; each \
             statement carries the hash of the one before",
            None,
        ),
        within(
            "your system",
            "what it has accepted, also by an attempt that was under way",
            None,
        ),
        within(
            "Genesys Cloud",
            "the conversation itself, and its own log of deliveries",
            None,
        ),
        within(
            "copies of your own",
            "exports, on-demand backups and subscriptions to the logs that you have set up",
            None,
        ),
    ];
    sometimes.into_iter().flatten().chain(always).collect()
}
