//! The operator's console: shows the flow of events and the dead letters, and starts replays and
//! other actions.
//!
//! It listens on this machine only and only invokes three functions of the stack, with the operator's
//! own permissions: look answers, replay and breaker change something. It exposes nothing new to the
//! internet, and the functions enforce all rules.
//!
//! [`server`] routes requests through `gate` to `pages`; these share `state` and render into
//! `layout`.

pub mod aws;
pub mod check;
mod form;
pub mod functions;
mod gate;
mod layout;
mod lock;
mod pages;
mod pretty;
mod problem;
mod relay;
mod runs;
pub mod server;
mod state;
