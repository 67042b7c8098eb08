//! Stacks as the end-to-end tests use them: several side by side, and nothing left of them, whatever happens.

use std::{fs, panic::AssertUnwindSafe};

use anyhow::{Context, Result};
use local::{
    genesys::Webhook,
    stack::{Function, Stack, StackOptions},
    target::{Behaviour, Target},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn stacks_do_not_disturb_each_other() -> Result<()> {
    let (one, other) = tokio::try_join!(Target::start(Behaviour::Fine), Target::start(Behaviour::Fine))?;
    let (first, second) =
        tokio::try_join!(Stack::start(StackOptions::new(one.url())), Stack::start(StackOptions::new(other.url())))?;
    let (status, answer) = Webhook::signed(r#"{"text":"for the first"}"#).send(&first.webhook_url()?).await?;
    assert_eq!(status, 200, "{answer}");
    let deliveries = one.until("the event arrives", |requests| !requests.is_empty()).await?;
    assert_eq!(answer["eventId"], deliveries[0].event_id.as_str());
    first.until_queues("the queues are empty", |counts| counts.events.total() == 0).await?;
    assert!(other.requests().is_empty());
    assert!(second.pids_of(Function::Processor)?.is_empty(), "nothing has happened there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_error_is_an_outcome() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let refused = stack.invoke(Function::Replay, &json!({ "action": "nonsense" })).await?;
    let error = refused.err().context("nonsense was taken")?;
    assert!(error.to_string().contains("nonsense"), "{error}");
    let status = stack.invoke(Function::Replay, &json!({ "action": "status" })).await??;
    assert_eq!(status["action"], "status");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_stack_after_a_panic() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    stack.invoke(Function::Replay, &json!({ "action": "status" })).await??;
    let mut pids = stack.pids_of(Function::Replay)?;
    assert_eq!(pids.len(), 1, "a warm function");
    pids.push(stack.emulator().pid());
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(move || {
        let _stack = stack;
        panic!("a test fails");
    }));
    assert!(panicked.is_err());
    // One that has ended but is not reaped has an empty command line.
    let runs = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty());
    local::wait::until("all processes have ended", || async { Ok((!pids.iter().any(runs)).then_some(())) }).await
}
