//! Actions of an operator: select, dry run, start, watch, cancel.

use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
use genesys_relay::ports::queue::Countable as _;
use jiff::SignedDuration;

use super::*;

fn named(ids: &[String]) -> Vec<(&str, &str)> {
    ids.iter().map(|id| ("eventId", id.as_str())).collect()
}

#[tokio::test]
async fn selected_dead_letters_are_counted_and_then_replayed() -> Result<()> {
    let operator = Operator::with(5).await?;
    let ids = operator.ids().await?;
    operator
        .post("/replay", &[])
        .await?
        .says("Nothing is selected");
    let mut fields = named(&ids[..2]);
    fields.push(("eventId", "unknown-event"));
    let dry = operator.post("/replay", &fields).await?;
    dry.says("2 would be replayed")
        .says("Nothing has been done yet")
        .says("Failed: 1")
        .says("unknown-event")
        .says("Replay 2<");
    assert_eq!(
        operator
            .relay
            .replay
            .ports
            .dead_letters
            .depth()
            .await?
            .visible,
        5,
        "a dry run"
    );

    fields.extend([
        ("action", "replay"),
        ("why", "the target is back"),
        ("rate", "400"),
    ]);
    let run = operator.start(&fields).await?;
    let page = operator.until(&run, "<strong>finished").await?;
    page.says("2 of 3 replayed, 1 failed")
        .says("unknown-event")
        .says("3 dead letters are left")
        .says("back in the events queue. <a href=\"/\">Flow</a> shows whether your system accepts them")
        .says_not("http-equiv=\"refresh\"")
        .says_not("data-live");
    let request = operator
        .relay
        .requests_for("replay")
        .pop()
        .context("a request")?;
    assert_eq!(
        (&request["by"], &request["why"], &request["ratePerSecond"]),
        (
            &"an operator".into(),
            &"the target is back".into(),
            &400.into()
        )
    );
    assert_eq!(operator.relay.replay.ports.events.depth().await?.visible, 2);
    operator
        .get(&format!("/events/{}", ids[0]))
        .await?
        .says("replay</strong> by an operator: the target is back");
    operator
        .get("/runs")
        .await?
        .says("replay 1")
        .says("2 replayed");
    Ok(())
}

#[tokio::test]
async fn all_that_match_are_replayed_step_by_step_and_once() -> Result<()> {
    let operator = Operator::with(250).await?;
    let fields = [("which", "matching"), ("statusCode", "404")];
    operator
        .post("/replay", &fields)
        .await?
        .says("250 would be replayed")
        .says("The first 100");
    let run = operator.confirm(&fields, &[]).await?;
    operator
        .until(&run, "<strong>finished")
        .await?
        .says("250 of 250 replayed")
        .says("0 dead letters are left");
    let steps: Vec<usize> = operator
        .relay
        .requests_for("replay")
        .iter()
        .filter_map(|step| Some(step["eventIds"].as_array()?.len()))
        .collect();
    assert!(
        steps.len() > 10 && steps.iter().sum::<usize>() == 250,
        "{steps:?}"
    );
    assert_eq!(
        operator.relay.replay.ports.events.depth().await?.visible,
        250
    );
    Ok(())
}

#[tokio::test]
async fn a_run_shows_its_progress_and_is_cancelled_between_two_steps() -> Result<()> {
    let operator = Operator::with(40).await?;
    operator.relay.room.forget_permits(usize::MAX);
    operator.relay.room.add_permits(1);
    let run = operator
        .confirm(&[("which", "matching"), ("statusCode", "404")], &[])
        .await?;
    let page = operator.until(&run, "10 of 40 replayed").await?;
    page.says("running")
        .says("value=\"10\"")
        .says("http-equiv=\"refresh\"")
        .says("Cancel");
    let cancelled = operator.send(&format!("{run}/cancel"), &[]).await?;
    assert_eq!(cancelled.status(), StatusCode::SEE_OTHER);
    operator.get(&run).await?.says("cancelling");
    operator.relay.room.add_permits(1);
    operator
        .until(&run, "<strong>cancelled")
        .await?
        .says("20 of 40 replayed")
        .says("20 dead letters are left");
    assert_eq!(
        operator
            .relay
            .replay
            .ports
            .dead_letters
            .depth()
            .await?
            .visible,
        20
    );
    Ok(())
}

