//! Fields of a query or form, and the dead letters that they select.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

/// Fields of a filter, by the replay function's names.
pub(crate) const FILTER: [&str; 6] = [
    "source",
    "reason",
    "webhookId",
    "statusCode",
    "since",
    "until",
];

/// The field that names an event; a form can have several.
pub(crate) const EVENT_ID: &str = "eventId";

/// The field with the count of a dry run.
pub(crate) const COUNTED: &str = "counted";

/// Fields of a query or form, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first value of this name that is not blank.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, value)| found == name && !value.trim().is_empty())
            .map(|(_, value)| value.trim())
    }

    /// All values of this name that are not blank.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(found, _)| found == name);
        named
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }
}

/// Conditions that dead letters must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter(Vec<(&'static str, String)>);

impl Filter {
    pub(crate) fn of(fields: &Fields) -> Self {
        let field =
            |name: &'static str| Some((name, with_zone(name, fields.get(name)?).into_owned()));
        Self(FILTER.into_iter().filter_map(field).collect())
    }

    /// A filter for a reason and status.
    pub(crate) fn of_kind(reason: &str, status: Option<u16>) -> Self {
        let status = status.map(|status| ("statusCode", status.to_string()));
        Self(
            [("reason", reason.to_owned())]
                .into_iter()
                .chain(status)
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The filter in the replay function's format. Invalid values are passed on: the function names
    /// them.
    pub(crate) fn request(&self) -> Map<String, Value> {
        let value = |name: &str, value: &str| match value.parse::<u16>() {
            Ok(number) if name == "statusCode" => json!(number),
            _ => json!(value),
        };
        self.iter()
            .map(|(name, text)| (name.to_owned(), value(name, text)))
            .collect()
    }

    /// The filter as a query string, followed by the fields `more`.
    pub(crate) fn query(&self, more: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.iter()).extend_pairs(more).finish()
    }
}

/// Adds the zone to a time from a browser's field, which has none; the labels say UTC.
fn with_zone<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    match (name, value.len()) {
        ("since" | "until", 16) => format!("{value}:00Z").into(),
        ("since" | "until", 19) => format!("{value}Z").into(),
        _ => value.into(),
    }
}

/// The dead letters that a form selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Those with these ids.
    Ids(Vec<String>),
    /// Those that match now. Only for a dry run, which returns their ids.
    Matching(Filter),
    /// All dead letters.
    All,
}

impl Selection {
    /// Reads the selection of a form; `None` if it selects nothing. All are selected only by
    /// `which=all`.
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

    /// The fields of a replay request.
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
        assert_eq!(
            selection("eventId=a&eventId=b&which=all"),
            Some(Selection::Ids(vec!["a".into(), "b".into()]))
        );
        assert_eq!(selection("which=all"), Some(Selection::All));
    }

    #[test]
    fn a_filter_is_passed_on_unchanged_with_times_in_utc() {
        let Some(Selection::Matching(filter)) = selection(
            "which=matching&statusCode=404&since=2026-01-15T03%3A00&until=2026-01-15T04%3A00%3A05&reason=",
        ) else {
            panic!("no filter");
        };
        let expected = json!({ "statusCode": 404, "since": "2026-01-15T03:00:00Z", "until": "2026-01-15T04:00:05Z" });
        assert_eq!(Value::from(filter.request()), expected);
        assert_eq!(
            Filter::of(&Fields::parse(filter.query(&[("next", "a b")]).as_bytes())),
            filter
        );
        let odd = Filter::of(&Fields::parse(b"statusCode=4o4"));
        assert_eq!(Value::from(odd.request()), json!({ "statusCode": "4o4" }));
    }
}
