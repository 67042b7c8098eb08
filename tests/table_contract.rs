//! One suite that every events table passes: the stand-in that other tests use, and DynamoDB on the local AWS.
//!
//! What is written goes into a second stand-in as well, and both have to say the same of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use genesys_relay::aws::dynamodb::DynamoDb;
use genesys_relay::event::{Event, EventId, Source};
use genesys_relay::events_table::{Checkpoint, EventsTable, Exclusive, Lease, Position, TableError, Window, Written};
use genesys_relay::reason::ReasonKind;
use genesys_relay::record::{
    Act, Attempt, Claim, ClaimRequest, Claiming, Context, Death, Finding, Letter, Record, State, StateName, Summary,
    Transition,
};
use genesys_relay::testing::FakeTable;
use jiff::{SignedDuration, Timestamp};
use local::stack::{Stack, StackOptions};
use uuid::Uuid;

/// A time of 15 January 2026.
fn at(seconds: i64) -> Timestamp {
    let noon = Timestamp::from_second(1_768_478_400).expect("in range");
    noon + SignedDuration::from_secs(seconds)
}

fn id(text: &str) -> EventId {
    text.parse().expect("an event id")
}

fn event(name: &str, received_at: Timestamp) -> Event {
    Event {
        id: id(name),
        source: Source::Webhook,
        received_at,
        content_type: Some("application/json".to_owned()),
        headers: [("traceparent".to_owned(), "00-a-b-01".to_owned())].into(),
        body: br#"{"webhookName":"orders","conversationId":"c1"}"#.to_vec(),
        origin: Some("a-webhook".to_owned()),
    }
}

/// Claims `event` at this time for a minute.
fn claim(found: Option<&Record>, event: &Event, now: Timestamp, last: bool) -> Claim {
    let lease_until = now + SignedDuration::from_mins(1);
    match Claim::on(found, ClaimRequest { event, message_id: "a-message", last, lease_until, now }) {
        Claiming::Free(claim) => claim,
        other => panic!("not free: {other:?}"),
    }
}

fn attempt(at: Timestamp, status: u16) -> Attempt {
    Attempt {
        at,
        duration_ms: Some(250),
        status: Some(status),
        error: Some("Grüße 😀".to_owned()),
        response: Some("no".to_owned()),
    }
}

fn death(dead_at: Timestamp) -> Death {
    Death {
        reason: ReasonKind::Permanent,
        error: "the target answered 404".to_owned(),
        status_code: Some(404),
        dead_at,
    }
}

fn act(action: &str, at: Timestamp) -> Act {
    Act { action: action.to_owned(), at, by: "an operator".to_owned(), why: Some("it is mended".to_owned()) }
}

/// A table beside the stand-in that it has to agree with.
struct Pair<'a, W> {
    table: &'a W,
    model: FakeTable,
}

impl<'a, W: EventsTable> Pair<'a, W> {
    fn of(table: &'a W) -> Self {
        Self { table, model: FakeTable::default() }
    }

    async fn get(&self, id: &EventId) -> Result<Option<Record>> {
        let found = self.table.get(id).await?;
        assert_eq!(found, self.model.get(id).await?, "{id}");
        Ok(found)
    }

    async fn write(&self, step: &Transition) -> Result<Written> {
        let written = self.table.write(step).await?;
        assert_eq!(written, self.model.write(step).await?);
        Ok(written)
    }

    /// Writes a step that has to succeed, and gives what the table holds then.
    async fn take(&self, id: &EventId, step: &Transition) -> Result<Record> {
        assert_eq!(self.write(step).await?, Written::Done);
        self.get(id).await?.context("a record")
    }

    /// An event that was received at some time and died at its first attempt.
    async fn bury(&self, name: &str, received_at: Timestamp) -> Result<Record> {
        let event = event(name, received_at);
        let claim = claim(None, &event, received_at, false);
        self.take(&event.id, claim.transition()).await?;
        let context = Context::of(&event, None);
        let step = claim.dead(attempt(received_at, 404), death(received_at), None, context);
        self.take(&event.id, &step).await
    }
}

