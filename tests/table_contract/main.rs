//! One suite that every events table passes: the stand-in that other tests use, and DynamoDB on the
//! local AWS.
//!
//! Every write also goes into a second stand-in, and both must agree.

mod breaker;
mod conversations;
mod index;
mod leases;
mod records;
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::domain::event::{Event, EventId, Source};
use genesys_relay::domain::event_record::{
    Attempt, BulkReplay, CHECK_LIFE, Claim, ClaimRequest, ClaimResult, Context, DeadLetterEvidence,
    DeadLetterStatus, Death, EventRecord, LIFE, OperatorAction, State, StateName, Summary,
    Transition,
};
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::ports::events_table::{
    Checkpoint, EventsTable, LeaseName, Position, RunLease, Window, Written,
};
use genesys_relay::ports::service::Fault;
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
        webhook_id: Some("a-webhook".to_owned()),
        is_copy: false,
    }
}

/// A request for `event` at this time, for a minute.
fn request(event: &Event, now: Timestamp, last: bool) -> ClaimRequest<'_> {
    ClaimRequest {
        event,
        message_id: "a-message",
        sent_at: now,
        bulk: None,
        resend: None,
        last,
        conversation: None,
        lease_until: now + SignedDuration::from_mins(1),
        now,
    }
}

/// Claims `event` at this time for a minute.
fn claim(found: Option<&EventRecord>, event: &Event, now: Timestamp, last: bool) -> Claim {
    match Claim::on(found, request(event, now, last)) {
        ClaimResult::Claimed(claim) => claim,
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

fn act(action: &str, at: Timestamp) -> OperatorAction {
    OperatorAction {
        action: action.to_owned(),
        at,
        by: "an operator".to_owned(),
        why: Some("it is mended".to_owned()),
    }
}

/// A table beside the stand-in that it has to agree with.
struct Pair<'a, W> {
    table: &'a W,
    model: FakeTable,
}

impl<'a, W: EventsTable> Pair<'a, W> {
    fn of(table: &'a W) -> Self {
        Self {
            table,
            model: FakeTable::default(),
        }
    }

    async fn get(&self, id: &EventId) -> Result<Option<EventRecord>> {
        let found = self.table.get(id).await?;
        assert_eq!(found, self.model.get(id).await?, "{id}");
        Ok(found)
    }

    async fn forget(&self, record: &EventRecord) -> Result<Written> {
        let forgotten = self.table.forget(record.forget()?).await?;
        assert_eq!(forgotten, self.model.forget(record.forget()?).await?);
        Ok(forgotten)
    }

    async fn write(&self, step: &Transition) -> Result<Written> {
        let written = self.table.write(step).await?;
        assert_eq!(written, self.model.write(step).await?);
        Ok(written)
    }

    /// Writes a step that has to succeed, and gives what the table holds then.
    async fn take(&self, id: &EventId, step: &Transition) -> Result<EventRecord> {
        assert_eq!(self.write(step).await?, Written::Done);
        self.get(id).await?.context("a record")
    }

    /// An event that was received at some time and died at its first attempt.
    async fn send_to_dead_letters(
        &self,
        name: &str,
        received_at: Timestamp,
    ) -> Result<EventRecord> {
        let event = event(name, received_at);
        let claim = claim(None, &event, received_at, false);
        self.take(&event.id, claim.transition()).await?;
        let context = Context::of(&event, None);
        let step = claim.dead(attempt(received_at, 404), death(received_at), None, context);
        self.take(&event.id, &step).await
    }
}

async fn a_table_keeps_its_contract(table: impl EventsTable) -> Result<()> {
    index::dead_letters_are_listed_oldest_first(&table).await?;
    index::a_window_cuts_the_list(&table).await?;
    index::the_list_holds_the_dead_only(&table).await?;
    records::every_state_comes_back_as_it_was(&table).await?;
    records::a_step_is_taken_from_where_it_starts_only(&table).await?;
    records::of_two_at_once_one_wins(&table).await?;
    records::many_are_read_at_once(&table).await?;
    records::a_body_is_kept_byte_for_byte(&table).await?;
    records::a_body_that_was_kept_again_later_is_not_taken_back(&table).await?;
    records::a_fetched_event_is_queued_until_it_is_claimed(&table).await?;
    records::record_of_a_check_is_deleted_unless_it_changed(&table).await?;
    leases::one_run_at_a_time_has_the_lease(&table, LeaseName::DeadLetters).await?;
    leases::one_run_at_a_time_has_the_lease(&table, LeaseName::Recovery).await?;
    leases::one_run_at_a_time_has_the_lease(&table, LeaseName::Breaker).await?;
    leases::leases_on_different_things_are_apart(&table).await?;
    leases::a_checkpoint_is_the_newest_that_was_saved(&table).await?;
    leases::a_bulk_replay_is_the_newest_that_was_saved(&table).await?;
    conversations::a_conversation_lists_its_events_oldest_first(&table).await?;
    conversations::an_erased_event_leaves_its_conversation(&table).await?;
    conversations::erasures_are_those_that_were_saved_last(&table).await?;
    conversations::a_resend_is_part_of_its_record(&table).await?;
    conversations::an_erased_event_keeps_its_id_and_digest_alone(&table).await?;
    breaker::attempts_of_a_minute_add_up(&table).await?;
    breaker::the_breaker_is_what_was_saved_last(&table).await?;
    scan::a_scan_meets_each_record_once(&table).await
}

#[tokio::test]
async fn the_stand_in_keeps_the_contract() -> Result<()> {
    a_table_keeps_its_contract(FakeTable::default()).await
}

#[tokio::test]
async fn dynamodb_keeps_the_contract() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let table = DynamoDb::new(stack.config(), stack.output("EventsTableName")?.to_owned());

    // An item has a limit, so a body that stays large when it is packed is not kept.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(400 * 1024)
        .collect();
    assert!(!table.keep_body(&id("noise"), &noise, at(0)).await?);
    assert_eq!(table.body(&id("noise"), at(0)).await?, None);
    assert!(
        table
            .keep_body(&id("noise"), &noise[..255 * 1024], at(0))
            .await?,
        "as much as design allows is taken"
    );

    let nowhere = DynamoDb::new(stack.config(), "no-such-table".to_owned());
    assert!(matches!(
        nowhere.get(&id("an-event")).await,
        Err(error) if error.fault == Fault::Refused
    ));
    Box::pin(a_table_keeps_its_contract(table)).await
}
