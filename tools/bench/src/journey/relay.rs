//! The relay on the local AWS, with the functions that are deployed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use local::stack::{Function, Stack, StackOptions};
use local::target::{Behaviour, Target};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::load::number_of;
use super::receiver::Receiver;
use crate::process;
use crate::programs::{FUNCTIONS, Programs};

/// The same attempts as the service makes: the first one and three more, after 2, 4 and 8 seconds.
/// An invocation that was killed shows its messages again after six times the function's time
/// limit, so that is short.
const PARAMETERS: [(&str, u32); 3] = [
    ("MaxReceiveCount", 4),
    ("BackoffBaseSeconds", 2),
    ("ProcessorTimeoutSeconds", 5),
];

/// A relay, its target, and what has been taken out of its dead-letter queue.
pub(super) struct Relay {
    pub(super) stack: Stack,
    target: Target,
    url: String,
    dead: BTreeSet<u64>,
}

impl Relay {
    pub(super) async fn start(programs: &Programs) -> Result<Self> {
        let target = Target::start(Behaviour::Fine).await?;
        let options = StackOptions::new(target.url()).with_schedules();
        let options = PARAMETERS
            .iter()
            .fold(options, |options, (name, value)| options.set(*name, value));
        let stack = deploy(programs, options).await?;
        let url = stack.webhook_url()?;
        Ok(Self {
            stack,
            target,
            url,
            dead: BTreeSet::new(),
        })
    }
}

/// Deploys the functions as they are built for release, on all cores.
pub(crate) async fn deploy(programs: &Programs, options: StackOptions) -> Result<Stack> {
    // What was measured before has left this program on one core, and processes inherit that.
    process::unpin()?;
    let binary = |name: &str| Ok((name.to_owned(), programs.binary(name)?.to_path_buf()));
    let binaries = FUNCTIONS
        .into_iter()
        .map(binary)
        .collect::<Result<BTreeMap<String, PathBuf>>>()?;
    Stack::start(options.binaries(binaries)).await
}

impl Receiver for Relay {
    const NAME: &'static str = "relay";

    fn url(&self) -> &str {
        &self.url
    }

    fn target(&self) -> &Target {
        &self.target
    }

    async fn settle(&mut self) -> Result<()> {
        self.stack
            .until_queues("no event is under way", |counts| counts.events.total() == 0)
            .await
            .map(drop)
    }

    async fn dead(&mut self) -> Result<BTreeSet<u64>> {
        let (sqs, queue) = (self.stack.sqs(), self.stack.output("DeadLetterQueueUrl")?);
        while self.stack.queue_counts().await?.dead_letters.total() > 0 {
            let request = sqs
                .receive_message()
                .queue_url(queue)
                .max_number_of_messages(10);
            for message in request.send().await?.messages.unwrap_or_default() {
                let body = message.body.context("a dead letter without a body")?;
                self.dead.insert(
                    number_of(body.as_bytes())
                        .with_context(|| format!("not one of ours: {body}"))?,
                );
                let receipt = message
                    .receipt_handle
                    .context("a message without a receipt")?;
                sqs.delete_message()
                    .queue_url(queue)
                    .receipt_handle(receipt)
                    .send()
                    .await?;
            }
        }
        Ok(self.dead.clone())
    }

    /// The local AWS starts a function again when it needs it.
    async fn crash(&mut self) -> Result<()> {
        for function in [Function::Ingest, Function::Processor] {
            let pids = self.stack.pids_of(function)?;
            for pid in &pids {
                match kill(Pid::from_raw(i32::try_from(*pid)?), Signal::SIGKILL) {
                    // One that has ended by itself in the meantime is as dead.
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).context("cannot kill a function"),
                }
            }
            eprintln!("  SIGKILL to {} processes of {function}", pids.len());
        }
        Ok(())
    }
}
