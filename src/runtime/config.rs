//! Configuration of a function: tables of environment variables, made by
//! [`variables!`](crate::variables).
//!
//! A table states each variable once: field, type, name, kind and meaning. The struct, its reader,
//! the list of names that a test compares with the template, and the reference page come from it.

use std::fmt::Display;
use std::str::FromStr;

/// All variables that are missing or wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the function's environment is not complete: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

/// One variable of a function, for tests and for the reference page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Description of the values that the function accepts.
    pub bounds: String,
    /// True if a parameter of the type `Number` may pass it.
    pub is_number: bool,
    /// Its meaning.
    pub meaning: &'static str,
}

impl Variable {
    /// A line of a table.
    pub fn of<T, K: Kind<Value = T>>(name: &'static str, kind: &K, meaning: &'static str) -> Self {
        Self {
            name,
            bounds: kind.bounds(),
            is_number: K::IS_NUMBER,
            meaning,
        }
    }
}

/// Tables of variables, and configurations made of several tables.
pub trait Table: Sized {
    /// The variables, in the order of the table.
    fn variables() -> Vec<Variable>;

    /// Reads every variable, and returns `None` if one is missing or wrong.
    fn read(environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self>;
}

/// Two tables.
impl<A: Table, B: Table> Table for (A, B) {
    fn variables() -> Vec<Variable> {
        [A::variables(), B::variables()].concat()
    }

    fn read(environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        // Both are read before the first that is wrong ends this.
        A::read(environment).zip(B::read(environment))
    }
}

/// A table whose variables are there together or not at all.
impl<T: Table> Table for Option<T> {
    fn variables() -> Vec<Variable> {
        let mut variables = T::variables();
        for variable in &mut variables {
            variable.bounds.push_str(", or empty");
        }
        variables
    }

    fn read(environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let variables = T::variables();
        if variables
            .iter()
            .any(|one| environment.get(one.name).is_some())
        {
            T::read(environment).map(Some)
        } else {
            Some(None)
        }
    }
}

/// The values that a variable can have.
pub trait Kind {
    /// The type of a value.
    type Value;

    /// True if a parameter of the type `Number` may pass it.
    const IS_NUMBER: bool = false;

    /// Description of the values, as in "must be …".
    fn bounds(&self) -> String;

    /// Reads a value that is not empty. An error says what is wrong, without the value: it may be a
    /// secret in the wrong place.
    fn parse(&self, text: &str) -> Result<Self::Value, String>;

    /// The value of a variable that is missing or empty; `None` if that is an error.
    fn default(&self) -> Option<Self::Value> {
        None
    }
}

/// Any text; made by [`text`].
pub struct Text(());

/// Any text.
pub const fn text() -> Text {
    Text(())
}

impl Kind for Text {
    type Value = String;

