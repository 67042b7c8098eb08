//! The metrics that the functions write into their logs. CloudWatch makes metrics of them; the
//! local AWS does not.

use super::*;

#[tokio::test]
async fn the_functions_write_metrics_into_their_logs() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let name = relay.stack.function_name(Function::Ingest)?;
    let namespace = format!(
        "GenesysRelay/{}",
        name.strip_suffix("-ingest").context("a name")?
    );
    let has_written = async |function, metric: &str| {
        let lines = relay.stack.log_lines(function, 0).await?;
        let mut metrics = lines
            .iter()
            .map(|line| &line.content)
            .filter(|line| line["_aws"].is_object());
        anyhow::Ok(metrics.any(|line| {
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            let named = directive["Metrics"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["Name"] == metric));
            directive["Namespace"] == namespace && named && !line[metric].is_null()
        }))
    };
    wait::until("each has written its metrics", || async {
        // A function writes after it has answered, and what comes a moment later is read here with
        // its next invocation.
        relay.accept(&webhook("again")).await?;
        relay
            .replay(json!({ "action": "reconcile", "ifNeeded": true }))
            .await?;
        let written = has_written(Function::Ingest, "Accepted").await?
            && has_written(Function::Processor, "Delivered").await?
            && has_written(Function::Replay, "OldestDeadLetterAge").await?;
        Ok(written.then_some(()))
    })
    .await
}
