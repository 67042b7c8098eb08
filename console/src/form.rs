//! Fields of a query or form, and the dead letters that they select.

use genesys_relay::dead_letters::api::{Filter, ReplayRequest, ResendFilter, ResendRequest};
use genesys_relay::domain::request::read;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// The field that names an event; a form can have several.
pub(crate) const EVENT_ID: &str = "eventId";

/// The field with the count of a dry run.
pub(crate) const COUNTED: &str = "counted";

/// Fields of a filter of dead letters, by the relay's names.
const FILTER: [&str; 7] = [
    "source",
    "reason",
    "webhookId",
    "conversationId",
    "statusCode",
    "since",
    "until",
];

/// Fields of a filter of delivered events, by the relay's names.
const RESEND_FILTER: [&str; 5] = ["source", "webhookId", "conversationId", "since", "until"];

/// Fields of a query or form, in order.
///
/// Serde's forms know neither a field that occurs several times nor one that was left blank.
#[derive(Debug, Clone)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first value of this name that is not blank.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of this name that are not blank.
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(found, _)| found == name);
        let values = named.map(|(_, value)| value.trim());
        values.filter(|value| !value.is_empty())
    }

    /// Reads a part of a request from the fields with these names. An error names the field.
    pub(crate) fn read<T: DeserializeOwned>(&self, names: &[&str]) -> Result<T, Problem> {
        let field = |name: &&str| Some(((*name).to_owned(), json_of(name, self.get(name)?)));
        let fields: Map<_, _> = names.iter().filter_map(field).collect();
        Ok(read(fields.into())?)
    }

    /// The conditions that dead letters must match.
    pub(crate) fn filter(&self) -> Result<Filter, Problem> {
        self.read(&FILTER)
    }

    /// The dead letters that a form selects: those with the given ids, those that match its filter,
    /// or all. All are selected only by `which=all`.
    pub(crate) fn selection(&self) -> Result<ReplayRequest, Problem> {
        let ids: Vec<&str> = self.all(EVENT_ID).collect();
        let filter = self.filter()?;
        let selection = match self.get("which") {
            _ if !ids.is_empty() => json!({ "eventIds": ids }),
            Some("matching") if filter != Filter::default() => json!({ "filter": filter }),
            Some("all") => json!({ "all": true }),
            _ => return Err(nothing_selected()),
        };
        Ok(read(selection)?)
    }

    /// The conditions that delivered events must match.
    pub(crate) fn resend_filter(&self) -> Result<ResendFilter, Problem> {
        self.read(&RESEND_FILTER)
    }

    /// The delivered events that a form selects: those with the given ids, or those that match its
    /// filter.
    pub(crate) fn resend_selection(&self) -> Result<ResendRequest, Problem> {
        let ids: Vec<&str> = self.all(EVENT_ID).collect();
        let filter = self.resend_filter()?;
        let selection = if !ids.is_empty() {
            json!({ "eventIds": ids })
        } else if filter == ResendFilter::default() {
            return Err(Problem::invalid(
                "Nothing is selected. Go back, and select events or give a time.",
            ));
        } else {
            json!({ "filter": filter })
        };
        Ok(read(selection)?)
    }
}

pub(crate) fn nothing_selected() -> Problem {
    Problem::invalid("Nothing is selected. Go back and select dead letters.")
}

/// A field as JSON. Browsers' fields of times have no zone; their labels say UTC.
fn json_of(name: &str, text: &str) -> Value {
    match (name, text.len()) {
        ("statusCode" | "olderThanDays" | "ratePerSecond", _) => text
            .parse::<u64>()
            .map_or_else(|_| text.into(), Value::from),
        ("since" | "until", 16) => format!("{text}:00Z").into(),
        ("since" | "until", 19) => format!("{text}Z").into(),
        _ => text.into(),
    }
}

/// The fields of a filter and their texts.
pub(crate) fn pairs(filter: &impl Serialize) -> Vec<(String, String)> {
    let Value::Object(fields) = json!(filter) else {
        return Vec::new();
    };
    let text = |value| match value {
        Value::String(text) => text,
        value => value.to_string(),
    };
    let fields = fields.into_iter();
    fields.map(|(name, value)| (name, text(value))).collect()
}

/// A path with a query of these fields, and of those in `more`.
pub(crate) fn path(
    path: &str,
    fields: &[(impl AsRef<str>, impl AsRef<str>)],
    more: &[(&str, &str)],
) -> String {
    let path = format!("{path}?");
    let start = path.len();
    let mut query = form_urlencoded::Serializer::for_suffix(path, start);
    query.extend_pairs(fields).extend_pairs(more);
    query.finish()
}

/// The path of the list with this filter and the fields `more`.
pub(crate) fn list_path(filter: &Filter, more: &[(&str, &str)]) -> String {
    path("/dead-letters", &pairs(filter), more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(form: &str) -> Option<Value> {
        let selection = Fields::parse(form.as_bytes()).selection().ok()?;
        Some(json!(selection))
    }

    #[test]
    fn an_empty_form_selects_nothing() {
        for form in [
            "",
            "eventId=",
            "which=matching",
            "which=matching&reason=+",
            "reason=permanent",
            "which=some",
        ] {
            assert_eq!(selection(form), None, "{form}");
        }
        let ids = json!({ "eventIds": ["a", "b"], "dryRun": false, "force": false });
        assert_eq!(selection("eventId=a&eventId=b&which=all"), Some(ids));
        let all = json!({ "all": true, "dryRun": false, "force": false });
        assert_eq!(selection("which=all"), Some(all));
    }

    #[test]
    fn a_resend_needs_ids_or_a_condition() {
        let selection = |form: &str| {
            let selection = Fields::parse(form.as_bytes()).resend_selection().ok()?;
            Some(json!(selection))
        };
        for form in ["", "eventId=", "since=&webhookId=+", "reason=permanent"] {
            assert_eq!(selection(form), None, "{form}");
        }
        let ids = json!({ "eventIds": ["a", "b"], "dryRun": false });
        assert_eq!(selection("eventId=a&eventId=b"), Some(ids));
        let filter = json!({ "since": "2026-01-15T03:00:00Z", "conversationId": "c/1" });
        let filter = json!({ "filter": filter, "dryRun": false });
        let form = "since=2026-01-15T03%3A00&conversationId=c%2F1";
        assert_eq!(selection(form), Some(filter));
    }

    #[test]
    fn times_of_a_filter_are_in_utc_and_wrong_values_are_named() {
        let query = "statusCode=404&since=2026-01-15T03%3A00&until=2026-01-15T04%3A00%3A05&reason=";
        let filter = Fields::parse(query.as_bytes()).filter().expect("a filter");
        let expected = json!({ "statusCode": 404, "since": "2026-01-15T03:00:00Z", "until": "2026-01-15T04:00:05Z" });
        assert_eq!(json!(filter), expected);
        let path = list_path(&filter, &[("next", "a b")]);
        let again = Fields::parse(path.split_once('?').expect("a query").1.as_bytes());
        assert_eq!(again.filter().expect("a filter"), filter);
        assert_eq!(again.get("next"), Some("a b"));
        let wrong = Fields::parse(b"statusCode=4o4").filter();
        let wrong = wrong.expect_err("no number");
        assert!(format!("{wrong:?}").contains("statusCode: "), "{wrong:?}");
    }
}
