//! An outage, a conversation that waits, and one that is sent again, in a real browser: the console
//! before a relay on the local AWS whose target fails.
//!
//! Without a browser the test is skipped; with the variable `CI` or `GENESYS_RELAY_BROWSER` it
//! fails. `cargo xtask pictures` takes the pictures of `docs/operate/console`.

mod webdriver;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use console::aws;
use console::server::Server;
use local::clients::Keys;

use local::genesys::Webhook;
use local::stack::{Function, Stack, StackOptions};
use local::target::{Answer, Behaviour, Target};
use local::{env_file, wait};
use serde_json::json;
use tokio::time::sleep;

use self::webdriver::{Browser, ENTER, SPACE};

/// Events that the target refuses; half of them are replayed.
const REFUSED: u32 = 10;

/// The target's answer: the cause that the operator has to find.
const CAUSE: &str = r#"{"error":"unknown queue 'orders-new': create it first"}"#;

#[tokio::test]
async fn an_operator_finds_the_cause_and_replays_half() -> Result<()> {
    Box::pin(with_browser(work)).await
}

#[tokio::test]
async fn an_operator_sees_what_a_conversation_waits_for() -> Result<()> {
    with_browser(wait_for_one).await
}

#[tokio::test]
async fn an_operator_sends_a_conversation_again() -> Result<()> {
    Box::pin(with_browser(send_again)).await
}

async fn with_browser(work: impl AsyncFnOnce(&Browser) -> Result<()>) -> Result<()> {
    if !Browser::is_there().await {
        let hint = "no browser: on Debian, apt-get install chromium chromium-driver";
        let mut variables = ["CI", "GENESYS_RELAY_BROWSER"].iter();
        ensure!(variables.all(|name| env::var_os(name).is_none()), hint);
        eprintln!("SKIPPED: {hint}");
        return Ok(());
    }
    let browser = Browser::start().await?;
    // The browser is closed also after a failure.
    let outcome = work(&browser).await;
    browser.close().await?;
    outcome
}

/// The target fails at one conversation of a stack that keeps the order.
async fn wait_for_one(browser: &Browser) -> Result<()> {
    let target = Target::start(Behaviour::script(|request| {
        let fails = String::from_utf8_lossy(&request.body).contains("conversation-7");
        Answer::status(if fails { 503 } else { 200 })
    }))
    .await?;
    let options = StackOptions::new(target.url())
        .set("Breaker", "off")
        .set("Order", "conversation")
        .set("OrderPatienceSeconds", "900");
    let stack = Stack::start(options).await?;
    let relay = Relay { stack, target };
    let (console, link) = relay.open_console().await?;
    browser.open(&link).await?;
    let none = "No conversation waits";
    browser.until("#waiting", none).await?;

    let behind = relay.accept(7).await?;
    let other = relay.accept(8).await?;
    relay.until_taken(&BTreeSet::from([other])).await?;
    browser.until("#waiting tbody", "conversation-7").await?;
    picture(browser, "waiting").await?;
    browser.click("#waiting tbody a").await?;
    let title = format!("Event {behind}");
    browser.until("h1", &title).await?;
    browser.until("main", "have been waiting for it").await?;

    relay.target.behave(Behaviour::Fine);
    browser.open(&console).await?;
    browser.until("#waiting", none).await?;
    Ok(())
}

