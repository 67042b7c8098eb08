//! Check events: synthetic events by which an operator or the canary proves the path of an event.
//!
//! A body says itself that it is one, and what each attempt at it ends with. In any doubt an event
//! is an ordinary one and goes to the target: the body must be exactly as [`CheckEvent::body`]
//! writes it, but for white space and the order of members.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::event::{Event, EventId, Source, check_id};
use crate::domain::json::{Json, Object};

/// The one member of the body of a check event.
const MEMBER: &str = "genesysRelayCheck";

/// Upper bound on the body, in bytes, without the white space around it: a larger one is not read.
pub(crate) const MAX_BODY_BYTES: usize = 2048;

/// Upper bound on the name, in characters.
const MAX_NAME_CHARS: usize = 40;

/// Upper bound on the attempts that a body describes.
pub(crate) const MAX_ATTEMPTS: usize = 20;

/// The content of a check event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckEvent {
    /// The run that sends it.
    pub run: Uuid,
    /// The step of the run, of at most 40 characters.
    pub name: String,
    /// The end of each attempt at the event, from the first of its life on.
    pub attempts: Vec<CheckAttempt>,
}

/// The end of one attempt at a check event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckAttempt {
    /// It fails as if the target had answered 503, without the target.
    Retry,
    /// It fails as if the target had answered 400, without the target.
    Refuse,
    /// It succeeds without the target.
    Deliver,
    /// The target is asked.
    Target,
}

/// The body as it travels.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<C> {
    #[serde(rename = "genesysRelayCheck")]
    check: C,
}

