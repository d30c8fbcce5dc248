//! What a running machine asks of the world, and what the world answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::definition::Resource;
use crate::payload::Payload;

/// One call of a Task state.
#[derive(Debug, Clone)]
pub struct TaskCall {
    /// Names this call within its execution; answers carry it.
    pub call: u64,
    /// The state that calls.
    pub state: Arc<str>,
    /// What is called.
    pub resource: Resource,
    /// What it is called with: `Arguments` or `Parameters`, or the state's input.
    pub payload: Payload,
    /// How often this visit of the state has been retried; `RetryCount` of the context object.
    pub attempt: u64,
    /// The token that ends the task, when the resource waits for one.
    pub task_token: Option<Arc<str>>,
    /// The most seconds that may pass between heartbeats.
    pub heartbeat_seconds: Option<u64>,
    /// The most seconds the task may take.
    pub timeout_seconds: Option<u64>,
    /// `Credentials`, such as `{"RoleArn": "…"}`.
    pub credentials: Option<Payload>,
    /// The call may have been made before, by a runner that was killed before it could note the answer: look before doing
    /// anything that must not happen twice.
    pub may_repeat: bool,
    /// The same for the same attempt of the same visit of the same state of the same execution, also after the runner
    /// was killed and resumed; different for every other.
    pub idempotency_key: String,
    /// Who hears that a job was started.
    pub(crate) submissions: Option<mpsc::UnboundedSender<Submission>>,
}

/// The call that started a job, and what the service answered.
pub(crate) type Submission = (u64, Value);

/// A Lambda function that a call is for.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionCall<'a> {
    /// The function's name or ARN, as the machine has it.
    pub function: &'a str,
    /// The event it is given.
    pub payload: &'a Value,
}

static NO_PAYLOAD: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json!({}));

impl TaskCall {
    /// The function this call is for, whether the machine names its ARN or uses `lambda:invoke`.
    pub fn function(&self) -> Option<FunctionCall<'_>> {
        if self.resource.is_lambda_invoke() {
            let function = self.payload.value().get("FunctionName")?.as_str()?;
            let payload = self.payload.value().get("Payload").unwrap_or(&NO_PAYLOAD);
            return Some(FunctionCall { function, payload });
        }
        match self.resource.kind {
            crate::definition::ResourceKind::Function => {
                Some(FunctionCall { function: &self.resource.arn, payload: self.payload.value() })
            }
            _ => None,
        }
    }

    /// Tells that the job of a `.sync` resource was started, with what the service answered: the history says so while it
    /// runs, and also if it fails. Once is enough; a second time changes nothing.
    pub fn submitted(&self, answer: Value) {
        if let Some(submissions) = &self.submissions {
            // The execution may have ended.
            let _: Result<(), _> = submissions.send((self.call, answer));
        }
    }

    /// What Step Functions makes of a function's answer: the answer itself for a function's ARN, an envelope with
    /// `Payload` and `StatusCode` for `lambda:invoke`.
    pub fn function_answered(&self, answer: Value) -> TaskOutcome {
        if !self.resource.is_lambda_invoke() {
            return TaskOutcome::success(answer);
        }
        TaskOutcome::success(invocation(answer, &self.idempotency_key))
    }
}

/// What `lambda:invoke` makes of a function's answer.
pub(crate) fn invocation(answer: Value, request: &str) -> Value {
    json!({
        "ExecutedVersion": "$LATEST",
        "Payload": answer,
        "SdkHttpMetadata": {"HttpStatusCode": 200},
        "SdkResponseMetadata": {"RequestId": request},
        "StatusCode": 200,
    })
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TaskOutcome {
    /// It succeeded.
    Success {
        /// The result. When the resource waits for a token, what the call that handed out the token answered.
        output: Value,
        /// For `.sync` resources: what the service answered when the job was started, unless [`TaskCall::submitted`] said so.
        submitted: Option<Value>,
    },
    /// It failed.
    Failure {
        /// The error's name, which Retry and Catch match.
        error: Option<String>,
        /// What happened, for people.
        cause: Option<String>,
    },
}

impl TaskOutcome {
    /// A success with this result.
    pub fn success(output: Value) -> TaskOutcome {
        TaskOutcome::Success { output, submitted: None }
    }

    /// A failure with this name and cause.
    pub fn failure(error: impl Into<String>, cause: impl Into<String>) -> TaskOutcome {
        TaskOutcome::Failure { error: Some(error.into()), cause: Some(cause.into()) }
    }

    /// A failure as Lambda reports an error that a function returned: the cause is
    /// `{"errorType": …, "errorMessage": …}`.
    pub fn function_failed(error_type: &str, error_message: &str) -> TaskOutcome {
        TaskOutcome::failure(error_type, json!({"errorMessage": error_message, "errorType": error_type}).to_string())
    }
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExecutionStatus {
    /// The machine ran to an end.
    Succeeded,
    /// A state failed and nothing caught it.
    Failed,
    /// The machine's `TimeoutSeconds` passed.
    TimedOut,
    /// Somebody stopped it.
    Aborted,
}

impl ExecutionStatus {
    /// The name `DescribeExecution` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            ExecutionStatus::Succeeded => "SUCCEEDED",
            ExecutionStatus::Failed => "FAILED",
            ExecutionStatus::TimedOut => "TIMED_OUT",
            ExecutionStatus::Aborted => "ABORTED",
        }
    }
}

impl std::fmt::Display for ExecutionStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of an execution, as `DescribeExecution` gives it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExecutionOutcome {
    /// How it ended.
    pub status: ExecutionStatus,
    /// The output, when it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// The error's name, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What happened, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}
