//! Bounds of requests, and the fields that errors name.

use serde_json::json;

use super::*;

fn invalid(request: Value) -> InvalidRequest {
    Request::parse(request, "a test").expect_err("refused")
}

/// Each condition is left out, holds, or does not, in all combinations, for a replay and for a
/// list.
#[test]
fn every_condition_of_a_filter_has_to_hold() {
    let dead_letter = DeadLetter {
        event_id: "an-event".parse().expect("an id"),
        source: Source::Webhook,
        webhook_id: Some("w".to_owned()),
        reason: ReasonKind::Permanent,
        error: "as the test says".to_owned(),
        status_code: Some(404),
        received_at: "2026-01-15T12:00:00Z".parse().expect("a time"),
        dead_at: "2026-01-15T13:00:00Z".parse().expect("a time"),
        attempts: 1,
        replays: 0,
        replayed_at: None,
        is_recorded: true,
    };
    let conditions = [
        ("source", json!("webhook"), json!("generic")),
        ("reason", json!("permanent"), json!("exhausted")),
        ("webhookId", json!("w"), json!("W")),
        ("statusCode", json!(404), json!(410)),
        (
            "since",
            json!("2026-01-15T12:00:00Z"),
            json!("2026-01-15T12:00:00.000000001Z"),
        ),
        (
            "until",
            json!("2026-01-15T12:00:00.000000001Z"),
            json!("2026-01-15T12:00:00Z"),
        ),
    ];
    let silent = DeadLetter {
        webhook_id: None,
        status_code: None,
        ..dead_letter.clone()
    };
    let combinations = 3_usize.pow(u32::try_from(conditions.len()).expect("a few"));
    for combination in 1..combinations {
        let (mut filter, mut holds, mut names_absent) = (json!({}), true, false);
        for (place, (name, right, wrong)) in (0..).zip(&conditions) {
            let choice = combination / 3_usize.pow(place) % 3;
            if choice > 0 {
                filter[name] = if choice == 1 {
                    right.clone()
                } else {
                    wrong.clone()
                };
                holds &= choice == 1;
                names_absent |= ["webhookId", "statusCode"].contains(name);
            }
        }
        let request = json!({ "action": "replay", "filter": filter });
        let Ok(Request::Replay(selection)) = Request::parse(request, "a test") else {
            panic!("{filter}")
        };
        assert_eq!(selection.which.includes(&dead_letter), holds, "{filter}");
        assert_eq!(
            selection.which.includes(&silent),
            holds && !names_absent,
            "{filter}"
        );
        filter["action"] = json!("list");
        let Ok(Request::List(listing)) = Request::parse(filter.clone(), "a test") else {
            panic!("{filter}")
        };
        assert_eq!(listing.filter.matches(&dead_letter), holds, "{filter}");
        assert_eq!(
            listing.filter.window(),
            selection.which.window(),
            "{filter}"
        );
    }
}

#[test]
fn numbers_are_taken_from_the_least_to_the_most_that_is_documented() {
    let ids = |count: i32| {
        json!(
            (0..count)
                .map(|number| number.to_string())
                .collect::<Vec<_>>()
        )
    };
    for (action, field, least, most) in [
        ("list", "limit", 1, 1000),
        ("replay", "maxMessages", 1, 100_000),
        ("replay", "ratePerSecond", 1, 500),
        ("archive", "olderThanDays", 0, 13),
        ("replay", "eventIds", 1, 1000),
        ("discard", "eventIds", 1, 1000),
    ] {
        for (value, is_taken) in [
            (least - 1, false),
            (least, true),
            (most, true),
            (most + 1, false),
        ] {
            let value = if field == "eventIds" {
                ids(value)
            } else {
                json!(value)
            };
            let mut request = json!({ "action": action, "why": "a test" });
            if action == "list" {
                request = json!({ "action": action });
            }
            if action == "replay" && field != "eventIds" {
                request["all"] = json!(true);
            }
            request[field] = value;
            let parsed = Request::parse(request, "a test");
            assert_eq!(parsed.is_ok(), is_taken, "{action} {field}: {parsed:?}");
        }
    }
}

/// Checks that each error names the field.
fn assert_named<const N: usize>(requests: [(Value, &str); N]) {
    for (request, field) in requests {
        let error = invalid(request.clone());
        assert_eq!(error.field, field, "{request}: {error}");
    }
}

