//! Invariants of the journal, of resends and of erasures. A book of its own decides, never what the
//! relay's records say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read as _;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use genesys_relay::domain::conversation::ConversationKey;
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::event_record::{EventRecord, StateName};
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::target::Delivery;
use genesys_relay::testing::{FakeClock, FakeQueue};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Invariants, RECORD_LIFE, TOLERANCE, is_check, label_of};
use crate::faults::Process;
use crate::lock;
use crate::scenario::{Kind, Scenario};

/// A run that was cancelled sends for no longer than one step, all calls of which may hang.
const LAST_STEP: Duration = Duration::from_mins(3);

/// The same without faults.
const LAST_STEP_WITHOUT_FAULTS: Duration = Duration::from_secs(10);

/// An event: its id, and the label of its body. Another body can have the id.
pub(crate) type Key = (EventId, String);

/// A message in a queue: its event, and the time at which it was sent.
pub(crate) type Place = (EventId, String, Timestamp);

/// What the senders know of an event, by its label.
#[derive(Clone, Default)]
struct Facts {
    source: &'static str,
    conversation: Option<String>,
    webhook_id: Option<String>,
}

/// Observations of the journal, of resends and of erasures.
#[derive(Default)]
pub(super) struct Book {
    /// The stack keeps a journal.
    is_on: bool,
    facts: BTreeMap<String, Facts>,
    /// Time of the first record of each event.
    created: BTreeMap<EventId, Timestamp>,
    /// Time at which a queue first had each event, and the earliest time of receipt on its messages.
    queued: BTreeMap<Key, (Timestamp, Timestamp)>,
    /// Run of the newest acceptance of an event by each process; `None` is no resend.
    accepted: BTreeMap<(usize, EventId), (String, Option<String>)>,
    /// Events that are recorded as delivered without a resend.
    delivered: BTreeSet<Key>,
    /// Times at which the journal's queue took each event.
    journalled: BTreeMap<Key, Vec<Timestamp>>,
    /// Messages as the journal's queue has had them.
    messages: BTreeMap<Key, Vec<Message>>,
    /// Events that each process is sending to the journal's queue.
    sending: BTreeMap<usize, BTreeSet<Key>>,
    /// Events that the processor counts as missing in the journal.
    missed: BTreeSet<Key>,
    runs: BTreeMap<String, Resend>,
    /// Events of which a resend has sent a message.
    resent: BTreeSet<EventId>,
    erasures: Vec<Erasure>,
    /// Messages that were in a queue of dead letters, of this kind, when a run that erases last
    /// received from it.
    searched: BTreeMap<(usize, bool), BTreeSet<Place>>,
    /// Lines of the newest version of each object.
    objects: BTreeMap<String, Vec<Line>>,
}

/// A line of an object.
#[derive(Clone, PartialEq, Eq)]
struct Line {
    key: Key,
    text: String,
}

/// A resend that was asked for.
struct Resend {
    request: Value,
    asked_at: Timestamp,
    /// Time at which it was last handed over, cancelled or reported.
    known_at: Timestamp,
    /// Events that it must deliver.
    expected: BTreeSet<Key>,
    taken: BTreeSet<Key>,
    /// Time of the record of each event that it delivered.
    recorded: BTreeMap<EventId, Timestamp>,
    sent: BTreeSet<Key>,
    /// Processes that have sent for it.
    processes: BTreeSet<usize>,
    /// Times of the messages of the last seconds.
    newest: VecDeque<Instant>,
    /// The last place of each conversation that the target has accepted without a mark.
    reached: BTreeMap<String, (Timestamp, EventId)>,
    cancelled_at: Option<Instant>,
    /// True if an operator asked to cancel it, whose answer may be lost.
    is_cancel_asked: bool,
    report: Option<Value>,
}

/// An erasure that was asked for.
struct Erasure {
    /// Name of the run, if it has one.
    run: Option<String>,
    ids: BTreeSet<EventId>,
    conversation: Option<String>,
    asked_at: Timestamp,
    ended_at: Option<Timestamp>,
}

impl Erasure {
    fn of(request: &Value) -> Self {
        let ids = request["eventIds"].as_array().into_iter().flatten();
        Self {
            run: request["runId"].as_str().map(str::to_owned),
            ids: ids.filter_map(|id| id.as_str()?.parse().ok()).collect(),
            conversation: request["conversationId"].as_str().map(str::to_owned),
            asked_at: FakeClock.now(),
            ended_at: None,
        }
    }