/// What the index has to hold of a record; what else is in a state is in the record alone.
fn seen(summary: &Summary, now: Timestamp) -> impl PartialEq + std::fmt::Debug + use<> {
    let replayed_at = match &summary.state {
        State::Dead(dead) => dead.replayed_at,
        _ => None,
    };
    (
        (summary.event_id.clone(), summary.state.name(), summary.state.death(now), replayed_at),
        (summary.source, summary.origin.clone(), summary.received_at),
        (summary.attempts_made, summary.replays_made, summary.expires_at),
    )
}

/// The whole list, read in pages of up to `limit`.
async fn list<W: EventsTable>(table: &W, window: Window, limit: usize) -> Result<Vec<Summary>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = table.dead_letters(window, after.as_ref(), limit).await?;
        assert!(page.items.len() <= limit, "{} on a page of {limit}", page.items.len());
        all.extend(page.items);
        let Some(next) = page.next else { return Ok(all) };
        assert!(Some(&next) > after.as_ref(), "a list that does not go on");
        let token: Position = next.token().parse()?;
        assert_eq!(token, next);
        after = Some(token);
    }
}

fn ids(list: &[Summary]) -> Vec<&str> {
    list.iter().map(|summary| summary.event_id.as_str()).collect()
}

async fn every_state_comes_back_as_it_was(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let event = event("states", at(0));
    assert_eq!(pair.get(&event.id).await?, None);

    let first = claim(None, &event, at(1), false);
    let found = pair.take(&event.id, first.transition()).await?;
    assert_eq!(found.state.name(), StateName::InProgress);

    let found = pair.take(&event.id, &first.retrying(attempt(at(2), 503), at(4), at(2))).await?;
    assert!(matches!(found.state, State::Retrying { next_attempt_at } if next_attempt_at == at(4)));

    let second = claim(Some(&found), &event, at(5), true);
    pair.take(&event.id, second.transition()).await?;
    let context = Context::of(&event, Some("https://target.example/".to_owned()));
    let dead = second.dead(attempt(at(6), 404), death(at(6)), Some("a-message"), context.clone());
    let found = pair.take(&event.id, &dead).await?;
    assert_eq!((found.attempts.len(), found.context.as_ref()), (2, Some(&context)));

    let Some(Finding::Dead(dead)) = Finding::recorded(&found, at(7)) else { panic!("not dead: {found:?}") };
    let found = pair.take(&event.id, &dead.replayed(act("replay", at(7)))).await?;
    assert!(matches!(&found.state, State::Dead(dead) if dead.replayed_at == Some(at(7))));

    let third = claim(Some(&found), &event, at(8), false);
    let found = pair.take(&event.id, third.transition()).await?;
    assert_eq!((found.attempts_made, found.round, found.replays_made), (3, 1, 1));
    let found = pair.take(&event.id, &third.dead(attempt(at(9), 404), death(at(9)), None, context)).await?;

    let Some(Finding::Dead(dead)) = Finding::recorded(&found, at(10)) else { panic!("not dead: {found:?}") };
    let found = pair.take(&event.id, &dead.archived(act("archive", at(10)), "2026/01/15/a.gz")).await?;
    assert!(matches!(&found.state, State::Archived { archived_to, .. } if archived_to == "2026/01/15/a.gz"));

    let fourth = claim(Some(&found), &event, at(11), false);
    pair.take(&event.id, fourth.transition()).await?;
    let found = pair.take(&event.id, &fourth.delivered(attempt(at(12), 200))).await?;
    assert_eq!((found.state.name(), found.attempts.len(), found.history.len()), (StateName::Delivered, 4, 2));

    // One that nobody has ever seen, and that is not needed.
    let letter = Letter { event_id: &id("stray"), received_at: at(0), sent_at: at(0), reason: None, event: None };
    let Finding::Unrecorded(stray) = Finding::of(&letter, None, at(13)) else { panic!("recorded") };
    let found = pair.take(letter.event_id, stray.transition()).await?;
    let Some(Finding::Dead(stray)) = Finding::recorded(&found, at(14)) else { panic!("not dead: {found:?}") };
    let found = pair.take(letter.event_id, &stray.discarded(act("discard", at(14)))).await?;
    assert_eq!(found.state.name(), StateName::Discarded);
    Ok(())
}