/// The target has lost an event that it had accepted. One operator may look only, another sends it
/// again.
async fn send_again(browser: &Browser) -> Result<()> {
    let target = Target::start(Behaviour::script(|request| {
        let body = String::from_utf8_lossy(&request.body);
        let is_first = request.nth == 1;
        Answer::status(match () {
            () if body.contains("1.50") && is_first => 503,
            () if body.contains("3.50") => 422,
            () => 200,
        })
    }))
    .await?;
    let options = StackOptions::new(target.url())
        .set("Breaker", "off")
        .set("JournalDays", "7");
    let stack = Stack::start(options).await?;
    let relay = Relay { stack, target };
    let mut accepted = Vec::new();
    for (conversation, amount) in [(7, "1.50"), (7, "2.50"), (7, "3.50"), (8, "4.50")] {
        accepted.push(relay.accept_in(conversation, amount).await?);
    }
    let dead = accepted.remove(2);
    relay
        .until_taken(&accepted.iter().cloned().collect())
        .await?;
    let journal = json!({ "action": "journal", "by": "schedule" });
    let filter = json!({ "conversationId": "conversation-7" });
    let count = json!({ "action": "resend", "filter": filter, "dryRun": true });
    wait::until("the journal has two events", || async {
        // While the schedule does the same, this is refused.
        drop(relay.stack.invoke(Function::Replay, &journal).await?);
        let counted = relay.stack.invoke(Function::Look, &count).await?;
        Ok(counted
            .is_ok_and(|answer| answer["matched"] == 2)
            .then_some(()))
    })
    .await?;

    let reader = relay.stack.user("reader", &["LookPolicyArn"]).await?;
    let (_, link) = relay.open_console_as(&reader).await?;
    browser.open(&link).await?;
    find(browser, "conversation-7").await?;
    let events = browser.text("tbody").await?;
    for what in ["status 503", "status 200", "status 422", "now DEAD", &dead] {
        ensure!(events.contains(what), "{what:?} is not in {events}");
    }
    browser
        .click("input[name=conversationId] ~ p button")
        .await?;
    let counted = "2 would be sent again";
    browser.until(".result", counted).await?;
    browser.until("fieldset:disabled", "Send 2 again").await?;
    let reason = "IAM does not let you invoke the function";
    browser.until("main", reason).await?;

    let (console, link) = relay.open_console().await?;
    browser.open(&link).await?;
    find(browser, "conversation-7").await?;
    browser.click("tbody input").await?;
    picture(browser, "conversation").await?;
    browser.click("form[action='/resend'] button").await?;
    browser.until(".result", "1 would be sent again").await?;
    let why = "our CRM has lost it";
    browser.write("input[name=why]", why).await?;
    picture(browser, "send-again").await?;
    browser.click("button[value=resend]").await?;
    until_finished(browser, "1 of 1 sent again.").await?;
    let name = browser.text("#progress code").await?;
    let resent = || {
        let mut requests = relay.target.requests();
        requests.retain(|request| request.headers.contains_key("x-relay-resend"));
        requests
    };
    wait::until("the target has it again", || async {
        Ok((!resent().is_empty()).then_some(()))
    })
    .await?;
    let [request] = &resent()[..] else {
        anyhow::bail!("one request is marked");
    };
    ensure!(request.headers["x-relay-resend"] == *name, "{request:?}");
    ensure!(request.event_id == accepted[0], "{request:?}");
    let page = format!("{console}/events/{}", accepted[0]);
    browser.open(&page).await?;
    let life = browser.text(".timeline").await?;
    for what in ["Attempt 1: failed, status 503", why, "Attempt 3: delivered"] {
        ensure!(life.contains(what), "{what:?} is not in {life}");
    }
    Ok(())
}

/// Enters an id into the field on top, and waits for the page of the conversation.
async fn find(browser: &Browser, conversation: &str) -> Result<()> {
    browser.write("#find", conversation).await?;
    browser.press([ENTER]).await?;
    let title = format!("Conversation {conversation}");
    browser.until("h1", &title).await?;
    Ok(())
}

async fn work(browser: &Browser) -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url()).set("Breaker", "off")).await?;
    let relay = Relay { stack, target };
    let (console, link) = relay.open_console().await?;

    let dead = a_target_starts_to_fail(browser, &relay, &link).await?;
    the_cause_is_found(browser).await?;
    relay.target.behave(Behaviour::Fine);
    let left = half_of_them_are_replayed(browser, &relay, &console, &dead).await?;
    one_is_discarded_with_the_keyboard(browser, &relay, &console).await?;
    the_rest_is_replayed_without_scripts(browser, &relay, &console, &left).await
}

struct Relay {
    stack: Stack,
    target: Target,
}

impl Relay {
    /// Starts the console as `cargo console` does, and returns its address and a link.
    async fn open_console(&self) -> Result<(String, String)> {
        self.open_console_as(self.stack.keys()).await
    }