#[tokio::test]
async fn an_sqs_redrive_is_watched_and_can_be_cancelled() -> Result<()> {
    let operator = Operator::with(20).await?;
    operator
        .post("/replay", &[("which", "all")])
        .await?
        .says("20 would be replayed");
    // One more dies before it is confirmed.
    operator
        .relay
        .replay
        .ports
        .dead_letters
        .send(&refused(body(20)).with_identity(FakeClock.now()))
        .await?;
    let run = operator
        .start(&[
            ("which", "all"),
            ("action", "replay"),
            ("rate", "5"),
            ("counted", "20"),
        ])
        .await?;
    operator
        .until(&run, "SQS redrive in progress")
        .await?
        .says("The dry run counted 20; the run found 21");
    operator
        .get("/")
        .await?
        .says("SQS redrive in progress")
        .says("Cancel redrive");
    *operator.relay.is_gone.lock().expect("a flag") = true;
    operator
        .until(&run, "could not read its state")
        .await?
        .says("running");
    *operator.relay.is_gone.lock().expect("a flag") = false;
    operator.send("/move-task/cancel", &[]).await?;
    operator.until(&run, "<strong>cancelled").await?;
    assert_eq!(operator.relay.requests_for("cancel").len(), 1);
    let left = operator
        .relay
        .replay
        .ports
        .dead_letters
        .depth()
        .await?
        .visible;
    assert!(left > 0, "it was cancelled before its end");
    Ok(())
}

#[tokio::test]
async fn a_form_that_is_sent_twice_starts_one_run() -> Result<()> {
    let operator = Operator::with(2).await?;
    let ids = operator.ids().await?;
    let form = [
        ("action", "replay"),
        ("eventId", ids[0].as_str()),
        ("once", "the-first"),
    ];
    let run = operator.start(&form).await?;
    assert_eq!(operator.start(&form).await?, run);
    operator.until(&run, "<strong>finished").await?;
    assert_eq!(operator.start(&form).await?, run);
    assert_eq!(operator.relay.requests_for("replay").len(), 1);
    assert_ne!(
        operator
            .start(&[("action", "replay"), ("eventId", &ids[1])])
            .await?,
        run
    );
    let page = operator.post("/replay", &[("eventId", &ids[1])]).await?;
    page.says("name=\"once\" value=\"");
    operator
        .post("/runs", &[("action", "reconcile"), ("once", "")])
        .await?
        .says("The form is incomplete");
    Ok(())
}

#[tokio::test]
async fn links_back_keep_the_filter_of_the_list() -> Result<()> {
    let operator = Operator::with(1).await?;
    let id = operator.ids().await?.remove(0);
    let filter = [("reason", "permanent"), ("statusCode", "404")];
    let back = "href=\"/dead-letters?reason=permanent&amp;statusCode=404\"";
    let list = operator
        .get("/dead-letters?reason=permanent&statusCode=404")
        .await?;
    list.says("action=\"/replay\"")
        .says("type=\"hidden\" name=\"statusCode\" value=\"404\"");
    for path in ["/replay", "/discard"] {
        operator
            .post(path, &[filter[0], filter[1], ("eventId", &id)])
            .await?
            .says(back);
    }
    let dry = operator
        .post("/replay", &[filter[0], filter[1], ("which", "matching")])
        .await?;
    dry.says(back);
    let run = operator
        .confirm(&[filter[0], filter[1], ("which", "matching")], &[])
        .await?;
    operator
        .until(&run, "<strong>finished")
        .await?
        .says("1 of 1 replayed")
        .says(back);
    Ok(())
}

#[tokio::test]
async fn only_what_the_dry_run_named_is_replayed() -> Result<()> {
    let operator = Operator::with(3).await?;
    let ids = operator.ids().await?;
    let selection = [("which", "matching"), ("statusCode", "404")];
    let dry = operator.post("/replay", &selection).await?;
    assert_eq!(
        ids.iter()
            .filter(|id| dry.text.contains(&format!("value=\"{id}\"")))
            .count(),
        3
    );
    // One is dropped, and one more dies before that is confirmed.
    let mut fields = named(&ids);
    fields.push(("action", "replay"));
    let gone = operator
        .start(&[
            ("action", "discard"),
            ("eventId", &ids[0]),
            ("why", "a test order"),
        ])
        .await?;
    operator.until(&gone, "<strong>finished").await?;
    operator.relay.send_to_dead_letters([body(3)]).await?;
    let run = operator.start(&fields).await?;
    let page = operator.until(&run, "<strong>finished").await?;
    page.says("2 of 3 replayed, 1 failed")
        .says("3 were requested and 2 were replayed")
        .says("discarded");
    let left = operator
        .relay
        .replay
        .ports
        .dead_letters
        .depth()
        .await?
        .visible;
    assert_eq!(left, 1, "a later dead letter was not confirmed");
    let unseen = operator
        .post("/runs", &[selection[0], selection[1], ("action", "replay")])
        .await?;
    unseen.says("Start with a dry run");
    Ok(())
}

