//! The adapter against the SDK's client with a mocked connection.

mod batches;
mod conversations;
mod leases;
mod scan;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::error::{BoxError, ConnectorError};
use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemInput, BatchGetItemOutput};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemOutput;
use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
use aws_sdk_dynamodb::operation::put_item::{PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::domain::event::Source;
use crate::domain::event_record::Summary;
use crate::domain::event_record::{Dead, Death, DeliveryLease, State};
use crate::domain::failure::ReasonKind;
use crate::ports::service::Fault;

fn table(rules: &[&Rule]) -> DynamoDb {
    DynamoDb {
        client: mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, rules),
        table: "the-table".to_owned(),
    }
}

fn noon() -> Timestamp {
    Timestamp::from_second(1_768_478_400).expect("in range")
}

fn id(text: &str) -> EventId {
    text.parse().expect("an event id")
}

fn record(state: State) -> EventRecord {
    EventRecord {
        event_id: id("an-event"),
        revision: Uuid::new_v4(),
        state,
        source: Source::Generic,
        webhook_id: None,
        conversation_id: None,
        received_at: noon(),
        digest: None,
        first_seen_at: noon() + SignedDuration::from_mins(1),
        last_seen_at: noon() + SignedDuration::from_mins(2),
        attempts_made: 1,
        attempts_since_claim: 1,
        replays_made: 0,
        attempts: Vec::new(),
        history: Vec::new(),
        context: None,
        waiting: None,
        resent: Vec::new(),
        resend: None,
        expires_at: noon() + LIFE,
    }
}

fn step(guard: Guard) -> Transition {
    Transition {
        next: record(State::Delivered),
        guard,
    }
}

fn death() -> Death {
    Death {
        reason: ReasonKind::Exhausted,
        error: "down".to_owned(),
        status_code: Some(503),
        dead_at: noon(),
    }
}

fn dead(listed: bool) -> State {
    State::Dead(Dead {
        death: death(),
        message_id: None,
        replayed_at: None,
        listed,
    })
}

fn claimed(last: bool) -> State {
    State::InProgress(DeliveryLease {
        lease_until: noon(),
        last,
        ordered: false,
    })
}

fn text(item: &Item, name: &str) -> Option<String> {
    item.get(name)
        .map(|value| value.as_s().expect("a text").clone())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A rule that takes every put, and what was put.
fn puts() -> (Rule, Arc<Mutex<Vec<PutItemInput>>>) {
    let puts = Arc::<Mutex<Vec<_>>>::default();
    let seen = Arc::clone(&puts);
    let rule = mock!(Client::put_item).then_compute_output(move |put| {
        seen.lock().expect("not poisoned").push(put.clone());
        PutItemOutput::builder().build()
    });
    (rule, puts)
}

fn refusal(found: Option<Item>) -> PutItemError {
    let error = ConditionalCheckFailedException::builder()
        .set_item(found)
        .build();
    PutItemError::ConditionalCheckFailedException(error)
}

/// Outcome of a call whose answer is the same at every try.
fn answer(status: u16, code: &'static str) -> DynamoDb {
    let body = format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"no"}}"#);
    let gets = mock!(Client::get_item)
        .sequence()
        .http_status(status, Some(body.clone()))
        .times(9)
        .build();
    let puts = mock!(Client::put_item)
        .sequence()
        .http_status(status, Some(body))
        .times(9)
        .build();
    table(&[&gets, &puts])
}

#[tokio::test(start_paused = true)]
async fn an_outage_and_a_refusal_are_told_apart() {
    for (status, code, passes) in [
        (500, "InternalServerError", true),
        (503, "ServiceUnavailable", true),
        (400, "ProvisionedThroughputExceededException", true),
        (400, "RequestLimitExceeded", true),
        (400, "ThrottlingException", true),
        (400, "ValidationException", false),
        (400, "AccessDeniedException", false),
        (400, "ResourceNotFoundException", false),
        (400, "UnrecognizedClientException", false),
    ] {
        let table = answer(status, code);
        let read = table.get(&id("an-event")).await.expect_err(code);
        let write = table.write(&step(Guard::Absent)).await.expect_err(code);
        for error in [read, write] {
            let fault = if passes {
                Fault::Unavailable
            } else {
                Fault::Refused
            };
            assert_eq!(error.fault, fault, "{code}: {error:?}");
        }
    }
}

