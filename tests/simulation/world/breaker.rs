//! Runs of the breaker and its probes.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::breaker::{self, Breaker};
use genesys_relay::domain::circuit::Policy;
use genesys_relay::domain::circuit::Probed;
use genesys_relay::domain::event::Source;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::event_source::Prober;
use genesys_relay::testing::{FakeQueue, FakeTable};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::{OPERATOR_CALL, RemotePorts, Warm, World, remote};
use crate::faults::{Crashed, Service};
use crate::invariants::{is_check, label_of};
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
        // It goes on where the breaker crashes or its answer is lost, which only a bound on the rate
        // cares about.
        let probe = tokio::spawn(Arc::clone(&self.0).probe(delivered_at));
        let World {
            faults, scenario, ..
        } = &*self.0;
        if scenario.rate.is_some() && faults.should_fail(scenario.throttled_per_thousand) {
            faults.count("answers of probes lost");
            return Err("the answer is lost".into());
        }
        probe.await?
    }
}

impl World {
    /// Runs the breaker once, by its schedule or as an operator asks.
    pub(crate) async fn run_breaker(
        self: &Arc<Self>,
        action: &str,
    ) -> Option<breaker::BreakerStatus> {
        let process = self.process("breaker", OPERATOR_CALL);
        let policy = Policy {
            failure_percent: 90,
            maximum_concurrency: self.scenario.concurrency,
            processor_timeout: self.scenario.rate.map(|_| self.scenario.processor_time),
        };
        let ordered = self.line.mode().is_on().then_some(&self.line.mapping);
        let mappings = [&self.mapping].into_iter().chain(ordered);
        let ports = breaker::Ports {
            events: remote(&process, &self.events, Service::Events),
            table: Remote {
                port: self.table.clone(),
                service: Service::Table,
                process: process.clone(),
            },
            ordered: self.ordered_source(&process),
            event_sources: mappings
                .map(|mapping| Remote {
                    port: mapping.clone(),
                    service: Service::Mapping,
                    process: process.clone(),
                })
                .collect(),
            prober: Probe(Arc::clone(self)),
            clock: self.clock(),
        };
        let function = Breaker::<RemotePorts> {
            ports,
            policy,
            is_on: true,
        };
        let request =
            breaker::Request::parse(json!({ "action": action }), "a test").expect("a request");
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
        let is_poison = |message: &Message, _| self.is_poison(&label_of(message.body.as_bytes()));
        let poison = self.line.queue.held(is_poison);
        let poison = poison.into_iter().map(u32::from).sum();
        self.invariants
            .breaker_ran(is_open, self.holds_back_untried_events(), poison);
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
            is_untried
                && !is_check(message)
                && !self.is_poison(&label)
                && !self.invariants.has_taken(&id)
        };
        !self.mapping.is_enabled()
            && self.faults.is_mostly_working()
            && self
                .provider
                .as_ref()
                .is_none_or(|provider| provider.is_satisfied())
            && [&self.events, &self.line.queue]
                .iter()
                .any(|queue| queue.held(is_untried).contains(&true))
    }

    /// Probes the target with one event.
    async fn probe(
        self: Arc<Self>,
        delivered_at: Option<Timestamp>,
    ) -> Result<Probed, Box<dyn Error + Send + Sync>> {
        let _running = self.invariants.processor_begins(true);
        let Warm {
            process, function, ..
        } = self.start_processor("probe").await;
        let time = self.scenario.processor_time;
        self.invariants.probed();
        let work = async { function.probe(delivered_at, Instant::now() + time).await };
        let probed = process.invoke(time, work).await;
        self.invariants
            .journal_ended(process.number(), probed.is_ok());
        let probed = probed.map_err(|Crashed| "the processor crashed")??;
        if let Probed::Delivered { event_id } | Probed::Failed { event_id, .. } = &probed {
            self.faults.count("probes");
            let id = event_id.parse().ok();
            let record = id.and_then(|id| self.table.record(&id));
            if record.is_some_and(|record| record.source == Source::Check) {
                let problem = format!("the breaker probes with the check event {event_id}");
                self.invariants.violate(&problem);
            }
        }
        Ok(probed)
    }
}
