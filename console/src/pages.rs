//! The pages: HTML made on the server, which works without a script. Whatever is shown is escaped by `maud`.

pub(crate) mod archive;
pub(crate) mod breaker;
pub(crate) mod dead_letters;
pub(crate) mod events;
pub(crate) mod flow;
mod needs;
pub(crate) mod runs;

use std::fmt::Write as _;

use axum::http::StatusCode;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::functions::{Function, InvokeError};
use crate::gate::{LEAVE, TOKEN};
use crate::problem::Problem;
use crate::runs::Origin;
use crate::selection::{EVENT_ID, Fields};
use crate::server::Console;

/// Where the navigation leads.
const PLACES: [(&str, &str); 4] =
    [("/", "Flow"), ("/dead-letters", "Dead letters"), ("/archive", "Archive"), ("/runs", "Runs")];

/// The field of a form by which one that is sent twice is known.
const ONCE: &str = "once";

/// Longer names and reasons the relay refuses.
const MAX_TEXT: &str = "500";

impl Console {
    /// Asks a function, and reads its answer.
    async fn ask<T: DeserializeOwned>(&self, function: Function, request: Value) -> Result<T, Problem> {
        let answer = self.functions.invoke(function, request).await?;
        Ok(serde_json::from_value(answer).map_err(|error| InvokeError::Unanswered(error.into()))?)
    }

    /// The operator, and why they do what the form asks for.
    fn origin(&self, form: &Fields) -> Origin {
        Origin { by: self.by.clone(), why: form.get("why").map(str::to_owned) }
    }

    /// A page of this console; `current` is where the navigation stands.
    fn page(&self, title: &str, current: &str, content: &Markup) -> Markup {
        document(title, Some((self, current)), content)
    }

    /// A page that is different soon.
    fn changing_page(&self, title: &str, current: &str, content: &Markup) -> Markup {
        // For who has scripts switched off; the others keep their place on the page.
        let refresh = html! { noscript { meta http-equiv="refresh" content="2"; } };
        whole(title, Some((self, current)), &refresh, content)
    }

    /// What a form holds that starts a run.
    fn once(&self) -> Markup {
        html! { (self.token()) input type="hidden" name=(ONCE) value=(Uuid::new_v4().simple()); }
    }

    /// What every form holds.
    fn token(&self) -> Markup {
        html! { input type="hidden" name=(TOKEN) value=(self.gate.token()); }
    }
}

/// A whole page. One that stands alone shows nothing of a console.
pub(crate) fn document(title: &str, console: Option<(&Console, &str)>, content: &Markup) -> Markup {
    whole(title, console, &html! {}, content)
}

/// What a browser sees that was let in, until it is on the first page.
pub(crate) fn entered() -> Markup {
    let go_on = html! { meta http-equiv="refresh" content="0; url=/"; };
    whole("Welcome", None, &go_on, &html! { h1 { "Welcome" } p { a href="/" { "To the first page" } } })
}

/// What a browser sees whose session has ended.
pub(crate) fn left() -> Markup {
    let content = html! {
        h1 { "The session has ended" }
        p { "Press Enter where `cargo console` runs for a link that begins another one. What was started goes on." }
    };
    document("The session has ended", None, &content)
}

fn whole(title: &str, console: Option<(&Console, &str)>, head: &Markup, content: &Markup) -> Markup {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · genesys-relay" }
                link rel="stylesheet" href="/style.css";
                // An icon of its own would be asked for otherwise.
                link rel="icon" href="data:,";
                script src="/live.js" defer {}
                (head)
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    p.name { "genesys-relay" @if let Some((console, _)) = console { " " span.place { (console.place) } } }
                    nav aria-label="Pages" {
                        ul {
                            @for (path, name) in PLACES {
                                @let is_here = console.is_some_and(|(_, current)| current == path);
                                li { a href=(path) aria-current=[is_here.then_some("page")] { (name) } }
                            }
                        }
                    }
                    form.find action="/events" role="search" {
                        label for="find" { "Event" }
                        input #find name="id" placeholder="its id" required autocomplete="off" spellcheck="false";
                        button { "Show" }
                    }
                    @if let Some((console, _)) = console {
                        form.leave method="post" action=(LEAVE) { (console.token()) button { "End session" } }
                    }
                }
                main #content tabindex="-1" { (content) }
                p #stale role="status" {}
            }
        }
    };
    PreEscaped(with_visible_controls(&page.into_string()))
}

/// Characters that turn the direction of a text, and so make it read as another one (Unicode, `Bidi_Control`).
fn turns_text(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The page with such characters as the escapes that JSON has for them. What stands in a tag goes back as it came.
fn with_visible_controls(page: &str) -> String {
    let (mut visible, mut in_tag) = (String::with_capacity(page.len()), false);
    for character in page.chars() {
        match character {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ => {}
        }
        if turns_text(character) && !in_tag {
            // Into a text, which takes all.
            let _ = write!(visible, "\\u{:04x}", u32::from(character));
        } else {
            visible.push(character);
        }
    }
    visible
}

/// The answer to what is none of the pages.
pub(crate) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "No such page", "The navigation leads to those that there are.")
}

/// A time, to the second.
fn time(time: Timestamp) -> Markup {
    html! { time datetime=(time) { (time.strftime("%Y-%m-%d %H:%M:%S")) " UTC" } }
}

/// A time span, as long as it is.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A line of text that says why. It stands on the record of each event.
fn why_field(is_required: bool) -> Markup {
    why_field_with(is_required, "")
}

fn why_field_with(is_required: bool, why: &str) -> Markup {
    html! {
        p {
            label {
                "Why" @if !is_required { " (if you like)" } " "
                input name="why" value=(why) maxlength=(MAX_TEXT) required[is_required] autocomplete="off";
            }
        }
    }
}

/// The way to an event, by its id.
fn event_link(id: &str) -> Markup {
    html! { a.id href={ "/events/" (id) } { (id) } }
}

/// Names events to the next page.
fn hidden_ids(ids: &[String]) -> Markup {
    html! { @for id in ids { input type="hidden" name=(EVENT_ID) value=(id); } }
}

/// What went wrong, one by one.
fn failures(failed: &[crate::answers::Failed], failures: u64) -> Markup {
    html! {
        @if failures > 0 {
            h2 { "Not done: " (failures) }
            @if failures > failed.len() as u64 { p { "The first " (failed.len()) " of them:" } }
            table {
                thead { tr { th scope="col" { "Event" } th scope="col" { "Where it is" } th scope="col" { "What happened" } } }
                tbody {
                    @for one in failed {
                        tr {
                            td { @match &one.event_id { Some(id) => (event_link(id)), None => "all" } }
                            td { (one.state.as_deref().unwrap_or("not known")) }
                            td { (one.error) }
                        }
                    }
                }
            }
        }
    }
}
