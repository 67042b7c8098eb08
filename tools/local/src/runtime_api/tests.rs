use std::{fs, path::Path};

use super::*;
use crate::clients;

/// Shell script in place of a function. Read by the shell, not executed: a file that was just
/// written may still be open in a process that another test was starting at that moment.
struct Script(PathBuf);

impl Script {
    fn new(commands: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("runtime-api-{}", Uuid::new_v4()));
        fs::write(&path, commands)?;
        Ok(Self(path))
    }

    async fn start(&self, time_limit: Duration) -> Result<FunctionProcess> {
        let environment = [
            ("PATH", "/usr/bin:/bin"),
            ("BASH_ENV", &self.0.to_string_lossy()),
        ];
        let launch = Launch {
            name: "example".to_owned(),
            arguments: Vec::new(),
            binary: "/bin/bash".into(),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            time_limit,
            log: None,
        };
        FunctionProcess::start(launch).await
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

const IDLE: &str = "exec sleep 600";
const PATIENT: Duration = Duration::from_mins(5);

/// Takes one invocation as a runtime would, and answers it under `path`. Gives the headers and the
/// payload.
async fn take_one(api: &str, path: &str, body: &str) -> Result<(hyper::HeaderMap, String)> {
    let url = format!("{api}{INVOCATIONS}");
    let invocation = clients::http()
        .get(format!("{url}next"))
        .send()
        .await?
        .error_for_status()?;
    let headers = invocation.headers().clone();
    let payload = invocation.text().await?;
    let id = headers["lambda-runtime-aws-request-id"].to_str()?;
    for (id, expected) in [("another", 400), (id, 202), (id, 400)] {
        let answer = clients::http()
            .post(format!("{url}{id}/{path}"))
            .body(body.to_owned())
            .send()
            .await?;
        assert_eq!(
            answer.status().as_u16(),
            expected,
            "{id}: only the invocation that is open, and once"
        );
    }
    Ok((headers, payload))
}

#[tokio::test]
async fn an_invocation_comes_with_its_headers_and_its_answer_goes_back() -> Result<()> {
    let script = Script::new(IDLE)?;
    let mut function = script.start(PATIENT).await?;
    let api = function.runtime_api();
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let (answer, taken) = tokio::join!(
        function.invoke("payload"),
        take_one(&api, "response", "returned")
    );
    let (headers, payload) = taken?;
    assert_eq!(
        (answer?.outcome, payload.as_str()),
        (Ok(Bytes::from("returned")), "payload")
    );
    let deadline: u128 = headers["lambda-runtime-deadline-ms"].to_str()?.parse()?;
    assert!(deadline >= (before + PATIENT).as_millis(), "{deadline}");
    assert_eq!(
        headers["lambda-runtime-invoked-function-arn"],
        "arn:aws:lambda:us-east-1:000000000000:function:example"
    );
    let trace = headers["lambda-runtime-trace-id"].to_str()?;
    assert!(
        trace.starts_with("Root=1-")
            && trace.len() == "Root=1-12345678-123456789012345678901234;Sampled=0".len()
    );

    let (answer, taken) = tokio::join!(function.invoke("again"), take_one(&api, "error", "{}"));
    assert_eq!(
        (answer?.outcome, taken?.1.as_str()),
        (Err(Bytes::from("{}")), "again"),
        "an error is an answer"
    );
    Ok(())
}

#[tokio::test]
async fn a_process_that_ends_is_noticed_with_what_it_said() -> Result<()> {
    let script = Script::new("exit 3")?;
    let mut function = script.start(PATIENT).await?;
    let answer = clients::http()
        .post(format!("{}{INIT_ERROR}", function.runtime_api()))
        .body("no table");
    assert_eq!(answer.send().await?.status().as_u16(), 202);
    let Err(Ended::Exited { status, init_error }) = function.invoke("payload").await else {
        panic!("it ended")
    };
    assert_eq!(
        (status.code(), init_error.as_deref()),
        (Some(3), Some("no table"))
    );
    Ok(())
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_killed() -> Result<()> {
    let script = Script::new(IDLE)?;
    let mut function = script.start(Duration::from_millis(50)).await?;
    let process = format!("/proc/{}", function.pid());
    assert!(matches!(
        function.invoke("payload").await,
        Err(Ended::TimedOut)
    ));
    assert!(!Path::new(&process).exists());
    assert!(
        matches!(function.invoke("payload").await, Err(Ended::Exited { .. })),
        "and cannot be invoked again"
    );
    Ok(())
}
