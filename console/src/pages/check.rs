//! The check of the deployment: reads everything, and changes nothing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Redirect;
use genesys_relay::check::{Check, CheckOutcome};
use jiff::Timestamp;
use maud::{Markup, html};

use super::elements::time;
use crate::check::{Options, Report};
use crate::problem::Problem;
use crate::state::Console;

const PATH: &str = "/check";

/// Order on the page: what needs attention comes first.
const ORDER: [CheckOutcome; 4] = [
    CheckOutcome::Failed,
    CheckOutcome::NotAllowed,
    CheckOutcome::Ok,
    CheckOutcome::NotHere,
];

/// A report, and the time of its end.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    at: Timestamp,
    report: Report,
}

/// `GET /check`
pub(crate) async fn show(State(console): State<Arc<Console>>) -> Markup {
    let checked = console.checked.lock().clone();
    let content = html! {
        h1 { "Check" }
        p { "Reads what is deployed, on AWS and in Genesys Cloud, and compares it with the template. It changes nothing and sends nothing. It takes at most two minutes." }
        form method="post" action=(PATH) {
            (console.token_field())
            p.buttons { button { "Check now" } }
        }
        @match &checked {
            None => p { "No check has run yet." },
            Some(Checked { at, report }) => {
                p { "Checked at " (time(*at)) "." }
                (table(report))
                p { "To send a synthetic event the whole way as well: " code { "cargo relay check --send" } }
            }
        }
    };
    console.page("Check", PATH, &content)
}

/// `POST /check`
pub(crate) async fn run(State(console): State<Arc<Console>>) -> Result<Redirect, Problem> {
    let checks = console.checks.clone();
    let checks =
        checks.ok_or_else(|| Problem::invalid("this console was started without checks"))?;
    let report = checks.run(Options::default()).await;
    let report = report.map_err(|error| {
        Problem::new(
            StatusCode::BAD_GATEWAY,
            "The check could not run",
            format!("{error:#}"),
        )
    })?;
    let at = Timestamp::now();
    *console.checked.lock() = Some(Checked { at, report });
    Ok(Redirect::to(PATH))
}

fn table(report: &Report) -> Markup {
    let of = |outcome: CheckOutcome| {
        let checks = report.checks.iter();
        checks.filter(move |check| check.outcome == outcome)
    };
    html! {
        p { @for outcome in ORDER { (report.count(outcome)) " " (outcome) ". " } }
        table {
            thead { tr { th scope="col" { "Outcome" } th scope="col" { "Check" } th scope="col" { "Evidence" } } }
            tbody { @for check in ORDER.into_iter().flat_map(of) { (row(check)) } }
        }
    }
}

fn row(check: &Check) -> Markup {
    html! {
        tr {
            td { span.dead[check.is_failed()] { (check.outcome) } }
            td { (check.name) }
            td {
                @if check.outcome == CheckOutcome::NotAllowed { "You lack " }
                (check.evidence)
                @if let Some(runbook) = &check.runbook { ". " small { "See " code { "docs/" (runbook) } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_first_with_their_page_and_without_markup() {
        let checks = vec![
            Check::ok("stack", "UPDATE_COMPLETE"),
            Check::not_allowed("role-ingest", "iam:GetRolePolicy"),
            Check::failed("secret", "<b>", "operate/runbooks/wrong-secret.md"),
        ];
        let page = table(&Report {
            stack: "relay".to_owned(),
            checks,
            took_ms: 1,
        });
        let page = page.into_string();
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
        assert!(place("secret") < place("You lack iam:GetRolePolicy"));
        assert!(place("role-ingest") < place("UPDATE_COMPLETE"));
        place("&lt;b&gt;. <small>See <code>docs/operate/runbooks/wrong-secret.md");
        place("1 failed. 1 not allowed. 1 ok. 0 not here.");
    }
}
