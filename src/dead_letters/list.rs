//! Reads of the dead-letter index: pages of the list, counts, and the dry run of a replay. Receives
//! nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::api::{
    DEFAULT_MAX_MESSAGES, DeadLetter, Done, Filter, List, Listing, Report, Selection, Which,
    too_often,
};
use super::error::ReplayError;
use super::missing::MissingEvents;
use super::ports::{PortTypes, Ports};
use crate::domain::event::EventId;
use crate::domain::event_record::REPLAY_CEILING;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Page, Position, Window};
use crate::ports::queue::Countable;
use crate::ports::service::ServiceError;

/// Dead letters that are read from the index at a time, when all are.
const PAGE: usize = 1000;

/// Pages that are counted at most to tell whether everything is listed. With more, the answer is
/// that it may not be.
const MOST_COUNTED: usize = 10;

/// A list stops reading this long before its deadline.
const LIST_TIME: Duration = Duration::from_secs(2);

pub(super) struct DeadLetterIndex<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

/// Position of a reader of all dead letters.
#[derive(Default)]
pub(super) struct Pages {
    window: Window,
    conversation: Option<String>,
    after: Option<Position>,
    is_over: bool,
}

impl Pages {
    /// Begins at the start of the part of the time line that can hold matches.
    fn of(which: &Which) -> Self {
        Self {
            window: which.window(),
            conversation: which.conversation().map(str::to_owned),
            ..Self::default()
        }
    }
}

