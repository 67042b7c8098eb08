//! Stand-ins for the ports, for tests only: they are compiled with the feature `testing` and never shipped.

mod archive;
mod breaker;
mod clock;
mod queue;
mod secrets;
mod table;
mod target;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::archive::FakeArchive;
pub use self::breaker::{FakeEventSource, FakeProber};
pub use self::clock::FakeClock;
pub use self::queue::FakeQueue;
pub use self::secrets::FakeSecretStore;
pub use self::table::FakeTable;
pub use self::target::FakeTarget;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
