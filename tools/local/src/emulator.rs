//! The process that plays AWS: started on a port of 127.0.0.1, watched, and ended with all it
//! started.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    clients::{self, Keys},
    python,
    workspace::Workspace,
};

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/emulator/serve.py");
const START_LIMIT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);
/// Attempts to start where another process takes the free port first.
const PORT_ATTEMPTS: u32 = 5;
const LOG_TAIL_LINES: usize = 12;

/// Error of the emulator.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// Only for a port that was asked for.
    #[error(
        "Port {port} of 127.0.0.1 is taken by another program. End that program, or choose another port with --port."
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// It ended by itself.
    #[error(
        "The local AWS (process {pid}) ended unexpectedly: {status}.\nAll that it held is gone; start again with the same command. \
         If it happens again, its log tells why: {log}\nThe last lines:\n{tail}"
    )]
    Died {
        /// Its process id.
        pid: u32,
        /// Exit code or signal.
        status: ExitStatus,
        /// Path of its log.
        log: String,
        /// The end of that log.
        tail: String,
    },
}

/// A running emulator. Dropping it ends it, and the functions it runs, at once.
#[derive(Debug)]
pub struct Emulator {
    child: Mutex<Child>,
    pid: u32,
    port: u16,
    keys: Keys,
    folder: PathBuf,
    keep_log: AtomicBool,
}

impl Emulator {
    /// Prepares a start, and reports obstacles before a build.
    pub async fn prepare(workspace: &Workspace, port: Option<u16>) -> Result<()> {
        port.map_or(Ok(0), free_port)?;
        let local = private_folder(workspace)?;
        tidy(&local.join("run"));
        python::environment(&local, python::EMULATOR)
            .await
            .map(drop)
    }

    /// Starts one on the given port, or on a free one, and waits until it answers. The functions
    /// find `variables` in their environment.
    pub async fn start(
        workspace: &Workspace,
        port: Option<u16>,
        variables: &[(&str, String)],
    ) -> Result<Self> {
        let local = private_folder(workspace)?;
        let python = python::environment(&local, python::EMULATOR).await?;
        if let Some(port) = port {
            free_port(port)?;
            let started = Self::start_on(&python, &local, port, variables).await;
            return started.map_err(|error| {
                if lost_its_port(&error) {
                    EmulatorError::PortTaken { port }.into()
                } else {
                    error
                }
            });
        }
        for _ in 1..PORT_ATTEMPTS {
            match Self::start_on(&python, &local, free_port(0)?, variables).await {
                Err(error) if lost_its_port(&error) => {}
                started => return started,
            }
        }
        Self::start_on(&python, &local, free_port(0)?, variables).await
    }

