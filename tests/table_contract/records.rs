//! Records of single events.

use super::*;

pub(super) async fn every_state_comes_back_as_it_was(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let event = event("states", at(0));
    assert_eq!(pair.get(&event.id).await?, None);

    let first = claim(None, &event, at(1), false);
    let found = pair.take(&event.id, first.transition()).await?;
    assert_eq!(found.state.name(), StateName::InProgress);

    let found = pair
        .take(
            &event.id,
            &first.retrying(attempt(at(2), 503), at(4), at(2)),
        )
        .await?;
    assert!(matches!(found.state, State::Retrying { next_attempt_at } if next_attempt_at == at(4)));

    let second = claim(Some(&found), &event, at(5), true);
    pair.take(&event.id, second.transition()).await?;
    let context = Context::of(&event, Some("https://target.example/".to_owned()));
    let dead = second.dead(
        attempt(at(6), 404),
        death(at(6)),
        Some("a-message"),
        context.clone(),
    );
    let found = pair.take(&event.id, &dead).await?;
    assert_eq!(
        (found.attempts.len(), found.context.as_ref()),
        (2, Some(&context))
    );

    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&found, at(7)) else {
        panic!("not dead: {found:?}")
    };
    let found = pair
        .take(&event.id, &dead.replayed(act("replay", at(7))))
        .await?;
    assert!(matches!(&found.state, State::Dead(dead) if dead.replayed_at == Some(at(7))));

    let third = claim(Some(&found), &event, at(8), false);
    let found = pair.take(&event.id, third.transition()).await?;
    assert_eq!(
        (
            found.attempts_made,
            found.attempts_since_claim,
            found.replays_made
        ),
        (3, 1, 1)
    );
    let found = pair
        .take(
            &event.id,
            &third.dead(attempt(at(9), 404), death(at(9)), None, context),
        )
        .await?;

    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&found, at(10)) else {
        panic!("not dead: {found:?}")
    };
    let found = pair
        .take(
            &event.id,
            &dead.archived(act("archive", at(10)), "2026/01/15/a.gz"),
        )
        .await?;
    assert!(
        matches!(&found.state, State::Archived { archived_to, .. } if archived_to == "2026/01/15/a.gz")
    );

    let fourth = claim(Some(&found), &event, at(11), false);
    pair.take(&event.id, fourth.transition()).await?;
    let found = pair
        .take(&event.id, &fourth.delivered(attempt(at(12), 200)))
        .await?;
    assert_eq!(
        (
            found.state.name(),
            found.attempts.len(),
            found.history.len()
        ),
        (StateName::Delivered, 4, 2)
    );

    // One without a record, which is not needed.
    let letter = DeadLetterEvidence {
        event_id: &id("stray"),
        received_at: at(0),
        sent_at: at(0),
        reason: None,
        event: None,
        resend: None,
    };
    let DeadLetterStatus::Unrecorded(stray) = DeadLetterStatus::of(&letter, None, at(13)) else {
        panic!("recorded")
    };
    let found = pair.take(letter.event_id, stray.transition()).await?;
    let Some(DeadLetterStatus::Dead(stray)) = DeadLetterStatus::recorded(&found, at(14)) else {
        panic!("not dead: {found:?}")
    };
    let found = pair
        .take(letter.event_id, &stray.discarded(act("discard", at(14))))
        .await?;
    assert_eq!(found.state.name(), StateName::Discarded);
    Ok(())
}

