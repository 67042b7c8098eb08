//! Turns a request of a schedule or an operator into a call of [`Recover`] or of [`Statements`], and
//! its outcome into an answer or an error that says what to do.

use std::sync::Arc;

use genesys_relay::domain::request::{Caller, InvalidRequest};
use genesys_relay::ports::clock::{Clock as _, end_of_invocation};
use genesys_relay::recover::{FailedRun, PortTypes, Recover, RecoverError, Report, Request};
use genesys_relay::runtime::logging::display_chain;
use genesys_relay::statement::{self, StatementError, Statements};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};

/// The recovery has nothing to read from.
#[derive(Debug)]
pub(crate) struct Off;

impl From<Off> for Diagnostic {
    fn from(Off: Off) -> Self {
        Self {
            error_type: "Off".to_owned(),
            error_message:
                "the recovery is off: set the parameters RecoverySource, RecoveryIds and GenesysRegion of the \
                            stack, and genesysClientId and genesysClientSecret in its secret"
                    .to_owned(),
        }
    }
}

/// Failure of an invocation; the AWS console shows it as the function's error.
#[derive(Debug)]
pub(crate) enum InvocationError {
    /// The request was not understood.
    Invalid(InvalidRequest),
    /// The run failed.
    Failed(FailedRun),
    /// The source lists failed deliveries only, so that there is nothing to state.
    NoBook,
    /// The slice of a statement failed.
    Statement(StatementError),
}

impl From<InvocationError> for Diagnostic {
    fn from(refusal: InvocationError) -> Self {
        let failed = match refusal {
            InvocationError::Invalid(error) => {
                return Self {
                    error_type: "InvalidRequest".to_owned(),
                    error_message: error.to_string(),
                };
            }
            InvocationError::NoBook => {
                return Self {
                    error_type: "Off".to_owned(),
                    error_message: "a statement needs the parameter RecoverySource to be open-messaging: no other source \
                                    lists what Genesys Cloud sent"
                        .to_owned(),
                };
            }
            InvocationError::Statement(error) => {
                return Self {
                    error_type: error.kind().to_owned(),
                    error_message: display_chain(&error),
                };
            }
            InvocationError::Failed(failed) => failed,
        };
        let (error_type, error_message) = match &failed.error {
            RecoverError::Busy(_) => ("Busy", failed.error.to_string()),
            RecoverError::TooOld { .. } => ("TooOld", failed.error.to_string()),
            RecoverError::DeliveryLog(error) => (error.kind(), display_chain(&failed)),
            RecoverError::Unavailable { .. } => ("Unavailable", display_chain(&failed)),
            RecoverError::Service(error) => (error.kind(), display_chain(&failed)),
        };
        // Of a part of the time line, the rest can be asked for.
        let rest = failed
            .report
            .next
            .as_ref()
            .and_then(|next| serde_json::to_string(next).ok());
        let rest = rest
            .map(|next| format!("; the rest: {next}"))
            .unwrap_or_default();
        Self {
            error_type: error_type.to_owned(),
            error_message: error_message + &rest,
        }
    }
}

/// Answers one request, of either use case.
pub(crate) async fn route<T: PortTypes, S: statement::PortTypes>(
    recover: Arc<Recover<T>>,
    statements: Option<Arc<Statements<S>>>,
    event: LambdaEvent<Value>,
) -> Result<Value, InvocationError> {
    if !statement::Request::is_for(&event.payload) {
        let report = handle(recover, event).await?;
        return Ok(json!(report));
    }
    let statements = statements.ok_or(InvocationError::NoBook)?;
    let LambdaEvent { payload, context } = event;
    let caller = Caller::of_invocation(&context.request_id);
    let request = statement::Request::parse(payload, caller, statements.ports.clock.now())
        .map_err(InvocationError::Invalid)?;
    statements
        .run(&request, end_of_invocation(context.deadline()))
        .await
        .map(|answer| json!(answer))
        .map_err(InvocationError::Statement)
}

