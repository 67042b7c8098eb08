//! Implementations of the ports. Only [`aws`] knows the AWS SDK.

pub mod aws;
pub mod delivery_log;
pub mod genesys;
pub mod http_target;
pub mod oauth;
pub mod standard_webhooks;
