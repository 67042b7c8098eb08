//! The pages over HTTP, with the functions' use cases over the library's fakes.

mod access;
mod conversations;
mod gate;
mod looks;
mod order;
mod resends;
mod statements;
mod work;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use console::functions::{Function, FunctionError, Functions, InvokeError};
use console::server::Server;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use genesys_relay::breaker::{self, Breaker, BreakerError};
use genesys_relay::dead_letters::{DeadLetters, Ports, ReplayError, Request, Settings};
use genesys_relay::deliver::{self, Order, Processor};
use genesys_relay::domain::circuit::Policy;
use genesys_relay::domain::request::InvalidRequest;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
use genesys_relay::ports::queue::{Countable as _, ReceivedMessage, Sender as _};
use genesys_relay::ports::target::{DeliveryFailure, FailureCause, Outcome};
use genesys_relay::runtime::logging::display_chain;
use genesys_relay::testing::{
    FakeArchive, FakeClock, FakeEventSource, FakePorts, FakeProber, FakeQueue, FakeTable,
    FakeTarget, refused,
};
use jiff::SignedDuration;
use local::wait;
use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy as Redirects;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

/// The three functions, in this process.
struct Relay {
    replay: Arc<DeadLetters<FakePorts>>,
    breaker: Breaker<FakePorts>,
    /// All requests to them.
    requests: Mutex<Vec<(Function, Value)>>,
    /// Functions that IAM does not let the operator invoke.
    denied: Mutex<BTreeSet<Function>>,
    /// Functions for which the permission was asked.
    checked: Mutex<Vec<Function>>,
    /// Permits for background runs; runs without one wait.
    room: Arc<Semaphore>,
    /// Set if the functions no longer answer.
    is_gone: AtomicBool,
}

impl Relay {
    fn new() -> Self {
        let (events, table) = (FakeQueue::default(), FakeTable::default());
        let dead_letters = FakeQueue::default().moving_to(&events);
        Self {
            replay: Arc::new(DeadLetters {
                ports: Ports {
                    events: events.clone(),
                    ordered: None,
                    redrive: dead_letters.clone(),
                    dead_letters,
                    journal: Some(FakeQueue::default()),
                    table: table.clone(),
                    archive: FakeArchive::default(),
                    clock: FakeClock,
                },
                settings: Settings {
                    canary_minutes: 5,
                    ..Settings::default()
                },
            }),
            breaker: Breaker {
                ports: breaker::Ports {
                    events,
                    table,
                    ordered: None,
                    event_sources: vec![FakeEventSource::default()],
                    prober: FakeProber::default(),
                    clock: FakeClock,
                },
                policy: Policy {
                    failure_percent: 90,
                    maximum_concurrency: 10,
                    processor_timeout: None,
                },
                is_on: true,
            },
            requests: Mutex::default(),
            denied: Mutex::default(),
            checked: Mutex::default(),
            room: Arc::new(Semaphore::new(1000)),
            is_gone: AtomicBool::new(false),
        }
    }

    /// Puts bodies into the dead-letter queue as refused by the target with 404, and records them.
    async fn send_to_dead_letters(&self, bodies: impl IntoIterator<Item = String>) -> Result<()> {
        for body in bodies {
            let message = refused(body).with_identity(FakeClock.now());
            self.replay.ports.dead_letters.send(&message).await?;
        }
        let reconcile = json!({ "action": "reconcile" });
        self.carry_out(Function::Replay, reconcile).await?;
        Ok(())
    }

    /// Attempts up to ten events of a queue; the target answers each with this status.
    async fn attempt(&self, queue: &FakeQueue, order: Option<Order>, status: u16) -> Result<()> {
        let ports = &self.replay.ports;
        let minute = Duration::from_mins(1);
        let outcome = match status {
            200 => Outcome::Delivered {
                status: Some(status),
            },
            _ => Outcome::Failed(DeliveryFailure::new(
                FailureCause::Status(status),
                format!("the target answered {status}"),
            )),
        };
        let processor: Processor<FakePorts<FakeTarget>> = Processor::new(
            deliver::Ports {
                events: ports.events.clone(),
                ordered: ports.ordered.as_ref().map(|ordered| ordered.queue.clone()),
                dead_letters: ports.dead_letters.clone(),
                journal: ports.journal.clone(),
                table: ports.table.clone(),
                target: FakeTarget::new(move |_, _| std::future::ready(outcome.clone())),
                clock: FakeClock,
            },
            Schedule::new(minute, minute, 10)?,
        );
        let is_ordered = order.is_some();
        let received = queue.hand_out(10, 6 * minute).into_iter();
        let received = received.map(|received| ReceivedMessage {
            is_ordered,
            ..received
        });
        let processor = Arc::new(processor.with_order(order));
        let batch = received.collect();
        processor.process(batch, Instant::now() + minute).await;
        Ok(())
    }

