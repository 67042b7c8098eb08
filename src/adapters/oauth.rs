//! OAuth 2.0 with the grant of client credentials (RFC 6749 section 4.4), for Genesys Cloud and for
//! targets: the token request, the answer, and the token while it lasts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use form_urlencoded::{Serializer, byte_serialize};
use http::{HeaderValue, Request, header};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer};
use tokio::sync::Mutex;

use crate::ports::clock::Clock;
use crate::ports::secrets::Authentication;

/// A token is used until this much before its end, or a tenth of its life where that is less.
const TOKEN_MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// Use of a token whose life the answer does not name, unless it is refused before.
const UNKNOWN_LIFE: u32 = 3600;

/// Errors of a token request (RFC 6749 section 5.2), and one of Salesforce ("OAuth 2.0 Authorization
/// Errors"). No other word of such an answer is shown: it may repeat what was sent.
const ERRORS: [&str; 7] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_client_id",
];

/// An access token, as the header that carries it.
#[derive(Clone)]
pub struct Token {
    authorization: HeaderValue,
    use_until: Timestamp,
}

impl Token {
    /// Reads the answer of a token request, which came at `now`. An error does not repeat it.
    pub fn read(body: &[u8], now: Timestamp) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            token_type: Option<String>,
            #[serde(default, deserialize_with = "seconds")]
            expires_in: Option<u32>,
        }

        let granted: Granted = serde_json::from_slice(body).map_err(
            |_| "it is not JSON with an access_token and an expires_in that is a number",
        )?;
        if granted
            .token_type
            .is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer"))
        {
            return Err("its token_type is not Bearer");
        }
        let authorization = sensitive(&format!("Bearer {}", granted.access_token))
            .ok()
            .filter(|_| !granted.access_token.is_empty())
            .ok_or("the access_token cannot stand in a header")?;
        let life = SignedDuration::from_secs(granted.expires_in.unwrap_or(UNKNOWN_LIFE).into());
        Ok(Self {
            authorization,
            use_until: now + life - TOKEN_MARGIN.min(life / 10),
        })
    }
}

/// A number, also as a text: some servers write it so.
fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(u32),
        Text(String),
    }

    Ok(match Option::deserialize(value)? {
        Some(Seconds::Number(number)) => Some(number),
        Some(Seconds::Text(text)) => Some(text.parse().map_err(serde::de::Error::custom)?),
        None => None,
    })
}

/// The current token of a client. One request for a token is under way at a time.
pub struct TokenCache<K>(Mutex<Option<(K, Token)>>);

impl<K> Default for TokenCache<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq + Clone> TokenCache<K> {
    /// The token that was made for this client, or else the one that `ask` gets.
    pub async fn get<E>(
        &self,
        client: &K,
        clock: &impl Clock,
        ask: impl Future<Output = Result<Token, E>>,
    ) -> Result<HeaderValue, E> {
        let mut cached = self.0.lock().await;
        if let Some((of, token)) = &*cached
            && of == client
            && clock.now() < token.use_until
        {
            return Ok(token.authorization.clone());
        }
        let token = ask.await?;
        let authorization = token.authorization.clone();
        *cached = Some((client.clone(), token));
        Ok(authorization)
    }

    /// Drops a refused token, unless there is a newer one.
    pub async fn forget(&self, refused: &HeaderValue) {
        self.0
            .lock()
            .await
            .take_if(|(_, token)| token.authorization == *refused);
    }
}

/// A request for a token.
pub(super) struct TokenRequest<'a> {
    pub(super) url: &'a str,
    pub(super) client_id: &'a str,
    pub(super) client_secret: &'a str,
    pub(super) authentication: Authentication,
    pub(super) scope: Option<&'a str>,
    pub(super) audience: Option<&'a str>,
}

impl TokenRequest<'_> {
    pub(super) fn build(&self) -> Result<Request<Vec<u8>>, http::Error> {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", self.scope), ("audience", self.audience)] {
            form.extend_pairs(value.map(|value| (name, value)));
        }
        let mut request = Request::post(self.url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        match self.authentication {
            // Both are encoded as in a form before they are joined (RFC 6749 section 2.3.1).
            Authentication::Basic => {
                let encoded = [self.client_id, self.client_secret]
                    .map(|part| byte_serialize(part.as_bytes()).collect::<String>());
                let credentials = BASE64_STANDARD.encode(encoded.join(":"));
                let authorization = sensitive(&format!("Basic {credentials}"))?;
                request = request.header(header::AUTHORIZATION, authorization);
            }
            Authentication::Post => {
                form.append_pair("client_id", self.client_id);
                form.append_pair("client_secret", self.client_secret);
            }
        }
        request.body(form.finish().into_bytes())
    }
}

/// The known error that a refusal names.
pub(super) fn error_of(body: &[u8]) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }

    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    ERRORS.into_iter().find(|known| *known == refusal.error)
}

fn sensitive(text: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_however_its_life_is_written() {
        let now = Timestamp::UNIX_EPOCH;
        for (rest, seconds) in [
            (r#","token_type":"bearer","expires_in":100"#, 90),
            (r#","token_type":"BEARER","expires_in":"7200""#, 7140),
            (r#","expires_in":null,"scope":"a""#, 3540),
            ("", 3540),
            (r#","expires_in":0"#, 0),
        ] {
            let body = format!(r#"{{"access_token":"t"{rest}}}"#);
            let token = Token::read(body.as_bytes(), now).expect("a token");
            assert_eq!(token.authorization, "Bearer t");
            assert!(token.authorization.is_sensitive());
            assert_eq!(token.use_until.as_second(), seconds, "{rest}");
        }
    }

    #[test]
    fn only_known_errors_are_told() {
        for error in ERRORS {
            let body = format!(r#"{{"error":"{error}","error_description":"x"}}"#);
            assert_eq!(error_of(body.as_bytes()), Some(error));
        }
        for body in [r#"{"error":"hunter2"}"#, r#""invalid_client""#, ""] {
            assert_eq!(error_of(body.as_bytes()), None);
        }
    }
}