#[test]
fn a_call_without_an_answer_is_an_outage() {
    type Failed = SdkError<PutItemError>;
    let cause = || BoxError::from("as the test says");
    for error in [
        Failed::timeout_error(cause()),
        Failed::dispatch_failure(ConnectorError::timeout(cause())),
        Failed::dispatch_failure(ConnectorError::io(cause())),
    ] {
        assert!(failed(Service::DynamoDb)(error).is_transient());
    }
    let error = failed(Service::DynamoDb)(Failed::construction_failure(cause()));
    assert_eq!(error.fault, Fault::Refused);
}

#[tokio::test]
async fn foreign_item_is_an_error_and_does_not_block_others() {
    let strange = || {
        let mut item: Item = to_item(record(State::Delivered)).expect("an item");
        item.insert("state".to_owned(), AttributeValue::S("LOST".to_owned()));
        item.insert(
            INDEX_ORDER.to_owned(),
            AttributeValue::S("2026-01-15T12:00:00.000Z#an-event".to_owned()),
        );
        item.insert(
            "body".to_owned(),
            AttributeValue::B(Blob::new(b"not packed")),
        );
        item
    };
    let get = mock!(Client::get_item)
        .match_requests(|get| get.consistent_read() == Some(true))
        .then_output(move || GetItemOutput::builder().set_item(Some(strange())).build());
    let put = mock!(Client::put_item).then_error(move || refusal(Some(strange())));
    let query =
        mock!(Client::query).then_output(move || QueryOutput::builder().items(strange()).build());
    let batch = mock!(Client::batch_get_item).then_output(move || {
        BatchGetItemOutput::builder()
            .responses("the-table", vec![strange()])
            .build()
    });
    let (table, event) = (table(&[&get, &put, &query, &batch]), id("an-event"));
    for error in [
        table.get(&event).await.expect_err("read"),
        table.body(&event, noon()).await.expect_err("read"),
        table
            .lease(LeaseName::DeadLetters, noon())
            .await
            .expect_err("read"),
        table.write(&step(Guard::Absent)).await.expect_err("lost"),
    ] {
        assert!(error.fault == Fault::Unreadable, "{error:?}");
    }
    assert!(
        table
            .get_many(std::slice::from_ref(&event))
            .await
            .expect("read")
            .is_empty()
    );
    let page = table
        .dead_letters(Window::default(), None, 1)
        .await
        .expect("read");
    assert!(
        page.items.is_empty() && page.next.is_some(),
        "the place of what is left out counts: {page:?}"
    );
}

