//! Genesys Cloud: the sign-in, the permissions of the recovery's calls, and the webhook's URL of
//! each integration.

use std::time::Duration;

use genesys_relay::adapters::aws::secrets_manager::SecretsManager;
use genesys_relay::adapters::delivery_log::open_messaging::OpenMessaging;
use genesys_relay::adapters::delivery_log::webhook_deliveries::WebhookDeliveries;
use genesys_relay::adapters::genesys::{
    Call, Genesys, GenesysError, Https, PlatformApi as _, Region,
};
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::delivery_log::{DeliveryLog, DeliveryLogError, Window};
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::runtime::logging::display_chain;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;

use super::call::Fault;
use super::deployment::Deployment;
use super::{Named, named, unless_any};

const RUNBOOK: &str = "operate/runbooks/recovery-behind.md";

/// Time for the calls of one check.
const LIMIT: Duration = Duration::from_secs(45);

/// An id that no conversation has: a caller with permission is told that it does not exist.
const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Permission to read an integration. The SDK does not name it.
const INTEGRATION_PERMISSION: &str = "messaging:integration:view";

type Api = Genesys<Https, SecretsManager, SystemClock>;

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![
        named("genesys-sign-in", RUNBOOK, sign_in(deployment)),
        named("genesys-permissions", RUNBOOK, permissions(deployment)),
        named(
            "genesys-webhook-urls",
            "operate/runbooks/nothing-arrives.md",
            webhook_urls(deployment),
        ),
    ]
}

/// A client with the credentials of the stack's secret.
fn api(deployment: &Deployment) -> Result<Api, Fault> {
    let parameter = |name| deployment.template.parameter(name);
    if parameter("RecoverySource") == "none" {
        return Fault::not_here("RecoverySource is none: the relay does not call Genesys Cloud");
    }
    let region: Result<Region, _> = parameter("GenesysRegion").parse();
    let region = region.map_err(|error| Fault::Failed(error.to_string()))?;
    let or = |given: &str, own: String| {
        if given.is_empty() {
            own
        } else {
            given.to_owned()
        }
    };
    let arn = deployment.output("SecretArn")?.to_owned();
    let secrets = SecretsManager::new(&deployment.config, arn);
    let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(2), 3);
    let schedule = schedule.map_err(|error| Fault::Failed(error.to_string()))?;
    Ok(Genesys::new(
        deployment.https.clone(),
        &or(parameter("GenesysApiUrl"), region.api_url()),
        &or(parameter("GenesysLoginUrl"), region.login_url()),
        SecretCache::new(secrets, LIMIT, SystemClock),
        schedule,
        SystemClock,
    ))
}