pub(super) async fn a_step_is_taken_from_where_it_starts_only(
    table: &impl EventsTable,
) -> Result<()> {
    let pair = Pair::of(table);
    let event = event("guards", at(0));

    // From nothing.
    let claimed = claim(None, &event, at(0), false);
    let first = pair.take(&event.id, claimed.transition()).await?;
    assert_eq!(
        pair.write(claimed.transition()).await?,
        Written::Done,
        "taking it twice is taking it once"
    );
    let rival = claim(None, &event, at(0), false);
    assert_eq!(
        pair.write(rival.transition()).await?,
        Written::Lost(Some(Box::new(first)))
    );

    // From one revision of the record.
    let failed = claimed.retrying(attempt(at(1), 503), at(3), at(1));
    let second = pair.take(&event.id, &failed).await?;
    assert_eq!(
        pair.write(&failed).await?,
        Written::Done,
        "taking it twice is taking it once"
    );
    for late in [
        claimed.transition(),
        &claimed.retrying(attempt(at(1), 503), at(3), at(1)),
    ] {
        assert_eq!(
            pair.write(late).await?,
            Written::Lost(Some(Box::new(second.clone())))
        );
    }
    assert_eq!(pair.get(&event.id).await?, Some(second.clone()));

    // A delivery of who lost the lease, from whatever is there but a delivery.
    let delivered = claimed.delivered(attempt(at(2), 200));
    assert_eq!(
        pair.write(&delivered).await?,
        Written::Lost(Some(Box::new(second.clone())))
    );
    let late = claimed
        .delivered_late(attempt(at(2), 200), Some(&second))
        .context("not delivered yet")?;
    let third = pair.take(&event.id, &late).await?;
    assert_eq!(
        (third.state.name(), third.attempts.len()),
        (StateName::Delivered, 2)
    );
    assert_eq!(
        pair.write(&late).await?,
        Written::Done,
        "taking it twice is taking it once"
    );
    assert_eq!(
        claimed.delivered_late(attempt(at(3), 200), Some(&third)),
        None
    );

    // Where the record is gone.
    let gone = Event {
        id: id("gone"),
        ..event
    };
    let claimed = claim(None, &gone, at(0), false);
    let failed = claimed.retrying(attempt(at(1), 503), at(3), at(1));
    assert_eq!(pair.write(&failed).await?, Written::Lost(None));
    let late = claimed
        .delivered_late(attempt(at(1), 200), None)
        .context("not delivered yet")?;
    let found = pair.take(&gone.id, &late).await?;
    assert_eq!(found.state.name(), StateName::Delivered);
    Ok(())
}

pub(super) async fn of_two_at_once_one_wins(table: &impl EventsTable) -> Result<()> {
    for round in 0..10 {
        let event = event(&format!("race-{round}"), at(0));
        let claims = [(); 2].map(|()| claim(None, &event, at(0), false));
        let (one, other) = futures_util::future::join(
            table.write(claims[0].transition()),
            table.write(claims[1].transition()),
        )
        .await;
        let found = table.get(&event.id).await?.context("a record")?;
        let lost = Written::Lost(Some(Box::new(found)));
        assert!(
            matches!([&one?, &other?], [Written::Done, loser] | [loser, Written::Done] if *loser == lost),
            "one has it, and the other is told"
        );
    }
    Ok(())
}

pub(super) async fn many_are_read_at_once(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let mut asked = Vec::new();
    let mut expected = BTreeMap::new();
    for number in 0..130 {
        let event = event(&format!("many-{number}"), at(number));
        let found = pair
            .take(
                &event.id,
                claim(None, &event, at(number), false).transition(),
            )
            .await?;
        expected.insert(event.id.clone(), found);
        asked.extend([event.id, id(&format!("missing-{number}"))]);
    }
    // Copies far apart, and next to each other.
    asked.extend(asked.clone());
    asked.extend([id("many-7"), id("many-7"), id("missing-7"), id("missing-7")]);
    assert_eq!(table.get_many(&asked).await?, expected);
    assert_eq!(
        table.get_many(&[id("many-7"), id("many-7")]).await?.len(),
        1
    );
    assert_eq!(table.get_many(&[id("missing-7")]).await?, BTreeMap::new());
    assert_eq!(table.get_many(&[]).await?, BTreeMap::new());
    Ok(())
}

