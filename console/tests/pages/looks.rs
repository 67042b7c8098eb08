//! Content of the pages.

use genesys_relay::domain::attempts::{Attempts, minute_of};
use genesys_relay::domain::canary::{CanaryRun, CanaryRuns};

use super::*;

#[tokio::test]
async fn the_first_page_shows_the_flow_and_the_problems() -> Result<()> {
    let operator = Operator::with(0).await?;
    let page = operator.get("/").await?;
    page.says("No problems … No check has run yet … a test … Session ends at ");

    let relay = &operator.relay;
    relay.send_to_dead_letters((0..3).map(body)).await?;
    let mut attempts = Attempts::default();
    for number in 0..5 {
        let id = format!("event-{number}").parse().expect("an id");
        attempts.count(&id, 1, number == 0);
    }
    let last_minute = minute_of(FakeClock.now()) - SignedDuration::from_mins(1);
    let table = &relay.breaker.ports.table;
    table.count_attempts(last_minute, &attempts).await?;
    let page = operator.get("/").await?;
    page.says("Needs attention … 3 dead letters … docs/operate/runbooks/dead-letters.md");
    page.says("/dead-letters?reason=permanent&amp;statusCode=404\">3 × permanent (404)");
    page.says("failing since … 4 of 5 attempts failed … <p class=\"axis\"><span>");
    page.says("1<span class=\"unit\"> per minute … Oldest: ");
    page.says("<td class=\"number\">1</td><td class=\"number\">4</td>");
    Ok(())
}

#[tokio::test]
async fn runs_of_the_canary_are_a_strip() -> Result<()> {
    let operator = Operator::with(0).await?;
    let page = operator.get("/").await?;
    page.says("Canary, every 5 minutes … No run yet");
    let mut runs = CanaryRuns::default();
    for failed in [None, Some("event is delivered: <not in time>".to_owned())] {
        let (ok, at) = (failed.is_none(), FakeClock.now());
        runs.add(
            CanaryRun {
                at,
                ok,
                ms: 3120,
                failed,
            },
            at,
        );
    }
    operator
        .relay
        .breaker
        .ports
        .table
        .save_canary_runs(&runs)
        .await?;
    let page = operator.get("/").await?;
    page.says("Needs attention … The newest run of the canary failed: event is delivered … runbooks/canary.md");
    page.says("Newest run: failed … 3120 ms: event is delivered: &lt;not in time&gt;");
    page.says("<li class=\"ok\" … <li class=\"failed\"");
    Ok(())
}

#[tokio::test]
async fn the_breaker_is_set_with_a_reason() -> Result<()> {
    let operator = Operator::with(0).await?;
    let page = operator.post("/breaker", "action=open").await?;
    page.says("Enter a reason");
    let unknown = operator.post("/breaker", "action=shut&why=a+test").await?;
    unknown.says("names no action of the breaker");
    let open = "action=open&why=maintenance+until+four";
    let open = operator.post("/breaker", open).await?;
    assert_eq!(open.status, StatusCode::SEE_OTHER);
    let page = operator.get("/").await?;
    page.says("Events are held in the queue … maintenance until four … by an operator");
    page.says("set manually");
    let automatic = "action=automatic&why=done";
    operator.post("/breaker", automatic).await?;
    let page = operator.get("/").await?;
    page.says("Delivery resumes slowly");
    page.says_not("Needs attention");
    Ok(())
}

#[tokio::test]
async fn the_breaker_is_set_once_it_is_free() -> Result<()> {
    let operator = Operator::with(0).await?;
    let owner = operator.relay.lease(LeaseName::Breaker, "breaker").await?;
    let asked = operator.send("/breaker", "action=open&why=maintenance");
    let released = async {
        let twice = || async { Ok((operator.relay.requests_for("open").len() > 1).then_some(())) };
        wait::until("the breaker is asked again", twice).await?;
        let table = &operator.relay.breaker.ports.table;
        anyhow::Ok(table.release(LeaseName::Breaker, owner).await?)
    };
    let (answer, released) = tokio::join!(asked, released);
    released?;
    assert_eq!(answer?.status(), StatusCode::SEE_OTHER);
    let page = operator.get("/").await?;
    page.says("The breaker was manually set to open by an operator: maintenance");
    Ok(())
}

