//! Permissions: an operator who may look only, and the functions that get the requests.

use super::*;

/// The mark of what an operator who may look only cannot use.
const GREYED_OUT: &str = "<fieldset class=\"acting\" disabled>";

const ACTING: [Function; 2] = [Function::Replay, Function::Breaker];

#[tokio::test]
async fn look_alone_reads_all_and_greys_out_what_acts() -> Result<()> {
    let relay = Relay::new();
    relay.send_to_dead_letters((0..3).map(body)).await?;
    relay.accept(&["chat-7"], 200).await?;
    relay.journal().await?;
    relay.deny(ACTING);
    relay.requests.lock().expect("a list").clear();
    let operator = Operator::of(relay).await?;
    let id = operator.ids().await?.remove(0);
    for (path, is_acting) in [
        ("/", true),
        ("/dead-letters", true),
        ("/archive", true),
        ("/resend", false),
        ("/runs", false),
        (&format!("/events/{id}"), false),
        (&format!("/events/{id}/body"), false),
        (&format!("/find?id={id}"), false),
        ("/find?id=chat-7", false),
        ("/conversations?id=chat-7", false),
    ] {
        let page = operator.get(path).await?;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert_eq!(page.text.contains(GREYED_OUT), is_acting, "{path}");
    }
    let id = format!("eventId={id}");
    for (path, fields, says) in [
        ("/replay", id.as_str(), "1 would be replayed"),
        ("/discard", &id, "1 would be deleted permanently"),
        ("/resend", "conversationId=chat-7", "1 would be sent again"),
    ] {
        let page = operator.post(path, fields).await?;
        page.says(says).says(GREYED_OUT).says(
            "You may look, but not do this: IAM does not let you invoke the function relay-Replay. no policy allows",
        );
    }
    let requests = operator.relay.requests.lock().expect("a list").clone();
    for (function, request) in requests {
        assert_eq!(function, Function::Look, "{request}");
        assert_eq!(request["by"], "an operator", "{request}");
    }
    Ok(())
}

#[tokio::test]
async fn a_greyed_out_form_that_is_sent_changes_nothing() -> Result<()> {
    let relay = Relay::new();
    relay.send_to_dead_letters([body(1)]).await?;
    relay.deny(ACTING);
    let operator = Operator::of(relay).await?;
    let open = "action=open&why=a+test";
    let denied = operator.post("/breaker", open).await?;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    denied.says("IAM does not allow this … relay-Breaker; nothing was done");
    let id = operator.ids().await?.remove(0);
    let fields = format!("action=replay&eventId={id}");
    let run = operator.start(&fields).await?;
    let page = operator.until(&run, "stopped by an error").await?;
    page.says("0 of 1 replayed … relay-Replay; nothing was done");
    assert_eq!(operator.dead().await?, 1);
    Ok(())
}

#[tokio::test]
async fn permissions_are_asked_at_the_start_and_after_a_denial() -> Result<()> {
    let operator = Operator::with(1).await?;
    operator.get("/archive").await?.says_not(GREYED_OUT);
    let checked = || operator.relay.checked.lock().expect("a list").clone();
    assert_eq!(checked(), ACTING);
    operator.relay.deny([Function::Replay]);
    operator.get("/archive").await?.says_not(GREYED_OUT);
    let run = operator.start("action=reconcile").await?;
    operator.until(&run, "stopped by an error").await?;
    assert_eq!(checked().len(), 3);
    operator.get("/archive").await?.says(GREYED_OUT);
    operator.get("/").await?.says_not(GREYED_OUT);
    Ok(())
}

#[tokio::test]
async fn the_first_page_lists_again_only_for_another_number() -> Result<()> {
    let operator = Operator::with(2).await?;
    for _ in 0..3 {
        operator.get("/").await?.says("2 × permanent (404)");
    }
    assert_eq!(operator.relay.requests_for("list").len(), 1);
    operator.relay.send_to_dead_letters([body(2)]).await?;
    operator.get("/").await?.says("3 × permanent (404)");
    assert_eq!(operator.relay.requests_for("list").len(), 2);
    Ok(())
}
