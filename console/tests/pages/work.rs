//! Actions of an operator: select, dry run, start, watch, cancel.

use super::*;

/// The fields of a form that selects these events.
fn named(ids: &[String]) -> String {
    let fields = ids.iter().flat_map(|id| ["eventId=", id, "&"]);
    fields.collect()
}

#[tokio::test]
async fn selected_dead_letters_are_counted_and_then_replayed() -> Result<()> {
    let operator = Operator::with(5).await?;
    let ids = operator.ids().await?;
    let page = operator.post("/replay", "").await?;
    page.says("Nothing is selected");
    let fields = format!("{}eventId=unknown-event", named(&ids[..2]));
    let dry = operator.post("/replay", &fields).await?;
    dry.says("2 would be replayed … Nothing has been done yet … Failed: 1 … unknown-event");
    dry.says("Replay 2<");
    assert_eq!(operator.dead().await?, 5, "a dry run");

    let options = "action=replay&why=the+target+is+back&ratePerSecond=400";
    let run = operator.start(&format!("{fields}&{options}")).await?;
    let page = operator.finished(&run).await?;
    page.says("2 of 3 replayed, 1 failed … unknown-event … 3 dead letters are left")
        .says("back in the events queue. <a href=\"/\">Flow</a> shows whether your system accepts")
        .says_not("http-equiv=\"refresh\"")
        .says_not("data-live");
    let requests = operator.relay.requests_for("replay");
    let request = requests.last().context("a request")?;
    let given = [&request["by"], &request["why"], &request["ratePerSecond"]];
    let expected = json!(["an operator", "the target is back", 400]);
    assert_eq!(json!(given), expected);
    assert_eq!(operator.queued().await?, 2);
    let page = operator.get(&format!("/events/{}", ids[0])).await?;
    page.says("replay</strong> by an operator: the target is back");
    operator.get("/runs").await?.says("replay 1 … 2 replayed");
    Ok(())
}

#[tokio::test]
async fn all_that_match_are_replayed_step_by_step_and_once() -> Result<()> {
    let operator = Operator::with(250).await?;
    let fields = "which=matching&statusCode=404";
    let dry = operator.post("/replay", fields).await?;
    dry.says("250 would be replayed … The first 100");
    let run = operator.confirm(fields).await?;
    let page = operator.finished(&run).await?;
    page.says("250 of 250 replayed … 0 dead letters are left");
    let requests = operator.relay.requests_for("replay");
    let size = |step: &Value| Some(step["eventIds"].as_array()?.len());
    let steps: Vec<usize> = requests.iter().filter_map(size).collect();
    assert!(steps.len() > 10, "{steps:?}");
    assert_eq!(steps.iter().sum::<usize>(), 250);
    assert_eq!(operator.queued().await?, 250);
    Ok(())
}

#[tokio::test]
async fn a_run_shows_its_progress_and_is_cancelled_between_two_steps() -> Result<()> {
    let operator = Operator::with(40).await?;
    operator.relay.room.forget_permits(usize::MAX);
    operator.relay.room.add_permits(1);
    let run = operator.confirm("which=matching&statusCode=404").await?;
    let page = operator.until(&run, "10 of 40 replayed").await?;
    page.says("running … value=\"10\" … http-equiv=\"refresh\" … Cancel");
    let cancelled = operator.post(&format!("{run}/cancel"), "").await?;
    assert_eq!(cancelled.status, StatusCode::SEE_OTHER);
    operator.get(&run).await?.says("cancelling");
    operator.relay.room.add_permits(1);
    let page = operator.until(&run, "<strong>cancelled").await?;
    page.says("20 of 40 replayed … 20 dead letters are left");
    assert_eq!(operator.dead().await?, 20);
    Ok(())
}

