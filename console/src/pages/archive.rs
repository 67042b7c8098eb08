//! The archive: old dead letters go there, and come back from it.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::elements::why_field;
use crate::state::Console;

/// As the replay function has it.
const DEFAULT_DAYS: u32 = 10;
const MOST_DAYS: u32 = 13;

/// `GET /archive`
pub(crate) async fn show(State(console): State<Arc<Console>>) -> Markup {
    let content = html! {
        h1 { "Archive" }
        p { "SQS drops a dead letter 14 days after its event was sent. Twice a day the relay archives older ones by itself." }
        section aria-labelledby="archive-title" {
            h2 #archive-title { "Archive now" }
            form method="post" action="/runs" {
                (console.run_fields())
                p {
                    label for="days" { "What is older than so many days" }
                    input #days name="olderThanDays" type="number" min="0" max=(MOST_DAYS) value=(DEFAULT_DAYS) required;
                }
                (why_field(false))
                p.buttons { button name="action" value="archive" { "Archive" } }
            }
        }
        section aria-labelledby="restore-title" {
            h2 #restore-title { "Restore" }
            p { "Brings one object back into the dead-letter queue, byte for byte. An archived event's page tells the key, and so does the run that has written it." }
            form method="post" action="/runs" {
                (console.run_fields())
                p {
                    label for="key" { "Key of the object" }
                    input #key name="key" required placeholder="dead-letters/2026/01/25/…/part-0001.jsonl.gz" autocomplete="off" spellcheck="false";
                }
                (why_field(false))
                p.buttons { button name="action" value="restore" { "Restore" } }
            }
        }
    };
    console.page("Archive", "/archive", &content)
}
