//! No Genesys Cloud event is ever lost: the library behind the Lambda functions of this workspace.
//!
//! Each use case is one file: [`ingest`] takes a webhook in, [`process`] delivers it, [`replay`] brings dead letters
//! back. They reach the world through narrow ports ([`queue`], [`secrets`], [`target`], [`clock`]); only [`aws`] knows
//! the AWS SDK. `ARCHITECTURE.md` tells the life of one event, and what happens at every place where it can crash.

pub mod archive;
pub mod attempts;
pub mod authenticate;
pub mod aws;
pub mod breaker;
pub mod clock;
pub mod config;
pub mod delivery_log;
pub mod event;
pub mod events_table;
pub mod genesys;
pub mod http_target;
pub mod https_url;
pub mod ingest;
pub mod json;
pub mod logging;
pub mod message;
pub mod metrics;
pub mod placeholder;
pub mod process;
pub mod queue;
pub mod reason;
pub mod record;
pub mod recover;
pub mod replay;
pub mod request;
pub mod retry;
pub mod secrets;
pub mod standard_webhooks;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