#[tokio::test]
async fn an_sqs_redrive_is_watched_and_can_be_cancelled() -> Result<()> {
    let operator = Operator::with(20).await?;
    let page = operator.post("/replay", "which=all").await?;
    page.says("20 would be replayed");
    // One more dies before it is confirmed.
    let message = refused(body(20)).with_identity(FakeClock.now());
    let dead_letters = &operator.relay.replay.ports.dead_letters;
    dead_letters.send(&message).await?;
    let fields = "which=all&action=replay&ratePerSecond=5&counted=20";
    let run = operator.start(fields).await?;
    let page = operator.until(&run, "SQS redrive in progress").await?;
    page.says("The dry run counted 20; the run found 21");
    let page = operator.get("/").await?;
    page.says("SQS redrive in progress … Cancel redrive");
    operator.relay.set_gone(true);
    let page = operator.until(&run, "could not read its state").await?;
    page.says("running");
    operator.relay.set_gone(false);
    operator.post("/move-task/cancel", "").await?;
    operator.until(&run, "<strong>cancelled").await?;
    assert_eq!(operator.relay.requests_for("cancel").len(), 1);
    let left = operator.dead().await?;
    assert!(left > 0, "it was cancelled before its end");
    Ok(())
}

#[tokio::test]
async fn a_form_that_is_sent_twice_starts_one_run() -> Result<()> {
    let operator = Operator::with(2).await?;
    let ids = operator.ids().await?;
    let form = format!("action=replay&eventId={}&once=the-first", ids[0]);
    let run = operator.start(&form).await?;
    assert_eq!(operator.start(&form).await?, run);
    operator.finished(&run).await?;
    assert_eq!(operator.start(&form).await?, run);
    assert_eq!(operator.relay.requests_for("replay").len(), 1);
    let another = format!("action=replay&eventId={}", ids[1]);
    assert_ne!(operator.start(&another).await?, run);
    let page = operator.post("/replay", &named(&ids[1..])).await?;
    page.says("name=\"once\" value=\"");
    let incomplete = operator.post("/runs", "action=reconcile&once=").await?;
    incomplete.says("The form is incomplete");
    Ok(())
}

#[tokio::test]
async fn links_back_keep_the_filter_of_the_list() -> Result<()> {
    let operator = Operator::with(1).await?;
    let id = operator.ids().await?.remove(0);
    let filter = "reason=permanent&statusCode=404";
    let back = "href=\"/dead-letters?reason=permanent&amp;statusCode=404\"";
    let list = operator.get(&format!("/dead-letters?{filter}")).await?;
    list.says("action=\"/replay\" … type=\"hidden\" name=\"statusCode\" value=\"404\"");
    for path in ["/replay", "/discard"] {
        let fields = format!("{filter}&eventId={id}");
        let page = operator.post(path, &fields).await?;
        page.says(back);
    }
    let matching = format!("{filter}&which=matching");
    operator.post("/replay", &matching).await?.says(back);
    let run = operator.confirm(&matching).await?;
    let page = operator.finished(&run).await?;
    page.says("1 of 1 replayed").says(back);
    Ok(())
}

#[tokio::test]
async fn only_what_the_dry_run_named_is_replayed() -> Result<()> {
    let operator = Operator::with(3).await?;
    let ids = operator.ids().await?;
    let selection = "which=matching&statusCode=404";
    let mut named_ids = operator.post("/replay", selection).await?.values("eventId");
    named_ids.sort_by_key(|id| ids.iter().position(|listed| listed == id));
    assert_eq!(named_ids, ids);
    // One is dropped, and one more dies before that is confirmed.
    let discard = format!("action=discard&why=a+test+order&eventId={}", ids[0]);
    let gone = operator.start(&discard).await?;
    operator.finished(&gone).await?;
    operator.relay.send_to_dead_letters([body(3)]).await?;
    let fields = format!("{}action=replay", named(&ids));
    let run = operator.start(&fields).await?;
    let page = operator.finished(&run).await?;
    page.says("2 of 3 replayed, 1 failed … 3 were requested and 2 were replayed … discarded");
    let left = operator.dead().await?;
    assert_eq!(left, 1, "a later dead letter was not confirmed");
    let fields = format!("{selection}&action=replay");
    let unseen = operator.post("/runs", &fields).await?;
    unseen.says("Start with a dry run");
    Ok(())
}

