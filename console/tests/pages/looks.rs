//! Content of the pages.

use genesys_relay::domain::attempts::{Attempts, minute_of};
use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
use jiff::SignedDuration;

use super::*;

#[tokio::test]
async fn the_first_page_shows_the_flow_and_the_problems() -> Result<()> {
    let operator = Operator::with(0).await?;
    operator
        .get("/")
        .await?
        .says("No problems")
        .says("No check has run yet")
        .says("a test");

    operator
        .relay
        .send_to_dead_letters((0..3).map(body))
        .await?;
    let mut attempts = Attempts::default();
    for number in 0..5 {
        attempts.count(
            &format!("event-{number}").parse().expect("an id"),
            1,
            number == 0,
        );
    }
    let last_minute = minute_of(FakeClock.now()) - SignedDuration::from_mins(1);
    operator
        .relay
        .replay
        .ports
        .table
        .count_attempts(last_minute, &attempts)
        .await?;
    let page = operator.get("/").await?;
    page.says("Needs attention")
        .says("3 dead letters")
        .says("/dead-letters?reason=permanent&amp;statusCode=404\">3 × permanent (404)")
        .says("docs/operate/runbooks/dead-letters.md")
        .says("failing since ")
        .says("<p class=\"axis\"><span>")
        .says("4 of 5 attempts failed")
        .says("1<span class=\"unit\"> per minute");
    page.says("<td>1</td><td>4</td>").says("Oldest: ");
    Ok(())
}

#[tokio::test]
async fn the_breaker_is_set_with_a_reason() -> Result<()> {
    let operator = Operator::with(0).await?;
    operator
        .post("/breaker", &[("action", "open")])
        .await?
        .says("Enter a reason");
    operator
        .post("/breaker", &[("action", "shut"), ("why", "a test")])
        .await?
        .says("names no action of the breaker");
    let answer = operator
        .send(
            "/breaker",
            &[("action", "open"), ("why", "maintenance until four")],
        )
        .await?;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let page = operator.get("/").await?;
    page.says("Events are held in the queue")
        .says("maintenance until four")
        .says("by an operator")
        .says("set manually");
    operator
        .send("/breaker", &[("action", "automatic"), ("why", "done")])
        .await?;
    operator
        .get("/")
        .await?
        .says("Delivery resumes slowly")
        .says_not("Needs attention");
    Ok(())
}

#[tokio::test]
async fn the_breaker_is_set_once_it_is_free() -> Result<()> {
    let operator = Operator::with(0).await?;
    let (now, owner) = (FakeClock.now(), Uuid::new_v4());
    let (action, by) = ("breaker".to_owned(), "the schedule".to_owned());
    let lease = RunLease {
        owner,
        action,
        by,
        since: now,
        until: now + SignedDuration::from_mins(15),
    };
    operator
        .relay
        .breaker
        .ports
        .table
        .acquire(LeaseName::Breaker, &lease, now)
        .await?;
    let asked = operator.send("/breaker", &[("action", "open"), ("why", "maintenance")]);
    let released = async {
        let twice = || async { Ok((operator.relay.requests_for("open").len() > 1).then_some(())) };
        wait::until("the breaker is asked again", twice).await?;
        anyhow::Ok(
            operator
                .relay
                .breaker
                .ports
                .table
                .release(LeaseName::Breaker, owner)
                .await?,
        )
    };
    let (answer, released) = tokio::join!(asked, released);
    released?;
    assert_eq!(answer?.status(), StatusCode::SEE_OTHER);
    operator
        .get("/")
        .await?
        .says("The breaker was manually set to open by an operator: maintenance");
    Ok(())
}

#[tokio::test]
async fn the_list_is_filtered_and_paged() -> Result<()> {
    let operator = Operator::with(150).await?;
    let first = operator.get("/dead-letters").await?;
    first
        .says("100 on this page")
        .says("permanent (404)")
        .says("the target answered 404")
        .says("orders");
    let next = first
        .text
        .split("href=\"")
        .find(|part| part.starts_with("/dead-letters?next="))
        .context("a next page")?;
    let second = operator
        .get(next.split('"').next().unwrap_or_default())
        .await?;
    second
        .says("50 on this page")
        .says("First page")
        .says_not("Next page");

    operator
        .get("/dead-letters?statusCode=404&reason=permanent&webhookId=orders")
        .await?
        .says("100 on this page");
    for none in [
        "statusCode=500",
        "reason=crashed",
        "webhookId=other",
        "until=2026-01-15T11%3A00",
    ] {
        let page = operator.get(&format!("/dead-letters?{none}")).await?;
        page.says("No dead letters match the filters")
            .says("Clear filters");
    }
    operator
        .get("/dead-letters?since=2026-01-15T11:00")
        .await?
        .says("value=\"2026-01-15T11:00:00\"");
    let all = operator.get("/dead-letters?select=all").await?;
    assert_eq!(all.text.matches(" checked").count(), 100);

    let wrong = operator.get("/dead-letters?statusCode=4o4").await?;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    wrong.says("InvalidRequest").says("statusCode");
    Ok(())
}

#[tokio::test]
async fn an_event_page_shows_history_payload_and_headers() -> Result<()> {
    let operator = Operator::with(1).await?;
    let id = operator.ids().await?.remove(0);
    let found = operator
        .request(Method::GET, &format!("/events?id={id}"))
        .send()
        .await?;
    assert_eq!(found.headers()[LOCATION].to_str()?, format!("/events/{id}"));
    let page = operator.get(&format!("/events/{id}")).await?;
    page.says("DEAD")
        .says("permanent")
        .says("(status 404)")
        .says("Received from webhook")
        .says("<strong>reconcile</strong> by a test");
    page.says("  &quot;payload&quot;: {\n    &quot;number&quot;: 0")
        .says("{&quot;number&quot;:0}")
        .says("Download the payload");
    page.says("Replay…").says("Discard…");

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
    let off = operator
        .post("/breaker", &[("action", "open"), ("why", "a test")])
        .await?;
    assert_eq!(off.status, StatusCode::CONFLICT);
    off.says("Off: the breaker is off: set the stack");

    operator.relay.replay.ports.table.fail();
    let failed = operator.get("/dead-letters").await?;
    assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
    failed.says("DynamoDB did not answer or throttled the request: the table was made to fail");

    *operator.relay.is_gone.lock().expect("a flag") = true;
    operator
        .get("/")
        .await?
        .says("The relay did not answer")
        .says("connection refused");
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
