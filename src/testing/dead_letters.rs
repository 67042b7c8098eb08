//! Ports of the dead letters over fakes.

use std::marker::PhantomData;

use super::{FakeArchive, FakeClock, FakeQueue, FakeTable};
use crate::dead_letters::PortTypes;
use crate::ports::clock::Clock;
use crate::ports::queue::{Countable, Receiver, Sender};

/// Fakes behind the ports of the dead letters, with a dead-letter queue and a clock of the test's
/// own.
pub struct FakePorts<D = FakeQueue, C = FakeClock>(PhantomData<(D, C)>);

impl<D: Sender + Receiver + Countable, C: Clock> PortTypes for FakePorts<D, C> {
    type Events = FakeQueue;
    type DeadLetters = D;
    type Redrive = FakeQueue;
    type Table = FakeTable;
    type Archive = FakeArchive;
    type Clock = C;
}
