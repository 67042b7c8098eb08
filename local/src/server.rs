//! An HTTP server on a free port of 127.0.0.1, for whatever this crate plays.

use std::{error::Error, net::Ipv4Addr};

use anyhow::Result;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

type Cause = Box<dyn Error + Send + Sync>;

/// A server that runs. Dropping it closes its port and all connections.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts one that answers like this. An error closes the connection without an answer.
    pub(crate) async fn start<A, F, B, E>(answer: A) -> Result<Self>
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Data: Send, Error: Into<Cause>> + Send + 'static,
        E: Into<Cause> + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                drop(stream.set_nodelay(true));
                let service = service_fn(answer.clone());
                let conversation = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // An error is a client that went away, or an answer that was to fail.
                connections.spawn(async move { drop(conversation.await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, task })
    }

    /// Where it is, without a path.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
