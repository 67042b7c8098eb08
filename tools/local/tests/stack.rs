//! Stacks as the end-to-end tests use them: several side by side, and nothing left of them,
//! whatever happens.

use std::{fs, future::ready, panic::AssertUnwindSafe};

use anyhow::{Context, Result};
use local::{
    api,
    clients::Keys,
    genesys::Webhook,
    stack::{Function, Stack, StackOptions},
    target::{Behaviour, Target},
    wait,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn stacks_do_not_disturb_each_other() -> Result<()> {
    let (one, other) = tokio::try_join!(
        Target::start(Behaviour::Fine),
        Target::start(Behaviour::Fine)
    )?;
    let (first, second) = tokio::try_join!(
        Stack::start(StackOptions::new(one.url())),
        Stack::start(StackOptions::new(other.url()))
    )?;
    let (status, answer) = Webhook::signed(r#"{"text":"for the first"}"#)
        .send(&first.webhook_url()?)
        .await?;
    assert_eq!(status, 200, "{answer}");
    let deliveries = one
        .until("the event arrives", |requests| !requests.is_empty())
        .await?;
    assert_eq!(answer["eventId"], deliveries[0].event_id.as_str());
    first
        .until_queues("the queues are empty", |counts| counts.events.total() == 0)
        .await?;
    assert!(other.requests().is_empty());
    assert!(
        second.pids_of(Function::Processor)?.is_empty(),
        "nothing has happened there"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_error_is_an_outcome() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let refused = stack
        .invoke(Function::Replay, &json!({ "action": "nonsense" }))
        .await?;
    let error = refused.err().context("nonsense was taken")?;
    assert!(error.to_string().contains("nonsense"), "{error}");
    let status = stack
        .invoke(Function::Replay, &json!({ "action": "status" }))
        .await??;
    assert_eq!(status["action"], "status");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_letters_are_for_callers_whom_iam_knows() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    for (method, path) in [
        ("GET", "/dlq"),
        ("GET", "/dlq/some-event"),
        ("POST", "/dlq/some-event/retry"),
    ] {
        let refused = stack.call_api_unsigned(method, path).await?;
        assert_eq!(
            (refused.status, refused.body),
            (403, json!({ "message": "Forbidden" })),
            "{method} {path}"
        );
        assert!(
            stack.pids_of(Function::Replay)?.is_empty(),
            "the function never heard of it"
        );
    }
    let answer = stack.call_api("GET", "/dlq").await?;
    assert_ne!(answer.status, 403, "{answer:?}");
    assert_eq!(
        stack.pids_of(Function::Replay)?.len(),
        1,
        "the function was asked"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_be_allowed_to_look_but_not_to_touch() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let user = ("UserName", "operator");
    let iam = async |action, parameters: &[(&str, &str)]| {
        stack.aws().query("iam", action, parameters).await
    };
    iam("CreateUser", &[user]).await?;
    let key = iam("CreateAccessKey", &[user]).await?;
    let of_key = |name: &str| key["AccessKey"][name].as_str().context("no key");
    let (id, secret) = (of_key("AccessKeyId")?, of_key("SecretAccessKey")?);
    let (list, retry) = (
        stack.dead_letter_api_url()?,
        format!("{}/some-event/retry", stack.dead_letter_api_url()?),
    );
    let status = async |secret: &str, method: &str, url: &str| -> Result<u16> {
        let keys = Keys {
            id: id.into(),
            secret: secret.into(),
        };
        Ok(api::call_signed(&keys, method, url).await?.status)
    };
    assert_eq!(status(secret, "GET", &list).await?, 403, "not allowed");

    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "arn:aws:execute-api:*:*:*/*/GET/dlq*" },
    ]});
    let document = policy.to_string();
    let policy = [user, ("PolicyName", "look"), ("PolicyDocument", &document)];
    iam("PutUserPolicy", &policy).await?;
    assert_ne!(status(secret, "GET", &list).await?, 403);
    assert_ne!(
        status(secret, "GET", &format!("{list}?reason=exhausted&limit=2")).await?,
        403
    );
    assert_eq!(status(secret, "POST", &retry).await?, 403);
    assert_eq!(status("not-the-secret", "GET", &list).await?, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_invokes_under_its_role() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let role = stack.role("ScheduleRole").await?;
    role.take_away("lambda:InvokeFunction").await?;
    stack.aws().schedule_now("Reconcile", "refused").await?;
    let refused = || {
        ready(Ok(emulator_log(&stack)
            .contains("refused may not invoke")
            .then_some(())))
    };
    wait::until("the schedule is refused", refused).await?;
    assert!(stack.pids_of(Function::Replay)?.is_empty());

    role.restore().await?;
    stack.aws().schedule_now("Reconcile", "allowed").await?;
    let invoked = || {
        ready(
            stack
                .pids_of(Function::Replay)
                .map(|pids| (!pids.is_empty()).then_some(())),
        )
    };
    wait::until("the schedule invokes", invoked).await
}

fn emulator_log(stack: &Stack) -> String {
    fs::read_to_string(stack.emulator().log_file()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_stack_after_a_panic() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    stack
        .invoke(Function::Replay, &json!({ "action": "status" }))
        .await??;
    let mut pids = stack.pids_of(Function::Replay)?;
    assert_eq!(pids.len(), 1, "a warm function");
    pids.push(stack.emulator().pid());
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(move || {
        let _stack = stack;
        panic!("a test fails");
    }));
    assert!(panicked.is_err());
    // One that has ended but is not reaped has an empty command line.
    let runs = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
    };
    local::wait::until("all processes have ended", || async {
        Ok((!pids.iter().any(runs)).then_some(()))
    })
    .await
}
