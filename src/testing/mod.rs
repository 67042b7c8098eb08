//! Stand-ins for the ports, for tests only: they are compiled with the feature `testing` and never
//! shipped.

mod archive;
mod breaker;
mod clock;
mod counts;
mod ports;
mod queue;
mod secrets;
mod table;
mod target;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::message::Message;
use crate::ports::clock::Clock as _;

pub use self::archive::FakeArchive;
pub use self::breaker::{FakeEventSource, FakeProber};
pub use self::clock::FakeClock;
pub use self::counts::FakeCounts;
pub use self::ports::FakePorts;
pub use self::queue::FakeQueue;
pub use self::secrets::FakeSecretStore;
pub use self::table::FakeTable;
pub use self::target::FakeTarget;

/// A dead letter with this body, which the target has refused with 404.
pub fn refused(body: impl Into<String>) -> Message {
    let message = Message {
        body: body.into(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    message.with_reason(&Reason {
        status_code: Some(404),
        attempt: Some(1),
        ..Reason::new(
            ReasonKind::Permanent,
            "the target answered 404",
            FakeClock.now(),
        )
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
