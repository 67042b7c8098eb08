//! The template that a stack was deployed with, as CloudFormation has processed it, with its
//! intrinsic functions resolved: what the deployed resources must be like.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// A template, and what its references stand for.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub(super) body: Value,
    pub(super) parameters: BTreeMap<String, String>,
    /// Physical ids by logical ids.
    pub(super) physical: BTreeMap<String, String>,
    pub(super) stack: String,
    pub(super) partition: String,
    pub(super) region: String,
    pub(super) account: String,
}

impl Template {
    /// Logical ids of the deployed resources of a type.
    pub(super) fn of_type(&self, kind: &str) -> Vec<&str> {
        let resources = self.body["Resources"].as_object();
        let of_type = resources.into_iter().flatten();
        of_type
            .filter(|(name, resource)| {
                resource["Type"] == kind
                    && self.physical.contains_key(*name)
                    && self.condition(&resource["Condition"])
            })
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Physical id of a resource, if it is deployed.
    pub(super) fn physical(&self, name: &str) -> Option<&str> {
        self.physical.get(name).map(String::as_str)
    }

    /// Properties of a resource. What CloudFormation leaves out is left out.
    pub(super) fn properties(&self, name: &str) -> Value {
        let properties = &self.body["Resources"][name]["Properties"];
        self.resolve(properties).unwrap_or_default()
    }

    /// A parameter's value; empty where there is no such parameter.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.parameters
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    }

    /// Resolves a value; `None` for one that is left out.
    fn resolve(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(items) => {
                Some(items.iter().filter_map(|item| self.resolve(item)).collect())
            }
            Value::Object(object) if object.len() == 1 => {
                let (name, argument) = object.iter().next()?;
                match name.as_str() {
                    "Ref" => self.reference(argument.as_str()?),
                    "Fn::GetAtt" => Some(self.attribute(&dotted(argument)).into()),
                    "Fn::Sub" => Some(self.substitute(argument).into()),
                    "Fn::If" => {
                        let place = if self.condition(&argument[0]) { 1 } else { 2 };
                        self.resolve(&argument[place])
                    }
                    "Fn::FindInMap" => {
                        let key =
                            |place: usize| self.resolve(&argument[place]).map(|key| text(&key));
                        Some(self.body["Mappings"][key(0)?][key(1)?][key(2)?].clone())
                    }
                    "Fn::Join" => {
                        let parts = self.resolve(&argument[1])?;
                        let parts: Vec<_> = parts.as_array()?.iter().map(text).collect();
                        Some(parts.join(argument[0].as_str()?).into())
                    }
                    "Fn::Split" => {
                        let whole = text(&self.resolve(&argument[1])?);
                        Some(
                            whole
                                .split(argument[0].as_str()?)
                                .map(Value::from)
                                .collect(),
                        )
                    }
                    _ => Some(self.object(object)),
                }
            }
            Value::Object(object) => Some(self.object(object)),
            plain => Some(plain.clone()),
        }
    }

    fn object(&self, object: &Map<String, Value>) -> Value {
        let members = object.iter();
        members
            .filter_map(|(name, value)| Some((name.clone(), self.resolve(value)?)))
            .collect()
    }

    fn reference(&self, name: &str) -> Option<Value> {
        let known = match name {
            "AWS::NoValue" => return None,
            "AWS::Partition" => &self.partition,
            "AWS::Region" => &self.region,
            "AWS::AccountId" => &self.account,
            "AWS::StackName" => &self.stack,
            _ => {
                let known = self.parameters.get(name);
                known
                    .or_else(|| self.physical.get(name))
                    .map_or(name, String::as_str)
            }
        };
        Some(known.into())
    }

    /// An attribute of a resource: its ARN for `Arn`, else its physical id.
    fn attribute(&self, dotted: &str) -> String {
        let (name, attribute) = dotted.split_once('.').unwrap_or((dotted, ""));
        let id = self.physical(name).unwrap_or(name);
        let kind = self.body["Resources"][name]["Type"].as_str();
        let (service, prefix, suffix) = match kind.unwrap_or_default() {
            "AWS::SQS::Queue" => ("sqs", "", ""),
            "AWS::DynamoDB::Table" => ("dynamodb", "table/", ""),
            "AWS::Lambda::Function" => ("lambda", "function:", ""),
            "AWS::Logs::LogGroup" => ("logs", "log-group:", ":*"),
            "AWS::S3::Bucket" if attribute == "Arn" => {
                return format!("arn:{}:s3:::{id}", self.partition);
            }
            "AWS::IAM::Role" if attribute == "Arn" => {
                return format!("arn:{}:iam::{}:role/{id}", self.partition, self.account);
            }
            _ => return id.to_owned(),
        };
        if attribute != "Arn" || id.starts_with("arn:") {
            return id.to_owned();
        }
        // The physical id of a queue is its URL.
        let id = if service == "sqs" {
            id.rsplit('/').next().unwrap_or(id)
        } else {
            id
        };
        let Self {
            partition,
            region,
            account,
            ..
        } = self;
        format!("arn:{partition}:{service}:{region}:{account}:{prefix}{id}{suffix}")
    }

    fn substitute(&self, argument: &Value) -> String {
        let (pattern, own) = match argument {
            Value::Array(both) => (both[0].as_str(), both[1].as_object()),
            plain => (plain.as_str(), None),
        };
        let mut rest = pattern.unwrap_or_default();
        let mut whole = String::new();
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            whole.push_str(before);
            let value = match (own.and_then(|own| own.get(name)), name.strip_prefix('!')) {
                (Some(value), _) => self
                    .resolve(value)
                    .map(|value| text(&value))
                    .unwrap_or_default(),
                (None, Some(literal)) => format!("${{{literal}}}"),
                (None, None) if name.contains('.') => self.attribute(name),
                (None, None) => self
                    .reference(name)
                    .map(|value| text(&value))
                    .unwrap_or_default(),
            };
            whole.push_str(&value);
            rest = after;
        }
        whole + rest
    }

    /// Evaluates a condition, by its name or its definition. One that is absent holds.
    fn condition(&self, condition: &Value) -> bool {
        let all = |list: &Value| {
            list.as_array()
                .is_some_and(|list| list.iter().all(|one| self.condition(one)))
        };
        match condition {
            Value::Null => true,
            Value::String(name) => self.condition(&self.body["Conditions"][name]),
            Value::Object(object) => object.iter().all(|(name, argument)| match name.as_str() {
                "Condition" => self.condition(argument),
                "Fn::And" => all(argument),
                "Fn::Or" => argument
                    .as_array()
                    .is_some_and(|list| list.iter().any(|one| self.condition(one))),
                "Fn::Not" => !self.condition(&argument[0]),
                "Fn::Equals" => {
                    self.resolve(&argument[0]).map(|left| text(&left))
                        == self.resolve(&argument[1]).map(|right| text(&right))
                }
                _ => false,
            }),
            _ => false,
        }
    }
}

