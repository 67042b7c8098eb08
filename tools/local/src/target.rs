//! Stand-in for the customer's system: receives deliveries and treats them as its behaviour says.

mod answer;
mod behaviour;
mod request;
mod wire;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use answer::Answer;
use anyhow::Result;
pub use behaviour::{Behaviour, BehaviourError};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::RETRY_AFTER,
};
pub use request::ReceivedRequest;
use tokio::{sync::watch, time::sleep};
pub use wire::Fault;

use crate::{
    server::{Cause, Closed, Server, TakeOver},
    wait,
};

const CONTROL: &str = "/_behaviour";

/// A target on a free port of 127.0.0.1. Dropping it closes the port and all connections.
#[derive(Debug)]
pub struct Target {
    server: Server,
    state: Arc<Mutex<TargetState>>,
}

#[derive(Debug)]
struct TargetState {
    behaviour: Behaviour,
    requests: Vec<ReceivedRequest>,
    released: watch::Sender<()>,
}

impl Target {
    /// Starts a target.
    pub async fn start(behaviour: Behaviour) -> Result<Self> {
        let state = Arc::new(Mutex::new(TargetState {
            behaviour,
            requests: Vec::new(),
            released: watch::Sender::default(),
        }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| answer(request, Arc::clone(&shared))).await?;
        Ok(Self { server, state })
    }

    /// URL for deliveries; any path works.
    pub fn url(&self) -> String {
        format!("{}/events", self.server.url())
    }

    /// URL where its behaviour can be read (GET) and set (PUT) as text, see [`Behaviour`].
    pub fn control_url(&self) -> String {
        format!("{}{CONTROL}", self.server.url())
    }

    /// Changes the behaviour from the next delivery on.
    pub fn behave(&self, behaviour: Behaviour) {
        lock(&self.state).behaviour = behaviour;
    }

    /// Sends the answers that are held.
    pub fn release(&self) {
        lock(&self.state).released.send_replace(());
    }

    /// Current behaviour.
    pub fn behaviour(&self) -> Behaviour {
        lock(&self.state).behaviour.clone()
    }

    /// All deliveries so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        lock(&self.state).requests.clone()
    }

    /// The deliveries of one event.
    pub fn requests_of(&self, event_id: &str) -> Vec<ReceivedRequest> {
        self.requests()
            .into_iter()
            .filter(|request| request.event_id == event_id)
            .collect()
    }

    /// Number of requests in each second that has any, by `webhook-timestamp`.
    pub fn requests_by_second(&self) -> BTreeMap<String, usize> {
        let mut seconds = BTreeMap::new();
        for request in &lock(&self.state).requests {
            let second = request.headers.get("webhook-timestamp");
            let second = second.map_or("", |second| second.to_str().unwrap_or_default());
            *seconds.entry(second.to_owned()).or_default() += 1;
        }
        seconds
    }

    /// Largest number of requests that arrived within any time of this length, by the target's own
    /// clock.
    pub fn most_within(&self, length: Duration) -> usize {
        let times: Vec<_> = (lock(&self.state).requests.iter())
            .map(|request| request.at)
            .collect();
        let from = |first: usize| {
            let start = times[first];
            times[first..].partition_point(|at| at.duration_since(start) < length)
        };
        (0..times.len()).map(from).max().unwrap_or_default()
    }

    /// Waits until `expected` accepts the deliveries, and returns them.
    pub async fn until(
        &self,
        what: &str,
        expected: impl Fn(&[ReceivedRequest]) -> bool,
    ) -> Result<Vec<ReceivedRequest>> {
        wait::until(what, || async {
            Ok(Some(self.requests()).filter(|requests| expected(requests)))
        })
        .await
    }
}

