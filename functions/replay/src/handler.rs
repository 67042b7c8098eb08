//! Handler of direct requests and of events of the HTTP API. Turns a request into a call of
//! [`DeadLetters`], and its outcome into an answer or an error that names the field.

use std::sync::Arc;

use genesys_relay::breaker::watchdog;
use genesys_relay::dead_letters::{Answer, DeadLetters, PortTypes, ReplayError, Request};
use genesys_relay::domain::request::{Caller, InvalidRequest};
use genesys_relay::ports::clock::{Clock as _, end_of_invocation};
use genesys_relay::ports::event_source::EventSource;
use genesys_relay::ports::service::ServiceError;
use genesys_relay::runtime::lambda_http::HttpAnswer;
use genesys_relay::runtime::logging::display_chain;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Serialize;
use serde_json::Value;

use crate::api::Api;
use crate::background::Background;

/// Parts of the function.
pub(crate) struct Function<T: PortTypes, B, M> {
    pub(crate) dead_letters: DeadLetters<T>,
    pub(crate) background: B,
    /// Event source mappings that the breaker disables.
    pub(crate) event_sources: Vec<M>,
    /// Concurrent invocations of the processor while the breaker is closed.
    pub(crate) maximum_concurrency: u32,
    /// Name of the function that carries out changes, where this one carries out none.
    pub(crate) acts_elsewhere: Option<String>,
}

/// Answer of the function.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// To a direct invocation.
    Direct(Box<Answer>),
    /// To API Gateway.
    Http(HttpAnswer),
}

/// Error of an invocation, which Lambda and the console show.
#[derive(Debug)]
pub(crate) enum InvocationError {
    /// The request was not understood.
    Invalid(InvalidRequest),
    /// This function changes nothing; the named one does.
    NotAllowed(String),
    /// The request was not carried out.
    Failed(ReplayError),
    /// Lambda did not take the invocation that would carry it out.
    NotStarted(ServiceError),
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let (error_type, error_message) = match error {
            InvocationError::Invalid(error) => ("InvalidRequest", error.to_string()),
            InvocationError::NotAllowed(function) => (
                "NotAllowed",
                format!("this function changes nothing; invoke the function {function:?}"),
            ),
            InvocationError::Failed(
                error @ (ReplayError::NoConversationIndex | ReplayError::NoJournal),
            ) => ("Off", error.to_string()),
            InvocationError::Failed(error @ ReplayError::TooManyErasures(_)) => {
                ("TooMany", error.to_string())
            }
            InvocationError::Failed(
                error @ (ReplayError::Busy(_) | ReplayError::Moving { .. }),
            ) => ("Busy", error.to_string()),
            InvocationError::Failed(
                error @ (ReplayError::NameTaken { .. } | ReplayError::Journalled(_)),
            ) => ("InvalidRequest", error.to_string()),
            InvocationError::NotStarted(error) => (error.kind(), display_chain(&error)),
            InvocationError::Failed(
                error @ (ReplayError::Unknown(_)
                | ReplayError::NotListed(..)
                | ReplayError::UnknownRun(_)),
            ) => ("NotFound", error.to_string()),
            InvocationError::Failed(ReplayError::Service(error)) => {
                (error.kind(), display_chain(&error))
            }
            InvocationError::Failed(error @ ReplayError::Archive(_)) => {
                ("ArchiveError", display_chain(&error))
            }
        };
        Self {
            error_type: error_type.to_owned(),
            error_message,
        }
    }
}

