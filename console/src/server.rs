//! The HTTP server on the loopback interface.

use std::future::IntoFuture as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Extension;
use axum::Router;
use axum::http::header;
use axum::middleware;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::form::Fields;
use crate::functions::Functions;
use crate::gate::{ENTER, Gate, guard};
use crate::layout::LEAVE;
use crate::pages::{archive, breaker, dead_letters, events, flow, not_found, runs};
use crate::runs::Runs;
use crate::state::Console;

/// A server that listens on 127.0.0.1 only.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
}

impl Server {
    /// Binds a port; 0 stands for a free one.
    pub async fn bind(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener =
            listener.with_context(|| format!("cannot listen on port {port} of 127.0.0.1"))?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            gate: Arc::new(Gate::new(address.port())),
        })
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
        let Self { listener, gate, .. } = self;
        let console = Console {
            functions,
            gate: Arc::clone(&gate),
            runs: Runs::default(),
            place,
            by,
        };
        axum::serve(listener, router(Arc::new(console), gate))
            .into_future()
            .await
            .context("the HTTP server ended")
    }
}

fn router(console: Arc<Console>, gate: Arc<Gate>) -> Router {
    let enter = {
        let gate = Arc::clone(&gate);
        async move |Extension(query): Extension<Fields>| gate.enter(&query)
    };
    let leave = {
        let gate = Arc::clone(&gate);
        async move || gate.leave()
    };
    Router::new()
        .route(ENTER, get(enter))
        .route(LEAVE, post(leave))
        .route("/", get(flow::show))
        .route("/breaker", post(breaker::set))
        .route("/dead-letters", get(dead_letters::list))
        .route("/replay", post(dead_letters::check_replay))
        .route("/discard", post(dead_letters::check_discard))
        .route("/events", get(events::find))
        .route("/events/{id}", get(events::show))
        .route("/events/{id}/body", get(events::body))
        .route("/archive", get(archive::show))
        .route("/runs", get(runs::list).post(runs::start))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/cancel", post(runs::cancel))
        .route("/move-task/cancel", post(runs::cancel_move_task))
        .route(
            "/style.css",
            get(file("text/css", include_str!("../assets/style.css"))),
        )
        .route(
            "/live.js",
            get(file("text/javascript", include_str!("../assets/live.js"))),
        )
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(gate, guard))
        .with_state(console)
}

fn file(
    kind: &'static str,
    content: &'static str,
) -> impl Fn() -> std::future::Ready<([(header::HeaderName, &'static str); 1], &'static str)> + Clone
{
    move || std::future::ready(([(header::CONTENT_TYPE, kind)], content))
}
