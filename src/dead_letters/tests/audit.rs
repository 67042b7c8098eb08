//! Lines of the audit log.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::conversation::of_conversation;
use super::*;
use crate::domain::request::Caller;
use crate::runtime::logging::levels;

/// Log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text");
        let line = |line: &str| serde_json::from_str(line).expect("JSON");
        text.lines().map(line).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_look_and_change_is_an_audit_line_at_any_level() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(log.clone());
    let registry = tracing_subscriber::registry().with(lines);
    let subscriber = registry.with(levels(LevelFilter::ERROR));
    let _guard = tracing::subscriber::set_default(subscriber);

    let relay = relay();
    send_to_dead_letters(&relay, [carrying(of_conversation("chat", 1), 404)]).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let id = id_of(&of_conversation("chat", 1));
    let why = "a test";
    for (request, audit) in [
        (json!({ "action": "list" }), "list"),
        (json!({ "action": "show", "eventId": id }), "show"),
        (json!({ "action": "show", "eventId": "unknown" }), "show"),
        (
            json!({ "action": "conversation", "id": "chat" }),
            "conversation",
        ),
        (
            json!({ "action": "replay", "eventIds": [id], "why": why, "dryRun": true }),
            "dry run",
        ),
        (
            json!({ "action": "replay", "eventIds": [id], "why": why }),
            "replay",
        ),
        (json!({ "action": "reconcile", "why": why }), "reconcile"),
        (json!({ "action": "archive", "why": why }), "archive"),
        (
            json!({ "action": "discard", "eventIds": [id], "why": why }),
            "discard",
        ),
        (
            json!({ "action": "erase", "eventIds": [id], "why": why }),
            "erase",
        ),
        (
            json!({ "action": "restore", "key": "none", "why": why }),
            "restore",
        ),
    ] {
        let signed = Caller {
            arn: Some("an ARN".to_owned()),
            api_request_id: Some("an-id-of-the-api".to_owned()),
            request_id: "an-id".to_owned(),
        };
        for (caller, said, by) in [
            (Caller::of_invocation("an-id"), None, "invocation an-id"),
            (signed.clone(), None, "an ARN"),
            (signed, Some("a person"), "a person"),
        ] {
            let (mut request, arn) = (request.clone(), caller.arn.clone());
            if let Some(said) = said {
                request["by"] = said.into();
            }
            log.0.lock().expect("no panic").clear();
            // A test beside this one may have made a line known before this log was.
            tracing::callsite::rebuild_interest_cache();
            let parsed = Request::parse(request.clone(), caller).expect("a request");
            let deadline = Instant::now() + Duration::from_mins(15);
            // An unknown event and an unknown object are errors.
            let _ = relay.handle(parsed, deadline).await;
            let lines = log.lines();
            let line = lines.iter().rfind(|line| line["audit"] == audit);
            let line = line.unwrap_or_else(|| panic!("{request}: {lines:?}"));
            assert_eq!(line["by"], by, "{line}");
            assert_eq!(line["request_id"], "an-id", "{line}");
            let api_request_id = arn.as_ref().map(|_| json!("an-id-of-the-api"));
            assert_eq!(
                line.get("api_request_id").cloned(),
                api_request_id,
                "{line}"
            );
            assert_eq!(line.get("caller").cloned(), arn.map(Value::from), "{line}");
            assert_eq!(
                line.get("said_by").cloned(),
                said.map(Value::from),
                "{line}"
            );
            assert_eq!(line.get("why"), request.get("why"), "{line}");
        }
    }
}