#[test]
fn a_request_that_is_not_understood_names_the_field() {
    assert_named([
        (json!("status"), "request"),
        (json!({}), "action"),
        (json!({ "action": 7 }), "action"),
        (json!({ "action": "purge" }), "action"),
        (json!({ "action": "status", "verbose": true }), "verbose"),
        (json!({ "action": "list", "limit": 0 }), "limit"),
        (json!({ "action": "list", "limit": 1001 }), "limit"),
        (json!({ "action": "list", "next": "page two" }), "next"),
        (json!({ "action": "list", "reason": "boredom" }), "reason"),
        (
            json!({ "action": "list", "statusCode": 70_000 }),
            "statusCode",
        ),
        (json!({ "action": "list", "since": "yesterday" }), "since"),
        (json!({ "action": "show" }), "eventId"),
        (
            json!({ "action": "show", "eventId": "no such id!" }),
            "eventId",
        ),
        (
            json!({ "action": "reconcile", "ifneeded": true }),
            "ifneeded",
        ),
        (
            json!({ "action": "archive", "olderThanDays": 14 }),
            "olderThanDays",
        ),
        (json!({ "action": "restore", "key": "" }), "key"),
        (json!({ "action": "restore" }), "key"),
        (json!({ "action": "discard", "eventIds": ["a"] }), "why"),
        (json!({ "action": "archive", "runId": "" }), "runId"),
        (
            json!({ "action": "archive", "runId": "two words" }),
            "runId",
        ),
        (json!({ "action": "archive", "runId": 7 }), "runId"),
        (json!({ "action": "archive", "begin": true }), "begin"),
        (json!({ "action": "list", "runId": "a" }), "runId"),
        (
            json!({ "action": "replay", "all": true, "dryRun": true, "runId": "a" }),
            "runId",
        ),
    ]);
}

#[test]
fn a_replay_that_is_not_understood_names_the_field() {
    assert_named([
        (json!({ "action": "replay" }), "all"),
        (json!({ "action": "replay", "all": false }), "all"),
        (
            json!({ "action": "replay", "all": true, "filter": { "source": "generic" } }),
            "filter",
        ),
        (
            json!({ "action": "replay", "all": true, "eventIds": ["a"] }),
            "eventIds",
        ),
        (json!({ "action": "replay", "eventIds": [] }), "eventIds"),
        (
            json!({ "action": "replay", "eventIds": ["a", "b c"] }),
            "eventIds[1]",
        ),
        (json!({ "action": "replay", "filter": {} }), "filter"),
        (
            json!({ "action": "replay", "filter": { "source": "fax" } }),
            "filter.source",
        ),
        (
            json!({ "action": "replay", "filter": { "sauce": "generic" } }),
            "filter.sauce",
        ),
        (
            json!({ "action": "replay", "filter": { "since": "yesterday" } }),
            "filter.since",
        ),
        (
            json!({ "action": "replay", "filter": { "statusCode": "404" } }),
            "filter.statusCode",
        ),
        (
            json!({ "action": "replay", "all": true, "ratePerSecond": 0 }),
            "ratePerSecond",
        ),
        (
            json!({ "action": "replay", "all": true, "ratePerSecond": 501 }),
            "ratePerSecond",
        ),
        (
            json!({ "action": "replay", "all": true, "maxMessages": 0 }),
            "maxMessages",
        ),
        (
            json!({ "action": "replay", "all": true, "maxMessages": -1 }),
            "maxMessages",
        ),
        (
            json!({ "action": "replay", "all": true, "dryRun": "yes" }),
            "dryRun",
        ),
        (
            json!({ "action": "replay", "all": true, "dryrun": true }),
            "dryrun",
        ),
        (
            json!({ "action": "replay", "all": true, "why": " " }),
            "why",
        ),
        (
            json!({ "action": "replay", "all": true, "by": "two\nlines" }),
            "by",
        ),
    ]);
}

#[test]
fn a_conversation_or_an_erasure_that_is_not_understood_names_the_field() {
    let long = "x".repeat(501);
    assert_named([
        (json!({ "action": "conversation" }), "id"),
        (json!({ "action": "conversation", "id": " " }), "id"),
        (json!({ "action": "conversation", "id": "${id}" }), "id"),
        (json!({ "action": "conversation", "id": 7 }), "id"),
        (
            json!({ "action": "conversation", "id": "a", "limit": 0 }),
            "limit",
        ),
        (
            json!({ "action": "conversation", "id": "a", "limit": 201 }),
            "limit",
        ),
        (
            json!({ "action": "conversation", "id": "a", "next": "b" }),
            "next",
        ),
        (
            json!({ "action": "conversation", "id": "a", "runId": "b" }),
            "runId",
        ),
        (
            json!({ "action": "list", "conversationId": "" }),
            "conversationId",
        ),
        (
            json!({ "action": "replay", "filter": { "conversationId": "" } }),
            "filter.conversationId",
        ),
        (json!({ "action": "discard", "why": "a test" }), "eventIds"),
        (
            json!({ "action": "discard", "filter": {}, "why": "a test" }),
            "filter",
        ),
        (
            json!({ "action": "discard", "filter": { "source": "generic" }, "eventIds": ["a"], "why": "a test" }),
            "filter",
        ),
        (
            json!({ "action": "erase", "why": "a test" }),
            "conversationId",
        ),
        (
            json!({ "action": "erase", "conversationId": "null", "why": "a test" }),
            "conversationId",
        ),
        (
            json!({ "action": "erase", "eventIds": [], "why": "a test" }),
            "eventIds",
        ),
        (
            json!({ "action": "erase", "conversationId": "a", "eventIds": ["b"], "why": "a test" }),
            "eventIds",
        ),
        (json!({ "action": "erase", "conversationId": "a" }), "why"),
        (
            json!({ "action": "erase", "conversationId": "a", "why": long }),
            "why",
        ),
    ]);
}

