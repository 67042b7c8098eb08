//! The first page: the path of an event from left to right, and the problems that need attention.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use genesys_relay::dead_letters::api::{
    AttemptsOfMinute, CanaryStatus, DeadLetter, List, ListRequest, RequestBody, Status,
};
use genesys_relay::domain::canary::CanaryRun;
use jiff::Timestamp;
use maud::{Markup, html};
use tokio::time::Instant;

use super::elements::{age, depth, table, time};
use super::{breaker, needs, order};
use crate::functions::Function;
use crate::problem::Problem;
use crate::state::Console;

/// Height of the chart and width of a bar, in the chart's units.
const CHART_HEIGHT: u64 = 60;
const BAR: usize = 20;

/// Seconds between two refreshes of the page. Each refresh makes the relay read its counts.
const LOOK_SECONDS: u32 = 5;

/// Dead letters that the page groups by reason: one page of the list.
const LISTED: u32 = 100;

/// Age at which that list is read again although the number of dead letters is the same.
const LIST_AGE: Duration = Duration::from_mins(1);

/// `GET /`
pub(crate) async fn show(State(console): State<Arc<Console>>) -> Result<Markup, Problem> {
    let status: Status = console.look(RequestBody::Status).await?;
    let dead = match status.dead_letters.total() {
        0 => Vec::new(),
        count => first_dead_letters(&console, count).await,
    };
    let content = html! {
        h1 { "Flow" }
        div #needs data-live=(LOOK_SECONDS) { (needs::section(&status, &dead)) }
        @if let Some(order) = &status.order { div #waiting data-live=(LOOK_SECONDS) { (order::waiting(order)) } }
        div #stations data-live=(LOOK_SECONDS) { (stations(&status)) }
        div #attempts data-live=(LOOK_SECONDS) { (attempts(&status.attempts)) }
        @if let Some(of_stack) = &status.canary { div #canary data-live=(LOOK_SECONDS) { (canary(of_stack)) } }
        (breaker::section(&console, &status, LOOK_SECONDS))
        div #running data-live=(LOOK_SECONDS) { (running(&console, &status)) }
        p.taken #taken data-live=(LOOK_SECONDS) { "As of " (time(Timestamp::now())) ". " a href="/" { "Refresh" } }
    };
    Ok(console.page("Flow", "/", &content))
}

/// The dead letters that the page listed last.
pub(crate) struct Listed {
    /// Messages in the dead-letter queue at that time.
    count: u64,
    at: Instant,
    items: Vec<DeadLetter>,
}

/// Lists the first dead letters: again if their number has changed, and after a minute, since each
/// list is a line in the audit log. On an error the list is empty: the page works without it.
async fn first_dead_letters(console: &Console, count: u64) -> Vec<DeadLetter> {
    let is_current = |listed: &&Listed| listed.count == count && listed.at.elapsed() < LIST_AGE;
    if let Some(listed) = console.listed.lock().as_ref().filter(is_current) {
        return listed.items.clone();
    }
    let first = ListRequest {
        limit: Some(LISTED),
        ..ListRequest::default()
    };
    let list: Result<List, _> = console.look(RequestBody::List(first)).await;
    let Ok(List { items, .. }) = list else {
        return Vec::new();
    };
    *console.listed.lock() = Some(Listed {
        count,
        at: Instant::now(),
        items: items.clone(),
    });
    items
}

fn stations(status: &Status) -> Markup {
    let rate = |count: fn(&AttemptsOfMinute) -> u64| status.attempts.get(1).map_or(0, count);
    html! {
        ol.flow aria-label="Path of an event" {
            li {
                h3 { "Events queue" }
                p.count { (status.queue.total()) }
                (depth(status.queue, "in flight (including backoff)"))
                p { "Oldest: " @match status.queue_age_seconds { Some(seconds) => (age(seconds)), None => "unknown" } }
                @if let Some(order) = &status.order { (order::queue(order)) }
            }
            li {
                h3 { "Breaker" }
                p.count { (breaker::name(status)) }
                p { (breaker::meaning(status)) }
            }
            li {
                h3 { "Your system" }
                p.count { (rate(|minute| minute.delivered)) span.unit { " per minute" } }
                p { "delivered in the last full minute" }
                p { (rate(|minute| minute.failed)) " failed attempts per minute" }
                @if let Some(most) = status.target_rate_per_second {
                    p { (per_second(rate(AttemptsOfMinute::total))) " of at most " (most) " requests per second" }
                }
            }
            li.dead {
                h3 { a href="/dead-letters" { "Dead letters" } }
                p.count { (status.dead_letters.total()) }
                (depth(status.dead_letters, "in flight"))
                p { "Oldest: " @match status.dead_letters_age_seconds { Some(seconds) => (age(seconds)), None => "none" } }
                @if let Some(order) = &status.order { (order::dead_letters(order)) }
            }
        }
    }
}

/// The average rate of a minute, to a tenth.
fn per_second(in_a_minute: u64) -> String {
    let tenths = in_a_minute.div_ceil(6);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A chart and a table of the attempts in the last minutes.
fn attempts(minutes: &[AttemptsOfMinute]) -> Markup {
    let totals = minutes.iter().map(AttemptsOfMinute::total);
    let most = totals.max().unwrap_or_default().max(1);
    let height = |count: u64| count * CHART_HEIGHT / most;
    let rows = html! {
        @for minute in minutes {
            tr { td { (minute.minute.strftime("%H:%M")) } td.number { (minute.delivered) } td.number { (minute.failed) } }
        }
    };
    html! {
        section aria-labelledby="attempts-title" {
            h2 #attempts-title { "Attempts in the last " (minutes.len()) " minutes" }
            p.legend { span.delivered { "Delivered" } " (below) and " span.failed { "failed" } " (on top, striped); highest: " (most) " per minute" }
            svg.chart viewBox={ "0 0 " (minutes.len() * BAR) " " (CHART_HEIGHT) } preserveAspectRatio="none" aria-hidden="true" {
                defs {
                    pattern #stripes width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                        rect.failed width="4" height="4" {}
                        rect.stripe width="2" height="4" {}
                    }
                }
                @for (place, minute) in minutes.iter().rev().enumerate() {
                    @let (delivered, failed) = (height(minute.delivered), height(minute.failed));
                    rect.delivered x=(place * BAR + 2) y=(CHART_HEIGHT - delivered) width=(BAR - 4) height=(delivered) {}
                    rect fill="url(#stripes)" x=(place * BAR + 2) y=(CHART_HEIGHT - delivered - failed) width=(BAR - 4) height=(failed) {}
                }
            }
            @if let (Some(newest), Some(oldest)) = (minutes.first(), minutes.last()) {
                p.axis {
                    span { (oldest.minute.strftime("%H:%M")) } span { (newest.minute.strftime("%H:%M")) " UTC" }
                }
            }
            details {
                summary { "Show numbers" }
                (table("Attempts", "Minute (UTC) | Delivered | Failed", &rows))
            }
        }
    }
}

/// The newest runs of the canary as a strip, the oldest at the left.
fn canary(canary: &CanaryStatus) -> Markup {
    let word = |run: &CanaryRun| if run.ok { "ok" } else { "failed" };
    html! {
        section aria-labelledby="canary-title" {
            h2 #canary-title { "Canary, every " (canary.minutes) " minutes" }
            @match canary.runs.last() {
                None => p { "No run yet." },
                Some(newest) => {
                    p {
                        "Newest run: " (word(newest)) ", " (time(newest.at)) ", " (newest.ms) " ms"
                        @if let Some(failed) = &newest.failed { ": " (failed) }
                    }
                }
            }
            ol.strip aria-label="Runs of the canary" {
                @for run in &canary.runs {
                    @let about = run.failed.as_deref().unwrap_or("ok");
                    li class=(word(run)) title={ (run.at.strftime("%H:%M")) " UTC: " (about) } { @if run.ok { "✓" } @else { "✗" } }
                }
            }
        }
    }
}

/// The run or redrive that currently takes from the dead-letter queue.
fn running(console: &Console, status: &Status) -> Markup {
    html! {
        @if let Some(run) = &status.run {
            p { "Running on the dead letters: " (run.action) " by " (run.by) ", since " (time(run.since)) ". Its lease ends at " (time(run.until)) "." }
        }
        @if let Some(task) = status.move_task.as_ref().filter(|task| task.is_active()) {
            form method="post" action="/move-task/cancel" {
                (console.token_field())
                p {
                    "SQS redrive in progress: " (task.moved) @if let Some(all) = task.to_move { " of " (all) } " moved"
                    @if let Some(asked) = &status.bulk_replay {
                        ", requested by " (asked.by) " at " (time(asked.at)) @if let Some(why) = &asked.why { ": " (why) }
                    }
                    ". "
                }
                (console.acting(Function::Replay, &html! { button { "Cancel redrive" } }))
            }
        }
    }
}
