//! A relay whose target is behind TLS and asks for credentials, and what its operator sees.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use console::aws;
use console::server::Server;
use local::oauth::TokenEndpoint;
use local::stack::{Function, StackOptions, secret};
use local::target::{Answer, Behaviour, ReceivedRequest, Target};
use local::tls::{Authority, Front};
use local::{clients, env_file, wait};
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::{Value, json};

use super::hidden::Hidden;
use crate::relay::{QUICK, Relay, webhook};

/// Failed attempts of an event before its credentials are mended: more than the receives that SQS
/// allows.
const FAILURES: u32 = 3;

/// At most two processes, each with a token of its own.
const PARAMETERS: [(&str, &str); 6] = [
    QUICK[0],
    QUICK[1],
    QUICK[2],
    ("MaxReceiveCount", "2"),
    ("MaximumConcurrency", "2"),
    ("SecretsCacheSeconds", "10"),
];

/// The value of the secret that a stack has generated to sign deliveries.
pub(super) async fn generated_signing_secret(relay: &Relay) -> Result<String> {
    let secret = relay.stack.secret("SigningSecretArn").await?;
    let value = secret["targetSigningSecrets"].as_str();
    Ok(value.context("a value")?.to_owned())
}

/// The relay, the front of its target, and the authority of that front.
pub(super) struct Site {
    pub(super) relay: Relay,
    pub(super) front: Front,
    pub(super) servers: Authority,
    pub(super) hidden: Hidden,
    ids: Vec<String>,
}

impl Site {
    pub(super) async fn start() -> Result<Self> {
        let target = Target::start(Behaviour::Fine).await?;
        let servers = Authority::new("servers")?;
        let front = Front::start(&servers, &target.url()).await?;
        let options = StackOptions::new(format!("{}/events", front.url()));
        let relay = Relay::start_with(target, options, &PARAMETERS).await?;
        Ok(Self {
            relay,
            front,
            servers,
            hidden: Hidden::default(),
            ids: Vec::new(),
        })
    }

    /// Puts these fields into the secret, beside those of senders and the authority of the server.
    pub(super) async fn change_secret(&self, fields: Value) -> Result<()> {
        let mut all = secret();
        all["targetCa"] = self.servers.pem().into();
        for (name, value) in fields.as_object().context("an object")? {
            all[name] = value.clone();
        }
        self.relay.stack.set_secret(&all).await
    }

    /// The same, and replaces the idle processor: the next delivery uses them.
    pub(super) async fn use_secret(&self, fields: Value) -> Result<()> {
        self.change_secret(fields).await?;
        self.relay.kill(Function::Processor).await.map(drop)
    }

    /// Sends events.
    pub(super) async fn accept(&mut self, name: &str, count: usize) -> Result<Vec<String>> {
        let webhooks = (0..count).map(|number| webhook(&format!("{name} {number}")));
        let ids = self.relay.accept_all(webhooks).await?;
        self.ids.extend(ids.iter().cloned());
        Ok(ids)
    }

    /// Sends events, which must be delivered at the first attempt.
    pub(super) async fn delivers(&mut self, name: &str) -> Result<Vec<ReceivedRequest>> {
        let ids = self.delivers_in_the_end(name).await?;
        let requests = ids.iter().flat_map(|id| self.relay.target.requests_of(id));
        let requests: Vec<_> = requests.collect();
        ensure!(requests.len() == ids.len(), "{name}: {requests:?}");
        Ok(requests)
    }

    /// Sends events, which must be delivered.
    pub(super) async fn delivers_in_the_end(&mut self, name: &str) -> Result<Vec<String>> {
        let ids = self.accept(name, 3).await?;
        self.delivers_all(&ids).await.context(name.to_owned())?;
        Ok(ids)
    }

    /// Waits until these events are delivered, each once, and none is a dead letter.
    pub(super) async fn delivers_all(&self, ids: &[String]) -> Result<()> {
        self.relay.until_empty().await?;
        let delivered = self.relay.deliveries();
        for id in ids {
            let times = delivered.get(id).copied();
            ensure!(times == Some(1), "{id} was delivered {times:?} times");
        }
        Ok(())
    }

