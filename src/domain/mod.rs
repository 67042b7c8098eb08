//! Events, records and rules. Nothing here does I/O or reads a clock.

pub mod attempts;
pub mod book;
pub mod canary;
pub mod check;
pub mod circuit;
pub mod conversation;
pub mod erasure;
pub mod event;
pub mod event_record;
pub mod failure;
pub mod https_url;
pub mod instant;
pub mod json;
pub mod mac;
pub mod message;
pub mod placeholder;
pub mod queue_depth;
pub mod request;
pub mod resend;
pub mod retry;
pub mod text;
pub mod trace;