#[tokio::test]
async fn the_list_is_filtered_and_paged() -> Result<()> {
    let operator = Operator::with(150).await?;
    let first = operator.get("/dead-letters").await?;
    first.says("100 on this page … permanent (404) … the target answered 404 … orders");
    let mut links = first.text.split("href=\"");
    let next = links.find(|link| link.starts_with("/dead-letters?next="));
    let (next, _) = next
        .and_then(|link| link.split_once('"'))
        .context("a next page")?;
    let second = operator.get(next).await?;
    second.says("50 on this page … First page");
    second.says_not("Next page");

    let query = "statusCode=404&reason=permanent&webhookId=orders";
    let page = operator.get(&format!("/dead-letters?{query}")).await?;
    page.says("100 on this page");
    for none in [
        "statusCode=500",
        "reason=crashed",
        "webhookId=other",
        "until=2026-01-15T11%3A00",
    ] {
        let page = operator.get(&format!("/dead-letters?{none}")).await?;
        page.says("No dead letters match the filters … Clear filters");
    }
    let since = operator.get("/dead-letters?since=2026-01-15T11:00").await?;
    since.says("value=\"2026-01-15T11:00:00\"");
    let all = operator.get("/dead-letters?select=all").await?;
    assert_eq!(all.text.matches(" checked").count(), 100);

    let wrong = operator.get("/dead-letters?statusCode=4o4").await?;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    wrong.says("Invalid request … statusCode: ");
    Ok(())
}

#[tokio::test]
async fn an_event_page_shows_history_payload_and_headers() -> Result<()> {
    let operator = Operator::with(1).await?;
    let id = operator.ids().await?.remove(0);
    let page = operator.get(&format!("/events/{id}")).await?;
    page.says("DEAD … permanent … (status 404) … Received from webhook … Replay… … Discard…");
    page.says("<strong>reconcile</strong> by a test … Download the payload");
    page.says("  &quot;payload&quot;: {\n    &quot;number&quot;: 0 … {&quot;number&quot;:0}");

    let unknown = operator.get("/events/unknown-event").await?;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    unknown.says("the event unknown-event has no record");
    let wrong = operator.get("/events/no%20id").await?;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    wrong.says("an event id has 1 to 80 characters");
    Ok(())
}

#[tokio::test]
async fn errors_of_the_relay_are_shown_in_full() -> Result<()> {
    let mut relay = Relay::new();
    relay.breaker.is_on = false;
    let operator = Operator::of(relay).await?;
    let off = operator.post("/breaker", "action=open&why=a+test").await?;
    assert_eq!(off.status, StatusCode::CONFLICT);
    off.says("Off: the breaker is off: set the stack");

    operator.relay.breaker.ports.table.spoil_circuit();
    let unreadable = operator.get("/").await?;
    unreadable.says("The state of the breaker cannot be read: … Events may be held in the queue");

    operator.relay.breaker.ports.table.fail();
    let failed = operator.get("/dead-letters").await?;
    assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
    failed.says("DynamoDB did not answer or throttled the request: the table was made to fail");

    operator.relay.set_gone(true);
    let page = operator.get("/").await?;
    page.says("The relay did not answer … connection refused");
    Ok(())
}

/// For docs/design/figures.md: `cargo test -p console --test pages -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures load times"]
async fn pages_load_while_there_are_ten_thousand_dead_letters() -> Result<()> {
    const LOADS: usize = 50;
    let operator = Operator::with(10_000).await?;
    for path in ["/", "/dead-letters"] {
        let mut times = Vec::new();
        for _ in 0..LOADS {
            let began = std::time::Instant::now();
            let page = operator.get(path).await?;
            times.push(began.elapsed());
            ensure!(page.status == StatusCode::OK, "{}", page.text);
        }
        times.sort_unstable();
        let [fastest, median, slowest] =
            [0, LOADS / 2, LOADS - 1].map(|place| times[place].as_secs_f64() * 1000.0);
        eprintln!("{path}: median {median:.0} ms, {fastest:.0} to {slowest:.0} ms");
    }
    Ok(())
}
