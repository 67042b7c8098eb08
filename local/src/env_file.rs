//! The file of variables with which `cargo lambda watch` runs the functions against the deployed queues.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

use crate::{clients, stack::Stack};

/// Writes it.
///
/// # Errors
/// When the variables cannot be read, or the file cannot be written.
pub async fn write(path: &Path, stack: &Stack) -> Result<()> {
    let mut variables = stack.function_variables().await?;
    variables.extend(clients::ENVIRONMENT.map(|(name, value)| (name.into(), value.into())));
    variables.insert("AWS_ENDPOINT_URL".into(), stack.endpoint());
    fs::write(path, content(&variables)).with_context(|| format!("cannot write {}", path.display()))
}

fn content(variables: &BTreeMap<String, String>) -> String {
    variables.iter().flat_map(|(name, value)| [name, "=", value, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_variable_on_each_line() {
        let variables = BTreeMap::from([("B".into(), "2".into()), ("A".into(), "http://127.0.0.1:1".into())]);
        assert_eq!(content(&variables), "A=http://127.0.0.1:1\nB=2\n");
    }
}
