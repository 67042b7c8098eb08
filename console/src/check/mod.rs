//! `cargo relay check`: checks a deployed stack, read-only, and with `--send` the path of an event.
//!
//! Each check reads one subject and compares it with the template that the stack was deployed with.
//! None of them changes anything, and no evidence holds a secret.

mod account;
mod alarms;
mod api;
mod archive;
mod call;
mod deployment;
mod functions;
mod genesys;
mod queues;
mod report;
mod schedules;
mod secrets;
mod send;
mod stack;
mod status;
mod table;
mod target;
mod template;

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use genesys_relay::adapters::genesys::Https;
use genesys_relay::adapters::http_target::install_tls_provider;
use genesys_relay::check::Check;
use tokio::time::{Instant as Deadline, timeout_at};

use self::call::Fault;
use self::deployment::Deployment;
pub use self::report::Report;
use crate::aws::Place;

/// Time for everything.
const LIMIT: Duration = Duration::from_mins(2);

/// Something that a place lacks: the check of it, which is not made there, and why.
pub type Gap = (&'static str, &'static str);

/// What the local AWS does not do.
pub const LOCAL_GAPS: [Gap; 8] = [
    (
        "archive-lifecycle",
        "the local AWS ignores the lifecycle of a template's bucket",
    ),
    (
        "table-ttl",
        "the local AWS ignores the TTL of a template's table",
    ),
    (
        "table-backups",
        "the local AWS ignores the backups of a template's table",
    ),
    ("alarms-subscribed", "the local AWS mails nothing"),
    ("metrics", "the local AWS makes no metrics of log lines"),
    ("schedules-ran", "the local AWS has no metrics of its own"),
    ("alarms-quiet", "the local AWS evaluates no alarm"),
    ("account-concurrency", "the local AWS has no quotas"),
];

/// The checks of one stack.
#[derive(Debug, Clone)]
pub struct Checks {
    place: Place,
    https: Https,
    gaps: Vec<Gap>,
}

/// What is checked beside everything that can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Takes the path of an event, through the public URL.
    pub send: bool,
    /// Lets the synthetic event reach the target.
    pub to_target: bool,
}

impl Checks {
    /// Checks the stack of this place. The local AWS lacks [`LOCAL_GAPS`].
    pub fn of(place: Place) -> Result<Self> {
        let gaps = if place.local.is_some() {
            LOCAL_GAPS.to_vec()
        } else {
            Vec::new()
        };
        Self::with_gaps(place, gaps)
    }

    /// The same for a place that lacks this.
    pub fn with_gaps(place: Place, gaps: Vec<Gap>) -> Result<Self> {
        install_tls_provider();
        let https = Https::new().context("the HTTP client cannot be built")?;
        Ok(Self { place, https, gaps })
    }

    /// Checks everything, side by side, within two minutes.
    ///
    /// # Errors
    /// When the stack cannot be read, so that there is nothing to check.
    pub fn run(&self, options: Options) -> BoxFuture<'_, Result<Report>> {
        self.check(options).boxed()
    }

    async fn check(&self, options: Options) -> Result<Report> {
        let started = Instant::now();
        let deadline = Deadline::now() + LIMIT;
        let loaded = timeout_at(deadline, Deployment::load(&self.place, self.https.clone())).await;
        let loaded = loaded
            .unwrap_or_else(|_| Fault::failed("CloudFormation did not answer within two minutes"));
        let deployment = match loaded {
            Ok(deployment) => deployment,
            Err(Fault::Failed(why) | Fault::Missing(why) | Fault::NotHere(why)) => {
                bail!("could not read the stack {}: {why}", self.place.stack)
            }
            Err(denied) => {
                let check = outcome("stack", stack::RUNBOOK, Err(denied));
                return Ok(Report::new(&self.place, vec![check], started.elapsed()));
            }
        };
        let checks = all(&deployment).into_iter();
        let checks = checks.map(|(name, check)| async move {
            if let Some((_, why)) = self.gaps.iter().find(|(gap, _)| *gap == name) {
                return Check::not_here(name, *why);
            }
            let late = |_| Check::failed(name, "no answer within two minutes", stack::RUNBOOK);
            timeout_at(deadline, check).await.unwrap_or_else(late)
        });
        let sent = async {
            if options.send {
                send::checks(&deployment, options, deadline).await
            } else {
                Vec::new()
            }
        };
        let (mut checks, sent) = tokio::join!(join_all(checks), sent);
        checks.extend(sent);
        Ok(Report::new(&self.place, checks, started.elapsed()))
    }
}

/// A check under its name.
type Named<'a> = (String, BoxFuture<'a, Check>);

/// All checks that only read.
fn all(deployment: &Deployment) -> Vec<Named<'_>> {
    [
        stack::checks(deployment),
        functions::checks(deployment),
        queues::checks(deployment),
        table::checks(deployment),
        archive::checks(deployment),
        secrets::checks(deployment),
        api::checks(deployment),
        schedules::checks(deployment),
        alarms::checks(deployment),
        account::checks(deployment),
        status::checks(deployment),
        genesys::checks(deployment),
        target::checks(deployment),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A check: its name, its runbook, and the work that finds the evidence.
fn named<'a>(
    name: impl Into<String>,
    runbook: &'static str,
    work: impl Future<Output = Result<String, Fault>> + Send + 'a,
) -> Named<'a> {
    let name = name.into();
    let check = {
        let name = name.clone();
        async move {
            let started = Instant::now();
            let found = work.await;
            outcome(&name, runbook, found).took(started.elapsed())
        }
    };
    (name, check.boxed())
}

fn outcome(name: &str, runbook: &str, found: Result<String, Fault>) -> Check {
    match found {
        Ok(evidence) => Check::ok(name, evidence),
        Err(Fault::Failed(evidence) | Fault::Missing(evidence)) => {
            Check::failed(name, evidence, runbook)
        }
        Err(Fault::NotHere(why)) => Check::not_here(name, why),
        Err(Fault::NotAllowed(permission)) => Check::not_allowed(name, permission),
    }
}

/// A logical id as part of a check's name: `DeadLetterQueue` without `Queue` is `dead-letter`.
fn kebab(logical_id: &str, without: &str) -> String {
    let stem = logical_id.strip_suffix(without).unwrap_or(logical_id);
    let mut name = String::new();
    for (place, letter) in stem.char_indices() {
        if letter.is_ascii_uppercase() && place > 0 {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Phrases as one sentence, or the fallback if there is none.
fn unless_any(problems: &[String], otherwise: impl Into<String>) -> Result<String, Fault> {
    if problems.is_empty() {
        Ok(otherwise.into())
    } else {
        Fault::failed(problems.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_ids_become_stable_names() {
        assert_eq!(kebab("DeadLetterQueue", "Queue"), "dead-letter");
        assert_eq!(kebab("IngestFunction", "Function"), "ingest");
        assert_eq!(
            kebab("OrderedDeadLetterQueue", "Queue"),
            "ordered-dead-letter"
        );
    }
}
