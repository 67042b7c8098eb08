//! Fits the repository's template for the local deploy: code comes from uploaded objects, and resources that the
//! emulator cannot take are left out. Works on the text, so that everything else stays as it is written.

use anyhow::{Context, Result};

/// Types that are left out, each with the reason that is logged.
const LEFT_OUT: [(&str, &str); 3] = [
    ("AWS::SQS::QueuePolicy", NO_TLS),
    ("AWS::S3::BucketPolicy", NO_TLS),
    ("AWS::Logs::QueryDefinition", "the local AWS does not know the type"),
];
const NO_TLS: &str = "it refuses requests without TLS, and the local AWS speaks plain HTTP";

/// A template fit for the emulator.
#[derive(Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The template.
    pub body: String,
    /// One line for each resource that was left out.
    pub left_out: Vec<String>,
}

/// Replaces each `CodeUri` by the location of the code that `location_of` gives for the resource's `Binary`.
///
/// # Errors
/// When a function names no binary, or one that is not there.
pub fn fit(template: &str, location_of: impl Fn(&str) -> Option<String>) -> Result<Fitted> {
    let mut fitted = Fitted { body: String::new(), left_out: Vec::new() };
    for block in blocks(template) {
        let name = block[0].trim().trim_end_matches(':');
        let kind = value_of(&block, "Type").unwrap_or_default();
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == kind) {
            fitted.left_out.push(format!("{name} ({kind}): {reason}"));
            continue;
        }
        for line in &block {
            match line.split_once("CodeUri:") {
                Some((indent, _)) if indent.trim().is_empty() => {
                    let binary = value_of(&block, "Binary")
                        .with_context(|| format!("{name} names no Binary in its Metadata"))?;
                    let location = location_of(binary)
                        .with_context(|| format!("{name}: the workspace has no function {binary}"))?;
                    fitted.body.extend([indent, "CodeUri: ", &location]);
                }
                _ => fitted.body.push_str(line),
            }
            fitted.body.push('\n');
        }
    }
    Ok(fitted)
}

/// The lines, cut before each key of the second level: a resource is one block.
fn blocks(template: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in template.lines() {
        let indent = line.len() - line.trim_start().len();
        let starts = indent <= 2 && !line.trim().is_empty();
        match blocks.last_mut() {
            Some(block) if !starts => block.push(line),
            _ => blocks.push(vec![line]),
        }
    }
    blocks
}

fn value_of<'a>(block: &[&'a str], key: &str) -> Option<&'a str> {
    block.iter().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "\
Resources:
  # What comes in.
  IngestFunction:
    Type: AWS::Serverless::Function
    Metadata:
      BuildProperties:
        Binary: ingest
    Properties:
      CodeUri: functions/ingest

  Policy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Queue]
  Queue:
    Type: AWS::SQS::Queue
Outputs:
  Url:
    Value: !Ref Queue
";

    #[test]
    fn code_comes_from_the_upload_and_all_else_stays() -> Result<()> {
        let fitted = fit(TEMPLATE, |binary| Some(format!("s3://code/{binary}")))?;
        let (policy, rest) = (TEMPLATE.find("  Policy:"), TEMPLATE.find("  Queue:"));
        let (Some(policy), Some(rest)) = (policy, rest) else { panic!("the template above has both") };
        let expected =
            format!("{}{}", &TEMPLATE[..policy], &TEMPLATE[rest..]).replace("functions/ingest", "s3://code/ingest");
        assert_eq!(fitted.body, expected);
        Ok(())
    }

    #[test]
    fn what_is_left_out_is_named_with_the_reason() -> Result<()> {
        let fitted = fit(TEMPLATE, |_| Some(String::new()))?;
        assert_eq!(fitted.left_out.len(), 1);
        assert!(fitted.left_out[0].starts_with("Policy (AWS::SQS::QueuePolicy): "));
        Ok(())
    }

    #[test]
    fn a_function_without_its_binary_is_refused() {
        let error = fit(TEMPLATE, |_| None).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("IngestFunction: the workspace has no function ingest"));
    }
}
