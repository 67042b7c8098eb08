//! Runs of the breaker and its probes.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::breaker::{self, Breaker};
use genesys_relay::domain::circuit::Policy;
use genesys_relay::domain::circuit::Probed;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::event_source::Prober;
use genesys_relay::testing::{FakeQueue, FakeTable};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::{OPERATOR_CALL, RemotePorts, Warm, World};
use crate::faults::{Crashed, Service};
use crate::invariants::label_of;
use crate::mapping::Mapping;
use crate::ports::{Remote, SkewedClock};

/// Time-out of the breaker function in the template.
const BREAKER_TIME: Duration = Duration::from_secs(150);

impl breaker::PortTypes for RemotePorts {
    type Events = Remote<FakeQueue>;
    type Table = Remote<FakeTable>;
    type EventSource = Remote<Mapping>;
    type Prober = Probe;
    type Clock = SkewedClock;
}

/// The processor as the breaker invokes it.
pub(super) struct Probe(Arc<World>);

impl Prober for Probe {
    async fn probe(
        &self,
        delivered_at: Option<Timestamp>,
    ) -> Result<Probed, Box<dyn Error + Send + Sync>> {
        self.0.probe(delivered_at).await
    }
}

impl World {
    /// Runs the breaker once.
    pub(crate) async fn run_breaker(self: &Arc<Self>) -> Option<breaker::BreakerStatus> {
        let process = self.process("breaker", OPERATOR_CALL);
        let policy = Policy {
            failure_percent: 90,
            maximum_concurrency: self.scenario.concurrency,
        };
        let ports = breaker::Ports {
            events: Remote {
                port: self.events.clone(),
                service: Service::Events,
                process: process.clone(),
            },
            table: Remote {
                port: self.table.clone(),
                service: Service::Table,
                process: process.clone(),
            },
            event_source: Remote {
                port: self.mapping.clone(),
                service: Service::Mapping,
                process: process.clone(),
            },
            prober: Probe(Arc::clone(self)),
            clock: self.clock(),
        };
        let function = Breaker::<RemotePorts> {
            ports,
            policy,
            is_on: true,
        };
        let request =
            breaker::Request::parse(json!({ "action": "run" }), "a schedule").expect("a request");
        let work = Box::pin(function.handle(&request, Instant::now() + BREAKER_TIME));
        let shown = process.invoke(BREAKER_TIME, work).await;
        self.invariants.note(|| match &shown {
            Ok(Ok(shown)) => format!("breaker: {}", json!(shown)),
            Ok(Err(error)) => format!("breaker: {error}"),
            Err(Crashed) => "breaker crashed".to_owned(),
        });
        self.invariants.check_nothing_lost();
        let shown = shown.ok().and_then(Result::ok);
        let is_open = shown.as_ref().is_some_and(|shown| shown.state == "open");
        self.invariants
            .breaker_ran(is_open, self.holds_back_untried_events());
        shown
    }

    /// True where the breaker holds back a good event without any attempt although the target
    /// works.
    fn holds_back_untried_events(&self) -> bool {
        let is_untried = |message: &Message, sent_at: Timestamp| {
            let (id, label) = (
                message.identity(sent_at).0,
                label_of(message.body.as_bytes()),
            );
            let is_untried = self
                .table
                .record(&id)
                .is_none_or(|record| record.attempts_made == 0);
            is_untried && !self.is_poison(&label) && !self.invariants.has_taken(&id)
        };
        !self.mapping.is_enabled()
            && self.faults.is_mostly_working()
            && self
                .provider
                .as_ref()
                .is_none_or(|provider| provider.is_satisfied())
            && self.events.held(is_untried).contains(&true)
    }

    /// Probes the target with one event.
    async fn probe(
        &self,
        delivered_at: Option<Timestamp>,
    ) -> Result<Probed, Box<dyn Error + Send + Sync>> {
        let Warm { process, function } = self.processor("probe");
        let time = self.scenario.processor_time;
        self.invariants.probed();
        let work = async { function.probe(delivered_at, Instant::now() + time).await };
        let probed = process
            .invoke(time, work)
            .await
            .map_err(|Crashed| "the processor crashed")??;
        if probed != Probed::Nothing {
            self.faults.count("probes");
        }
        Ok(probed)
    }
}
