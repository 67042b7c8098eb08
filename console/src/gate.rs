//! Who may use the page: the one browser that was given the link, and no other page that this browser has open.
//!
//! Any web page can send requests to this machine. So each request has to name this server, and come from its own pages;
//! what changes anything also brings the token that only its forms hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use uuid::Uuid;

use crate::layout::{TOKEN, document};
use crate::problem::Problem;
use crate::selection::Fields;

/// Where the link leads that lets a browser in.
pub(crate) const ENTER: &str = "/enter";

/// A session ends by itself when nobody has used it for so long. What pages ask for by themselves is no use.
const IDLE_HOURS: u64 = 2;

/// The header of what a page asks for by itself (`live.js`).
const REFRESH: HeaderName = HeaderName::from_static("x-console-refresh");

/// A form that names a thousand events is a twentieth of that.
const MAX_FORM_BYTES: usize = 1024 * 1024;

/// No script or style but our own files, nothing from elsewhere, in no frame. Pages show what strangers have sent.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What every answer says.
///
/// The referrer is not `no-referrer`: under that, browsers say `Origin: null` of our own forms.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// 122 random bits, compared in constant time, and never shown by an error.
struct Secret(String);

impl Secret {
    fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    fn is(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

/// The time between a link and the end of what it lets in.
struct Session {
    cookie: Secret,
    /// What each form holds.
    token: Secret,
    used_at: Instant,
}

/// The gate of one server.
pub(crate) struct Gate {
    host: String,
    cookie: String,
    session: Mutex<Option<Session>>,
    /// The link that was not used yet.
    key: Mutex<Option<Secret>>,
}

impl Gate {
    /// The gate of a server on this port, which nobody can pass yet.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            host: format!("127.0.0.1:{port}"),
            // Browsers do not tell the ports of a host apart.
            cookie: format!("console-{port}"),
            session: Mutex::new(None),
            key: Mutex::new(None),
        }
    }

    /// A link that lets one browser in, once. The one before it is void.
    pub(crate) fn link(&self) -> String {
        let key = Secret::new();
        let link = format!("http://{}{ENTER}?key={}", self.host, key.0);
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        link
    }

    /// The token that every form of our own holds.
    pub(crate) fn token(&self) -> String {
        self.session().as_ref().map(|session| session.token.0.clone()).unwrap_or_default()
    }

    /// Ends the session.
    pub(crate) fn leave(&self) -> Response {
        *self.session() = None;
        let cookie = format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", self.cookie);
        ([(header::SET_COOKIE, cookie)], left()).into_response()
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a browser in that has the key: it gets the cookie, and the key is void. A session that was there ends.
    pub(crate) fn enter(&self, query: &Fields) -> Result<Response, Problem> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let presented = query.get("key").unwrap_or_default();
        if key.take_if(|key| key.is(presented)).is_none() {
            return Err(forbidden(
                "This link was used already, or is none. Press Enter where `cargo console` runs for a new one.",
            ));
        }
        let session = Session { cookie: Secret::new(), token: Secret::new(), used_at: Instant::now() };
        let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", self.cookie, session.cookie.0);
        *self.session() = Some(session);
        // Not a redirection: where another page has led here, a browser would follow it without the cookie.
        Ok(([(header::SET_COOKIE, cookie)], entered()).into_response())
    }

    async fn admit(&self, request: Request) -> Result<Request, Problem> {
        self.check_host(request.headers())?;
        if request.uri().path() == ENTER {
            // Whoever only looks at the link, as some programs do, must not use it up.
            return if request.method() == Method::GET { Ok(request) } else { Err(not_allowed("Only GET is.")) };
        }
        // Not only other sites: another port of this machine is the same site to a browser, which sends it our cookie.
        let site = HeaderName::from_static("sec-fetch-site");
        let is_absent = !request.headers().contains_key(&site);
        if !is_absent && !matches!(single(request.headers(), &site), Some("same-origin" | "none")) {
            return Err(forbidden("Another web page has asked for this. Open it from the console itself."));
        }
        if !self.is_known(request.headers()) {
            return Err(forbidden(&format!(
                "Open the link that `cargo console` has printed, in the browser that you want to use; press Enter there for \
                 another one. A session ends by its button, by a newer link, and after {IDLE_HOURS} hours in which nobody \
                 has used it."
            )));
        }
        match *request.method() {
            Method::GET | Method::HEAD => Ok(request),
            Method::POST => self.check_form(request).await,
            _ => Err(not_allowed("Only GET and POST are.")),
        }
    }

