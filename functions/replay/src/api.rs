//! HTTP API of the dead letters: carries out requests of API Gateway, and turns their outcomes into
//! HTTP answers.

mod answer;
mod call;
#[cfg(test)]
mod tests;

use std::time::Duration;

use genesys_relay::dead_letters::{
    Answer, DeadLetters, Done, Missing, PortTypes, ReplayError, Report,
};
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::event_record::{EventRecord, REPLAY_CEILING, State};
use genesys_relay::ports::clock::Clock;
use genesys_relay::ports::events_table::EventsTable;
use genesys_relay::runtime::lambda_http::HttpAnswer;
use genesys_relay::runtime::logging::display_chain;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::answer::Problem;
use self::call::{ApiCall, Retry};
use crate::background::Background;

/// Time limit of an answer. API Gateway closes the connection after 30 s ("Quotas for configuring
/// and running HTTP APIs"); the rest is for a cold start of the function.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Wait before the next try while a run or a move task is running. It may take longer.
const AFTER_A_RUN: Duration = Duration::from_secs(30);

/// Wait before the next try while a message is hidden.
const WHEN_VISIBLE: Duration = Duration::from_mins(1);

/// Wait before the next try after a queue or the table has failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(5);

/// The API, over the use case and its background runs.
pub(crate) struct Api<'a, T: PortTypes, B> {
    pub(crate) dead_letters: &'a DeadLetters<T>,
    pub(crate) background: &'a B,
    /// Name of the function that carries out changes, where this one carries out none.
    pub(crate) acts_elsewhere: Option<&'a str>,
}

impl<T: PortTypes, B: Background> Api<'_, T, B> {
    /// Answers one event of an HTTP API, well before `end`.
    pub(crate) async fn answer(
        &self,
        event: Value,
        request_id: String,
        end: Instant,
    ) -> HttpAnswer {
        let deadline = end.min(Instant::now() + ANSWER_WITHIN);
        self.carry_out(event, request_id, deadline)
            .await
            .unwrap_or_else(|problem| {
                tracing::info!(
                    status = problem.status().as_u16(),
                    reason = problem.detail(),
                    "refused request"
                );
                problem.into()
            })
    }

    async fn carry_out(
        &self,
        event: Value,
        request_id: String,
        deadline: Instant,
    ) -> Result<HttpAnswer, Problem> {
        match ApiCall::read(event, request_id)? {
            ApiCall::Ask(request) => match self.dead_letters.handle(*request, deadline).await? {
                Answer::List(list) => Ok(answer::list(list)),
                Answer::Show(shown) => Ok(answer::shown(&shown)),
                Answer::Conversation(events) => Ok(answer::json(StatusCode::OK, &json!(events))),
                other => Ok(answer::json(StatusCode::OK, &json!(other))),
            },
            ApiCall::Retry(retry) => match self.acts_elsewhere {
                Some(function) => Err(Problem::new(
                    StatusCode::FORBIDDEN,
                    format!("This function changes nothing; the function {function:?} does."),
                )),
                None => self.retry(*retry, deadline).await,
            },
        }
    }

    /// Replays one event now, or in the background.
    async fn retry(&self, retry: Retry, deadline: Instant) -> Result<HttpAnswer, Problem> {
        let Retry {
            event_id,
            request,
            start,
        } = retry;
        let now = self.dead_letters.ports.clock.now();
        let record = self
            .dead_letters
            .ports
            .table
            .get(&event_id)
            .await
            .map_err(ReplayError::from)?;
        match record.filter(|record| !record.is_expired(now)) {
            Some(record) => can_be_retried(&record, now)?,
            None => return Err(self.dead_letters.unrecorded(event_id).await.into()),
        }
        let outcome = match self.dead_letters.handle(request, deadline).await? {
            Answer::Replay(report) => Outcome::of(&event_id, &report)?,
            answer => unreachable!("a replay is answered by its report, not by {answer:?}"),
        };
        match outcome {
            Outcome::Retried => Ok(answer::json(
                StatusCode::OK,
                &json!({ "status": "retried", "eventId": event_id }),
            )),
            Outcome::Unfinished => {
                self.dead_letters.enlist(&start).await?;
                self.background.hand_over(&start.payload).await.map_err(|error| {
                    tracing::error!(%event_id, error = display_chain(&error), "failed to continue the retry in the background");
                    Problem::later(AFTER_A_FAILURE, "The dead letters could not all be searched in time. Try again.")
                })?;
                tracing::info!(%event_id, "continuing the retry in the background");
                Ok(answer::json(
                    StatusCode::ACCEPTED,
                    &json!({ "status": "accepted", "eventId": event_id }),
                ))
            }
        }
    }
}

