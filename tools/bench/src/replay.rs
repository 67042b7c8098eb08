//! Dead letters per second: recorded by `reconcile`, swept back by a filter, and moved back by
//! SQS's own move task.
//!
//! The functions are those for release, but what they call is the local AWS, in Python and on the
//! same cores. A replay is mostly calls of SQS and DynamoDB, so [`RATE`] says how fast the local
//! AWS is, and not what SQS would allow; it serves to see a change from one version to the next.
//! [`CPU`] is the relay's own share: the CPU time of the replay function's process for each
//! message, without the TLS that it has on AWS. A move task is SQS's work; what the function does
//! for it is to write on each record that it is replayed.
//!
//! A sweep ends when two seconds have brought nothing more. [`RATE`] has them in it, as the person
//! who waits has; for [`RATE_BEYOND`] the time of a sweep of an empty queue is taken off.
//!
//! Nothing is delivered while this is measured. After it, the target, which answers 200 at once,
//! has to get everything.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use local::stack::{Function, Stack, StackOptions};
use local::target::{Behaviour, ReceivedRequest, Target};
use local::wait;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::figures::Figures;
use crate::ingest::Effort;
use crate::journey::load::webhook;
use crate::journey::relay::deploy;
use crate::process::cpu_micros;
use crate::programs::Programs;

const RECORDED: &str = "recorded";
const SWEPT: &str = "swept";
const MOVED: &str = "moved";

pub(crate) const RATE: &str = "messages/s";
pub(crate) const RATE_BEYOND: &str = "messages/s beyond the last wait";
pub(crate) const CPU: &str = "CPU µs per message";

/// The columns of the table.
pub(crate) const FIGURES: [&str; 3] = [RATE, RATE_BEYOND, CPU];

/// Dead letters at most, each time.
const COUNT_AT_MOST: usize = 1000;

/// Calls at the same time that put messages into the dead-letter queue.
const SENDERS: usize = 8;

/// Interval of polling the move task.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Measures all three in every round.
pub(crate) async fn measure(programs: &Programs, effort: Effort) -> Result<Figures> {
    let mut figures = Figures::default();
    let (rounds, count) = (
        effort.rounds.min(5),
        effort.invocations.saturating_mul(4).min(COUNT_AT_MOST),
    );
    for round in 1..=rounds {
        eprintln!("replay: round {round} of {rounds}, {count} dead letters each time");
        let target = Target::start(Behaviour::Fine).await?;
        // The local AWS gets slower with what it holds: each round has a new one.
        let stack = deploy(programs, StackOptions::new(target.url()).with_schedules()).await?;
        Round {
            stack,
            target,
            count,
            empty: Duration::ZERO,
        }
        .run(&mut figures)
        .await?;
    }
    Ok(figures)
}

struct Round {
    stack: Stack,
    target: Target,
    /// Dead letters each time.
    count: usize,
    /// Time of a sweep of an empty queue.
    empty: Duration,
}

impl Round {
    async fn run(&mut self, figures: &mut Figures) -> Result<()> {
        self.set_delivering(false).await?;
        let reconcile = json!({ "action": "reconcile" });
        // The first one starts the function.
        self.replay(&reconcile).await?;
        let began = Instant::now();
        self.replay(&reconcile).await?;
        self.empty = began.elapsed();

        self.send_to_dead_letters().await?;
        self.sweep(RECORDED, &reconcile, figures).await?;
        self.sweep(
            SWEPT,
            &json!({ "action": "replay", "filter": { "source": "webhook" } }),
            figures,
        )
        .await?;

        self.send_to_dead_letters().await?;
        self.sweep(RECORDED, &reconcile, figures).await?;
        self.move_all(figures).await?;

        self.set_delivering(true).await?;
        let expected = self.count * 2;
        let is_all = |requests: &[ReceivedRequest]| {
            requests
                .iter()
                .map(|request| &request.event_id)
                .collect::<BTreeSet<_>>()
                .len()
                == expected
        };
        self.target
            .until("all is delivered", is_all)
            .await
            .map(drop)
    }

    /// Measures one sweep of all, whose field in the answer is called as its row, or `replayed`.
    async fn sweep(&self, row: &str, request: &Value, figures: &mut Figures) -> Result<()> {
        let (began, cpu_before) = (Instant::now(), self.cpu()?);
        let answer = self.replay(request).await?;
        let (took, cpu) = (began.elapsed(), self.cpu()? - cpu_before);
        let done = if row == SWEPT {
            &answer["replayed"]
        } else {
            &answer["recorded"]
        };
        ensure!(
            *done == self.count && answer["complete"] == true && answer["failures"] == 0,
            "{answer}"
        );
        self.add(row, took, cpu, figures)?;
        figures.add(
            row,
            RATE_BEYOND,
            self.messages()? / took.saturating_sub(self.empty).as_secs_f64(),
        );
        Ok(())
    }

