//! Looking at dead letters: lists, dry runs, and one event in full.

use super::*;
use crate::ports::service::Service;

#[tokio::test(start_paused = true)]
async fn every_field_of_a_filter_selects_in_a_list_a_dry_run_and_a_replay() {
    for (filter, matched) in [
        (json!({ "source": "webhook" }), 3),
        (json!({ "source": "generic" }), 0),
        (json!({ "reason": "permanent" }), 2),
        (json!({ "reason": "unknown" }), 1),
        (json!({ "reason": "malformed" }), 0),
        (json!({ "webhookId": "b" }), 1),
        (json!({ "statusCode": 410 }), 1),
        (json!({ "since": "2000-01-01T00:00:00Z" }), 3),
        (json!({ "until": "2000-01-01T00:00:00Z" }), 0),
        (json!({ "reason": "permanent", "webhookId": "a" }), 1),
    ] {
        let relay = relay();
        send_to_dead_letters(
            &relay,
            [
                carrying(message("a", 1), 404),
                carrying(message("b", 2), 410),
                message("a", 3),
            ],
        )
        .await;
        report(&relay, json!({ "action": "reconcile" })).await;
        let mut listing = filter.clone();
        listing["action"] = "list".into();
        let Answer::List(list) = handle(&relay, listing).await.expect("carried out") else {
            panic!("no list")
        };
        assert_eq!(list.items.len() as u64, matched, "{filter}");
        let dry = report(
            &relay,
            json!({ "action": "replay", "filter": filter, "dryRun": true }),
        )
        .await;
        assert_eq!(
            (dry.matched, replayed(&dry), dry.items.len() as u64),
            (matched, 0, matched),
            "{filter}"
        );
        assert_eq!(dry.event_ids.len() as u64, matched, "{filter}");
        let report = report(&relay, json!({ "action": "replay", "filter": filter })).await;
        assert_eq!(
            (report.matched, replayed(&report)),
            (matched, matched),
            "{filter}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn lists_and_dry_runs_receive_nothing() {
    let relay = relay();
    for (name, status) in [(1, 404), (2, 410)] {
        die(&relay, &message("a", name), ReasonKind::Permanent, status).await;
        send_to_dead_letters(&relay, [message("a", name)]).await;
    }
    relay.ports.dead_letters.refuse_receives();
    let dry = report(
        &relay,
        json!({ "action": "replay", "filter": { "statusCode": 404 }, "dryRun": true }),
    )
    .await;
    assert_eq!(
        (dry.matched, dry.remaining, dry.items[0].status_code),
        (1, Some(2), Some(404))
    );
    let dry = report(
        &relay,
        json!({ "action": "replay", "all": true, "dryRun": true }),
    )
    .await;
    assert_eq!((dry.matched, replayed(&dry)), (2, 0));
    let Answer::List(list) = handle(&relay, json!({ "action": "list" }))
        .await
        .expect("carried out")
    else {
        panic!("no list")
    };
    assert_eq!((list.count, list.next), (2, None));
}

#[tokio::test(start_paused = true)]
async fn a_list_gives_everything_once_page_by_page_oldest_first() {
    let relay = relay();
    for name in 0..25 {
        die(&relay, &message("a", name), ReasonKind::Exhausted, 503).await;
        tokio::time::advance(Duration::from_millis(if name % 3 == 0 { 0 } else { 5 })).await;
    }
    let (mut seen, mut next) = (Vec::new(), Value::Null);
    loop {
        let mut request = json!({ "action": "list", "limit": 4 });
        if next != Value::Null {
            request["next"] = next;
        }
        let Answer::List(list) = handle(&relay, request).await.expect("carried out") else {
            panic!("no list")
        };
        assert!(list.count == list.items.len() && list.count <= 4);
        seen.extend(
            list.items
                .into_iter()
                .map(|dead_letter| (dead_letter.received_at, dead_letter.event_id)),
        );
        match list.next {
            Some(token) => next = token.into(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0].1 != pair[1].1));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_shown_with_all_that_is_known() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Permanent, 422).await;
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let id = id_of(&message("a", 1));
    report(
        &relay,
        json!({ "action": "replay", "eventIds": [id], "why": "mended", "by": "the night shift" }),
    )
    .await;
    let Answer::Show(shown) = handle(&relay, json!({ "action": "show", "eventId": id }))
        .await
        .expect("known")
    else {
        panic!("not shown")
    };
    let shown = json!(shown);
    assert_eq!(
        (&shown["state"], &shown["reason"], &shown["statusCode"]),
        (&"DEAD".into(), &"permanent".into(), &422.into())
    );
    assert_eq!(
        (&shown["history"][0]["by"], &shown["history"][0]["why"]),
        (&"the night shift".into(), &"mended".into())
    );
    assert_eq!(
        (&shown["body"], &shown["attempts"][0]["statusCode"]),
        (&message("a", 1).body.into(), &422.into())
    );
    assert!(shown["replayedAt"].is_string());
}

#[tokio::test(start_paused = true)]
async fn dead_letter_kept_a_moment_ago_is_pending() {
    let relay = relay();
    let id = id_of(&message("a", 1));
    let show = async |id: &str| handle(&relay, json!({ "action": "show", "eventId": id })).await;
    let dry_run = json!({ "action": "replay", "eventIds": [id], "dryRun": true });
    assert!(matches!(
        show(id.as_str()).await,
        Err(ReplayError::Unknown(_))
    ));
    assert_eq!(
        report(&relay, dry_run.clone()).await.failed[0].state,
        Some(Missing::Unknown)
    );

    send_to_dead_letters(&relay, [carrying(message("a", 1), 404)]).await;
    let error = show(id.as_str()).await.expect_err("no record yet");
    assert!(
        matches!(error, ReplayError::NotListed(_, 1)) && error.to_string().contains("five minutes"),
        "{error}"
    );
    assert_eq!(
        report(&relay, dry_run).await.failed[0].state,
        Some(Missing::Pending)
    );

    report(&relay, json!({ "action": "reconcile" })).await;
    assert!(show(id.as_str()).await.is_ok());
    assert!(
        matches!(show("another").await, Err(ReplayError::Unknown(_))),
        "all is listed"
    );

    // What is listed waits in the events queue, and what lies here is not listed.
    report(&relay, json!({ "action": "replay", "eventIds": [id] })).await;
    send_to_dead_letters(&relay, [carrying(message("a", 2), 404)]).await;
    let other = id_of(&message("a", 2));
    assert!(matches!(
        show(other.as_str()).await,
        Err(ReplayError::NotListed(..))
    ));
    let dry_run = json!({ "action": "replay", "eventIds": [other], "dryRun": true });
    assert_eq!(
        report(&relay, dry_run).await.failed[0].state,
        Some(Missing::Pending)
    );
}

#[tokio::test(start_paused = true)]
async fn outage_is_an_error_not_an_empty_answer() {
    let requests = [
        json!({ "action": "status" }),
        json!({ "action": "list" }),
        json!({ "action": "replay", "all": true, "maxMessages": 1 }),
        json!({ "action": "reconcile", "ifNeeded": true }),
    ];
    for request in requests {
        let relay = relay();
        relay.ports.table.fail();
        assert!(
            matches!(
                handle(&relay, request.clone()).await,
                Err(ReplayError::Service(error)) if error.service == Service::DynamoDb
            ),
            "{request}"
        );
        let relay = self::relay();
        relay.ports.dead_letters.fail();
        let answer = handle(&relay, request.clone()).await;
        assert!(
            request["action"] == "list"
                || matches!(answer, Err(ReplayError::Service(error)) if error.service == Service::Sqs),
            "{request}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_dead_letter_is_as_old_as_its_event() {
    let relay = relay();
    let mut dead_letter = message("a", 1);
    let an_hour_ago = format!("{:.3}", FakeClock.now() - Duration::from_hours(1));
    dead_letter.attributes.insert(
        "received_at".to_owned(),
        crate::domain::message::Attribute::text(an_hour_ago),
    );
    die(&relay, &dead_letter, ReasonKind::Exhausted, 503).await;
    let answer = handle(&relay, json!({ "action": "status" }))
        .await
        .expect("carried out");
    assert_eq!(json!(answer)["deadLettersAgeSeconds"], 3600);
}
