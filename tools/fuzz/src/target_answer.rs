//! Answers of targets: `Retry-After`, and the body that goes into records and logs.

use std::time::{Duration, SystemTime};

use genesys_relay::domain::retry::{Schedule, parse_retry_after};
use genesys_relay::domain::text::{MAX_EXCERPT_BYTES, excerpt};
use genesys_relay::ports::clock::Clock as _;

use crate::runtime::Noon;

const CAP: Duration = Duration::from_mins(15);
const HOUR: Duration = Duration::from_hours(1);

/// A decimal number as people write it.
fn number(text: &str) -> Option<f64> {
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse()
        .ok()
        .filter(|_| is_plain && !text.starts_with('.') && !text.ends_with('.'))
}

/// A `Retry-After` is a number of seconds, perhaps one of several, or a date, and puts the next
/// attempt off by an hour at most; an excerpt is short, and nothing in it disturbs SQS, a terminal
/// or a log.
pub(crate) fn target_answer(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let asked = parse_retry_after(&text, Noon.now());
    assert_eq!(
        parse_retry_after(&format!(" {text}\t"), Noon.now()),
        asked,
        "blanks around it"
    );
    let bare = text.trim();
    let is_number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
    let date = httpdate::parse_http_date(bare);
    match (asked, date) {
        (Some(wait), _) if is_number => {
            let digits = bare.trim_start_matches('0');
            assert!(
                wait == Duration::from_secs(u64::MAX)
                    || wait.as_secs().to_string().trim_start_matches('0') == digits
            );
        }
        (Some(wait), Ok(date)) => {
            let now = SystemTime::from(Noon.now());
            assert!(if wait.is_zero() {
                date <= now
            } else {
                now + wait == date
            });
        }
        (Some(wait), Err(_)) => {
            let longest = bare
                .split(',')
                .filter_map(|value| number(value.trim()))
                .fold(0.0, f64::max);
            // A double tells apart what is asked for in practice, and no more.
            assert!(
                (longest..=longest + 1.0).contains(&wait.as_secs_f64()) || longest > 1e15,
                "{wait:?} of {bare:?}"
            );
        }
        (None, Err(_)) => assert!(bare.split(',').all(|value| number(value.trim()).is_none())),
        odd => panic!("{bare:?}: {odd:?}"),
    }
    let schedule = Schedule::new(Duration::from_secs(2), CAP, 10).expect("a schedule");
    let mut rng = fastrand::Rng::with_seed(input.len() as u64);
    for attempt in [0, 1, 10, u32::MAX] {
        let delay = schedule.delay(attempt, asked, &mut rng);
        let wait = asked.unwrap_or_default().min(HOUR);
        assert!(
            delay >= wait && delay <= wait.max(CAP + CAP / 10),
            "{delay:?} after {asked:?}"
        );
    }

    let excerpt = excerpt(&text);
    assert!(
        excerpt.len() <= MAX_EXCERPT_BYTES && !excerpt.chars().any(char::is_control),
        "{excerpt:?}"
    );
    let shortened = excerpt.chars().count() < text.chars().count();
    assert!(
        !shortened || excerpt.len() > MAX_EXCERPT_BYTES - 4,
        "cut too short"
    );
}