    async fn start_on(
        python: &Path,
        local: &Path,
        port: u16,
        variables: &[(&str, String)],
    ) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{}-{}",
            process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        );
        let folder = local.join("run").join(&name);
        let temporary = folder.join("tmp");
        fs::create_dir_all(&temporary)
            .with_context(|| format!("could not create {}", temporary.display()))?;
        let log = File::create(folder.join("emulator.log"))?;
        let mut command = Command::new(python);
        // Functions inherit the emulator's environment: it starts from nothing, so that no
        // credentials and no settings of the person who runs this reach them.
        command.env_clear().envs(
            ["PATH", "HOME"]
                .into_iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command.envs([
            ("AWS_ENDPOINT_URL", endpoint(port)),
            ("AWS_DEFAULT_REGION", clients::REGION.into()),
            ("BIND_HOST", Ipv4Addr::LOCALHOST.to_string()),
            ("GATEWAY_PORT", port.to_string()),
            ("MINISTACK_REGION", clients::REGION.into()),
            ("TMPDIR", temporary.display().to_string()),
            ("STATE_DIR", folder.join("state").display().to_string()),
            // Functions run under the policies of their roles, as on AWS.
            ("AUTH", "true".into()),
            // Shown by the health page, and so a name by which it can be told from another one on
            // the same port.
            ("MINISTACK_EDITION", name.clone()),
            ("SFTP_ENABLED", "0".into()),
            ("IOT_MTLS_ENABLED", "0".into()),
        ]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        // The server takes its process group along when this pipe closes, and the pipe closes
        // however we end.
        let mut child = command
            .arg(SERVER)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let keys = Keys::random();
        // Not by the environment, which functions inherit, nor the command line, which everybody
        // reads.
        let told = child.stdin.as_mut().map(|input| {
            writeln!(
                input,
                "{}",
                json!({ "key_id": keys.id, "secret": keys.secret })
            )
        });
        let emulator = Self {
            pid: child.id(),
            child: Mutex::new(child),
            port,
            keys,
            folder,
            keep_log: AtomicBool::new(false),
        };
        // It may have ended already: then that is the error, not the broken pipe.
        drop(told);
        emulator.answers_as(&name).await?;
        Ok(emulator)
    }

    async fn answers_as(&self, name: &str) -> Result<()> {
        let url = format!("{}/_ministack/health", self.endpoint());
        let deadline = Instant::now() + START_LIMIT;
        loop {
            self.check()?;
            if health(&url)
                .await
                .is_ok_and(|health| health["edition"] == name)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "The local AWS does not answer; see its log: {}",
                    self.log_file().display()
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// The address that the SDKs are pointed at.
    pub fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    /// The port of that address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The key pair to which it allows everything.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Configuration of clients with that key pair.
    pub async fn config(&self) -> SdkConfig {
        clients::config(&self.endpoint(), &self.keys).await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Log of the emulator and of the functions' life cycle. Kept after a failure, removed after a
    /// clean end.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("emulator.log")
    }

    /// Something failed for which the log may hold the cause: it is kept when the emulator ends.
    pub fn keep_log(&self) {
        self.keep_log.store(true, Ordering::Relaxed);
    }

    /// True while it runs.
    pub fn check(&self) -> Result<(), EmulatorError> {
        let ended = self
            .child
            .lock()
            .ok()
            .and_then(|mut child| child.try_wait().ok().flatten());
        let Some(status) = ended else { return Ok(()) };
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        Err(EmulatorError::Died {
            pid: self.pid,
            status,
            log: self.log_file().display().to_string(),
            tail,
        })
    }

    /// Comes back only when the emulator has ended by itself.
    pub async fn died(&self) -> EmulatorError {
        loop {
            if let Err(died) = self.check() {
                return died;
            }
            sleep(PAUSE).await;
        }
    }

    /// The live processes of a function, by its deployed name. Reads `/proc`, so Linux only.
    pub fn pids_of(&self, function: &str) -> io::Result<Vec<u32>> {
        let marks = [
            format!("AWS_LAMBDA_FUNCTION_NAME={function}"),
            format!("AWS_ENDPOINT_URL={}", self.endpoint()),
        ];
        let pids = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(pids
            .filter(|pid: &u32| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let variables: Vec<_> = environment.split(|byte| *byte == 0).collect();
                marks
                    .iter()
                    .all(|mark| variables.contains(&mark.as_bytes()))
            })
            .collect())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let died = self.check().is_err();
        let keep_log = died || thread::panicking() || self.keep_log.load(Ordering::Relaxed);
        // The whole group: a function in flight survives the server. All its processes were started
        // by it.
        if let Ok(group) = i32::try_from(self.pid) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        if let Ok(mut child) = self.child.lock() {
            drop(child.wait());
        }
        let useless = if keep_log {
            self.folder.join("tmp")
        } else {
            self.folder.clone()
        };
        // Not `eprintln!`: it panics when standard error is closed, and a panic in a drop aborts.
        if let Err(error) = fs::remove_dir_all(&useless) {
            drop(writeln!(
                io::stderr(),
                "Could not remove {}: {error}",
                useless.display()
            ));
        }
        if keep_log && !died {
            drop(writeln!(
                io::stderr(),
                "The log of the local AWS is kept: {}",
                self.log_file().display()
            ));
        }
    }
}

/// Private folder of a local AWS: the functions' code, their state and log, and the key pair.
fn private_folder(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.local();
    fs::create_dir_all(&folder)
        .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o700)))
        .with_context(|| format!("could not keep {} from others", folder.display()))?;
    Ok(folder)
}

/// Removes what processes that were killed have left behind, but for the logs.
fn tidy(runs: &Path) {
    for folder in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = folder.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.split_once('-')?.0.parse().ok());
        if owner.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
            // Nothing is lost when this fails, or when another process does the same.
            drop(fs::remove_dir_all(folder.path().join("tmp")));
        }
    }
}

async fn health(url: &str) -> Result<Value> {
    Ok(serde_json::from_slice(
        &clients::http().get(url).send().await?.bytes().await?,
    )?)
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The port itself, or one that the system chooses for 0.
fn free_port(port: u16) -> Result<u16> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => Ok(listener.local_addr()?.port()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(EmulatorError::PortTaken { port }.into())
        }
        Err(error) => Err(error).with_context(|| format!("could not use port {port}")),
    }
}

fn lost_its_port(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(EmulatorError::Died { tail, .. }) if tail.contains("already in use"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() -> Result<()> {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = taken.local_addr()?.port();
        let error = free_port(port).err().map(|error| error.to_string());
        assert!(
            error.is_some_and(|text| text.contains(&port.to_string()) && text.contains("--port"))
        );
        Ok(())
    }
}
