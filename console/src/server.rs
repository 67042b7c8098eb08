//! The HTTP server on the loopback interface.

use std::future::IntoFuture as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Extension;
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::check::Checks;
use crate::form::Fields;
use crate::functions::Functions;
use crate::gate::{ENTER, Gate, guard};
use crate::layout::LEAVE;
use crate::lock::Lock;
use crate::pages::{
    archive, breaker, check, conversation, dead_letters, events, find, flow, not_found, resend,
    runs, statements,
};
use crate::problem::Problem;
use crate::relay::Relay;
use crate::runs::Runs;
use crate::state::Console;

/// A server that listens on 127.0.0.1 only.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
    checks: Option<Checks>,
}

impl Server {
    /// Binds a port; 0 stands for a free one.
    pub async fn bind(port: u16) -> Result<Self> {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener =
            bound.with_context(|| format!("cannot listen on port {port} of 127.0.0.1"))?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            gate: Arc::new(Gate::new(address.port())),
            checks: None,
        })
    }

    /// Offers these checks of the deployment.
    #[must_use]
    pub fn with_checks(self, checks: Checks) -> Self {
        let checks = Some(checks);
        Self { checks, ..self }
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Creates sign-in links. Each works once, and a new link invalidates the one before it.
    pub fn links(&self) -> impl Fn() -> String + Send + 'static {
        let gate = Arc::clone(&self.gate);
        move || gate.link()
    }

    /// Serves the pages for the relay behind `functions`; they show `place` and record `by` as the
    /// operator.
    pub async fn serve(
        self,
        functions: Arc<dyn Functions>,
        place: String,
        by: String,
    ) -> Result<()> {
        let console = Arc::new(Console {
            relay: Arc::new(Relay::connect(functions, by).await),
            gate: self.gate,
            runs: Runs::default(),
            place,
            listed: Lock::default(),
            checks: self.checks,
            checked: Lock::default(),
        });
        let served = axum::serve(self.listener, router(console)).into_future();
        served.await.context("the HTTP server ended")
    }
}

type Shared = State<Arc<Console>>;

async fn enter(
    State(console): Shared,
    Extension(query): Extension<Fields>,
) -> Result<Response, Problem> {
    console.gate.enter(&query)
}

async fn leave(State(console): Shared) -> Response {
    console.gate.leave()
}

fn router(console: Arc<Console>) -> Router {
    let style = (
        [(CONTENT_TYPE, "text/css")],
        include_str!("../assets/style.css"),
    );
    let live = (
        [(CONTENT_TYPE, "text/javascript")],
        include_str!("../assets/live.js"),
    );
    Router::new()
        .route(ENTER, get(enter))
        .route(LEAVE, post(leave))
        .route("/", get(flow::show))
        .route("/breaker", post(breaker::set))
        .route("/dead-letters", get(dead_letters::list))
        .route("/replay", post(dead_letters::check_replay))
        .route("/discard", post(dead_letters::check_discard))
        .route("/find", get(find::find))
        .route("/conversations", get(conversation::show))
        .route("/resend", get(resend::show).post(resend::check))
        .route("/events/{id}", get(events::show))
        .route("/events/{id}/body", get(events::body))
        .route("/archive", get(archive::show))
        .route("/statements", get(statements::show))
        .route("/check", get(check::show).post(check::run))
        .route("/runs", get(runs::list).post(runs::start))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/cancel", post(runs::cancel))
        .route("/runs/{id}/go-on", post(runs::go_on))
        .route("/move-task/cancel", post(runs::cancel_move_task))
        .route("/style.css", get(style))
        .route("/live.js", get(live))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&console.gate),
            guard,
        ))
        .with_state(console)
}
