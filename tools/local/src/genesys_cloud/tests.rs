//! The stand-in as its callers see it, over HTTP.

use anyhow::Result;
use hyper::StatusCode;

use super::*;
use crate::{
    clients,
    target::{self, Behaviour, Target},
};

const TEXT: &str = r#"{ "id": "m-1", "type": "Text", "text": "Hi",  "conversationId": "c-1", "direction": "Outbound", "channel": {"id": "i-1", "platform": "Open", "type": "Private", "time": "2026-03-02T09:15:00.000Z"}}"#;
const AT_ONCE: Duration = Duration::ZERO;

/// A client with a token, or with one that is wrong.
struct Client {
    genesys: GenesysCloud,
    token: String,
}

impl Client {
    async fn start() -> Result<Self> {
        let mut client = Self {
            genesys: GenesysCloud::start().await?,
            token: String::new(),
        };
        client.log_in().await?;
        Ok(client)
    }

    async fn log_in(&mut self) -> Result<()> {
        let (status, answer) = log_in(&self.genesys, CLIENT_SECRET, "client_credentials").await?;
        assert_eq!(
            (status, &answer["token_type"]),
            (200, &json!("bearer")),
            "{answer}"
        );
        self.token = answer["access_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(())
    }

    fn request(&self, path: &str) -> reqwest::RequestBuilder {
        clients::http()
            .get(format!("{}{path}", self.genesys.url()))
            .bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Result<(u16, Value)> {
        read(self.request(path).send().await?).await
    }

    async fn query(&self, query: Value) -> Result<(u16, Value)> {
        let url = format!(
            "{}/api/v2/analytics/conversations/details/query",
            self.genesys.url()
        );
        read(
            clients::http()
                .post(url)
                .bearer_auth(&self.token)
                .body(query.to_string())
                .send()
                .await?,
        )
        .await
    }

    /// The ids that the query finds, in their order, and how many there are in all.
    async fn found(&self, query: Value) -> Result<(Vec<String>, Value)> {
        let (status, answer) = self.query(query).await?;
        assert_eq!(status, 200, "{answer}");
        let conversations = answer["conversations"].as_array().into_iter().flatten();
        let ids = conversations
            .filter_map(|found| found["conversationId"].as_str())
            .map(str::to_owned)
            .collect();
        Ok((ids, answer["totalHits"].clone()))
    }

    fn add_message(&self, conversation_id: &str, time: &str, direction: &str) {
        let channel = json!({ "id": "i-1", "time": time });
        let id = format!("{conversation_id}-{time}");
        let message =
            json!({ "id": id, "type": "Text", "channel": channel, "direction": direction });
        self.genesys.add_message(conversation_id, "sent", message);
    }
}

async fn read(answer: reqwest::Response) -> Result<(u16, Value)> {
    Ok((
        answer.status().as_u16(),
        serde_json::from_slice(&answer.bytes().await?)?,
    ))
}

async fn log_in(genesys: &GenesysCloud, secret: &str, grant: &str) -> Result<(u16, Value)> {
    let request = clients::http()
        .post(format!("{}/oauth/token", genesys.url()))
        .basic_auth(CLIENT_ID, Some(secret));
    read(request.body(format!("grant_type={grant}")).send().await?).await
}

fn ids(page: &Value) -> Vec<&str> {
    let entities = page["entities"].as_array().into_iter().flatten();
    entities
        .map(|entity| entity["id"].as_str().unwrap_or("nonsense"))
        .collect()
}

fn answers(statuses: &'static [u16]) -> Behaviour {
    Behaviour::script(|request| target::Answer::status(statuses[request.nth - 1]))
}

#[tokio::test]
async fn a_token_passes_until_it_expires() -> Result<()> {
    let mut client = Client::start().await?;
    assert_eq!(
        client.get("/api/v2/conversations/messages/c-1").await?.0,
        404
    );
    client
        .genesys
        .set_skew(SignedDuration::from_hours(24) - SignedDuration::from_mins(1));
    assert_eq!(
        client.get("/api/v2/conversations/messages/c-1").await?.0,
        404
    );
    client.genesys.set_skew(SignedDuration::from_hours(24));
    let (status, error) = client.get("/api/v2/conversations/messages/c-1").await?;
    assert_eq!(
        (status, &error["code"], &error["status"]),
        (401, &json!("bad.credentials"), &json!(401))
    );

    client.log_in().await?;
    assert_eq!(
        client.get("/api/v2/conversations/messages/c-1").await?.0,
        404
    );
    client.genesys.expire_tokens();
    assert_eq!(
        client.get("/api/v2/conversations/messages/c-1").await?.0,
        401
    );
    let answer = clients::http()
        .get(format!(
            "{}/api/v2/conversations/messages/c-1",
            client.genesys.url()
        ))
        .send();
    let (status, error) = read(answer.await?).await?;
    assert_eq!(
        (status, &error["code"]),
        (401, &json!("authentication.required"))
    );
    Ok(())
}

#[tokio::test]
async fn only_the_right_client_gets_a_token_and_only_by_its_credentials() -> Result<()> {
    let genesys = GenesysCloud::start().await?;
    genesys.set_token_life(Duration::from_mins(5));
    let (status, answer) = log_in(&genesys, "another secret", "client_credentials").await?;
    assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")));
    let (status, answer) = log_in(&genesys, CLIENT_SECRET, "password").await?;
    assert_eq!(
        (status, &answer["error"]),
        (400, &json!("unsupported_grant_type"))
    );
    let (status, answer) = log_in(&genesys, CLIENT_SECRET, "client_credentials").await?;
    assert_eq!((status, &answer["expires_in"]), (200, &json!(300)));
    assert_eq!(genesys.calls()[1].body, json!({ "grant_type": "password" }));
    Ok(())
}

#[tokio::test]
async fn the_log_is_read_in_half_open_windows() -> Result<()> {
    let client = Client::start().await?;
    for (id, minute) in [("c", 2), ("a", 0), ("b", 1)] {
        let timestamp = format!("2026-03-02T09:0{minute}:00Z");
        client.genesys.add_delivery(
            json!({ "id": id, "webhookId": "w-1", "status": "failed", "httpStatusCode": 503, "timestamp": timestamp }),
        );
    }
    client.genesys.add_delivery(
        json!({ "id": "x", "webhookId": "w-1", "status": "failed", "timestamp": "yesterday" }),
    );
    client
        .genesys
        .add_delivery(json!({ "id": "y", "webhookId": "w-2", "status": "failed" }));
    client
        .genesys
        .add_delivery(json!({ "id": "z", "webhookId": "w-1", "status": "delivered" }));
    client.genesys.add_delivery(json!("nonsense"));

    let log = "/api/v2/webhooks/w-1/deliveries?status=failed";
    let window = format!("{log}&startDate=2026-03-02T09:00:00Z&endDate=2026-03-02T09:02:00.000Z");
    let (_, page) = client.get(&window).await?;
    assert_eq!(ids(&page), ["x", "nonsense", "a", "b"]);
    let (_, page) = client
        .get(&format!("{log}&startDate=2026-03-02T10:00:00%2B01:00"))
        .await?;
    assert_eq!(
        (ids(&page), &page["total"]),
        (vec!["x", "nonsense", "a", "b", "c"], &json!(5))
    );
    for wrong in [
        "startDate=yesterday",
        "endDate=2026-03-02",
        "pageSize=0",
        "pageSize=101",
        "pageNumber=0",
        "since=1",
    ] {
        let (status, error) = client.get(&format!("{log}&{wrong}")).await?;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("bad.request")),
            "{wrong}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn pages_end_where_the_list_does() -> Result<()> {
    let client = Client::start().await?;
    for number in 0..4 {
        client
            .genesys
            .add_delivery(json!({ "id": number.to_string(), "webhookId": "w-1" }));
    }
    for (number, expected) in [(1, vec!["0", "1"]), (2, vec!["2", "3"]), (3, vec![])] {
        let (_, page) = client
            .get(&format!(
                "/api/v2/webhooks/w-1/deliveries?pageSize=2&pageNumber={number}"
            ))
            .await?;
        assert_eq!(
            (ids(&page), &page["pageCount"], &page["total"]),
            (expected, &json!(2), &json!(4))
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_conversation_is_found_by_its_activity_and_by_the_day_it_began() -> Result<()> {
    let client = Client::start().await?;
    client.add_message("long", "2026-03-01T23:59:59Z", "Outbound");
    client.add_message("long", "2026-03-02T09:00:00Z", "Outbound");
    client.add_message("short", "2026-03-02T09:30:00Z", "Inbound");
    let within = |interval: &str| client.found(json!({ "interval": interval }));
    for (interval, expected) in [
        ("2026-03-01T00:00:00Z/2026-03-02T09:30:00Z", vec!["long"]),
        ("2026-03-02T09:00:00Z/2026-03-02T09:30:01Z", vec!["short"]),
        (
            "2026-03-01T12:00:00/2026-03-02T12:00:00.000",
            vec!["long", "short"],
        ),
        ("2026-03-02T09:30:01Z/2026-03-02T12:00:00Z", vec![]),
    ] {
        let hits = json!(expected.len());
        let expected = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(within(interval).await?, (expected, hits), "{interval}");
    }
    let (_, nothing) = client
        .query(json!({ "interval": "2020-01-01T00:00:00Z/2020-01-02T00:00:00Z" }))
        .await?;
    assert_eq!(
        nothing,
        json!({ "totalHits": 0 }),
        "an empty list is not there at all"
    );
    Ok(())
}

#[tokio::test]
async fn a_query_filters_orders_and_pages() -> Result<()> {
    let client = Client::start().await?;
    for (id, time, direction) in [
        ("c-1", "09", "Outbound"),
        ("c-2", "10", "Inbound"),
        ("c-3", "08", "Outbound"),
    ] {
        client.add_message(id, &format!("2026-03-02T{time}:00:00Z"), direction);
    }
    let is = |dimension: &str, value: &str| json!({ "type": "dimension", "dimension": dimension, "operator": "matches", "value": value });
    let open = [is("mediaType", "message"), is("messageType", "open")];
    let filter = json!({ "type": "and", "predicates": open, "clauses": [{ "type": "or", "predicates": [is("direction", "outbound")] }] });
    let interval = "2026-03-02T00:00:00Z/2026-03-03T00:00:00Z";
    let query = |page: usize, order: &str| {
        let paging = json!({ "pageSize": 1, "pageNumber": page });
        json!({ "interval": interval, "segmentFilters": [filter], "order": order, "orderBy": "conversationStart", "paging": paging })
    };
    for (page, order, expected) in [(1, "asc", "c-3"), (2, "asc", "c-1"), (1, "desc", "c-1")] {
        assert_eq!(
            client.found(query(page, order)).await?,
            (vec![expected.to_owned()], json!(2))
        );
    }
    assert_eq!(client.found(query(3, "asc")).await?, (vec![], json!(2)));

    for wrong in [
        json!({}),
        json!({ "interval": "2026-03-02T00:00:00Z" }),
        json!({ "interval": "2026-03-03T00:00:00Z/2026-03-02T00:00:00Z" }),
        json!({ "interval": interval, "paging": { "pageSize": 101 } }),
        json!({ "interval": interval, "pageSize": 10 }),
        json!({ "interval": interval, "segmentFilters": [{ "type": "and", "predicates": [is("queueId", "q-1")] }] }),
    ] {
        let (status, error) = client.query(wrong).await?;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("bad.request")),
            "{error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_is_given_up_stands_in_the_log_and_in_its_conversation() -> Result<()> {
    let client = Client::start().await?;
    let target = Target::start(Behaviour::Status {
        code: 503,
        retry_after: None,
    })
    .await?;
    assert!(
        !client
            .genesys
            .deliver(&target.url(), &Webhook::signed(TEXT), AT_ONCE)
            .await
    );
    assert_eq!(target.requests().len(), 6, "five retries");

    let (_, log) = client
        .get("/api/v2/webhooks/i-1/deliveries?status=failed")
        .await?;
    let entity = &log["entities"][0];
    assert_eq!(
        (&entity["body"], &entity["httpStatusCode"]),
        (&json!(TEXT), &json!(503)),
        "{log}"
    );
    assert_eq!(entity["webhookUrl"], json!(target.url()));
    let (_, conversation) = client.get("/api/v2/conversations/messages/c-1").await?;
    let message = &conversation["participants"][1]["messages"][0];
    assert_eq!(
        (&message["messageId"], &message["messageStatus"]),
        (&json!("m-1"), &json!("failed")),
        "{conversation}"
    );
    let (_, details) = client
        .get("/api/v2/conversations/messages/m-1/details?useNormalizedMessage=true")
        .await?;
    assert_eq!(
        (
            &details["conversationId"],
            &details["normalizedMessage"]["text"]
        ),
        (&json!("c-1"), &json!("Hi"))
    );
    assert_eq!(details["normalizedMessage"].get("conversationId"), None);
    Ok(())
}

#[tokio::test]
async fn only_what_may_pass_is_tried_again() -> Result<()> {
    let client = Client::start().await?;
    let target = Target::start(answers(&[429, 500, 200, 404])).await?;
    assert!(
        client
            .genesys
            .deliver(&target.url(), &Webhook::signed(TEXT), AT_ONCE)
            .await
    );
    assert_eq!(target.requests().len(), 3);
    let details = "/api/v2/conversations/messages/m-1/details";
    assert_eq!(client.get(details).await?.1["status"], "sent");
    assert!(
        !client
            .genesys
            .deliver(&target.url(), &Webhook::signed(TEXT), AT_ONCE)
            .await
    );
    assert_eq!(target.requests().len(), 4);
    assert_eq!(
        client.get(details).await?.1["status"],
        "failed",
        "it is still one message"
    );

    target.behave(Behaviour::Down);
    let envelope = Webhook::with_shared_secret(r#"{"webhookId":"w-1","payload":1}"#);
    assert!(
        !client
            .genesys
            .deliver(&target.url(), &envelope, AT_ONCE)
            .await
    );
    let (_, log) = client.get("/api/v2/webhooks/w-1/deliveries").await?;
    assert_eq!(log["entities"][0]["httpStatusCode"], Value::Null, "{log}");
    assert_eq!(target.requests().len(), 10);
    Ok(())
}

#[tokio::test]
async fn its_times_are_those_of_its_own_clock() -> Result<()> {
    let client = Client::start().await?;
    let target = Target::start(Behaviour::Fine).await?;
    client.genesys.set_skew(-SignedDuration::from_hours(1));
    let before = client.genesys.now();
    assert!(
        client
            .genesys
            .deliver(&target.url(), &Webhook::signed(TEXT), AT_ONCE)
            .await
    );
    let after = client.genesys.now();
    let (_, log) = client
        .get("/api/v2/webhooks/i-1/deliveries?status=delivered")
        .await?;
    let logged: Timestamp = log["entities"][0]["timestamp"]
        .as_str()
        .unwrap_or_default()
        .parse()?;
    assert!(
        before.as_millisecond() <= logged.as_millisecond() && logged <= after,
        "{before} {logged} {after}"
    );
    Ok(())
}

#[tokio::test]
async fn a_receipt_belongs_to_its_message_and_any_details_can_be_set() -> Result<()> {
    let client = Client::start().await?;
    client.add_message("c-1", "2026-03-02T09:00:00Z", "Outbound");
    let id = "c-1-2026-03-02T09:00:00Z";
    client.genesys.add_message(
        "c-1",
        "sent",
        json!({ "id": id, "type": "Receipt", "status": "Delivered" }),
    );
    let details = format!("/api/v2/conversations/messages/{id}/details");
    assert_eq!(
        client.get(&details).await?.1["normalizedReceipts"][0]["status"],
        "Delivered"
    );
    client.genesys.set_details(id, json!(["nonsense"]));
    assert_eq!(client.get(&details).await?, (200, json!(["nonsense"])));
    Ok(())
}

#[tokio::test]
async fn faults_come_as_the_script_has_them() -> Result<()> {
    let client = Client::start().await?;
    client
        .genesys
        .script(|call| match (&call.endpoint, call.nth) {
            (Endpoint::Conversation(_), 1) => {
                Some(CallFault::too_many_requests(&[("Retry-After", "7")]))
            }
            (Endpoint::Conversation(_), 2) => {
                Some(CallFault::missing_permission("conversation:message:view"))
            }
            (Endpoint::Conversation(_), 3) => Some(CallFault::server_error(503)),
            (Endpoint::Conversation(_), 4) => Some(CallFault::malformed()),
            (Endpoint::Conversation(_), 5) => Some(CallFault::body("")),
            (Endpoint::Conversation(_), 6) => Some(CallFault::CutShort),
            (Endpoint::Conversation(_), 7) => Some(CallFault::Broken),
            (Endpoint::Conversation(_), 8) => Some(CallFault::Slow(Duration::from_millis(1))),
            _ => None,
        });
    client.add_message("c-1", "2026-03-02T09:00:00Z", "Outbound");
    let request = || client.request("/api/v2/conversations/messages/c-1").send();

    let limited = request().await?;
    assert_eq!(
        (
            limited.status().as_u16(),
            limited.headers()["retry-after"].as_bytes()
        ),
        (429, &b"7"[..])
    );
    assert!(limited.headers().contains_key("inin-correlation-id"));
    let (status, error) = read(request().await?).await?;
    assert_eq!(
        (status, &error["code"]),
        (403, &json!("missing.permissions"))
    );
    assert_eq!(
        error["messageParams"]["permissions"],
        "conversation:message:view"
    );
    assert_eq!(request().await?.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(serde_json::from_str::<Value>(&request().await?.text().await?).is_err());
    assert_eq!(request().await?.text().await?, "");
    let cut = request().await?;
    assert_eq!(cut.status(), StatusCode::OK);
    assert!(cut.bytes().await.is_err(), "half of a body is none");
    assert!(request().await.is_err());
    assert_eq!(read(request().await?).await?.1["id"], "c-1");

    let calls = client
        .genesys
        .until("all calls are there", |calls| calls.len() == 9)
        .await?;
    let statuses: Vec<_> = calls.iter().map(|call| call.status).collect();
    let expected = [200, 429, 403, 503, 200, 200, 200, 0, 200]
        .map(|status| Some(status).filter(|status| *status > 0));
    assert_eq!(statuses, expected);
    assert_eq!((calls[8].nth, calls[8].overall), (8, 9));
    Ok(())
}

#[tokio::test]
async fn calls_are_limited_by_the_minute() -> Result<()> {
    let client = Client::start().await?;
    client.genesys.set_rate_limit(1);
    assert_eq!(client.get("/api/v2/nothing").await?.0, 404);
    let limited = client.request("/api/v2/nothing").send().await?;
    let header = |name| {
        limited
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    assert_eq!(
        (limited.status().as_u16(), header("inin-ratelimit-count")),
        (429, "2")
    );
    let reset: u64 = header("inin-ratelimit-reset").parse()?;
    assert!((1..=60).contains(&reset) && header("retry-after") == header("inin-ratelimit-reset"));
    client.genesys.set_skew(SignedDuration::from_mins(1));
    assert_eq!(client.get("/api/v2/nothing").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn what_a_person_posts_is_sent_signed() -> Result<()> {
    let genesys = GenesysCloud::start().await?;
    let target = Target::start(Behaviour::Fine).await?;
    let post = || {
        clients::http()
            .post(genesys.control_url())
            .body(TEXT)
            .send()
    };
    assert_eq!(post().await?.status(), StatusCode::BAD_REQUEST);
    genesys.set_webhook_url(target.url());
    assert_eq!(post().await?.status(), StatusCode::ACCEPTED);
    let requests = target
        .until("the webhook arrives", |requests| !requests.is_empty())
        .await?;
    assert!(requests[0].headers.contains_key("x-hub-signature-256"));
    assert_eq!(
        (&requests[0].body[..], genesys.calls().len()),
        (TEXT.as_bytes(), 0)
    );
    Ok(())
}
