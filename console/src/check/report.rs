//! The report of all checks, for people and for programs.

use std::fmt;
use std::time::Duration;

use genesys_relay::check::{Check, CheckOutcome};
use serde::Serialize;

use crate::aws::Place;

/// All checks of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the stack.
    pub stack: String,
    pub checks: Vec<Check>,
    /// Duration of the whole run, in milliseconds.
    pub took_ms: u64,
}

impl Report {
    pub(super) fn new(place: &Place, checks: Vec<Check>, took: Duration) -> Self {
        Self {
            stack: place.stack.clone(),
            checks,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Number of checks with this outcome.
    pub fn count(&self, outcome: CheckOutcome) -> usize {
        let of_outcome = |check: &&Check| check.outcome == outcome;
        self.checks.iter().filter(of_outcome).count()
    }

    /// Exit code of the program: 1 if a check failed, else 2 if a permission is missing, else 0.
    pub fn exit_code(&self) -> u8 {
        match (
            self.count(CheckOutcome::Failed),
            self.count(CheckOutcome::NotAllowed),
        ) {
            (0, 0) => 0,
            (0, _) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Report {
    /// One line for each check, then the sum.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.checks.iter().map(|check| check.name.len());
        let width = widths.max().unwrap_or_default();
        for check in &self.checks {
            let (outcome, name) = (check.outcome.as_str(), &check.name);
            let took = check.latency_ms.map(|latency| format!("{latency} ms"));
            let took = took.unwrap_or_default();
            write!(formatter, "{outcome:<11}  {name:<width$}  {took:>8}  ")?;
            if check.outcome == CheckOutcome::NotAllowed {
                write!(formatter, "you lack ")?;
            }
            write!(formatter, "{}", check.evidence)?;
            if let Some(runbook) = &check.runbook {
                write!(formatter, "\n{:13}see docs/{runbook}", "")?;
            }
            writeln!(formatter)?;
        }
        let seconds = Duration::from_millis(self.took_ms).as_secs_f64();
        writeln!(
            formatter,
            "\n{}: {} ok, {} failed, {} not here, {} not allowed, in {seconds:.1} s",
            self.stack,
            self.count(CheckOutcome::Ok),
            self.count(CheckOutcome::Failed),
            self.count(CheckOutcome::NotHere),
            self.count(CheckOutcome::NotAllowed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checks: Vec<Check>) -> Report {
        Report {
            stack: "relay".to_owned(),
            checks,
            took_ms: 1234,
        }
    }

    #[test]
    fn failure_outranks_a_missing_permission() {
        let (ok, absent) = (Check::ok("a", ""), Check::not_here("b", ""));
        let denied = Check::not_allowed("c", "iam:GetRolePolicy");
        let failed = Check::failed("d", "", "operate/check.md");
        assert_eq!(report(vec![ok, absent]).exit_code(), 0);
        assert_eq!(report(vec![denied.clone()]).exit_code(), 2);
        assert_eq!(report(vec![denied, failed]).exit_code(), 1);
    }

    #[test]
    fn people_read_outcome_name_evidence_and_runbook() {
        let checks = vec![
            Check::ok("stack", "UPDATE_COMPLETE").took(Duration::from_millis(12)),
            Check::failed(
                "target-name",
                "no address",
                "operate/runbooks/target-down.md",
            ),
            Check::not_allowed("role-ingest", "iam:GetRolePolicy"),
        ];
        let text = report(checks).to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ok           stack           12 ms  UPDATE_COMPLETE"
        );
        assert_eq!(
            lines[2],
            "             see docs/operate/runbooks/target-down.md"
        );
        assert!(lines[3].ends_with("you lack iam:GetRolePolicy"), "{text}");
        assert_eq!(
            lines[5],
            "relay: 1 ok, 1 failed, 0 not here, 1 not allowed, in 1.2 s"
        );
    }
}
