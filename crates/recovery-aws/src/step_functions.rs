//! Step Functions of the tertiary region: how the operator starts a run on AWS, watches it and answers it.

use aws_sdk_sfn::{Client, types::ExecutionStatus};
use jiff::Timestamp;
use serde_json::Value;

use crate::trouble::{Kind, Trouble};

/// The machines of a region.
#[derive(Clone, Debug)]
pub struct StepFunctions {
    client: Client,
}

/// An execution as `DescribeExecution` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Its ARN.
    pub arn: String,
    /// Its name: the run's id.
    pub name: String,
    /// `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT`, `ABORTED` or `PENDING_REDRIVE`.
    pub status: String,
    /// When it began, by AWS's clock.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// What it returned.
    pub output: Option<Value>,
    /// The error name of a failed one.
    pub error: Option<String>,
    /// The cause of a failed one.
    pub cause: Option<String>,
}

/// One event of an execution's history.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEvent {
    /// From one, in order.
    pub id: i64,
    /// The event that this one follows from.
    pub previous: i64,
    /// When, by AWS's clock.
    pub at: Timestamp,
    /// The type, for example `TaskStateEntered`.
    pub kind: String,
    /// The state that was entered or left.
    pub state: Option<String>,
    /// The error name of a failure or timeout.
    pub error: Option<String>,
    /// The cause of a failure or timeout.
    pub cause: Option<String>,
}

/// How an execution was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// This call began it, or the same call did so before while it still runs; AWS does not say which.
    Running {
        /// Its ARN.
        arn: String,
    },
    /// The name was used with another input, or for a run that has ended. Names come back after 90 days.
    /// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>
    NameTaken,
}

impl StepFunctions {
    /// The machines behind a client of the tertiary region.
    pub fn new(client: Client) -> StepFunctions {
        StepFunctions { client }
    }

    /// Starts a machine under a name, which is the run's id: two incidents with one name are one run.
    ///
    /// # Errors
    /// The service's.
    pub async fn start(&self, machine_arn: &str, name: &str, input: &Value) -> Result<Started, Trouble> {
        let request = self.client.start_execution().state_machine_arn(machine_arn).name(name).input(input.to_string());
        match request.send().await {
            Ok(answer) => Ok(Started::Running { arn: answer.execution_arn().to_owned() }),
            Err(error) => {
                let trouble = Trouble::from(error);
                if trouble.is("ExecutionAlreadyExists") { Ok(Started::NameTaken) } else { Err(trouble) }
            }
        }
    }

    /// Reads how far an execution is.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none of this ARN.
    pub async fn describe(&self, arn: &str) -> Result<Execution, Trouble> {
        let answer = self.client.describe_execution().execution_arn(arn).send().await.map_err(missing)?;
        Ok(Execution {
            arn: answer.execution_arn().to_owned(),
            name: answer.name().unwrap_or_default().to_owned(),
            status: ExecutionStatus::as_str(answer.status()).to_owned(),
            started_at: timestamp(Some(answer.start_date())).unwrap_or(Timestamp::UNIX_EPOCH),
            stopped_at: timestamp(answer.stop_date()),
            output: answer.output().and_then(|output| serde_json::from_str(output).ok()),
            error: answer.error().map(str::to_owned),
            cause: answer.cause().map(str::to_owned),
        })
    }

    /// Reads one page of the history, oldest first, and the token of the next page.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none of this ARN.
    pub async fn history(
        &self,
        arn: &str,
        page: Option<String>,
    ) -> Result<(Vec<HistoryEvent>, Option<String>), Trouble> {
        let request = self.client.get_execution_history().execution_arn(arn).max_results(1000).set_next_token(page);
        let answer = request.include_execution_data(true).send().await.map_err(missing)?;
        let events = answer.events().iter().map(history_event).collect();
        Ok((events, answer.next_token().map(str::to_owned)))
    }

    /// Answers a task that waits for a token.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if nobody waits for this token any more.
    pub async fn succeed(&self, task_token: &str, output: &Value) -> Result<(), Trouble> {
        let request = self.client.send_task_success().task_token(task_token).output(output.to_string());
        request.send().await.map(|_| ()).map_err(missing)
    }

    /// Answers a task that waits for a token with a failure.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if nobody waits for this token any more.
    pub async fn fail(&self, task_token: &str, error: &str, cause: &str) -> Result<(), Trouble> {
        let request = self.client.send_task_failure().task_token(task_token).error(error).cause(cause);
        request.send().await.map(|_| ()).map_err(missing)
    }
}

/// Step Functions has words of its own for what is not there: `ExecutionDoesNotExist`, `TaskDoesNotExist`, `TaskTimedOut`.
fn missing<E>(error: E) -> Trouble
where
    Trouble: From<E>,
{
    let trouble = Trouble::from(error);
    let gone = ["ExecutionDoesNotExist", "StateMachineDoesNotExist", "TaskDoesNotExist", "TaskTimedOut"];
    if gone.iter().any(|code| trouble.is(code)) { Trouble { kind: Kind::Missing, ..trouble } } else { trouble }
}

fn timestamp(at: Option<&aws_smithy_types::DateTime>) -> Option<Timestamp> {
    at.and_then(|at| Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok())
}

fn history_event(event: &aws_sdk_sfn::types::HistoryEvent) -> HistoryEvent {
    let state = event
        .state_entered_event_details()
        .map(|details| details.name())
        .or_else(|| event.state_exited_event_details().map(|details| details.name()));
    let (error, cause) = failure(event);
    HistoryEvent {
        id: event.id(),
        previous: event.previous_event_id(),
        at: timestamp(Some(event.timestamp())).unwrap_or(Timestamp::UNIX_EPOCH),
        kind: event.r#type().as_str().to_owned(),
        state: state.map(str::to_owned),
        error: error.map(str::to_owned),
        cause: cause.map(str::to_owned),
    }
}

/// Each kind of failure keeps its error in a field of its own.
fn failure(event: &aws_sdk_sfn::types::HistoryEvent) -> (Option<&str>, Option<&str>) {
    if let Some(details) = event.task_failed_event_details() {
        (details.error(), details.cause())
    } else if let Some(details) = event.task_timed_out_event_details() {
        (details.error(), details.cause())
    } else if let Some(details) = event.lambda_function_failed_event_details() {
        (details.error(), details.cause())
    } else if let Some(details) = event.lambda_function_timed_out_event_details() {
        (details.error(), details.cause())
    } else if let Some(details) = event.execution_failed_event_details() {
        (details.error(), details.cause())
    } else if let Some(details) = event.execution_timed_out_event_details() {
        (details.error(), details.cause())
    } else if let Some(details) = event.execution_aborted_event_details() {
        (details.error(), details.cause())
    } else {
        (None, None)
    }
}
