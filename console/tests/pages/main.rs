//! The pages over HTTP, with the functions' use cases over the library's fakes.

mod gate;
mod looks;
mod work;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use console::functions::{Function, FunctionError, Functions, InvokeError};
use console::server::Server;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use genesys_relay::breaker;
use genesys_relay::breaker::{Breaker, BreakerError};
use genesys_relay::dead_letters::{DeadLetters, Ports, ReplayError, Request};
use genesys_relay::domain::circuit::Policy;
use genesys_relay::domain::request::InvalidRequest;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::queue::Sender as _;
use genesys_relay::runtime::logging::display_chain;
use genesys_relay::testing::{
    FakeArchive, FakeClock, FakeEventSource, FakePorts, FakeProber, FakeQueue, FakeTable, refused,
};
use local::wait;
use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy as Redirects;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

/// The two functions, in this process.
struct Relay {
    replay: Arc<DeadLetters<FakePorts>>,
    breaker: Breaker<FakePorts>,
    /// All requests to them.
    requests: Mutex<Vec<Value>>,
    /// Permits for background runs; runs without one wait.
    room: Arc<Semaphore>,
    /// Set if the functions no longer answer.
    is_gone: Mutex<bool>,
}

impl Relay {
    fn new() -> Self {
        let (events, dead_letters, table) = (
            FakeQueue::default(),
            FakeQueue::default(),
            FakeTable::default(),
        );
        let dead_letters = dead_letters.moving_to(&events);
        Self {
            replay: Arc::new(DeadLetters {
                ports: Ports {
                    events: events.clone(),
                    redrive: dead_letters.clone(),
                    dead_letters,
                    table: table.clone(),
                    archive: FakeArchive::default(),
                    clock: FakeClock,
                },
            }),
            breaker: Breaker {
                ports: breaker::Ports {
                    events,
                    table,
                    event_source: FakeEventSource::default(),
                    prober: FakeProber::default(),
                    clock: FakeClock,
                },
                policy: Policy {
                    failure_percent: 90,
                    maximum_concurrency: 10,
                },
                is_on: true,
            },
            requests: Mutex::default(),
            room: Arc::new(Semaphore::new(1000)),
            is_gone: Mutex::new(false),
        }
    }

    /// Puts bodies into the dead-letter queue as refused by the target with 404, and records them.
    async fn send_to_dead_letters(&self, bodies: impl IntoIterator<Item = String>) -> Result<()> {
        for body in bodies {
            self.replay
                .ports
                .dead_letters
                .send(&refused(body).with_identity(FakeClock.now()))
                .await?;
        }
        self.carry_out(Function::Replay, json!({ "action": "reconcile" }))
            .await?;
        Ok(())
    }

    async fn carry_out(&self, function: Function, request: Value) -> Result<Value, InvokeError> {
        let deadline = Instant::now() + Duration::from_mins(15);
        let invalid = |error: InvalidRequest| refusal("InvalidRequest", error.to_string());
        match function {
            Function::Replay => {
                let refused = |error: ReplayError| match &error {
                    ReplayError::Busy(_) | ReplayError::Moving { .. } => {
                        refusal("Busy", error.to_string())
                    }
                    ReplayError::NameTaken { .. } => refusal("InvalidRequest", error.to_string()),
                    ReplayError::Unknown(_) | ReplayError::UnknownRun(_) => {
                        refusal("NotFound", error.to_string())
                    }
                    _ => refusal("QueueError", display_chain(&error)),
                };
                let request = Request::parse(request, "a test").map_err(invalid)?;
                if let Request::Start(start) = request {
                    // As on Lambda: an asynchronous invocation, which can be delayed.
                    let (shown, is_open) = self.replay.enlist(&start).await.map_err(refused)?;
                    let (replay, room) = (Arc::clone(&self.replay), Arc::clone(&self.room));
                    let begun = Request::parse(start.payload, "a test").map_err(invalid)?;
                    if is_open {
                        tokio::spawn(async move {
                            room.acquire().await.expect("open").forget();
                            drop(
                                replay
                                    .handle(begun, Instant::now() + Duration::from_mins(15))
                                    .await,
                            );
                        });
                    }
                    return Ok(json!({ "background": shown }));
                }
                let answer = self
                    .replay
                    .handle(request, deadline)
                    .await
                    .map_err(refused)?;
                Ok(json!(answer))
            }
            Function::Breaker => {
                let request = breaker::Request::parse(request, "a test").map_err(invalid)?;
                let answer = self.breaker.handle(&request, deadline).await;
                Ok(json!(answer.map_err(|error| match &error {
                    BreakerError::Busy(_) => refusal("Busy", error.to_string()),
                    _ => refusal("Off", display_chain(&error)),
                })?))
            }
        }
    }

    fn requests_for(&self, action: &str) -> Vec<Value> {
        let requests = self.requests.lock().expect("a list");
        requests
            .iter()
            .filter(|request| request["action"] == action)
            .cloned()
            .collect()
    }
}

fn refusal(kind: &str, message: String) -> InvokeError {
    InvokeError::Refused(FunctionError {
        kind: kind.to_owned(),
        message,
    })
}

impl Functions for Relay {
    fn invoke(
        &self,
        function: Function,
        request: Value,
    ) -> BoxFuture<'_, Result<Value, InvokeError>> {
        async move {
            self.requests.lock().expect("a list").push(request.clone());
            if *self.is_gone.lock().expect("a flag") {
                return Err(InvokeError::Unanswered("connection refused".into()));
            }
            self.carry_out(function, request).await
        }
        .boxed()
    }
}

