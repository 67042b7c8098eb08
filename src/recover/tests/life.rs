//! Random lives of the relay.

use proptest::prelude::*;

use super::*;

/// A life of the relay: what is lost when, how late the log lists it, and what each run meets.
#[derive(Debug, Clone)]
struct Life {
    skew_seconds: i64,
    lost: Vec<(i64, i64)>,
    runs: Vec<(u64, usize, usize)>,
    read_takes_seconds: u64,
    resumes: bool,
}

fn life() -> impl Strategy<Value = Life> {
    // Times are multiples of a minute as windows are, so that many lie exactly on a border.
    let lost = prop::collection::vec((0..600_i64, 0..5 * 60_i64), 0..60);
    let runs = prop::collection::vec((1..90_u64, 0..2_usize, 0..12_usize), 1..20);
    let read_takes = prop_oneof![Just(0_u64), 20..100_u64];
    (
        prop_oneof![Just(-120), Just(0), Just(120)],
        lost,
        runs,
        read_takes,
        any::<bool>(),
    )
        .prop_map(
            |(skew_seconds, lost, runs, read_takes_seconds, resumes)| Life {
                skew_seconds,
                lost,
                runs,
                read_takes_seconds,
                resumes,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fails late, on a border, or while something is down: none is missed, and none is
    /// queued again once it is recorded.
    #[test]
    fn none_is_missed_and_none_is_doubled(life in life()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let relay = relay();
            *lock(&relay.ports.log.resumes) = life.resumes;
            *lock(&relay.ports.log.read_takes) = Duration::from_secs(life.read_takes_seconds);
            let skew = SignedDuration::from_secs(life.skew_seconds);
            let start = now();
            relay.go_on().await;
            for (number, (minute, late)) in life.lost.iter().enumerate() {
                let happened = start + minutes(*minute);
                let listed_at = happened + SignedDuration::from_secs(85 + late);
                relay.lose(&format!("e{number}"), happened + skew, listed_at);
            }
            let mut unrecorded = 0;
            for (pause, genesys_fails, table_calls) in life.runs {
                sleep(Duration::from_mins(pause)).await;
                *lock(&relay.ports.log.fails) = genesys_fails;
                if table_calls > 0 {
                    relay.ports.table.fail_after(table_calls, 1);
                }
                // An event that was sent and not recorded may be sent once more.
                unrecorded += usize::from(relay.run(json!({})).await.is_err());
            }
            relay.ports.table.fail_after(0, 0);
            *lock(&relay.ports.log.fails) = 0;
            sleep(Duration::from_hours(11)).await;
            let mut runs = 0;
            while !relay.go_on().await.complete {
                runs += 1;
                assert!(runs < 200, "it comes to an end");
            }
            let queued = relay.queued();
            assert_eq!(queued.len(), life.lost.len());
            let doubled = queued.values().filter(|copies| **copies > 1).count();
            assert!(doubled <= unrecorded * BATCH, "{doubled} are there twice");
            assert_eq!(relay.go_on().await.new, 0);
        });
    }
}
