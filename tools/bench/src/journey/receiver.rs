//! What both programs have in common: they take webhooks, deliver them later, and can be killed.

use std::collections::BTreeSet;

use anyhow::Result;
use local::target::Target;

/// A program that takes webhooks, with the target that it delivers them to.
pub(super) trait Receiver {
    /// What it is called in the table.
    const NAME: &'static str;

    /// Where it takes them.
    fn url(&self) -> &str;

    /// Where it delivers them.
    fn target(&self) -> &Target;

    /// Waits until nothing is under way to the target any more.
    async fn settle(&mut self) -> Result<()>;

    /// The numbers of all that it has ever put aside as dead letters and still has, once nothing is under way.
    async fn dead(&mut self) -> Result<BTreeSet<u64>>;

    /// Ends its processes by SIGKILL, and has them run again.
    async fn crash(&mut self) -> Result<()>;
}
