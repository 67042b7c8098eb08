//! An HTTP server on a free port of 127.0.0.1, for whatever this crate and the tests play.

use std::{error::Error, fmt, net::Ipv4Addr, pin::Pin, sync::Arc};

use anyhow::Result;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

type Cause = Box<dyn Error + Send + Sync>;
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An error with which an answer takes the connection from the server, for what is no HTTP.
#[derive(Clone, thiserror::Error)]
#[error("the connection is taken over")]
pub(crate) struct TakeOver(Arc<dyn Fn(TcpStream) -> Rest + Send + Sync>);

impl TakeOver {
    /// Goes on like this.
    pub(crate) fn new<F: Future<Output = ()> + Send + 'static>(
        rest: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |stream| Box::pin(rest(stream))))
    }
}

impl fmt::Debug for TakeOver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TakeOver")
    }
}

/// A server that runs. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct Server {
    port: u16,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts one that answers like this. An error closes the connection without an answer, but for one that takes the connection over.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start<A, F, B, E>(answer: A) -> Result<Self>
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
                let mut conversation = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // Else an error is a client that went away, or an answer that was to fail.
                    if let Err(error) = (&mut conversation).await
                        && let Some(TakeOver(rest)) = error.source().and_then(|cause| cause.downcast_ref())
                    {
                        rest(conversation.into_parts().io.into_inner()).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, task })
    }

    /// Where it is, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
