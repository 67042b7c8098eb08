//! Access tokens and the rate limit.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{HeaderMap, header::AUTHORIZATION};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    answer::{CloudAnswer, Refusal},
    format::new_id,
};

/// The id of the OAuth client.
pub const CLIENT_ID: &str = "local-genesys-cloud-client";
/// The secret of the OAuth client, which opens nothing but the stand-in.
pub const CLIENT_SECRET: &str = "local-genesys-cloud-secret-0001";

const DAY: Duration = Duration::from_hours(24);
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// The tokens that have been issued.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) life: Duration,
    valid_until: HashMap<String, Timestamp>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            life: DAY,
            valid_until: HashMap::new(),
        }
    }
}

impl Tokens {
    pub(super) fn expire(&mut self) {
        self.valid_until.clear();
    }

    pub(super) fn issue(
        &mut self,
        form: &Value,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> CloudAnswer {
        let credentials = BASE64_STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"));
        if authorization(headers, "Basic") != Some(&credentials) {
            return refuse(
                401,
                "invalid_client",
                "no such client, or not with this secret",
            );
        }
        if form["grant_type"] != "client_credentials" {
            return refuse(
                400,
                "unsupported_grant_type",
                "only client_credentials is possible here",
            );
        }
        let token = new_id();
        self.valid_until.insert(token.clone(), now + self.life);
        let body = json!({ "access_token": token, "token_type": "bearer", "expires_in": self.life.as_secs() });
        CloudAnswer::json(200, &body)
    }

    pub(super) fn check(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), Refusal> {
        let token = authorization(headers, "Bearer").ok_or_else(Refusal::no_token)?;
        let valid = self
            .valid_until
            .get(token)
            .is_some_and(|until| now < *until);
        if valid {
            Ok(())
        } else {
            Err(Refusal::bad_token())
        }
    }
}

fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then_some(value)
}

/// In the shape of OAuth, not in that of the API.
fn refuse(status: u16, error: &str, description: &str) -> CloudAnswer {
    CloudAnswer::json(
        status,
        &json!({ "error": error, "description": description, "error_description": description }),
    )
}

/// Limit of calls in a minute, and the calls so far.
#[derive(Debug)]
pub(super) struct RateLimit {
    pub(super) allowed: u32,
    since: Timestamp,
    count: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            allowed: 300,
            since: Timestamp::UNIX_EPOCH,
            count: 0,
        }
    }
}

impl RateLimit {
    pub(super) fn count(&mut self, now: Timestamp) -> Result<(), Refusal> {
        if !(SignedDuration::ZERO..WINDOW).contains(&now.duration_since(self.since)) {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        if self.count > self.allowed {
            return Err(Refusal::too_many_requests(Some(self.reset(now))));
        }
        Ok(())
    }

    /// Seconds until calls are counted from nothing.
    fn reset(&self, now: Timestamp) -> u64 {
        let left = WINDOW.saturating_sub(now.duration_since(self.since));
        u64::try_from(left.as_millis()).unwrap_or(0).div_ceil(1000)
    }

    pub(super) fn headers(&self, now: Timestamp) -> [(&'static str, String); 3] {
        [
            ("inin-ratelimit-count", self.count.to_string()),
            ("inin-ratelimit-allowed", self.allowed.to_string()),
            ("inin-ratelimit-reset", self.reset(now).to_string()),
        ]
    }
}