    fn bounds(&self) -> String {
        "a text".to_owned()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

/// Texts between commas; made by [`list`].
pub struct TextList(());

/// At least one text, between commas.
pub const fn list() -> TextList {
    TextList(())
}

impl Kind for TextList {
    type Value = Vec<String>;

    fn bounds(&self) -> String {
        "a list of texts between commas, none of them empty".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Vec<String>, String> {
        let texts: Vec<String> = text.split(',').map(|text| text.trim().to_owned()).collect();
        if texts.iter().any(String::is_empty) {
            Err(format!("must be {}", self.bounds()))
        } else {
            Ok(texts)
        }
    }
}

/// A whole number; made by [`number`].
pub struct Number<T> {
    least: T,
    most: T,
}

/// A whole number within these bounds.
///
/// `CloudFormation` accepts `10.0` and `1.5` as numbers, and compares them with the parameter's
/// bounds ("Parameters syntax reference"). The fraction is dropped, which satisfies every lower
/// bound.
pub const fn number<T>(least: T, most: T) -> Number<T> {
    Number { least, most }
}

impl<T: FromStr + PartialOrd + Display> Kind for Number<T> {
    type Value = T;

    const IS_NUMBER: bool = true;

    fn bounds(&self) -> String {
        format!("a whole number from {} to {}", self.least, self.most)
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        let whole = match text.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => whole,
            _ => text,
        };
        let number = whole
            .parse()
            .ok()
            .filter(|number| (&self.least..=&self.most).contains(&number));
        number.ok_or_else(|| format!("must be {}", self.bounds()))
    }
}

impl<T> Number<T> {
    /// The number as another type, a duration for example.
    pub const fn of<V>(self, of: fn(T) -> V) -> Converted<T, V> {
        Converted { number: self, of }
    }
}

/// A whole number as another type; made by [`Number::of`].
pub struct Converted<T, V> {
    number: Number<T>,
    of: fn(T) -> V,
}

impl<T: FromStr + PartialOrd + Display, V> Kind for Converted<T, V> {
    type Value = V;

    const IS_NUMBER: bool = true;

    fn bounds(&self) -> String {
        self.number.bounds()
    }

    fn parse(&self, text: &str) -> Result<V, String> {
        self.number.parse(text).map(self.of)
    }
}

/// One of some names; made by [`one_of`].
pub struct OneOf<T: 'static>(&'static [(&'static str, T)]);

/// One of these names, and the value that it stands for.
pub const fn one_of<T: 'static>(names: &'static [(&'static str, T)]) -> OneOf<T> {
    OneOf(names)
}

impl<T: Copy> Kind for OneOf<T> {
    type Value = T;

    fn bounds(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        format!("one of {}", names.join(", "))
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("must be {}", self.bounds()))
    }
}

/// A text that a type can read; made by [`parsed`].
pub struct Parsed<T> {
    bounds: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

/// A text that `T` can read.
pub const fn parsed<T: FromStr<Err: Display>>(bounds: &'static str) -> Parsed<T> {
    Parsed {
        bounds,
        parse: |text| text.parse().map_err(|error| format!("is wrong: {error}")),
    }
}

impl<T> Kind for Parsed<T> {
    type Value = T;

    fn bounds(&self) -> String {
        self.bounds.to_owned()
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        (self.parse)(text)
    }
}

/// A kind that may be missing; made by [`optional`].
pub struct Optional<K>(K);

/// A value that may be missing or empty.
pub const fn optional<K>(kind: K) -> Optional<K> {
    Optional(kind)
}

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;

    const IS_NUMBER: bool = K::IS_NUMBER;

    fn bounds(&self) -> String {
        format!("{}, or empty", self.0.bounds())
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        self.0.parse(text).map(Some)
    }

    fn default(&self) -> Option<Self::Value> {
        Some(None)
    }
}

/// An environment, and the problems found in it.
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
        Self {
            lookup,
            problems: Vec::new(),
        }
    }

    /// Reads a configuration. The error names every variable that is missing or wrong.
    pub fn read_all<T: Table>(mut self) -> Result<T, ConfigError> {
        match T::read(&mut self) {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError(self.problems)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// Reads one variable.
    pub fn read<K: Kind>(&mut self, name: &str, kind: &K) -> Option<K::Value> {
        let result = match self.get(name) {
            Some(value) => kind.parse(&value),
            None => kind.default().ok_or_else(|| "is missing".to_owned()),
        };
        result
            .map_err(|problem| self.problems.push(format!("{name} {problem}")))
            .ok()
    }

    /// Notes a problem that no single variable shows.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

/// Declares a table of environment variables: `field: Type = "NAME", kind, "meaning";` for each.
#[macro_export]
macro_rules! variables {
    ($(#[$attribute:meta])* $table:ident { $($field:ident: $type:ty = $name:literal, $kind:expr, $meaning:literal;)* }) => {
        $(#[$attribute])*
        #[derive(Debug)]
        pub(crate) struct $table {
            $(#[doc = concat!("`", $name, "`: ", $meaning, ".")] pub(crate) $field: $type,)*
        }

        impl $crate::runtime::config::Table for $table {
            fn variables() -> Vec<$crate::runtime::config::Variable> {
                vec![$($crate::runtime::config::Variable::of::<$type, _>($name, &$kind, $meaning)),*]
            }

            fn read(
                environment: &mut $crate::runtime::config::Environment<impl Fn(&str) -> Option<String>>,
            ) -> Option<Self> {
                // Every variable is read before the first that is missing ends this.
                let ($($field,)*): ($(Option<$type>,)*) = ($(environment.read($name, &$kind),)*);
                Some(Self { $($field: $field?),* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    crate::variables! {
        /// A table of every kind.
        Sample {
            text: String = "TEXT", text(), "a text";
            list: Vec<String> = "LIST", list(), "a list";
            number: u32 = "NUMBER", number(1, 10), "a number";
            seconds: Duration = "SECONDS", number(0, 60).of(Duration::from_secs), "a duration";
            is_on: bool = "SWITCH", one_of(&[("on", true), ("off", false)]), "a switch";
            level: u8 = "LEVEL", parsed("a level"), "a level";
            spare: Option<u8> = "SPARE", optional(parsed("a level")), "a level that may be missing";
        }
    }

    const COMPLETE: [(&str, &str); 7] = [
        ("TEXT", "a"),
        ("LIST", "a, b"),
        ("NUMBER", "7"),
        ("SECONDS", "7"),
        ("SWITCH", "on"),
        ("LEVEL", "7"),
        ("SPARE", "7"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let lookup = |name: &str| {
            let found = changes
                .iter()
                .chain(&COMPLETE)
                .find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Environment::new(lookup).read_all()
    }

    #[test]
    fn each_variable_is_read_into_its_own_field() {
        let Sample {
            text,
            list,
            number,
            seconds,
            is_on,
            level,
            spare,
        } = read(&[]).expect("complete");
        assert_eq!((text.as_str(), list.join("+").as_str()), ("a", "a+b"));
        assert_eq!(
            (number, seconds, is_on, level, spare),
            (7, Duration::from_secs(7), true, 7, Some(7))
        );
        assert_eq!(
            read(&[("SPARE", ""), ("SWITCH", "off")])
                .expect("complete")
                .spare,
            None
        );
    }

    #[test]
    fn all_that_is_missing_or_wrong_is_reported_together() {
        let wrong = [
            ("TEXT", ""),
            ("LIST", "a,,b"),
            ("NUMBER", "eleven"),
            ("SECONDS", "61"),
            ("SWITCH", "maybe"),
            ("LEVEL", "high"),
            ("SPARE", "high"),
        ];
        let ConfigError(problems) = read(&wrong).expect_err("incomplete");
        let expected = [
            "TEXT is missing",
            "LIST must be a list of texts between commas, none of them empty",
            "NUMBER must be a whole number from 1 to 10",
            "SECONDS must be a whole number from 0 to 60",
            "SWITCH must be one of on, off",
            "LEVEL is wrong: invalid digit found in string",
            "SPARE is wrong: invalid digit found in string",
        ];
        assert_eq!(problems, expected, "and values are not repeated");
    }

    #[test]
    fn a_table_lists_its_variables_and_their_bounds() {
        let variables = Sample::variables();
        assert_eq!(
            variables
                .iter()
                .map(|variable| variable.name)
                .collect::<Vec<_>>(),
            COMPLETE.map(|(name, _)| name)
        );
        let numbers = variables
            .iter()
            .filter(|variable| variable.is_number)
            .map(|variable| variable.name);
        assert_eq!(numbers.collect::<Vec<_>>(), ["NUMBER", "SECONDS"]);
        let spare = variables
            .last()
            .map(|spare| (spare.bounds.as_str(), spare.meaning));
        assert_eq!(
            spare,
            Some(("a level, or empty", "a level that may be missing"))
        );
    }

    crate::variables! {
        /// Variables that need each other.
        Pair {
            one: String = "ONE", text(), "a text";
            other: u8 = "OTHER", number(1, 10), "a number";
        }
    }

    #[test]
    fn variables_of_a_group_are_there_together_or_not_at_all() {
        let read = |changes: &[(&str, &str)]| {
            let lookup = |name: &str| {
                let found = changes.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Environment::new(lookup).read_all::<Option<Pair>>()
        };
        for absent in [&[][..], &[("ONE", ""), ("OTHER", "")]] {
            assert!(read(absent).expect("none").is_none());
        }
        let pair = read(&[("ONE", "a"), ("OTHER", "7")]).expect("both");
        assert!(pair.is_some_and(|pair| pair.one == "a" && pair.other == 7));
        for (there, missing) in [(("ONE", "a"), "OTHER"), (("OTHER", "7"), "ONE")] {
            let ConfigError(problems) = read(&[there]).expect_err("half of it");
            assert_eq!(problems, [format!("{missing} is missing")]);
        }
        let bounds = <Option<Pair>>::variables().remove(0).bounds;
        assert_eq!(bounds, "a text, or empty");
    }

    #[test]
    fn a_number_parameter_may_have_a_fraction() {
        for (value, expected) in [
            ("10", Some(10)),
            ("10.0", Some(10)),
            ("1.5", Some(1)),
            ("1.", Some(1)),
            ("0.5", None),
            ("11", None),
            ("1.5.0", None),
            ("1.x", None),
            (".5", None),
            ("", None),
        ] {
            let mut environment = Environment::new(|_: &str| Some(value.to_owned()));
            assert_eq!(
                environment.read("SECONDS", &number(1, 10)),
                expected,
                "{value}"
            );
        }
    }
}