async fn a_step_is_taken_from_where_it_starts_only(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let event = event("guards", at(0));

    // From nothing.
    let claimed = claim(None, &event, at(0), false);
    let first = pair.take(&event.id, claimed.transition()).await?;
    assert_eq!(pair.write(claimed.transition()).await?, Written::Done, "taking it twice is taking it once");
    let rival = claim(None, &event, at(0), false);
    assert_eq!(pair.write(rival.transition()).await?, Written::Lost(Some(Box::new(first))));

    // From one revision of the record.
    let failed = claimed.retrying(attempt(at(1), 503), at(3), at(1));
    let second = pair.take(&event.id, &failed).await?;
    assert_eq!(pair.write(&failed).await?, Written::Done, "taking it twice is taking it once");
    for late in [claimed.transition(), &claimed.retrying(attempt(at(1), 503), at(3), at(1))] {
        assert_eq!(pair.write(late).await?, Written::Lost(Some(Box::new(second.clone()))));
    }
    assert_eq!(pair.get(&event.id).await?, Some(second.clone()));

    // A delivery of who lost the lease, from whatever is there but a delivery.
    let delivered = claimed.delivered(attempt(at(2), 200));
    assert_eq!(pair.write(&delivered).await?, Written::Lost(Some(Box::new(second.clone()))));
    let late = claimed.delivered_late(attempt(at(2), 200), Some(&second)).context("not delivered yet")?;
    let third = pair.take(&event.id, &late).await?;
    assert_eq!((third.state.name(), third.attempts.len()), (StateName::Delivered, 2));
    assert_eq!(pair.write(&late).await?, Written::Done, "taking it twice is taking it once");
    assert_eq!(claimed.delivered_late(attempt(at(3), 200), Some(&third)), None);

    // Where the record is gone.
    let gone = Event { id: id("gone"), ..event };
    let claimed = claim(None, &gone, at(0), false);
    let failed = claimed.retrying(attempt(at(1), 503), at(3), at(1));
    assert_eq!(pair.write(&failed).await?, Written::Lost(None));
    let late = claimed.delivered_late(attempt(at(1), 200), None).context("not delivered yet")?;
    let found = pair.take(&gone.id, &late).await?;
    assert_eq!(found.state.name(), StateName::Delivered);
    Ok(())
}

async fn of_two_at_once_one_wins(table: &impl EventsTable) -> Result<()> {
    for round in 0..10 {
        let event = event(&format!("race-{round}"), at(0));
        let claims = [(); 2].map(|()| claim(None, &event, at(0), false));
        let (one, other) =
            futures_util::future::join(table.write(claims[0].transition()), table.write(claims[1].transition())).await;
        let found = table.get(&event.id).await?.context("a record")?;
        let lost = Written::Lost(Some(Box::new(found)));
        assert!(
            matches!([&one?, &other?], [Written::Done, loser] | [loser, Written::Done] if *loser == lost),
            "one has it, and the other is told"
        );
    }
    Ok(())
}

async fn many_are_read_at_once(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let mut asked = Vec::new();
    let mut expected = BTreeMap::new();
    for number in 0..130 {
        let event = event(&format!("many-{number}"), at(number));
        let found = pair.take(&event.id, claim(None, &event, at(number), false).transition()).await?;
        expected.insert(event.id.clone(), found);
        asked.extend([event.id, id(&format!("missing-{number}"))]);
    }
    // Copies far apart, and next to each other.
    asked.extend(asked.clone());
    asked.extend([id("many-7"), id("many-7"), id("missing-7"), id("missing-7")]);
    assert_eq!(table.get_many(&asked).await?, expected);
    assert_eq!(table.get_many(&[id("many-7"), id("many-7")]).await?.len(), 1);
    assert_eq!(table.get_many(&[id("missing-7")]).await?, BTreeMap::new());
    assert_eq!(table.get_many(&[]).await?, BTreeMap::new());
    Ok(())
}

async fn a_body_is_kept_byte_for_byte(table: &impl EventsTable) -> Result<()> {
    let event = id("with-a-body");
    assert_eq!(table.body(&event).await?, None);
    let large = r#"{"text":"as long as a body gets, and like others of its kind"} "#.repeat(16_000);
    for body in [&b"{\"text\":\"Gr\xc3\xbc\xc3\x9fe\"}\r\n"[..], b"\x00\xff\xfe", b"", large.as_bytes()] {
        assert!(table.keep_body(&event, body, at(0)).await?);
        assert_eq!(table.body(&event).await?.as_deref(), Some(body));
    }
    assert_eq!(table.get(&event).await?, None, "a body is no record");
    assert_eq!(table.get_many(std::slice::from_ref(&event)).await?, BTreeMap::new());
    Ok(())
}