    /// Starts the console for the owner of these keys.
    async fn open_console_as(&self, keys: &Keys) -> Result<(String, String)> {
        let file = format!("genesys-relay-console-{}", std::process::id());
        let variables = env::temp_dir().join(file);
        env_file::write(&variables, &self.stack).await?;
        let own = self.stack.keys();
        let text = fs::read_to_string(&variables)?
            .replace(&own.id, &keys.id)
            .replace(&own.secret, &keys.secret);
        fs::write(&variables, text)?;
        let place = aws::Place::local(&variables).await?;
        let functions = aws::Stack::find(&place).await;
        fs::remove_file(&variables)?;
        let functions = functions?;
        let place = format!("the local AWS: {}", functions.place());
        let server = Server::bind(0).await?;
        let (url, link) = (format!("http://{}", server.address()), (server.links())());
        tokio::spawn(server.serve(
            Arc::new(functions),
            place,
            "new operator (console)".to_owned(),
        ));
        Ok((url, link))
    }

    async fn accept(&self, number: u32) -> Result<String> {
        self.accept_in(number, "12.50").await
    }

    async fn accept_in(&self, conversation: u32, amount: &str) -> Result<String> {
        let body = format!(
            r#"{{"webhookId":"orders","webhookName":"Orders","timestamp":"2026-01-15T12:00:00Z","payload":{{"conversationId":"conversation-{conversation}","queue":"orders-new","amount":{amount}}}}}"#
        );
        let webhook = Webhook::with_shared_secret(body);
        let (status, answer) = webhook.send(&self.stack.webhook_url()?).await?;
        ensure!(status == 200, "not accepted: {status} {answer}");
        Ok(answer["eventId"].as_str().context("an eventId")?.to_owned())
    }

    async fn until_dead(&self, count: u32) -> Result<()> {
        let what = format!("{count} dead letters are left");
        let are_left = self.stack.until_queues(&what, |counts| {
            counts.events.total() == 0
                && counts.dead_letters.visible == count
                && counts.dead_letters.total() == count
        });
        are_left.await.map(drop)
    }

    /// Waits until the target has taken exactly these.
    async fn until_taken(&self, ids: &BTreeSet<String>) -> Result<()> {
        let what = format!("{} events are delivered", ids.len());
        wait::until(&what, || async { Ok((self.taken() == *ids).then_some(())) }).await
    }

    fn taken(&self) -> BTreeSet<String> {
        let mut requests = self.target.requests();
        requests.retain(|request| {
            let answer = request.answer.as_ref();
            answer.is_some_and(|answer| answer.status == Some(200))
        });
        let ids = requests.into_iter().map(|request| request.event_id);
        ids.collect()
    }
}

/// The open page shows the failures.
async fn a_target_starts_to_fail(
    browser: &Browser,
    relay: &Relay,
    link: &str,
) -> Result<BTreeSet<String>> {
    browser.open(link).await?;
    browser.until("#needs", "No problems").await?;
    let well = relay.accept(1000).await?;
    relay.until_taken(&BTreeSet::from([well])).await?;
    browser.click("#attempts summary").await?;
    // A processor writes its counts every ten seconds, and with a batch: now one is due.
    let one_delivered = " 1 0";
    browser.until("#attempts table", one_delivered).await?;
    sleep(Duration::from_secs(10)).await;

    relay.target.behave(Behaviour::script(|_| Answer {
        body: CAUSE.to_owned(),
        ..Answer::status(422)
    }));
    let mut dead = BTreeSet::new();
    for number in 0..REFUSED {
        dead.insert(relay.accept(number).await?);
    }
    relay.until_dead(REFUSED).await?;
    // The page refreshes itself, and the counts follow some seconds later.
    for text in [
        format!("{REFUSED} dead letters"),
        "attempts failed in the last".to_owned(),
    ] {
        browser.until("#needs", &text).await?;
    }
    let table = browser.until("#attempts table", "Minute (UTC)").await;
    table.context("opened details stay open")?;
    browser.click("#attempts summary").await?;
    picture(browser, "flow").await?;
    Ok(dead)
}

async fn the_cause_is_found(browser: &Browser) -> Result<()> {
    browser.click("#needs a").await?;
    browser.click("#reason option[value=permanent]").await?;
    browser.write("#statusCode", "422").await?;
    browser.click(".filter button").await?;
    let count = format!("{REFUSED} on this page");
    browser.until("main", &count).await?;
    picture(browser, "dead-letters").await?;
    browser.click("tbody a").await?;
    for (selector, text) in [
        (".state", "DEAD, permanent (status 422)"),
        (".timeline pre", CAUSE),
        ("#pretty", "\"queue\": \"orders-new\""),
        ("#pretty", "\"amount\": 12.50"),
    ] {
        browser.until(selector, text).await?;
    }
    picture(browser, "event").await
}

