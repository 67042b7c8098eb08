//! Calls to the stand-in.

use std::{collections::BTreeMap, mem};

use hyper::{Method, http::request::Parts};
use reqwest::Url;
use serde_json::Value;

use super::answer::Refusal;

/// Endpoint of a call, with the id in its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The login.
    Token,
    /// The search for conversations.
    Query,
    /// The messages of a conversation.
    Conversation(String),
    /// The details of a message.
    Message(String),
    /// The details of several messages of a conversation.
    Messages(String),
    /// An Open Messaging integration.
    Integration(String),
    /// The log of a webhook's deliveries.
    Deliveries(String),
    /// Nothing that there is.
    Unknown,
}

/// A call that has arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Endpoint of the call.
    pub endpoint: Endpoint,
    /// The how many-th call of this kind it is, whatever the id, from 1.
    pub nth: usize,
    /// The how many-th call of all, from 1.
    pub overall: usize,
    /// `GET` or another one.
    pub method: String,
    /// As it came, still encoded.
    pub path: String,
    /// The parameters in the URL, decoded.
    pub query: BTreeMap<String, String>,
    /// The body: its JSON, the fields of a form as an object, or null.
    pub body: Value,
    /// The status that was answered; `None` when the connection broke, and as long as it is not
    /// decided.
    pub status: Option<u16>,
}

impl Endpoint {
    fn of(method: &Method, path: &str) -> Self {
        let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
        match (method.as_str(), segments.as_slice()) {
            ("POST", ["oauth", "token"]) => Self::Token,
            (
                "POST",
                [
                    "api",
                    "v2",
                    "analytics",
                    "conversations",
                    "details",
                    "query",
                ],
            ) => Self::Query,
            ("GET", ["api", "v2", "conversations", "messages", id]) => {
                Self::Conversation((*id).to_owned())
            }
            ("GET", ["api", "v2", "conversations", "messages", id, "details"]) => {
                Self::Message((*id).to_owned())
            }
            (
                "POST",
                [
                    "api",
                    "v2",
                    "conversations",
                    "messages",
                    id,
                    "messages",
                    "bulk",
                ],
            ) => Self::Messages((*id).to_owned()),
            (
                "GET",
                [
                    "api",
                    "v2",
                    "conversations",
                    "messaging",
                    "integrations",
                    "open",
                    id,
                ],
            ) => Self::Integration((*id).to_owned()),
            ("GET", ["api", "v2", "webhooks", id, "deliveries"]) => {
                Self::Deliveries((*id).to_owned())
            }
            _ => Self::Unknown,
        }
    }
}

impl Call {
    pub(super) fn new(head: &Parts, body: &[u8], earlier: &[Self]) -> Self {
        let endpoint = Endpoint::of(&head.method, head.uri.path());
        let kind = mem::discriminant(&endpoint);
        let body = if endpoint == Endpoint::Token {
            parameters(&String::from_utf8_lossy(body))
                .into_iter()
                .collect()
        } else {
            serde_json::from_slice(body).unwrap_or_default()
        };
        Self {
            nth: 1 + earlier
                .iter()
                .filter(|call| mem::discriminant(&call.endpoint) == kind)
                .count(),
            overall: 1 + earlier.len(),
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: parameters(head.uri.query().unwrap_or_default()),
            endpoint,
            body,
            status: None,
        }
    }

    /// Refuses a call with other parameters in its URL than these.
    pub(super) fn check_query(&self, known: &[&str]) -> Result<(), Refusal> {
        match self
            .query
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            Some(name) => Err(Refusal::bad_request(format!(
                "there is no parameter {name}"
            ))),
            None => Ok(()),
        }
    }

    /// A parameter of the URL, if it is there.
    pub(super) fn parameter<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let wrong = |value| Refusal::bad_request(format!("{name} cannot be {value}"));
        self.query
            .get(name)
            .map(|value| parse(value).ok_or_else(|| wrong(value)))
            .transpose()
    }
}

/// Pairs as they stand in a URL or a form.
fn parameters(encoded: &str) -> BTreeMap<String, String> {
    let url = Url::parse(&format!("http://localhost/?{encoded}"));
    url.map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default()
}
