//! Answers to senders; "accepted" only where that is true.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aws_sdk_lambda::types::Environment;
use genesys_relay::ports::secrets::FRESH;
use local::genesys::{self, Webhook};
use local::stack::Function;
use local::target::Behaviour;
use serde_json::json;

use crate::{Relay, webhook};

const VECTOR: &str =
    r#"{"id":"d7d58935af65a45e5234ac77de017a0a","type":"Text","text":"Hi","direction":"Outbound"}"#;
const VECTOR_SIGNATURE: &str = "sha256=Vb3ImBSYb+ckAyNghEGfn+3E395ahtDScwuTAxCIAKw=";

fn signed(body: &str, signature: &str) -> Webhook {
    Webhook {
        authentication: ("X-Hub-Signature-256", signature.to_owned()),
        body: body.into(),
    }
}

#[tokio::test]
async fn only_what_is_signed_with_our_secret_is_accepted() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let url = relay.stack.webhook_url()?;
    let (status, answer) = signed(VECTOR, VECTOR_SIGNATURE).send(&url).await?;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("accepted")),
        "{answer}"
    );

    let hex = "sha256=55bdc89814986fe72403236084419f9fedc4dfde5a86d0d2730b9303108800ac";
    let nothing = Webhook {
        authentication: ("X-Unrelated", "header".to_owned()),
        body: VECTOR.into(),
    };
    let refused = [
        signed(VECTOR, hex),
        signed(&VECTOR.replace("Hi", "Ho"), VECTOR_SIGNATURE),
        signed(
            VECTOR,
            &genesys::signature("another secret entirely", VECTOR.as_bytes()),
        ),
        Webhook {
            authentication: ("X-Webhook-Secret", "not-the-webhook-secret".to_owned()),
            body: VECTOR.into(),
        },
        nothing,
    ];
    for webhook in refused {
        let (status, answer) = webhook.send(&url).await?;
        assert_eq!(
            (status, &answer["status"]),
            (401, &json!(401)),
            "{webhook:?}: {answer}"
        );
        assert!(answer["detail"].is_string());
    }
    relay.until_empty().await?;
    assert_eq!(relay.target.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_rotation_of_the_secret_loses_no_event() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[("SecretsCacheSeconds", 10)]).await?;
    relay.accept(&webhook("before")).await?;
    let old = genesys::WEBHOOK_SECRET;
    let new = "a-rotated-webhook-secret";
    let with_new = |name| Webhook {
        authentication: ("X-Webhook-Secret", new.to_owned()),
        ..webhook(name)
    };

    relay
        .stack
        .set_secret(&json!({ "webhookSecrets": [new, old] }))
        .await?;
    // What `docs/reference/secret.md` asks for before the sender is changed: a refusal may rest on
    // a copy of this age.
    tokio::time::sleep(FRESH).await;
    relay.accept(&with_new("during, new")).await?;
    relay.accept(&webhook("during, old")).await?;

    relay
        .stack
        .set_secret(&json!({ "webhookSecrets": [new] }))
        .await?;
    relay.accept(&with_new("after")).await?;
    local::wait::until("the old secret is refused", || async {
        let (status, _) = webhook("withdrawn")
            .send(&relay.stack.webhook_url()?)
            .await?;
        Ok((status == 401).then_some(()))
    })
    .await?;
    relay.accept(&with_new("after all")).await?;
    relay.until_empty().await?;
    let delivered: BTreeSet<_> = relay
        .target
        .requests()
        .iter()
        .map(|request| crate::name_of(&request.body))
        .collect();
    // `withdrawn` was taken as long as the old secret was known.
    for name in ["before", "during, new", "during, old", "after", "after all"] {
        assert!(
            delivered.contains(name),
            "{name} is not among {delivered:?}"
        );
    }
    Ok(())
}

