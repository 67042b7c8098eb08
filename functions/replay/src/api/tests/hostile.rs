//! Hostile paths, queries and bodies: each is answered with a problem that names the wrong part.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

use super::*;

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(future)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_no_object_of_why_is_refused_however_it_is_wrapped() {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    for (body, is_encoded) in [
        ("=".to_owned(), true),
        ("e30".to_owned(), true),
        ("e 30=".to_owned(), true),
        ("_-8=".to_owned(), true),
        (encoded("[]"), true),
        (encoded("{}") + "\n", true),
        ("\u{feff}{}".to_owned(), false),
        ("{\"why\":1}".to_owned(), false),
        ("{\"why\":\"a\\u0000\"}".to_owned(), false),
        ("{\"why\":\"\\ud83d\"}".to_owned(), false),
        ("{\"why\":\"a\",\"force\":true}".to_owned(), false),
        ("{\"why\":".to_owned() + &"[".repeat(100_000), false),
        ("{\"why\":1e999}".to_owned(), false),
    ] {
        let mut event = retry_of(&dead_letter(1));
        (event["body"], event["isBase64Encoded"]) = (json!(body), json!(is_encoded));
        let answer = send(&function(), event).await;
        assert_eq!(answer.status, 400, "{body:.50}: {answer:?}");
        assert!(
            answer.body["parameter"].is_string(),
            "{body:.50}: {answer:?}"
        );
    }
}

proptest! {
    /// [`send`] holds every answer to its form.
    #[test]
    fn every_request_has_an_answer(
        method in "GET|POST|get|.*",
        path in "/dlq(/.{0,20}){0,3}|/dlq/an-event/retry|.*",
        query in "([a-zA-Z]{0,10}[=&%+][0-9a-zA-Z%=+&-]{0,20}){0,4}|limit=[0-9]{0,30}|.*",
        body in prop::option::of("[{\\[\"]{0,200}|.*"),
        is_encoded: bool,
    ) {
        let mut event = event(&method, &path, &query);
        (event["body"], event["isBase64Encoded"]) = (json!(body), json!(is_encoded));
        let answer = run(send(&function(), event));
        prop_assert!([200, 400, 404, 405].contains(&answer.status), "{answer:?}");
        if answer.status == 400 {
            prop_assert!(answer.body["parameter"].is_string(), "{answer:?}");
        }
    }
}
