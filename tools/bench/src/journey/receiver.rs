//! Common parts of both programs: they receive webhooks, deliver them later, and can be killed.

use std::collections::BTreeSet;

use anyhow::Result;
use local::target::Target;

/// A program that takes webhooks, with the target that it delivers them to.
pub(super) trait Receiver {
    /// Name in the table.
    const NAME: &'static str;

    /// URL for webhooks.
    fn url(&self) -> &str;

    /// Target of its deliveries.
    fn target(&self) -> &Target;

    /// Waits until nothing is under way to the target any more.
    async fn settle(&mut self) -> Result<()>;

    /// The numbers of all that it has ever put aside as dead letters and still has, once nothing is
    /// under way.
    async fn dead(&mut self) -> Result<BTreeSet<u64>>;

    /// Ends its processes by SIGKILL, and has them run again.
    async fn crash(&mut self) -> Result<()>;
}
