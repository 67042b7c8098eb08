//! Traits through which the use cases reach the outside.

pub mod archive;
pub mod clock;
pub mod delivery_log;
pub mod event_queues;
pub mod event_source;
pub mod events_table;
pub mod hourly_counts;
pub mod pace;
pub mod queue;
pub mod run_lease;
pub mod secrets;
pub mod sent_messages;
pub mod service;
pub mod target;
