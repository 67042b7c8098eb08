//! Terminal output: plain lines, with colours only on a terminal.

use std::{
    env,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, IsTerminal, Write},
};

/// A colour of the terminal's own palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// For what went wrong.
    Red,
    /// For what went well.
    Green,
    /// For what may go wrong.
    Yellow,
    /// For what is less important.
    Grey,
    /// One of several, always the same for the same text: so that an event can be followed by eye.
    Of(u8),
}

impl Colour {
    /// The colour that stands for this text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self::Of(hasher.finish().to_le_bytes()[0])
    }

    fn code(self) -> u8 {
        match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Grey => 90,
            Self::Of(number) => [34, 35, 36, 94, 95, 96][usize::from(number % 6)],
        }
    }
}

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    coloured: bool,
}

impl Screen {
    /// Colours when standard output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn stdout() -> Self {
        Self {
            coloured: io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none(),
        }
    }

    /// No colours, wherever it goes.
    #[must_use]
    pub fn plain() -> Self {
        Self { coloured: false }
    }

    /// Prints a line. A closed output is ignored.
    pub fn print(self, line: &str) {
        drop(writeln!(io::stdout(), "{line}"));
    }

    /// The text in a colour, or as it is.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{}m{text}\x1b[0m", colour.code())
        } else {
            text.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_no_colours() {
        assert_eq!(
            Screen { coloured: false }.paint(Colour::Red, "text"),
            "text"
        );
        assert_eq!(
            Screen { coloured: true }.paint(Colour::Red, "text"),
            "\x1b[31mtext\x1b[0m"
        );
    }
}
