//! The index of conversations, erasures, and the states of what was sent once more or erased.

use genesys_relay::domain::erasure::Erasures;
use genesys_relay::domain::resend::Resend;

use super::*;

/// All ids of a conversation, read in pages of up to `limit`.
async fn events_of<W: EventsTable>(
    table: &W,
    conversation: &str,
    limit: usize,
) -> Result<Vec<EventId>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = table
            .conversation(conversation, after.as_ref(), limit)
            .await?;
        assert!(
            page.event_ids.len() <= limit,
            "{} on a page of {limit}",
            page.event_ids.len()
        );
        all.extend(page.event_ids);
        let Some(next) = page.next else {
            return Ok(all);
        };
        let token: Position = next.token().parse()?;
        assert_eq!(token, next);
        after = Some(token);
    }
}

fn of_conversation(name: &str, conversation: &str, received_at: Timestamp) -> Event {
    Event {
        source: Source::Generic,
        body: format!(r#"{{"name":"{name}","conversationId":"{conversation}"}}"#).into_bytes(),
        ..event(name, received_at)
    }
}

pub(super) async fn a_conversation_lists_its_events_oldest_first(
    table: &impl EventsTable,
) -> Result<()> {
    let pair = Pair::of(table);
    assert_eq!(events_of(table, "c-0", 10).await?, Vec::<EventId>::new());
    let (mut places, mut others) = (BTreeSet::new(), 0);
    for number in 0..40_i64 {
        // In no order, and at times with and without a fraction of a second.
        let received_at = at(number * 7 % 11) + SignedDuration::from_millis(number % 4 * 250);
        let conversation = ["c-0", "c-0", "c-00", "C-0"][usize::try_from(number % 4)?];
        let event = of_conversation(&format!("of-{number}"), conversation, received_at);
        let claimed = claim(None, &event, at(100), false);
        let found = pair.take(&event.id, claimed.transition()).await?;
        assert_eq!(found.conversation_id.as_deref(), Some(conversation));
        if conversation == "c-0" {
            places.insert((received_at, event.id.clone()));
        } else {
            others += 1;
        }
        // Whatever becomes of it.
        let step = match number % 3 {
            0 => claimed.delivered(attempt(at(101), 200)),
            1 => claimed.dead(
                attempt(at(101), 404),
                death(at(101)),
                None,
                Context::of(&event, None),
            ),
            _ => continue,
        };
        pair.take(&event.id, &step).await?;
    }
    let alone = event("alone", at(0));
    pair.take(&alone.id, claim(None, &alone, at(100), false).transition())
        .await?;
    assert_eq!((places.len(), others), (20, 20));
    let places: Vec<EventId> = places.into_iter().map(|(_, id)| id).collect();
    for limit in [1, 3, 19, 20, 21, 200] {
        assert_eq!(
            events_of(&pair.model, "c-0", limit).await?,
            places,
            "the stand-in in pages of {limit}"
        );
        assert_eq!(
            events_of(table, "c-0", limit).await?,
            places,
            "in pages of {limit}"
        );
    }
    assert_eq!(
        events_of(table, "no-such", 10).await?,
        Vec::<EventId>::new()
    );
    Ok(())
}

pub(super) async fn an_erased_event_leaves_its_conversation(
    table: &impl EventsTable,
) -> Result<()> {
    let pair = Pair::of(table);
    let events: Vec<Event> = (0..3)
        .map(|number| of_conversation(&format!("to-erase-{number}"), "c-erased", at(number)))
        .collect();
    for event in &events {
        pair.take(&event.id, claim(None, event, at(10), false).transition())
            .await?;
    }
    let ids = |events: &[Event]| {
        events
            .iter()
            .map(|event| event.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(events_of(table, "c-erased", 2).await?, ids(&events));
    // The last of a page leaves between two pages.
    let page = table.conversation("c-erased", None, 2).await?;
    let found = pair.get(&events[1].id).await?.context("a record")?;
    let erased = EventRecord::erased(
        &found.event_id,
        found.source,
        found.received_at,
        Some(&found),
        act("erase", at(20)),
    );
    let record = pair
        .take(&events[1].id, &erased.context("not erased yet")?)
        .await?;
    assert_eq!(
        (record.state.name(), record.conversation_id),
        (StateName::Erased, None)
    );
    let rest = table
        .conversation("c-erased", page.next.as_ref(), 2)
        .await?;
    assert_eq!(rest.event_ids, ids(&events[2..]));
    assert_eq!(
        events_of(table, "c-erased", 10).await?,
        [events[0].id.clone(), events[2].id.clone()]
    );
    Ok(())
}

pub(super) async fn erasures_are_those_that_were_saved_last(
    table: &impl EventsTable,
) -> Result<()> {
    assert_eq!(table.erasures().await?, Erasures::default());
    let mut erasures = Erasures::default();
    for (conversation, time) in [("c-1", at(10)), ("c-2", at(20)), ("c-1", at(30))] {
        erasures.note(Some(conversation), time)?;
        table.save_erasures(&erasures).await?;
        assert_eq!(table.erasures().await?, erasures);
    }
    assert_eq!(erasures.newest_at(), Some(at(30)));
    let covers = |erasures: &Erasures, conversation, received_at| {
        erasures.cover(
            &of_conversation("any", conversation, received_at),
            received_at,
        )
    };
    let read = table.erasures().await?;
    assert!(covers(&read, "c-1", at(29)) && !covers(&read, "c-1", at(30)));
    assert!(covers(&read, "c-2", at(19)) && !covers(&read, "c-3", at(0)));
    assert!(
        events_of(table, "c-1", 10).await?.is_empty(),
        "they are no records"
    );
    Ok(())
}

pub(super) async fn a_resend_is_part_of_its_record(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let event = of_conversation("resent", "c-resent", at(0));
    let first = claim(None, &event, at(1), false);
    pair.take(&event.id, first.transition()).await?;
    let mut found = pair
        .take(&event.id, &first.delivered(attempt(at(2), 200)))
        .await?;
    for (run, time) in [("one", 10), ("other", 20)] {
        let resend = Resend {
            run: run.to_owned(),
            by: "an operator".to_owned(),
            why: Some("lost".to_owned()),
        };
        let request = ClaimRequest {
            resend: Some(&resend),
            ..request(&event, at(time), false)
        };
        let ClaimResult::Claimed(claimed) = Claim::on(Some(&found), request) else {
            panic!("not claimed by {run}: {found:?}")
        };
        let taken = pair.take(&event.id, claimed.transition()).await?;
        assert_eq!(
            (taken.state.name(), taken.resend.as_deref()),
            (StateName::InProgress, Some(run))
        );
        found = pair
            .take(&event.id, &claimed.delivered(attempt(at(time + 1), 200)))
            .await?;
        assert_eq!(
            (found.state.name(), &found.resend),
            (StateName::Delivered, &None)
        );
        assert!(matches!(
            Claim::on(Some(&found), request),
            ClaimResult::AlreadyFinished(_)
        ));
    }
    assert_eq!(found.resent, ["one", "other"]);
    assert_eq!(
        table.get_many(std::slice::from_ref(&event.id)).await?[&event.id],
        found
    );
    Ok(())
}

pub(super) async fn an_erased_event_keeps_its_id_and_digest_alone(
    table: &impl EventsTable,
) -> Result<()> {
    let pair = Pair::of(table);
    let unknown = id("never-seen");
    let erase = |id: &EventId, found: Option<&EventRecord>| {
        EventRecord::erased(id, Source::Generic, at(0), found, act("erase", at(50)))
    };
    let found = pair
        .take(&unknown, &erase(&unknown, None).context("not erased yet")?)
        .await?;
    assert_eq!(found.state, State::Erased);
    assert_eq!(erase(&unknown, Some(&found)), None, "it is erased already");

    let event = of_conversation("content", "c-content", at(0));
    let claimed = claim(None, &event, at(1), false);
    pair.take(&event.id, claimed.transition()).await?;
    let dead = claimed.dead(
        attempt(at(2), 404),
        death(at(2)),
        None,
        Context::of(&event, None),
    );
    let found = pair.take(&event.id, &dead).await?;
    let erased = pair
        .take(
            &event.id,
            &erase(&event.id, Some(&found)).context("not erased yet")?,
        )
        .await?;
    assert_eq!(
        (
            erased.state.name(),
            erased.received_at,
            erased.history.len()
        ),
        (StateName::Erased, at(0), 1)
    );
    assert!(erased.attempts.is_empty() && erased.context.is_none() && erased.webhook_id.is_none());
    assert!(
        table
            .dead_letters(Window::default(), None, 1000)
            .await?
            .items
            .iter()
            .all(|item| item.event_id != event.id)
    );
    // A copy of it, and a worker that comes late.
    let copy = Claim::on(Some(&erased), request(&event, at(60), false));
    assert!(matches!(copy, ClaimResult::AlreadyFinished(_)), "{copy:?}");
    assert_eq!(
        claimed.delivered_late(attempt(at(61), 200), Some(&erased)),
        None
    );
    Ok(())
}
