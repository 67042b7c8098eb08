//! Fits a template of the repository for the local deploy: code and nested templates come from
//! uploaded objects, resources that the emulator does not support are left out, and schedules can
//! be stopped. Works on the text, so that everything else stays as it is written.

use anyhow::{Context, Result};

/// Types that are left out, each with the reason that is logged.
const LEFT_OUT: [(&str, &str); 1] = [(
    "AWS::Logs::QueryDefinition",
    "the local AWS does not know the type",
)];

const SCHEDULE: &str = "AWS::Scheduler::Schedule";

/// The source of partner events of Genesys Cloud, and the one that stands for it: the local AWS,
/// like `PutEvents` of AWS, refuses events whose source begins with `aws`.
const PARTNER_SOURCE: &str = "prefix: aws.partner/genesys.com";
const LOCAL_SOURCE: &str = "prefix: local.partner/genesys.com";

/// State of the deployed schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedules {
    /// They run as the template says.
    Running,
    /// They exist, and never run by themselves.
    Stopped,
}

/// A template that the emulator can deploy.
#[derive(Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The template.
    pub body: String,
    /// One line for each resource that was left out.
    pub left_out: Vec<String>,
    /// The paths of the templates of nested stacks, as this one names them.
    pub nested: Vec<String>,
}

/// Replaces each `CodeUri` by the location of the code that `location_of` gives for the resource's
/// `Binary`, and each `TemplateURL` by the URL that `url_of` gives for the path of the nested
/// template.
pub fn fit(
    template: &str,
    schedules: Schedules,
    location_of: impl Fn(&str) -> Option<String>,
    url_of: impl Fn(&str) -> String,
) -> Result<Fitted> {
    let mut fitted = Fitted {
        body: String::new(),
        left_out: Vec::new(),
        nested: Vec::new(),
    };
    for block in blocks(template) {
        let name = block[0].trim().trim_end_matches(':');
        let kind = value_of(&block, "Type").unwrap_or_default();
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == kind) {
            fitted.left_out.push(format!("{name} ({kind}): {reason}"));
            continue;
        }
        for line in &block {
            let indent = &line[..line.len() - line.trim_start().len()];
            match line.trim_start().split_once(": ") {
                Some(("CodeUri", _)) => {
                    let binary = value_of(&block, "Binary")
                        .with_context(|| format!("{name} names no Binary in its Metadata"))?;
                    let location = location_of(binary).with_context(|| {
                        format!("{name}: the workspace has no function {binary}")
                    })?;
                    fitted.body.extend([indent, "CodeUri: ", &location]);
                }
                Some(("TemplateURL", path)) => {
                    fitted.body.extend([indent, "TemplateURL: ", &url_of(path)]);
                    fitted.nested.push(path.to_owned());
                }
                _ => fitted
                    .body
                    .push_str(&line.replace(PARTNER_SOURCE, LOCAL_SOURCE)),
            }
            fitted.body.push('\n');
            if kind == SCHEDULE && schedules == Schedules::Stopped && line.trim() == "Properties:" {
                fitted.body.push_str("      State: DISABLED\n");
            }
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
    block.iter().find_map(|line| {
        line.trim()
            .strip_prefix(key)?
            .strip_prefix(':')
            .map(str::trim)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "\
Resources:
  # Webhooks.
  IngestFunction:
    Type: AWS::Serverless::Function
    Metadata:
      BuildProperties:
        Binary: ingest
    Properties:
      CodeUri: functions/ingest

  Query:
    Type: AWS::Logs::QueryDefinition
    Properties:
      Name: failures
  Queue:
    Type: AWS::SQS::Queue
  Schedule:
    Type: AWS::Scheduler::Schedule
    Properties:
      ScheduleExpression: rate(1 minute)
  Rule:
    Type: AWS::Events::Rule
    Properties:
      EventPattern:
        source:
          - prefix: aws.partner/genesys.com
  Alarms:
    Type: AWS::CloudFormation::Stack
    Properties:
      TemplateURL: infra/alarms.yaml
Outputs:
  Url:
    Value: !Ref Queue
";

    fn url_of(path: &str) -> String {
        format!("http://127.0.0.1/code/{path}")
    }

    #[test]
    fn uploads_and_local_source_replace_the_originals_and_the_rest_stays() -> Result<()> {
        let fitted = fit(
            TEMPLATE,
            Schedules::Running,
            |binary| Some(format!("s3://code/{binary}")),
            url_of,
        )?;
        let (query, rest) = (TEMPLATE.find("  Query:"), TEMPLATE.find("  Queue:"));
        let (Some(query), Some(rest)) = (query, rest) else {
            panic!("the template above has both")
        };
        let expected = format!("{}{}", &TEMPLATE[..query], &TEMPLATE[rest..])
            .replace("functions/ingest", "s3://code/ingest")
            .replace(
                "infra/alarms.yaml",
                "http://127.0.0.1/code/infra/alarms.yaml",
            )
            .replace("aws.partner", "local.partner");
        assert_eq!(fitted.body, expected);
        assert_eq!(fitted.nested, ["infra/alarms.yaml"]);
        Ok(())
    }

    #[test]
    fn left_out_resource_is_named_with_its_reason() -> Result<()> {
        let fitted = fit(
            TEMPLATE,
            Schedules::Running,
            |_| Some(String::new()),
            url_of,
        )?;
        assert_eq!(fitted.left_out.len(), 1);
        assert!(fitted.left_out[0].starts_with("Query (AWS::Logs::QueryDefinition): "));
        Ok(())
    }

    #[test]
    fn schedules_are_stopped_on_request() -> Result<()> {
        let [running, stopped] = [Schedules::Running, Schedules::Stopped]
            .map(|schedules| fit(TEMPLATE, schedules, |_| Some(String::new()), url_of));
        let properties = "    Type: AWS::Scheduler::Schedule\n    Properties:\n";
        let expected = running?
            .body
            .replace(properties, &format!("{properties}      State: DISABLED\n"));
        assert!(expected.contains("DISABLED"));
        assert_eq!(stopped?.body, expected);
        Ok(())
    }

    #[test]
    fn function_without_a_binary_is_refused() {
        let error = fit(TEMPLATE, Schedules::Running, |_| None, url_of)
            .err()
            .map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("IngestFunction: the workspace has no function ingest")
        );
    }
}
