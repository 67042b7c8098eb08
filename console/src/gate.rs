//! Access control: lets in the one browser that opened the link, and none of its other pages.
//!
//! Any web page can send requests to this machine. So each request must name this server as its
//! host and come from its own pages. A request that changes anything must also carry the token that
//! only the console's forms contain.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, AsHeaderName, HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use uuid::Uuid;

use crate::form::Fields;
use crate::layout::{TOKEN, document};
use crate::lock::Lock;
use crate::problem::Problem;

/// The path of a sign-in link.
pub(crate) const ENTER: &str = "/enter";

/// A session ends after this time without use. Automatic refreshes of pages do not count as use.
const IDLE: Duration = Duration::from_hours(2);

/// Header of automatic refreshes (`live.js`).
const REFRESH: &str = "x-console-refresh";

/// Size limit of forms. A form that names a thousand events has a twentieth of it.
const MAX_FORM_BYTES: usize = 1024 * 1024;

/// Allows only the console's own scripts and styles, and no frames: pages show content of unknown
/// senders.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Headers of every answer.
///
/// The referrer policy is not `no-referrer`: with it, browsers send `Origin: null` for the
/// console's own forms.
const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// 122 random bits that are compared in constant time and never printed.
struct Secret(String);

impl Secret {
    fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    fn is(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

/// The session of the browser that opened a link.
struct Session {
    cookie: Secret,
    /// Value of the hidden field of every form.
    token: Secret,
    used_at: Instant,
}

/// Access control of one server.
pub(crate) struct Gate {
    host: String,
    cookie: String,
    access: Lock<Access>,
}

#[derive(Default)]
struct Access {
    session: Option<Session>,
    /// Key of the unused link.
    key: Option<Secret>,
}

impl Gate {
    /// Creates the access control of a server on this port, without a link or a session.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            host: format!("127.0.0.1:{port}"),
            // Cookies apply to all ports of a host.
            cookie: format!("console-{port}"),
            access: Lock::default(),
        }
    }

    /// Creates a link that signs one browser in, once. It invalidates the link before it.
    pub(crate) fn link(&self) -> String {
        let key = Secret::new();
        let link = format!("http://{}{ENTER}?key={}", self.host, key.0);
        self.access.lock().key = Some(key);
        link
    }

    /// The session's token, for the hidden field of every form.
    pub(crate) fn token(&self) -> String {
        let access = self.access.lock();
        let token = access.session.as_ref().map(|session| &session.token.0);
        token.cloned().unwrap_or_default()
    }

    /// End of the session, if it is not used until then.
    pub(crate) fn ends_at(&self) -> Timestamp {
        let access = self.access.lock();
        let used_at = access.session.as_ref().map(|session| session.used_at);
        let unused = used_at.map_or(IDLE, |used_at| used_at.elapsed());
        let left = SignedDuration::try_from(IDLE.saturating_sub(unused));
        Timestamp::now() + left.unwrap_or_default()
    }

    /// Ends the session.
    pub(crate) fn leave(&self) -> Response {
        self.access.lock().session = None;
        let cookie = self.cookie("", "; Max-Age=0");
        ([(header::SET_COOKIE, cookie)], left()).into_response()
    }

    fn cookie(&self, value: &str, more: &str) -> String {
        let name = &self.cookie;
        format!("{name}={value}; HttpOnly; SameSite=Strict; Path=/{more}")
    }

    /// Signs in the browser that has the key: sets its cookie, invalidates the key, and ends the
    /// earlier session.
    pub(crate) fn enter(&self, query: &Fields) -> Result<Response, Problem> {
        let mut access = self.access.lock();
        let presented = query.get("key").unwrap_or_default();
        if access.key.take_if(|key| key.is(presented)).is_none() {
            return Err(forbidden(
                "This link is invalid or was already used. Press Enter where `cargo console` runs for a new link.",
            ));
        }
        let session = Session {
            cookie: Secret::new(),
            token: Secret::new(),
            used_at: Instant::now(),
        };
        let cookie = self.cookie(&session.cookie.0, "");
        access.session = Some(session);
        // Not a redirect: if another page led here, the browser would follow it without the cookie.
        Ok(([(header::SET_COOKIE, cookie)], entered()).into_response())
    }

    /// Checks a request; handlers find the fields of its query or form among the extensions.
    async fn admit(&self, mut request: Request) -> Result<Request, Problem> {
        self.check_host(request.headers())?;
        let query = Fields::parse(request.uri().query().unwrap_or_default().as_bytes());
        request.extensions_mut().insert(query);
        if request.uri().path() == ENTER {
            // Programs that preview links send HEAD; that must not use the link up.
            let is_get = request.method() == Method::GET;
            return is_get
                .then_some(request)
                .ok_or_else(|| not_allowed("Only GET is allowed here."));
        }
        // `same-site` is refused too: to a browser, another port of this machine is the same site
        // and gets our cookie.
        let site = "sec-fetch-site";
        let is_own = |site| matches!(site, Some("same-origin" | "none"));
        if request.headers().contains_key(site) && !is_own(single(request.headers(), site)) {
            return Err(forbidden(
                "The request comes from another web page. Open the page from the console itself.",
            ));
        }
        if !self.is_known(request.headers()) {
            return Err(forbidden(&format!(
                "Open the link that `cargo console` printed, or press Enter there for a new one. A session ends with the \
                 button End session, with a newer link, and after {} hours without use.",
                IDLE.as_secs() / 3600
            )));
        }
        match *request.method() {
            Method::GET | Method::HEAD => Ok(request),
            Method::POST => self.check_form(request).await,
            _ => Err(not_allowed("Only GET and POST are allowed here.")),
        }
    }

