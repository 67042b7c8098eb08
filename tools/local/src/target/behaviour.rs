//! Behaviour of the target, and its text form.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use super::{answer::Answer, request::ReceivedRequest, wire::Fault};

pub(super) const SYNTAX: &str = "fine, fail:30 (percent), status:404, status:503:60 (with Retry-After), slow:2s, down, or on the wire: reset, reset-unread, \
     trickle, garbage, bad-length, endless-headers, short, large, endless-body";

type Script = Arc<dyn Fn(&ReceivedRequest) -> Answer + Send + Sync>;

/// Treatment of the next deliveries.
#[derive(Clone)]
pub enum Behaviour {
    /// 200, always.
    Fine,
    /// 500 for this share of the deliveries, in percent.
    Fail(u8),
    /// This status, always.
    Status {
        /// Three digits.
        code: u16,
        /// The value of `Retry-After`: seconds or a date.
        retry_after: Option<String>,
    },
    /// 200, but only after a while.
    Slow(Duration),
    /// The connection breaks without an answer.
    Down,
    /// It breaks the connection or the rules of HTTP.
    Wire(Fault),
    /// As a function decides; the request's `nth` counts the deliveries of its event. It must not
    /// look at the target.
    Script(Script),
}

/// Error of a text that is not a behaviour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wrong:?} is not a behaviour: {SYNTAX}")]
pub struct BehaviourError {
    wrong: String,
}

impl Behaviour {
    /// A behaviour that depends on the request.
    pub fn script(script: impl Fn(&ReceivedRequest) -> Answer + Send + Sync + 'static) -> Self {
        Self::Script(Arc::new(script))
    }

    pub(super) fn answer(&self, request: &ReceivedRequest) -> Answer {
        match self {
            Self::Fail(percent) if fastrand::u8(..100) < *percent => Answer::status(500),
            Self::Fine | Self::Fail(_) => Answer::status(200),
            Self::Status { code, retry_after } => Answer {
                retry_after: retry_after.clone(),
                ..Answer::status(*code)
            },
            Self::Slow(delay) => Answer {
                delay: *delay,
                ..Answer::status(200)
            },
            Self::Down => Answer {
                status: None,
                ..Answer::status(0)
            },
            Self::Wire(fault) => Answer::fault(*fault),
            Self::Script(script) => script(request),
        }
    }
}

impl FromStr for Behaviour {
    type Err = BehaviourError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || BehaviourError { wrong: text.into() };
        let (name, argument) = text
            .split_once(':')
            .map_or((text, None), |(name, argument)| (name, Some(argument)));
        match (name, argument) {
            ("fine", None) => Ok(Self::Fine),
            ("down", None) => Ok(Self::Down),
            ("fail", Some(percent)) => percent
                .parse()
                .ok()
                .filter(|percent| *percent <= 100)
                .map(Self::Fail)
                .ok_or_else(wrong),
            ("slow", Some(delay)) => parse_duration(delay).map(Self::Slow).ok_or_else(wrong),
            ("status", Some(argument)) => {
                let (code, retry_after) = argument
                    .split_once(':')
                    .map_or((argument, None), |(code, after)| (code, Some(after.into())));
                let code = code
                    .parse()
                    .ok()
                    .filter(|code| (200..600).contains(code))
                    .ok_or_else(wrong)?;
                Ok(Self::Status { code, retry_after })
            }
            (name, None) => Fault::ALL
                .into_iter()
                .find(|fault| fault.name() == name)
                .map(Self::Wire)
                .ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine => formatter.write_str("fine"),
            Self::Fail(percent) => write!(formatter, "fail:{percent}"),
            Self::Status {
                code,
                retry_after: None,
            } => write!(formatter, "status:{code}"),
            Self::Status {
                code,
                retry_after: Some(after),
            } => write!(formatter, "status:{code}:{after}"),
            Self::Slow(delay) => write!(formatter, "slow:{}ms", delay.as_millis()),
            Self::Down => formatter.write_str("down"),
            Self::Wire(fault) => formatter.write_str(fault.name()),
            Self::Script(_) => formatter.write_str("script"),
        }
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Parses a duration: `2s`, `300ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse().ok().map(Duration::from_millis),
        None => text
            .strip_suffix('s')?
            .parse()
            .ok()
            .map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_reads_as_it_is_written() -> Result<(), BehaviourError> {
        for text in [
            "fine",
            "fail:30",
            "status:404",
            "status:503:60",
            "slow:2000ms",
            "down",
        ] {
            assert_eq!(text.parse::<Behaviour>()?.to_string(), text);
        }
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse::<Behaviour>()?.to_string(), fault.name());
            assert!(SYNTAX.contains(fault.name()), "{fault}");
        }
        assert_eq!("slow:2s".parse::<Behaviour>()?.to_string(), "slow:2000ms");
        Ok(())
    }

    #[test]
    fn nonsense_is_refused_with_what_is_possible() {
        for text in [
            "",
            "Fine",
            "fail",
            "fail:101",
            "status:99",
            "status:abc",
            "slow:fast",
            "down:1",
            "reset:1",
        ] {
            let error = text
                .parse::<Behaviour>()
                .map(|_| ())
                .map_err(|error| error.to_string());
            assert!(
                error.is_err_and(|error| error.contains("fail:30")),
                "{text}"
            );
        }
    }
}
