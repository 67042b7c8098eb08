//! Operator who works on the dead letters meanwhile, and is interrupted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use fastrand::Rng;
use local::stack::Function;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::trouble::{kill_soon, pause};
use crate::archive;
use crate::ledger::Kill;
use crate::relay::Relay;

const REASONS: [&str; 4] = ["exhausted", "permanent", "crashed", "unknown"];

pub(super) struct Operator<'a> {
    relay: &'a Relay,
    rng: Rng,
    kills: Vec<Kill>,
    asked_to_discard: BTreeSet<String>,
    /// Number of runs of each kind, and of those that succeeded.
    runs: BTreeMap<String, (usize, usize)>,
}

impl<'a> Operator<'a> {
    pub(super) fn new(relay: &'a Relay, rng: Rng) -> Self {
        Self {
            relay,
            rng,
            kills: Vec::new(),
            asked_to_discard: BTreeSet::new(),
            runs: BTreeMap::new(),
        }
    }

    pub(super) fn take_kills(&mut self) -> Vec<Kill> {
        std::mem::take(&mut self.kills)
    }

    /// The events that may be gone for good.
    pub(super) fn asked_to_discard(&self) -> &BTreeSet<String> {
        &self.asked_to_discard
    }

    pub(super) fn figures(&self) -> String {
        let runs = self
            .runs
            .iter()
            .map(|(action, (runs, done))| format!("{action} {done} of {runs}"));
        format!("runs: {}", runs.collect::<Vec<_>>().join(", "))
    }

    /// Asks for one thing after the other until then. A request that fails is repeated some time.
    pub(super) async fn work(&mut self, end: Instant) -> Result<()> {
        while pause(&mut self.rng, 200, 1500, end).await {
            let request = match self.rng.u8(..20) {
                0..=4 => json!({ "action": "replay", "all": true }),
                5..=8 => {
                    json!({ "action": "replay", "filter": { "reason": self.rng.choice(REASONS) } })
                }
                9..=12 => json!({ "action": "reconcile" }),
                13 | 14 => json!({ "action": "archive", "olderThanDays": 0 }),
                15 | 16 => {
                    let keys = archive::keys(self.relay).await?;
                    let Some(key) = self.rng.choice(keys) else {
                        continue;
                    };
                    json!({ "action": "restore", "key": key })
                }
                17 => {
                    let Some(id) = self.any_dead_letter().await else {
                        continue;
                    };
                    self.asked_to_discard.insert(id.clone());
                    json!({ "action": "discard", "eventIds": [id] })
                }
                _ => {
                    self.run(Function::Recovery, json!({})).await?;
                    continue;
                }
            };
            self.run(Function::Replay, request).await?;
        }
        Ok(())
    }

    async fn any_dead_letter(&mut self) -> Option<String> {
        let request = json!({ "action": "list", "limit": 20 });
        let list = self.relay.stack.invoke(Function::Replay, &request);
        let list = list.await.ok()?.ok()?;
        let item = self.rng.choice(list["items"].as_array()?)?;
        Some(item["eventId"].as_str()?.to_owned())
    }

    /// Every third run is killed a moment after it began, unless it is faster.
    async fn run(&mut self, function: Function, mut request: Value) -> Result<()> {
        let action = request["action"].as_str().unwrap_or("recover").to_owned();
        let runs: usize = self.runs.values().map(|(runs, _)| runs).sum();
        let by = format!("operator, {action} {runs}");
        request["by"] = json!(by);
        request["why"] = json!("the soak");
        let run = self.relay.stack.invoke(function, &request);
        let outcome = if self.rng.u8(..3) == 0 {
            let (outcome, kill) = tokio::join!(run, kill_soon(self.relay, function, &mut self.rng));
            self.kills.extend(kill?);
            outcome
        } else {
            run.await
        };
        let is_done = matches!(outcome, Ok(Ok(_)));
        let runs = self.runs.entry(action).or_default();
        *runs = (runs.0 + 1, runs.1 + usize::from(is_done));
        if !is_done && function == Function::Replay {
            self.end_lease_of(&by).await;
        }
        Ok(())
    }

    /// Takes the lease from a run that is no more: it ends by itself, but later than the test.
    async fn end_lease_of(&self, by: &str) {
        let Ok(table) = self.relay.stack.output("EventsTableName") else {
            return;
        };
        let request = self.relay.stack.dynamodb().delete_item().table_name(table);
        let request = request.key(
            "event_id",
            AttributeValue::S("lease#dead-letters".to_owned()),
        );
        let request = request
            .condition_expression("#by = :by")
            .expression_attribute_names("#by", "by");
        // Refused where the run has given it back itself.
        drop(
            request
                .expression_attribute_values(":by", AttributeValue::S(by.to_owned()))
                .send()
                .await,
        );
    }
}
