//! Credentials towards the target: each kind delivers, and each failure of them ends with every
//! event delivered once, without a dead letter. No secret shows anywhere.

mod hidden;
mod iam;
mod site;
#[path = "../../examples/verify/verify.rs"]
#[expect(unreachable_pub, reason = "receivers copy it as it is")]
mod verify;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use local::api_keys::{ApiKeys, Gateway};
use local::oauth::{Product, TokenEndpoint, TokenFault};
use local::stack::StackOptions;
use local::target::{Behaviour, ReceivedRequest, Target};
use local::tls::{Authority, EXPIRED_IN, Front};
use reqwest::Url;
use serde_json::{Value, json};

use self::site::{Site, generated_signing_secret};
use crate::relay::{QUICK, Relay, webhook};

const CLIENT_ID: &str = "the-relay";
const SCOPE: &str = "https://example.crm4.dynamics.com/.default";

/// Processes of the processor at the same time, at most: its concurrency.
const PROCESSES: usize = 2;

/// Longer than any delivery here waits.
const NEVER: Duration = Duration::from_mins(1);

fn oauth(token_url: &str, secret: &str, authentication: &str) -> Value {
    json!({ "targetOAuth": {
        "tokenUrl": token_url, "clientId": CLIENT_ID, "clientSecret": secret, "authentication": authentication,
    } })
}

#[tokio::test]
async fn each_kind_of_credential_delivers() -> Result<()> {
    let mut site = Site::start().await?;
    token_opens_salesforce_and_dynamics(&mut site).await?;
    header_opens_a_gateway(&mut site).await?;
    let endpoint = certificate_opens_a_server_beside_the_others(&mut site).await?;
    site.check_nothing_shows(Some(&endpoint)).await
}

/// Both ways to name the client, a scope, and a token endpoint of a private authority.
async fn token_opens_salesforce_and_dynamics(site: &mut Site) -> Result<()> {
    let secret = site.hidden.draw();
    let endpoint = TokenEndpoint::start(Product::Salesforce, CLIENT_ID, &secret).await?;
    let front = Front::start(&site.servers, &endpoint.url()).await?;
    let token_url = format!("{}{}", front.url(), Url::parse(&endpoint.url())?.path());
    site.relay.target.behave(endpoint.api());
    site.use_secret(oauth(&token_url, &secret, "post")).await?;
    let delivered = site.delivers("salesforce").await?;
    site.hidden.keep_all(endpoint.issued());
    ensure!(endpoint.requests() <= PROCESSES, "a token for each process");
    for request in delivered {
        let token = request.headers["authorization"].to_str()?;
        let token = token.strip_prefix("Bearer ").unwrap_or_default();
        ensure!(endpoint.issued().iter().any(|issued| issued == token));
    }

    let secret = site.hidden.draw();
    let endpoint = TokenEndpoint::start(Product::Dynamics, CLIENT_ID, &secret).await?;
    endpoint.require_scope(SCOPE);
    // Over before a margin that the relay keeps: each delivery needs a new one, or a second try.
    endpoint.set_lifetime(Duration::from_secs(3));
    site.relay.target.behave(endpoint.api());
    let mut fields = oauth(&endpoint.url(), &secret, "basic");
    fields["targetOAuth"]["scope"] = SCOPE.into();
    site.use_secret(fields).await?;
    site.delivers_in_the_end("dynamics").await?;
    site.hidden.keep_all(endpoint.issued());
    Ok(())
}

async fn header_opens_a_gateway(site: &mut Site) -> Result<()> {
    for gateway in [Gateway::AzureApim, Gateway::AwsApiGateway] {
        let (key, keys) = (site.hidden.draw(), ApiKeys::default());
        keys.accept_only(&[&key]);
        site.relay.target.behave(keys.api(gateway));
        let name = gateway.header();
        site.use_secret(json!({ "targetHeaders": { (name): key } }))
            .await?;
        site.delivers(name).await?;
    }
    Ok(())
}