/// Checks that an event is a dead letter that may be replayed without `force`.
fn can_be_retried(record: &EventRecord, now: Timestamp) -> Result<(), Problem> {
    let why_not = match &record.state {
        state if state.death(now).is_some() => {
            if record.replays_made < REPLAY_CEILING {
                return Ok(());
            }
            format!(
                "It was replayed {REPLAY_CEILING} times already. To replay it all the same, invoke the replay function \
                 with \"force\": true."
            )
        }
        State::Archived { archived_to, .. } => {
            format!(
                "It is not dead: it is in the archive, in the object {archived_to}. Restore that first."
            )
        }
        State::Delivered => "It is not dead: the target has it.".to_owned(),
        State::Discarded(_) => "It is not dead: it was discarded.".to_owned(),
        State::Erased => "It is not dead: it was erased.".to_owned(),
        State::Queued | State::Retrying { .. } => {
            "It is not dead: it waits for its next attempt.".to_owned()
        }
        State::InProgress(_) | State::Dead(_) => {
            "It is not dead: it is being delivered.".to_owned()
        }
    };
    Err(Problem::new(StatusCode::CONFLICT, why_not))
}

/// Outcome of the replay of one event.
enum Outcome {
    /// It is in the events queue again.
    Retried,
    /// There was no time to find it.
    Unfinished,
}

impl Outcome {
    fn of(event_id: &EventId, report: &Report) -> Result<Self, Problem> {
        if matches!(report.done, Done::Replay { replayed: 1.. }) {
            return Ok(Self::Retried);
        }
        // A run can fail at other events on its way.
        let failed = report.failed.iter().find(|failed| {
            failed
                .event_id
                .as_deref()
                .is_none_or(|id| id == event_id.as_str())
        });
        let Some(failed) = failed else {
            return if report.complete {
                Err(Problem::later(
                    WHEN_VISIBLE,
                    "Its message could not be taken now. Try again later.",
                ))
            } else {
                Ok(Self::Unfinished)
            };
        };
        let detail = format!("It was not replayed: {}.", failed.error);
        Err(match failed.state {
            Some(Missing::Unknown) => ReplayError::Unknown(event_id.clone()).into(),
            Some(Missing::Pending) => Problem::later(WHEN_VISIBLE, detail),
            Some(
                Missing::Alive
                | Missing::Delivered
                | Missing::Archived
                | Missing::Discarded
                | Missing::Erased
                | Missing::Expired
                | Missing::Dead,
            ) => Problem::new(StatusCode::CONFLICT, detail),
            None => {
                tracing::error!(%event_id, error = failed.error, "failed to replay the event");
                Problem::later(AFTER_A_FAILURE, "It could not be replayed now. Try again.")
            }
        })
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Unknown(_) | ReplayError::NotListed(..) | ReplayError::UnknownRun(_) => {
                Self::new(StatusCode::NOT_FOUND, sentence(&error))
            }
            ReplayError::NoConversationIndex
            | ReplayError::TooManyErasures(_)
            | ReplayError::NoJournal
            | ReplayError::Journalled(_) => Self::new(StatusCode::CONFLICT, sentence(&error)),
            ReplayError::NameTaken { .. } => Self::new(StatusCode::BAD_REQUEST, sentence(&error)),
            ReplayError::Busy(_) | ReplayError::Moving { .. } => {
                Self::later(AFTER_A_RUN, sentence(&error))
            }
            ReplayError::Service(_) | ReplayError::Archive(_) => {
                tracing::error!(
                    error = display_chain(&error),
                    "failed to carry out the request"
                );
                Self::later(
                    AFTER_A_FAILURE,
                    "The queues or the events table cannot be reached at the moment. Try again.",
                )
            }
        }
    }
}

fn sentence(error: &ReplayError) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
