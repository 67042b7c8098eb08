//! Turns an HTTP request into a call of [`Ingest`], and its outcome into an answer.

#[cfg(test)]
mod tests;

use std::time::Duration;

use genesys_relay::domain::trace::TraceHeader;
use genesys_relay::ingest::{Accepted, Ingest, PortTypes, Refusal};
use genesys_relay::ports::clock::end_of_invocation;
use genesys_relay::runtime::lambda_http::{HttpAnswer, HttpEvent};
use genesys_relay::runtime::logging::{self, display_chain};
use genesys_relay::runtime::metrics::{self, Rejection};
use lambda_http::http::{HeaderMap, StatusCode};
use lambda_http::{Context, LambdaEvent};
use serde_json::json;
use tokio::time::{Instant, timeout};

/// The `Retry-After` of a 503, in seconds: the pause between Genesys Cloud's own retries.
const RETRY_AFTER_SECONDS: &str = "5";

/// The 503 is given this long before the invocation ends: a function that is killed at its end
/// gives no answer, and the next event waits for a new process.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Answers one webhook.
pub(crate) async fn handle<T: PortTypes>(
    ingest: &Ingest<T>,
    LambdaEvent { payload, context }: LambdaEvent<HttpEvent>,
) -> HttpAnswer {
    if payload.method() != "POST" {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "Send the event with POST.");
    }
    let headers = payload.headers();
    let body = payload.into_body();
    let work = ingest.ingest(&headers, &body, trace(&context));
    match timeout(time_to_work(&context), work).await {
        Ok(Ok(accepted)) => accept(&headers, &accepted),
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

fn out_of_time() -> HttpAnswer {
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

fn accept(headers: &HeaderMap, accepted: &Accepted) -> HttpAnswer {
    let webhook_id = headers
        .get("x-genesys-webhook-id")
        .and_then(|id| id.to_str().ok());
    if logging::should_log(&accepted.id) {
        tracing::info!(event_id = %accepted.id, source = %accepted.source, bytes = accepted.size, webhook_id, "accepted");
    }
    let body = json!({ "status": "accepted", "eventId": accepted.id });
    HttpAnswer::new(StatusCode::OK, "application/json", body.to_string())
}

fn refuse(refusal: &Refusal) -> HttpAnswer {
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

fn problem(status: StatusCode, detail: &str) -> HttpAnswer {
    let answer = HttpAnswer::problem(status, detail, None);
    match status {
        StatusCode::SERVICE_UNAVAILABLE => answer.with_header("retry-after", RETRY_AFTER_SECONDS),
        StatusCode::METHOD_NOT_ALLOWED => answer.with_header("allow", "POST"),
        _ => answer,
    }
}
