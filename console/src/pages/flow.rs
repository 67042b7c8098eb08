//! The first page: what flows, from left to right, and what needs somebody.

use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::json;

use super::{age, breaker, needs, time};
use crate::answers::{Attempts, DeadLetter, Depth, List, Status};
use crate::functions::Function;
use crate::problem::Problem;
use crate::server::Console;

/// The chart, in its own units.
const CHART_HEIGHT: u64 = 60;
const BAR: usize = 20;

/// The page asks for itself every so many seconds. Each time, the relay reads its counts.
const LOOK_SECONDS: u32 = 5;

/// So many dead letters are looked at to say what they are: one call, of one page.
const LISTED: u32 = 100;

/// `GET /`
pub(crate) async fn show(State(console): State<Arc<Console>>) -> Result<Markup, Problem> {
    let status: Status = console.ask(Function::Replay, json!({ "action": "status" })).await?;
    let dead = match status.dead_letters.total() {
        0 => Vec::new(),
        _ => some_dead_letters(&console).await,
    };
    let content = html! {
        h1 { "Flow" }
        div #needs data-live=(LOOK_SECONDS) { (needs::section(&status, &dead)) }
        div #stations data-live=(LOOK_SECONDS) { (stations(&status)) }
        div #attempts data-live=(LOOK_SECONDS) { (attempts(&status.attempts)) }
        (breaker::section(&console, &status, LOOK_SECONDS))
        div #at-work data-live=(LOOK_SECONDS) { (at_work(&console, &status)) }
        p.taken #taken data-live=(LOOK_SECONDS) { "As of " (time(Timestamp::now())) ". " a href="/" { "Look again" } }
    };
    Ok(console.page("Flow", "/", &content))
}

/// What the first dead letters are, where that can be had: the page goes without it.
async fn some_dead_letters(console: &Console) -> Vec<DeadLetter> {
    let list = console.ask::<List>(Function::Replay, json!({ "action": "list", "limit": LISTED })).await;
    list.map_or_else(|_| Vec::new(), |list| list.items)
}

fn stations(status: &Status) -> Markup {
    let rate = |count: fn(&Attempts) -> u64| status.attempts.get(1).map_or(0, count);
    html! {
        ol.flow aria-label="The way of an event" {
            li {
                h3 { "Events queue" }
                p.count { (status.queue.total()) }
                (depth(&status.queue, "in hand or in backoff"))
                p { "Oldest: " @match status.queue_age_seconds { Some(seconds) => (age(seconds)), None => "not known" } }
            }
            li {
                h3 { "Breaker" }
                p.count { (breaker::name(status)) }
                p { (breaker::meaning(status)) }
            }
            li {
                h3 { "Your system" }
                p.count { (rate(|minute| minute.delivered)) span.unit { " a minute" } }
                p { "delivered, in the last whole minute" }
                p { (rate(|minute| minute.failed)) " attempts a minute failed" }
            }
            li.dead {
                h3 { a href="/dead-letters" { "Dead letters" } }
                p.count { (status.dead_letters.total()) }
                (depth(&status.dead_letters, "in hand"))
                p { "Oldest: " @match status.dead_letters_age_seconds { Some(seconds) => (age(seconds)), None => "none" } }
            }
        }
    }
}

fn depth(depth: &Depth, hidden: &str) -> Markup {
    html! {
        p {
            (depth.visible) " waiting, " (depth.in_flight) " " (hidden)
            @if depth.delayed > 0 { ", " (depth.delayed) " delayed" }
        }
    }
}

/// The attempts of the last minutes, as a picture and in numbers.
fn attempts(minutes: &[Attempts]) -> Markup {
    let most = minutes.iter().map(Attempts::total).max().unwrap_or_default().max(1);
    let height = |count: u64| count * CHART_HEIGHT / most;
    html! {
        section aria-labelledby="attempts-title" {
            h2 #attempts-title { "Attempts of the last " (minutes.len()) " minutes" }
            p.legend { span.delivered { "delivered" } " below, " span.failed { "failed" } " (striped) on top; at most " (most) " a minute" }
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
                summary { "In numbers" }
                table {
                    thead { tr { th scope="col" { "Minute (UTC)" } th scope="col" { "Delivered" } th scope="col" { "Failed" } } }
                    tbody {
                        @for minute in minutes {
                            tr { td { (minute.minute.strftime("%H:%M")) } td { (minute.delivered) } td { (minute.failed) } }
                        }
                    }
                }
            }
        }
    }
}

/// Who takes from the dead letters now.
fn at_work(console: &Console, status: &Status) -> Markup {
    html! {
        @if let Some(run) = &status.run {
            p { "At work on the dead letters: " (run.action) " of " (run.by) ", since " (time(run.since)) ", until " (time(run.until)) " at the latest." }
        }
        @if let Some(task) = status.move_task.as_ref().filter(|task| task.is_active()) {
            form method="post" action="/move-task/cancel" {
                (console.token())
                p {
                    "SQS moves dead letters back: " (task.moved) @if let Some(all) = task.to_move { " of " (all) }
                    @if let Some(asked) = &status.bulk_replay {
                        ", asked for by " (asked.by) " at " (time(asked.at)) @if let Some(why) = &asked.why { ": " (why) }
                    }
                    ". "
                    button { "Cancel the move" }
                }
            }
        }
    }
}