    /// Sends events, and waits until each has failed more often than SQS hands it out, and the
    /// operator reads these words about it. No event is dead by then.
    pub(super) async fn fails(&mut self, name: &str, words: &str) -> Result<Vec<String>> {
        let ids = self.accept(name, 2).await?;
        wait::until(&format!("{name}: each event fails, {words}"), || async {
            for id in &ids {
                let Some(found) = self.relay.record(id).await? else {
                    return Ok(None);
                };
                let last = found.attempts.last().and_then(|last| last.error.as_deref());
                let is_told = last.is_some_and(|error| error.contains(words));
                if found.attempts_made < FAILURES || !is_told {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        ensure!(self.relay.held().await?.1 == 0, "{name}: a dead letter");
        let shown = self.relay.show(&ids[0]).await?.to_string();
        ensure!(shown.contains(words), "{name}: {shown}");
        let page = format!("/events/{}", ids[0]);
        for page in self.pages(&[page]).await? {
            ensure!(page.contains(words), "{name}: {page}");
        }
        Ok(ids)
    }

    /// Waits until `status` counts failures of credentials.
    pub(super) async fn until_status_names_credentials(&self) -> Result<()> {
        wait::until("status counts failures of credentials", || async {
            let status = self.relay.replay(json!({ "action": "status" })).await?;
            let minutes = status["attempts"].as_array().into_iter().flatten();
            let failed = minutes.filter_map(|minute| minute["credentialsFailed"].as_u64());
            Ok((failed.sum::<u64>() > 0).then_some(()))
        })
        .await
    }

    /// Pages of the console, as an operator who has just opened it sees them.
    async fn pages(&self, paths: &[String]) -> Result<Vec<String>> {
        let file = format!("genesys-relay-credentials-{}", uuid::Uuid::new_v4());
        let variables = std::env::temp_dir().join(file);
        env_file::write(&variables, &self.relay.stack).await?;
        let place = aws::Place::local(&variables).await?;
        let functions = aws::Stack::find(&place).await;
        std::fs::remove_file(&variables)?;
        let server = Server::bind(0).await?;
        let (url, link) = (format!("http://{}", server.address()), (server.links())());
        let running = server.serve(Arc::new(functions?), "a test".into(), "a test".into());
        let running = tokio::spawn(running);
        let entered = clients::http().get(link).send().await?;
        let cookie = entered.headers()[SET_COOKIE].to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let mut pages = Vec::new();
        for path in paths {
            let request = clients::http().get(format!("{url}{path}"));
            let page = request.header(COOKIE, &cookie).send().await?;
            ensure!(page.status() == 200, "{path}: {}", page.status());
            pages.push(page.text().await?);
        }
        running.abort();
        Ok(pages)
    }

    /// The value of the secret that the stack has generated to sign deliveries.
    pub(super) async fn generated_signing_secret(&mut self) -> Result<String> {
        let value = generated_signing_secret(&self.relay).await?;
        self.hidden.keep(&value);
        Ok(value)
    }

    /// Checks that no secret is in a log, the table, a queue, an answer or a page. One event is a
    /// dead letter for that, after answers that repeat what the relay sent. `endpoint` gives the
    /// tokens, if any.
    pub(super) async fn check_nothing_shows(
        &mut self,
        endpoint: Option<&TokenEndpoint>,
    ) -> Result<()> {
        self.relay.target.behave(Behaviour::script(|request| {
            let code = match request.nth {
                1 | 2 => 401,
                3 => 403,
                4 => 500,
                _ => 404,
            };
            Answer::repeating(code, request)
        }));
        let dead = self.accept("dead", 1).await?;
        self.relay.until_dead(1).await?;
        if let Some(endpoint) = endpoint {
            self.hidden.keep_all(endpoint.issued());
        }
        let shown = self.relay.show(&dead[0]).await?.to_string();
        ensure!(shown.contains("x-relay-attempt"), "not repeated: {shown}");
        let mut texts = vec![(
            "the dead letter",
            format!("{:?}", self.relay.dead_letters().await?),
        )];
        for function in Function::ALL {
            let lines = self.relay.log(function).await?;
            texts.push(("a log", Value::from(lines).to_string()));
        }
        let log = self.relay.stack.emulator().log_file();
        texts.push(("the emulator's log", std::fs::read_to_string(log)?));
        let request = self.relay.stack.dynamodb().scan();
        let table = request.table_name(self.relay.stack.output("EventsTableName")?);
        texts.push(("the table", format!("{:?}", table.send().await?.items())));
        let variables = self.relay.stack.function_variables().await?;
        texts.push(("a variable", format!("{variables:?}")));
        for action in ["status", "list"] {
            let answer = self.relay.replay(json!({ "action": action })).await?;
            texts.push(("an answer", answer.to_string()));
        }
        let mut paths = vec!["/".to_owned(), "/dead-letters".to_owned()];
        paths.extend(self.ids.iter().map(|id| format!("/events/{id}")));
        let pages = self.pages(&paths).await?;
        texts.extend(pages.into_iter().map(|page| ("a page", page)));
        ensure!(self.ids.contains(&dead[0]), "its page is among them");
        for (place, text) in texts {
            self.hidden.check(place, &text)?;
        }
        Ok(())
    }
}
