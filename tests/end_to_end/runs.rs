//! Background runs of the replay function: started, killed, and started again under their names.

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::LocalBoxFuture;
use jiff::Timestamp;
use local::stack::Function;
use local::wait;
use serde_json::{Value, json};

use crate::relay::Relay;

/// States of a run that goes on.
const ALIVE: [&str; 2] = ["waiting", "running"];

impl Relay {
    /// State and report of the run that this request has started.
    pub(crate) async fn run_of(&self, request: &Value) -> Result<Value> {
        let status = json!({ "action": "status", "runId": request["runId"] });
        // Beside a process of replay that may be killed.
        let mut answer = self.stack.invoke(Function::Look, &status).await??;
        Ok(answer["background"].take())
    }

    /// Waits until the run of this request does not go on by itself.
    pub(crate) async fn until_run_ends(&self, request: &Value) -> Result<Value> {
        wait::until(&format!("the run {} ends", request["runId"]), || async {
            let run = self.run_of(request).await?;
            Ok((!ALIVE.iter().any(|state| run["state"] == *state)).then_some(run))
        })
        .await
    }

    /// Starts a run, again where it is cut short, until nothing is left to do. Returns its report.
    pub(crate) async fn complete_run(&self, request: &Value) -> Result<Value> {
        let what = format!("the run {} is complete", request["runId"]);
        wait::until(&what, || async {
            self.until_free(Function::Replay, request).await?;
            let mut run = self.until_run_ends(request).await?;
            if run["state"] != "ended" {
                return Ok(None);
            }
            ensure!(run["report"]["complete"] == true, "not all was done: {run}");
            Ok(Some(run["report"].take()))
        })
        .await
    }

    /// Starts a run, again where it is cut short, and kills its process as soon as `seen` ends.
    /// Returns false if the run is complete before that.
    pub(crate) async fn kill_run(
        &self,
        request: &Value,
        seen: LocalBoxFuture<'_, Result<()>>,
    ) -> Result<bool> {
        tokio::select! {
            biased;
            seen = seen => seen?,
            report = Box::pin(self.complete_run(request)) => {
                eprintln!("complete before it was killed: {}", report?);
                return Ok(false);
            }
        }
        self.kill(Function::Replay).await?;
        // Both would end by themselves half a minute after the run's time.
        self.end_lease("dead-letters").await?;
        let key = AttributeValue::S(format!(
            "run#{}",
            request["runId"].as_str().unwrap_or_default()
        ));
        let now = AttributeValue::S(Timestamp::now().to_string());
        let table = self.stack.output("EventsTableName")?;
        let request = self.stack.dynamodb().update_item().table_name(table);
        let request = request
            .key("event_id", key)
            .update_expression("SET #until = :now");
        let request = request.expression_attribute_names("#until", "until");
        request
            .expression_attribute_values(":now", now)
            .send()
            .await?;
        Ok(true)
    }
}