#[test]
fn each_look_takes_a_name_and_is_told_from_a_change() {
    for (request, is_look) in [
        (json!({ "action": "status" }), true),
        (json!({ "action": "status", "runId": "a" }), true),
        (json!({ "action": "list" }), true),
        (json!({ "action": "show", "eventId": "a" }), true),
        (json!({ "action": "conversation", "id": "a" }), true),
        (
            json!({ "action": "replay", "all": true, "dryRun": true }),
            true,
        ),
        (json!({ "action": "replay", "all": true }), false),
        (json!({ "action": "cancel" }), false),
        (json!({ "action": "reconcile" }), false),
        (json!({ "action": "archive" }), false),
        (json!({ "action": "archive", "runId": "a" }), false),
        (
            json!({ "action": "archive", "runId": "a", "begin": true }),
            false,
        ),
        (json!({ "action": "restore", "key": "a" }), false),
        (
            json!({ "action": "discard", "eventIds": ["a"], "why": "a test" }),
            false,
        ),
        (
            json!({ "action": "erase", "eventIds": ["a"], "why": "a test" }),
            false,
        ),
    ] {
        let mut named = request.clone();
        named["by"] = json!("a person");
        for request in [request, named] {
            let parsed = Request::parse(request.clone(), "a test").expect("understood");
            assert_eq!(parsed.is_look(), is_look, "{request}");
        }
    }
}

#[test]
fn a_long_id_of_a_conversation_is_cut_as_on_records() {
    let request = json!({ "action": "conversation", "id": "x".repeat(300) });
    let Ok(Request::Conversation(query)) = Request::parse(request, "a test") else {
        panic!("no conversation")
    };
    assert_eq!(query.id, "x".repeat(256));
}

#[test]
fn resend_that_lacks_a_bound_or_a_reason_is_refused() {
    let filter = json!({ "since": "2026-01-15T12:00:00Z" });
    let request = |change: Value| {
        let mut request =
            json!({ "action": "resend", "filter": filter, "why": "a test", "runId": "one" });
        for (name, value) in change.as_object().expect("an object") {
            match value {
                Value::Null => request.as_object_mut().expect("an object").remove(name),
                value => request
                    .as_object_mut()
                    .expect("an object")
                    .insert(name.clone(), value.clone()),
            };
        }
        request
    };
    assert!(matches!(
        Request::parse(request(json!({})), "a test"),
        Ok(Request::Start(_))
    ));
    for (change, field) in [
        (json!({ "runId": null }), "runId"),
        (json!({ "why": null }), "why"),
        (json!({ "why": " " }), "why"),
        (json!({ "filter": null }), "filter"),
        (json!({ "filter": {} }), "filter.since"),
        (json!({ "filter": { "webhookId": "w" } }), "filter.since"),
        (
            json!({ "filter": { "until": "2026-01-15T12:00:00Z", "source": "webhook" } }),
            "filter.since",
        ),
        (
            json!({ "filter": { "since": "2026-01-15T12:00:00Z", "until": "2026-01-15T12:00:00Z" } }),
            "filter.until",
        ),
        (
            json!({ "filter": { "conversationId": "${conversationId}" } }),
            "filter.conversationId",
        ),
        (
            json!({ "filter": { "since": "2026-01-15T12:00:00Z", "reason": "permanent" } }),
            "filter.reason",
        ),
        (json!({ "eventIds": ["a"] }), "eventIds"),
        (json!({ "filter": null, "eventIds": [] }), "eventIds"),
        (json!({ "maxMessages": 100_001 }), "maxMessages"),
        (json!({ "ratePerSecond": 0 }), "ratePerSecond"),
        (json!({ "force": true }), "force"),
        (json!({ "dryRun": true }), "runId"),
    ] {
        let error = invalid(request(change.clone()));
        assert_eq!(error.field, field, "{change}: {error}");
    }
    let dry_run = request(json!({ "dryRun": true, "runId": null, "why": null }));
    let looked = Request::parse(dry_run, "a test").expect("a request");
    assert!(looked.is_look());
}

#[test]
fn cancel_with_a_name_is_about_that_run() {
    let request = json!({ "action": "cancel", "runId": "one", "why": "a test" });
    let Ok(Request::CancelRun { run_id, requester }) = Request::parse(request, "a test") else {
        panic!("another request")
    };
    assert_eq!(
        (run_id.as_str(), requester.why.as_deref()),
        ("one", Some("a test"))
    );
    let request = json!({ "action": "cancel" });
    assert!(matches!(
        Request::parse(request, "a test"),
        Ok(Request::Cancel(_))
    ));
}
