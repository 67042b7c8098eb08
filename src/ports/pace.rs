//! An upper bound on the requests per second to the target, without state that processes share.
//!
//! Lambda runs at most as many invocations of the processor at a time as the event source mapping
//! allows, so each of them may send its share of the rate. An invocation waits before its first
//! request as well: the one that ended a moment ago, in another process, may just have sent.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The bound, as one process keeps to it.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    request_time: Duration,
    /// The time of the last request.
    last: Mutex<Instant>,
    admitted: AtomicU32,
}

/// Room for the requests of one event. Dropping it frees the room.
#[derive(Debug)]
pub struct Admission<'a>(&'a Pace);

/// The turn of one request, to be dropped when the request goes out. The next turn is measured from
/// then: where the process was kept from running in between, the two do not move together.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a>(MutexGuard<'a, Instant>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0 = Instant::now();
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace {
    /// A bound of `rate` requests a second over `maximum_concurrency` invocations at a time. A turn
    /// leaves `request_time` for its request.
    ///
    /// No second has more than `rate` requests, if the rate is at least the concurrency. A lower
    /// rate holds on average: each invocation may send in the same second.
    pub fn new(rate: NonZeroU32, maximum_concurrency: NonZeroU32, request_time: Duration) -> Self {
        let second = Duration::from_secs(1);
        // Whole requests a second: half a request more would be one more in every other second.
        let interval = match rate.get() / maximum_concurrency.get() {
            0 => second * maximum_concurrency.get() / rate.get(),
            share => second / share,
        };
        Self {
            interval,
            request_time,
            last: Mutex::new(Instant::now()),
            admitted: AtomicU32::new(0),
        }
    }

    /// The time that an invocation must have for its first request.
    pub fn shortest_invocation(&self) -> Duration {
        self.interval + self.request_time
    }

    /// Begins an invocation.
    pub async fn begin(&self) {
        *self.last.lock().await = Instant::now();
    }

    /// Makes room for the request of one event, if its turn leaves time for it.
    pub fn admit(&self, deadline: Instant) -> Option<Admission<'_>> {
        let ahead = self.admitted.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(self);
        let ends = Instant::now() + self.interval * (ahead + 1) + self.request_time;
        (ends <= deadline).then_some(admission)
    }

    /// Waits for the turn of one request. Returns none, and uses up no turn, if it would leave no
    /// time for the request.
    pub(super) async fn turn(&self, deadline: Instant) -> Option<Turn<'_>> {
        let turn = async {
            let last = self.last.lock().await;
            sleep_until(*last + self.interval).await;
            Turn(last)
        };
        timeout_at(deadline - self.request_time, turn).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST_TIME: Duration = Duration::from_secs(10);

    fn pace(rate: u32, concurrency: u32) -> Pace {
        let number = |number| NonZeroU32::new(number).expect("not zero");
        Pace::new(number(rate), number(concurrency), REQUEST_TIME)
    }

    /// Runs full batches on every concurrent invocation, each in a process of its own, and returns
    /// the times of all requests, in order.
    async fn requests(rate: u32, concurrency: u32) -> Vec<Duration> {
        let began = Instant::now();
        let slots = (0..concurrency).map(|slot| async move {
            let mut sent = Vec::new();
            // Processes start at any time and are busy for any time.
            let mut rng = fastrand::Rng::with_seed(u64::from(slot));
            for _ in 0..20 {
                let pace = pace(rate, concurrency);
                tokio::time::sleep(Duration::from_millis(rng.u64(..700))).await;
                pace.begin().await;
                let deadline = Instant::now() + Duration::from_mins(2);
                let batch = (0..10).map(|_| async {
                    assert!(pace.turn(deadline).await.is_some());
                    began.elapsed()
                });
                sent.extend(futures_util::future::join_all(batch).await);
            }
            sent
        });
        let mut sent = futures_util::future::join_all(slots).await.concat();
        sent.sort_unstable();
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_requests_than_the_rate() {
        for (rate, concurrency) in [(20, 2), (20, 10), (25, 10), (2, 2), (100, 7), (600, 100)] {
            let sent = requests(rate, concurrency).await;
            let second = Duration::from_secs(1);
            // As many requests and one more never fit into a second.
            let pairs = sent.iter().zip(&sent[rate as usize..]);
            for (first, one_more) in pairs {
                assert!(*one_more >= *first + second, "{rate}/s by {concurrency}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_out_late_delays_the_next() {
        let pace = pace(4, 1);
        let deadline = Instant::now() + Duration::from_mins(1);
        let turn = pace.turn(deadline).await.expect("the first turn");
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(turn);
        let sent = Instant::now();
        assert!(pace.turn(deadline).await.is_some());
        assert!(sent.elapsed() >= Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_below_the_concurrency_holds_on_average() {
        let sent = requests(1, 10).await;
        let took = sent.last().expect("requests").as_secs_f64();
        assert!(f64::from(u32::try_from(sent.len()).expect("small")) / took <= 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_requests_whose_turn_comes_in_time_are_admitted() {
        let pace = pace(4, 2);
        pace.begin().await;
        let deadline = Instant::now() + REQUEST_TIME + Duration::from_millis(2600);
        let admitted: Vec<_> = (0..10).filter_map(|_| pace.admit(deadline)).collect();
        assert_eq!(admitted.len(), 5);
        for _ in &admitted {
            assert!(pace.turn(deadline).await.is_some());
        }
        assert!(
            pace.turn(deadline).await.is_none(),
            "the sixth would be too late"
        );
        assert!(
            pace.turn(deadline + Duration::from_secs(1)).await.is_some(),
            "and used up no turn"
        );
        drop(admitted);
        assert!(
            pace.admit(Instant::now() + pace.shortest_invocation())
                .is_some()
        );
    }
}