/// A console over a relay, and a browser that is signed in.
struct Operator {
    relay: Arc<Relay>,
    client: Client,
    url: String,
    /// Creates the next link.
    link: Box<dyn Fn() -> String>,
    cookie: String,
}

/// Status and text of a page.
struct Page {
    status: StatusCode,
    text: String,
}

impl Operator {
    /// An operator who is not signed in.
    async fn outside(relay: Relay) -> Result<Self> {
        let relay = Arc::new(relay);
        let server = Server::bind(0).await?;
        ensure!(server.address().ip().is_loopback(), "{}", server.address());
        let (url, link) = (
            format!("http://{}", server.address()),
            Box::new(server.links()),
        );
        let functions: Arc<dyn Functions> = relay.clone();
        tokio::spawn(server.serve(functions, "a test".to_owned(), "an operator".to_owned()));
        // Installs the TLS provider, which every client needs.
        local::clients::http();
        let client = Client::builder()
            .no_proxy()
            .redirect(Redirects::none())
            .build()?;
        Ok(Self {
            relay,
            client,
            url,
            link,
            cookie: String::new(),
        })
    }

    async fn of(relay: Relay) -> Result<Self> {
        let mut operator = Self::outside(relay).await?;
        let answer = operator.client.get((operator.link)()).send().await?;
        let cookie = answer
            .headers()
            .get(SET_COOKIE)
            .context("a cookie")?
            .to_str()?;
        cookie
            .split(';')
            .next()
            .unwrap_or_default()
            .clone_into(&mut operator.cookie);
        Ok(operator)
    }

    /// An operator of a relay with this many dead letters.
    async fn with(dead_letters: usize) -> Result<Self> {
        let relay = Relay::new();
        relay
            .send_to_dead_letters((0..dead_letters).map(body))
            .await?;
        Self::of(relay).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .header(COOKIE, &self.cookie)
    }

    async fn get(&self, path: &str) -> Result<Page> {
        Page::of(self.request(Method::GET, path).send().await?).await
    }

    /// Sends a form as a page of the console would.
    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Result<Response> {
        let token = self.token().await?;
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("token", &token);
        if !fields.iter().any(|(name, _)| *name == "once") {
            body.append_pair("once", &Uuid::new_v4().to_string());
        }
        body.extend_pairs(fields);
        let request = self
            .request(Method::POST, path)
            .header(ORIGIN, &self.url)
            .body(body.finish());
        Ok(request
            .header("content-type", "application/x-www-form-urlencoded")
            .send()
            .await?)
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Result<Page> {
        Page::of(self.send(path, fields).await?).await
    }

    /// Starts a run and returns the path of its page.
    async fn start(&self, fields: &[(&str, &str)]) -> Result<String> {
        let answer = self.send("/runs", fields).await?;
        ensure!(
            answer.status() == StatusCode::SEE_OTHER,
            "{} {}",
            answer.status(),
            answer.text().await?
        );
        Ok(answer.headers()[LOCATION].to_str()?.to_owned())
    }

    /// Starts a run with the ids that a dry run of this selection returns.
    async fn confirm(&self, selection: &[(&str, &str)], more: &[(&str, &str)]) -> Result<String> {
        let dry = self.post("/replay", selection).await?;
        let (_, form) = dry.text.split_once("action=\"/runs\"").context("a form")?;
        let form = form.split("</form>").next().unwrap_or_default();
        let hidden = form.split("<input type=\"hidden\" name=\"").skip(1);
        let hidden: Vec<_> = hidden
            .filter_map(|field| field.split_once("\" value=\""))
            .collect();
        let value = |rest: &str| rest.split('"').next().unwrap_or_default().to_owned();
        let hidden: Vec<_> = hidden
            .into_iter()
            .map(|(name, rest)| (name, value(rest)))
            .collect();
        let own = hidden
            .iter()
            .filter(|(name, _)| *name != "token")
            .map(|(name, value)| (*name, value.as_str()));
        let fields: Vec<_> = own
            .chain([("action", "replay")])
            .chain(more.iter().copied())
            .collect();
        self.start(&fields).await
    }

    /// Waits until the page of a run says this.
    async fn until(&self, run: &str, text: &str) -> Result<Page> {
        wait::until(&format!("{run} says {text}"), || async {
            let page = self.get(run).await?;
            Ok(page.text.contains(text).then_some(page))
        })
        .await
    }

    /// The token in the console's forms.
    async fn token(&self) -> Result<String> {
        let page = self.get("/archive").await?;
        let (_, rest) = page
            .text
            .split_once("name=\"token\" value=\"")
            .context("a token")?;
        Ok(rest.split('"').next().unwrap_or_default().to_owned())
    }

    /// The ids of the dead letters on the first page.
    async fn ids(&self) -> Result<Vec<String>> {
        let page = self.get("/dead-letters").await?;
        let parts = page.text.split("name=\"eventId\" value=\"").skip(1);
        Ok(parts
            .filter_map(|part| part.split('"').next())
            .map(str::to_owned)
            .collect())
    }
}

impl Page {
    async fn of(response: Response) -> Result<Self> {
        Ok(Self {
            status: response.status(),
            text: response.text().await?,
        })
    }

    #[track_caller]
    fn says(&self, text: &str) -> &Self {
        assert!(
            self.text.contains(text),
            "{text:?} is not in\n{}",
            self.text
        );
        self
    }

    #[track_caller]
    fn says_not(&self, text: &str) -> &Self {
        assert!(!self.text.contains(text), "{text:?} is in\n{}", self.text);
        self
    }
}

/// The body of a webhook event with this number.
fn body(number: usize) -> String {
    json!({ "webhookId": "orders", "payload": { "number": number }, "timestamp": "2026-01-15T12:00:00Z" }).to_string()
}
