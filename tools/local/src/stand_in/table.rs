//! A table that holds its writers to their conditions, and forgets what is old.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::Value;

const KEY: &str = "event_id";

/// Items beyond this are forgotten, the oldest first: more than any test comes back to.
const REMEMBERED: usize = 1000;

/// The newest items, and how many there were of each state.
#[derive(Debug, Default)]
pub(super) struct Table {
    items: HashMap<String, Value>,
    order: VecDeque<String>,
    written: BTreeMap<String, usize>,
}

impl Table {
    pub(super) fn get(&self, request: &Value) -> Option<&Value> {
        self.items.get(request["Key"][KEY]["S"].as_str()?)
    }

    /// Puts an item, or gives what does not meet the condition: an item of another revision, or
    /// nothing at all.
    pub(super) fn put(&mut self, request: &Value) -> Result<(), Option<&Value>> {
        let item = &request["Item"];
        let key = item[KEY]["S"].as_str().unwrap_or_default().to_owned();
        let found = self.items.get(&key);
        let is_met = match request["ConditionExpression"].as_str() {
            None => true,
            // A lease may be taken that is over, too: none here ever is.
            Some(condition) if condition.starts_with("attribute_not_exists(event_id)") => {
                found.is_none()
            }
            Some("revision = :revision") => found.is_some_and(|found| {
                found["revision"] == request["ExpressionAttributeValues"][":revision"]
            }),
            Some(_) => false,
        };
        if !is_met {
            return Err(self.items.get(&key));
        }
        if let Some(state) = item["state"]["S"].as_str() {
            *self.written.entry(state.to_owned()).or_default() += 1;
        }
        if self.items.insert(key.clone(), item.clone()).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED {
            self.order
                .pop_front()
                .and_then(|oldest| self.items.remove(&oldest));
        }
        Ok(())
    }

    /// The items with these keys, of the one table that the request names.
    pub(super) fn get_many(&self, request: &Value) -> Value {
        let tables = request["RequestItems"].as_object().into_iter().flatten();
        let found = tables.map(|(table, keys)| {
            let keys = keys["Keys"].as_array().into_iter().flatten();
            let items = keys.filter_map(|key| self.items.get(key[KEY]["S"].as_str()?).cloned());
            (table.clone(), items.collect())
        });
        Value::Object(found.collect())
    }

    pub(super) fn delete(&mut self, request: &Value) {
        request["Key"][KEY]["S"]
            .as_str()
            .and_then(|key| self.items.remove(key));
    }

    pub(super) fn written(&self, state: &str) -> usize {
        self.written.get(state).copied().unwrap_or_default()
    }
}
