//! Library behind the Lambda functions of this workspace. An event that was answered with 200 is
//! delivered, or kept as a dead letter for an operator.
//!
//! [`domain`] decides and does no I/O. Six use cases ([`ingest`], [`deliver`], [`dead_letters`],
//! [`recover`], [`statement`], [`breaker`]) act through [`ports`]. [`adapters`] connect the ports to AWS, to the
//! target and to Genesys Cloud. [`runtime`] is what every function needs: configuration, logs,
//! metrics. `ARCHITECTURE.md` says which of them may import which.

pub mod adapters;
pub mod breaker;
pub mod check;
pub mod dead_letters;
pub mod deliver;
pub mod domain;
pub mod ingest;
pub mod ports;
pub mod recover;
pub mod runtime;
pub mod statement;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