    fn is_of(&self, other: &Self) -> bool {
        let is_of_run = other.run.is_none() || self.run == other.run;
        is_of_run && self.ids == other.ids && self.conversation == other.conversation
    }

    /// A request for it without a name, which can be repeated at any time.
    fn request(&self) -> Value {
        match &self.conversation {
            Some(id) => json!({ "action": "erase", "conversationId": id, "why": "asked for" }),
            None => json!({ "action": "erase", "eventIds": self.ids, "why": "asked for" }),
        }
    }
}

impl Book {
    pub(super) fn new(scenario: &Scenario) -> Self {
        if scenario.journal.is_none() {
            return Self::default();
        }
        let facts = scenario.events.iter().map(|sent| {
            let body = String::from_utf8_lossy(&sent.body(0)).into_owned();
            let named = sent.conversation.map(|number| format!("c-{number}"));
            let facts = Facts {
                source: match sent.kind {
                    Kind::Webhook | Kind::KeyedEnvelope | Kind::Unfilled => "webhook",
                    Kind::OpenMessaging | Kind::EmptyId | Kind::SharedId => "open-messaging",
                    Kind::EventBridge => "eventbridge",
                    _ => "generic",
                },
                conversation: named.filter(|id| body.contains(&format!("\"{id}\""))),
                webhook_id: (sent.kind == Kind::Webhook)
                    .then(|| format!("hook-{}", sent.number % 3)),
            };
            (sent.label(), facts)
        });
        Self {
            is_on: true,
            facts: facts.collect(),
            ..Self::default()
        }
    }

    fn conversation(&self, label: &str) -> Option<&str> {
        self.facts.get(label)?.conversation.as_deref()
    }

    /// Notes a message of an event in a queue of events or dead letters.
    pub(super) fn queued(
        &mut self,
        ids: impl Iterator<Item = EventId>,
        label: &str,
        received_at: Timestamp,
    ) {
        if !self.is_on {
            return;
        }
        let now = FakeClock.now();
        for id in ids {
            let (_, received) = self
                .queued
                .entry((id, label.to_owned()))
                .or_insert((now, received_at));
            *received = received_at.min(*received);
        }
    }

    /// Returns whether someone has asked to erase the event.
    pub(super) fn is_erasure_asked(&self, id: &EventId, label: &str) -> bool {
        if self.erasures.is_empty() {
            return false;
        }
        let key = (id.clone(), label.to_owned());
        self.erasures.iter().any(|erasure| {
            let until = erasure.ended_at.unwrap_or_else(|| FakeClock.now()) + TOLERANCE;
            let is_before = || {
                self.queued
                    .get(&key)
                    .is_none_or(|(_, received_at)| *received_at < until)
            };
            erasure.ids.contains(id)
                || (erasure.conversation.is_some()
                    && erasure.conversation.as_deref() == self.conversation(label)
                    && is_before())
        })
    }

    /// Returns whether someone has asked to erase an event with this id, whatever its body.
    pub(super) fn is_id_erasure_asked(&self, id: &EventId) -> bool {
        self.erasures.iter().any(|erasure| erasure.ids.contains(id))
            || (!self.erasures.is_empty()
                && self
                    .queued
                    .keys()
                    .filter(|(queued, _)| queued == id)
                    .any(|(_, label)| self.is_erasure_asked(id, label)))
    }

    /// Returns whether nothing of an event may be left outside the queues of events, and nothing of
    /// it may be delivered: a run that erases it has ended.
    pub(super) fn is_erased(&self, id: &EventId, label: &str) -> bool {
        let mut erasures = self.erasures.iter();
        erasures.any(|erasure| self.has_erased(erasure, id, label))
    }

    /// Returns whether nothing of an event with this id may be left, whatever its body.
    pub(super) fn is_record_erased(&self, id: &EventId) -> bool {
        let mut labels = self.queued.keys().filter(|(queued, _)| queued == id);
        labels
            .next()
            .is_some_and(|(_, label)| self.is_erased(id, label))
            && labels.all(|(_, label)| self.is_erased(id, label))
    }

    /// The same of one erasure.
    fn has_erased(&self, erasure: &Erasure, id: &EventId, label: &str) -> bool {
        let (key, now) = ((id.clone(), label.to_owned()), FakeClock.now());
        let is_known =
            erasure.ended_at.is_some() && now + TOLERANCE < erasure.asked_at + RECORD_LIFE;
        let is_before = || {
            let queued = self.queued.get(&key);
            queued.is_some_and(|(at, _)| *at + TOLERANCE < erasure.asked_at)
        };
        is_known
            && (erasure.ids.contains(id)
                || (erasure.conversation.is_some()
                    && erasure.conversation.as_deref() == self.conversation(label)
                    && is_before()))
    }

