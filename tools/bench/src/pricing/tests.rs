use super::*;

/// Part of a document between its markers.
fn marked(document: &str) -> Option<&str> {
    let (_, rest) = document.split_once("<!-- table: begin -->\n\n")?;
    Some(rest.split_once("\n<!-- table: end -->")?.0)
}

#[test]
fn the_documents_hold_these_tables() {
    for (document, printed) in [
        (include_str!("../../COST.md"), costs()),
        (include_str!("../../SCALE.md"), scale()),
    ] {
        let found = marked(document).expect("markers");
        assert!(
            found == printed,
            "put this between its markers:\n\n{printed}"
        );
    }
}

#[test]
fn each_component_is_what_a_calculation_by_hand_gives() {
    let v = set(
        &defaults(),
        [("rate", 800.0), ("batch", 10.0), ("failing", 0.0)],
    );
    let by_hand = [
        // 6 ms and 0.289 ms on 256/1769 of a core: 8 ms; 2,001 GB-s with INIT. Ten messages of
        // 2,378 bytes are one request to SQS.
        1.0,
        0.2,
        0.026_68,
        0.4,
        0.1,
        0.04,
        0.04,
        // 100 ms, two writes of 5 ms, 21.8 ms of CPU: 132 ms for ten; 3,300 GB-s.
        0.02,
        0.044,
        1.25,
        0.0,
        // 606 bytes for half a month: 0.2822 GB-months at 0.45. A write of the index, and 245 bytes
        // for half a month: 0.1141 GB-months at 0.25. 396 bytes of lines, 9 of the ack's metrics, a
        // tenth of the batch's 635: 0.4363 GB.
        0.1270,
        0.6535,
        0.2182,
        0.0,
        0.1239,
        // 2,848 bytes to the target and 350 to the sender. 6.4 environments with one secret and
        // 10.56 with two, one call in 300 s for each, at 800 events a second.
        0.2681,
        0.000_573_3,
        0.0,
    ];
    for ((name, found), expected) in DATA.components.iter().zip(bill(&v)).zip(by_hand) {
        assert!(
            (found - expected).abs() <= expected * 0.001,
            "{name}: {found}"
        );
    }
    // A record of 431 bytes grows by 312 with each failure. Claims: 1 1 2 2 2 2 3 3 3 4, and
    // the index. Settles: 1 2 2 2 2 3 3 3 4, then 4,001 bytes of a death are 4, the index and
    // the body.
    let [writes, index_writes, reads, _] = table_use(&set(&v, [("failing", 1.0)]));
    assert_eq!([writes, index_writes, reads].map(rounded), ["52", "2", "9"]);
    // 2 + 4 + … + 512 s, the mean jitter of 0.5 0.5 0.5 0.5 1.5 3 6 12.5 25.5 s, and ten batches
    // of one, 113 ms each.
    let v = set(&v, [("failing", 1.0), ("rate", 1.0)]);
    assert!((seconds_in_flight(&v) - (1022.0 + 50.5 + 1.13)).abs() < 1e-6);
    // In line until its patience is over: 2 4 8 16 32 s and their jitter of 0.5 0.5 0.5 0.5 1.5 s,
    // then what is left of 120 s, and seven attempts.
    assert!((seconds_in_line(&v) - (120.0 + 7.0 * 0.113)).abs() < 1e-6);
}

#[test]
fn order_costs_what_a_calculation_by_hand_gives() {
    let v = set(&defaults(), [("failing", 0.0)]);
    // A send, a receive and a delete at 0.50 in place of 0.40, and no surcharge of 0.10.
    assert!((total(&ordered(&v)) - total(&v) - 0.2).abs() < 1e-9);
    assert!((queue_requests(&v) - 3.0).abs() < 1e-9);
    // An event that fails once and is then delivered: the record enters the index, changes there
    // with the claim, and leaves it.
    let v = set(&v, [("failing", 0.5), ("max_receives", 2.0)]);
    let [_, index, ..] = table_use(&v);
    let [_, of_ordered, ..] = table_use(&ordered(&v));
    assert!((of_ordered - index - 1.5).abs() < 1e-9);
    // Ten messages of one conversation wait for the target one after another.
    let one = set(&v, [("batch", 10.0), ("in_line", 10.0)]);
    assert!((billed_ms(&one).1 - 1122.0).abs() < 1e-9);
}

#[test]
fn journal_costs_what_a_calculation_by_hand_gives() {
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.001, "{found}");
    let stored = 0.0204;
    let [(queue, of_queue), (batches, of_batches)] = journal(&defaults());
    // A send, a tenth of a receive and of a delete at 0.40; 8 ms are 2,000 GB-s. Objects of 1,763
    // events.
    near(queue, 0.48 + 0.0267 + 5.0 / 1763.0 + stored);
    near(of_queue, 1.0 / 1763.0);
    // 30 ms are 7,500 GB-s.
    near(batches, 5.0 + 0.1 + stored);
    near(of_batches, 1.0);
    // 30 events in five minutes.
    let [(_, of_queue), _] = journal(&set(&defaults(), [("rate", 0.1)]));
    near(of_queue, 1.0 / 30.0);
}

#[test]
fn more_failures_larger_bodies_and_emptier_batches_never_cost_less() {
    let busy = with(&defaults(), &DATA.busy);
    for (name, step, most) in [
        ("failing", 0.01, 1.0),
        ("body_bytes", 1024.0, 1e6),
        ("batch", -1.0, 1.0),
    ] {
        let first = if step > 0.0 { 0.0 } else { 10.0 };
        let values = std::iter::successors(Some(first), |value| Some(value + step));
        let values = values.take_while(|value| {
            if step > 0.0 {
                *value <= most
            } else {
                *value >= most
            }
        });
        let costs: Vec<f64> = values
            .map(|value| total(&set(&busy, [(name, value)])))
            .collect();
        assert!(costs.is_sorted(), "{name}");
    }
}

#[test]
fn as_many_alarms_are_paid_as_there_are() {
    let template = include_str!("../../../../infra/observability.yaml");
    let alarms = template.matches("Type: AWS::CloudWatch::Alarm\n").count();
    let paid = DATA
        .monthly
        .iter()
        .filter_map(|(_, units)| units.get("alarm_month"));
    let paid: f64 = paid.sum();
    assert_eq!(format!("{}", paid + 4.0), format!("{alarms}"));
}
