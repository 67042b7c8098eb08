//! Configuration, logs and metrics of every function.

pub mod config;
pub mod logging;
pub mod metrics;
