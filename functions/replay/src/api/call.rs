//! Reader of HTTP API events.
//!
//! Turns path, query and body into the JSON of a direct invocation. [`Request::parse`] alone checks
//! the contents.

use genesys_relay::dead_letters::{Request, Start};
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::request::Caller;
use genesys_relay::runtime::lambda_http::HttpEvent;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::Problem;

/// Longest name of a requester, in bytes; the ARN of a role with a long path can have more.
const MAX_CALLER_BYTES: usize = 500;

/// Parameters that are numbers in JSON.
const NUMBERS: [&str; 2] = ["limit", "statusCode"];

/// Call of the HTTP API.
pub(super) enum ApiCall {
    /// A read.
    Ask(Box<Request>),
    /// A replay of one event.
    Retry(Box<Retry>),
}

/// Replay of one event.
pub(super) struct Retry {
    pub(super) event_id: EventId,
    pub(super) request: Request,
    /// The same as a background run.
    pub(super) start: Start,
}

/// Event whose path, query and body are read, and its caller.
struct HttpCall(HttpEvent, Caller);

impl ApiCall {
    /// Reads a call. A wrong part is a problem that names it.
    pub(super) fn read(event: Value, request_id: String) -> Result<Self, Problem> {
        let not_http = |error: &dyn std::fmt::Display| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                format!("This is no event of an HTTP API: {error}."),
            )
        };
        let event: HttpEvent = serde_json::from_value(event).map_err(|error| not_http(&error))?;
        let cut = |text: &str| text[..text.floor_char_boundary(MAX_CALLER_BYTES)].to_owned();
        let caller = Caller {
            arn: event.user_arn().filter(|arn| !arn.is_empty()).map(cut),
            api_request_id: event.request_id().map(cut),
            request_id,
        };
        let event = HttpCall(event, caller);
        let path = event
            .0
            .raw_path
            .as_deref()
            .ok_or_else(|| not_http(&"missing field `rawPath`"))?;
        let path: Vec<&str> = path.split('/').skip(1).collect();
        match (path.as_slice(), event.0.method()) {
            (["dlq"], "GET") => event.list(),
            (["dlq", id], "GET") => event.show(id),
            (["dlq", id, "retry"], "POST") => event.retry(id),
            (["conversations", id], "GET") => event.conversation(id),
            (["dlq"] | ["dlq" | "conversations", _], _) => Err(Problem::method("GET")),
            (["dlq", _, "retry"], _) => Err(Problem::method("POST")),
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "There is no such path.",
            )),
        }
    }
}

impl HttpCall {
    fn list(&self) -> Result<ApiCall, Problem> {
        let mut request = self.query()?;
        request.insert("action".to_owned(), "list".into());
        self.ask(request.into())
    }

    fn show(&self, id: &str) -> Result<ApiCall, Problem> {
        self.takes_no_query()?;
        self.ask(json!({ "action": "show", "eventId": event_id(id)? }))
    }

    fn conversation(&self, id: &str) -> Result<ApiCall, Problem> {
        let mut request = self.query()?;
        let id = decoded(id)
            .ok_or_else(|| Problem::parameter("id", "is not in percent-encoded UTF-8"))?;
        if request.insert("id".to_owned(), id.into()).is_some() {
            return Err(Problem::parameter("id", "is no parameter of the query"));
        }
        request.insert("action".to_owned(), "conversation".into());
        self.ask(request.into())
    }

    fn retry(&self, id: &str) -> Result<ApiCall, Problem> {
        self.takes_no_query()?;
        let event_id = event_id(id)?;
        let mut direct = self.body()?;
        direct.insert("action".to_owned(), "replay".into());
        direct.insert("eventIds".to_owned(), json!([event_id]));
        let request = Request::parse(direct.clone().into(), self.1.clone())?;
        let run_id = format!("retry-{}", self.1.request_id);
        direct.insert("runId".to_owned(), run_id.into());
        match Request::parse(direct.into(), self.1.clone())? {
            Request::Start(start) => Ok(ApiCall::Retry(Box::new(Retry {
                event_id,
                request,
                start,
            }))),
            request => unreachable!("a name makes a background run, not {request:?}"),
        }
    }

    fn ask(&self, request: Value) -> Result<ApiCall, Problem> {
        let request = Request::parse(request, self.1.clone())?;
        Ok(ApiCall::Ask(Box::new(request)))
    }

    /// The query's parameters, each at most once.
    fn query(&self) -> Result<Map<String, Value>, Problem> {
        let mut parameters = Map::new();
        let query = self.0.raw_query_string.as_deref().unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let misspelt = || Problem::parameter(name, "is not in percent-encoded UTF-8");
            // Forms write a blank as `+`.
            let name = decoded(&name.replace('+', " ")).ok_or_else(misspelt)?;
            let value = decoded(&value.replace('+', " ")).ok_or_else(misspelt)?;
            // The caller's name is known.
            if name == "action" || name == "by" {
                return Err(Problem::parameter(&name, "is no parameter"));
            }
            let value = number(&name, &value).unwrap_or_else(|| value.into());
            if parameters.insert(name.clone(), value).is_some() {
                return Err(Problem::parameter(&name, "is given more than once"));
            }
        }
        Ok(parameters)
    }

    fn takes_no_query(&self) -> Result<(), Problem> {
        match self.query()?.keys().next() {
            Some(name) => Err(Problem::parameter(
                name,
                "is no parameter; this path takes none",
            )),
            None => Ok(()),
        }
    }

    /// The body's fields, of which `why` is the only one; no body has none.
    fn body(&self) -> Result<Map<String, Value>, Problem> {
        let bytes = self.0.body();
        let fields = match bytes.as_deref() {
            Some([]) => Some(Map::new()),
            Some(bytes) => serde_json::from_slice::<Map<String, Value>>(bytes).ok(),
            None => None,
        };
        let fields = fields.ok_or_else(|| {
            Problem::parameter(
                "body",
                "must be empty, or a JSON object like {\"why\":\"…\"}",
            )
        })?;
        match fields.keys().find(|name| *name != "why") {
            Some(name) => Err(Problem::parameter(
                name,
                "is no field of the body; it takes why only",
            )),
            None => Ok(fields),
        }
    }
}

fn event_id(segment: &str) -> Result<EventId, Problem> {
    let misspelt = || Problem::parameter("eventId", "is not in percent-encoded UTF-8");
    let text = decoded(segment).ok_or_else(misspelt)?;
    text.parse()
        .map_err(|error| Problem::parameter("eventId", &format!("{error}")))
}

/// A number, if the text is one in its shortest form. Any other text stays a text, which the parser
/// refuses.
fn number(name: &str, value: &str) -> Option<Value> {
    let number: u64 = value.parse().ok().filter(|_| NUMBERS.contains(&name))?;
    Some(number)
        .filter(|number| number.to_string() == value)
        .map(Value::from)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // `from_str_radix` takes a sign, too.
        let digits =
            Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}
