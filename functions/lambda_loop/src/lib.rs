//! Asks Lambda for invocations, hands each to the function, and answers it.
//!
//! In place of `lambda_runtime::run`, which writes the trace id of each invocation into the
//! environment (`_X_AMZN_TRACE_ID`). The C library keeps every value that a variable ever had, and
//! so the process grows by 120 bytes with each invocation, for as long as it lives. The relay has
//! no use for that variable.
//!
//! After the Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".

#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::fmt::Debug;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use lambda_runtime::{Config, Context, Diagnostic, LambdaEvent, Service};
use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{Client, build_request};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(panic = "abort")]
compile_error!("a panic must fail its record only: set `panic = \"unwind\"` in the profile");

const INVOCATIONS: &str = "/2018-06-01/runtime/invocation";

/// The id of an invocation.
const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");

const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");

/// Repeated in the answer where it is given: with it, Lambda tells a late answer from one to the
/// next invocation.
const INVOCATION_ID: HeaderName = HeaderName::from_static("lambda-runtime-invocation-id");

/// Marks a failure. The error itself is in the answer.
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");
const UNHANDLED: HeaderValue = HeaderValue::from_static("unhandled");

type Cause = Box<dyn StdError + Send + Sync>;

/// An error that ends the process. Lambda starts another one.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The Runtime API did not answer, or the connection broke.
    #[error("the Lambda Runtime API did not answer")]
    Unreachable(#[source] Cause),
    /// The Runtime API's answer is no invocation.
    #[error("the Lambda Runtime API gave no invocation: {0}")]
    NoInvocation(String),
    /// The Runtime API failed. "Runtime should exit promptly" in that case, says Lambda.
    #[error("the Lambda Runtime API failed to accept an answer: {0}")]
    Broken(StatusCode),
    /// The answer cannot be serialised.
    #[error("the answer could not be serialised")]
    Unwritable(#[source] Cause),
}

/// Answers invocations one after the other, until Lambda ends the process.
///
/// A payload or a context that cannot be read, and an error or a panic of the function, are
/// answered as failures; then the next invocation comes.
///
/// `afterwards` is called between two invocations: the answer is delivered, and the process is
/// neither frozen nor needed.
pub async fn run<P, S>(function: S, afterwards: impl FnMut()) -> Result<(), Stopped>
where
    P: DeserializeOwned,
    S: Service<LambdaEvent<P>, Response: Serialize, Error: Into<Diagnostic> + Debug>,
{
    let config = Arc::new(Config::from_env());
    let api = Client::builder()
        .build()
        .map_err(|error| Stopped::Unreachable(error.into()))?;
    answer_all(function, afterwards, &api, &config).await
}

async fn answer_all<P, S>(
    mut function: S,
    mut afterwards: impl FnMut(),
    api: &Client,
    config: &Arc<Config>,
) -> Result<(), Stopped>
where
    P: DeserializeOwned,
    S: Service<LambdaEvent<P>, Response: Serialize, Error: Into<Diagnostic> + Debug>,
{
    loop {
        let (next, payload) =
            call(api, Method::GET, "next", HeaderMap::new(), Body::empty()).await?;
        // `cargo lambda watch` says so while there is none.
        if next.status == StatusCode::NO_CONTENT {
            continue;
        }
        if next.status != StatusCode::OK {
            return Err(Stopped::NoInvocation(next.status.to_string()));
        }
        let request_id = next.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        // Without it the invocation cannot be answered.
        let request_id =
            request_id.ok_or_else(|| Stopped::NoInvocation("no request id".to_owned()))?;
        let outcome = match context(request_id, &next.headers, config) {
            Ok(context) => invoke(&mut function, payload.as_ref(), context).await,
            Err(unreadable) => Err(unreadable),
        };
        let mut headers = HeaderMap::new();
        headers.extend(
            next.headers
                .get(INVOCATION_ID)
                .map(|id| (INVOCATION_ID, id.clone())),
        );
        let (outcome, answer) = match outcome {
            Ok(answer) => ("response", json(&answer)?),
            Err(failure) => {
                headers.insert(ERROR_TYPE, UNHANDLED);
                ("error", json(&failure)?)
            }
        };
        let (taken, _) = call(
            api,
            Method::POST,
            &format!("{request_id}/{outcome}"),
            headers,
            answer,
        )
        .await?;
        afterwards();
        if taken.status.is_server_error() {
            return Err(Stopped::Broken(taken.status));
        }
        if !taken.status.is_success() {
            // Most likely it came too late, and the caller has an error.
            tracing::error!(
                status = taken.status.as_u16(),
                "Lambda did not accept the answer"
            );
        }
    }
}

fn context(
    request_id: &str,
    headers: &HeaderMap,
    config: &Arc<Config>,
) -> Result<Context, Diagnostic> {
    // Without a deadline the context panics.
    let context = headers
        .contains_key(DEADLINE)
        .then(|| Context::new(request_id, Arc::clone(config), headers));
    // The error itself could quote data of a sender.
    context.and_then(Result::ok).ok_or_else(|| {
        not_invoked(
            "InvalidContext",
            "the deadline, the client context or the identity cannot be read".to_owned(),
        )
    })
}

/// The error for an invocation that the function does not receive.
fn not_invoked(error_type: &str, error_message: String) -> Diagnostic {
    tracing::error!(error = error_message, "not invoked");
    Diagnostic {
        error_type: error_type.to_owned(),
        error_message,
    }
}

async fn call(
    api: &Client,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Body,
) -> Result<(Parts, impl AsRef<[u8]> + use<>), Stopped> {
    let request = build_request()
        .method(method)
        .uri(format!("{INVOCATIONS}/{path}"))
        .body(body);
    let mut request = request.map_err(|error| Stopped::Unwritable(error.into()))?;
    request.headers_mut().extend(headers);
    let (head, body) = api
        .call(request)
        .await
        .map_err(Stopped::Unreachable)?
        .into_parts();
    let body = body
        .collect()
        .await
        .map_err(|error| Stopped::Unreachable(error.into()))?;
    Ok((head, body.to_bytes()))
}

/// Calls the function for one invocation, and logs an error.
async fn invoke<P, S>(
    function: &mut S,
    payload: &[u8],
    context: Context,
) -> Result<S::Response, Diagnostic>
where
    P: DeserializeOwned,
    S: Service<LambdaEvent<P>, Error: Into<Diagnostic> + Debug>,
{
    let payload = serde_json::from_slice(payload).map_err(|error| {
        // The place of the error, not the content.
        let place = format!(
            "the payload could not be read: line {}, column {}",
            error.line(),
            error.column()
        );
        not_invoked("InvalidPayload", place)
    })?;
    let answer = unwinding(async {
        poll_fn(|task| function.poll_ready(task)).await?;
        function.call(LambdaEvent::new(payload, context)).await
    });
    match answer.await {
        Ok(answer) => answer.map_err(|error| {
            tracing::error!("{error:?}");
            error.into()
        }),
        // The hook has logged it (`genesys_relay::runtime::logging`). Its text may hold data of a
        // sender.
        Err(Panicked) => Err(Diagnostic {
            error_type: "Panic".to_owned(),
            error_message: "the function panicked".to_owned(),
        }),
    }
}

/// A panic in place of an output.
struct Panicked;

/// The future's output, if it does not panic.
async fn unwinding<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(
        |task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        },
    )
    .await
}

fn json(value: &impl Serialize) -> Result<Body, Stopped> {
    serde_json::to_vec(value)
        .map(Body::from)
        .map_err(|error| Stopped::Unwritable(error.into()))
}