/// Returns the ids of those that are left.
async fn half_of_them_are_replayed(
    browser: &Browser,
    relay: &Relay,
    console: &str,
    dead: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let before = relay.taken();
    browser.open(&format!("{console}/dead-letters")).await?;
    for row in 1..=REFUSED / 2 {
        let input = format!("tbody tr:nth-child({row}) input");
        browser.click(&input).await?;
    }
    browser.click("form[action='/replay'] button").await?;
    let result = "5 would be replayed. Nothing has been done yet";
    browser.until(".result", result).await?;
    relay.until_dead(REFUSED).await?;
    let why = "the queue orders-new is there now";
    browser.write("input[name=why]", why).await?;
    picture(browser, "dry-run").await?;
    browser.click("button[value=replay]").await?;
    until_finished(browser, "5 of 5 replayed.").await?;
    browser.until("#result", "5 dead letters are left").await?;
    picture(browser, "run").await?;

    relay.until_dead(REFUSED / 2).await?;
    let taken: BTreeSet<String> = relay.taken().difference(&before).cloned().collect();
    ensure!(taken.len() == 5 && taken.is_subset(dead), "{taken:?}");
    let one = taken.first().context("one")?;
    browser.open(&format!("{console}/events/{one}")).await?;
    browser.until(".state", "DELIVERED").await?;
    let life = browser.text(".timeline").await?;
    for what in ["Attempt 1: failed, status 422", why, "Attempt 2: delivered"] {
        ensure!(life.contains(what), "{what:?} is not in {life}");
    }
    browser.open(&format!("{console}/dead-letters")).await?;
    let (list, left) = (browser.text("tbody").await?, dead - &taken);
    ensure!(left.iter().all(|id| list.contains(id)), "{list}");
    ensure!(!taken.iter().any(|id| list.contains(id)), "{list}");
    Ok(left)
}

async fn one_is_discarded_with_the_keyboard(
    browser: &Browser,
    relay: &Relay,
    console: &str,
) -> Result<()> {
    browser.open(&format!("{console}/dead-letters")).await?;
    browser.tab_to(".skip").await?;
    browser.press([ENTER]).await?;
    browser.tab_to("input[type=checkbox]").await?;
    browser.press([SPACE]).await?;
    browser.tab_to("button[formaction='/discard']").await?;
    browser.press([ENTER]).await?;
    browser
        .until(".result", "1 would be deleted permanently")
        .await?;
    browser.tab_to("input[name=why]").await?;
    browser.press("a test order".chars()).await?;
    browser.tab_to("button[value=discard]").await?;
    browser.press([ENTER]).await?;
    until_finished(browser, "1 of 1 discarded.").await?;
    relay.until_dead(REFUSED / 2 - 1).await
}

async fn the_rest_is_replayed_without_scripts(
    browser: &Browser,
    relay: &Relay,
    console: &str,
    left: &BTreeSet<String>,
) -> Result<()> {
    let before = relay.taken();
    browser.run_scripts(false).await?;
    let list = format!("{console}/dead-letters?reason=permanent");
    browser.open(&list).await?;
    browser.click("a[href*='select=all']").await?;
    browser.click("form[action='/replay'] button").await?;
    browser.until(".result", "4 would be replayed").await?;
    browser.click("button[value=replay]").await?;
    // The page reloads itself.
    until_finished(browser, "4 of 4 replayed.").await?;
    relay.until_dead(0).await?;
    let taken: BTreeSet<String> = relay.taken().difference(&before).cloned().collect();
    ensure!(taken.len() == 4 && taken.is_subset(left), "{taken:?}");
    browser.open(console).await?;
    let count = browser.text(".flow .dead .count").await?;
    ensure!(count == "0", "{count} are left");
    browser.run_scripts(true).await
}

async fn until_finished(browser: &Browser, counts: &str) -> Result<String> {
    let text = format!("finished. {counts}");
    browser.until("#progress", &text).await
}

/// Writes the pictures if the variable asks for them.
async fn picture(browser: &Browser, name: &str) -> Result<()> {
    if env::var_os("GENESYS_RELAY_PICTURES").is_none() {
        return Ok(());
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/console");
    for colours in ["light", "dark"] {
        browser.prefer(colours).await?;
        let file = format!("{folder}/{name}-{colours}.png");
        fs::write(file, browser.picture().await?)?;
    }
    browser.prefer("light").await
}