    /// Checks the `Host` header: an attacker can point a name of their own at this machine (DNS
    /// rebinding).
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if single(headers, header::HOST) == Some(self.host.as_str()) {
            return Ok(());
        }
        let detail = format!("This server only answers requests to http://{}.", self.host);
        let status = StatusCode::MISDIRECTED_REQUEST;
        Err(Problem::new(status, "Wrong host", detail))
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let mut access = self.access.lock();
        let session = &mut access.session;
        session.take_if(|session| session.used_at.elapsed() >= IDLE);
        let Some(session) = session else {
            return false;
        };
        let is_ours = |cookie: &str| {
            let (name, value) = cookie.trim().split_once('=').unwrap_or_default();
            name == self.cookie && session.cookie.is(value)
        };
        let mut lines = headers.get_all(header::COOKIE).iter();
        let is_known =
            lines.any(|line| line.to_str().is_ok_and(|line| line.split(';').any(is_ours)));
        if is_known && !headers.contains_key(REFRESH) {
            session.used_at = Instant::now();
        }
        is_known
    }

    /// Reads the form, which has to come from a page of ours.
    async fn check_form(&self, request: Request) -> Result<Request, Problem> {
        let (mut head, body) = request.into_parts();
        let own = format!("http://{}", self.host);
        if single(&head.headers, header::ORIGIN) != Some(&own) {
            return Err(forbidden("The form comes from another web page."));
        }
        let too_large = |_| {
            let detail = "The form could not be read, or is larger than 1 MiB.";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "Form too large", detail)
        };
        let body = to_bytes(body, MAX_FORM_BYTES).await.map_err(too_large)?;
        let form = Fields::parse(&body);
        let is_ours = |token: &str| {
            let access = self.access.lock();
            let session = access.session.as_ref();
            session.is_some_and(|session| session.token.is(token))
        };
        if !form.get(TOKEN).is_some_and(is_ours) {
            return Err(forbidden(
                "The form belongs to an earlier session. Reload the page and send it again.",
            ));
        }
        head.extensions.insert(form);
        Ok(Request::from_parts(head, Body::empty()))
    }
}

/// Checks every request before it is routed, and adds the headers to every answer.
pub(crate) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match gate.admit(request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// Returns a header's value if it occurs exactly once.
fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The page for a browser that has just signed in. It leads to the first page.
fn entered() -> Markup {
    let go_on = html! { meta http-equiv="refresh" content="0; url=/"; };
    let content = html! { h1 { "Signed in" } p { a href="/" { "Go to the first page" } } };
    document("Signed in", None, &go_on, &content)
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
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail)
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "Access denied", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether the browser with this cookie is signed in; `is_refresh` for automatic
    /// refreshes.
    fn is_let_in(gate: &Gate, cookie: &str, is_refresh: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookie.parse().expect("a cookie"));
        if is_refresh {
            headers.insert(REFRESH, HeaderValue::from_static("1"));
        }
        gate.is_known(&headers)
    }

    fn enter(gate: &Gate) -> String {
        let link = gate.link();
        let query = Fields::parse(link.split('?').nth(1).expect("a key").as_bytes());
        let answer = gate.enter(&query).expect("signed in");
        let cookie = answer.headers()[header::SET_COOKIE]
            .to_str()
            .expect("a cookie");
        cookie
            .split(';')
            .next()
            .expect("a name and a value")
            .to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_unused_by_its_button_or_a_newer_link() {
        let gate = Gate::new(1);
        let cookie = enter(&gate);
        for _ in 0..3 {
            tokio::time::advance(IDLE.saturating_sub(Duration::from_secs(1))).await;
            assert!(is_let_in(&gate, &cookie, false), "it is in use");
        }
        for _ in 0..2 {
            tokio::time::advance(Duration::from_mins(59)).await;
            assert!(is_let_in(&gate, &cookie, true));
        }
        tokio::time::advance(Duration::from_mins(2)).await;
        assert!(!is_let_in(&gate, &cookie, true), "refreshes are no use");
        assert!(!is_let_in(&gate, &cookie, false));

        let (first, token) = (enter(&gate), gate.token());
        let second = enter(&gate);
        assert!(!is_let_in(&gate, &first, false) && is_let_in(&gate, &second, false));
        assert_ne!(gate.token(), token);
        gate.leave();
        assert!(!is_let_in(&gate, &second, false));
    }
}
