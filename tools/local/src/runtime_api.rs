//! A Lambda Runtime API for one function: its binary as a process of its own, without an emulator
//! between.
//!
//! After the Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes". One
//! invocation at a time, as Lambda does it. What the function may do is decided by the environment
//! that it is given, and by nothing else.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    http,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use crate::{clients::REGION, server::Server};

const INVOCATIONS: &str = "/2018-06-01/runtime/invocation/";
const INIT_ERROR: &str = "/2018-06-01/runtime/init/error";

/// Launch parameters of a function's process.
#[derive(Debug)]
pub struct Launch {
    /// The function's name.
    pub name: String,
    /// Its binary, or what runs it.
    pub binary: PathBuf,
    /// Command-line arguments of the binary. Lambda gives none.
    pub arguments: Vec<OsString>,
    /// Its variables. Those that Lambda sets by itself are added.
    pub environment: BTreeMap<String, String>,
    /// Time after which an invocation is killed, as `Timeout` in the template.
    pub time_limit: Duration,
    /// The file for its log, standard error included. Without one, its log goes nowhere.
    pub log: Option<PathBuf>,
}

/// A function that runs. Dropping it ends the process.
#[derive(Debug)]
pub struct FunctionProcess {
    arn: String,
    time_limit: Duration,
    process: Child,
    pid: u32,
    started: Instant,
    invocations: mpsc::Sender<Invocation>,
    shared: Arc<Shared>,
    server: Server,
}

/// Answer of a function to a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationAnswer {
    /// Returned value or reported error, as JSON.
    pub outcome: Result<Bytes, Bytes>,
    /// Time from the payload to the answer.
    pub took: Duration,
}

/// A function that is no more. It cannot be invoked again.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The process ended in the middle, or before it asked for its first invocation.
    #[error("the function's process ended: {status}{}", .init_error.as_deref().map_or_else(String::new, |error| format!(", after {error}")))]
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// Its report to `init/error`.
        init_error: Option<String>,
    },
    /// It did not answer in time, and was killed, as Lambda does it.
    #[error("the function did not answer before its time-out and was killed")]
    TimedOut,
    /// The machine would not tell.
    #[error("could not watch the function's process")]
    Lost(#[source] io::Error),
}

/// A payload on its way.
#[derive(Debug)]
struct Invocation {
    request_id: String,
    arn: String,
    deadline: SystemTime,
    payload: Bytes,
}

/// State shared by the HTTP side and the caller.
#[derive(Debug)]
struct Shared {
    queue: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    open: Mutex<Option<Open>>,
    /// Number of its requests for an invocation, and the time of the first.
    asked: watch::Sender<(usize, Option<Instant>)>,
    init_error: Mutex<Option<String>>,
}

/// The invocation that has no answer yet.
#[derive(Debug)]
struct Open {
    request_id: String,
    handed_out: Option<Instant>,
    answer: oneshot::Sender<InvocationAnswer>,
}

