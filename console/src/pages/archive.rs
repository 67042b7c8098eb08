//! The archive: forms that archive old dead letters and restore archived objects.

use std::sync::Arc;

use axum::extract::State;
use genesys_relay::dead_letters::api::{DEFAULT_AGE_DAYS, MAX_AGE_DAYS};
use maud::{Markup, html};

use super::elements::why_field;
use crate::functions::Function;
use crate::state::Console;

/// `GET /archive`
pub(crate) async fn show(State(console): State<Arc<Console>>) -> Markup {
    let archive = html! {
        label.field {
            span { "Older than (days)" }
            input #days name="olderThanDays" type="number" min="0" max=(MAX_AGE_DAYS) value=(DEFAULT_AGE_DAYS) required;
        }
        (why_field(false, ""))
        p.buttons { button name="action" value="archive" { "Archive" } }
    };
    let restore = html! {
        label.field {
            span { "Object key" }
            input #key name="key" required placeholder="dead-letters/2026/01/25/…/part-0001.jsonl.gz" autocomplete="off" spellcheck="false";
        }
        (why_field(false, ""))
        p.buttons { button name="action" value="restore" { "Restore" } }
    };
    let content = html! {
        h1 { "Archive" }
        p { "SQS deletes a dead letter 14 days after its event was sent. The relay archives old dead letters automatically, twice a day." }
        section aria-labelledby="archive-title" {
            h2 #archive-title { "Archive now" }
            form method="post" action="/runs" {
                (console.run_fields())
                (console.acting(Function::Replay, &archive))
            }
        }
        section aria-labelledby="restore-title" {
            h2 #restore-title { "Restore" }
            p { "Sends the messages of one object back to the dead-letter queue, byte for byte. The page of an archived event shows the object's key, and so does the run that wrote it." }
            form method="post" action="/runs" {
                (console.run_fields())
                (console.acting(Function::Replay, &restore))
            }
        }
    };
    console.page("Archive", "/archive", &content)
}
