//! Answers to senders; "accepted" only where that is true.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use genesys_relay::ports::secrets::FRESH;
use local::genesys::{self, Webhook};
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::json;

use crate::relay::{Relay, assert_has, name_of, webhook};

const VECTOR: &str =
    r#"{"id":"d7d58935af65a45e5234ac77de017a0a","type":"Text","text":"Hi","direction":"Outbound"}"#;
const VECTOR_SIGNATURE: &str = "sha256=Vb3ImBSYb+ckAyNghEGfn+3E395ahtDScwuTAxCIAKw=";

const NEW_SECRET: &str = "a-rotated-webhook-secret";

fn signed(body: &str, signature: &str) -> Webhook {
    Webhook {
        authentication: ("X-Hub-Signature-256", signature.to_owned()),
        body: body.into(),
    }
}

fn with_secret(name: &str, secret: &str) -> Webhook {
    Webhook {
        authentication: ("X-Webhook-Secret", secret.to_owned()),
        ..webhook(name)
    }
}

#[tokio::test]
async fn only_authentic_json_is_accepted() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let url = relay.stack.webhook_url()?;
    for url in [&url, &format!("{url}/")] {
        let (status, answer) = signed(VECTOR, VECTOR_SIGNATURE).send(url).await?;
        assert_eq!(status, 200, "{url}: {answer}");
        assert_has(&answer, json!({ "status": "accepted" }));
    }

    let hex = "sha256=55bdc89814986fe72403236084419f9fedc4dfde5a86d0d2730b9303108800ac";
    let nothing = Webhook {
        authentication: ("X-Unrelated", "header".to_owned()),
        body: VECTOR.into(),
    };
    let other = genesys::signature("another secret entirely", VECTOR.as_bytes());
    for webhook in [
        signed(VECTOR, hex),
        signed(&VECTOR.replace("Hi", "Ho"), VECTOR_SIGNATURE),
        signed(VECTOR, &other),
        with_secret("refused", "not-the-webhook-secret"),
        nothing,
    ] {
        let (status, answer) = relay.send(&webhook).await?;
        assert_eq!(status, 401, "{webhook:?}: {answer}");
        assert_has(&answer, json!({ "status": 401 }));
        assert!(answer["detail"].is_string());
    }
    relay.until_empty().await?;
    assert_eq!(relay.target.requests().len(), 2);

    // Refused, and kept.
    let (status, answer) = relay.send(&Webhook::with_shared_secret("<xml/>")).await?;
    assert_eq!(status, 400, "{answer}");
    relay.until_dead(1).await?;
    let detail = answer["detail"].as_str().context("a detail")?;
    let kept_as = detail
        .split_once("dead-letter queue as ")
        .context(answer.to_string())?;
    let show = json!({ "action": "show", "eventId": kept_as.1.split(';').next() });
    let error = relay.replay_fails(show.clone(), "NotFound").await?;
    assert!(error.to_string().contains("five minutes"), "{error}");
    relay.replay(json!({ "action": "reconcile" })).await?;
    assert_eq!(relay.replay(show).await?["reason"], "malformed");
    let (status, _) = relay.send(&Webhook::with_shared_secret("")).await?;
    assert_eq!(status, 400);
    relay.until_dead(1).await?;
    assert_eq!(relay.target.requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_rotation_of_the_secret_loses_no_event() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[("SecretsCacheSeconds", "10")]).await?;
    relay.accept(&webhook("before")).await?;
    let both = json!({ "webhookSecrets": [NEW_SECRET, genesys::WEBHOOK_SECRET] });
    relay.stack.set_secret(&both).await?;
    // `docs/reference/secret.md` asks for this pause before the sender is changed: a refusal may
    // rest on a copy of this age.
    tokio::time::sleep(FRESH).await;
    relay
        .accept(&with_secret("during, new", NEW_SECRET))
        .await?;
    relay.accept(&webhook("during, old")).await?;

    let new = json!({ "webhookSecrets": [NEW_SECRET] });
    relay.stack.set_secret(&new).await?;
    relay.accept(&with_secret("after", NEW_SECRET)).await?;
    wait::until("the old secret is refused", || async {
        let (status, _) = relay.send(&webhook("withdrawn")).await?;
        Ok((status == 401).then_some(()))
    })
    .await?;
    relay.accept(&with_secret("after all", NEW_SECRET)).await?;
    relay.until_empty().await?;
    let requests = relay.target.requests();
    let mut delivered: BTreeSet<_> = requests.iter().map(|it| name_of(&it.body)).collect();
    // It was accepted while the old secret was known.
    delivered.remove("withdrawn");
    let accepted = ["before", "during, new", "during, old", "after", "after all"];
    assert_eq!(delivered, accepted.map(str::to_owned).into());
    Ok(())
}

/// Follows `docs/operate/runbooks/wrong-secret.md`. Copies of the secret are kept for five minutes.
#[tokio::test]
async fn a_removed_secret_is_refused_once_it_is_revoked() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    relay.accept(&webhook("before")).await?;
    // As a person types it into the key/value editor of the console.
    let typed = json!({ "webhookSecrets": format!("[\"{NEW_SECRET}\"]\n") });
    relay.stack.set_secret(&typed).await?;
    relay.accept(&webhook("removed, and still open")).await?;
    let now = Some("2026-01-15T12:00:00Z");
    relay
        .set_variable(Function::Ingest, "SECRETS_REVOKED_AT", now)
        .await?;
    let (status, answer) = relay.send(&webhook("revoked")).await?;
    assert_eq!(status, 401, "{answer}");
    relay.accept(&with_secret("after", NEW_SECRET)).await?;
    Ok(())
}