/// Answers one request.
pub(crate) async fn handle<T: PortTypes, B: Background, M: EventSource>(
    function: Arc<Function<T, B, M>>,
    event: LambdaEvent<Value>,
) -> Result<Reply, InvocationError> {
    let LambdaEvent { payload, context } = event;
    let Function {
        dead_letters,
        background,
        event_sources,
        maximum_concurrency,
        acts_elsewhere,
    } = function.as_ref();
    let end = end_of_invocation(context.deadline());
    if payload["requestContext"]["http"].is_object() {
        return Ok(Reply::Http(
            Api {
                dead_letters,
                background,
                acts_elsewhere: acts_elsewhere.as_deref(),
            }
            .answer(payload, context.request_id, end)
            .await,
        ));
    }
    let caller = Caller::of_invocation(context.request_id);
    let begun = (payload["begin"] == true).then(|| payload.clone());
    let request = Request::parse(payload, caller).map_err(InvocationError::Invalid)?;
    if let Some(function) = acts_elsewhere
        && !request.is_look()
    {
        return Err(InvocationError::NotAllowed(function.clone()));
    }
    if let Request::Reconcile {
        if_needed: true,
        requester,
        ..
    } = &request
    {
        let (table, now) = (&dead_letters.ports.table, dead_letters.ports.clock.now());
        if let Err(error) =
            watchdog::release_if_stale(table, event_sources, *maximum_concurrency, requester, now)
                .await
        {
            // The next schedule is minutes away, and the reconciliation is independent of the
            // breaker.
            tracing::error!(
                error = display_chain(&error),
                "failed to check whether the breaker is still running"
            );
        }
    }
    if let Request::Start(start) = request {
        let (status, is_open) = dead_letters
            .enlist(&start)
            .await
            .map_err(InvocationError::Failed)?;
        if is_open {
            background
                .hand_over(&start.payload)
                .await
                .map_err(InvocationError::NotStarted)?;
        }
        return Ok(Reply::Direct(Box::new(Answer::from(status))));
    }
    let answer = dead_letters
        .handle(request, end)
        .await
        .map_err(InvocationError::Failed)?;
    if let Some(payload) = begun {
        go_on(dead_letters, background, &payload).await;
    }
    Ok(Reply::Direct(Box::new(answer)))
}

