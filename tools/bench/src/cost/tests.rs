use super::levers::{ALARMS, idle_receives_per_month};
use super::model::*;
use super::prices::Architecture;
use super::*;

const EVEN: Workload = Workload {
    failing: 0.0,
    ..BUSY
};

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= expected.abs() * 0.001 + 1e-9,
        "{found} is not {expected}"
    );
}

fn of(bill: &Bill, component: &str) -> f64 {
    bill.of_component(component)
        .unwrap_or_else(|| panic!("there is no {component}"))
}

fn total(workload: &Workload) -> f64 {
    bill(&RELAY, workload, &AS_SHIPPED).total()
}

#[test]
fn each_component_is_what_a_hand_comes_to() {
    let bill = bill(&RELAY, &EVEN, &AS_SHIPPED);
    for (component, expected) in [
        ("HTTP API", 1.00),
        ("ingest: invocations", 0.20),
        // 6 ms and 0.289 ms on 256/1769 of a core: 8 ms; 2,001 GB-s with INIT.
        ("ingest: GB-seconds", 0.02668),
        ("SQS: sends", 0.40),
        ("SQS: fair queue", 0.10),
        // Ten messages of 2,378 bytes are one request.
        ("SQS: receives", 0.04),
        ("SQS: deletes, visibility", 0.04),
        ("processor: invocations", 0.02),
        // 100 ms, two writes of 5 ms, 21.8 ms of CPU: 132 ms for ten; 3,300 GB-s.
        ("processor: GB-seconds", 0.0440),
        ("DynamoDB: writes", 1.25),
        ("DynamoDB: reads", 0.0),
        // 555 bytes for half a month: 0.2584 GB-months at 0.45.
        ("DynamoDB: storage for 15 days, with recovery", 0.1163),
        // 396 bytes of lines, 9 of the ack's metrics, a tenth of the batch's 635: 0.4363 GB.
        ("logs: our lines", 0.2182),
        ("logs: START, END, REPORT", 0.0),
        ("logs: access log", 0.1178),
        // 2,848 bytes to the target and 350 to the sender.
        ("data transfer to the target", 0.2681),
        // 6.4 and 10.56 environments, one call in 300 s each, at 800 events a second.
        ("Secrets Manager: reads", 0.000_353_3),
        ("X-Ray", 0.0),
    ] {
        near(of(&bill, component), expected);
    }
    near(bill.total(), 3.8411);
    assert_eq!(bill.lines.len(), 18, "each line is checked above");
}

#[test]
fn lines_of_lambda_itself_are_paid_where_they_are_written() {
    let logs = Logs {
        platform: true,
        ..AS_SHIPPED.logs
    };
    // 262 bytes, 1.1 times.
    near(
        of(
            &bill(&RELAY, &EVEN, &Setup { logs, ..AS_SHIPPED }),
            "logs: START, END, REPORT",
        ),
        0.1342,
    );
}

#[test]
fn traces_of_few_events_cost_more_than_all_the_rest() {
    let traced = |events_per_second| {
        let workload = Workload {
            events_per_second,
            ..EVEN
        };
        of(
            &bill(
                &RELAY,
                &Workload {
                    batch: 1.0,
                    ..workload
                },
                &Setup {
                    traces: true,
                    ..AS_SHIPPED
                },
            ),
            "X-Ray",
        )
    };
    // Both functions, each time.
    near(traced(0.5), 10.0);
    assert!(traced(0.5) > total(&Workload { batch: 1.0, ..EVEN }));
    // Of ten in a second the first, and a twentieth of nine.
    near(traced(10.0), 2.0 * 5.0 * 0.145);
}

/// The template's own number.
#[test]
fn as_many_alarms_are_paid_as_there_are() {
    let template = include_str!("../../../../infra/observability.yaml");
    assert_eq!(
        template.matches("Type: AWS::CloudWatch::Alarm\n").count(),
        usize::from(ALARMS) + 4
    );
}

#[test]
fn a_batch_of_one_pays_alone_for_what_ten_share() {
    let bill = bill(&RELAY, &Workload { batch: 1.0, ..EVEN }, &AS_SHIPPED);
    near(of(&bill, "SQS: receives"), 0.40);
    near(of(&bill, "SQS: deletes, visibility"), 0.40);
    near(of(&bill, "processor: invocations"), 0.20);
    // 113 ms for one: 28,251 GB-s.
    near(of(&bill, "processor: GB-seconds"), 0.3767);
}

#[test]
fn a_payload_that_crosses_64_kib_is_one_more_request() {
    let sends = |body_bytes| {
        of(
            &bill(&RELAY, &Workload { body_bytes, ..EVEN }, &AS_SHIPPED),
            "SQS: sends",
        )
    };
    let border = 64.0 * 1024.0 - assumed::ATTRIBUTES_BYTES;
    near(sends(border), 0.40);
    near(sends(border + 1.0), 0.80);
    // The API counts the body alone, by 512 KiB.
    let api = |body_bytes| {
        of(
            &bill(&RELAY, &Workload { body_bytes, ..EVEN }, &AS_SHIPPED),
            "HTTP API",
        )
    };
    near(api(512.0 * 1024.0), 1.00);
    near(api(512.0 * 1024.0 + 1.0), 2.00);
    near(api(0.0), 1.00);
}

#[test]
fn a_full_batch_of_large_messages_is_received_by_the_64_kib() {
    let bill = bill(
        &RELAY,
        &Workload {
            body_bytes: 16.0 * 1024.0,
            ..EVEN
        },
        &AS_SHIPPED,
    );
    // 167,140 bytes are three requests for ten events.
    near(of(&bill, "SQS: receives"), 0.12);
}