/// Answers one request of the recovery.
async fn handle<T: PortTypes>(
    recover: Arc<Recover<T>>,
    event: LambdaEvent<Value>,
) -> Result<Report, InvocationError> {
    let LambdaEvent { payload, context } = event;
    let caller = Caller::of_invocation(&context.request_id);
    let request = Request::parse(payload, caller, recover.ports.clock.now())
        .map_err(InvocationError::Invalid)?;
    recover
        .recover(&request, end_of_invocation(context.deadline()))
        .await
        .map_err(InvocationError::Failed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use genesys_relay::adapters::genesys::GenesysError;
    use genesys_relay::ports::delivery_log::{
        DeliveryLog, DeliveryLogError, Entry, Part, Unreadable, Window,
    };
    use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
    use genesys_relay::recover::Ports;
    use genesys_relay::testing::{FakeClock, FakePorts, FakeQueue, FakeTable};
    use jiff::{SignedDuration, Timestamp};
    use lambda_runtime::Context;
    use tokio::time::Instant;

    use super::*;

    /// A log that has one thing in every window, or may not be read.
    #[derive(Default)]
    struct Log {
        is_forbidden: bool,
        /// Time from which on no listed entry can be fetched.
        withholds_from: Option<Timestamp>,
    }

    impl DeliveryLog for Log {
        type Place = ();

        fn name(&self) -> &'static str {
            "a test"
        }

        fn longest_span(&self) -> u32 {
            3600
        }

        fn resume(&self, (): ()) -> Option<()> {
            None
        }

        async fn read(
            &self,
            window: Window,
            (): (),
            _deadline: Instant,
        ) -> Result<Part<()>, DeliveryLogError> {
            if self.is_forbidden {
                let problem = "as the test says".to_owned();
                return Err(GenesysError::Unusable {
                    what: "GET /api/v2/things".to_owned(),
                    problem,
                }
                .into());
            }
            if self.withholds_from.is_some_and(|time| window.from >= time) {
                let withheld = (0..5).map(|_| Entry::Unavailable("as the test says".to_owned()));
                return Ok(Part {
                    entries: withheld.collect(),
                    next: Some(()),
                });
            }
            let whole = format!("{{\"seen\":\"{}\"}}", window.from);
            let entry = Entry::Unreadable(Unreadable {
                name: whole.clone(),
                whole,
                problem: "strange".to_owned(),
                webhook_id: None,
            });
            Ok(Part {
                entries: vec![entry],
                next: None,
            })
        }
    }

    async fn invoke(log: Log, payload: Value) -> Result<Value, Diagnostic> {
        invoke_over(FakeTable::default(), log, payload).await
    }

    async fn invoke_over(table: FakeTable, log: Log, payload: Value) -> Result<Value, Diagnostic> {
        let ports = Ports {
            log,
            events: FakeQueue::default(),
            dead_letters: FakeQueue::default(),
            table,
            clock: FakeClock,
        };
        let recover = Recover::<FakePorts<Log>> {
            ports,
            overlap: SignedDuration::from_mins(15),
        };
        let mut context = Context::default();
        let end = SystemTime::now() + Duration::from_mins(5);
        let since_epoch = end
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        context.deadline = u64::try_from(since_epoch.as_millis()).expect("in range");
        context.request_id = "a-request".to_owned();
        let answer = handle(Arc::new(recover), LambdaEvent::new(payload, context)).await;
        answer
            .map(|report| serde_json::to_value(report).expect("JSON"))
            .map_err(Diagnostic::from)
    }

    fn sample(name: &str) -> Value {
        let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_of_the_events_folder_is_carried_out() {
        // The samples' times lie ahead of the clock of tests, which shows January.
        for name in ["recovery-scheduled", "recovery-range", "recovery-dry-run"] {
            let mut request = sample(name);
            if request.get("from").is_some() {
                (request["from"], request["to"]) =
                    (json!("2026-01-15T09:00:00Z"), json!("2026-01-15T10:00:00Z"));
            }
            let dry_run = request["dryRun"].as_bool().unwrap_or_default();
            let answer = invoke(Log::default(), request).await.expect("carried out");
            assert_eq!(
                (&answer["fetched"], &answer["unreadable"]),
                (&json!(1), &json!(1)),
                "{name}: {answer}"
            );
            assert_eq!(
                (&answer["complete"], &answer["dryRun"]),
                (&json!(true), &json!(dry_run)),
                "{name}: {answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_needs_the_book_of_genesys_cloud() {
        let mut request = sample("recovery-statement");
        request["day"] = json!("2026-01-14");
        assert!(statement::Request::is_for(&request) && !statement::Request::is_for(&json!({})));
        assert!(statement::Request::parse(request, "a test", FakeClock.now()).is_ok());
        let refused = Diagnostic::from(InvocationError::NoBook);
        assert_eq!(refused.error_type, "Off");
        assert!(
            refused.error_message.contains("RecoverySource"),
            "{refused:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_without_ids_refuses_to_fetch_by_one() {
        let error = invoke(Log::default(), sample("recovery-messages"))
            .await
            .expect_err("refused");
        assert_eq!(error.error_type, "GenesysError");
        assert!(error.error_message.contains("span of time"), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_the_documented_fields() {
        let answer = invoke(Log::default(), json!({}))
            .await
            .expect("carried out");
        // A map of JSON has its fields in one order or another, as its crate was compiled.
        let fields: BTreeSet<_> = answer
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let expected = [
            "behindSeconds",
            "complete",
            "cursor",
            "dryRun",
            "fetched",
            "from",
            "known",
            "new",
            "passedOver",
            "to",
            "unreadable",
            "withheld",
        ];
        assert_eq!(fields, BTreeSet::from(expected));
        assert_eq!(answer["behindSeconds"], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_run_is_an_error_that_names_the_remedy() {
        let error = invoke(Log::default(), json!({ "form": 1 }))
            .await
            .expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest");
        let error = invoke(
            Log {
                is_forbidden: true,
                ..Log::default()
            },
            json!({}),
        )
        .await
        .expect_err("failed");
        assert_eq!(error.error_type, "GenesysError");
        for part in [
            "after fetching 0 entries",
            "GET /api/v2/things",
            "as the test says",
        ] {
            assert!(error.error_message.contains(part), "{error:?}");
        }
        let old = json!({ "from": "2025-01-01T00:00:00Z" });
        let error = invoke(Log::default(), old).await.expect_err("refused");
        assert_eq!(error.error_type, "TooOld");
        assert!(error.error_message.contains("force"), "{error:?}");
        assert!(
            Diagnostic::from(Off)
                .error_message
                .contains("RecoverySource")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_for_another() {
        let (table, now) = (FakeTable::default(), FakeClock.now());
        let until = now.as_millisecond() + 120_000;
        let owner = "00000000-0000-0000-0000-000000000000";
        let other = json!({ "owner": owner, "action": "recover", "by": "another", "since": now, "until": until });
        let other: RunLease = serde_json::from_value(other).expect("a lease");
        assert_eq!(
            table
                .acquire(LeaseName::Recovery, &other, now)
                .await
                .expect("written"),
            None
        );
        let error = invoke_over(table, Log::default(), json!({}))
            .await
            .expect_err("busy");
        assert_eq!(error.error_type, "Busy");
        assert!(error.error_message.contains("another"), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_range_that_fails_on_its_way_tells_the_rest() {
        let reached: Timestamp = "2026-01-15T10:00:00Z".parse().expect("a time");
        let log = Log {
            withholds_from: Some(reached),
            ..Log::default()
        };
        let range = json!({ "from": "2026-01-15T09:00:00Z", "to": "2026-01-15T11:30:00Z", "why": "a test" });
        let error = invoke(log, range).await.expect_err("something is withheld");
        assert_eq!(error.error_type, "Unavailable");
        let (_, rest) = error
            .error_message
            .split_once("; the rest: ")
            .expect("the rest");
        let rest: Value = serde_json::from_str(rest).expect("a request");
        let expected =
            ["2026-01-15T10:00:00Z", "2026-01-15T11:30:00Z", "a test"].map(|text| json!(text));
        assert_eq!(
            [&rest["from"], &rest["to"], &rest["why"]],
            expected.each_ref(),
            "{rest}"
        );
    }
}