/// Follows `docs/operate/runbooks/wrong-secret.md`. Copies of the secret are kept for five minutes.
#[tokio::test]
async fn a_removed_secret_is_refused_once_it_is_revoked() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    relay.accept(&webhook("before")).await?;
    let new = "a-rotated-webhook-secret";
    // As a person types it into the key/value editor of the console.
    relay
        .stack
        .set_secret(&json!({ "webhookSecrets": format!("[\"{new}\"]\n") }))
        .await?;
    relay.accept(&webhook("removed, and still open")).await?;

    let name = relay.stack.function_name(Function::Ingest)?;
    let configuration = relay
        .stack
        .lambda()
        .get_function_configuration()
        .function_name(name)
        .send()
        .await?;
    let variables = configuration
        .environment()
        .and_then(|environment| environment.variables())
        .context("variables")?;
    let mut variables = variables.clone();
    variables.insert(
        "SECRETS_REVOKED_AT".to_owned(),
        "2026-01-15T12:00:00Z".to_owned(),
    );
    let environment = Environment::builder()
        .set_variables(Some(variables))
        .build();
    relay
        .stack
        .lambda()
        .update_function_configuration()
        .function_name(name)
        .environment(environment)
        .send()
        .await?;

    let (status, answer) = webhook("revoked").send(&relay.stack.webhook_url()?).await?;
    assert_eq!(status, 401, "{answer}");
    relay
        .accept(&Webhook {
            authentication: ("X-Webhook-Secret", new.to_owned()),
            ..webhook("after")
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_slash_at_the_end_of_the_webhooks_url_does_no_harm() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let (status, answer) = webhook("with a slash")
        .send(&format!("{}/", relay.stack.webhook_url()?))
        .await?;
    assert_eq!(status, 200, "{answer}");
    relay.until_empty().await?;
    assert_eq!(relay.target.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_and_kept() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let (status, answer) = Webhook::with_shared_secret("<xml/>")
        .send(&relay.stack.webhook_url()?)
        .await?;
    assert_eq!(status, 400, "{answer}");
    relay.until_dead(1).await?;
    let kept_as = answer["detail"].as_str().and_then(|detail| {
        detail
            .split_once("dead-letter queue as ")?
            .1
            .split(';')
            .next()
    });
    let show = json!({ "action": "show", "eventId": kept_as.context("an id")? });
    let error = relay.replay_fails(show.clone(), "NotFound").await?;
    assert!(
        error.0["errorMessage"]
            .as_str()
            .is_some_and(|text| text.contains("five minutes")),
        "{error}"
    );
    relay.replay(json!({ "action": "reconcile" })).await?;
    assert_eq!(relay.replay(show).await?["reason"], "malformed");
    let (status, _) = Webhook::with_shared_secret("")
        .send(&relay.stack.webhook_url()?)
        .await?;
    assert_eq!(status, 400);
    relay.until_dead(1).await?;
    assert!(relay.target.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn while_sqs_is_down_the_sender_is_told_to_come_again() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let name = relay.stack.function_name(Function::Ingest)?;
    let configuration = relay
        .stack
        .lambda()
        .get_function_configuration()
        .function_name(name)
        .send()
        .await?;
    let variables = configuration
        .environment()
        .and_then(|environment| environment.variables())
        .context("variables")?;
    let sqs_at = async |endpoint: Option<&str>| {
        let mut variables = variables.clone();
        if let Some(endpoint) = endpoint {
            variables.insert("AWS_ENDPOINT_URL_SQS".to_owned(), endpoint.to_owned());
        }
        let environment = Environment::builder()
            .set_variables(Some(variables))
            .build();
        let request = relay
            .stack
            .lambda()
            .update_function_configuration()
            .function_name(name);
        request.environment(environment).send().await.map(drop)
    };
    // No process listens on the discard port.
    sqs_at(Some("http://127.0.0.1:9")).await?;
    let (status, answer) = webhook("outage").send(&relay.stack.webhook_url()?).await?;
    assert_eq!(
        (status, &answer["title"]),
        (503, &json!("Service Unavailable")),
        "{answer}"
    );
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(counts.events.total() + counts.dead_letters.total(), 0);

    sqs_at(None).await?;
    relay.accept(&webhook("outage")).await?;
    relay.until_empty().await?;
    assert_eq!(relay.target.requests().len(), 1);
    Ok(())
}