/// `["Queue", "Arn"]` as `Queue.Arn`.
fn dotted(argument: &Value) -> String {
    match argument {
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join("."),
        plain => text(plain),
    }
}

/// A scalar as CloudFormation writes it where a text is needed.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Differences between two policy documents, one phrase each: permissions that are missing, and
/// permissions that were added.
pub(super) fn policy_differences(expected: &Value, found: &Value) -> Vec<String> {
    let (expected, found) = (rules(expected), rules(found));
    let missing = expected.difference(&found);
    let added = found.difference(&expected);
    missing
        .map(|rule| format!("{} is missing", rule.describe()))
        .chain(added.map(|rule| format!("{} was added", rule.describe())))
        .collect()
}

/// One action on one resource.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    effect: String,
    action: String,
    resource: String,
    /// Principal and conditions.
    when: String,
}

impl Rule {
    fn describe(&self) -> String {
        let effect = if self.effect == "Allow" {
            ""
        } else {
            "the denial of "
        };
        format!("{effect}{} on {}", self.action, self.resource)
    }
}

fn rules(document: &Value) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for statement in list(&document["Statement"]) {
        let principal = match &statement["Principal"] {
            // Both mean anyone.
            Value::String(anyone) if anyone == "*" => serde_json::json!({ "AWS": "*" }),
            other => other.clone(),
        };
        let when = format!("{} {}", sorted(&principal), sorted(&statement["Condition"]));
        for action in list(&statement["Action"]) {
            for resource in list(&statement["Resource"]) {
                rules.insert(Rule {
                    effect: text(&statement["Effect"]),
                    action: text(action),
                    resource: text(resource),
                    when: when.clone(),
                });
            }
        }
    }
    rules
}

