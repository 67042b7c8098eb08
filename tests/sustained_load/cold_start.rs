//! Start of a function before its first invocation; it starts even where its warm-up fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use local::genesys::Webhook;
use local::stack::secret;
use local::stand_in::{ServiceFault, StandIn};

use crate::webhooks::request;
use crate::{INGEST_TIME, NOWHERE, PROCESSOR_TIME, returned, start};

fn event() -> String {
    request(&Webhook::signed(r#"{"the":"first"}"#), false).to_string()
}

#[tokio::test]
async fn ingest_has_read_its_secret_and_met_its_queue_before_the_first_event() -> Result<()> {
    let stand_in = StandIn::start(&secret()).await?;
    let mut ingest = start("ingest", &stand_in, NOWHERE, INGEST_TIME).await?;
    ingest.init().await?;
    assert_eq!(
        (
            stand_in.calls("GetSecretValue"),
            stand_in.calls("SendMessageBatch")
        ),
        (1, 1)
    );
    assert!(stand_in.messages("events").is_empty(), "nothing is sent");
    assert_eq!(returned(ingest.invoke(event()).await?)?["statusCode"], 200);
    assert_eq!(
        (
            stand_in.calls("GetSecretValue"),
            stand_in.messages("events").len()
        ),
        (1, 1)
    );
    Ok(())
}

#[tokio::test]
async fn the_processor_has_read_its_secrets_and_met_its_table_before_the_first_event() -> Result<()>
{
    let stand_in = StandIn::start(&secret()).await?;
    let mut processor = start("processor", &stand_in, NOWHERE, PROCESSOR_TIME).await?;
    processor.init().await?;
    assert_eq!(
        (stand_in.calls("GetSecretValue"), stand_in.calls("GetItem")),
        (2, 1)
    );
    Ok(())
}

#[tokio::test]
async fn a_service_that_comes_back_after_the_start_serves_the_first_event() -> Result<()> {
    let is_down = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&is_down);
    let fault = move |_: &str| {
        shared
            .load(Ordering::Relaxed)
            .then_some(ServiceFault::Refused(500, "InternalFailure"))
    };
    let stand_in = StandIn::start_failing(&secret(), Box::new(fault)).await?;
    let mut ingest = start("ingest", &stand_in, NOWHERE, INGEST_TIME).await?;
    ingest.init().await?;
    is_down.store(false, Ordering::Relaxed);
    assert_eq!(returned(ingest.invoke(event()).await?)?["statusCode"], 200);
    Ok(())
}

#[tokio::test]
async fn services_that_are_down_or_silent_do_not_keep_a_function_from_starting() -> Result<()> {
    for fault in [
        ServiceFault::Cut,
        ServiceFault::Hang,
        ServiceFault::Refused(500, "InternalFailure"),
    ] {
        let stand_in = StandIn::start_failing(&secret(), Box::new(move |_| Some(fault))).await?;
        for (name, time_limit) in [("ingest", INGEST_TIME), ("processor", PROCESSOR_TIME)] {
            start(name, &stand_in, NOWHERE, time_limit)
                .await?
                .init()
                .await?;
        }
        let mut ingest = start("ingest", &stand_in, NOWHERE, INGEST_TIME).await?;
        assert_eq!(
            returned(ingest.invoke(event()).await?)?["statusCode"],
            503,
            "{fault:?}"
        );
    }
    Ok(())
}
