//! Calls of services of the local AWS without an SDK client: each of those takes as long to compile
//! as this whole crate.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use crate::{
    api,
    clients::{self, Keys},
};

/// Time limit of a call: a deploy on a busy machine takes long to begin.
const LIMIT: Duration = Duration::from_mins(5);

/// Caller of services, as the owner of the account.
#[derive(Debug, Clone)]
pub struct Aws {
    endpoint: String,
    keys: Keys,
}

impl Aws {
    /// Calls this address with this key pair.
    #[must_use]
    pub fn new(endpoint: String, keys: Keys) -> Self {
        Self { endpoint, keys }
    }

    /// URL of the services, without a path.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Calls a service of the Query protocol: `cloudformation`, `iam` or `sns`. Gives the content of
    /// the result, lists as arrays.
    ///
    /// # Errors
    /// When the service refuses the request, or does not answer.
    pub async fn query(
        &self,
        service: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Value> {
        let mut form = reqwest::Url::parse("form:")?;
        form.query_pairs_mut()
            .append_pair("Action", action)
            .extend_pairs(parameters);
        let body = form.query().unwrap_or_default().to_owned();
        let content = ("content-type", "application/x-www-form-urlencoded");
        let answer = self
            .call(service, action, Method::POST, "/", &[content], body)
            .await?;
        let document = Document::parse(&answer)
            .with_context(|| format!("the answer to {action} is not XML: {answer}"))?;
        let result = document.root_element().first_element_child();
        Ok(result.map_or(Value::Null, value_of))
    }

    /// Calls a service of the JSON protocol, `events` or `logs`, by the target of the operation
    /// (`AWSEvents.PutEvents`).
    ///
    /// # Errors
    /// When the service refuses the request, or does not answer.
    pub async fn json(&self, service: &str, target: &str, request: &Value) -> Result<Value> {
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", target),
        ];
        let body = request.to_string();
        let answer = self
            .call(service, target, Method::POST, "/", &headers, body)
            .await?;
        parse(target, &answer)
    }

    /// Posts to a service of the REST protocol with JSON: `apigateway`.
    ///
    /// # Errors
    /// When the service refuses the request, or does not answer.
    pub async fn rest(&self, service: &str, path: &str, request: &Value) -> Result<Value> {
        let content = ("content-type", "application/json");
        let answer = self
            .call(
                service,
                path,
                Method::POST,
                path,
                &[content],
                request.to_string(),
            )
            .await?;
        parse(path, &answer)
    }

    /// Reads a path of a service of the REST protocol.
    ///
    /// # Errors
    /// When the service refuses the request, or does not answer.
    pub async fn get(&self, service: &str, path: &str) -> Result<Value> {
        let answer = self
            .call(service, path, Method::GET, path, &[], String::new())
            .await?;
        parse(path, &answer)
    }

    /// Deletes what is at a path of a service of the REST protocol.
    ///
    /// # Errors
    /// When the service refuses the request, or does not answer.
    pub async fn delete(&self, service: &str, path: &str) -> Result<()> {
        self.call(service, path, Method::DELETE, path, &[], String::new())
            .await
            .map(drop)
    }

    /// Enables or disables a schedule. The local AWS never runs one that was changed.
    ///
    /// # Errors
    /// When there is no such schedule, or the scheduler refuses the change.
    pub async fn set_schedule(&self, name: &str, is_enabled: bool) -> Result<()> {
        let path = format!("/{name}");
        let mut schedule = self.schedule(Method::GET, &path, "").await?;
        schedule["State"] = if is_enabled { "ENABLED" } else { "DISABLED" }.into();
        self.schedule(Method::PUT, &path, &schedule.to_string())
            .await?;
        Ok(())
    }

    /// Names of all schedules.
    ///
    /// # Errors
    /// When the scheduler does not answer.
    pub async fn schedules(&self) -> Result<Vec<String>> {
        let answer = self.schedule(Method::GET, "", "").await?;
        let all = answer["Schedules"].as_array().into_iter().flatten();
        Ok(all
            .filter_map(|schedule| Some(schedule["Name"].as_str()?.to_owned()))
            .collect())
    }

    /// Makes a schedule that invokes what one of the template invokes, and as it does, but once and
    /// now. Of the original, a part of the name is enough.
    ///
    /// # Errors
    /// When there is no such schedule, or the scheduler refuses the new one.
    pub async fn schedule_now(&self, original: &str, name: &str) -> Result<()> {
        let all = self.schedules().await?;
        let original = all
            .iter()
            .find(|full| full.contains(original))
            .with_context(|| format!("no schedule is called {original}: {all:?}"))?;
        let original = self
            .schedule(Method::GET, &format!("/{original}"), "")
            .await?;
        let once = json!({
            "ScheduleExpression": "at(2026-01-01T00:00:00)",
            "FlexibleTimeWindow": original["FlexibleTimeWindow"],
            "Target": original["Target"],
        });
        self.schedule(Method::POST, &format!("/{name}"), &once.to_string())
            .await?;
        Ok(())
    }

    async fn schedule(&self, method: Method, path: &str, body: &str) -> Result<Value> {
        let path = format!("/schedules{path}");
        let content = ("content-type", "application/json");
        let answer = self
            .call("scheduler", &path, method, &path, &[content], body.into())
            .await?;
        parse(&path, &answer)
    }

    async fn call(
        &self,
        service: &str,
        operation: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<String> {
        let url = format!("{}{path}", self.endpoint);
        let signed = api::sign_request(
            &self.keys,
            service,
            method.as_str(),
            &url,
            headers,
            body.as_bytes(),
        )?;
        let mut request = clients::http().request(method, url).timeout(LIMIT);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        for (name, value) in signed {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await;
        let answer = answer.with_context(|| format!("{service} did not answer to {operation}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("{service} refused {operation}: {status} {text}");
        }
        Ok(text)
    }
}

fn parse(operation: &str, answer: &str) -> Result<Value> {
    serde_json::from_str(answer)
        .with_context(|| format!("the answer to {operation} is not JSON: {answer}"))
}

/// Content of an element: an array of its members, an object of its elements, or its text.
fn value_of(element: Node<'_, '_>) -> Value {
    let mut elements = element.children().filter(Node::is_element).peekable();
    match elements.peek() {
        None => element.text().unwrap_or_default().into(),
        Some(first) if first.has_tag_name("member") => elements.map(value_of).collect(),
        Some(_) => elements
            .map(|element| (element.tag_name().name().to_owned(), value_of(element)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_of_a_result_becomes_json() -> Result<()> {
        let document = Document::parse(
            "<R xmlns='urn:x'><Result>
               <Stacks><member><Status>A &amp; B</Status><Outputs/></member><member/></Stacks>
             </Result><ResponseMetadata/></R>",
        )?;
        let result = document.root_element().first_element_child();
        assert_eq!(
            result.map(value_of),
            Some(json!({ "Stacks": [{ "Status": "A & B", "Outputs": "" }, ""] }))
        );
        Ok(())
    }
}
