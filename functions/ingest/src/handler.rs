//! Turns an HTTP request into a call of [`Ingest`], and its outcome into an answer.

#[cfg(test)]
mod tests;

use std::time::Duration;

use genesys_relay::domain::trace::TraceHeader;
use genesys_relay::ingest::{Accepted, Ingest, Refusal};
use genesys_relay::ports::clock::{Clock, end_of_invocation};
use genesys_relay::ports::queue::Sender;
use genesys_relay::ports::secrets::SecretStore;
use genesys_relay::runtime::lambda_http::problem_details;
use genesys_relay::runtime::logging::{self, display_chain};
use genesys_relay::runtime::metrics::{self, Rejection};
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use lambda_http::http::{HeaderValue, Method, Request, StatusCode, header};
use lambda_http::{Body, Context, LambdaEvent};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::event::Event;

/// The `Retry-After` of a 503, in seconds: the pause between Genesys Cloud's own retries.
const RETRY_AFTER_SECONDS: &str = "5";

/// The 503 is given this long before the invocation ends: a function that is killed at its end
/// gives no answer, and the next event waits for a new process.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Answers one webhook.
pub(crate) async fn handle<E, D, S, C>(
    ingest: &Ingest<E, D, S, C>,
    LambdaEvent { payload, context }: LambdaEvent<Event>,
) -> ApiGatewayV2httpResponse
where
    E: Sender,
    D: Sender,
    S: SecretStore,
    C: Clock,
{
    let request = Request::from(payload);
    if request.method() != Method::POST {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "Send the event with POST.");
    }
    let work = ingest.ingest(request.headers(), request.body(), trace(&context));
    match timeout(time_to_work(&context), work).await {
        Ok(Ok(accepted)) => accept(&request, &accepted),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => out_of_time(),
    }
}

/// The time left for the event. It may be stored all the same when that is over: it then comes
/// twice, with one id (a body without an identity is an event of its own each time).
fn time_to_work(context: &Context) -> Duration {
    end_of_invocation(context.deadline())
        .saturating_duration_since(Instant::now())
        .saturating_sub(ANSWER_TIME)
}

/// The trace of the invocation, if X-Ray knows one.
fn trace(context: &Context) -> Option<TraceHeader> {
    TraceHeader::new(context.xray_trace_id.as_deref()?)
}

fn out_of_time() -> ApiGatewayV2httpResponse {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    tracing::error!(
        status = status.as_u16(),
        error = "the invocation ran out of time",
        "not accepted"
    );
    metrics::REJECTED.add(Rejection::Unavailable, 1);
    problem(
        status,
        "The relay cannot store the event in time. Send it again.",
    )
}

fn accept(request: &Request<Vec<u8>>, accepted: &Accepted) -> ApiGatewayV2httpResponse {
    let webhook_id = request
        .headers()
        .get("x-genesys-webhook-id")
        .and_then(|id| id.to_str().ok());
    if logging::should_log(&accepted.id) {
        tracing::info!(event_id = %accepted.id, source = %accepted.source, bytes = accepted.size, webhook_id, "accepted");
    }
    let body = json!({ "status": "accepted", "eventId": accepted.id });
    response(StatusCode::OK, "application/json", &body)
}

fn refuse(refusal: &Refusal) -> ApiGatewayV2httpResponse {
    let status = status(refusal);
    if let Some(fault) = refusal.fault() {
        tracing::error!(
            status = status.as_u16(),
            error = display_chain(fault),
            "not accepted"
        );
    } else {
        let event_id = match refusal {
            Refusal::NotJson { kept_as, .. } => Some(kept_as.as_str()),
            _ => None,
        };
        tracing::warn!(
            event_id,
            status = status.as_u16(),
            reason = refusal.reason(),
            "not accepted"
        );
    }
    problem(status, &refusal.to_string())
}

fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NoProof(_) | Refusal::WrongProof => StatusCode::UNAUTHORIZED,
        Refusal::Empty | Refusal::NotJson { .. } => StatusCode::BAD_REQUEST,
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::NotConfigured { .. }
        | Refusal::SecretsUnavailable(_)
        | Refusal::QueueUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn problem(status: StatusCode, detail: &str) -> ApiGatewayV2httpResponse {
    let mut response = response(
        status,
        "application/problem+json",
        &problem_details(status, detail),
    );
    let extra = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, RETRY_AFTER_SECONDS)),
        StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "POST")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        response
            .headers
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: &serde_json::Value,
) -> ApiGatewayV2httpResponse {
    let mut response = ApiGatewayV2httpResponse::default();
    response.status_code = status.as_u16().into();
    response
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.body = Some(Body::Text(body.to_string()));
    response
}
