//! Logs of failed deliveries in Genesys Cloud.

pub mod open_messaging;
mod segment;
pub mod webhook_deliveries;
