//! The relay on a local AWS: an emulator in a private Python environment, the repository's own
//! `template.yaml` deployed to it, a target whose behaviour can be set, and a Genesys Cloud that
//! gives up on webhooks.
//!
//! `cargo local` runs it for people, and the end-to-end tests start as many [`stack::Stack`]s side
//! by side as they need.

pub mod api;
pub mod api_keys;
pub mod aws;
pub mod clients;
pub mod demo;
pub mod deploy;
pub mod emulator;
pub mod env_file;
pub mod faulty_proxy;
pub mod functions;
pub mod genesys;
pub mod genesys_cloud;
pub mod journey;
pub mod oauth;
pub mod python;
pub mod role;
pub mod run;
pub mod runtime_api;
pub mod screen;
pub mod server;
pub mod stack;
pub mod stand_in;
pub mod target;
pub mod template;
pub mod tls;
pub mod wait;
pub mod workspace;