/// A client certificate, with a token, a header and the stack's own signature on the same request.
async fn certificate_opens_a_server_beside_the_others(site: &mut Site) -> Result<TokenEndpoint> {
    let clients = Authority::new("clients")?;
    let identity = site.hidden.identity(clients.client("relay")?);
    site.front.require(&site.servers, Some(&clients))?;
    let (secret, key, keys) = (site.hidden.draw(), site.hidden.draw(), ApiKeys::default());
    let endpoint = TokenEndpoint::start(Product::Dynamics, CLIENT_ID, &secret).await?;
    keys.accept_only(&[&key]);
    let (api, gateway) = (endpoint.api(), keys.api(Gateway::AzureApim));
    let (Behaviour::Script(api), Behaviour::Script(gateway)) = (api, gateway) else {
        unreachable!("both are scripts");
    };
    site.relay.target.behave(Behaviour::script(move |request| {
        let answer = gateway(request);
        if answer.status == Some(200) {
            api(request)
        } else {
            answer
        }
    }));
    let mut fields = oauth(&endpoint.url(), &secret, "post");
    fields["targetHeaders"] = json!({ (Gateway::AzureApim.header()): key });
    fields["targetClientCertificate"] =
        json!({ "certificate": identity.certificate, "privateKey": identity.private_key });
    site.use_secret(fields).await?;
    let delivered = site.delivers("all at once").await?;
    let generated = site.generated_signing_secret().await?;
    for request in delivered {
        check_signature(&request, &generated)?;
    }
    Ok(endpoint)
}

/// Checks a delivery as a receiver does that has copied the generated value.
fn check_signature(request: &ReceivedRequest, generated: &str) -> Result<()> {
    let header = |name: &str| request.headers.get(name)?.to_str().ok();
    let now = header("webhook-timestamp").context("a time")?.parse()?;
    let id = verify::verify(&format!("whsec_{generated}"), header, &request.body, now);
    ensure!(id == Ok(&*request.event_id), "{id:?}");
    Ok(())
}

#[tokio::test]
async fn new_stack_signs_with_the_key_that_it_generated() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let options = StackOptions::new(target.url()).with_first_secret();
    let relay = Relay::start_with(target, options, &QUICK).await?;
    let first = relay.stack.secret("SecretArn").await?;
    ensure!(first["targetSigningSecrets"] == json!([]), "not the first");
    let mut webhook = webhook("first");
    let sent = first["webhookSecrets"].as_str().context("a secret")?;
    sent.clone_into(&mut webhook.authentication.1);
    let id = relay.accept(&webhook).await?;
    relay.until_empty().await?;
    relay.assert_delivered_once(&[&id]);
    let generated = generated_signing_secret(&relay).await?;
    check_signature(&relay.target.requests_of(&id)[0], &generated)
}

/// A relay that has a token of this endpoint.
async fn site_of_salesforce() -> Result<(Site, TokenEndpoint)> {
    let mut site = Site::start().await?;
    let secret = site.hidden.draw();
    let endpoint = TokenEndpoint::start(Product::Salesforce, CLIENT_ID, &secret).await?;
    site.relay.target.behave(endpoint.api());
    site.use_secret(oauth(&endpoint.url(), &secret, "post"))
        .await?;
    site.delivers("before").await?;
    Ok((site, endpoint))
}

#[tokio::test]
async fn token_endpoint_that_fails_costs_no_event() -> Result<()> {
    let (mut site, endpoint) = Box::pin(site_of_salesforce()).await?;
    for (fault, words) in [
        (TokenFault::Down, "cannot be reached"),
        (TokenFault::Slow(NEVER), "did not answer in time"),
        (TokenFault::TooManyRequests(1), "answered 429"),
        (TokenFault::NotJson, "gave no token"),
    ] {
        let (asked, since) = (endpoint.requests(), Instant::now());
        endpoint.revoke_after(0);
        endpoint.fail(fault);
        let failing = site.fails(&format!("{fault:?}"), words).await?;
        site.until_status_names_credentials().await?;
        endpoint.fail(None);
        site.delivers_all(&failing).await?;
        // All deliveries of a process ask once, and not again within five seconds.
        let (asked, seconds) = (endpoint.requests() - asked, since.elapsed().as_secs());
        let most = PROCESSES * (2 + usize::try_from(seconds / 5)?);
        ensure!(asked <= most, "{asked} requests in {seconds} s");
    }
    site.check_nothing_shows(Some(&endpoint)).await
}

