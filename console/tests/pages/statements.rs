//! The page of the statements.

use genesys_relay::ports::archive::Archive as _;
use genesys_relay::ports::events_table::StatementState;
use genesys_relay::statement::sha256_of;

use super::*;

const KEY: &str = "statements/2026-01-14.json";

/// Writes a statement, and the head that names it with some hash.
async fn state(relay: &Relay, statement: &Value, sha256: &str) -> Result<()> {
    let ports = &relay.replay.ports;
    ports
        .archive
        .put(KEY, statement.to_string().into_bytes())
        .await?;
    let saved = json!({ "head": { "sequence": 1, "key": KEY, "sha256": sha256 } });
    let state = StatementState {
        revision: Uuid::new_v4(),
        state: saved.to_string(),
    };
    ensure!(ports.table.save_statement(&state, None).await?);
    Ok(())
}

#[tokio::test]
async fn statements_show_what_is_unaccounted_and_a_changed_object() -> Result<()> {
    let operator = Operator::of(Relay::new()).await?;
    operator
        .get("/statements")
        .await?
        .says("No statement has been written");

    let statement = json!({
        "day": "2026-01-14", "sequence": 1, "previous": null, "sent": 12_431, "accounted": 12_430, "unaccounted": 1,
        "genesys": { "unread": 2, "unaccounted": [{
            "messageId": "<m1>", "conversationId": "chat-7", "at": "2026-01-14T10:00:00Z", "status": "sent",
            "request": { "messageIds": ["<m1>"] },
        }] },
        "relay": { "balances": false, "total": { "accepted": 20_000, "waiting": 1, "dead": 2 }, "hours": {} },
    });
    state(&operator.relay, &statement, "another hash").await?;
    let page = operator.get("/statements").await?;
    page.says("The chain does not hold … was changed");

    let operator = Operator::of(Relay::new()).await?;
    let object = statement.to_string();
    let digest = sha256_of(object.as_bytes());
    state(&operator.relay, &statement, &digest).await?;
    let page = operator.get("/statements").await?;
    page.says("2026-01-14: 12,431 sent, 12,430 accounted for, 2 could not be read.");
    page.says("20,000 … does not balance");
    page.says_not("chat-7");
    let day = operator.get("/statements?day=2026-01-14").await?;
    day.says("&lt;m1&gt; … href=\"/conversations?id=chat-7\" … messageIds");
    let wrong = operator.get("/statements?day=yesterday").await?;
    ensure!(wrong.status == StatusCode::BAD_REQUEST);
    Ok(())
}
