//! The operator's page: what flows, what is dead and why, and what is to become of it.
//!
//! It listens on this machine only, and does nothing but invoke two functions of the stack, replay and breaker, with what
//! the operator may do. So nothing new is exposed to the internet, and every rule stays where it is.

mod answers;
pub mod aws;
pub mod functions;
mod gate;
mod pages;
mod pretty;
mod problem;
mod runs;
mod selection;
pub mod server;