#[tokio::test]
async fn token_and_client_that_are_refused_cost_no_event() -> Result<()> {
    let (mut site, endpoint) = Box::pin(site_of_salesforce()).await?;
    // One token is revoked while ten deliveries use it.
    let tokens = endpoint.issued().len();
    site.relay.set_delivering(false).await?;
    let ids = site.accept("revoked", 10).await?;
    endpoint.revoke_after(4);
    site.relay.set_delivering(true).await?;
    site.delivers_all(&ids).await?;
    for id in &ids {
        let requests = site.relay.target.requests_of(id).len();
        ensure!(requests <= 2, "{requests} requests for an event");
    }
    let tokens = endpoint.issued().len() - tokens;
    ensure!((1..=PROCESSES).contains(&tokens), "{tokens} new tokens");

    // The client has a new secret, which the relay has only after a while.
    let next = site.hidden.draw();
    endpoint.accept_only(&[&next]);
    endpoint.revoke_after(0);
    let failing = site.fails("client", "400 invalid_client").await?;
    site.change_secret(oauth(&endpoint.url(), &next, "post"))
        .await?;
    site.delivers_all(&failing).await?;

    // A quota that is used up is a 403 of Salesforce.
    endpoint.set_limited(true);
    let failing = site.fails("limited", "403 Forbidden").await?;
    endpoint.set_limited(false);
    site.delivers_all(&failing).await?;
    site.check_nothing_shows(Some(&endpoint)).await
}

#[tokio::test]
async fn keys_and_certificates_that_end_cost_no_event() -> Result<()> {
    let mut site = Site::start().await?;
    let (old, new, keys) = (site.hidden.draw(), site.hidden.draw(), ApiKeys::default());
    let gateway = Gateway::AwsApiGateway;
    site.relay.target.behave(keys.api(gateway));
    keys.accept_only(&[&old, &new]);
    site.use_secret(json!({ "targetHeaders": { (gateway.header()): old } }))
        .await?;
    site.delivers("both keys").await?;
    keys.accept_only(&[&new]);
    let failing = site.fails("the old key", "403 Forbidden").await?;
    site.change_secret(json!({ "targetHeaders": { (gateway.header()): new } }))
        .await?;
    site.delivers_all(&failing).await?;

    let clients = Authority::new("clients")?;
    let expired = site.hidden.identity(clients.expired_client("relay")?);
    let valid = site.hidden.identity(clients.client("relay")?);
    let certificate = |identity: &local::tls::Identity| {
        json!({ "targetClientCertificate": {
            "certificate": identity.certificate, "privateKey": identity.private_key,
        } })
    };
    site.relay.target.behave(Behaviour::Fine);
    site.front.require(&site.servers, Some(&clients))?;
    site.use_secret(certificate(&expired)).await?;
    let failing = site.fails("expired", &EXPIRED_IN.to_string()).await?;
    site.change_secret(certificate(&valid)).await?;
    site.delivers_all(&failing).await?;

    // The server trusts another authority for clients, as after a mistake of its owner.
    let others = Authority::new("others")?;
    site.front.require(&site.servers, Some(&others))?;
    let failing = site
        .fails("not trusted", "does not accept targetClientCertificate")
        .await?;
    site.front.require(&site.servers, Some(&clients))?;
    site.delivers_all(&failing).await?;

    // A field that cannot be used is named.
    site.front.require(&site.servers, None)?;
    let slip = site.hidden.draw();
    site.use_secret(json!({ "targetHeaders": { "host": slip } }))
        .await?;
    let failing = site.fails("a slip", "targetHeaders").await?;
    site.change_secret(json!({ "targetHeaders": { (gateway.header()): new } }))
        .await?;
    site.delivers_all(&failing).await?;
    site.check_nothing_shows(None).await
}
