//! The log of webhook deliveries, as the tutorials have it. It is not in the public API of Genesys
//! Cloud.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    answer::{Page, Refusal},
    call::Call,
};

const PARAMETERS: [&str; 5] = ["status", "startDate", "endDate", "pageSize", "pageNumber"];

/// All that has been logged.
#[derive(Debug, Default)]
pub(super) struct Deliveries(Vec<Value>);

impl Deliveries {
    pub(super) fn add(&mut self, entity: Value) {
        self.0.push(entity);
    }

    pub(super) fn answer(&self, webhook_id: &str, call: &Call) -> Result<Value, Refusal> {
        call.check_query(&PARAMETERS)?;
        let status = call.parameter("status", |status| Some(status.to_owned()))?;
        let date = |name| call.parameter(name, |text| text.parse::<Timestamp>().ok());
        let (start, end) = (date("startDate")?, date("endDate")?);
        let number = |name| call.parameter(name, |text| text.parse().ok());
        let page = Page::new(number("pageSize")?, number("pageNumber")?)?;

        // What is missing or unreadable keeps an entity from no answer.
        let is = |entity: &Value, field: &str, wanted: &str| {
            entity[field].as_str().is_none_or(|value| value == wanted)
        };
        let inside = |time: Timestamp| {
            start.is_none_or(|start| start <= time) && end.is_none_or(|end| time < end)
        };
        let matches = |entity: &&Value| {
            is(entity, "webhookId", webhook_id)
                && status
                    .as_deref()
                    .is_none_or(|status| is(entity, "status", status))
                && time(entity).is_none_or(inside)
        };
        let mut found: Vec<_> = self.0.iter().filter(matches).collect();
        found.sort_by_key(|entity| time(entity));
        let total = found.len();
        Ok(json!({
            "entities": page.of(found), "pageSize": page.size, "pageNumber": page.number,
            "pageCount": total.div_ceil(page.size), "total": total,
        }))
    }
}

fn time(entity: &Value) -> Option<Timestamp> {
    entity["timestamp"].as_str()?.parse().ok()
}
