//! The files by which other programs use the local AWS: variables for `cargo lambda watch`, the
//! console and a shell, and the key pair for curl, on whose command line any user of the machine
//! could read it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};

use crate::{clients::Keys, stack::Stack};

/// Writes the variables.
pub async fn write(path: &Path, stack: &Stack) -> Result<()> {
    let mut variables = stack.function_variables().await?;
    variables.extend(
        stack
            .keys()
            .environment()
            .map(|(name, value)| (name.into(), value)),
    );
    variables.insert("AWS_ENDPOINT_URL".into(), stack.endpoint());
    write_for_owner(path, &content(&variables))
}

/// Writes the key pair as curl takes it with `--config`.
pub fn write_for_curl(path: &Path, keys: &Keys) -> Result<()> {
    write_for_owner(path, &format!("user = \"{}:{}\"\n", keys.id, keys.secret))
}

/// Writes a file that only its owner can read, at any moment.
fn write_for_owner(path: &Path, content: &str) -> Result<()> {
    let write = || -> io::Result<()> {
        // One that is there keeps its mode.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?
            .write_all(content.as_bytes())
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

fn content(variables: &BTreeMap<String, String>) -> String {
    variables
        .iter()
        .flat_map(|(name, value)| [name, "=", value, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_can_read_the_file() -> Result<()> {
        let path = std::env::temp_dir().join(format!("env-{}", std::process::id()));
        fs::write(&path, "from before")?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
        write_for_owner(&path, "A=1\n")?;
        let written = (
            fs::read_to_string(&path)?,
            fs::metadata(&path)?.permissions().mode() & 0o777,
        );
        fs::remove_file(&path)?;
        assert_eq!(written, ("A=1\n".into(), 0o600));
        Ok(())
    }

    #[test]
    fn there_is_one_variable_on_each_line() {
        let variables = BTreeMap::from([
            ("B".into(), "2".into()),
            ("A".into(), "http://127.0.0.1:1".into()),
        ]);
        assert_eq!(content(&variables), "A=http://127.0.0.1:1\nB=2\n");
    }
}
