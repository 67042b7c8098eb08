//! Reads a function's configuration from its environment, and reports all that is wrong with it at once.

use std::fmt::Display;
use std::str::FromStr;

/// Everything that is wrong with the environment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the function's environment is not complete: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

/// Reads variables one by one and remembers what is missing or wrong.
pub struct Environment<F> {
    lookup: F,
    problems: Vec<String>,
}

impl Environment<fn(&str) -> Option<String>> {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    /// An environment that `lookup` answers for.
    pub fn new(lookup: F) -> Self {
        Self { lookup, problems: Vec::new() }
    }

    /// A variable that has to be there, parsed by its type.
    pub fn parse<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let value = (self.lookup)(name).filter(|value| !value.is_empty());
        self.parsed(name, value)
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, name: &str, value: Option<String>) -> Option<T> {
        // The message does not repeat the value: it may be a secret that was put in the wrong place.
        let result = value
            .ok_or_else(|| "is missing".to_owned())
            .and_then(|value| value.parse().map_err(|error| format!("is wrong: {error}")));
        result.map_err(|problem| self.problems.push(format!("{name} {problem}"))).ok()
    }

    /// A variable that a parameter of the type `Number` is handed on by, parsed by its type.
    ///
    /// `CloudFormation` takes `10.0` and `1.5` for numbers, and compares them with the parameter's bounds ("Parameters syntax
    /// reference"). What is asked for here is whole: the fraction is left out, which no lower bound minds.
    pub fn parse_number<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let value = (self.lookup)(name).filter(|value| !value.is_empty());
        let whole = value.map(|value| match value.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => whole.to_owned(),
            _ => value,
        });
        self.parsed(name, whole)
    }

    /// A variable that may be empty or absent, parsed by its type.
    pub fn parse_if_set<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        (self.lookup)(name).filter(|value| !value.is_empty())?;
        self.parse(name)
    }

    /// Notes something that no single variable shows.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The configuration, if every variable it is made of was there and right.
    pub fn finish<T>(self, config: Option<T>) -> Result<T, ConfigError> {
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError(self.problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_reported_together() {
        let lookup = |name: &str| match name {
            "GOOD" => Some("7".to_owned()),
            "BAD" => Some("seven".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let mut environment = Environment::new(lookup);
        assert_eq!(environment.parse::<u32>("GOOD"), Some(7));
        for name in ["BAD", "EMPTY", "MISSING"] {
            assert_eq!(environment.parse::<u32>(name), None);
        }
        for (name, value) in [("GOOD", Some(7)), ("BAD", None), ("EMPTY", None), ("MISSING", None)] {
            assert_eq!(environment.parse_if_set::<u32>(name), value);
        }
        let error = environment.finish::<()>(None).expect_err("incomplete").to_string();
        for part in ["BAD is wrong", "EMPTY is missing", "MISSING is missing"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(error.matches("is missing").count(), 2, "what may be empty is not missing: {error}");
        assert!(!error.contains("seven"), "values are not repeated: {error}");
    }

    #[test]
    fn a_number_parameter_may_have_a_fraction() {
        for (value, expected) in [
            ("10", Some(10)),
            ("10.0", Some(10)),
            ("1.5", Some(1)),
            ("1.", Some(1)),
            ("1.5.0", None),
            ("1.x", None),
            (".5", None),
            ("", None),
        ] {
            let mut environment = Environment::new(|_: &str| Some(value.to_owned()));
            assert_eq!(environment.parse_number::<u32>("SECONDS"), expected, "{value}");
        }
    }
}