/// Only on a table that holds no other dead letters.
async fn dead_letters_are_listed_oldest_first(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let everything = Window::default();
    assert_eq!(list(table, everything, 10).await?, Vec::new());

    // In no order, five to a moment, and far more than there are shards.
    let mut places = BTreeSet::new();
    for number in 0..60_i64 {
        let seconds = number * 37 % 12;
        let name = format!("{}-{number}", ["dead", "Dead", "_dead", "0", "-"][usize::try_from(number % 5)?]);
        let record = pair.bury(&name, at(seconds)).await?;
        places.insert(Position::of(record.received_at, &record.event_id));
    }
    assert_eq!(places.len(), 60);
    let expected = list(&pair.model, everything, 1000).await?;
    let now = at(100);
    let seen_all = |list: &[Summary]| list.iter().map(|summary| seen(summary, now)).collect::<Vec<_>>();
    for limit in [1, 2, 3, 7, 8, 20, 59, 60, 61, 1000] {
        let found = list(table, everything, limit).await?;
        assert_eq!(ids(&found), ids(&expected), "in pages of {limit}");
        assert_eq!(seen_all(&found), seen_all(&expected));
    }
    let found = list(table, everything, 7).await?;
    let listed = found.iter().map(|summary| Position::of(summary.received_at, &summary.event_id));
    assert!(listed.eq(places), "oldest first, and each once");

    // What leaves between two pages, the last of a page included, takes nobody with it.
    let page = table.dead_letters(everything, None, 9).await?;
    for gone in [page.items.last(), expected.get(30)].into_iter().flatten() {
        let record = pair.get(&gone.event_id).await?.context("a record")?;
        let Some(Finding::Dead(dead)) = Finding::recorded(&record, now) else { panic!("not dead: {record:?}") };
        pair.take(&gone.event_id, &dead.discarded(act("discard", now))).await?;
    }
    let mut rest = Vec::new();
    let mut after = page.next;
    while let Some(position) = after {
        let page = table.dead_letters(everything, Some(&position), 9).await?;
        rest.extend(page.items);
        after = page.next;
    }
    let left: Vec<_> =
        ids(&expected).into_iter().skip(page.items.len()).filter(|id| *id != expected[30].event_id.as_str()).collect();
    assert_eq!(ids(&rest), left);
    Ok(())
}

/// Only after the list's own test, and on a day of its own.
async fn a_window_cuts_the_list(table: &impl EventsTable) -> Result<()> {
    const DAY: i64 = 86_400;
    let pair = Pair::of(table);
    for number in 0..24 {
        pair.bury(&format!("window-{number}"), at(DAY + number)).await?;
    }
    let day = Window { since: Some(at(DAY)), until: Some(at(2 * DAY)) };
    assert_eq!(list(table, day, 5).await?.len(), 24);
    for (since, until) in [(3, 9), (0, 1), (23, 24), (5, 5), (9, 3), (30, 40)] {
        let (since, until) = (at(DAY + since), at(DAY + until));
        let window = Window { since: Some(since), until: Some(until) };
        let expected = list(&pair.model, window, 1000).await?;
        for limit in [1, 3, 100] {
            let mut found = list(table, window, limit).await?;
            // A table may count in whole milliseconds: who asked looks at the borders.
            found.retain(|summary| summary.received_at != until);
            assert_eq!(ids(&found), ids(&expected), "from {since} to before {until}, in pages of {limit}");
        }
    }
    let open_end = Window { since: Some(at(DAY + 20)), until: None };
    assert_eq!(ids(&list(table, open_end, 3).await?), ["window-20", "window-21", "window-22", "window-23"]);
    // A position before the window does not widen it, and one behind it leaves nothing.
    let window = Window { since: Some(at(DAY + 20)), until: Some(at(DAY + 1000)) };
    let early = Position::of(at(DAY), &id("window-0"));
    assert_eq!(table.dead_letters(window, Some(&early), 100).await?.items.len(), 4);
    let late = Position::of(at(2 * DAY), &id("window-0"));
    let page = table.dead_letters(window, Some(&late), 100).await?;
    assert_eq!((page.items.len(), page.next), (0, None));
    Ok(())
}