fn ids(deployment: &Deployment) -> Vec<String> {
    let ids = deployment.template.parameter("RecoveryIds").split(',');
    ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

fn get(path: String) -> Call {
    Call {
        method: Method::GET,
        path,
        body: None,
        permission: None,
    }
}

fn integration(id: &str) -> Call {
    get(format!(
        "/api/v2/conversations/messaging/integrations/open/{id}"
    ))
}

async fn sign_in(deployment: &Deployment) -> Result<String, Fault> {
    let api = api(deployment)?;
    // Any answer but a refused sign-in proves it.
    match api
        .call(&integration(UNKNOWN_ID), Instant::now() + LIMIT)
        .await
    {
        Ok(_)
        | Err(
            GenesysError::Forbidden { .. } | GenesysError::NotFound(_) | GenesysError::Refused(_),
        ) => Ok("Genesys Cloud accepts the client of the stack's secret".to_owned()),
        Err(GenesysError::Secrets(_)) => Fault::not_here("because the check secret failed"),
        Err(error) => Fault::failed(display_chain(&error)),
    }
}

/// The same calls as the recovery's, over the last minute.
async fn permissions(deployment: &Deployment) -> Result<String, Fault> {
    let api = api(deployment)?;
    let deadline = Instant::now() + LIMIT;
    let now = Timestamp::now();
    let window = Window {
        from: now - SignedDuration::from_mins(1),
        to: now,
    };
    let parameter = |name| deployment.template.parameter(name);
    if parameter("RecoverySource") == "webhook-deliveries" {
        let path = parameter("WebhookDeliveriesPath").parse();
        let path = path.map_err(|_| {
            Fault::Failed("WebhookDeliveriesPath is no path with {webhookId}".to_owned())
        })?;
        let log = WebhookDeliveries {
            api,
            path,
            webhook_ids: ids(deployment),
        };
        read(&log, window, deadline).await?;
        return Ok("the log of deliveries can be read".to_owned());
    }
    let log = OpenMessaging {
        api,
        integration_ids: ids(deployment).into_iter().collect(),
        statuses: parameter("RecoveryStatuses")
            .split(',')
            .map(str::to_owned)
            .collect(),
        look_back: SignedDuration::from_hours(1),
    };
    read(&log, window, deadline).await?;
    let conversation = get(format!("/api/v2/conversations/messages/{UNKNOWN_ID}"));
    let message = Call {
        permission: Some("conversation:message:view"),
        ..get(format!(
            "/api/v2/conversations/messages/{UNKNOWN_ID}/details?useNormalizedMessage=true"
        ))
    };
    for call in [conversation, message] {
        match log.api.call(&call, deadline).await {
            Ok(_) | Err(GenesysError::NotFound(_)) => {}
            Err(error) => return Fault::failed(display_chain(&error)),
        }
    }
    Ok("conversations, their messages and the details of a message can be read".to_owned())
}

async fn read<L: DeliveryLog>(log: &L, window: Window, deadline: Instant) -> Result<(), Fault> {
    match log.read(window, L::Place::default(), deadline).await {
        Ok(_) => Ok(()),
        Err(DeliveryLogError::Credentials(_)) => {
            Fault::not_here("because the relay cannot sign in to Genesys Cloud")
        }
        Err(error) => Fault::failed(display_chain(&error)),
    }
}

/// The webhook of each integration leads here.
async fn webhook_urls(deployment: &Deployment) -> Result<String, Fault> {
    let api = api(deployment)?;
    if deployment.template.parameter("RecoverySource") != "open-messaging" {
        return Fault::not_here("RecoveryIds are webhooks, whose URL the public API does not tell");
    }
    let deadline = Instant::now() + LIMIT;
    let (wanted, own) = (
        deployment.output("WebhookUrl")?,
        deployment.url("WebhookUrl")?,
    );
    // With a domain, the API keeps its own name as well.
    let by_api = deployment.output("DeadLetterApiUrl")?;
    let by_api = by_api.trim_end_matches("/dlq").to_owned() + "/webhook/genesys";
    let (mut problems, ids) = (Vec::new(), ids(deployment));
    for id in &ids {
        let answer = match api.call(&integration(id), deadline).await {
            Ok(answer) => answer,
            Err(GenesysError::Credentials(_) | GenesysError::Secrets(_)) => {
                return Fault::not_here("because the relay cannot sign in to Genesys Cloud");
            }
            Err(GenesysError::Forbidden { .. }) => {
                return Err(Fault::NotAllowed(format!(
                    "{INTEGRATION_PERMISSION}, of the OAuth client in Genesys Cloud"
                )));
            }
            Err(GenesysError::NotFound(_)) => {
                problems.push(format!(
                    "Genesys Cloud has no Open Messaging integration {id}"
                ));
                continue;
            }
            Err(error) => {
                problems.push(format!("{id}: {}", display_chain(&error)));
                continue;
            }
        };
        // Only this field: the answer holds the secret of the signature as well.
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let found = answer["outboundNotificationWebhookUrl"]
            .as_str()
            .unwrap_or("no URL");
        let plain = found.trim_end_matches('/');
        if ![wanted, &own, &by_api].contains(&plain) {
            let found = without_credentials(found);
            problems.push(format!(
                "the integration {id} sends to {found}, and not to {wanted}"
            ));
        }
    }
    unless_any(&problems, format!("{} send to {wanted}", ids.join(", ")))
}

/// A URL without what may be a credential: user, password, query and fragment.
fn without_credentials(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/{path}")
        }
        None => plain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_url_is_shown_without_credentials() {
        let shown = without_credentials("https://user:word@example.com/hook?code=secret#x");
        assert_eq!(shown, "https://example.com/hook");
        assert_eq!(without_credentials("no URL"), "no URL");
    }
}