pub(super) async fn a_body_is_kept_byte_for_byte(table: &impl EventsTable) -> Result<()> {
    let event = id("with-a-body");
    assert_eq!(table.body(&event, at(0)).await?, None);
    let large = r#"{"text":"as long as a body gets, and like others of its kind"} "#.repeat(16_000);
    for body in [
        &b"{\"text\":\"Gr\xc3\xbc\xc3\x9fe\"}\r\n"[..],
        b"\x00\xff\xfe",
        b"",
        large.as_bytes(),
    ] {
        assert!(table.keep_body(&event, body, at(0)).await?);
        assert_eq!(table.body(&event, at(1)).await?.as_deref(), Some(body));
    }
    assert_eq!(
        table.body(&event, at(0) + LIFE).await?,
        None,
        "DynamoDB deletes it later"
    );
    assert_eq!(table.get(&event).await?, None, "a body is no record");
    assert_eq!(
        table.get_many(std::slice::from_ref(&event)).await?,
        BTreeMap::new()
    );
    for _ in 0..2 {
        table.delete_body(&event).await?;
        assert_eq!(table.body(&event, at(1)).await?, None);
    }
    Ok(())
}

pub(super) async fn a_body_that_was_kept_again_later_is_not_taken_back(
    table: &impl EventsTable,
) -> Result<()> {
    let event = id("kept-twice");
    table.take_back_body(&event, at(0)).await?;
    // The run that kept it at 0 learns that its record is lost, and meanwhile the event dies again.
    table.keep_body(&event, b"once", at(0)).await?;
    table.keep_body(&event, b"again", at(1)).await?;
    table.take_back_body(&event, at(0)).await?;
    assert_eq!(
        table.body(&event, at(2)).await?.as_deref(),
        Some(&b"again"[..])
    );
    for _ in 0..2 {
        table.take_back_body(&event, at(1)).await?;
        assert_eq!(table.body(&event, at(2)).await?, None);
    }
    Ok(())
}

pub(super) async fn a_fetched_event_is_queued_until_it_is_claimed(
    table: &impl EventsTable,
) -> Result<()> {
    let pair = Pair::of(table);
    let event = event("fetched", at(0));
    let queue = || EventRecord::queued(&event, None, act("recover", at(1)));
    let queued = pair.take(&event.id, &queue()).await?;
    assert_eq!(
        (queued.state.name(), queued.history[0].action.as_str()),
        (StateName::Queued, "recover")
    );
    assert!(
        matches!(pair.write(&queue()).await?, Written::Lost(Some(_))),
        "it is known by now"
    );
    let claimed = claim(Some(&queued), &event, at(2), false);
    pair.take(&event.id, claimed.transition()).await?;
    let delivered = pair
        .take(&event.id, &claimed.delivered(attempt(at(3), 200)))
        .await?;
    assert_eq!(delivered.history, queued.history);
    Ok(())
}

pub(super) async fn record_of_a_check_is_deleted_unless_it_changed(
    table: &impl EventsTable,
) -> Result<()> {
    let pair = Pair::of(table);
    let event = Event {
        source: Source::Check,
        ..event("a-check", at(0))
    };
    let mut lives = Vec::new();
    for life in [0, 10] {
        let claimed = claim(None, &event, at(life), false);
        let in_progress = pair.take(&event.id, claimed.transition()).await?;
        assert_eq!(in_progress.expires_at, at(life) + CHECK_LIFE);
        assert!(in_progress.forget().is_err(), "a worker has it");
        let delivered = claimed.delivered(attempt(at(life + 1), 200));
        let delivered = pair.take(&event.id, &delivered).await?;
        for earlier in &lives {
            let lost = Written::Lost(Some(Box::new(delivered.clone())));
            assert_eq!(pair.forget(earlier).await?, lost);
        }
        if life == 0 {
            assert_eq!(pair.forget(&delivered).await?, Written::Done);
            assert_eq!(pair.get(&event.id).await?, None);
        }
        lives.push(delivered);
    }
    for _ in 0..2 {
        assert_eq!(pair.forget(&lives[1]).await?, Written::Done);
        assert_eq!(pair.get(&event.id).await?, None);
    }
    Ok(())
}
