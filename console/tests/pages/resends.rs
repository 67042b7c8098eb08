//! Delivered events that are sent again: dry run, run, progress, cancel, go on.

use genesys_relay::ports::archive::Archive as _;
use genesys_relay::testing::FakeTable;

use super::*;

impl Operator {
    /// An operator of a relay that has delivered an event of each of these conversations.
    async fn with_journal(conversations: &[&str]) -> Result<Self> {
        let relay = Relay::new();
        relay.accept(conversations, 200).await?;
        settle().await?;
        relay.journal().await?;
        Self::of(relay).await
    }

    fn table(&self) -> &FakeTable {
        &self.relay.replay.ports.table
    }

    /// Delivers what is in the events queue. Returns the names of the runs that sent it.
    async fn deliver(&self) -> Result<Vec<Option<String>>> {
        let before: Vec<usize> = self.resent().iter().map(Vec::len).collect();
        let events = self.relay.replay.ports.events.clone();
        while self.queued().await? > 0 {
            self.relay.attempt(&events, None, 200).await?;
        }
        let after = self.resent().into_iter().zip(before);
        Ok(after
            .map(|(runs, before)| runs.get(before).cloned())
            .collect())
    }

    /// The runs that have delivered each event once more.
    fn resent(&self) -> Vec<Vec<String>> {
        let records = self.table().records();
        records.into_iter().map(|record| record.resent).collect()
    }
}

/// Waits until a run includes what was delivered: it leaves the last second to the next.
async fn settle() -> Result<()> {
    let delivered_at = FakeClock.now();
    let is_past = || async {
        let since = FakeClock.now().duration_since(delivered_at);
        Ok((since > SignedDuration::from_secs(1)).then_some(()))
    };
    wait::until("the last delivery is a second ago", is_past).await
}

/// The name of the run that a dry run offers.
fn run_name(page: &Page) -> Result<String> {
    page.values("once").pop().context("a name")
}

#[tokio::test]
async fn events_of_a_time_line_are_counted_and_sent_again() -> Result<()> {
    let operator = Operator::with_journal(&["chat-7", "chat-7", "chat-8"]).await?;
    let page = operator.get("/find?id=chat-7").await?;
    let ids = page.values("eventId");
    assert_eq!(ids.len(), 2);
    let fields = format!("eventId={}&eventId=unknown-event", ids[0]);
    let dry = operator.post("/resend", &fields).await?;
    dry.says("1 would be sent again</strong>. Nothing has been done yet … By the hour of delivery … 2026-01-15 12:00");
    dry.says("X-Relay-Resend: … Failed: 1 … the journal does not hold it … required");
    assert_eq!(operator.queued().await?, 0, "a dry run");

    let name = run_name(&dry)?;
    let fields = format!("{fields}&action=resend&counted=1&once={name}");
    let without_reason = operator.post("/runs", &fields).await?;
    without_reason.says("Enter a reason");
    let given = format!("{fields}&why=our+CRM+lost+it&ratePerSecond=400");
    let run = operator.start(&given).await?;
    let page = operator.finished(&run).await?;
    page.says(&format!(
        "1 of 1 sent again … Name of the run: <code>{name}</code>"
    ));
    page.says("They are in the queue. … shows whether your system accepts");
    let requests = operator.relay.requests_for("resend");
    let request = requests.last().context("a request")?;
    let given = ["by", "why", "ratePerSecond", "runId"].map(|field| &request[field]);
    let expected = json!(["an operator", "our CRM lost it", 400, name]);
    assert_eq!(json!(given), expected);

    let sent = operator.deliver().await?;
    assert_eq!(sent.iter().flatten().collect::<Vec<_>>(), [&name]);
    let event = operator.get(&format!("/events/{}", ids[0])).await?;
    event.says("DELIVERED … resend</strong> by an operator: our CRM lost it … Attempt 2</strong>: delivered");
    event.says(&format!("Sent again by the runs</dt><dd>{name}"));
    operator.get("/runs").await?.says("resend 1 … 1 sent again");
    Ok(())
}

