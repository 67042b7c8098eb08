//! Performance targets of the relay: figures against the floor and the peers, from one run.

use crate::figures::{Figures, number};
use crate::results::Results;
use crate::{ingest, instructions, journey, processor};

/// A bound on a figure.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {}", number(bound)),
            Self::AtLeast(bound) => format!("≥ {}", number(bound)),
        }
    }
}

/// One line of the table.
struct Target {
    what: &'static str,
    must: Bound,
    stretch: Bound,
    measured: Option<f64>,
    /// Reason where the target is missed.
    because: &'static str,
}

/// The targets, with what was measured of each.
#[expect(clippy::too_many_lines, reason = "a table, row by row")]
fn targets(results: &Results) -> Vec<Target> {
    let Results {
        ingest: acks,
        instructions: counted,
        processor: batches,
        journey: journeys,
        ..
    } = results;
    let ratio = |figures: &Figures, over: (&str, &str), under: (&str, &str)| {
        Some(figures.median(over.0, over.1)? / figures.median(under.0, under.1)?)
    };
    let against = |program: &str, figure| ratio(acks, ("ingest", figure), (program, figure));
    let batch = |function: usize, size| processor::row(processor::PROGRAMS[function], size, 0);
    vec![
        Target {
            what: "ingest: instructions of INIT, warmed, in millions",
            must: Bound::AtMost(5.5),
            stretch: Bound::AtMost(3.0),
            measured: counted
                .median("ingest", instructions::INIT)
                .map(|count| count / 1e6),
            because: "two services are warmed, SQS and Secrets Manager, and each handshake with a certificate like AWS's takes 2.3",
        },
        Target {
            what: "ingest: instructions of the first event, in millions",
            must: Bound::AtMost(1.0),
            stretch: Bound::AtMost(0.6),
            measured: counted
                .median("ingest", instructions::FIRST)
                .map(|count| count / 1e6),
            because: "as many as any later event: the SDK's signature and its layers are most of it",
        },
        Target {
            what: "ingest: cold start in all, against the floor",
            must: Bound::AtMost(2.5),
            stretch: Bound::AtMost(2.0),
            measured: against("floor", ingest::COLD),
            because: "two TLS handshakes and two clients of the SDK are more than all that the floor does",
        },
        Target {
            what: "ingest: cold start in all, times faster than boto3",
            must: Bound::AtLeast(40.0),
            stretch: Bound::AtLeast(50.0),
            measured: ratio(acks, ("boto3", ingest::COLD), ("ingest", ingest::COLD)),
            because: "as above",
        },
        Target {
            what: "ingest: first event with the CPU of 128 MB, in ms",
            must: Bound::AtMost(5.0),
            stretch: Bound::AtMost(1.0),
            measured: acks.median("ingest", ingest::FIRST_AT_128),
            because: "0.7 ms of CPU, wherever in its slice of 20 ms the event arrives",
        },
        Target {
            what: "ingest: CPU of an event, against the floor",
            must: Bound::AtMost(3.0),
            stretch: Bound::AtMost(1.6),
            measured: against("floor", ingest::STEADY_CPU),
            because: "the SDK: signing, its layers, and TLS; the relay's own work is a sixth (\"Where the time goes\")",
        },
        Target {
            what: "ingest: CPU of an event, times less than boto3",
            must: Bound::AtLeast(3.5),
            stretch: Bound::AtLeast(6.0),
            measured: ratio(
                acks,
                ("boto3", ingest::STEADY_CPU),
                ("ingest", ingest::STEADY_CPU),
            ),
            because: "as above",
        },
        Target {
            what: "ingest: zip, in MB",
            must: Bound::AtMost(3.0),
            stretch: Bound::AtMost(2.0),
            measured: results
                .zips
                .get("ingest")
                .map(|&bytes| f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e6),
            because: "the SDK, TLS and HTTP",
        },
        Target {
            what: "ingest: peak memory, in MB",
            must: Bound::AtMost(9.0),
            stretch: Bound::AtMost(6.0),
            measured: acks.median("ingest", ingest::PEAK),
            because: "five of them are pages of the binary",
        },
        Target {
            what: "processor: batch of 10, against the target's time",
            must: Bound::AtMost(1.02),
            stretch: Bound::AtMost(1.01),
            measured: batches.median(&batch(0, 10), processor::AGAINST_TARGET),
            because: "a claim before and a record after each delivery",
        },
        Target {
            what: "processor: batch of 100, against the target's time",
            must: Bound::AtMost(1.1),
            stretch: Bound::AtMost(1.05),
            measured: batches.median(&batch(0, 100), processor::AGAINST_TARGET),
            because: "300 requests over TLS, each with 0.1 ms of CPU, on one core that the stand-ins' core can barely follow",
        },
        Target {
            what: "processor: CPU of a batch of 10, times less than Python with threads",
            must: Bound::AtLeast(12.0),
            stretch: Bound::AtLeast(20.0),
            measured: ratio(
                batches,
                (&batch(1, 10), processor::CPU),
                (&batch(0, 10), processor::CPU),
            ),
            because: "both write twice to the table; the SDK's share is the same in each",
        },
        Target {
            what: "ingest: log of an event, in bytes",
            must: Bound::AtMost(250.0),
            stretch: Bound::AtMost(150.0),
            measured: acks.median("ingest", ingest::LOG),
            because: "the time, the level and the id of the event are 120 of them",
        },
        Target {
            what: "ack p99 while 70 % of deliveries fail, against healthy",
            must: Bound::AtMost(1.1),
            stretch: Bound::AtMost(1.0),
            measured: journeys.median(journey::PROGRAMS[0], journey::RATIO),
            because: "on the local AWS one process in Python takes acks and hands out retries; ingest itself meets no retry",
        },
        Target {
            what: "acknowledged events lost when processes are killed",
            must: Bound::AtMost(0.0),
            stretch: Bound::AtMost(0.0),
            measured: journeys.most(journey::PROGRAMS[0], journey::LOST),
            because: "",
        },
    ]
}

/// The table: each target, what was measured, and why it is not better.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::from("| | must | stretch | measured | |\n|---|---:|---:|---:|---|\n");
    for Target {
        what,
        must,
        stretch,
        measured,
        because,
    } in targets(results)
    {
        let (value, verdict) = match measured {
            None => ("–".to_owned(), "not measured in this run".to_owned()),
            Some(value) if stretch.holds(value) => (number(value), "stretch met".to_owned()),
            Some(value) if must.holds(value) => {
                (number(value), format!("met; no stretch: {because}"))
            }
            Some(value) => (number(value), format!("**not met**: {because}")),
        };
        text.extend([format!(
            "| {what} | {} | {} | {value} | {verdict} |\n",
            must.text(),
            stretch.text()
        )]);
    }
    text
}