    /// The name under which this server was asked. A page of the attacker's can have its own name lead to this machine.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if single(headers, &header::HOST) == Some(self.host.as_str()) {
            return Ok(());
        }
        let detail = format!("This server is {}, and answers to no other name.", self.host);
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "Wrong host", detail))
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let mut held = self.session();
        let Some(session) = held.as_mut() else { return false };
        if session.used_at.elapsed() >= Duration::from_hours(IDLE_HOURS) {
            *held = None;
            return false;
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies = cookies.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
        let is_known = cookies.any(|(name, value)| name == self.cookie && session.cookie.is(value));
        if is_known && !headers.contains_key(&REFRESH) {
            session.used_at = Instant::now();
        }
        is_known
    }

    /// Reads the form, which has to come from a page of ours; handlers find it among the extensions.
    async fn check_form(&self, request: Request) -> Result<Request, Problem> {
        let (mut head, body) = request.into_parts();
        if single(&head.headers, &header::ORIGIN) != Some(format!("http://{}", self.host).as_str()) {
            return Err(forbidden("The form comes from another web page."));
        }
        let body = to_bytes(body, MAX_FORM_BYTES).await.map_err(|_| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "Too large", "The form could not be read, or is too large.")
        })?;
        let form = Fields::parse(&body);
        let is_ours = |token: &str| self.session().as_ref().is_some_and(|session| session.token.is(token));
        if !form.get(TOKEN).is_some_and(is_ours) {
            return Err(forbidden("The form is older than this console. Reload the page, and send it again."));
        }
        head.extensions.insert(form);
        Ok(Request::from_parts(head, Body::empty()))
    }
}

/// Stands before all that the server does.
pub(crate) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match gate.admit(request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The page for a browser that has just signed in. It leads to the first page.
fn entered() -> Markup {
    let go_on = html! { meta http-equiv="refresh" content="0; url=/"; };
    document("Signed in", None, &go_on, &html! { h1 { "Signed in" } p { a href="/" { "Go to the first page" } } })
}

/// The page for a browser whose session has ended.
fn left() -> Markup {
    let content = html! {
        h1 { "Session ended" }
        p { "To sign in again, press Enter where `cargo console` runs and open the new link. Runs continue." }
    };
    document("Session ended", None, &html! {}, &content)
}

fn not_allowed(detail: &str) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Not allowed", detail)
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "Not for this browser", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the browser with this cookie is let in; by itself where a page asks by itself.
    fn is_let_in(gate: &Gate, cookie: &str, by_itself: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(cookie).expect("a cookie"));
        if by_itself {
            headers.insert(REFRESH, HeaderValue::from_static("1"));
        }
        gate.is_known(&headers)
    }

    fn enter(gate: &Gate) -> String {
        let link = gate.link();
        let query = link.split('?').nth(1).expect("a key");
        let answer = gate.enter(&Fields::parse(query.as_bytes())).expect("let in");
        let cookie = answer.headers()[header::SET_COOKIE].to_str().expect("a cookie");
        cookie.split(';').next().expect("a name and a value").to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_when_nobody_uses_it_by_its_button_and_by_a_newer_link() {
        let gate = Gate::new(1);
        let cookie = enter(&gate);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(IDLE_HOURS * 3600 - 1)).await;
            assert!(is_let_in(&gate, &cookie, false), "somebody uses it");
        }
        for _ in 0..2 {
            tokio::time::advance(Duration::from_mins(59)).await;
            assert!(is_let_in(&gate, &cookie, true));
        }
        tokio::time::advance(Duration::from_mins(2)).await;
        assert!(!is_let_in(&gate, &cookie, true), "a page that is left open keeps nothing open");
        assert!(!is_let_in(&gate, &cookie, false));

        let (first, token) = (enter(&gate), gate.token());
        let second = enter(&gate);
        assert!(!is_let_in(&gate, &first, false) && is_let_in(&gate, &second, false) && gate.token() != token);
        gate.leave();
        assert!(!is_let_in(&gate, &second, false));
    }
}
