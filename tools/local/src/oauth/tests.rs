//! Tests of the token endpoint and its API, called as a client would.

use reqwest::RequestBuilder;
use serde_json::Value;

use super::*;
use crate::{clients, target::Target};

async fn ask(request: RequestBuilder) -> Result<(u16, Value)> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    Ok((status, serde_json::from_slice(&answer.bytes().await?)?))
}

fn form(endpoint: &TokenEndpoint, fields: &[(&str, &str)]) -> RequestBuilder {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.append_pair("grant_type", "client_credentials");
    let body = body.extend_pairs(fields).finish();
    clients::http()
        .post(endpoint.url())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(body)
}

async fn call(target: &Target, token: &str) -> Result<u16> {
    let request = clients::http().post(target.url()).bearer_auth(token);
    Ok(request.send().await?.status().as_u16())
}

const POST: [(&str, &str); 2] = [("client_id", "relay"), ("client_secret", "p+ss: ü")];

#[tokio::test]
async fn client_is_known_by_form_and_by_basic() -> Result<()> {
    for product in [Product::Salesforce, Product::Dynamics] {
        let endpoint = TokenEndpoint::start(product, "relay", "p+ss: ü").await?;
        let (status, grant) = ask(form(&endpoint, &POST)).await?;
        assert_eq!(status, 200, "{grant}");
        let has_time = product != Product::Salesforce;
        assert_eq!(grant["expires_in"].is_number(), has_time, "{grant}");
        let pair = BASE64_STANDARD.encode("relay:p%2Bss%3A+%C3%BC");
        let basic = form(&endpoint, &[]).header(AUTHORIZATION, format!("Basic {pair}"));
        assert_eq!(ask(basic).await?.0, 200);
        let wrong = [POST[0], ("client_secret", "another")];
        let (status, error) = ask(form(&endpoint, &wrong)).await?;
        assert!(matches!(status, 400 | 401), "{status}");
        assert_eq!(error["error"], "invalid_client");
        assert_eq!((endpoint.requests(), endpoint.issued().len()), (3, 2));
    }
    Ok(())
}

#[tokio::test]
async fn tokens_end_are_revoked_and_are_limited() -> Result<()> {
    let endpoint = TokenEndpoint::start(Product::Dynamics, "relay", POST[1].1).await?;
    let target = Target::start(endpoint.api()).await?;
    let token = async || -> Result<String> {
        let (_, grant) = ask(form(&endpoint, &POST)).await?;
        Ok(grant["access_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    assert_eq!(call(&target, "none").await?, 401);
    let first = token().await?;
    assert_eq!(call(&target, &first).await?, 204);
    endpoint.set_limited(true);
    assert_eq!(call(&target, &first).await?, 429);
    endpoint.set_limited(false);

    endpoint.revoke_after(1);
    assert_eq!(call(&target, &first).await?, 204, "one more");
    assert_eq!(call(&target, &first).await?, 401, "revoked");
    assert_eq!(call(&target, &token().await?).await?, 204, "a new one");

    endpoint.set_lifetime(Duration::ZERO);
    assert_eq!(call(&target, &token().await?).await?, 401, "over at once");
    Ok(())
}

#[tokio::test]
async fn faults_are_those_of_the_endpoint() -> Result<()> {
    let endpoint = TokenEndpoint::start(Product::Salesforce, "relay", POST[1].1).await?;
    endpoint.fail(TokenFault::Down);
    assert!(form(&endpoint, &POST).send().await.is_err());
    endpoint.fail(TokenFault::TooManyRequests(7));
    let answer = form(&endpoint, &POST).send().await?;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()[RETRY_AFTER]),
        (429, &HeaderValue::from(7))
    );
    endpoint.fail(TokenFault::NotJson);
    assert!(ask(form(&endpoint, &POST)).await.is_err());
    endpoint.fail(None);
    endpoint.require_scope("https://example.crm4.dynamics.com/.default");
    let (status, error) = ask(form(&endpoint, &POST)).await?;
    assert_eq!(
        (status, error["error"].as_str()),
        (400, Some("invalid_scope"))
    );
    endpoint.accept_only(&["another"]);
    assert_eq!(
        ask(form(&endpoint, &POST)).await?.1["error"],
        "invalid_client"
    );
    Ok(())
}
