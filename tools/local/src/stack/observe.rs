//! Queues, table, processes and logs of a running stack.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use anyhow::{Context, Result, anyhow};
use aws_sdk_sqs::types::QueueAttributeName::{
    ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
    ApproximateNumberOfMessagesNotVisible,
};

use serde_json::json;

use super::{
    Stack,
    function::Function,
    observation::{Count, LogLine, QueueCounts},
};
use crate::wait;

impl Stack {
    /// Counts the messages of the queues.
    pub async fn queue_counts(&self) -> Result<QueueCounts> {
        let (standard, ordered, dead_letters) = tokio::try_join!(
            self.count(self.output("QueueUrl")?),
            async {
                match self.ordered_queue() {
                    Some(queue) => self.count(queue).await,
                    None => Ok(Count::default()),
                }
            },
            self.count(self.output("DeadLetterQueueUrl")?),
        )?;
        Ok(QueueCounts {
            events: standard + ordered,
            ordered,
            dead_letters,
        })
    }

    /// Counts the events in each state. Reads the whole table, which only a local run can afford.
    pub async fn states(&self) -> Result<BTreeMap<String, usize>> {
        let request = self
            .dynamodb
            .scan()
            .table_name(self.output("EventsTableName")?);
        let request = request
            .projection_expression("#state")
            .expression_attribute_names("#state", "state");
        let mut pages = request.into_paginator().send();
        let mut states = BTreeMap::new();
        while let Some(page) = pages.try_next().await? {
            for state in page
                .items()
                .iter()
                .filter_map(|item| item.get("state")?.as_s().ok())
            {
                *states.entry(state.clone()).or_default() += 1;
            }
        }
        Ok(states)
    }

    /// Counts the messages of the queue with this URL.
    pub async fn count(&self, queue: &str) -> Result<Count> {
        let names = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesNotVisible,
            ApproximateNumberOfMessagesDelayed,
        ];
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(queue)
            .set_attribute_names(Some(names.to_vec()))
            .send()
            .await?;
        let number = |name| {
            answer
                .attributes()
                .and_then(|all| all.get(&name)?.parse().ok())
                .context("SQS returned no number of messages")
        };
        Ok(Count {
            visible: number(ApproximateNumberOfMessages)?,
            in_flight: number(ApproximateNumberOfMessagesNotVisible)?,
            delayed: number(ApproximateNumberOfMessagesDelayed)?,
        })
    }

    /// Waits until `expected` accepts the numbers of messages.
    pub async fn until_queues(
        &self,
        what: &str,
        expected: impl Fn(QueueCounts) -> bool,
    ) -> Result<QueueCounts> {
        wait::until(what, || async {
            Ok(Some(self.queue_counts().await?).filter(|counts| expected(*counts)))
        })
        .await
    }

    /// Lines that a function has logged since a time in milliseconds since 1970, oldest first. A
    /// line appears when its invocation ends.
    pub async fn log_lines(&self, function: Function, since: i64) -> Result<Vec<LogLine>> {
        let group = format!("/aws/lambda/{}", self.function_name(function)?);
        let mut request = json!({ "logGroupName": group, "startTime": since });
        let mut lines = Vec::new();
        // The emulator gives no event ids, but each invocation a stream: a line is known by its
        // place in that.
        let mut places = HashMap::new();
        loop {
            let page = self
                .aws
                .json("logs", "Logs_20140328.FilterLogEvents", &request)
                .await?;
            for event in page["events"].as_array().into_iter().flatten() {
                let message = event["message"].as_str().unwrap_or_default();
                let stream = event["logStreamName"].as_str().unwrap_or_default();
                let place = places
                    .entry(stream.to_owned())
                    .and_modify(|place| *place += 1)
                    .or_insert(0);
                lines.push(LogLine {
                    function,
                    id: format!("{stream} {place}"),
                    at: event["timestamp"].as_i64().unwrap_or_default(),
                    content: serde_json::from_str(message).unwrap_or_else(|_| message.into()),
                });
            }
            match page["nextToken"].as_str() {
                Some(next) => request["nextToken"] = next.into(),
                None => return Ok(lines),
            }
        }
    }

    /// The environment variables of all functions together.
    pub async fn function_variables(&self) -> Result<BTreeMap<String, String>> {
        let mut variables = BTreeMap::new();
        for function in Function::ALL {
            let configuration = self
                .lambda
                .get_function_configuration()
                .function_name(self.function_name(function)?)
                .send()
                .await?;
            let own = configuration
                .environment()
                .and_then(|environment| environment.variables())
                .cloned();
            variables.extend(own.unwrap_or_default());
        }
        Ok(variables)
    }

    /// The live processes of a function; ending one is a crash. Linux only.
    pub fn pids_of(&self, function: Function) -> Result<Vec<u32>> {
        let name = self.function_name(function)?;
        self.emulator
            .pids_of(name)
            .map_err(|error: io::Error| anyhow!(error).context("could not list processes"))
    }
}