#[tokio::test]
async fn a_run_of_one_invocation_cannot_be_cancelled() -> Result<()> {
    let operator = Operator::with(1).await?;
    operator.relay.room.forget_permits(usize::MAX);
    let run = operator.start("action=reconcile").await?;
    let page = operator.get(&run).await?;
    page.says("running").says_not("/cancel");
    operator.post(&format!("{run}/cancel"), "").await?;
    let page = operator.get(&run).await?;
    page.says("running").says_not("cancelling");
    operator.relay.room.add_permits(1);
    operator.finished(&run).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_waits_while_another_is_in_progress() -> Result<()> {
    let operator = Operator::with(1).await?;
    let id = operator.ids().await?.remove(0);
    let (relay, name) = (&operator.relay, LeaseName::DeadLetters);
    let owner = relay.lease(name, "archive").await?;
    let fields = format!("action=replay&eventId={id}");
    let run = operator.start(&fields).await?;
    let waiting = "Waiting: archive by the schedule has been running";
    operator.until(&run, waiting).await?;
    let page = operator.get("/").await?;
    page.says("Running on the dead letters: archive by the schedule");
    relay.breaker.ports.table.release(name, owner).await?;
    operator.until(&run, "1 of 1 replayed").await?;
    Ok(())
}

#[tokio::test]
async fn a_discard_needs_a_reason_and_records_it() -> Result<()> {
    let operator = Operator::with(3).await?;
    let ids = operator.ids().await?;
    let page = operator.post("/discard", &named(&ids[..1])).await?;
    page.says("1 would be deleted permanently … required");
    let fields = format!("{}action=discard", named(&ids[..1]));
    let page = operator.post("/runs", &fields).await?;
    page.says("Enter a reason for the discard");
    let all = "action=discard&which=all&why=all+of+them";
    let all = operator.post("/runs", all).await?;
    all.says("Nothing is selected");
    let fields = format!("{fields}&why=a+test+order");
    let run = operator.start(&fields).await?;
    operator.until(&run, "1 of 1 discarded").await?;
    let page = operator.get(&format!("/events/{}", ids[0])).await?;
    page.says("DISCARDED … discard</strong> by an operator: a test order");
    page.says_not("Replay…");
    assert_eq!(operator.ids().await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_archived_object_is_restored() -> Result<()> {
    let operator = Operator::with(3).await?;
    let ids = operator.ids().await?;
    let page = operator.get("/archive").await?;
    page.says("Archive now … Object key");
    let fields = "action=archive&olderThanDays=0&why=an+audit";
    let run = operator.start(fields).await?;
    let page = operator.until(&run, "3 archived").await?;
    let key = page.values("key").pop().context("a key")?;
    assert_eq!(operator.ids().await?, Vec::<String>::new());
    let page = operator.get(&format!("/events/{}", ids[0])).await?;
    page.says(&format!("ARCHIVED … Restore the archived object … {key}"));

    let run = operator.start(&format!("action=restore&key={key}")).await?;
    operator.until(&run, "3 restored").await?;
    assert_eq!(operator.ids().await?.len(), 3);
    let fields = "action=restore&key=dead-letters/nothing.jsonl.gz";
    let run = operator.start(fields).await?;
    let page = operator.until(&run, "stopped by an error").await?;
    page.says("class=\"problem\"");
    let run = operator.start("action=archive&olderThanDays=99").await?;
    let page = operator.until(&run, "stopped by an error").await?;
    page.says("olderThanDays: must be from 0 to 13");
    let run = operator.start("action=reconcile").await?;
    operator.finished(&run).await?;
    Ok(())
}
