//! Step Functions of the tertiary region: how the operator starts a run on AWS, watches it and answers it.

use std::collections::BTreeMap;

use aws_sdk_sfn::{
    Client,
    types::{ExecutionRedriveStatus, ExecutionStatus},
};
use jiff::Timestamp;
use serde_json::Value;

use crate::trouble::{Kind, Trouble};

/// Most pages of machines that are read: a region may have 10,000, and those of the suite are a dozen.
const MACHINE_PAGES: usize = 10;

/// The machines of a region.
#[derive(Clone, Debug)]
pub struct StepFunctions {
    client: Client,
}

/// A machine as `ListStateMachines` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineListed {
    /// Its ARN.
    pub arn: String,
    /// Its name on AWS, which a template may have completed.
    pub name: String,
}

impl MachineListed {
    /// The ARN of an execution of this machine.
    /// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html>
    pub fn execution(&self, name: &str) -> String {
        format!("{}:{name}", self.arn.replacen(":stateMachine:", ":execution:", 1))
    }
}

/// An execution as `ListExecutions` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutionListed {
    /// Its ARN.
    pub arn: String,
    /// Its name: the run's id.
    pub name: String,
    /// As in [`Execution::status`].
    pub status: String,
    /// When it began, by AWS's clock.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
}

/// Which executions of a machine are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that run.
    Running,
    /// The newest ones, however they stand.
    Newest,
}

/// How a redrive was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// It runs again since.
    At(Timestamp),
    /// AWS does not redrive it; in its words.
    Refused(String),
}

/// An execution as `DescribeExecution` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Its ARN.
    pub arn: String,
    /// Its machine's ARN.
    pub machine_arn: String,
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
    /// How often it was redriven.
    pub redrives: u32,
    /// Why it cannot be redriven now, in AWS's words; absent if it can.
    pub not_redrivable: Option<String>,
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
    /// The variables that a state assigned when it was left, each as JSON text.
    pub assigned: BTreeMap<String, String>,
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

    /// Reads a machine's definition as it is deployed.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none of this ARN.
    pub async fn definition(&self, machine_arn: &str) -> Result<String, Trouble> {
        let answer = self.client.describe_state_machine().state_machine_arn(machine_arn).send().await;
        Ok(answer.map_err(missing)?.definition().to_owned())
    }

    /// Reads how far an execution is.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none of this ARN.
    pub async fn describe(&self, arn: &str) -> Result<Execution, Trouble> {
        let answer = self.client.describe_execution().execution_arn(arn).send().await.map_err(missing)?;
        let redrivable = matches!(answer.redrive_status(), Some(ExecutionRedriveStatus::Redrivable));
        let reason = answer.redrive_status_reason().unwrap_or("AWS does not say why").to_owned();
        Ok(Execution {
            arn: answer.execution_arn().to_owned(),
            machine_arn: answer.state_machine_arn().to_owned(),
            redrives: answer.redrive_count().and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
            not_redrivable: (!redrivable).then_some(reason),
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

    /// The machines of the region.
    ///
    /// # Errors
    /// The service's.
    pub async fn machines(&self) -> Result<Vec<MachineListed>, Trouble> {
        let mut machines = Vec::new();
        let mut page = None;
        for _ in 0..MACHINE_PAGES {
            let answer = self.client.list_state_machines().max_results(1000).set_next_token(page).send().await?;
            machines.extend(answer.state_machines().iter().map(|machine| MachineListed {
                arn: machine.state_machine_arn().to_owned(),
                name: machine.name().to_owned(),
            }));
            page = answer.next_token().map(str::to_owned);
            if page.is_none() {
                break;
            }
        }
        Ok(machines)
    }

    /// Executions of a machine, newest first, at most a page of them.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is no such machine.
    pub async fn executions(&self, machine_arn: &str, which: Which) -> Result<Vec<ExecutionListed>, Trouble> {
        let running = (which == Which::Running).then_some(ExecutionStatus::Running);
        let request = self.client.list_executions().state_machine_arn(machine_arn).set_status_filter(running);
        let answer = request.max_results(20).send().await.map_err(missing)?;
        let listed = |execution: &aws_sdk_sfn::types::ExecutionListItem| ExecutionListed {
            arn: execution.execution_arn().to_owned(),
            name: execution.name().to_owned(),
            status: execution.status().as_str().to_owned(),
            started_at: timestamp(Some(execution.start_date())).unwrap_or(Timestamp::UNIX_EPOCH),
            stopped_at: timestamp(execution.stop_date()),
        };
        Ok(answer.executions().iter().map(listed).collect())
    }

    /// Ends an execution where it stands; what it has asked for goes on in the world.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none of this ARN.
    pub async fn stop(&self, arn: &str, error: &str, cause: &str) -> Result<(), Trouble> {
        let request = self.client.stop_execution().execution_arn(arn).error(error).cause(cause);
        request.send().await.map(|_| ()).map_err(missing)
    }

    /// Takes an execution up again after an end without success, from the states that did not succeed. The token makes a
    /// repeated request the same one for fifteen minutes.
    /// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html>
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none of this ARN.
    pub async fn redrive(&self, arn: &str, token: &str) -> Result<Redriven, Trouble> {
        match self.client.redrive_execution().execution_arn(arn).client_token(token).send().await {
            Ok(answer) => Ok(Redriven::At(timestamp(Some(answer.redrive_date())).unwrap_or(Timestamp::UNIX_EPOCH))),
            Err(error) => {
                let trouble = missing(error);
                if trouble.is("ExecutionNotRedrivable") {
                    Ok(Redriven::Refused(trouble.to_string()))
                } else {
                    Err(trouble)
                }
            }
        }
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
    let assigned = event.state_exited_event_details().and_then(|details| details.assigned_variables());
    HistoryEvent {
        assigned: assigned.into_iter().flatten().map(|(name, text)| (name.clone(), text.clone())).collect(),
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