impl<T: PortTypes> DeadLetterIndex<'_, T> {
    /// Reads a page of the list, up to its limit or the deadline.
    pub(super) async fn list(
        &self,
        listing: &Listing,
        deadline: Instant,
    ) -> Result<List, ReplayError> {
        let now = self.ports.clock.now();
        let mut items = Vec::new();
        let mut after = listing.after.clone();
        loop {
            let open = listing.limit - items.len();
            let Filter {
                conversation_id, ..
            } = &listing.filter;
            let page = self
                .page(
                    listing.filter.window(),
                    conversation_id.as_deref(),
                    after.as_ref(),
                    open.max(PAGE / 10),
                )
                .await?;
            for summary in page.items {
                let position = Position::of(summary.received_at, &summary.event_id);
                items.extend(
                    DeadLetter::of(summary, now)
                        .filter(|dead_letter| listing.filter.matches(dead_letter)),
                );
                after = Some(position);
                if items.len() == listing.limit {
                    let next = after.map(|position| position.token());
                    return Ok(List {
                        count: items.len(),
                        items,
                        next,
                    });
                }
            }
            if page.next.is_none() {
                return Ok(List {
                    count: items.len(),
                    items,
                    next: None,
                });
            }
            after = page.next;
            if Instant::now() + LIST_TIME >= deadline {
                return Ok(List {
                    count: items.len(),
                    items,
                    next: after.map(|position| position.token()),
                });
            }
        }
    }

    /// Upper bound on the messages that are not listed yet, by the approximate counts of SQS.
    ///
    /// The message of a listed event can be in any queue, or on its way between them. So it is
    /// certain that everything is listed only if the other queues are empty and the dead-letter
    /// queue holds no more messages than are listed.
    pub(super) async fn unlisted(&self) -> Result<u64, ReplayError> {
        let waiting = self.ports.outside().await?;
        let queued = self.ports.dead_letters.depth().await?.total();
        let (mut listed, mut pages) = (0, Pages::default());
        for _ in 0..MOST_COUNTED {
            match self.next_page(&mut pages).await? {
                Some(page) => listed += page.len() as u64,
                None => return Ok(waiting + queued.saturating_sub(listed)),
            }
        }
        Ok(waiting + queued)
    }

    /// Reads the next page of all dead letters, oldest first; `None` after the last.
    pub(super) async fn next_page(
        &self,
        pages: &mut Pages,
    ) -> Result<Option<Vec<DeadLetter>>, ServiceError> {
        if pages.is_over {
            return Ok(None);
        }
        let now = self.ports.clock.now();
        let page = self
            .page(
                pages.window,
                pages.conversation.as_deref(),
                pages.after.as_ref(),
                PAGE,
            )
            .await?;
        pages.is_over = page.next.is_none();
        pages.after = page.next;
        Ok(Some(
            page.items
                .into_iter()
                .filter_map(|summary| DeadLetter::of(summary, now))
                .collect(),
        ))
    }

    /// Reads a part of the dead letters: from their index, or those of one conversation from its
    /// index and the records.
    async fn page(
        &self,
        window: Window,
        conversation: Option<&str>,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Page, ServiceError> {
        let table = &self.ports.table;
        let Some(id) = conversation else {
            return table.dead_letters(window, after, limit).await;
        };
        let page = table.conversation(id, after, limit).await?;
        let records = table.get_many(&page.event_ids).await?;
        let dead_letter = |event_id: &EventId| {
            let record = records.get(event_id)?;
            let is_one = record.state.is_indexed() && record.conversation_id.as_deref() == Some(id);
            is_one.then(|| record.summary())
        };
        Ok(Page {
            items: page.event_ids.iter().filter_map(dead_letter).collect(),
            next: page.next,
        })
    }

    /// Counts the dead letters that a replay would bring back.
    pub(super) async fn count(&self, selection: &Selection) -> Result<Report, ReplayError> {
        let mut report = Report::new(Done::Replay { replayed: 0 });
        report.dry_run = true;
        report.complete = true;
        let most = match (selection.max_messages, &selection.which) {
            (Some(most), _) => u64::from(most),
            (None, Which::All) => u64::MAX,
            (None, Which::These(_) | Which::Matching(_)) => u64::from(DEFAULT_MAX_MESSAGES),
        };
        let mut missing = match &selection.which {
            Which::These(ids) => ids.clone(),
            Which::All | Which::Matching(_) => BTreeSet::new(),
        };
        let (mut pages, mut listed) = (Pages::of(&selection.which), 0);
        while let Some(page) = self.next_page(&mut pages).await? {
            listed += page.len() as u64;
            for dead_letter in page {
                missing.remove(&dead_letter.event_id);
                if !selection.which.includes(&dead_letter) {
                    report.skipped += 1;
                } else if !selection.force && dead_letter.replays >= REPLAY_CEILING {
                    report.skipped += 1;
                    report.fail(Some(dead_letter.event_id.as_str()), &too_often());
                } else if report.matched == most {
                    report.skipped += 1;
                    report.complete = false;
                } else {
                    report.matched += 1;
                    if matches!(selection.which, Which::Matching(_)) {
                        report.event_ids.push(dead_letter.event_id.clone());
                    }
                    report.list(dead_letter);
                }
            }
        }
        let depth = self.ports.dead_letters.depth().await?;
        let missing: Vec<EventId> = missing.into_iter().collect();
        let unseen = depth.total().saturating_sub(listed);
        MissingEvents { ports: self.ports }
            .explain(&missing, depth.in_flight, unseen, &mut report)
            .await?;
        report.remaining = Some(depth.total());
        Ok(report)
    }

    /// Age of the oldest dead letter, since the relay received it.
    pub(super) async fn oldest_age(
        &self,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<Option<Duration>, ReplayError> {
        let oldest = self
            .list(&Listing::first(), deadline)
            .await?
            .items
            .into_iter()
            .next();
        Ok(oldest.map(|dead_letter| {
            now.duration_since(dead_letter.received_at)
                .try_into()
                .unwrap_or_default()
        }))
    }

    /// Returns whether the records differ from the contents of the dead-letter queue, or the queue
    /// in order has a dead letter of its own.
    ///
    /// The queue may hold fewer than are listed while some are on their way there or back.
    pub(super) async fn is_reconcile_needed(&self) -> Result<bool, ReplayError> {
        if let Some(ordered) = &self.ports.ordered
            && ordered.dead_letters.depth().await?.total() > 0
        {
            return Ok(true);
        }
        let now = self.ports.clock.now();
        let queued = self.ports.dead_letters.depth().await?.total();
        let bulk = self.ports.bulk_replay().await?;
        let (mut listed, mut arrived) = (0, 0);
        let mut pages = Pages::default();
        while let Some(page) = self.next_page(&mut pages).await? {
            if page.iter().any(|dead_letter| !dead_letter.is_recorded) {
                return Ok(true);
            }
            listed += page.len() as u64;
            arrived += page
                .iter()
                .filter(|dead_letter| dead_letter.has_arrived(bulk.as_ref(), now))
                .count() as u64;
        }
        Ok(queued > listed || queued < arrived)
    }
}