fn lock(state: &Mutex<TargetState>) -> MutexGuard<'_, TargetState> {
    // A behaviour that panics does not lose the record of the deliveries.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<TargetState>>,
) -> Result<Response<Full<Bytes>>, Cause> {
    let (head, body) = request.into_parts();
    if head.uri.path() != CONTROL
        && matches!(lock(&state).behaviour, Behaviour::Wire(Fault::ResetUnread))
    {
        return Err(fail_by(Fault::ResetUnread));
    }
    let body = body.collect().await?.to_bytes();
    if head.uri.path() == CONTROL {
        return Ok(control(&head.method, &body, &state));
    }
    let event_id = head
        .headers
        .get("webhook-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let line = format!("{} {}", head.method, head.uri);
    let (answer, mut released) = {
        let mut state = lock(&state);
        let nth = 1 + state
            .requests
            .iter()
            .filter(|earlier| earlier.event_id == event_id)
            .count();
        let mut received = ReceivedRequest {
            event_id,
            nth,
            line,
            headers: head.headers,
            body,
            at: Instant::now(),
            answer: None,
        };
        let answer = state.behaviour.answer(&received);
        received.answer = Some(answer.clone());
        state.requests.push(received);
        (answer, state.released.subscribe())
    };
    sleep(answer.delay).await;
    if answer.is_held {
        // Fails only when the target is gone.
        drop(released.changed().await);
    }
    if let Some(fault) = answer.fault {
        return Err(fail_by(fault));
    }
    let status = answer.status.ok_or(Closed)?;
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(value) = answer.retry_after.and_then(|value| value.parse().ok()) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    Ok(response)
}

fn fail_by(fault: Fault) -> Cause {
    TakeOver::new(move |stream| fault.happen(stream)).into()
}

fn control(method: &Method, body: &[u8], state: &Mutex<TargetState>) -> Response<Full<Bytes>> {
    let mut state = lock(state);
    let mut response = Response::default();
    if method == Method::PUT {
        let Ok(behaviour) = String::from_utf8_lossy(body).trim().parse() else {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            *response.body_mut() = Full::from(format!("{}\n", behaviour::SYNTAX));
            return response;
        };
        state.behaviour = behaviour;
    }
    *response.body_mut() = Full::from(format!("{}\n", state.behaviour));
    response
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use tokio::time::timeout;

    use super::*;
    use crate::clients;

    async fn deliver(target: &Target, event_id: &str) -> Option<u16> {
        let answer = clients::http()
            .post(target.url())
            .header("webhook-id", event_id)
            .body("body")
            .send()
            .await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    #[tokio::test]
    async fn deliveries_are_counted_by_event_and_recorded() -> Result<()> {
        let fails_once =
            |request: &ReceivedRequest| Answer::status(if request.nth == 1 { 503 } else { 200 });
        let target = Target::start(Behaviour::script(fails_once)).await?;
        for expected in [("a", 503), ("b", 503), ("a", 200)] {
            assert_eq!(deliver(&target, expected.0).await, Some(expected.1));
        }
        let requests = target
            .until("both attempts of a are there", |all| all.len() == 3)
            .await?;
        assert_eq!(target.requests_of("a").len(), 2);
        assert_eq!(target.most_within(Duration::from_hours(1)), 3);
        assert_eq!(
            target.most_within(requests[2].at - requests[0].at),
            2,
            "the third is at its end"
        );
        assert_eq!(
            (
                requests[2].line.as_str(),
                requests[2].nth,
                &requests[2].body[..]
            ),
            ("POST /events", 2, &b"body"[..])
        );
        Ok(())
    }

    #[tokio::test]
    async fn what_breaks_http_is_no_answer_and_what_only_does_so_after_it_is_one() -> Result<()> {
        let target = Target::start(Behaviour::Fine).await?;
        for fault in Fault::ALL
            .into_iter()
            .filter(|fault| *fault != Fault::Trickle)
        {
            target.behave(Behaviour::Wire(fault));
            assert_eq!(deliver(&target, "a").await, fault.status(), "{fault}");
            assert_eq!(
                target.requests().last().is_none(),
                fault == Fault::ResetUnread,
                "unread"
            );
        }
        target.behave(Behaviour::Wire(Fault::Trickle));
        assert!(
            timeout(Duration::from_secs(2), deliver(&target, "b"))
                .await
                .is_err()
        );
        target.behave(Behaviour::Wire(Fault::Large));
        let answer = clients::http()
            .post(target.url())
            .body("body")
            .send()
            .await?;
        assert_eq!(answer.bytes().await?.len(), 10 * 1024 * 1024);
        Ok(())
    }

    #[tokio::test]
    async fn a_person_switches_it_with_curl_even_while_it_is_down() -> Result<()> {
        let target = Target::start(Behaviour::Down).await?;
        assert_eq!(deliver(&target, "a").await, None);
        let put = |text: &'static str| clients::http().put(target.control_url()).body(text).send();
        assert_eq!(put("nonsense").await?.status(), 400);
        assert_eq!(put("status:503:60").await?.text().await?, "status:503:60\n");
        let answer = clients::http().post(target.url()).send().await?;
        assert_eq!(
            (
                answer.status().as_u16(),
                answer
                    .headers()
                    .get("retry-after")
                    .map(HeaderValue::as_bytes)
            ),
            (503, Some(&b"60"[..]))
        );
        Ok(())
    }
}