#[tokio::test]
async fn every_shard_is_asked_for_a_part_of_the_page_and_no_more() {
    let asked = Arc::<Mutex<Vec<_>>>::default();
    let seen = Arc::clone(&asked);
    let rule = mock!(Client::query).then_compute_output(move |query| {
        let values = query.expression_attribute_values().expect("values");
        assert_eq!(
            (query.index_name(), query.limit()),
            (Some("dead-letters"), Some(13))
        );
        seen.lock()
            .expect("not poisoned")
            .push(values[":shard"].as_s().expect("a text").clone());
        QueryOutput::builder().build()
    });
    let page = table(&[&rule])
        .dead_letters(Window::default(), None, 50)
        .await
        .expect("a page");
    assert_eq!(page, Page::default());
    let mut asked = asked.lock().expect("not poisoned").clone();
    asked.sort();
    assert_eq!(asked, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn a_page_is_not_the_last_while_dynamodb_has_more() {
    for (has_more, is_last) in [(true, false), (false, true)] {
        let rule = mock!(Client::query)
            .match_requests(|query| {
                query
                    .expression_attribute_values()
                    .is_some_and(|values| values[":shard"] == AttributeValue::S("0".into()))
            })
            .then_output(move || {
                let mut item: Item = to_item(record(dead(true)).summary()).expect("an item");
                item.insert(
                    INDEX_ORDER.to_owned(),
                    AttributeValue::S("2026-01-15T12:00:00.000Z#an-event".to_owned()),
                );
                let last = has_more.then(|| item.clone());
                QueryOutput::builder()
                    .items(item)
                    .set_last_evaluated_key(last)
                    .build()
            });
        let others = mock!(Client::query).then_output(|| QueryOutput::builder().build());
        let page = table(&[&rule, &others])
            .dead_letters(Window::default(), None, 50)
            .await
            .expect("a page");
        assert_eq!((page.items.len(), page.next.is_none()), (1, is_last));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_is_not_given_without_one_of_its_shards() {
    let down = mock!(Client::query)
        .match_requests(|query| {
            query
                .expression_attribute_values()
                .is_some_and(|values| values[":shard"] == AttributeValue::S("3".into()))
        })
        .sequence()
        .http_status(500, None)
        .times(9)
        .build();
    let fine = mock!(Client::query).then_output(|| QueryOutput::builder().build());
    let error = table(&[&down, &fine])
        .dead_letters(Window::default(), None, 1)
        .await
        .expect_err("a shard is down");
    assert!(error.is_transient(), "{error:?}");
}

#[test]
fn events_spread_over_the_shards() {
    let mut counts = BTreeMap::new();
    for number in 0..800 {
        *counts
            .entry(shard_of(&id(&format!("event-{number}"))))
            .or_insert(0) += 1;
    }
    assert!(
        counts.len() == usize::from(SHARDS)
            && counts.values().all(|count| (50..200).contains(count))
    );
}

fn dead_letter(milliseconds: i64, microseconds: i64, name: &str) -> Summary {
    let mut record = record(dead(true));
    record.event_id = id(name);
    record.received_at = noon()
        + SignedDuration::from_millis(milliseconds)
        + SignedDuration::from_micros(microseconds);
    record.summary()
}

fn place(summary: &Summary) -> Position {
    Position::of(summary.received_at, &summary.event_id)
}

/// Answers a query as DynamoDB does: it may stop anywhere, but not before the first item, and says
/// so.
fn shard(letters: &[Summary], shard: u8, (from, to): (&str, &str), cut: usize) -> Shard {
    let key = |letter: &&Summary| place(letter).0;
    let own = letters
        .iter()
        .filter(|letter| shard_of(&letter.event_id) == shard);
    let mut found: Vec<_> = own
        .filter(|letter| (from..=to).contains(&key(letter).as_str()))
        .collect();
    found.sort_by_key(key);
    let more = found.len() >= cut;
    of_shard(
        &found.into_iter().take(cut).cloned().collect::<Vec<_>>(),
        more,
    )
}

fn of_shard(letters: &[Summary], more: bool) -> Shard {
    Shard {
        items: letters
            .iter()
            .map(|letter| (place(letter), Some(letter.clone())))
            .collect(),
        more,
    }
}

fn letters() -> impl Strategy<Value = Vec<Summary>> {
    let received = (0..40_i64, 0..1000_i64);
    prop::collection::btree_map("[0-9A-Za-z_-]{1,3}", received, 0..80).prop_map(|letters| {
        letters
            .into_iter()
            .map(|(name, (millis, micros))| dead_letter(millis, micros, &name))
            .collect()
    })
}

proptest! {
    #[test]
    fn pages_hold_every_dead_letter_of_the_window_once_and_in_order(
        letters in letters(),
        limit in 1..30_usize,
        cuts in prop::collection::vec(1..6_usize, 1..20),
        since in prop::option::of(0..45_000_i64),
        until in prop::option::of(0..45_000_i64),
    ) {
        let time = |micros: Option<i64>| micros.map(|micros| noon() + SignedDuration::from_micros(micros));
        let window = Window { since: time(since), until: time(until) };
        let mut cuts = cuts.into_iter().cycle();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (from, to) = range(window, after.as_ref());
            if from > to {
                break;
            }
            let shards = (0..SHARDS).map(|number| {
                shard(&letters, number, (&from, &to), cuts.next().expect("endless"))
            });
            let page = merge(shards.collect(), limit);
            prop_assert!(page.items.len() <= limit);
            found.extend(page.items);
            let Some(next) = page.next else { break };
            prop_assert!(Some(&next) > after.as_ref(), "every page goes on");
            after = Some(next);
        }
        let inside = |letter: &&Summary| {
            window.since.is_none_or(|since| letter.received_at >= since)
                && window.until.is_none_or(|until| letter.received_at < until)
        };
        let mut expected: Vec<_> = letters.iter().filter(inside).map(place).collect();
        expected.sort();
        let listed: Vec<_> = found.iter().map(place).collect();
        prop_assert!(listed.windows(2).all(|pair| pair[0] < pair[1]), "in order, and none twice");
        let exact: Vec<_> = found.iter().filter(inside).map(place).collect();
        prop_assert_eq!(exact, expected, "none is missing");
        // Beyond the window there is at most what keys cannot tell from its border.
        let millisecond = SignedDuration::from_millis(1);
        let near = |letter: &Summary| {
            window.since.is_none_or(|since| letter.received_at + millisecond > since)
                && window.until.is_none_or(|until| letter.received_at < until + millisecond)
        };
        prop_assert!(found.iter().all(near));
    }

    #[test]
    fn a_body_comes_out_as_it_went_in(body in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(unpack(&pack(&body).expect("packed")).expect("unpacked"), body);
    }
}

/// Everything that is no record has a key of its own, and goes when DynamoDB, which takes seconds,
/// is told.
#[tokio::test]
async fn items_beside_records_have_keys_of_their_own_and_live_as_long_as_they_are_needed() {
    let (rule, puts) = puts();
    let table = table(&[&rule]);
    for name in ["ab", "abc"] {
        assert!(
            table
                .keep_body(&id(name), b"{}", noon())
                .await
                .expect("kept")
        );
    }
    for source in ["webhook-deliveries", "open-messaging"] {
        let checkpoint = Checkpoint {
            cursor: noon(),
            span_seconds: 60,
            resume: None,
        };
        table
            .save_checkpoint(source, &checkpoint)
            .await
            .expect("saved");
    }
    let lease = RunLease {
        owner: Uuid::nil(),
        action: String::new(),
        by: String::new(),
        since: noon(),
        until: noon(),
    };
    for what in [
        LeaseName::DeadLetters,
        LeaseName::Journal,
        LeaseName::Recovery,
        LeaseName::Breaker,
    ] {
        table.acquire(what, &lease, noon()).await.expect("taken");
    }
    table
        .save_circuit(&Circuit::closed(noon()))
        .await
        .expect("saved");
    let puts = puts.lock().expect("not poisoned");
    let items: Vec<&Item> = puts
        .iter()
        .map(|put| put.item().expect("an item"))
        .collect();
    let keys: BTreeSet<_> = items
        .iter()
        .map(|item| text(item, KEY).expect("a key"))
        .collect();
    assert_eq!(keys.len(), items.len(), "{keys:?}");
    assert!(
        keys.iter().all(|key| key.parse::<EventId>().is_err()),
        "no event has such a key: {keys:?}"
    );
    let ends: Vec<_> = items.iter().map(|item| item.get("expires_at")).collect();
    let of_a_body = number((noon() + LIFE).as_second());
    assert_eq!(ends[..2], [Some(&of_a_body), Some(&of_a_body)]);
    assert!(ends[2..].iter().all(Option::is_none), "the rest stays");
}

#[tokio::test]
async fn attempts_are_added_to_those_of_their_minute() {
    let updates = Arc::<Mutex<Vec<_>>>::default();
    let seen = Arc::clone(&updates);
    let rule = mock!(Client::update_item).then_compute_output(move |update| {
        seen.lock().expect("not poisoned").push(update.clone());
        UpdateItemOutput::builder().build()
    });
    let table = table(&[&rule]);
    let mut attempts = Attempts::default();
    for nth in 1..=3 {
        attempts.count(&id("an-event"), nth, true);
    }
    let minutes = [noon(), noon() + SignedDuration::from_mins(1)];
    table
        .count_attempts(minutes[0], &attempts)
        .await
        .expect("counted");
    attempts.count(&id("an-event"), 1, false);
    table
        .count_attempts(minutes[1], &attempts)
        .await
        .expect("counted");
    let updates = updates.lock().expect("not poisoned");
    let keys: BTreeSet<_> = updates
        .iter()
        .map(|update| text(update.key().expect("a key"), KEY))
        .collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    for (update, (minute, failed)) in updates.iter().zip([(minutes[0], 0), (minutes[1], 1)]) {
        let values = update.expression_attribute_values().expect("values");
        let end = minute.as_second() + 6 * 3600;
        assert_eq!(
            [
                ":delivered",
                ":failed",
                ":first_delivered",
                ":first_failed",
                ":expires_at"
            ]
            .map(|name| &values[name]),
            [
                &number(3),
                &number(failed),
                &number(1),
                &number(failed),
                &number(end)
            ]
        );
        assert!(update.update_expression().is_some_and(|update| update.contains(
            "ADD delivered :delivered, failed :failed, credentials_failed :credentials_failed, first_delivered :first_delivered, first_failed :first_failed"
        )));
        assert_eq!(
            values.contains_key(":failing"),
            failed > 0,
            "DynamoDB takes no empty set"
        );
    }
}

/// Bytes that cannot be packed, so many that their packed form has this size.
fn packing_into(size: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(size).collect();
    loop {
        match pack(&body).expect("packed").len() {
            packed if packed == size => return body,
            packed if packed > size => body.truncate(body.len() - (packed - size)),
            packed => body.extend(std::iter::repeat_with(|| rng.u8(..)).take(size - packed)),
        }
    }
}

#[tokio::test]
async fn a_body_is_kept_if_it_packs_into_256_kib() {
    const BOUND: usize = 256 * 1024;
    for (body, is_kept) in [
        (packing_into(BOUND), true),
        (packing_into(BOUND + 1), false),
        (vec![b'x'; 4 * BOUND], true),
    ] {
        let (rule, puts) = puts();
        assert_eq!(
            table(&[&rule])
                .keep_body(&id("an-event"), &body, noon())
                .await
                .expect("an answer"),
            is_kept
        );
        assert_eq!(
            puts.lock().expect("not poisoned").len(),
            usize::from(is_kept)
        );
    }
}

#[test]
fn a_body_is_read_whole_up_to_the_bound_and_refused_beyond() {
    const BOUND: usize = 16 * 1024 * 1024;
    for (size, is_read) in [
        (256 * 1024 + 1, true),
        (1024 * 1024 + 1, true),
        (BOUND, true),
        (BOUND + 1, false),
    ] {
        let read = unpack(&pack(&vec![b'x'; size]).expect("packed"));
        assert_eq!(read.ok().map(|body| body.len()), is_read.then_some(size));
    }
}

#[test]
fn a_page_ends_where_a_shard_is_not_known_further() {
    let letters = |times: &[i64]| {
        times
            .iter()
            .map(|time| dead_letter(*time, 0, "a"))
            .collect::<Vec<_>>()
    };
    let times = |page: &Page| {
        page.items
            .iter()
            .map(|item| item.received_at.as_millisecond() - noon().as_millisecond())
            .collect::<Vec<_>>()
    };
    // The second shard may hold something between 4 and 9.
    let page = merge(
        vec![
            of_shard(&letters(&[1, 5, 9]), false),
            of_shard(&letters(&[2, 4]), true),
        ],
        10,
    );
    assert_eq!(times(&page), [1, 2, 4]);
    assert_eq!(page.next, page.items.last().map(place));

    let page = merge(
        vec![
            of_shard(&letters(&[1, 5]), false),
            of_shard(&letters(&[2, 4]), false),
        ],
        3,
    );
    assert_eq!((times(&page), page.next.is_some()), (vec![1, 2, 4], true));
    let page = merge(
        vec![
            of_shard(&letters(&[1, 5]), false),
            of_shard(&letters(&[2]), false),
        ],
        3,
    );
    assert_eq!((times(&page), page.next), (vec![1, 2, 5], None));
    assert_eq!(merge(Vec::new(), 3), Page::default());
}

#[test]
fn a_dead_letter_of_an_absurd_time_is_listed() {
    let time = |text: &str| text.parse::<Timestamp>().expect("a time");
    let first = "-009999-01-02T01:59:59Z";
    for (received_at, since, until, is_in) in [
        (first, None, None, true),
        (first, Some(first), Some("9999-12-30T22:00:00Z"), true),
        (
            "-000001-01-01T00:00:00Z",
            Some("-000002-01-01T00:00:00Z"),
            Some("-000001-06-01T00:00:00Z"),
            true,
        ),
        (
            "0000-01-01T00:00:00Z",
            Some("-000001-01-01T00:00:00Z"),
            None,
            true,
        ),
        (first, Some("0000-01-01T00:00:00Z"), None, false),
        ("9999-12-30T22:00:00.999999999Z", Some(first), None, true),
    ] {
        let window = Window {
            since: since.map(time),
            until: until.map(time),
        };
        let (from, to) = range(window, None);
        let Position(place) = Position::of(time(received_at), &"an-event".parse().expect("an id"));
        assert_eq!(
            (from..=to).contains(&place),
            is_in,
            "{received_at} from {since:?} to {until:?}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_when_packed_is_never_put() {
    let put = mock!(Client::put_item)
        .match_requests(|request| {
            let body = request
                .item()
                .and_then(|item| item.get("body"))
                .and_then(|body| body.as_b().ok());
            body.is_some_and(|body| body.as_ref().len() <= MAX_BODY_BYTES)
        })
        .then_output(|| PutItemOutput::builder().build());
    let table = table(&[&put]);
    let mut rng = fastrand::Rng::with_seed(7);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..))
        .take(MAX_BODY_BYTES + 1)
        .collect();
    // Noise does not shrink, so that each byte counts.
    let fitting = (0..noise.len())
        .rev()
        .find(|bytes| pack(&noise[..*bytes]).expect("packed").len() <= MAX_BODY_BYTES);
    let fitting = fitting.expect("less fits");
    assert!(
        table
            .keep_body(&id("an-event"), &noise[..fitting], noon())
            .await
            .expect("kept")
    );
    assert!(
        !table
            .keep_body(&id("an-event"), &noise[..=fitting], noon())
            .await
            .expect("left out")
    );
    assert_eq!(put.num_calls(), 1);
}
