//! The operator's console: shows the flow of events and the dead letters, and starts replays and
//! other actions.
//!
//! It listens on this machine only and only invokes two functions of the stack, replay and breaker,
//! with the operator's own permissions. It exposes nothing new to the internet, and the functions
//! enforce all rules.
//!
//! [`server`] routes requests through `gate` to `pages`; these share `state` and render into
//! `layout`.

pub mod aws;
mod form;
pub mod functions;
mod gate;
mod layout;
mod lock;
mod pages;
mod pretty;
mod problem;
mod runs;
pub mod server;
mod state;
