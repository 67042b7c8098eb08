//! Configuration, logs, metrics and HTTP events of every function.

pub mod config;
pub mod lambda_http;
pub mod logging;
pub mod metrics;