    /// Lets the target answer new events of conversations with this status.
    async fn accept(&self, conversations: &[&str], status: u16) -> Result<()> {
        let events = self.replay.ports.events.clone();
        for conversations in conversations.chunks(10) {
            for conversation in conversations {
                let payload = json!({ "conversationId": conversation, "number": Uuid::new_v4() });
                let body = json!({ "webhookId": "chat", "payload": payload, "timestamp": "2026-01-15T12:00:00Z" });
                let message = refused(body.to_string()).without_reason();
                events.send(&message.with_identity(FakeClock.now())).await?;
            }
            self.attempt(&events, None, status).await?;
        }
        Ok(())
    }

    /// Brings what was delivered into the journal, as the schedule does.
    async fn journal(&self) -> Result<()> {
        let journal = json!({ "action": "journal", "by": "schedule" });
        self.carry_out(Function::Replay, journal).await?;
        Ok(())
    }

    /// Takes the lease of another operator's run.
    async fn lease(&self, name: LeaseName, action: &str) -> Result<Uuid> {
        let (since, owner) = (FakeClock.now(), Uuid::new_v4());
        let lease = RunLease {
            owner,
            action: action.to_owned(),
            by: "the schedule".to_owned(),
            since,
            until: since + SignedDuration::from_mins(15),
        };
        self.breaker
            .ports
            .table
            .acquire(name, &lease, since)
            .await?;
        Ok(owner)
    }

    async fn carry_out(&self, function: Function, request: Value) -> Result<Value, InvokeError> {
        let deadline = Instant::now() + Duration::from_mins(15);
        let invalid = |error: InvalidRequest| refusal("InvalidRequest", error.to_string());
        match function {
            Function::Look | Function::Replay => {
                let refused = |error: ReplayError| {
                    let kind = match &error {
                        ReplayError::Busy(_) | ReplayError::Moving { .. } => "Busy",
                        ReplayError::NameTaken { .. } => "InvalidRequest",
                        ReplayError::Unknown(_)
                        | ReplayError::NotListed(..)
                        | ReplayError::UnknownRun(_) => "NotFound",
                        ReplayError::NoConversationIndex | ReplayError::NoJournal => "Off",
                        _ => "QueueError",
                    };
                    refusal(kind, display_chain(&error))
                };
                let request = Request::parse(request, "a test").map_err(invalid)?;
                if function == Function::Look && !request.is_look() {
                    return Err(refusal("NotAllowed", "this function only looks".to_owned()));
                }
                let Request::Start(start) = request else {
                    let answer = self.replay.handle(request, deadline).await;
                    return Ok(json!(answer.map_err(refused)?));
                };
                // As on Lambda: an asynchronous invocation, which can be delayed.
                let (shown, is_open) = self.replay.enlist(&start).await.map_err(refused)?;
                let (replay, room) = (Arc::clone(&self.replay), Arc::clone(&self.room));
                let begun = Request::parse(start.payload, "a test").map_err(invalid)?;
                if is_open {
                    tokio::spawn(async move {
                        room.acquire().await.expect("open").forget();
                        drop(replay.handle(begun, deadline).await);
                    });
                }
                Ok(json!({ "background": shown }))
            }
            Function::Breaker => {
                let request = breaker::Request::parse(request, "a test").map_err(invalid)?;
                let refused = |error: BreakerError| {
                    let is_busy = matches!(error, BreakerError::Busy(_));
                    refusal(if is_busy { "Busy" } else { "Off" }, display_chain(&error))
                };
                let answer = self.breaker.handle(&request, deadline).await;
                Ok(json!(answer.map_err(refused)?))
            }
        }
    }

    fn requests_for(&self, action: &str) -> Vec<Value> {
        let requests = self.requests.lock().expect("a list");
        let requests = requests.iter().map(|(_, request)| request);
        let requests = requests.filter(|request| request["action"] == action);
        requests.cloned().collect()
    }

    /// Takes the permission to invoke these functions away.
    fn deny(&self, functions: impl IntoIterator<Item = Function>) {
        self.denied.lock().expect("a set").extend(functions);
    }

    /// Fails as Lambda does where IAM denies the call.
    fn authorize(&self, function: Function) -> Result<(), InvokeError> {
        if !self.denied.lock().expect("a set").contains(&function) {
            return Ok(());
        }
        Err(InvokeError::Denied {
            function: format!("relay-{function:?}"),
            source: "no policy allows lambda:InvokeFunction".into(),
        })
    }