#[tokio::test]
async fn a_run_of_one_invocation_cannot_be_cancelled() -> Result<()> {
    let operator = Operator::with(1).await?;
    operator.relay.room.forget_permits(usize::MAX);
    let run = operator.start(&[("action", "reconcile")]).await?;
    operator
        .get(&run)
        .await?
        .says("running")
        .says_not("/cancel");
    operator.send(&format!("{run}/cancel"), &[]).await?;
    operator
        .get(&run)
        .await?
        .says("running")
        .says_not("cancelling");
    operator.relay.room.add_permits(1);
    operator.until(&run, "<strong>finished").await?;
    Ok(())
}

#[tokio::test]
async fn a_run_waits_while_another_is_in_progress() -> Result<()> {
    let operator = Operator::with(1).await?;
    let now = FakeClock.now();
    let owner = "11111111-2222-4333-8444-555555555555".parse()?;
    let (action, by) = ("archive".to_owned(), "the schedule".to_owned());
    let lease = RunLease {
        owner,
        action,
        by,
        since: now,
        until: now + SignedDuration::from_mins(15),
    };
    operator
        .relay
        .replay
        .ports
        .table
        .acquire(LeaseName::DeadLetters, &lease, now)
        .await?;
    let id = operator.ids().await?.remove(0);
    let run = operator
        .start(&[("action", "replay"), ("eventId", &id)])
        .await?;
    operator
        .until(&run, "Waiting: archive by the schedule has been running")
        .await?;
    operator
        .get("/")
        .await?
        .says("Running on the dead letters: archive by the schedule");
    operator
        .relay
        .replay
        .ports
        .table
        .release(LeaseName::DeadLetters, owner)
        .await?;
    operator.until(&run, "1 of 1 replayed").await?;
    Ok(())
}

#[tokio::test]
async fn a_discard_needs_a_reason_and_records_it() -> Result<()> {
    let operator = Operator::with(3).await?;
    let ids = operator.ids().await?;
    operator
        .post("/discard", &named(&ids[..1]))
        .await?
        .says("1 would be deleted permanently")
        .says("required");
    let mut fields = named(&ids[..1]);
    fields.push(("action", "discard"));
    operator
        .post("/runs", &fields)
        .await?
        .says("Enter a reason for the discard");
    operator
        .post(
            "/runs",
            &[
                ("action", "discard"),
                ("which", "all"),
                ("why", "all of them"),
            ],
        )
        .await?
        .says("Nothing is selected");
    fields.push(("why", "a test order"));
    let run = operator.start(&fields).await?;
    operator.until(&run, "1 of 1 discarded").await?;
    let page = operator.get(&format!("/events/{}", ids[0])).await?;
    page.says("DISCARDED")
        .says("discard</strong> by an operator: a test order")
        .says_not("Replay…");
    assert_eq!(operator.ids().await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_archived_object_is_restored() -> Result<()> {
    let operator = Operator::with(3).await?;
    let ids = operator.ids().await?;
    operator
        .get("/archive")
        .await?
        .says("Archive now")
        .says("Object key");
    let run = operator
        .start(&[
            ("action", "archive"),
            ("olderThanDays", "0"),
            ("why", "an audit"),
        ])
        .await?;
    let page = operator.until(&run, "3 archived").await?;
    let key = page
        .text
        .split("name=\"key\" value=\"")
        .nth(1)
        .and_then(|part| part.split('"').next())
        .context("a key")?;
    assert_eq!(operator.ids().await?, Vec::<String>::new());
    operator
        .get(&format!("/events/{}", ids[0]))
        .await?
        .says("ARCHIVED")
        .says(key)
        .says("Restore the archived object");

    let run = operator
        .start(&[("action", "restore"), ("key", key)])
        .await?;
    operator.until(&run, "3 restored").await?;
    assert_eq!(operator.ids().await?.len(), 3);
    let run = operator
        .start(&[
            ("action", "restore"),
            ("key", "dead-letters/nothing.jsonl.gz"),
        ])
        .await?;
    operator
        .until(&run, "stopped by an error")
        .await?
        .says("class=\"problem\"");
    let run = operator
        .start(&[("action", "archive"), ("olderThanDays", "99")])
        .await?;
    operator
        .until(&run, "stopped by an error")
        .await?
        .says("olderThanDays: must be from 0 to 13");
    let run = operator.start(&[("action", "reconcile")]).await?;
    operator.until(&run, "<strong>finished").await?;
    Ok(())
}