#[tokio::test]
async fn a_range_of_time_is_sent_again() -> Result<()> {
    let operator = Operator::with_journal(&["chat-7"; 15]).await?;
    operator.relay.accept(&["chat-7"], 200).await?;
    settle().await?;
    let form = operator
        .get("/resend?since=2026-01-15T11:00&webhookId=chat")
        .await?;
    form.says("value=\"2026-01-15T11:00:00\" … value=\"chat\" … Delivered before (UTC)");
    let none = operator.post("/resend", "webhookId=chat").await?;
    none.says("The relay rejected the request … filter.since");
    let other = "since=2026-01-15T11:00&webhookId=other";
    operator
        .post("/resend", other)
        .await?
        .says("0 would be sent again");
    let fields = "since=2026-01-15T11:00&webhookId=chat&source=webhook";
    let dry = operator.post("/resend", fields).await?;
    dry.says("15 would be sent again … <td class=\"number\">15</td> … 1 delivered events are not in the journal yet");
    let (until, name) = (dry.values("until").remove(0), run_name(&dry)?);
    dry.says(&format!(
        "href=\"/resend?source=webhook&amp;webhookId=chat&amp;since=2026-01-15T11%3A00%3A00Z&amp;until={}",
        encoded(&until)
    ));

    let fields = format!("{fields}&until={until}&action=resend&why=lost&counted=15&once={name}");
    let run = operator.start(&fields).await?;
    let page = operator.finished(&run).await?;
    page.says("16 of 16 sent again … The dry run counted 15; the run found 16");
    assert_eq!(operator.deliver().await?, vec![Some(name.clone()); 16]);
    let again = operator.start(&fields).await?;
    assert_eq!(again, run, "the same form is the same run");
    assert_eq!(operator.queued().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_partial_count_offers_no_run() -> Result<()> {
    let operator = Operator::with_journal(&["chat-7"]).await?;
    let archive = &operator.relay.replay.ports.archive;
    let key = "journal/2026/01/15/12/broken.jsonl.gz";
    archive.put(key, b"no gzip".to_vec()).await?;
    let dry = operator.post("/resend", "since=2026-01-15T11:00").await?;
    dry.says("1 would be sent again … a lower bound … Failed: 1 … broken.jsonl.gz");
    dry.says_not("value=\"resend\"");
    Ok(())
}

#[tokio::test]
async fn a_resend_is_cancelled_in_the_relay() -> Result<()> {
    let operator = Operator::with_journal(&["chat-7"; 40]).await?;
    let fields = "conversationId=chat-7&action=resend&why=lost&counted=40&ratePerSecond=2";
    let run = operator.start(fields).await?;
    let has_begun = || async { Ok((operator.queued().await? > 0).then_some(())) };
    wait::until("the first are sent", has_begun).await?;
    operator.get(&run).await?.says("running … Cancel");
    operator.post(&format!("{run}/cancel"), "").await?;
    let page = operator.until(&run, "<strong>cancelled").await?;
    page.says_not("Go on");
    assert_eq!(operator.relay.requests_for("cancel").len(), 1);
    let queued = operator.queued().await?;
    assert!(queued < 40, "{queued} were sent");
    page.says(&format!("{queued} of 40 sent again"));
    Ok(())
}

#[tokio::test]
async fn a_resend_that_stopped_goes_on_under_its_name() -> Result<()> {
    let operator = Operator::with_journal(&["chat-7"; 12]).await?;
    operator.relay.replay.ports.archive.fail_times(1);
    let fields = "conversationId=chat-7&action=resend&why=lost&counted=12&once=the-run";
    let run = operator.start(fields).await?;
    let page = operator.until(&run, "stopped by an error").await?;
    page.says("Go on … Name of the run: <code>the-run</code>");
    operator.post(&format!("{run}/go-on"), "").await?;
    operator.until(&run, "12 of 12 sent again").await?;
    let page = operator.finished(&run).await?;
    page.says_not("Go on");
    let asked = operator.relay.requests_for("resend");
    let shown = asked[0].to_string().replace('"', "&quot;");
    page.says(&format!("to go on from a shell … {shown}"));
    let name = Some("the-run".to_owned());
    assert_eq!(operator.deliver().await?, vec![name; 12]);
    let names = operator.relay.requests_for("resend");
    assert!(names.iter().all(|request| request["runId"] == "the-run"));
    operator.post(&format!("{run}/go-on"), "").await?;
    assert_eq!(operator.relay.requests_for("resend").len(), names.len());
    Ok(())
}
