//! HTTPS to Genesys Cloud.

use std::time::Duration;

use http::{Request, Response};
use reqwest::{Client, redirect};

use super::{Http, HttpError};

/// Time for TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for one request, its answer included. A query of analytics can take some seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A longer answer is refused: a function of 128 MB has room for one, with what is made of it.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// An HTTP client. Redirects are not followed: they would take the token along.
#[derive(Debug, Clone)]
pub struct Https(Client);

impl Https {
    /// A client that keeps its connections.
    ///
    /// Fails when the machine's trust store cannot be read. Needs
    /// [`install_tls_provider`](crate::adapters::http_target::install_tls_provider).
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .user_agent(concat!("genesys-relay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self(client))
    }
}

impl Http for Https {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let request = request.try_into().map_err(failed)?;
        let mut response = self.0.execute(request).await.map_err(failed)?;
        let mut answer = Response::new(Vec::new());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.body().len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(HttpError::TooLarge(MAX_ANSWER_BYTES));
            }
            answer.body_mut().extend_from_slice(&chunk);
        }
        Ok(answer)
    }
}

fn failed(error: reqwest::Error) -> HttpError {
    if error.is_timeout() {
        HttpError::TimedOut
    } else {
        HttpError::Connection(error.without_url().into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one request with these bytes, and the request it got.
    async fn exchange(answer: Vec<u8>) -> (Result<Response<Vec<u8>>, HttpError>, String) {
        crate::adapters::http_target::install_tls_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!(
            "http://{}/api/v2/x?a=b",
            listener.local_addr().expect("an address")
        );
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.expect("a request");
            // A client that has heard enough goes away.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let request = Request::post(url)
            .header("authorization", "Bearer t")
            .body(b"{}".to_vec())
            .expect("a request");
        let response = Https::new().expect("a client").send(request).await;
        (response, server.await.expect("served"))
    }

    #[tokio::test]
    async fn a_request_and_its_answer_go_through_as_they_are() {
        let answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}".to_vec();
        let (response, request) = exchange(answer).await;
        let response = response.expect("an answer");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(response.body(), b"{}");
        assert!(
            request.starts_with("POST /api/v2/x?a=b HTTP/1.1")
                && request.contains("authorization: Bearer t")
        );
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_none() {
        let (response, _) =
            exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"entities\":[".to_vec())
                .await;
        assert!(
            matches!(response, Err(HttpError::Connection(_))),
            "{response:?}"
        );
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let (response, _) = exchange(
            b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_vec(),
        )
        .await;
        assert_eq!(response.expect("an answer").status(), 302);
    }

    #[tokio::test]
    async fn an_endless_answer_is_refused() {
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(MAX_ANSWER_BYTES + 1024, b' ');
        let (response, _) = exchange(endless).await;
        assert!(
            matches!(response, Err(HttpError::TooLarge(_))),
            "{response:?}"
        );
    }
}