    /// A resend that is asked for now.
    fn resend(&self, request: &Value) -> Resend {
        // It must send what an object already has; of the rest it may.
        let in_objects: BTreeSet<Key> = self
            .objects
            .iter()
            .filter(|(object, _)| object.starts_with("journal/"))
            .flat_map(|(_, lines)| lines.iter().map(|line| line.key.clone()))
            .collect();
        let expected = in_objects.into_iter().filter(|key| {
            // Later times are those of copies, which were not delivered.
            let first = self.journalled.get(key).and_then(|times| times.get(..1));
            self.is_selected(request, key, first.unwrap_or_default(), false)
        });
        let now = FakeClock.now();
        Resend {
            request: request.clone(),
            asked_at: now,
            known_at: now,
            expected: expected.collect(),
            taken: BTreeSet::new(),
            recorded: BTreeMap::new(),
            sent: BTreeSet::new(),
            processes: BTreeSet::new(),
            newest: VecDeque::new(),
            reached: BTreeMap::new(),
            cancelled_at: None,
            is_cancel_asked: false,
            report: None,
        }
    }

    /// Returns whether a run may send an event. `exactly` also where the end of a window is near.
    fn is_selected(&self, request: &Value, key: &Key, times: &[Timestamp], exactly: bool) -> bool {
        if let Some(ids) = request["eventIds"].as_array() {
            return ids.iter().any(|id| id == key.0.as_str()) && !times.is_empty();
        }
        let filter = &request["filter"];
        let Some(facts) = self.facts.get(&key.1) else {
            return false;
        };
        let time = |name: &str| {
            filter[name]
                .as_str()
                .and_then(|text| text.parse::<Timestamp>().ok())
        };
        // Times in lines are in whole milliseconds.
        let slack = jiff::SignedDuration::from_millis(if exactly { 2 } else { -2 });
        let is_in = |at: &Timestamp| {
            time("since").is_none_or(|since| *at + slack >= since)
                && time("until").is_none_or(|until| *at - slack < until)
        };
        let matches = |name: &str, value: Option<&str>| {
            filter[name].is_null() || filter[name].as_str() == value
        };
        matches("source", Some(facts.source))
            && matches("conversationId", facts.conversation.as_deref())
            && matches("webhookId", facts.webhook_id.as_deref())
            && times.iter().any(is_in)
    }
}

impl Invariants {
    /// Notes that a process of the processor begins to send events to the journal's queue.
    pub(crate) fn journal_begins(&self, process: usize, messages: &[Message]) {
        if messages.iter().any(is_check) {
            self.violate("a check event is sent to the journal");
        }
        let keys = messages.iter().map(key_of).collect();
        let mut book = lock(&self.book);
        book.sending.insert(process, keys);
        for message in messages {
            let (id, label) = key_of(message);
            if book.is_erased(&id, &label) {
                drop(book);
                return self.violate(&format!(
                    "{id} is sent to the journal although it is erased"
                ));
            }
        }
    }

    /// Notes that the journal's queue has an event.
    pub(crate) fn journal_queued(&self, message: &Message) {
        let (key, now) = (key_of(message), FakeClock.now());
        let mut book = lock(&self.book);
        book.journalled.entry(key.clone()).or_default().push(now);
        book.messages
            .entry(key.clone())
            .or_default()
            .push(message.clone());
        let is_taken = {
            let seen = lock(&self.seen);
            let labelled = seen.labels.get(&key.1);
            // A rebuilt copy was delivered, which has no digest and stands for every body of its id.
            let is_stood_for = labelled.is_some_and(|labelled| labelled.is_open)
                && seen.taken.contains_key(&key.0);
            is_stood_for || labelled.is_some_and(|labelled| labelled.taken.contains(&key.0))
        };
        drop(book);
        if !is_taken {
            self.violate(&format!(
                "{key:?} is in the journal, and the target has not accepted it"
            ));
        }
        if message.reason(now).is_some() {
            self.violate(&format!(
                "{key:?} is in the journal with the reason of a dead letter"
            ));
        }
    }