fn list(one_or_many: &Value) -> &[Value] {
    match one_or_many {
        Value::Array(many) => many,
        one => std::slice::from_ref(one),
    }
}

/// A value with each list of texts in order, and one text as a list of it.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), sorted(value)))
            .collect(),
        Value::Array(items) => {
            let mut items: Vec<_> = items.iter().map(text).collect();
            items.sort();
            items.into()
        }
        Value::Null => Value::Null,
        scalar => vec![text(scalar)].into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Template {
        let body = json!({
            "Mappings": { "Visibility": { "60": { "Seconds": 360 } } },
            "Conditions": {
                "HasOrder": { "Fn::Not": [{ "Fn::Equals": [{ "Ref": "Order" }, "none"] }] },
                "IsOff": { "Fn::And": [{ "Condition": "HasOrder" }, { "Fn::Equals": ["a", "b"] }] },
            },
            "Resources": {
                "Queue": { "Type": "AWS::SQS::Queue", "Properties": {
                    "QueueName": { "Fn::Sub": "${AWS::StackName}-events" },
                    "VisibilityTimeout": { "Fn::FindInMap": ["Visibility", { "Ref": "Timeout" }, "Seconds"] },
                    "Key": { "Fn::If": ["HasOrder", "yes", { "Ref": "AWS::NoValue" }] },
                    "Gone": { "Fn::If": ["IsOff", "yes", { "Ref": "AWS::NoValue" }] },
                    "Resources": [{ "Fn::GetAtt": ["Queue", "Arn"] }, { "Fn::If": ["IsOff", "x", { "Ref": "AWS::NoValue" }] }],
                    "Of": { "Fn::Sub": "${Table.Arn}/index/*" },
                }},
                "Table": { "Type": "AWS::DynamoDB::Table" },
                "Late": { "Type": "AWS::SQS::Queue", "Condition": "IsOff" },
            },
        });
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        Template {
            body,
            parameters: pairs(&[("Order", "conversation"), ("Timeout", "60")]),
            physical: pairs(&[
                (
                    "Queue",
                    "https://sqs.eu-central-1.amazonaws.com/1/relay-events",
                ),
                ("Table", "relay-table"),
                ("Late", "https://sqs/1/late"),
            ]),
            stack: "relay".to_owned(),
            partition: "aws".to_owned(),
            region: "eu-central-1".to_owned(),
            account: "1".to_owned(),
        }
    }

    #[test]
    fn properties_are_resolved_as_cloudformation_does() {
        let expected = json!({
            "QueueName": "relay-events",
            "VisibilityTimeout": 360,
            "Key": "yes",
            "Resources": ["arn:aws:sqs:eu-central-1:1:relay-events"],
            "Of": "arn:aws:dynamodb:eu-central-1:1:table/relay-table/index/*",
        });
        assert_eq!(template().properties("Queue"), expected);
    }

    #[test]
    fn resources_without_their_condition_are_left_out() {
        assert_eq!(template().of_type("AWS::SQS::Queue"), ["Queue"]);
    }

    #[test]
    fn policy_differences_name_action_and_resource() {
        let expected = json!({ "Statement": [
            { "Effect": "Allow", "Action": ["sqs:SendMessage", "sqs:ReceiveMessage"], "Resource": ["a", "b"] },
            { "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "a", "Condition": { "Bool": { "x": "false" } } },
        ]});
        let mut same = expected.clone();
        same["Statement"][0]["Action"] = json!(["sqs:ReceiveMessage", "sqs:SendMessage"]);
        same["Statement"][1]["Principal"] = json!({ "AWS": "*" });
        same["Statement"][1]["Condition"] = json!({ "Bool": { "x": ["false"] } });
        assert_eq!(policy_differences(&expected, &same), Vec::<String>::new());
        let found = json!({ "Statement": [
            { "Effect": "Allow", "Action": ["sqs:ReceiveMessage"], "Resource": ["a", "b"] },
            { "Effect": "Allow", "Action": "sqs:SendMessage", "Resource": ["b", "*"] },
        ]});
        let says = [
            "sqs:SendMessage on a is missing",
            "the denial of sqs:* on a is missing",
            "sqs:SendMessage on * was added",
        ];
        assert_eq!(policy_differences(&expected, &found), says);
    }
}
