//! A target that answers as each event asks it to, and remembers nothing but numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use local::server::Server;

/// Prefix of an event's body; the status follows.
pub(crate) const ASKS: &str = r#"{"answer":"#;

/// Asks for no answer: the connection breaks.
pub(crate) const HANGS_UP: u16 = 999;

/// A target on loopback.
pub(crate) struct Target {
    server: Server,
    answered: Arc<Mutex<BTreeMap<u16, usize>>>,
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the target hangs up")]
struct HangsUp;

impl Target {
    pub(crate) async fn start() -> Result<Self> {
        let answered = Arc::<Mutex<BTreeMap<u16, usize>>>::default();
        let count = Arc::clone(&answered);
        let server = Server::start(move |request| answer(request, Arc::clone(&count))).await?;
        Ok(Self { server, answered })
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/events", self.server.url())
    }

    /// Number of answers with this status.
    pub(crate) fn answered(&self, status: u16) -> usize {
        self.answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&status)
            .copied()
            .unwrap_or_default()
    }
}

async fn answer(
    request: Request<Incoming>,
    answered: Arc<Mutex<BTreeMap<u16, usize>>>,
) -> Result<Response<Empty<Bytes>>, HangsUp> {
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|_| HangsUp)?
        .to_bytes();
    let asked = body
        .strip_prefix(ASKS.as_bytes())
        .and_then(|rest| str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    let status = asked.unwrap_or(200);
    *answered
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(status)
        .or_default() += 1;
    if status == HANGS_UP {
        return Err(HangsUp);
    }
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| HangsUp)?;
    Ok(response)
}
