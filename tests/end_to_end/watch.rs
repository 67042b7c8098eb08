//! `cargo lambda watch` and `cargo lambda invoke`, as `docs/develop/local-aws.md` has them, against
//! the queues of a local stack.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use local::genesys::Webhook;
use local::python::{self, Packages};
use local::target::Behaviour;
use local::workspace::Workspace;
use local::{env_file, wait};
use serde_json::{Value, json};

use crate::relay::{Relay, assert_has};

const CARGO_LAMBDA: Packages = Packages {
    name: "cargo lambda",
    requirements: include_str!("cargo-lambda.txt"),
};

/// The files of this test, in the build's own folder.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A Cargo whose `run --bin NAME` compiles no crate that the tests have compiled: the features of a
/// function alone are others.
fn cargo() -> Result<PathBuf> {
    let (path, cargo) = (scratch("cargo"), env!("CARGO"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = run ] || exec '{cargo}' \"$@\"\nshift $(($# - 1))\n\
         exec '{cargo}' run --quiet --locked --package launch -- \"$1\"\n"
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// `cargo lambda watch` and the functions it runs, in a process group of their own.
struct Watch {
    child: Child,
    cargo_lambda: PathBuf,
    port: u16,
}

impl Watch {
    fn start(cargo_lambda: PathBuf, env_file: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(scratch("cargo-lambda-watch.log"))?;
        let child = Command::new(&cargo_lambda)
            .args([
                "lambda",
                "watch",
                "--ignore-changes",
                "--invoke-address",
                "127.0.0.1",
            ])
            .args(["--invoke-port", &port.to_string()])
            .arg("--env-file")
            .arg(env_file)
            .env("CARGO", cargo()?)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cargo lambda watch")?;
        Ok(Self {
            child,
            cargo_lambda,
            port,
        })
    }

    /// Invokes a function with a file of `events/`. The first time it is linked.
    async fn invoke(&self, function: &str, event: &str) -> Result<Value> {
        let output = tokio::process::Command::new(&self.cargo_lambda)
            .args([
                "lambda",
                "invoke",
                "--invoke-address",
                "127.0.0.1",
                "--invoke-port",
                &self.port.to_string(),
            ])
            .args([function, "--data-file", &format!("events/{event}.json")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .await?;
        let log = || std::fs::read_to_string(scratch("cargo-lambda-watch.log")).unwrap_or_default();
        ensure!(
            output.status.success(),
            "{function}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            log()
        );
        serde_json::from_slice(&output.stdout).context("a JSON answer")
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill")
            .args([signal, "--", &group])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.signal("-KILL");
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn cargo_lambda_serves_all_functions() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[("RecoverySource", "webhook-deliveries")]).await?;
    let interpreter =
        python::environment(&Workspace::locate().await?.local(), CARGO_LAMBDA).await?;
    let env_file = scratch("cargo-lambda-watch.env");
    env_file::write(&env_file, &relay.stack).await?;
    let watch = Watch::start(interpreter.with_file_name("cargo-lambda"), &env_file)?;
    let url = format!("http://127.0.0.1:{}/webhook/genesys", watch.port);
    wait::until("cargo lambda watch listens", || async {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", watch.port))
            .await
            .ok())
    })
    .await?;

    let status = watch.invoke("replay", "replay-status").await?;
    assert_has(&status, json!({ "/deadLetters/visible": 0 }));

    let report = watch.invoke("recovery", "recovery-scheduled").await?;
    assert_has(&report, json!({ "fetched": 0, "complete": true }));

    let answer = watch.invoke("processor", "processor-sent-by-hand").await?;
    assert_eq!(answer, json!({ "batchItemFailures": [] }));
    assert_eq!(relay.target.requests().len(), 1, "delivered to the target");

    let answer = watch.invoke("ingest", "ingest-open-messaging-text").await?;
    assert_has(&answer, json!({ "statusCode": 200 }));
    let webhook = Webhook::with_shared_secret(r#"{"by":"curl"}"#);
    let (status, answer) = webhook.send(&url).await?;
    assert_eq!(status, 200, "{answer}");
    assert_has(&answer, json!({ "status": "accepted" }));
    let three = |requests: &[_]| requests.len() == 3;
    let wait = relay.target.until("all are delivered", three);
    wait.await.map(drop)
}