impl CheckEvent {
    /// Reads a body; `None` for that of an ordinary event.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body = Json::parse(body).ok()?;
        Self::read(body, &body.as_object()?)
    }

    /// Reads a body of these fields; `None` for that of an ordinary event.
    pub(crate) fn read(body: Json<'_>, fields: &Object<'_>) -> Option<Self> {
        let is_read = fields.is_only(MEMBER) && body.as_text().len() <= MAX_BODY_BYTES;
        if !is_read {
            return None;
        }
        let Body { check } = serde_json::from_str::<Body<Self>>(body.as_text()).ok()?;
        let fits = check.name.chars().count() <= MAX_NAME_CHARS
            && check.attempts.len() <= MAX_ATTEMPTS
            // Other spellings, such as an array in place of an object, are no check.
            && Json::parse(&check.body()).is_ok_and(|own| own.canonical() == body.canonical());
        fits.then_some(check)
    }

    /// The check event that an event is; `None` for an ordinary one.
    pub fn of(event: &Event) -> Option<Self> {
        if event.source != Source::Check {
            return None;
        }
        Self::parse(&event.body)
    }

    /// The id of the event with this body.
    pub fn id(&self) -> EventId {
        let body = serde_json::json!(Body { check: self }).to_string();
        let body = serde_json::value::RawValue::from_string(body).expect("JSON");
        check_id(Json::from(&*body))
    }

    /// The body.
    pub fn body(&self) -> Vec<u8> {
        serde_json::json!(Body { check: self })
            .to_string()
            .into_bytes()
    }

    /// The end of attempt number `attempt`, from 1 over the whole life of the event. Behind the
    /// list it is a delivery.
    pub fn outcome(&self, attempt: u32) -> CheckAttempt {
        let position = usize::try_from(attempt).unwrap_or(usize::MAX);
        let told = self.attempts.get(position.saturating_sub(1));
        told.copied().unwrap_or(CheckAttempt::Deliver)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::event::Identity;
    use crate::domain::message::{Attribute, Message, attribute};

    const RUN: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn body() -> Value {
        json!({ "genesysRelayCheck": { "run": RUN, "name": "a step", "attempts": ["retry", "refuse", "deliver", "target"] } })
    }

    fn parse(body: &str) -> Option<CheckEvent> {
        CheckEvent::parse(body.as_bytes())
    }

    fn event(message: &Message) -> Event {
        message.to_event(Timestamp::UNIX_EPOCH).expect("an event")
    }

    #[test]
    fn each_attempt_ends_as_the_body_says() {
        use CheckAttempt::{Deliver, Refuse, Retry, Target};
        let check = parse(&body().to_string()).expect("a check");
        let ends: Vec<_> = (1..=6).map(|attempt| check.outcome(attempt)).collect();
        assert_eq!(ends, [Retry, Refuse, Deliver, Target, Deliver, Deliver]);
        assert_eq!(CheckEvent::parse(&check.body()), Some(check.clone()));
        let around = " ".repeat(MAX_BODY_BYTES);
        let around = parse(&format!("{around}{}{around}", body()));
        assert_eq!(around, Some(check));
    }

    #[test]
    fn anything_else_is_an_ordinary_event() {
        let with = |pointer: &str, value: Value| {
            let mut body = body();
            *body.pointer_mut(pointer).expect("there") = value;
            body.to_string()
        };
        let inner = "/genesysRelayCheck";
        let mut beside = body();
        beside["conversationId"] = "c".into();
        let mut within = body();
        within[&inner[1..]]["more"] = true.into();
        let text = body().to_string();
        for ordinary in [
            beside.to_string(),
            within.to_string(),
            format!("[{text}]"),
            text.replace("genesysRelayCheck", "GenesysRelayCheck"),
            text.replacen('{', r#"{"genesysRelayCheck":{},"#, 1),
            text.replace(r#""name":"#, r#""name":"x","name":"#),
            with(inner, json!([RUN, "a step", ["deliver"]])),
            with(inner, Value::Null),
            with("/genesysRelayCheck/run", RUN.to_uppercase().into()),
            with("/genesysRelayCheck/run", RUN.replace('-', "").into()),
            with("/genesysRelayCheck/name", "x".repeat(41).into()),
            with("/genesysRelayCheck/name", 7.into()),
            with("/genesysRelayCheck/attempts", "deliver".into()),
            with("/genesysRelayCheck/attempts", json!(["deliver", "Retry"])),
            with("/genesysRelayCheck/attempts", vec!["retry"; 21].into()),
            text.replacen('{', &format!("{{{}", " ".repeat(MAX_BODY_BYTES)), 1),
        ] {
            assert_eq!(parse(&ordinary), None, "{ordinary}");
            let json = Json::parse(ordinary.as_bytes()).expect("JSON");
            let lone = || EventId::of_message("lone", b"");
            let identity = Identity::of(json, Timestamp::UNIX_EPOCH, None, lone);
            assert_eq!(identity.source, Source::Generic, "{ordinary}");
        }
    }

    /// An attribute of a message proves nothing: only who may send to the queue can set one.
    #[test]
    fn body_alone_makes_a_check_event() {
        let message = |body: String, source: &str| Message {
            body,
            attributes: [
                (attribute::EVENT_ID, "an-event"),
                (attribute::SOURCE, source),
            ]
            .map(|(name, value)| (name.to_owned(), Attribute::text(value)))
            .into(),
            group: None,
            trace: None,
        };
        let named = event(&message(r#"{"name":"an event"}"#.to_owned(), "check"));
        assert_eq!(
            (named.source, named.id.as_str()),
            (Source::Generic, "an-event")
        );
        assert_eq!(CheckEvent::of(&named), None);
        for source in ["generic", "webhook", "check"] {
            let check = event(&message(body().to_string(), source));
            let own = CheckEvent::of(&check).expect("a check").id();
            assert_eq!((check.source, &check.id), (Source::Check, &own), "{source}");
            assert!(check.id.as_str().starts_with("check-"));
        }
    }

    proptest! {
        #[test]
        fn every_check_is_read_back_under_one_id(
            run: u128,
            name in ".{0,40}",
            attempts in prop::collection::vec(
                prop::sample::select(vec![CheckAttempt::Retry, CheckAttempt::Deliver]), 0..=20),
        ) {
            let check = CheckEvent { run: Uuid::from_u128(run), name, attempts };
            let body = check.body();
            prop_assert_eq!(CheckEvent::parse(&body), Some(check.clone()));
            let json = Json::parse(&body).expect("JSON");
            let lone = || EventId::of_message("lone", b"");
            let identity = Identity::of(json, Timestamp::UNIX_EPOCH, None, lone);
            prop_assert_eq!(identity.id, check.id());
        }
    }
}
