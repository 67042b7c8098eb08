//! Accepts a webhook: authenticates, identifies and enqueues it. The answer is 200 only after the
//! queue has the event.

pub mod authenticate;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderName, header};
use tokio::time::Instant;

use crate::domain::check::{self, CheckEvent};
use crate::domain::event::{Event, EventId, Identity, SenderKey, Source};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::json::{Json, NotJson};
use crate::domain::message::{MAX_MESSAGE_BYTES, Message, is_kept_header};
use crate::domain::trace::TraceHeader;
use crate::ingest::authenticate::{NoProof, Proof, Verdict};
use crate::ports::clock::Clock as _;
use crate::ports::queue::Sender as _;
use crate::ports::secrets::SecretsError;
use crate::ports::service::ServiceError;
use crate::runtime::metrics::{self, Rejection};

pub use self::ports::{PortTypes, Ports};

/// The use case, over its ports.
pub struct Ingest<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    /// The source of ids for events without an identity.
    pub rng: Mutex<fastrand::Rng>,
}

/// An event that is durable: the sender may forget it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub id: EventId,
    /// The kind of sender.
    pub source: Source,
    /// Its size as a message, in bytes.
    pub size: usize,
}

/// A webhook that was not accepted. The texts are for the sender.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request has no usable proof of who sent it.
    #[error("The request is not authenticated: {0}.")]
    NoProof(#[source] NoProof),
    /// The proof holds under none of the secrets, which were read within the last few seconds.
    #[error(
        "The signature or secret does not match. Compare the secret in Genesys Cloud with the one in the stack's secret, \
         and sign the raw body, byte for byte."
    )]
    WrongProof,
    /// There is no body.
    #[error("The body is empty. Send the event as a JSON object or array.")]
    Empty,
    /// The body is not a JSON object or array. It was kept in the dead-letter queue.
    #[error(
        "{error}. It was kept in the dead-letter queue as {kept_as}; send a JSON object or array."
    )]
    NotJson {
        /// The problem.
        #[source]
        error: NotJson,
        /// The id under which it was kept.
        kept_as: EventId,
    },
    /// The event does not fit into one message.
    #[error(
        "The event makes a message of {size} bytes, and at most {MAX_MESSAGE_BYTES} fit (headers counted; a body with characters \
         that SQS refuses grows by a third). Send less, for example a reference in place of the content."
    )]
    TooLarge {
        /// The size it would have.
        size: usize,
    },
    /// There is no secret of the kind that the proof needs. An unauthenticated sender is not told
    /// so.
    #[error("The relay cannot check this request at the moment. Send it again.")]
    NotConfigured {
        /// The field of the stack's secret that would hold them.
        field: &'static str,
    },
    /// The secrets could not be read.
    #[error("The relay cannot check this request at the moment. Send it again.")]
    SecretsUnavailable(#[source] SecretsError),
    /// SQS did not accept the event.
    #[error("The relay cannot store the event at the moment. Send it again.")]
    QueueUnavailable(#[source] ServiceError),
}

impl<T: PortTypes> Ingest<T> {
    /// Accepts or refuses one webhook.
    ///
    /// `Ok` and [`Refusal::NotJson`] mean that the body is durable; every other refusal leaves
    /// nothing behind. The message carries this trace through the queue.
    pub async fn ingest(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        trace: Option<TraceHeader>,
    ) -> Result<Accepted, Refusal> {
        let outcome = self.accept(headers, body, trace).await;
        match &outcome {
            Ok(accepted) if accepted.source == Source::Check => {}
            Ok(_) => metrics::ACCEPTED.add(1),
            Err(Refusal::NoProof(_) | Refusal::WrongProof) if is_check(body) => {}
            Err(refusal) => metrics::REJECTED.add(refusal.into(), 1),
        }
        outcome
    }

    async fn accept(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        trace: Option<TraceHeader>,
    ) -> Result<Accepted, Refusal> {
        self.authenticate(headers, body).await?;
        if body.is_empty() {
            return Err(Refusal::Empty);
        }
        // What cannot fit is refused before any work is put into it.
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(Refusal::TooLarge { size: body.len() });
        }
        let received_at = self.ports.clock.now();
        let json = Json::parse(body);
        let lone = || {
            EventId::of_request(
                received_at,
                self.rng
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .u128(..),
            )
        };
        let identity = match &json {
            Ok(json) => Identity::of(*json, received_at, sender_key(headers).as_ref(), lone),
            Err(_) => Identity::of_malformed(lone()),
        };
        let event = Event {
            id: identity.id,
            source: identity.source,
            received_at,
            content_type: text(headers, &header::CONTENT_TYPE).map(str::to_owned),
            headers: kept_headers(headers),
            body: body.to_vec(),
            webhook_id: identity.webhook_id,
            is_copy: false,
        };
        let (id, source) = (event.id.clone(), event.source);
        let message = Message {
            trace,
            ..Message::from_event(event)
        };
        let size = message.size();
        if size > MAX_MESSAGE_BYTES {
            return Err(Refusal::TooLarge { size });
        }
        match json {
            Ok(_) => {
                let began = Instant::now();
                self.ports
                    .events
                    .send(&message)
                    .await
                    .map_err(Refusal::QueueUnavailable)?;
                if source != Source::Check {
                    metrics::ENQUEUE_TIME.time(began.elapsed());
                }
                Ok(Accepted { id, source, size })
            }
            Err(error) => {
                let reason = Reason::new(ReasonKind::Malformed, &error.to_string(), received_at);
                let message = message.with_reason(&reason);
                self.ports
                    .dead_letters
                    .send(&message)
                    .await
                    .map_err(Refusal::QueueUnavailable)?;
                metrics::DEAD.add(reason.reason, 1);
                Err(Refusal::NotJson { error, kept_as: id })
            }
        }
    }

    /// A 401 makes Genesys Cloud drop the event, so it is never based on an old copy of the
    /// secrets.
    async fn authenticate(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let proof = Proof::find(headers).map_err(Refusal::NoProof)?;
        let secrets = self
            .ports
            .secrets
            .get()
            .await
            .map_err(Refusal::SecretsUnavailable)?;
        if proof.verify(body, &secrets) == Verdict::Valid {
            return Ok(());
        }
        let secrets = self
            .ports
            .secrets
            .get_fresh()
            .await
            .map_err(Refusal::SecretsUnavailable)?;
        match proof.verify(body, &secrets) {
            Verdict::Valid => Ok(()),
            Verdict::Invalid => Err(Refusal::WrongProof),
            Verdict::NotConfigured => Err(Refusal::NotConfigured {
                field: proof.field(),
            }),
        }
    }
}