    /// Measures the move task, from the request to its end.
    async fn move_all(&self, figures: &mut Figures) -> Result<()> {
        let (sqs, queue) = (self.stack.sqs(), self.stack.output("DeadLetterQueueUrl")?);
        let answer = sqs
            .get_queue_attributes()
            .queue_url(queue)
            .attribute_names("QueueArn".into())
            .send()
            .await?;
        let arn = answer
            .attributes()
            .and_then(|all| all.values().next())
            .context("the queue has no ARN")?
            .clone();
        let (began, cpu_before) = (Instant::now(), self.cpu()?);
        let answer = self
            .replay(&json!({ "action": "replay", "all": true }))
            .await?;
        ensure!(
            answer["matched"] == self.count && answer["failures"] == 0,
            "{answer}"
        );
        loop {
            let tasks = sqs
                .list_message_move_tasks()
                .source_arn(&arn)
                .max_results(1)
                .send()
                .await?
                .results;
            let task = tasks
                .unwrap_or_default()
                .into_iter()
                .next()
                .context("there is no move task")?;
            match task.status() {
                Some("COMPLETED") => break,
                Some("RUNNING") => sleep(LOOK_EVERY).await,
                _ => anyhow::bail!("the move task ended: {task:?}"),
            }
        }
        let (took, cpu) = (began.elapsed(), self.cpu()? - cpu_before);
        ensure!(
            self.stack.queue_counts().await?.dead_letters.total() == 0,
            "the move task left something behind"
        );
        self.add(MOVED, took, cpu, figures)
    }

    fn add(&self, row: &str, took: Duration, cpu_micros: f64, figures: &mut Figures) -> Result<()> {
        let messages = self.messages()?;
        eprintln!("  {row} in {:.2} s", took.as_secs_f64());
        figures.add(row, RATE, messages / took.as_secs_f64());
        figures.add(row, CPU, cpu_micros / messages);
        Ok(())
    }

    fn messages(&self) -> Result<f64> {
        Ok(f64::from(u32::try_from(self.count)?))
    }

    /// The CPU time that the replay function has taken until now, in microseconds.
    fn cpu(&self) -> Result<f64> {
        self.stack
            .pids_of(Function::Replay)?
            .into_iter()
            .map(cpu_micros)
            .sum()
    }

    /// Invokes the replay function, which has to answer.
    async fn replay(&self, request: &Value) -> Result<Value> {
        Ok(self.stack.invoke(Function::Replay, request).await??)
    }

    /// Puts messages into the dead-letter queue that the relay knows nothing of yet.
    async fn send_to_dead_letters(&self) -> Result<()> {
        let mut sending = JoinSet::new();
        for sender in 0..SENDERS {
            let (sqs, queue) = (
                self.stack.sqs().clone(),
                self.stack.output("DeadLetterQueueUrl")?.to_owned(),
            );
            let own = (sender..self.count).step_by(SENDERS);
            sending.spawn(async move {
                for _ in own {
                    let body = String::from_utf8(webhook(fastrand::u64(..)).body)?;
                    sqs.send_message()
                        .queue_url(&queue)
                        .message_body(body)
                        .send()
                        .await?;
                }
                anyhow::Ok(())
            });
        }
        sending
            .join_all()
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        let count = u32::try_from(self.count)?;
        self.stack
            .until_queues("all dead letters are there", |counts| {
                counts.dead_letters.visible == count
            })
            .await?;
        Ok(())
    }

    /// Stops what takes from the events queue, or lets it go on.
    async fn set_delivering(&self, enabled: bool) -> Result<()> {
        let lambda = self.stack.lambda();
        let mappings = lambda.list_event_source_mappings().send().await?;
        let id = mappings
            .event_source_mappings()
            .first()
            .and_then(|mapping| mapping.uuid())
            .context("no mapping")?;
        lambda
            .update_event_source_mapping()
            .uuid(id)
            .enabled(enabled)
            .send()
            .await?;
        wait::until("the mapping is as asked for", || async {
            let state = lambda
                .get_event_source_mapping()
                .uuid(id)
                .send()
                .await?
                .state;
            Ok(
                (state.as_deref() == Some(if enabled { "Enabled" } else { "Disabled" }))
                    .then_some(()),
            )
        })
        .await
    }
}
