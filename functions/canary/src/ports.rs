//! Ports of the walk: the public URL over HTTPS, the look function, and the records of checks.

use genesys_relay::adapters::aws::lambda::{InvokeError, LambdaFunction};
use genesys_relay::adapters::genesys::{Http, HttpError};
use genesys_relay::check::{Relay, RelayError, WebRequest, Webhook};
use genesys_relay::dead_letters::{self, Answer, Request};
use genesys_relay::domain::https_url::HttpsUrl;
use genesys_relay::domain::request::Caller;
use genesys_relay::ports::clock::Clock;
use genesys_relay::ports::events_table::EventsTable;
use genesys_relay::runtime::logging::display_chain;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

/// The URL of the webhook.
pub(crate) struct PublicUrl<H> {
    pub(crate) http: H,
    pub(crate) webhook: HttpsUrl,
}

impl<H: Http> Webhook for PublicUrl<H> {
    async fn send(&self, request: WebRequest) -> Result<u16, String> {
        let WebRequest::Webhook { proof, body } = request else {
            return Err("the canary does not ask for dead letters".to_owned());
        };
        let request = http::Request::post(self.webhook.as_url().as_str())
            .header(CONTENT_TYPE, "application/json");
        let request = proof.into_iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        let request = request.body(body).map_err(|error| error.to_string())?;
        match self.http.send(request).await {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(
                error @ (HttpError::TimedOut | HttpError::TooLarge(_) | HttpError::Connection(_)),
            ) => Err(display_chain(&error)),
        }
    }
}

/// The look function, and the one change that the canary makes. Its role can delete records of check
/// events and nothing else, so it does not ask the replay function, which can change everything.
pub(crate) struct Operator<T, C> {
    pub(crate) look: LambdaFunction,
    pub(crate) table: T,
    pub(crate) clock: C,
}

impl<T: EventsTable, C: Clock> Relay for Operator<T, C> {
    async fn look(&self, request: Value) -> Result<Value, RelayError> {
        self.look
            .invoke(&request)
            .await
            .map_err(|error| match error {
                InvokeError::Failed(answer) => refused(&answer),
                InvokeError::Service(error) => RelayError::Unreachable(display_chain(&error)),
            })
    }

    async fn act(&self, request: Value) -> Result<Value, RelayError> {
        forget(&self.table, &self.clock, request).await
    }
}

/// Deletes the records of check events.
async fn forget(
    table: &impl EventsTable,
    clock: &impl Clock,
    request: Value,
) -> Result<Value, RelayError> {
    match Request::parse(request, Caller::of_invocation("canary")) {
        Ok(Request::Forget {
            event_ids,
            requester,
        }) => {
            let report = dead_letters::forget(table, clock, &event_ids, &requester).await;
            let report = report.map_err(|error| RelayError::Unreachable(display_chain(&error)))?;
            Ok(json!(Answer::Forget(report)))
        }
        Ok(other) => Err(RelayError::NotAllowed(format!(
            "the canary forgets, and no more: {other:?}"
        ))),
        Err(error) => Err(RelayError::Refused {
            kind: "InvalidRequest".to_owned(),
            message: error.to_string(),
        }),
    }
}

/// The error of a function, by its answer.
fn refused(answer: &str) -> RelayError {
    let error: Value = serde_json::from_str(answer).unwrap_or_default();
    let text = |name: &str| error[name].as_str().map(str::to_owned);
    RelayError::Refused {
        kind: text("errorType").unwrap_or_else(|| "Error".to_owned()),
        message: text("errorMessage").unwrap_or_else(|| answer.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::testing::{FakeClock, FakeTable};
    use http::{HeaderName, HeaderValue, Response};

    use super::*;

    /// Answers with the status that a request asks for by its proof.
    struct Answering;

    impl Http for Answering {
        async fn send(
            &self,
            request: http::Request<Vec<u8>>,
        ) -> Result<Response<Vec<u8>>, HttpError> {
            assert_eq!(request.uri(), "https://relay.example.com/webhook/genesys");
            assert_eq!(
                (request.method().as_str(), &**request.body()),
                ("POST", &b"{}"[..])
            );
            let Some(proof) = request.headers().get("x-webhook-secret") else {
                return Err(HttpError::TimedOut);
            };
            let mut response = Response::new(Vec::new());
            *response.status_mut() = proof.to_str().expect("text").parse().expect("a status");
            Ok(response)
        }
    }

    #[tokio::test]
    async fn webhook_goes_to_the_url_with_its_proof() {
        let url = PublicUrl {
            http: Answering,
            webhook: "https://relay.example.com/webhook/genesys"
                .parse()
                .expect("a URL"),
        };
        let name = HeaderName::from_static("x-webhook-secret");
        let proof = Some((name, HeaderValue::from_static("401")));
        let request = |proof| WebRequest::Webhook {
            proof,
            body: b"{}".to_vec(),
        };
        assert_eq!(url.send(request(proof)).await, Ok(401));
        assert!(url.send(request(None)).await.is_err());
    }

    #[tokio::test]
    async fn nothing_but_forget_is_carried_out() {
        let act = async |request| forget(&FakeTable::default(), &FakeClock, request).await;
        let forgotten = act(json!({ "action": "forget", "eventIds": ["check-1"] })).await;
        assert_eq!(forgotten.expect("an answer")["action"], "forget");
        for other in [
            json!({ "action": "replay", "all": true }),
            json!({ "action": "erase", "eventIds": ["e"], "why": "a test" }),
        ] {
            assert!(matches!(act(other).await, Err(RelayError::NotAllowed(_))));
        }
    }

    #[test]
    fn error_of_a_function_keeps_its_type() {
        let error = refused(r#"{"errorType":"NotFound","errorMessage":"no record"}"#);
        assert_eq!(error.to_string(), "NotFound: no record");
        assert_eq!(refused("cut off").to_string(), "Error: cut off");
    }
}