/// On a day of its own as well.
async fn the_list_holds_the_dead_only(table: &impl EventsTable) -> Result<()> {
    const DAY: i64 = 172_800;
    let pair = Pair::of(table);
    let window = Window { since: Some(at(DAY)), until: None };
    let listed = async |now: Timestamp| -> Result<Vec<String>> {
        let list = list(table, window, 3).await?;
        let dead = list.into_iter().filter(|summary| summary.state.death(now).is_some());
        Ok(dead.map(|summary| summary.event_id.to_string()).collect())
    };
    let names = ["delivered", "archived", "discarded", "unlisted", "replayed", "claimed"];
    for name in names {
        pair.bury(name, at(DAY)).await?;
    }
    assert_eq!(listed(at(DAY)).await?.len(), names.len());
    for name in names {
        let record = pair.get(&id(name)).await?.context("a record")?;
        let Some(Finding::Dead(dead)) = Finding::recorded(&record, at(DAY)) else { panic!("not dead: {record:?}") };
        // A minute after its death: before that, what comes back unasked has to wait.
        let again = claim(Some(&record), &event(name, at(DAY)), at(DAY + 60), false);
        match name {
            "archived" => pair.take(&id(name), &dead.archived(act(name, at(DAY)), "an object")).await?,
            "discarded" => pair.take(&id(name), &dead.discarded(act(name, at(DAY)))).await?,
            "unlisted" => pair.take(&id(name), &dead.unlisted(at(DAY))).await?,
            "replayed" => pair.take(&id(name), &dead.replayed(act(name, at(DAY)))).await?,
            "claimed" => pair.take(&id(name), again.transition()).await?,
            _ => {
                pair.take(&id(name), again.transition()).await?;
                pair.take(&id(name), &again.delivered(attempt(at(DAY + 61), 200))).await?
            }
        };
    }
    assert_eq!(listed(at(DAY + 1)).await?, ["replayed"], "dead until somebody claims it");

    // A last attempt is in the index from its claim on, and dead when nothing is heard of it by the end of its lease.
    let crashed = event("crashed", at(DAY + 1));
    let last = claim(None, &crashed, at(DAY + 1), true);
    pair.take(&crashed.id, last.transition()).await?;
    assert_eq!(listed(at(DAY + 60)).await?, ["replayed"]);
    assert_eq!(listed(at(DAY + 61)).await?, ["replayed", "crashed"]);
    let summary = list(table, window, 100).await?.pop().context("a dead letter")?;
    assert_eq!(summary.state.death(at(DAY + 61)).map(|death| death.reason), Some(ReasonKind::Crashed));
    pair.take(&crashed.id, &last.delivered(attempt(at(DAY + 62), 200))).await?;
    assert_eq!(listed(at(DAY + 63)).await?, ["replayed"]);
    assert_eq!(list(table, window, 100).await?.len(), 1, "and nothing else is in the index");
    Ok(())
}

async fn one_run_at_a_time_has_the_lease(table: &impl EventsTable, what: Exclusive) -> Result<()> {
    let lease = |owner: Uuid, until: Timestamp| Lease {
        owner,
        action: "replay".to_owned(),
        by: "an operator".to_owned(),
        since: at(0),
        until,
    };
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(table.lease(what, at(0)).await?, None);
    table.release(what, one).await?;

    assert_eq!(table.acquire(what, &lease(one, at(60)), at(0)).await?, None);
    assert_eq!(table.lease(what, at(59)).await?, Some(lease(one, at(60))));
    assert_eq!(table.acquire(what, &lease(other, at(90)), at(59)).await?, Some(lease(one, at(60))), "it is held");
    table.release(what, other).await?;
    assert_eq!(table.lease(what, at(59)).await?, Some(lease(one, at(60))), "only its owner gives it back");
    assert_eq!(table.acquire(what, &lease(one, at(70)), at(59)).await?, None, "its owner may ask twice");
    assert_eq!(table.lease(what, at(69)).await?, Some(lease(one, at(70))));

    assert_eq!(table.lease(what, at(70)).await?, None, "it has run out");
    assert_eq!(table.acquire(what, &lease(other, at(130)), at(70)).await?, None, "so somebody else may have it");
    table.release(what, one).await?;
    assert_eq!(table.acquire(what, &lease(one, at(130)), at(71)).await?, Some(lease(other, at(130))));
    table.release(what, other).await?;
    assert_eq!(table.lease(what, at(71)).await?, None);
    assert_eq!(table.acquire(what, &lease(one, at(130)), at(71)).await?, None, "it was given back");
    table.release(what, one).await?;
    Ok(())
}

