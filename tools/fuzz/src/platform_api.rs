//! Client of the Platform API with any answers of the API and of its login.

use std::time::Duration;

use genesys_relay::adapters::genesys::{Call, PlatformApi as _};
use genesys_relay::domain::json::Json;
use genesys_relay::runtime::logging::display_chain;
use http::Method;
use tokio::time::Instant;

use crate::answers::{Answers, CLIENT_SECRET};
use crate::runtime::run;

/// Time-out of a call.
const TIME: Duration = Duration::from_mins(1);

/// A call with a wait of a second between two tries cannot make more in that time, signing in
/// counted.
const MAX_REQUESTS: usize = 130;

/// A call gives JSON that was in an answer, or an error that is short and shows no credential; it
/// ends in time.
pub(crate) fn platform_api(input: &[u8]) {
    let answers = Answers::read(input, true);
    let client = answers.client();
    let call = Call {
        method: Method::GET,
        path: "/api/v2/things?a=b".to_owned(),
        body: None,
        permission: None,
    };
    let (outcome, took) = run(async {
        let began_at = Instant::now();
        (
            client.call(&call, began_at + TIME).await,
            began_at.elapsed(),
        )
    });
    // Timers have a resolution of a millisecond.
    assert!(took <= TIME + Duration::from_millis(2), "it took {took:?}");
    let requests = answers.exchanges().len();
    assert!(requests <= MAX_REQUESTS, "{requests} requests");
    match outcome {
        Ok(answer) => {
            assert!(Json::parse(&answer).is_ok());
            assert_eq!(answer, answers.last());
        }
        Err(error) => {
            let error = format!("{} {error:?}", display_chain(&error));
            assert!(
                error.len() <= 16 * 1024,
                "an error of {} bytes",
                error.len()
            );
            let is_quoted = String::from_utf8_lossy(input).contains(CLIENT_SECRET);
            assert!(is_quoted || !error.contains(CLIENT_SECRET), "{error}");
        }
    }
}
