//! Ports of the ingest, by name.

use crate::ports::clock::Clock;
use crate::ports::queue::Sender;
use crate::ports::secrets::{SecretCache, SecretStore, SenderSecrets};

/// Adapters behind [`Ports`].
pub trait PortTypes {
    type Events: Sender;
    type DeadLetters: Sender;
    type Secrets: SecretStore;
    type Clock: Clock;
}

/// Queues and secrets that the use case needs.
pub struct Ports<T: PortTypes> {
    /// Queue for accepted events.
    pub events: T::Events,
    /// Queue for authentic bodies that are not JSON.
    pub dead_letters: T::DeadLetters,
    /// Secrets that proofs are compared with.
    pub secrets: SecretCache<T::Secrets, SenderSecrets, T::Clock>,
    /// Time of receipt.
    pub clock: T::Clock,
}