async fn leases_on_different_things_are_apart(table: &impl EventsTable) -> Result<()> {
    let lease = |owner| Lease {
        owner: Uuid::from_u128(owner),
        action: "recover".to_owned(),
        by: "a schedule".to_owned(),
        since: at(0),
        until: at(60),
    };
    assert_eq!(table.acquire(Exclusive::DeadLetters, &lease(1), at(0)).await?, None);
    assert_eq!(table.acquire(Exclusive::Recovery, &lease(2), at(0)).await?, None);
    table.release(Exclusive::Recovery, Uuid::from_u128(2)).await?;
    assert_eq!(table.lease(Exclusive::DeadLetters, at(0)).await?, Some(lease(1)));
    table.release(Exclusive::DeadLetters, Uuid::from_u128(1)).await?;
    Ok(())
}

async fn a_checkpoint_is_the_newest_that_was_saved(table: &impl EventsTable) -> Result<()> {
    assert_eq!(table.checkpoint("one").await?, None);
    let checkpoint = |cursor, span_seconds, resume: Option<&str>| Checkpoint {
        cursor: at(cursor),
        span_seconds,
        resume: resume.map(str::to_owned),
    };
    for saved in [checkpoint(10, 3600, Some("a place")), checkpoint(20, 1800, None)] {
        table.save_checkpoint("one", &saved).await?;
        assert_eq!(table.checkpoint("one").await?, Some(saved));
    }
    assert_eq!(table.checkpoint("other").await?, None, "each source has its own");
    Ok(())
}

async fn a_fetched_event_is_queued_until_it_is_claimed(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let event = event("fetched", at(0));
    let queue = || Record::queued(&event, None, act("recover", at(1)));
    let queued = pair.take(&event.id, &queue()).await?;
    assert_eq!((queued.state.name(), queued.history[0].action.as_str()), (StateName::Queued, "recover"));
    assert!(matches!(pair.write(&queue()).await?, Written::Lost(Some(_))), "it is known by now");
    let claimed = claim(Some(&queued), &event, at(2), false);
    pair.take(&event.id, claimed.transition()).await?;
    let delivered = pair.take(&event.id, &claimed.delivered(attempt(at(3), 200))).await?;
    assert_eq!(delivered.history, queued.history);
    Ok(())
}

async fn a_table_keeps_its_contract(table: impl EventsTable) -> Result<()> {
    dead_letters_are_listed_oldest_first(&table).await?;
    a_window_cuts_the_list(&table).await?;
    the_list_holds_the_dead_only(&table).await?;
    every_state_comes_back_as_it_was(&table).await?;
    a_step_is_taken_from_where_it_starts_only(&table).await?;
    of_two_at_once_one_wins(&table).await?;
    many_are_read_at_once(&table).await?;
    a_body_is_kept_byte_for_byte(&table).await?;
    a_fetched_event_is_queued_until_it_is_claimed(&table).await?;
    one_run_at_a_time_has_the_lease(&table, Exclusive::DeadLetters).await?;
    one_run_at_a_time_has_the_lease(&table, Exclusive::Recovery).await?;
    leases_on_different_things_are_apart(&table).await?;
    a_checkpoint_is_the_newest_that_was_saved(&table).await
}

#[tokio::test]
async fn the_stand_in_keeps_the_contract() -> Result<()> {
    a_table_keeps_its_contract(FakeTable::default()).await
}

#[tokio::test]
async fn dynamodb_keeps_the_contract() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let config = local::clients::config(&stack.endpoint()).await;
    let table = DynamoDb::new(&config, stack.output("EventsTableName")?.to_owned());

    // An item has a limit, so a body that stays large when it is packed is not kept.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(400 * 1024).collect();
    assert!(!table.keep_body(&id("noise"), &noise, at(0)).await?);
    assert_eq!(table.body(&id("noise")).await?, None);
    assert!(table.keep_body(&id("noise"), &noise[..255 * 1024], at(0)).await?, "as much as design allows is taken");

    let nowhere = DynamoDb::new(&config, "no-such-table".to_owned());
    assert!(matches!(nowhere.get(&id("an-event")).await, Err(TableError::Refused(_))));
    a_table_keeps_its_contract(table).await
}
