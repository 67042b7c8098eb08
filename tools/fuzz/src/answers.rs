//! Genesys Cloud, as an input lets it answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::adapters::genesys::{Genesys, Http, HttpError};
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::testing::FakeSecretStore;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use serde_json::json;

use crate::runtime::Noon;

/// Credentials of the relay.
pub(crate) const CLIENT_SECRET: &str = "hunter2-hunter2-hunter2";

const SEPARATOR: &[u8] = b"\n---\n";

/// A signed-in client of a Genesys Cloud that gives one answer after the other, and then none.
pub(crate) type Client = Genesys<Answers, FakeSecretStore, Noon>;

/// A path that was asked for, and the body that was given; none where there was no answer.
type Exchange = (String, Vec<u8>);

/// The answers of an input, which `---` in a line of its own separates.
///
/// An answer is a body. One that begins with a status of three digits has header lines and an empty
/// line before that.
#[derive(Clone)]
pub(crate) struct Answers {
    left: Arc<Mutex<VecDeque<Response<Vec<u8>>>>>,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    signs_in: bool,
}

impl Answers {
    /// Reads them. Where the client `signs_in`, what it asks for is answered from them as well.
    pub(crate) fn read(input: &[u8], signs_in: bool) -> Self {
        let left = parts(input).into_iter().map(response).collect();
        Self {
            left: Arc::new(Mutex::new(left)),
            exchanges: Arc::default(),
            signs_in,
        }
    }

    /// A client that they answer.
    pub(crate) fn client(&self) -> Client {
        let secret = json!({ "genesysClientId": "an-id", "genesysClientSecret": CLIENT_SECRET });
        let secrets = SecretCache::new(
            FakeSecretStore::holding(&secret),
            Duration::from_mins(1),
            Noon,
        );
        let schedule =
            Schedule::new(Duration::from_secs(1), Duration::from_secs(30), 4).expect("a schedule");
        let (api, login) = ("https://api.example.com/", "https://login.example.com/");
        Genesys::new(self.clone(), api, login, secrets, schedule, Noon)
    }

    /// Requests so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().expect("not poisoned").clone()
    }

    /// The body of the answer that was given last.
    pub(crate) fn last(&self) -> Vec<u8> {
        self.exchanges().pop().unwrap_or_default().1
    }
}

impl Http for Answers {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let path = request.uri().path().to_owned();
        let signs_in = path == "/oauth/token";
        if signs_in && !self.signs_in {
            return Ok(Response::new(
                br#"{"access_token":"a-token","expires_in":3600}"#.to_vec(),
            ));
        }
        let answer = self.left.lock().expect("not poisoned").pop_front();
        let body = answer
            .as_ref()
            .map(|answer| answer.body().clone())
            .unwrap_or_default();
        self.exchanges
            .lock()
            .expect("not poisoned")
            .push((path, body));
        answer.ok_or(HttpError::TimedOut)
    }
}

fn parts(input: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), input);
    while let Some(end) = rest
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR)
    {
        parts.push(&rest[..end]);
        rest = &rest[end + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

fn response(part: &[u8]) -> Response<Vec<u8>> {
    let status = part.get(..3).filter(|_| part.get(3) == Some(&b'\n'));
    let Some(status) = status.and_then(|status| StatusCode::from_bytes(status).ok()) else {
        return Response::new(part.to_vec());
    };
    let mut response = Response::new(Vec::new());
    *response.status_mut() = status;
    let mut rest = &part[4..];
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, body) = (&rest[..end], &rest[end + 1..]);
        rest = body;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), value) {
            response.headers_mut().append(name, value);
        }
    }
    *response.body_mut() = rest.to_vec();
    response
}