    fn set_gone(&self, is_gone: bool) {
        self.is_gone.store(is_gone, Ordering::Relaxed);
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
            let asked = (function, request.clone());
            self.requests.lock().expect("a list").push(asked);
            self.authorize(function)?;
            if self.is_gone.load(Ordering::Relaxed) {
                return Err(InvokeError::Unanswered("connection refused".into()));
            }
            self.carry_out(function, request).await
        }
        .boxed()
    }

    fn check(&self, function: Function) -> BoxFuture<'_, Result<(), InvokeError>> {
        self.checked.lock().expect("a list").push(function);
        std::future::ready(self.authorize(function)).boxed()
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
        let url = format!("http://{}", server.address());
        let link = Box::new(server.links());
        let functions: Arc<dyn Functions> = relay.clone();
        let (place, by) = ("a test".to_owned(), "an operator".to_owned());
        tokio::spawn(server.serve(functions, place, by));
        // Installs the TLS provider, which every client needs.
        local::clients::http();
        let client = Client::builder().no_proxy().redirect(Redirects::none());
        Ok(Self {
            relay,
            client: client.build()?,
            url,
            link,
            cookie: String::new(),
        })
    }

    async fn of(relay: Relay) -> Result<Self> {
        let mut operator = Self::outside(relay).await?;
        let answer = operator.client.get((operator.link)()).send().await?;
        operator.cookie = cookie_of(&answer)?;
        Ok(operator)
    }

    /// An operator of a relay with this many dead letters.
    async fn with(dead_letters: usize) -> Result<Self> {
        let relay = Relay::new();
        let bodies = (0..dead_letters).map(body);
        relay.send_to_dead_letters(bodies).await?;
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
    async fn send(&self, path: &str, fields: &str) -> Result<Response> {
        let token = self.token().await?;
        let mut body = format!("token={token}&{fields}");
        if !fields.contains("once=") {
            body = format!("{body}&once={}", Uuid::new_v4());
        }
        let request = self.request(Method::POST, path).header(ORIGIN, &self.url);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        Ok(request.body(body).send().await?)
    }

    async fn post(&self, path: &str, fields: &str) -> Result<Page> {
        Page::of(self.send(path, fields).await?).await
    }

    /// Starts a run and returns the path of its page.
    async fn start(&self, fields: &str) -> Result<String> {
        let answer = self.send("/runs", fields).await?;
        let location = answer.headers().get(LOCATION).cloned();
        let page = Page::of(answer).await?;
        let location = location.with_context(|| format!("no run: {}", page.text))?;
        ensure!(page.status == StatusCode::SEE_OTHER, "{}", page.status);
        Ok(location.to_str()?.to_owned())
    }

    /// Starts a replay with the ids that a dry run of this selection returns.
    async fn confirm(&self, selection: &str) -> Result<String> {
        let dry = self.post("/replay", selection).await?;
        let (_, form) = dry.text.split_once("action=\"/runs\"").context("a form")?;
        let form = form.split("</form>").next().unwrap_or_default();
        let mut fields = form_urlencoded::Serializer::new("action=replay".to_owned());
        for field in form.split("<input type=\"hidden\" name=\"").skip(1) {
            let (name, rest) = field.split_once("\" value=\"").context("a value")?;
            if name != "token" {
                fields.append_pair(name, rest.split('"').next().unwrap_or_default());
            }
        }
        self.start(&fields.finish()).await
    }

    /// Waits until a run has finished, and returns its page.
    async fn finished(&self, run: &str) -> Result<Page> {
        self.until(run, "<strong>finished").await
    }

    /// Dead letters in the queue.
    async fn dead(&self) -> Result<u64> {
        Ok(self.relay.replay.ports.dead_letters.depth().await?.visible)
    }

    /// Events in the events queue.
    async fn queued(&self) -> Result<u64> {
        Ok(self.relay.replay.ports.events.depth().await?.visible)
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
        self.get("/archive")
            .await?
            .values("token")
            .pop()
            .context("a token")
    }

    /// The ids of the dead letters on the first page.
    async fn ids(&self) -> Result<Vec<String>> {
        Ok(self.get("/dead-letters").await?.values("eventId"))
    }
}

impl Page {
    async fn of(response: Response) -> Result<Self> {
        Ok(Self {
            status: response.status(),
            text: response.text().await?,
        })
    }

    /// Values of the fields with this name.
    fn values(&self, name: &str) -> Vec<String> {
        let start = format!("name=\"{name}\" value=\"");
        let value = |rest: &str| rest.split('"').next().unwrap_or_default().to_owned();
        self.text.split(&start).skip(1).map(value).collect()
    }

    /// Checks that the page has each of these texts, which ` … ` separates.
    #[track_caller]
    fn says(&self, texts: &str) -> &Self {
        for text in texts.split(" … ") {
            let page = &self.text;
            assert!(page.contains(text), "{text:?} is not in\n{page}");
        }
        self
    }

    #[track_caller]
    fn says_not(&self, text: &str) -> &Self {
        assert!(!self.text.contains(text), "{text:?} is in\n{}", self.text);
        self
    }
}

/// The name and value of the cookie that an answer sets.
fn cookie_of(answer: &Response) -> Result<String> {
    let cookie = answer
        .headers()
        .get(SET_COOKIE)
        .context("a cookie")?
        .to_str()?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

/// A text in a query or form.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The body of a webhook event with this number.
fn body(number: usize) -> String {
    json!({ "webhookId": "orders", "payload": { "number": number }, "timestamp": "2026-01-15T12:00:00Z" }).to_string()
}
