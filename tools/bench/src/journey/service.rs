//! The first tutorial's design: one process, with what is not delivered yet in its memory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context as _, Result, bail};
use local::genesys::WEBHOOK_SECRET;
use local::target::{Behaviour, Target};
use local::{clients, wait};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::load::number_of;
use super::receiver::Receiver;
use crate::programs::Programs;

const RUNNING: &str = "Uvicorn running on ";

/// The service and its target. Dropping it ends the process.
pub(super) struct Service {
    python: PathBuf,
    peers: PathBuf,
    target: Target,
    process: Process,
    url: String,
}

struct Process {
    child: Child,
    address: String,
    /// Events that were accepted and are neither delivered nor dead, by its log.
    under_way: Arc<AtomicI64>,
}

impl Service {
    pub(super) async fn start(programs: &Programs) -> Result<Self> {
        let target = Target::start(Behaviour::Fine).await?;
        let (python, peers) = (programs.python.clone(), programs.peers.clone());
        let process = Process::start(&python, &peers, &target, "0").await?;
        let url = format!("{}/webhook/genesys", process.address);
        Ok(Self {
            python,
            peers,
            target,
            process,
            url,
        })
    }

    async fn dead_letters(&self) -> Result<Value> {
        let answer = clients::http()
            .get(format!("{}/dlq", self.process.address))
            .send()
            .await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }
}

impl Process {
    /// Starts one, and waits until it takes webhooks. It makes four attempts, as the relay does
    /// here.
    async fn start(python: &PathBuf, peers: &PathBuf, target: &Target, port: &str) -> Result<Self> {
        let mut command = Command::new(python);
        command
            .args(["-B", "service.py"])
            .current_dir(peers)
            .env_clear()
            .kill_on_drop(true);
        command.envs([
            ("TARGET_URL", target.url().as_str()),
            ("WEBHOOK_SECRET", WEBHOOK_SECRET),
            ("PORT", port),
        ]);
        command.envs([("MAX_RETRIES", "3"), ("RETRY_BASE_SECONDS", "2")]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?).lines();
        let mut said = String::new();
        let address = loop {
            let Some(line) = log.next_line().await? else {
                bail!("service.py does not start:\n{said}")
            };
            if let Some((_, address)) = line.split_once(RUNNING) {
                break address
                    .split_whitespace()
                    .next()
                    .context("no address")?
                    .to_owned();
            }
            said.push_str(&line);
            said.push('\n');
        };
        let under_way = Arc::<AtomicI64>::default();
        tokio::spawn(count(log, Arc::clone(&under_way)));
        Ok(Self {
            child,
            address,
            under_way,
        })
    }
}

/// Keeps the count of what is under way, until the process has ended.
async fn count(mut log: Lines<BufReader<ChildStderr>>, under_way: Arc<AtomicI64>) {
    while let Ok(Some(line)) = log.next_line().await {
        let change = if line.contains(" INFO accepted ") {
            1
        } else if line.contains(" INFO delivered at attempt ")
            || line.contains(" ERROR dead letter ")
        {
            -1
        } else {
            0
        };
        under_way.fetch_add(change, Ordering::Relaxed);
    }
}

impl Receiver for Service {
    const NAME: &'static str = "service.py";

    fn url(&self) -> &str {
        &self.url
    }

    fn target(&self) -> &Target {
        &self.target
    }

    async fn settle(&mut self) -> Result<()> {
        wait::until("the service has nothing under way", || async {
            // What it has logged before it answers has been read by the time its answer has.
            self.dead_letters().await?;
            Ok((self.process.under_way.load(Ordering::Relaxed) == 0).then_some(()))
        })
        .await
    }

    async fn dead(&mut self) -> Result<BTreeSet<u64>> {
        let answer = self.dead_letters().await?;
        let letters = answer["dlq_items"]
            .as_array()
            .context("no list of dead letters")?;
        let number = |letter: &Value| number_of(letter["body"].as_str()?.as_bytes());
        letters
            .iter()
            .map(|letter| number(letter).with_context(|| format!("not one of ours: {letter}")))
            .collect()
    }

    /// It gets the same port again.
    async fn crash(&mut self) -> Result<()> {
        self.process.child.kill().await?;
        eprintln!("  SIGKILL to the one process of service.py");
        let (_, port) = self.process.address.rsplit_once(':').context("no port")?;
        self.process = Process::start(&self.python, &self.peers, &self.target, port).await?;
        Ok(())
    }
}
