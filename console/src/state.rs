//! State that the handlers of all pages share.

use std::sync::Arc;

use maud::{Markup, html};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::check::Checks;
use crate::functions::Function;
use crate::gate::Gate;
use crate::layout::{Header, document, token_field};
use crate::lock::Lock;
use crate::pages::check::Checked;
use crate::pages::flow::Listed;
use crate::problem::Problem;
use crate::relay::Relay;
use crate::runs::Runs;

/// The form field with the name of the run that a form starts, so that sending it twice starts one.
pub(crate) const ONCE: &str = "once";

/// State of one running console.
pub(crate) struct Console {
    pub(crate) relay: Arc<Relay>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) runs: Runs,
    /// Name of the relay, as every page shows it.
    pub(crate) place: String,
    /// The dead letters of the first page.
    pub(crate) listed: Lock<Option<Listed>>,
    /// The checks of the deployment, where this console can make them.
    pub(crate) checks: Option<Checks>,
    /// The last report.
    pub(crate) checked: Lock<Option<Checked>>,
}

impl Console {
    /// Sends a request that changes nothing, and reads its answer.
    pub(crate) async fn look<T: DeserializeOwned>(
        &self,
        request: impl Serialize,
    ) -> Result<T, Problem> {
        Ok(self.relay.look(request).await?)
    }

    /// Renders the part of a form that changes something: greyed out, with the reason, where IAM
    /// does not let the operator invoke the function that carries it out.
    pub(crate) fn acting(&self, function: Function, fields: &Markup) -> Markup {
        match self.relay.denial(function) {
            None => html! { (fields) },
            Some(reason) => html! {
                fieldset.acting disabled { (fields) }
                p.taken { "You may look, but not do this: " (reason) ". Start the console again once you have the permission." }
            },
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
        self.named_run_fields(&Uuid::new_v4().simple().to_string())
    }

    /// The hidden fields of a form that starts a run with this name.
    pub(crate) fn named_run_fields(&self, name: &str) -> Markup {
        html! { (self.token_field()) input type="hidden" name=(ONCE) value=(name); }
    }

    /// The hidden field of every form.
    pub(crate) fn token_field(&self) -> Markup {
        token_field(&self.gate.token())
    }
}
