//! What a query or a form names: fields, and with them dead letters.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

/// The fields of a filter, as the replay function calls them.
pub(crate) const FILTER: [&str; 6] = ["source", "reason", "webhookId", "statusCode", "since", "until"];

/// The field that names an event. A form can have many of them.
pub(crate) const EVENT_ID: &str = "eventId";

/// The field that says how many a dry run has counted.
pub(crate) const COUNTED: &str = "counted";

/// The fields of a query or a form, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first of this name that says something.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, value)| found == name && !value.trim().is_empty()).map(|(_, value)| value.trim())
    }

    /// All of this name that say something.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(found, _)| found == name);
        named.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }
}

/// What dead letters have to match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter(Vec<(&'static str, String)>);

impl Filter {
    pub(crate) fn of(fields: &Fields) -> Self {
        let field = |name: &'static str| Some((name, with_zone(name, fields.get(name)?).into_owned()));
        Self(FILTER.into_iter().filter_map(field).collect())
    }

    /// What died in this way.
    pub(crate) fn of_kind(reason: &str, status: Option<u16>) -> Self {
        let status = status.map(|status| ("statusCode", status.to_string()));
        Self([("reason", reason.to_owned())].into_iter().chain(status).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// As the replay function reads it. What is wrong in it, that one says.
    pub(crate) fn request(&self) -> Map<String, Value> {
        let value = |name: &str, value: &str| match value.parse::<u16>() {
            Ok(number) if name == "statusCode" => json!(number),
            _ => json!(value),
        };
        self.iter().map(|(name, text)| (name.to_owned(), value(name, text))).collect()
    }

    /// As a query, with these fields more.
    pub(crate) fn query(&self, more: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.iter()).extend_pairs(more).finish()
    }
}

/// Browsers give times without a zone; they are asked for in UTC.
fn with_zone<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    match (name, value.len()) {
        ("since" | "until", 16) => format!("{value}:00Z").into(),
        ("since" | "until", 19) => format!("{value}Z").into(),
        _ => value.into(),
    }
}

/// Which dead letters something is to be done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// These.
    Ids(Vec<String>),
    /// Those that match now, for a dry run: what is done then is done with the ids that it gives.
    Matching(Filter),
    /// All.
    All,
}

impl Selection {
    /// What a form names; `None` where it names nothing. To name everything it has to say so.
    pub(crate) fn of(form: &Fields) -> Option<Self> {
        let ids: Vec<String> = form.all(EVENT_ID).map(str::to_owned).collect();
        if !ids.is_empty() {
            return Some(Self::Ids(ids));
        }
        match form.get("which")? {
            "matching" => {
                let filter = Some(Filter::of(form)).filter(|filter| !filter.is_empty())?;
                Some(Self::Matching(filter))
            }
            "all" => Some(Self::All),
            _ => None,
        }
    }

    /// As the fields of a request to replay.
    pub(crate) fn request(&self) -> Map<String, Value> {
        let (name, value) = match self {
            Self::Ids(ids) => ("eventIds", json!(ids)),
            Self::Matching(filter) => ("filter", filter.request().into()),
            Self::All => ("all", true.into()),
        };
        Map::from_iter([(name.to_owned(), value)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(form: &str) -> Option<Selection> {
        Selection::of(&Fields::parse(form.as_bytes()))
    }

    #[test]
    fn a_form_that_names_nothing_never_means_everything() {
        for form in ["", "eventId=", "which=matching", "which=matching&reason=+", "reason=permanent", "which=some"] {
            assert_eq!(selection(form), None, "{form}");
        }
        assert_eq!(selection("eventId=a&eventId=b&which=all"), Some(Selection::Ids(vec!["a".into(), "b".into()])));
        assert_eq!(selection("which=all"), Some(Selection::All));
    }

    #[test]
    fn a_filter_is_passed_on_as_it_stands_and_times_are_utc() {
        let Some(Selection::Matching(filter)) =
            selection("which=matching&statusCode=404&since=2026-01-15T03%3A00&until=2026-01-15T04%3A00%3A05&reason=")
        else {
            panic!("no filter");
        };
        let expected = json!({ "statusCode": 404, "since": "2026-01-15T03:00:00Z", "until": "2026-01-15T04:00:05Z" });
        assert_eq!(Value::from(filter.request()), expected);
        assert_eq!(Filter::of(&Fields::parse(filter.query(&[("next", "a b")]).as_bytes())), filter);
        let odd = Filter::of(&Fields::parse(b"statusCode=4o4"));
        assert_eq!(Value::from(odd.request()), json!({ "statusCode": "4o4" }));
    }
}
