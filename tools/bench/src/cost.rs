//! Cost of a million events: a calculator over list prices, and the tables of `COST.md`.
//!
//! Nothing here calls AWS. [`model`] has the measured and the assumed values.

mod bill;
mod levers;
mod model;
mod prices;
mod table;
mod table_use;
#[cfg(test)]
mod tests;

use self::bill::Bill;
use self::levers::{LEVERS, fixed};
use self::model::{DESIGNS, Design};
use self::prices::AS_OF;

pub(crate) use self::model::{AS_SHIPPED, BUSY, QUIET, RELAY, Setup, Workload};
pub(crate) use self::table::Table;
#[cfg(test)]
pub(crate) use self::table::marked;
pub(crate) use self::table_use::TableUse;

/// Dollars per million events, by component.
pub(crate) fn bill(design: &Design, workload: &Workload, setup: &Setup) -> Bill {
    Bill::of(design, workload, setup)
}

/// The billed time of one ack and of one batch of this relay, in milliseconds.
pub(crate) fn billed_ms(workload: &Workload, setup: &Setup) -> (f64, f64) {
    bill::billed_ms(&RELAY.measured, workload, setup)
}

/// All tables of `COST.md`, as plain data.
pub(crate) fn tables() -> Vec<Table> {
    vec![
        by_component(
            "A busy stack: full batches, 1 % of attempts fail, 2 KiB",
            &BUSY,
        ),
        by_component(
            "A quiet stack: batches of one, 1 % of attempts fail, 2 KiB",
            &QUIET,
        ),
        by(
            "By size of the body (busy, 1 % of attempts fail)",
            "body, KiB",
            [1.0, 4.0, 16.0, 63.0, 64.0, 256.0, 1000.0].map(|size| {
                (
                    format!("{size}"),
                    Workload {
                        body_bytes: size * 1024.0,
                        ..BUSY
                    },
                )
            }),
        ),
        by(
            "By share of attempts that fail (busy, 2 KiB)",
            "failing",
            [0.0, 0.01, 0.1, 0.3, 0.7, 1.0].map(|failing: f64| {
                let name = format!(
                    "{:.0} % ({:.1} % of events die)",
                    failing * 100.0,
                    failing.powi(10) * 100.0
                );
                (name, Workload { failing, ..BUSY })
            }),
        ),
        by(
            "By fullness of the batches (1 % of attempts fail, 2 KiB)",
            "messages per batch",
            [1.0, 2.0, 5.0, 10.0].map(|batch| (format!("{batch}"), Workload { batch, ..BUSY })),
        ),
        retries(),
        levers(),
        fixed(),
    ]
}

/// The tables of `COST.md`, as they stand between its markers.
pub(crate) fn markdown() -> String {
    let head = format!(
        "List prices of us-east-1 as of {AS_OF}; dollars per million events unless said otherwise.\n"
    );
    std::iter::once(head)
        .chain(tables().iter().map(Table::markdown))
        .collect::<Vec<_>>()
        .join("\n")
}

fn dollars(amount: f64) -> String {
    format!("{amount:.2}")
}

fn by_component(title: &str, workload: &Workload) -> Table {
    let bills = DESIGNS.map(|design| bill(&design, workload, &AS_SHIPPED));
    let mut table = Table::new(
        title,
        std::iter::once("component").chain(DESIGNS.map(|design| design.name)),
    );
    for (index, line) in bills[0].lines.iter().enumerate() {
        let costs = bills.iter().map(|bill| dollars(bill.lines[index].dollars));
        table.push(std::iter::once(line.component.to_owned()).chain(costs));
    }
    table.push(
        std::iter::once("**all**".to_owned()).chain(bills.iter().map(|bill| dollars(bill.total()))),
    );
    table
}

fn by<const ROWS: usize>(
    title: &str,
    what: &'static str,
    rows: [(String, Workload); ROWS],
) -> Table {
    let mut table = Table::new(
        title,
        std::iter::once(what).chain(DESIGNS.map(|design| design.name)),
    );
    for (name, workload) in rows {
        let totals = DESIGNS.map(|design| dollars(bill(&design, &workload, &AS_SHIPPED).total()));
        table.push(std::iter::once(name).chain(totals));
    }
    table
}

/// Table use of one dead event, by its number of receives.
fn retries() -> Table {
    let head = [
        "receives",
        "requests that write",
        "write units",
        "read units",
        "dollars per million dead events",
    ];
    let mut table = Table::new(
        "What an event that is never delivered takes of the table (2 KiB)",
        head,
    );
    for max_receives in [2, 4, 7, 10] {
        let setup = Setup {
            max_receives,
            ..AS_SHIPPED
        };
        let used = TableUse::of(
            &Workload {
                failing: 1.0,
                ..BUSY
            },
            &setup,
        );
        let cost = used.writes * setup.dollars_per_million_writes + used.reads * prices::READS;
        let requests = format!("{}", 2 * max_receives + 1);
        let (writes, reads) = (format!("{:.0}", used.writes), format!("{:.0}", used.reads));
        table.push([
            format!("{max_receives}"),
            requests,
            writes,
            reads,
            dollars(cost),
        ]);
    }
    table
}

fn levers() -> Table {
    let head = [
        "change",
        "busy saves",
        "quiet saves",
        "what it costs beside",
    ];
    let mut table = Table::new("What could be saved, one change at a time", head);
    for lever in LEVERS {
        let saves = |workload: &Workload| {
            let (design, changed, setup) = (lever.change)(RELAY, *workload, AS_SHIPPED);
            let saved = bill(&RELAY, workload, &AS_SHIPPED).total()
                - bill(&design, &changed, &setup).total();
            // No negative zero.
            dollars(if saved.abs() < 0.005 { 0.0 } else { saved })
        };
        table.push([
            lever.name.to_owned(),
            saves(&BUSY),
            saves(&QUIET),
            lever.price.to_owned(),
        ]);
    }
    table
}