    /// Notes the end of an invocation of the processor: what it was still sending to the journal's
    /// queue, it has given up.
    pub(crate) fn journal_ended(&self, process: usize, has_answered: bool) {
        let mut book = lock(&self.book);
        let Some(sending) = book.sending.remove(&process) else {
            return;
        };
        if has_answered {
            book.missed.extend(sending);
        }
    }

    /// Notes that all calls of a batch to the journal's queue have returned, and what they failed for.
    pub(crate) fn journal_sent<'a>(
        &self,
        process: usize,
        failed: impl Iterator<Item = &'a Message>,
    ) {
        let mut book = lock(&self.book);
        book.sending.remove(&process);
        book.missed.extend(failed.map(key_of));
    }

    /// Notes a request of an operator about the journal.
    pub(crate) fn resend_asked(&self, request: &Value) {
        let Some(run) = request["runId"].as_str() else {
            return;
        };
        let mut book = lock(&self.book);
        if !book.runs.contains_key(run) {
            let resend = book.resend(request);
            book.runs.insert(run.to_owned(), resend);
        }
    }

    /// Notes that a resend is handed over. The name of one that ended long ago is free for another,
    /// which delivers what the records have forgotten.
    pub(crate) fn resend_started(&self, request: &Value) {
        let (mut book, now) = (lock(&self.book), FakeClock.now());
        let run = request["runId"].as_str();
        let Some((run, known)) = run.and_then(|run| Some((run, book.runs.remove(run)?))) else {
            return;
        };
        let resend = if now < known.known_at + RECORD_LIFE {
            known
        } else {
            let mut taken = known.taken;
            taken.retain(|(id, _)| {
                let recorded = known.recorded.get(id);
                recorded.is_some_and(|at| now < *at + RECORD_LIFE)
            });
            Resend {
                taken,
                recorded: known.recorded,
                ..book.resend(request)
            }
        };
        let resend = Resend {
            known_at: now,
            ..resend
        };
        book.runs.insert(run.to_owned(), resend);
    }

    /// Notes an erasure that an operator asks for.
    pub(crate) fn erasure_asked(&self, request: &Value) {
        let erasure = Erasure::of(request);
        let mut book = lock(&self.book);
        // The same, repeated: it is asked for since the first time.
        let is_open = |asked: &Erasure| {
            asked.is_of(&erasure) && (erasure.run.is_some() || asked.ended_at.is_none())
        };
        if book.erasures.iter().any(is_open) {
            return;
        }
        book.erasures.push(erasure);
        drop(book);
        lock(&self.seen).changes += 1;
    }

    /// Notes the last answer of a run. An erasure that is not complete is to be repeated.
    pub(crate) fn run_ended(&self, request: &Value, report: &Value) {
        let mut book = lock(&self.book);
        if request["action"] == "erase" {
            if report["complete"] == true {
                let (now, ended) = (FakeClock.now(), Erasure::of(request));
                let open = book
                    .erasures
                    .iter_mut()
                    .filter(|erasure| erasure.is_of(&ended));
                for erasure in open {
                    erasure.ended_at.get_or_insert(now);
                }
            }
            return;
        }
        if let Some(resend) = request["runId"]
            .as_str()
            .and_then(|run| book.runs.get_mut(run))
            && resend.report.replace(report.clone()).is_none()
        {
            resend.known_at = FakeClock.now();
        }
    }

    /// Notes that an operator asks to cancel a resend.
    pub(crate) fn resend_cancel_asked(&self, run: &str) {
        if let Some(resend) = lock(&self.book).runs.get_mut(run) {
            resend.is_cancel_asked = true;
        }
    }

    /// Notes that an operator has cancelled a resend.
    pub(crate) fn resend_cancelled(&self, run: &str) {
        if let Some(resend) = lock(&self.book).runs.get_mut(run) {
            resend.cancelled_at.get_or_insert_with(Instant::now);
            resend.known_at = FakeClock.now();
        }
    }

    /// Returns whether what this asks for has not ended.
    pub(crate) fn is_open(&self, request: &Value) -> bool {
        let book = lock(&self.book);
        if request["action"] == "erase" {
            let asked = Erasure::of(request);
            let mut erasures = book.erasures.iter();
            return erasures.any(|erasure| erasure.is_of(&asked) && erasure.ended_at.is_none());
        }
        let run = request["runId"].as_str().and_then(|run| book.runs.get(run));
        run.is_none_or(|run| run.report.is_none() && run.cancelled_at.is_none())
    }

    /// Requests of resends and erasures that have not ended.
    pub(crate) fn open_runs(&self) -> Vec<Value> {
        let book = lock(&self.book);
        let resends = book
            .runs
            .values()
            .filter(|resend| resend.report.is_none() && resend.cancelled_at.is_none())
            .map(|resend| resend.request.clone());
        let erasures = book
            .erasures
            .iter()
            .filter(|erasure| erasure.ended_at.is_none())
            .map(Erasure::request);
        resends.chain(erasures).collect()
    }

    /// Checks a message that goes to a queue of events: only what was selected is sent once more,
    /// as the journal has it, and no faster than asked for.
    pub(crate) fn check_resent(&self, message: &Message, process: &Process) {
        if !lock(&self.book).is_on {
            return;
        }
        let by = process.name();
        let key = key_of(message);
        if by == "look" {
            self.violate(&format!("a look sends {key:?}"));
        }
        let resend = match message.resend() {
            Ok(resend) => resend,
            Err(error) => {
                return self.violate(&format!("{key:?} is sent with a wrong mark: {error}"));
            }
        };
        let Some(run) = resend.as_ref().map(|resend| resend.run.as_str()) else {
            if by == "resend" {
                self.violate(&format!("{key:?} is sent once more without its mark"));
            }
            return;
        };
        let mut book = lock(&self.book);
        book.resent.insert(key.0.clone());
        let times = book.journalled.get(&key).cloned().unwrap_or_default();
        let Some(resend) = book.runs.get(run) else {
            drop(book);
            return self.violate(&format!(
                "{key:?} is sent by {run}, which was not asked for"
            ));
        };
        let request = resend.request.clone();
        if !book.is_selected(&request, &key, &times, true) {
            drop(book);
            return self.violate(&format!(
                "{key:?} is sent by {run}, which has not selected it: {request}"
            ));
        }
        if by != "resend" {
            return;
        }
        let is_as_journalled = book.messages.get(&key).is_some_and(|messages| {
            messages.iter().any(|journalled| {
                let mut attributes = message.attributes.clone();
                attributes.remove("resend");
                journalled.body == message.body && journalled.attributes == attributes
            })
        });
        let now = Instant::now();
        let Some(resend) = book.runs.get_mut(run) else {
            return;
        };
        let last_step = if process.faults().have_ended() {
            LAST_STEP_WITHOUT_FAULTS
        } else {
            LAST_STEP
        };
        let is_late = resend.cancelled_at.is_some_and(|at| now > at + last_step);
        resend.sent.insert(key.clone());
        let most = request["maxMessages"].as_u64().unwrap_or(10_000);
        resend.processes.insert(process.number());
        // What is sent without an answer counts as not sent.
        let is_undisturbed = resend.processes.len() == 1 && process.ran_without_faults();
        let is_beyond = is_undisturbed && resend.sent.len() as u64 > most;
        let rate = request["ratePerSecond"].as_u64();
        resend.newest.push_back(now);
        while resend
            .newest
            .front()
            .is_some_and(|at| now - *at >= Duration::from_secs(10))
        {
            resend.newest.pop_front();
        }
        // With a batch at each end of the time.
        let is_fast = rate.is_some_and(|rate| resend.newest.len() as u64 > 10 * rate + 20);
        drop(book);
        if !is_as_journalled {
            self.violate(&format!(
                "{key:?} is sent by {run} otherwise than the journal has it"
            ));
        }
        if is_late {
            self.violate(&format!("{run} sends {key:?} although it was cancelled"));
        }
        if is_beyond {
            self.violate(&format!("{run} sends more than {most} events"));
        }
        if is_fast {
            self.violate(&format!(
                "{run} sends faster than {rate:?} messages a second"
            ));
        }
    }

    /// Checks that a delivery of an event may begin, by what was accepted and recorded before.
    pub(super) fn check_redelivery(&self, id: &EventId, label: &str, run: Option<&str>) {
        let (book, now) = (lock(&self.book), FakeClock.now());
        if !book.is_on {
            return;
        }
        if book.is_erased(id, label) {
            drop(book);
            return self.violate(&format!("{id} {label} is delivered although it is erased"));
        }
        let Some(run) = run else { return };
        let resend = book.runs.get(run);
        let recorded = resend.and_then(|resend| resend.recorded.get(id).copied());
        let is_asked = resend.is_some();
        drop(book);
        if !is_asked {
            self.violate(&format!(
                "{id} is delivered for {run}, which was not asked for"
            ));
        }
        if recorded.is_some_and(|at| now < at + RECORD_LIFE - TOLERANCE) {
            self.violate(&format!(
                "{id} is delivered by {run} again although that is recorded"
            ));
        }
    }

    /// Notes that the target accepted an event from a process.
    pub(super) fn note_acceptance(
        &self,
        process: &Process,
        delivery: &Delivery<'_>,
        keeps_order: bool,
    ) {
        let Delivery {
            event,
            order,
            resend: run,
            ..
        } = *delivery;
        let label = label_of(&event.body);
        let key = (event.id.clone(), label.clone());
        let mut book = lock(&self.book);
        if !book.is_on {
            return;
        }
        book.accepted.insert(
            (process.number(), event.id.clone()),
            (label.clone(), run.map(str::to_owned)),
        );
        if book.is_erased(&key.0, &key.1) {
            drop(book);
            return self.violate(&format!("{key:?} is delivered although it is erased"));
        }
        let conversation = book.conversation(&label).map(str::to_owned);
        let Some(resend) = run.and_then(|run| book.runs.get_mut(run)) else {
            return;
        };
        let is_first = resend.taken.insert(key.clone());
        let (Some(conversation), true, None, true) = (
            conversation.filter(|_| ConversationKey::of(event).is_some()),
            is_first,
            order,
            keeps_order,
        ) else {
            return;
        };
        let place = (event.received_at, event.id.clone());
        let reached = resend
            .reached
            .entry(conversation)
            .or_insert_with(|| place.clone());
        let is_late = *reached > place;
        *reached = place.max(reached.clone());
        drop(book);
        if is_late {
            self.violate(&format!(
                "{key:?} comes after a later event of its conversation in a resend, unmarked"
            ));
        }
    }

    /// Notes the record of a delivery by a process, and checks the states of what was erased or sent
    /// once more.
    pub(super) fn note_written(
        &self,
        process: &Process,
        before: Option<&EventRecord>,
        after: &EventRecord,
    ) {
        let (id, now, by) = (&after.event_id, FakeClock.now(), process.name());
        let name = after.state.name();
        let mut book = lock(&self.book);
        if !book.is_on {
            return;
        }
        if by == "look" {
            drop(book);
            return self.violate(&format!("a look writes the record of {id}"));
        }
        if before.is_none() {
            book.created.insert(id.clone(), now);
        }
        if name == StateName::Erased {
            let is_asked = book.is_id_erasure_asked(id);
            // The record is that of an event that nobody has asked to erase, and another has its id.
            let other = book
                .delivered
                .iter()
                .find(|(delivered, label)| delivered == id && !book.is_erasure_asked(id, label));
            let other = other.map(|(_, label)| label.clone());
            drop(book);
            if !is_asked {
                self.violate(&format!("{id} is erased by {by} without a request"));
            }
            if let Some(label) = other {
                self.violate(&format!(
                    "{id} of {label} is erased by {by} instead of another event"
                ));
            }
            return;
        }
        // Each write makes the record live on, with what it knows of resends. One that begins where
        // another has expired knows nothing.
        let lives_on = before.is_some_and(|before| before.first_seen_at == after.first_seen_at);
        for resend in book.runs.values_mut() {
            if lives_on && let Some(at) = resend.recorded.get_mut(id) {
                *at = now;
            } else if !lives_on {
                resend
                    .recorded
                    .retain(|recorded, at| recorded != id || now < *at + RECORD_LIFE - TOLERANCE);
            }
        }
        if name != StateName::Delivered {
            return;
        }
        match book.accepted.get(&(process.number(), id.clone())).cloned() {
            Some((_, Some(run))) => {
                if let Some(resend) = book.runs.get_mut(&run) {
                    resend.recorded.insert(id.clone(), now);
                }
            }
            Some((label, None)) => {
                book.delivered.insert((id.clone(), label));
            }
            None => {}
        }
    }

    /// True where the first record of an event is newer than this.
    pub(crate) fn is_newer(&self, id: &EventId, than: Duration) -> bool {
        let created = lock(&self.book).created.get(id).copied();
        created.is_some_and(|at| FakeClock.now() < at + than)
    }

    /// True where a message of a resend of this event was sent.
    pub(super) fn is_resent(&self, id: &EventId) -> bool {
        lock(&self.book).resent.contains(id)
    }

    /// Checks a body that is kept.
    pub(crate) fn body_kept(&self, id: &EventId, body: &[u8]) {
        if lock(&self.book).is_erased(id, &label_of(body)) {
            self.violate(&format!("the body of {id} is kept although it is erased"));
        }
    }

    /// Checks an object that was written or deleted, and notes its lines. Only an erasure changes
    /// one, and takes away only the lines of what it erases.
    pub(crate) fn object_changed(&self, by: &str, object: &str, content: Option<&[u8]>) {
        if !lock(&self.book).is_on {
            return;
        }
        let lines = content.map(lines_of).unwrap_or_default();
        let mut book = lock(&self.book);
        let is_asked = |line: &Line| book.is_erasure_asked(&line.key.0, &line.key.1);
        let mut problem = None;
        let before = book.objects.get(object);
        let mut kept = lines.iter().peekable();
        for line in before.into_iter().flatten() {
            if kept.next_if(|kept| *kept == line).is_none() && !is_asked(line) {
                problem.get_or_insert_with(|| format!("{by} takes {:?} out of {object}", line.key));
            }
        }
        if by == "erase" && object.starts_with("dead-letters/") || before.is_some() {
            // An older version can come to light while all are deleted.
            if let Some(added) = kept.find(|line| !is_asked(line)) {
                problem.get_or_insert_with(|| format!("{by} adds {:?} to {object}", added.key));
            }
        } else if let Some(line) = kept.find(|line| book.is_erased(&line.key.0, &line.key.1)) {
            let key = &line.key;
            problem = Some(format!(
                "{key:?} is written to {object} although it is erased"
            ));
        }
        book.objects.insert(object.to_owned(), lines);
        drop(book);
        if let Some(problem) = problem {
            self.violate(&problem);
        }
    }

    /// Checks that an answer lists nothing that is erased.
    pub(crate) fn check_listed<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let book = lock(&self.book);
        let labels_of = |id: &EventId| {
            let keys = book.queued.keys().filter(|(queued, _)| queued == id);
            keys.map(|(_, label)| label.clone()).collect::<Vec<_>>()
        };
        for id in ids.filter_map(|id| id.parse::<EventId>().ok()) {
            let labels = labels_of(&id);
            if !labels.is_empty() && labels.iter().all(|label| book.is_erased(&id, label)) {
                drop(book);
                return self.violate(&format!("{id} is listed although it is erased"));
            }
        }
    }

    /// Ids that the target has accepted, and those that were queued.
    pub(crate) fn nameable(&self) -> (Vec<String>, Vec<String>) {
        let seen = lock(&self.seen);
        let taken = seen.taken.keys().map(ToString::to_string).collect();
        (taken, seen.known.iter().map(ToString::to_string).collect())
    }

    /// The first line of these objects that is erased.
    pub(crate) fn erased_line<'a>(
        &self,
        objects: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Option<String> {
        let book = lock(&self.book);
        let mut lines = objects.flat_map(|object| lines_of(object));
        let left = lines.find(|line| book.is_erased(&line.key.0, &line.key.1))?;
        Some(format!(
            "{:?} is left in an object although it is erased",
            left.key
        ))
    }

    /// Notes what is in a queue of dead letters after a run that erases has received from it.
    pub(crate) fn searched(&self, process: &Process, queue: &FakeQueue) {
        if process.name() == "erase" {
            let there = queue.held(place_of).into_iter().collect();
            let key = (process.number(), queue.is_fifo());
            lock(&self.book).searched.insert(key, there);
        }
    }

    /// Messages that were in a queue of dead letters when a process last received from it.
    pub(crate) fn searched_by(&self, process: &Process, is_fifo: bool) -> Option<BTreeSet<Place>> {
        let key = (process.number(), is_fifo);
        lock(&self.book).searched.get(&key).cloned()
    }

    /// Returns whether what this asks for has erased an event.
    pub(crate) fn is_erased_by(&self, asked: &Value, id: &EventId, label: &str) -> bool {
        let (book, asked) = (lock(&self.book), Erasure::of(asked));
        let mut erasures = book.erasures.iter().filter(|erasure| erasure.is_of(&asked));
        erasures.any(|erasure| book.has_erased(erasure, id, label))
    }

    /// Returns whether nothing of this may be anywhere any more.
    pub(crate) fn is_erased(&self, id: &EventId, label: &str) -> bool {
        lock(&self.book).is_erased(id, label)
    }

    pub(crate) fn has_erasures(&self) -> bool {
        !lock(&self.book).erasures.is_empty()
    }

    /// Returns whether nothing of this conversation may be in a record with this id.
    pub(crate) fn is_record_erased(&self, id: &EventId) -> bool {
        lock(&self.book).is_record_erased(id)
    }

    /// Checks at the end that the journal has every delivered event that is not counted as missing,
    /// and that every resend that has ended has delivered what it selected, or names it.
    pub(crate) fn check_journal(&self, is_poison: impl Fn(&str) -> bool) -> Result<(), String> {
        let book = lock(&self.book);
        let in_objects: BTreeSet<&Key> = book
            .objects
            .iter()
            .filter(|(object, _)| object.starts_with("journal/"))
            .flat_map(|(_, lines)| lines.iter().map(|line| &line.key))
            .collect();
        for key in &book.delivered {
            if !book.journalled.contains_key(key)
                && !book.missed.contains(key)
                && !book.is_erasure_asked(&key.0, &key.1)
            {
                return Err(format!(
                    "{key:?} was delivered, and is neither in the journal nor counted as missing"
                ));
            }
        }
        for key in book.journalled.keys() {
            if !in_objects.contains(key) && !book.is_erasure_asked(&key.0, &key.1) {
                return Err(format!(
                    "{key:?} was sent to the journal, and no object has it"
                ));
            }
        }
        let seen = lock(&self.seen);
        for (run, resend) in &book.runs {
            let (Some(report), None) = (&resend.report, resend.cancelled_at) else {
                continue;
            };
            // It was cancelled, and the operator had no answer.
            let error = report["error"].as_str().unwrap_or_default();
            if resend.is_cancel_asked && error.starts_with("cancelled by ") {
                continue;
            }
            // The progress of a run that has not ended: it says what remains, and can go on.
            if report["action"].is_null() && report["complete"] == false {
                continue;
            }
            // Its search was cut short.
            let mut failed = report["failed"].as_array().into_iter().flatten();
            if failed.any(|failed| failed["eventId"].is_null()) {
                continue;
            }
            let most = resend.request["maxMessages"].as_u64().unwrap_or(10_000);
            if report["matched"].as_u64() > Some(most) {
                continue;
            }
            let named = report["failed"].to_string();
            for key in &resend.expected {
                let is_excused = resend.taken.contains(key)
                    || named.contains(key.0.as_str())
                    || book.is_erasure_asked(&key.0, &key.1)
                    || seen.discard_requests.contains(&key.0)
                    || is_poison(&key.1);
                if !is_excused {
                    return Err(format!(
                        "{run}, asked for at {}, has selected {key:?}, and neither delivered nor named it: {report}",
                        resend.asked_at
                    ));
                }
            }
        }
        Ok(())
    }

    /// Number of events that resends have delivered, of resends that have ended, and of erasures.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 4] {
        let book = lock(&self.book);
        let ended = |resend: &&Resend| resend.report.is_some();
        [
            ("events in the journal", book.journalled.len() as u64),
            (
                "events delivered by resends",
                book.runs
                    .values()
                    .map(|resend| resend.taken.len() as u64)
                    .sum(),
            ),
            (
                "resends that ended",
                book.runs.values().filter(ended).count() as u64,
            ),
            (
                "erasures that ended",
                book.erasures
                    .iter()
                    .filter(|erasure| erasure.ended_at.is_some())
                    .count() as u64,
            ),
        ]
    }
}

/// The event that a message with its identity names.
fn key_of(message: &Message) -> Key {
    (
        message.identity(FakeClock.now()).0,
        label_of(message.body.as_bytes()),
    )
}

/// The place of a message that was sent at this time.
pub(crate) fn place_of(message: &Message, sent_at: Timestamp) -> Place {
    (
        message.identity(sent_at).0,
        label_of(message.body.as_bytes()),
        sent_at,
    )
}

/// Lines of an object.
fn lines_of(content: &[u8]) -> Vec<Line> {
    let mut text = String::new();
    MultiGzDecoder::new(content)
        .read_to_string(&mut text)
        .expect("an object of lines");
    let line = |text: &str| {
        let json: Value = serde_json::from_str(text).expect("a line of JSON");
        let id = json["eventId"]
            .as_str()
            .expect("an id")
            .parse()
            .expect("an id");
        let label = label_of(json["body"].as_str().unwrap_or_default().as_bytes());
        Line {
            key: (id, label),
            text: text.to_owned(),
        }
    };
    text.lines().map(line).collect()
}
