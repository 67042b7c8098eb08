//! The whole relay: the repository's template on a local AWS, the functions as real binaries, a
//! target that misbehaves.
//!
//! Each test starts a stack of its own, so that they run side by side. Steps that do not disturb
//! each other share one.

mod account;
mod acknowledgement;
mod api;
mod archive;
mod breaker;
mod canary;
mod check;
mod credentials;
mod dead_letters;
mod delivery;
mod erase;
mod eventbridge;
mod faults;
mod hostile;
mod ledger;
mod look;
mod on_aws;
mod operating;
mod order;
mod permissions;
mod rate;
mod recovery;
mod relay;
mod resend;
mod runs;
mod soak;
mod statement;
mod upgrade;
mod watch;
