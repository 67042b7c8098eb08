//! Steps of a run, one by one and all together.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const OVERLAP: SignedDuration = SignedDuration::from_mins(15);
const LONGEST: u32 = 3600;

/// A time line that ends two hours later, when the run begins.
fn line() -> TimeLine {
    TimeLine {
        from: time(0),
        to: time(7200),
        began_at: time(7200),
        overlap: OVERLAP,
        longest_span: LONGEST,
    }
}

fn time(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

fn begin(span: u32, resume: Option<&str>) -> Windows<usize> {
    Windows::begin(line(), span, resume)
}

fn open(windows: Windows<usize>) -> OpenWindow<usize> {
    match windows.open() {
        Opened::Window(open) => open,
        Opened::Complete => panic!("no window is left"),
    }
}

fn token(from: i64, to: i64, began_at: i64, place: usize) -> Option<String> {
    let (from, to, began_at) = (time(from), time(to), time(began_at));
    Resume {
        from,
        to,
        began_at,
        unavailable: None,
        place,
    }
    .token()
}

/// Bounds of the open window and the place to begin at.
fn opened(open: &OpenWindow<usize>) -> (i64, i64, usize) {
    let Window { from, to } = open.window();
    (from.as_second(), to.as_second(), open.place())
}

#[test]
fn a_run_opens_the_window_it_was_left_in_or_a_new_one() {
    for (span, resume, expected) in [
        (60, None, (0, 60, 0)),
        (LONGEST + 1, None, (0, 3600, 0)),
        (u32::MAX, None, (0, 3600, 0)),
        (60, token(0, 600, 7000, 7), (0, 600, 7)),
        (60, token(0, 7200, 7200, 7), (0, 7200, 7)),
        // An hour before its time, of another window, empty, past the end, read before it began,
        // and read in the future.
        (60, Some("no token".to_owned()), (0, 60, 0)),
        (60, token(60, 600, 7000, 7), (0, 60, 0)),
        (60, token(0, 0, 7000, 7), (0, 60, 0)),
        (60, token(0, 7201, 7000, 7), (0, 60, 0)),
        (60, token(0, 600, -301, 7), (0, 60, 0)),
        (60, token(0, 600, 7201, 7), (0, 60, 0)),
    ] {
        assert_eq!(
            opened(&open(begin(span, resume.as_deref()))),
            expected,
            "{span} {resume:?}"
        );
    }
}

#[test]
fn the_next_window_is_twice_as_long_up_to_the_longest() {
    for (span, next) in [(1, (1, 3)), (1800, (1800, 5400)), (3600, (3600, 7200))] {
        let (windows, checkpoint) = open(begin(span, None)).finish(false);
        let (from, to) = next;
        assert_eq!(
            (windows.at(), checkpoint.span_seconds, checkpoint.resume),
            (time(from), (span * 2).min(LONGEST), None)
        );
        assert_eq!(opened(&open(windows)), (from, to, 0), "{span}");
    }
}

#[test]
fn the_checkpoint_waits_for_the_overlap_for_a_resumed_window_and_for_what_is_unavailable() {
    for (span, resume, is_waiting, expected) in [
        (600, None, false, 600),
        (600, None, true, 0),
        (3600, token(0, 7200, 7200, 7), false, 7200 - 900),
        (3600, token(0, 7200, 1000, 7), false, 100),
        (3600, token(0, 7200, 1000, 7), true, 0),
    ] {
        let (_, checkpoint) = open(begin(span, resume.as_deref())).finish(is_waiting);
        assert_eq!(
            checkpoint.cursor,
            time(expected),
            "{span} {resume:?} {is_waiting}"
        );
    }
}

/// Span, windows read before, pages read of the last one, and whether a later run can continue in
/// it; the end, the next span, and the checkpoint.
#[test]
fn a_run_is_stuck_if_the_next_would_get_no_further() {
    use WindowState::{CutShort, Stuck};
    for (span, windows_read, reached, is_resumable, state, next_span, checkpoint) in [
        (600, 0, 0, true, Stuck, 600, None),
        (600, 0, 1, true, CutShort, 600, Some(0)),
        (600, 1, 0, true, CutShort, 1200, Some(600)),
        (600, 0, 0, false, Stuck, 300, None),
        (600, 0, 1, false, CutShort, 300, Some(0)),
        (600, 1, 0, false, CutShort, 600, Some(600)),
        // No window is shorter.
        (1, 0, 0, false, Stuck, 1, None),
        (1, 0, 1, false, Stuck, 1, Some(0)),
        (1, 0, 1, true, CutShort, 1, Some(0)),
        (1, 1, 0, false, CutShort, 1, Some(1)),
    ] {
        let mut windows = begin(span, None);
        for _ in 0..windows_read {
            windows = open(windows).finish(false).0;
        }
        let cut = open(windows).cut_short(&reached, is_resumable.then_some(reached), None);
        let case = format!("{span} {windows_read} {reached} {is_resumable}");
        assert_eq!((cut.state, cut.span_seconds), (state, next_span), "{case}");
        let cursor = cut.checkpoint.as_ref().map(|checkpoint| checkpoint.cursor);
        assert_eq!(cursor, checkpoint.map(time), "{case}");
        let resume = cut.checkpoint.and_then(|checkpoint| checkpoint.resume);
        assert_eq!(
            resume.is_some(),
            is_resumable && checkpoint.is_some(),
            "{case}"
        );
    }
}

#[test]
fn the_next_run_continues_at_the_place_and_waits_for_the_same_entry() {
    let cut = open(begin(600, None)).cut_short(&7, Some(7), Some("no answer".to_owned()));
    let resume = cut
        .checkpoint
        .and_then(|checkpoint| checkpoint.resume)
        .expect("a token");
    let open = open(begin(60, Some(&resume)));
    assert_eq!(
        (opened(&open), open.unavailable().as_deref()),
        ((0, 600, 7), Some("no answer"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Windows follow each other without a gap, and each part of the time line is read.
    #[test]
    fn windows_leave_nothing_out(span in 1..10_000_u32, waiting in prop::collection::vec(any::<bool>(), 1..8)) {
        let (mut windows, mut end, mut cursor, mut nth) = (begin(span, None), time(0), time(0), 0);
        while let Opened::Window(open) = windows.open() {
            let Window { from, to } = open.window();
            prop_assert!(from == end && from < to && to <= line().to);
            let is_waiting = waiting[..=nth.min(waiting.len() - 1)].contains(&true);
            let (next, checkpoint) = open.finish(is_waiting);
            prop_assert!(checkpoint.cursor >= cursor && checkpoint.cursor <= to.min(line().began_at - OVERLAP));
            prop_assert!(!is_waiting || checkpoint.cursor <= from);
            (windows, end, cursor, nth) = (next, to, checkpoint.cursor, nth + 1);
        }
        prop_assert_eq!(end, line().to);
    }
}

#[test]
fn a_run_takes_every_step_of_the_table_and_no_other() {
    let mut taken = BTreeSet::new();
    for (windows_read, reached, is_resumable) in (0..3).flat_map(|read| {
        [
            (read, 0, false),
            (read, 0, true),
            (read, 1, false),
            (read, 1, true),
        ]
    }) {
        let mut windows = begin(LONGEST, None);
        for _ in 0..windows_read {
            taken.insert((WindowState::Between, WindowState::Reading));
            windows = open(windows).finish(false).0;
            taken.insert((WindowState::Reading, WindowState::Between));
        }
        match windows.open() {
            Opened::Window(open) => {
                taken.insert((WindowState::Between, WindowState::Reading));
                let cut = open.cut_short(&reached, is_resumable.then_some(reached), None);
                taken.insert((WindowState::Reading, cut.state));
            }
            Opened::Complete => drop(taken.insert((WindowState::Between, WindowState::Complete))),
        }
    }
    assert_eq!(
        taken,
        STEPS.iter().map(|(from, to, _)| (*from, *to)).collect()
    );
}
