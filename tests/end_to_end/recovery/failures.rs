//! Failures of a recovery, and what it says of them.

use super::*;

pub(super) async fn a_failure_says_what_to_do_and_how_far_behind_it_is(
    relay: &Relay,
) -> Result<()> {
    let genesys = &relay.genesys;
    genesys.script(|call| {
        let missing = "analytics:conversationDetail:view";
        (call.endpoint == Endpoint::Query).then(|| CallFault::missing_permission(missing))
    });
    let error = relay.recover_fails("Forbidden").await?;
    ensure!(
        error.contains("the permission analytics:conversationDetail:view"),
        "{error}"
    );

    // An answer without its fields is no empty list.
    genesys.script(|call| (call.endpoint == Endpoint::Query).then(|| CallFault::body("{}")));
    let error = relay.recover_fails("GenesysError").await?;
    ensure!(error.contains("totalHits"), "{error}");

    genesys.script(|_| None);
    let mut secret = local::stack::secret();
    secret["genesysClientSecret"] = json!("not-the-secret-of-this-client");
    relay.stack.set_secret(&secret).await?;
    // A process that has read the secret keeps it for a while.
    relay.kill(Function::Recovery).await?;
    let error = relay.recover_fails("Credentials").await?;
    let is_told = error.contains("genesysClientSecret") && !error.contains("not-the-secret");
    ensure!(is_told, "{error}");

    let lines = relay.log(Function::Recovery).await?;
    let is_run = |line: &&Value| {
        line["message"] == "finished recovery" || line["message"] == "recovery failed"
    };
    let runs: Vec<_> = lines.iter().filter(is_run).collect();
    ensure!(runs.len() >= 6, "one line for each run: {runs:?}");
    for field in ["fetched", "new", "known", "unreadable", "behind_seconds"] {
        ensure!(
            runs.iter().all(|run| run[field].is_u64()),
            "{field}: {runs:?}"
        );
    }
    let is_error = |run: &&Value| run["level"] == "ERROR" && run["error"].is_string();
    ensure!(runs.iter().any(is_error), "{runs:?}");
    // The last run may not have written its own yet.
    let failed: Vec<_> = lines.iter().map(|line| &line["RecoveryFailed"]).collect();
    for value in [json!([0.0]), json!([1.0])] {
        ensure!(
            failed.contains(&&value),
            "one value for each run: {failed:?}"
        );
    }
    let mut calls = lines
        .iter()
        .filter(|line| line["message"] == "called Genesys Cloud");
    let has_id = |line: &Value| {
        line["correlation_id"]
            .as_str()
            .is_some_and(|id| id.len() > 8)
    };
    ensure!(calls.all(has_id));
    let all = json!(lines).to_string();
    let has_secret =
        all.contains(local::genesys_cloud::CLIENT_SECRET) || all.contains("not-the-secret");
    ensure!(!has_secret, "no secret is logged");
    Ok(())
}

#[tokio::test]
async fn a_recovery_that_is_off_refuses_and_has_no_schedule() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let error = relay.recover_fails("Off").await?;
    ensure!(error.contains("RecoverySource"), "{error}");
    let schedules = relay.stack.aws().schedules().await?;
    ensure!(schedules.iter().all(|name| !name.contains("Recovery")));
    Ok(())
}
