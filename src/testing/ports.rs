//! Fakes behind the ports of every use case.

use std::marker::PhantomData;

use super::{
    FakeArchive, FakeClock, FakeCounts, FakeEventSource, FakeProber, FakeQueue, FakeSecretStore,
    FakeTable,
};
use crate::ports::clock::Clock;
use crate::ports::delivery_log::DeliveryLog;
use crate::ports::sent_messages::SentMessages;
use crate::ports::target::Target;
use crate::{breaker, dead_letters, deliver, ingest, recover, statement};

/// Fakes behind the ports of a use case, with a clock, a target or a delivery log of the test's
/// own.
pub struct FakePorts<P = (), C = FakeClock>(PhantomData<(P, C)>);

impl<C: Clock> ingest::PortTypes for FakePorts<(), C> {
    type Events = FakeQueue;
    type DeadLetters = FakeQueue;
    type Secrets = FakeSecretStore;
    type Clock = C;
}

impl<T: Target, C: Clock> deliver::PortTypes for FakePorts<T, C> {
    type Events = FakeQueue;
    type DeadLetters = FakeQueue;
    type Table = FakeTable;
    type Target = T;
    type Clock = C;
}

impl<L: DeliveryLog, C: Clock> recover::PortTypes for FakePorts<L, C> {
    type Log = L;
    type Events = FakeQueue;
    type DeadLetters = FakeQueue;
    type Table = FakeTable;
    type Clock = C;
}

impl<S: SentMessages, C: Clock> statement::PortTypes for FakePorts<S, C> {
    type Sent = S;
    type Table = FakeTable;
    type Events = FakeQueue;
    type Archive = FakeArchive;
    type Counts = FakeCounts;
    type Clock = C;
}

impl<C: Clock> dead_letters::PortTypes for FakePorts<(), C> {
    type Events = FakeQueue;
    type DeadLetters = FakeQueue;
    type Redrive = FakeQueue;
    type Table = FakeTable;
    type Archive = FakeArchive;
    type Clock = C;
}

impl breaker::PortTypes for FakePorts {
    type Events = FakeQueue;
    type Table = FakeTable;
    type EventSource = FakeEventSource;
    type Prober = FakeProber;
    type Clock = FakeClock;
}
