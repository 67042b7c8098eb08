//! An HTTP server on a free port of 127.0.0.1, for whatever this crate and the tests play.

use std::{error::Error, fmt, io, net::Ipv4Addr, pin::Pin, sync::Arc};

use anyhow::Result;
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{HOST, HeaderValue, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// An error instead of an answer.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An error that closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub(crate) struct Closed;

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

/// Writes this, and waits for the client to close: what it has sent unread would turn our end into
/// a reset.
pub(crate) async fn end_with(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
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
    /// Starts one that answers like this. An error closes the connection without an answer, but for
    /// one that takes the connection over. Requests of web pages are refused.
    pub async fn start<A, F, B, E>(answer: A) -> Result<Self>
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<Cause>> + Send + 'static,
        E: Into<Cause> + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                drop(stream.set_nodelay(true));
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answered = if is_foreign(&request) {
                        None
                    } else {
                        Some(answer(request))
                    };
                    async move {
                        match answered {
                            Some(answered) => {
                                answered.await.map(|response| response.map(Either::Left))
                            }
                            None => Ok(refusal().map(Either::Right)),
                        }
                    }
                });
                let mut conversation =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // Else an error is a client that went away, or an answer that was to fail.
                    if let Err(error) = (&mut conversation).await
                        && let Some(TakeOver(rest)) =
                            error.source().and_then(|cause| cause.downcast_ref())
                    {
                        rest(conversation.into_parts().io.into_inner()).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, task })
    }

    /// URL without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A request that a web page made, or that came by a name which leads to this machine only for a
/// moment (DNS rebinding).
fn is_foreign<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok()?.split(':').next());
    let is_of_a_page = |site: &HeaderValue| site != "none";
    !matches!(host, Some("127.0.0.1" | "localhost"))
        || headers.contains_key(ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(is_of_a_page)
        || request.method() == Method::OPTIONS
}

fn refusal() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("served to programs of this machine only\n"));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::clients;

    #[tokio::test]
    async fn web_pages_and_rebound_names_are_refused() -> Result<()> {
        let server = Server::start(|_| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
        })
        .await?;
        let request = || clients::http().post(server.url());
        let by_name = server.url().replace("127.0.0.1", "localhost");
        for (request, status) in [
            (request(), 200),
            (request().header("sec-fetch-site", "none"), 200),
            (clients::http().get(by_name), 200),
            (request().header("origin", "https://page.example"), 403),
            (request().header("origin", server.url()), 403),
            (request().header("sec-fetch-site", "cross-site"), 403),
            (request().header("host", "rebound.example"), 403),
            (clients::http().request(Method::OPTIONS, server.url()), 403),
        ] {
            let request = request.build()?;
            let told = format!("{request:?}");
            assert_eq!(
                clients::http().execute(request).await?.status(),
                status,
                "{told}"
            );
        }
        Ok(())
    }
}
