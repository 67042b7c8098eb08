//! The document around every page: head, navigation and the session's button.

use std::fmt::Write as _;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Links of the navigation.
const NAVIGATION: [(&str, &str); 7] = [
    ("/", "Flow"),
    ("/dead-letters", "Dead letters"),
    ("/resend", "Send again"),
    ("/archive", "Archive"),
    ("/runs", "Runs"),
    ("/statements", "Statements"),
    ("/check", "Check"),
];

/// The path that ends the session.
pub(crate) const LEAVE: &str = "/leave";

/// The form field that holds the session's token.
pub(crate) const TOKEN: &str = "token";

/// The part of a page's header that only a signed-in browser sees.
pub(crate) struct Header<'a> {
    /// Name of the relay.
    pub(crate) place: &'a str,
    /// Path that the navigation marks.
    pub(crate) current: &'a str,
    /// Token of the session.
    pub(crate) token: &'a str,
    /// End of the session, if it is not used until then.
    pub(crate) ends_at: Timestamp,
}

/// Renders a whole page. Without a header it shows nothing of the relay; `head` goes into the HTML
/// head.
pub(crate) fn document(
    title: &str,
    header: Option<&Header<'_>>,
    head: &Markup,
    content: &Markup,
) -> Markup {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · genesys-relay" }
                link rel="stylesheet" href="/style.css";
                // Without this, browsers request /favicon.ico.
                link rel="icon" href="data:,";
                script src="/live.js" defer {}
                (head)
            }
            body {
                a.skip href="#content" { "Skip to content" }
                header {
                    p.name { "genesys-relay" @if let Some(header) = header { " " span.place { (header.place) } } }
                    @if let Some(header) = header {
                        form.leave method="post" action=(LEAVE) {
                            (token_field(header.token))
                            small { "Session ends at " (header.ends_at.strftime("%H:%M")) " UTC if unused" } " "
                            button { "End session" }
                        }
                    }
                    nav aria-label="Pages" {
                        ul {
                            @for (path, name) in NAVIGATION {
                                @let is_current = header.is_some_and(|header| header.current == path);
                                li { a href=(path) aria-current=[is_current.then_some("page")] { (name) } }
                            }
                        }
                    }
                    form.find action="/find" role="search" {
                        label for="find" { "Event or conversation" }
                        input #find name="id" placeholder="id" required autocomplete="off" spellcheck="false";
                        button { "Find" }
                    }
                }
                main #content tabindex="-1" { (content) }
                p #stale role="status" {}
            }
        }
    };
    PreEscaped(escape_bidi_controls(&page.into_string()))
}

/// The hidden form field with the session's token.
pub(crate) fn token_field(token: &str) -> Markup {
    html! { input type="hidden" name=(TOKEN) value=(token); }
}

/// Returns whether a character changes the direction of text, and so can make it read as another
/// (Unicode, `Bidi_Control`).
fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces such characters by JSON's escapes, but not inside tags: fields of forms go back
/// unchanged.
fn escape_bidi_controls(page: &str) -> String {
    let (mut escaped, mut in_tag) = (String::with_capacity(page.len()), false);
    for character in page.chars() {
        match character {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ => {}
        }
        if is_bidi_control(character) && !in_tag {
            // Writing to a `String` cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}