impl Refusal {
    /// The underlying error, if the fault is the relay's.
    ///
    /// A missing secret is none: anyone can send a made-up signature where no integration signs.
    pub fn fault(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::SecretsUnavailable(error) => Some(error),
            Self::QueueUnavailable(error) => Some(error),
            Self::NoProof(_)
            | Self::WrongProof
            | Self::Empty
            | Self::NotJson { .. }
            | Self::TooLarge { .. }
            | Self::NotConfigured { .. } => None,
        }
    }

    /// The reason for operators.
    pub fn reason(&self) -> String {
        match self {
            Self::NotConfigured { field } => {
                format!("the stack's secret has no {field} to check this request with")
            }
            told => told.to_string(),
        }
    }
}

impl From<&Refusal> for Rejection {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NoProof(_) | Refusal::WrongProof => Self::Unauthorized,
            Refusal::Empty => Self::Empty,
            Refusal::NotJson { .. } => Self::NotJson,
            Refusal::TooLarge { .. } => Self::TooLarge,
            Refusal::NotConfigured { .. } => Self::NotConfigured,
            Refusal::SecretsUnavailable(_) | Refusal::QueueUnavailable(_) => Self::Unavailable,
        }
    }
}

/// Returns whether a refused body is of a check, which asks for refusals as well.
fn is_check(body: &[u8]) -> bool {
    body.len() <= check::MAX_BODY_BYTES && CheckEvent::parse(body).is_some()
}

/// The sender's keys for its events. Several values of one header are joined as API Gateway joins
/// them.
fn sender_key(headers: &HeaderMap) -> Option<SenderKey> {
    let joined = |name| {
        let values: Vec<&str> = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        values.join(",")
    };
    SenderKey::of(
        Some(&joined("idempotency-key")),
        Some(&joined("webhook-id")),
    )
}

fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let name = name.as_str();
        // A value that is not ASCII text could not travel on as one.
        if let (true, Ok(value)) = (is_kept_header(name), value.to_str()) {
            kept.entry(name.to_owned())
                .and_modify(|values| {
                    values.push_str(", ");
                    values.push_str(value);
                })
                .or_insert_with(|| value.to_owned());
        }
    }
    kept
}

/// A header's value, unless it is a placeholder: SQS accepts no empty attribute.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|value| !value.is_empty())
}
