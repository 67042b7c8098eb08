//! Stacks as the end-to-end tests use them: several side by side, and nothing left of them,
//! whatever happens.

use std::{fs, future::ready, panic::AssertUnwindSafe};

use anyhow::{Context, Result};
use aws_sdk_lambda::{error::ProvideErrorMetadata as _, types::InvocationType};
use local::{
    clients::{self, Keys},
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
        ("GET", "/conversations/some-conversation"),
        ("POST", "/dlq/some-event/retry"),
    ] {
        let refused = stack.call_api_unsigned(method, path).await?;
        assert_eq!(
            (refused.status, refused.body),
            (403, json!({ "message": "Forbidden" })),
            "{method} {path}"
        );
        for function in [Function::Look, Function::Replay] {
            let pids = stack.pids_of(function)?;
            assert!(pids.is_empty(), "{function} never heard of it");
        }
    }
    let answer = stack.call_api("GET", "/dlq").await?;
    assert_ne!(answer.status, 403, "{answer:?}");
    let asked = [Function::Look, Function::Replay].map(|function| stack.pids_of(function));
    let [look, replay] = asked.map(|pids| pids.map(|pids| pids.len()));
    assert_eq!(
        (look?, replay?),
        (1, 0),
        "the function that looks was asked"
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn user_with_look_alone_looks_and_cannot_act() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let looks = stack.user("looks", &["LookPolicyArn"]).await?;
    let acts = stack
        .user("acts", &["LookPolicyArn", "ActPolicyArn"])
        .await?;
    let may_invoke = async |keys: &Keys, function| {
        let config = clients::config(&stack.endpoint(), keys).await;
        let request = aws_sdk_lambda::Client::new(&config).invoke();
        let request = request.function_name(stack.function_name(function)?);
        match request.invocation_type(InvocationType::DryRun).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("AccessDeniedException") => Ok(false),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    };
    for function in Function::ALL {
        let looked = function == Function::Look;
        let acted = [Function::Replay, Function::Breaker, Function::Recovery].contains(&function);
        assert_eq!(may_invoke(&looks, function).await?, looked, "{function}");
        let either = looked || acted;
        assert_eq!(may_invoke(&acts, function).await?, either, "{function}");
    }
    let status = async |keys, method: &str, path: &str| {
        let answer = stack.call_api_as(keys, method, path).await?;
        anyhow::Ok(answer.status)
    };
    for keys in [&looks, &acts] {
        assert_eq!(status(keys, "GET", "/dlq").await?, 200);
        assert_eq!(status(keys, "GET", "/dlq/unknown").await?, 404);
    }
    let retry = "/dlq/unknown/retry";
    assert_eq!(status(&looks, "POST", retry).await?, 403);
    let stranger = stack.user("stranger", &[]).await?;
    let secret = "not-the-secret".to_owned();
    let id = looks.id.clone();
    let forger = Keys { id, secret };
    for keys in [&stranger, &forger] {
        assert_eq!(status(keys, "GET", "/dlq").await?, 403);
    }
    assert_eq!(status(&acts, "POST", retry).await?, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_and_index_are_switched_on_and_off() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let mut stack = Stack::start(StackOptions::new(target.url())).await?;
    let question = json!({ "action": "conversation", "id": "a-conversation" });
    let journal = json!({ "action": "journal" });
    for (days, index) in [("7", "off"), ("0", "on")] {
        let parameters = [("JournalDays", days), ("ConversationIndex", index)];
        stack.redeploy(&parameters).await?;
        let (has_journal, has_index) = (days != "0", index == "on");
        assert_eq!(stack.output("JournalQueueUrl").is_ok(), has_journal);
        let table = stack.output("EventsTableName")?;
        let table = stack.dynamodb().describe_table().table_name(table);
        let table = table.send().await?.table.context("a table")?;
        let mut indexes = table.global_secondary_indexes().iter();
        let is_there = indexes.any(|index| index.index_name() == Some("conversations"));
        assert_eq!(is_there, has_index);
        for (function, request, is_answered) in [
            (Function::Look, &question, has_index),
            (Function::Replay, &journal, has_journal),
        ] {
            let answer = stack.invoke(function, request).await?;
            assert_eq!(answer.is_ok(), is_answered, "{answer:?}");
        }
    }
    Ok(())
}
