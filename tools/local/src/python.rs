//! Private Python environments for the tools that come as wheels: pinned, hashed, made once.

use std::{
    env,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::{process::Command, time::sleep};

/// The emulator, and all that it needs.
pub const EMULATOR: Packages = Packages {
    name: "the local AWS",
    requirements: include_str!("../emulator/requirements.txt"),
};

const OLDEST: (u32, u32) = (3, 11);
const CANDIDATES: [&str; 5] = [
    "python3",
    "python3.14",
    "python3.13",
    "python3.12",
    "python3.11",
];

/// Packages of an environment.
#[derive(Debug, Clone, Copy)]
pub struct Packages {
    /// Name for people.
    pub name: &'static str,
    /// A pip requirements file that pins everything with hashes, what is needed indirectly as well.
    pub requirements: &'static str,
}

/// Error of the Python environment, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// No interpreter at all.
    #[error(
        "Python was not found (tried: {tried}). Install Python 3.11 or newer, or set PYTHON to its path."
    )]
    Missing {
        /// The names that were tried.
        tried: String,
    },
    /// Interpreters, but none that the emulator runs on.
    #[error(
        "Python 3.11 or newer is needed; found: {found}. Install a newer one, or set PYTHON to its path."
    )]
    TooOld {
        /// Interpreters that were found, with versions.
        found: String,
    },
    /// Debian and others ship Python without it.
    #[error(
        "{python} cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv\n{output}"
    )]
    NoVenv {
        /// The interpreter.
        python: String,
        /// Its output.
        output: String,
    },
    /// Most often the machine is offline.
    #[error(
        "pip could not install {name}; what it said stands above. The first run needs the Python package index: \
         check the network, or your pip configuration (proxy, index), then run this again."
    )]
    Install {
        /// Packages to be installed.
        name: &'static str,
    },
}

/// The interpreter of the environment, which is made first if need be. Several processes may ask at
/// the same time.
pub async fn environment(local: &Path, packages: Packages) -> Result<PathBuf> {
    let digest = Sha256::digest(packages.requirements);
    let home = local.join(format!(
        "python-{}",
        BASE64_URL_SAFE_NO_PAD.encode(&digest[..9])
    ));
    // Follows the link to the system's Python: when that is gone, the environment is built again.
    let interpreter = home.join("bin/python");
    if interpreter.exists() {
        return Ok(interpreter);
    }
    fs::create_dir_all(local).with_context(|| format!("could not create {}", local.display()))?;
    let _lock = lock(&local.join("python.lock")).await?;
    if !interpreter.exists() {
        let python = interpreter_of_this_machine().await?;
        // Whole or not at all: it takes its name only when it is complete.
        let partial = local.join("python.partial");
        for leftover in [&partial, &home] {
            remove_if_there(leftover)?;
        }
        fill(&python, &partial, packages).await?;
        fs::rename(&partial, &home).context("could not rename the finished Python environment")?;
    }
    Ok(interpreter)
}

async fn lock(path: &Path) -> Result<File> {
    let file = File::create(path)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if !told => {
                eprintln!("Another process is setting up its tools; waiting for it.");
                told = true;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).context("could not lock the Python environment");
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn remove_if_there(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

async fn interpreter_of_this_machine() -> Result<String, PythonError> {
    let candidates = match env::var("PYTHON") {
        Ok(python) => vec![python],
        Err(_) => CANDIDATES.map(String::from).to_vec(),
    };
    let mut too_old = Vec::new();
    for candidate in &candidates {
        match version_of(candidate).await {
            Some(version) if version >= OLDEST => return Ok(candidate.clone()),
            Some((major, minor)) => too_old.push(format!("{candidate} {major}.{minor}")),
            None => {}
        }
    }
    if too_old.is_empty() {
        return Err(PythonError::Missing {
            tried: candidates.join(", "),
        });
    }
    Err(PythonError::TooOld {
        found: too_old.join(", "),
    })
}

async fn version_of(python: &str) -> Option<(u32, u32)> {
    let script = "import sys; print(sys.version_info[0], sys.version_info[1])";
    let output = Command::new(python)
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .await
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(printed: &str) -> Option<(u32, u32)> {
    let (major, minor) = printed.trim().split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn fill(python: &str, folder: &Path, packages: Packages) -> Result<()> {
    let name = packages.name;
    eprintln!("Setting up {name} with {python}, once; this takes about a minute.");
    let venv = Command::new(python)
        .args(["-m", "venv"])
        .arg(folder)
        .kill_on_drop(true)
        .output()
        .await?;
    if !venv.status.success() {
        let output = [venv.stdout, venv.stderr].concat();
        return Err(PythonError::NoVenv {
            python: python.into(),
            output: String::from_utf8_lossy(&output).into_owned(),
        }
        .into());
    }
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, packages.requirements)?;
    let pip = Command::new(folder.join("bin/python"))
        .args([
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            "--no-deps",
            "--require-hashes",
            "--requirement",
        ])
        .arg(&requirements)
        .stdout(io::stderr())
        .kill_on_drop(true)
        .status()
        .await?;
    if pip.success() {
        Ok(())
    } else {
        Err(PythonError::Install { name }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("3 9\n") < Some(OLDEST));
        assert!(parse_version("3 14\n") > Some(OLDEST));
        assert_eq!(parse_version("no Python"), None);
    }
}
