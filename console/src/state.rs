//! State that the handlers of all pages share.

use std::sync::Arc;

use genesys_relay::domain::request::Requester;
use maud::{Markup, html};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::form::Fields;
use crate::functions::{Function, Functions};
use crate::gate::Gate;
use crate::layout::{Header, document, token_field};
use crate::problem::Problem;
use crate::runs::Runs;

/// The form field that identifies one form, so that sending it twice starts one run.
pub(crate) const ONCE: &str = "once";

/// State of one running console.
pub(crate) struct Console {
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) runs: Runs,
    /// Name of the relay, as every page shows it.
    pub(crate) place: String,
    /// Name of the operator in the audit log.
    pub(crate) by: String,
}

impl Console {
    /// Invokes the replay function and reads its answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        request: impl Serialize,
    ) -> Result<T, Problem> {
        Ok(self.functions.ask(Function::Replay, request).await?)
    }

    /// The operator, with the reason that the form gives.
    pub(crate) fn requester(&self, form: &Fields) -> Requester {
        Requester {
            by: self.by.clone(),
            why: form.get("why").map(str::to_owned),
        }
    }

    /// Renders a page; `current` is the path that the navigation marks.
    pub(crate) fn page(&self, title: &str, current: &str, content: &Markup) -> Markup {
        self.document(title, current, &html! {}, content)
    }

    /// Renders a page that reloads itself where scripts are switched off.
    pub(crate) fn changing_page(&self, title: &str, current: &str, content: &Markup) -> Markup {
        // With scripts, `live.js` updates the page in place.
        let refresh = html! { noscript { meta http-equiv="refresh" content="2"; } };
        self.document(title, current, &refresh, content)
    }

    fn document(&self, title: &str, current: &str, head: &Markup, content: &Markup) -> Markup {
        let header = Header {
            place: &self.place,
            current,
            token: &self.gate.token(),
            ends_at: self.gate.ends_at(),
        };
        document(title, Some(&header), head, content)
    }

    /// The hidden fields of a form that starts a run.
    pub(crate) fn run_fields(&self) -> Markup {
        html! { (self.token_field()) input type="hidden" name=(ONCE) value=(Uuid::new_v4().simple()); }
    }

    /// The hidden field of every form.
    pub(crate) fn token_field(&self) -> Markup {
        token_field(&self.gate.token())
    }
}