#[test]
fn two_receives_take_what_each_end_takes_by_its_share() {
    let setup = Setup {
        max_receives: 2,
        ..AS_SHIPPED
    };
    let used = TableUse::of(
        &Workload {
            failing: 0.5,
            ..EVEN
        },
        &setup,
    );
    // Claim 1, delivered ½, retrying ½; then ½ of: claim 1 and index 1, delivered ½ · (1 and index
    // 1), dead ½ · (2 for 1,454 bytes, index 1, body 1).
    near(used.writes, 2.0 + 0.5 * (2.0 + 1.0 + 2.0));
    near(used.index_writes, 0.5 * (1.0 + 0.5 + 0.5));
    near(used.reads, 0.5);
}

#[test]
fn ten_failures_are_fifty_write_units() {
    let used = TableUse::of(
        &Workload {
            failing: 1.0,
            ..EVEN
        },
        &AS_SHIPPED,
    );
    // A record of 380 bytes grows by 312 with each failure. Claims: 1 1 1 2 2 2 3 3 3 4, and the
    // index. Settles: 1 1 2 2 2 3 3 3 4, then 3,950 bytes of a death are 4, the index and the body.
    near(used.writes, 22.0 + 1.0 + 21.0 + 4.0 + 1.0 + 1.0);
    near(used.index_writes, 2.0);
    near(used.reads, 9.0);
}

#[test]
fn what_the_target_refuses_for_good_is_three_writes_and_a_second_send() {
    let workload = Workload {
        refused: 1.0,
        ..EVEN
    };
    // The claim 1, the body 1, the death 2 for 1,142 bytes and the index 1.
    near(TableUse::of(&workload, &AS_SHIPPED).writes, 5.0);
    let bill = bill(&RELAY, &workload, &AS_SHIPPED);
    near(of(&bill, "SQS: sends"), 0.80);
    // 337 bytes in place of 220.
    near(
        of(&bill, "logs: our lines"),
        (176.0 + 337.0 + 9.0 + 63.5) * 0.5e6 / 1_073_741_824.0,
    );
}

#[test]
fn without_the_first_claim_a_write_becomes_a_read() {
    let setup = Setup {
        claims_at_once: false,
        ..AS_SHIPPED
    };
    let used = TableUse::of(&EVEN, &setup);
    near(used.writes, 1.0);
    near(used.reads, 1.0);
    near(total(&EVEN) - bill(&RELAY, &EVEN, &setup).total(), 0.50);
}

#[test]
fn more_failures_never_cost_less() {
    for design in DESIGNS {
        for batch in [1.0, 3.0, 10.0] {
            let mut before = 0.0;
            for percent in 0..=100 {
                let workload = Workload {
                    failing: f64::from(percent) / 100.0,
                    batch,
                    ..BUSY
                };
                let now = bill(&design, &workload, &AS_SHIPPED).total();
                assert!(
                    now >= before,
                    "{percent} % cost {now}, and less failures {before}"
                );
                before = now;
            }
        }
    }
}

#[test]
fn larger_bodies_and_emptier_batches_never_cost_less() {
    let costs: Vec<f64> = (0..1024)
        .map(|kib| {
            total(&Workload {
                body_bytes: f64::from(kib) * 1024.0,
                ..BUSY
            })
        })
        .collect();
    assert!(costs.is_sorted());
    let costs: Vec<f64> = (1..=10)
        .map(|batch| {
            total(&Workload {
                batch: f64::from(batch),
                ..BUSY
            })
        })
        .collect();
    assert!(costs.iter().rev().is_sorted());
}

#[test]
fn python_pays_for_its_cpu_and_x86_for_its_price() {
    let python = bill(&DESIGNS[3], &EVEN, &AS_SHIPPED);
    // 6 ms and 8.17 ms: 15 ms, and 0.244 ms of INIT; 3,811 GB-s.
    near(of(&python, "ingest: GB-seconds"), 0.050_81);
    // 110 ms and 198 ms: 309 ms for ten, and INIT; 7,731 GB-s.
    near(of(&python, "processor: GB-seconds"), 0.103_08);
    let intel = bill(
        &RELAY,
        &EVEN,
        &Setup {
            architecture: Architecture::X86,
            ..AS_SHIPPED
        },
    );
    near(of(&intel, "processor: GB-seconds"), 0.0440 * 1.25);
}

#[test]
fn a_design_has_only_what_it_uses() {
    let none = |design: &Design, components: &[&str]| {
        for component in components {
            near(of(&bill(design, &EVEN, &AS_SHIPPED), component), 0.0);
        }
    };
    none(&DESIGNS[1], &["ingest: invocations", "ingest: GB-seconds"]);
    none(
        &DESIGNS[2],
        &[
            "HTTP API",
            "ingest: invocations",
            "ingest: GB-seconds",
            "logs: access log",
        ],
    );
    // A function URL has no API in front and no access log.
    let own_url = Design {
        entrance: Entrance::FunctionUrl,
        ..RELAY
    };
    none(&own_url, &["HTTP API", "logs: access log"]);
    near(
        total(&EVEN) - bill(&own_url, &EVEN, &AS_SHIPPED).total(),
        1.1178,
    );
}

#[test]
fn an_idle_mapping_polls_fifteen_times_a_minute() {
    near(idle_receives_per_month(), 15.0 * 60.0 * 24.0 * 30.0);
}

#[test]
fn the_document_holds_these_tables() {
    let printed = markdown();
    let found = marked(include_str!("../../COST.md")).expect("markers in COST.md");
    assert!(
        found == printed.trim_matches('\n'),
        "put this between the markers of COST.md:\n\n{printed}"
    );
}