impl FunctionProcess {
    /// Starts the binary.
    pub async fn start(launch: Launch) -> Result<Self> {
        let (invocations, queue) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            queue: tokio::sync::Mutex::new(queue),
            open: Mutex::default(),
            asked: watch::Sender::default(),
            init_error: Mutex::default(),
        });
        let of_server = Arc::clone(&shared);
        let server = Server::start(move |request| serve(request, Arc::clone(&of_server))).await?;
        let Launch {
            name,
            binary,
            arguments,
            environment,
            time_limit,
            log,
        } = launch;
        let (log, errors) = match log {
            Some(path) => {
                let file = File::create(&path)
                    .with_context(|| format!("could not write {}", path.display()))?;
                (file.try_clone()?.into(), file.into())
            }
            None => (Stdio::null(), Stdio::inherit()),
        };
        let started = Instant::now();
        let process = Command::new(&binary)
            .args(arguments)
            .env_clear()
            .envs([
                (
                    "AWS_LAMBDA_RUNTIME_API",
                    server.url().trim_start_matches("http://"),
                ),
                ("AWS_LAMBDA_FUNCTION_NAME", &name),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_REGION", REGION),
            ])
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", binary.display()))?;
        let pid = process.id().context("it has ended already")?;
        let arn = format!("arn:aws:lambda:{REGION}:000000000000:function:{name}");
        Ok(Self {
            arn,
            time_limit,
            process,
            pid,
            started,
            invocations,
            shared,
            server,
        })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The address of its Runtime API.
    pub fn runtime_api(&self) -> String {
        self.server.url()
    }

    /// Waits until it asks for its first invocation, and gives the time from its start to then:
    /// what Lambda calls INIT.
    pub async fn init(&mut self) -> Result<Duration, Ended> {
        self.has_asked(1).await?;
        let first = self.shared.asked.borrow().1;
        Ok(first.map_or(Duration::ZERO, |first| first.duration_since(self.started)))
    }

    /// Waits until it has asked for so many invocations: then it is done with those before.
    pub async fn has_asked(&mut self, times: usize) -> Result<(), Ended> {
        let mut asked = self.shared.asked.subscribe();
        let status = tokio::select! {
            biased;
            outcome = asked.wait_for(|(asked, _)| *asked >= times) => match outcome {
                Ok(_) => return Ok(()),
                Err(_) => self.process.wait().await,
            },
            status = self.process.wait() => status,
        };
        Err(self.ended(status))
    }

    /// Asks the process to end (SIGTERM), as Lambda does with an environment that is not needed any
    /// more, and waits until it has.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.pid).context("no process has such an id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("could not end the function")?;
        Ok(self.process.wait().await?)
    }

    /// Invokes it, and waits for what comes of it. That the function reports an error is an answer.
    pub async fn invoke(&mut self, payload: impl Into<Bytes>) -> Result<InvocationAnswer, Ended> {
        let request_id = Uuid::new_v4().to_string();
        let (answer, answered) = oneshot::channel();
        *lock(&self.shared.open) = Some(Open {
            request_id: request_id.clone(),
            handed_out: None,
            answer,
        });
        let invocation = Invocation {
            request_id,
            arn: self.arn.clone(),
            deadline: SystemTime::now() + self.time_limit,
            payload: payload.into(),
        };
        let deadline = Instant::now() + self.time_limit;
        let exchange = async {
            // Fails only when the server is gone, and then there is no answer either.
            drop(self.invocations.send(invocation).await);
            answered.await
        };
        let status = tokio::select! {
            biased;
            outcome = timeout_at(deadline, exchange) => match outcome {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) => self.process.wait().await,
                Err(_) => {
                    self.process.kill().await.map_err(Ended::Lost)?;
                    return Err(Ended::TimedOut);
                }
            },
            status = self.process.wait() => status,
        };
        Err(self.ended(status))
    }

    fn ended(&self, status: io::Result<ExitStatus>) -> Ended {
        match status {
            Ok(status) => Ended::Exited {
                status,
                init_error: lock(&self.shared.init_error).take(),
            },
            Err(error) => Ended::Lost(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type HttpResult = Result<Response<Full<Bytes>>, hyper::Error>;

async fn serve(request: Request<Incoming>, shared: Arc<Shared>) -> HttpResult {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path();
    if (&head.method, path) == (&Method::POST, INIT_ERROR) {
        *lock(&shared.init_error) = Some(String::from_utf8_lossy(&body).into_owned());
        return Ok(answer(StatusCode::ACCEPTED));
    }
    let call = path.strip_prefix(INVOCATIONS).unwrap_or_default();
    Ok(match (&head.method, call.split_once('/')) {
        (&Method::GET, None) if call == "next" => next(&shared).await,
        (&Method::POST, Some((id, "response"))) => settle(&shared, id, Ok(body)),
        (&Method::POST, Some((id, "error"))) => settle(&shared, id, Err(body)),
        _ => answer(StatusCode::NOT_FOUND),
    })
}

/// Waits for the next payload, for as long as it takes.
async fn next(shared: &Shared) -> Response<Full<Bytes>> {
    shared.asked.send_modify(|(asked, first)| {
        *asked += 1;
        first.get_or_insert_with(Instant::now);
    });
    let Some(invocation) = shared.queue.lock().await.recv().await else {
        return answer(StatusCode::GONE);
    };
    let deadline = invocation
        .deadline
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let trace = format!(
        "Root=1-{:08x}-{:.24};Sampled=0",
        deadline / 1000,
        invocation.request_id.replace('-', "")
    );
    if let Some(open) = &mut *lock(&shared.open) {
        open.handed_out = Some(Instant::now());
    }
    Response::builder()
        .header("Content-Type", "application/json")
        .header("Lambda-Runtime-Aws-Request-Id", invocation.request_id)
        .header("Lambda-Runtime-Deadline-Ms", deadline.to_string())
        .header("Lambda-Runtime-Invoked-Function-Arn", invocation.arn)
        .header("Lambda-Runtime-Trace-Id", trace)
        .body(Full::from(invocation.payload))
        .unwrap_or_else(|_: http::Error| answer(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Takes the answer to the invocation that is open. An answer to another one is refused, as on
/// Lambda.
fn settle(
    shared: &Shared,
    request_id: &str,
    outcome: Result<Bytes, Bytes>,
) -> Response<Full<Bytes>> {
    let open = lock(&shared.open).take_if(|open| open.request_id == request_id);
    let Some(open) = open else {
        return answer(StatusCode::BAD_REQUEST);
    };
    let took = open.handed_out.map_or(Duration::ZERO, |at| at.elapsed());
    // Who asked may have given up.
    drop(open.answer.send(InvocationAnswer { outcome, took }));
    answer(StatusCode::ACCEPTED)
}

fn answer(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{{\"status\":\"{status}\"}}")));
    *response.status_mut() = status;
    response
}