/// Hands a background run over once more if its time was not enough. Where that fails it is
/// `unfinished`, and an operator's same request goes on.
async fn go_on<T: PortTypes, B: Background>(
    dead_letters: &DeadLetters<T>,
    background: &B,
    payload: &Value,
) {
    let run_id = payload["runId"].as_str().unwrap_or_default();
    let outcome = match dead_letters.goes_on(run_id).await {
        Ok(true) => background
            .hand_over(payload)
            .await
            .map_err(|error| display_chain(&error)),
        Ok(false) => Ok(()),
        Err(error) => Err(display_chain(&error)),
    };
    if let Err(error) = outcome {
        tracing::error!(
            run_id,
            error,
            "failed to begin another invocation of the run; send the same request again if it is unfinished"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use genesys_relay::domain::circuit::{Circuit, Settings, State};
    use genesys_relay::ports::archive::Archive as _;
    use genesys_relay::ports::clock::Clock as _;
    use genesys_relay::ports::event_source::EventSource as _;
    use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
    use genesys_relay::ports::queue::Sender as _;
    use genesys_relay::testing::FakeClock;
    use serde_json::json;
    use uuid::Uuid;

    use crate::testing::{
        Fakes, dead_letter_of, function, invoke, refused, sample, send_to_dead_letters,
    };

    /// The dead letters that the samples are about.
    async fn with_the_dead_letters_of_the_samples() -> Fakes {
        let function = function();
        send_to_dead_letters(
            &function,
            ["ingest-webhook-envelope", "ingest-open-messaging-text"].map(dead_letter_of),
        )
        .await;
        function
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_of_the_events_folder_is_understood() {
        for name in [
            "status",
            "list",
            "show",
            "dry-run",
            "all",
            "filter",
            "ids",
            "cancel",
            "reconcile",
            "archive",
            "discard",
            "discard-filter",
            "conversation",
            "statements",
            "erase",
            "erase-ids",
            "journal",
            "forget",
            "resend-dry-run",
        ] {
            let function = with_the_dead_letters_of_the_samples().await;
            let request = sample(&format!("replay-{name}"));
            let answer = invoke(&function, request.clone())
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(answer["action"], request["action"], "{name}");
            assert!(
                answer["failed"].as_array().is_none_or(Vec::is_empty),
                "{name}: {answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_function_that_looks_changes_nothing() {
        let mut function = with_the_dead_letters_of_the_samples().await;
        let parts = std::sync::Arc::get_mut(&mut function).expect("one owner");
        parts.acts_elsewhere = Some("the-acting-function".to_owned());
        let looks = [
            "status",
            "list",
            "show",
            "dry-run",
            "conversation",
            "statements",
            "resend-dry-run",
        ];
        for name in looks {
            let answer = invoke(&function, sample(&format!("replay-{name}"))).await;
            assert!(answer.is_ok(), "{name}: {answer:?}");
        }
        let before = function.dead_letters.ports.table.records();
        let acts = [
            "all",
            "filter",
            "ids",
            "cancel",
            "reconcile",
            "archive",
            "restore",
            "discard",
            "background",
            "erase",
            "resend",
            "journal",
            "forget",
            "cancel-run",
        ];
        for name in acts {
            let error = invoke(&function, sample(&format!("replay-{name}"))).await;
            let error = error.expect_err(name);
            assert_eq!(error.error_type, "NotAllowed", "{name}");
            assert!(
                error.error_message.contains("the-acting-function"),
                "{name}"
            );
        }
        let mut begun = sample("replay-background");
        begun["begin"] = true.into();
        let error = invoke(&function, begun).await.expect_err("refused");
        assert_eq!(error.error_type, "NotAllowed");
        let retry = invoke(&function, sample("replay-http-retry")).await;
        assert_eq!(retry.expect("answered")["statusCode"], 403);
        let list = invoke(&function, sample("replay-http-list")).await;
        assert_eq!(list.expect("answered")["statusCode"], 200);
        assert_eq!(function.dead_letters.ports.table.records(), before);
        assert!(function.background.requests().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_sample_of_a_restore_restores_what_was_archived() {
        let function = with_the_dead_letters_of_the_samples().await;
        let archived = invoke(
            &function,
            json!({ "action": "archive", "olderThanDays": 0 }),
        )
        .await
        .expect("archived");
        let request = sample("replay-restore");
        let archive = &function.dead_letters.ports.archive;
        let object = archive
            .get(archived["keys"][0].as_str().expect("a key"))
            .await
            .expect("there");
        archive
            .put(request["key"].as_str().expect("a key"), object)
            .await
            .expect("written");

        let answer = invoke(&function, request).await.expect("restored");
        assert_eq!(
            (&answer["action"], &answer["restored"]),
            (&json!("restore"), &json!(2)),
            "{answer}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_understood_is_an_error_that_names_the_field() {
        let request = json!({ "action": "replay", "all": true, "ratePerSecond": "fast" });
        let error = invoke(&function(), request).await.expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest");
        assert!(error.error_message.contains("ratePerSecond"), "{error:?}");
        let error = invoke(
            &function(),
            json!({ "action": "show", "eventId": "unknown-event" }),
        )
        .await
        .expect_err("unknown");
        assert_eq!(error.error_type, "NotFound");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_with_a_name_is_handed_over_and_answered_at_once() {
        let function = with_the_dead_letters_of_the_samples().await;
        let mut request = sample("replay-background");
        request["olderThanDays"] = 0.into();
        let status = json!({ "action": "status", "runId": request["runId"] });
        function.background.fail();
        let error = invoke(&function, request.clone())
            .await
            .expect_err("not taken");
        assert_eq!(error.error_type, "LambdaError");
        let function = with_the_dead_letters_of_the_samples().await;
        let answer = invoke(&function, request.clone()).await.expect("started");
        assert_eq!(
            (&answer["action"], &answer["background"]["state"]),
            (&json!("status"), &json!("waiting"))
        );
        let [payload] = &function.background.requests()[..] else {
            panic!("handed over once")
        };
        assert_eq!(
            (&payload["begin"], &payload["by"]),
            (&json!(true), &request["by"])
        );
        invoke(&function, payload.clone())
            .await
            .expect("carried out");
        assert_eq!(
            invoke(&function, request).await.expect("known")["background"]["state"],
            "ended"
        );
        assert_eq!(
            function.background.requests().len(),
            1,
            "not handed over again"
        );
        let answer = invoke(&function, status).await.expect("known");
        assert_eq!(answer["background"]["report"]["archived"], 2, "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn samples_of_a_resend_start_and_cancel_it() {
        let function = function();
        let ports = &function.dead_letters.ports;
        let journal = ports.journal.as_ref().expect("a journal");
        let delivered = dead_letter_of("ingest-webhook-envelope").without_reason();
        let delivered = delivered.with_identity(FakeClock.now());
        journal.send(&delivered).await.expect("sent");
        // More than clocks may differ.
        tokio::time::advance(Duration::from_mins(1)).await;
        for name in ["resend", "resend-conversation"] {
            let answer = invoke(&function, sample(&format!("replay-{name}"))).await;
            let answer = answer.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(answer["background"]["state"], "waiting", "{name}");
        }
        let [resend, of_conversation] = &function.background.requests()[..] else {
            panic!("handed over")
        };
        invoke(&function, resend.clone())
            .await
            .expect("carried out");
        assert_eq!(ports.events.messages().len(), 1);
        let mut cancel = sample("replay-cancel-run");
        let answer = invoke(&function, cancel.clone()).await.expect("known");
        assert_eq!(answer["background"]["state"], "ended");
        cancel["runId"] = of_conversation["runId"].clone();
        let answer = invoke(&function, cancel).await.expect("known");
        assert_eq!(
            answer["background"]["error"],
            "cancelled by the night shift"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn resend_goes_on_in_further_invocations_until_it_has_ended() {
        const EVENTS: usize = 1000;
        let function = function();
        let ports = &function.dead_letters.ports;
        let journal = ports.journal.as_ref().expect("a journal");
        for number in 0..EVENTS {
            let body = json!({ "number": number }).to_string();
            let delivered = refused(body).without_reason();
            let delivered = delivered.with_identity(FakeClock.now());
            journal.send(&delivered).await.expect("sent");
        }
        tokio::time::advance(Duration::from_mins(1)).await;
        let request = json!({
            "action": "resend", "filter": { "since": "2026-01-15T12:00:00Z" }, "ratePerSecond": 1,
            "runId": "slow", "why": "a test",
        });
        invoke(&function, request).await.expect("handed over");
        let mut carried_out = 0;
        while let Some(payload) = function.background.requests().get(carried_out) {
            carried_out += 1;
            assert!(ports.events.messages().len() < EVENTS, "nothing is left");
            invoke(&function, payload.clone())
                .await
                .expect("carried out");
        }
        assert!(carried_out > 1, "one invocation was enough");
        assert_eq!(ports.events.messages().len(), EVENTS);
        let status = json!({ "action": "status", "runId": "slow" });
        let answer = invoke(&function, status).await.expect("known");
        assert_eq!(answer["background"]["state"], "ended", "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn run_that_gets_nowhere_is_not_begun_for_ever() {
        let function = function();
        let ports = &function.dead_letters.ports;
        let journal = ports.journal.as_ref().expect("a journal");
        let delivered = refused(json!({ "number": 1 }).to_string()).without_reason();
        journal.send(&delivered).await.expect("sent");
        tokio::time::advance(Duration::from_mins(1)).await;
        let request = json!({
            "action": "resend", "filter": { "since": "2026-01-15T12:00:00Z" }, "runId": "stuck", "why": "a test",
        });
        invoke(&function, request).await.expect("handed over");
        let mut carried_out = 0;
        while let Some(payload) = function.background.requests().get(carried_out) {
            carried_out += 1;
            // Another run always has the journal's queue.
            let now = FakeClock.now();
            let lease = RunLease {
                owner: Uuid::new_v4(),
                action: "erase".into(),
                by: "an operator".into(),
                since: now,
                until: now + Duration::from_hours(24),
            };
            let taken = ports.table.acquire(LeaseName::Journal, &lease, now).await;
            taken.expect("written");
            invoke(&function, payload.clone())
                .await
                .expect("carried out");
        }
        assert_eq!(carried_out, 12);
        let status = json!({ "action": "status", "runId": "stuck" });
        let answer = invoke(&function, status).await.expect("known");
        assert_eq!(answer["background"]["state"], "unfinished", "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn schedule_enables_the_mapping_of_a_stopped_breaker() {
        let function = function();
        let now = FakeClock.now();
        let circuit = Circuit {
            state: State::Open,
            ..Circuit::closed(now)
        };
        function
            .dead_letters
            .ports
            .table
            .save_circuit(&circuit)
            .await
            .expect("saved");
        let held = Settings {
            enabled: false,
            maximum_concurrency: 2,
        };
        function.event_sources[0].set(held).await.expect("set");

        let schedule = json!({ "action": "reconcile", "ifNeeded": true });
        tokio::time::advance(Duration::from_mins(9)).await;
        invoke(&function, schedule.clone()).await.expect("done");
        assert_eq!(
            function.event_sources[0].now(),
            held,
            "the breaker may be running"
        );
        tokio::time::advance(Duration::from_mins(1)).await;
        invoke(&function, json!({ "action": "reconcile" }))
            .await
            .expect("done");
        assert_eq!(
            function.event_sources[0].now(),
            held,
            "an operator's request does not check the breaker"
        );
        invoke(&function, schedule).await.expect("done");
        assert_eq!(
            function.event_sources[0].now(),
            Settings {
                enabled: true,
                maximum_concurrency: 10
            }
        );
        let circuit = function
            .dead_letters
            .ports
            .table
            .circuit()
            .await
            .expect("read")
            .expect("a breaker");
        assert!(
            circuit.state == State::Closed && circuit.why.contains("has not run"),
            "{circuit:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn payload_without_http_context_is_a_direct_request() {
        for payload in [
            json!(null),
            json!([]),
            json!({ "requestContext": { "http": "GET" } }),
        ] {
            let error = invoke(&function(), payload.clone())
                .await
                .expect_err("refused");
            assert_eq!(error.error_type, "InvalidRequest", "{payload}");
        }
    }
}
