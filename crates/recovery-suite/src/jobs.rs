//! `eks:runJob.sync` as Step Functions does it, for the engine here: the Job is made by the Kubernetes API, looked at until it
//! has ended, and its logs are read. Arguments, results, and names and causes of errors are those of Step Functions.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/connect-eks.html>
//!
//! One thing is ours: where a runner was killed and goes on, the Job is looked for before one is made. Step Functions does
//! not need that, for it does not forget that it has made one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use asl::{ResourceKind, TaskCall, TaskOutcome};
use base64::{Engine, prelude::BASE64_STANDARD};
use recovery::fault::{Classified, chain};
use recovery_aws::Aws;
use recovery_kubernetes::{Cluster, JobError};
use recovery_lambda::Settings;
use recovery_sites::addressed;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

/// Time between two looks at a Job, at first and at most. Step Functions takes one minute and up to five.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What Step Functions calls a job of any service that has failed.
const FAILED: &str = "States.TaskFailed";

/// Most of a cause, which is where Step Functions cuts it.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_TaskFailedEventDetails.html>
const MOST_CAUSE_BYTES: usize = 32_768;

/// The arguments of the state, as AWS has them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Arguments {
    cluster_name: String,
    certificate_authority: String,
    endpoint: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    job: Value,
    #[serde(default)]
    log_options: LogOptions,
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct LogOptions {
    retrieve_logs: bool,
    raw_logs: bool,
    log_parameters: BTreeMap<String, Vec<String>>,
}

/// Whether a call is one that is answered here.
pub(crate) fn is_for_a_job(call: &TaskCall) -> bool {
    matches!(&call.resource.kind, ResourceKind::Integration { service, action, .. } if &**service == "eks" && &**action == "runJob.sync")
}

/// Runs a Job to its end.
pub(crate) async fn run(call: &TaskCall, settings: &Settings, aws: &Aws) -> TaskOutcome {
    match run_to_its_end(call, settings, aws).await {
        Ok(output) => TaskOutcome::success(output),
        Err((error, cause)) => TaskOutcome::failure(error, cut(cause)),
    }
}

type Trouble = (String, String);

async fn run_to_its_end(call: &TaskCall, settings: &Settings, aws: &Aws) -> Result<Value, Trouble> {
    let wrong = |said: String| ("States.Runtime".to_owned(), said);
    let arguments: Arguments = serde_json::from_value(call.payload.value().clone())
        .map_err(|error| wrong(format!("the arguments of eks:runJob.sync are not understood: {error}")))?;
    let ca_pem = BASE64_STANDARD.decode(&arguments.certificate_authority).ok();
    let ca_pem = ca_pem.and_then(|bytes| String::from_utf8(bytes).ok());
    let ca_pem = ca_pem.ok_or_else(|| wrong("CertificateAuthority is not PEM in base64".to_owned()))?;
    let Arguments { cluster_name, endpoint, namespace, .. } = &arguments;
    let cluster = addressed(settings, aws, cluster_name, endpoint, ca_pem, namespace);
    let cluster = cluster.map_err(|failure| wrong(failure.message))?;
    let name = arguments.job["metadata"]["name"].as_str().unwrap_or_default();

    let job = match before(call, &cluster, namespace, name).await? {
        Some(job) => job,
        None => cluster.create_job(namespace, &arguments.job).await.map_err(refused)?,
    };
    call.submitted(json!({ "ResponseBody": job, "StatusCode": 201, "StatusText": "Created" }));
    let began = Instant::now();
    let mut job = await_end(&cluster, namespace, name).await?;
    if arguments.log_options.retrieve_logs {
        job["logs"] = logs(&cluster, namespace, name, &arguments.log_options).await;
    }
    let failed = has(&job, "Failed");
    info!(
        call = call.call,
        job = name,
        failed,
        "the Job `{name}` has ended after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    if failed { Err((FAILED.to_owned(), job.to_string())) } else { Ok(job) }
}

/// The Job that an earlier runner of this execution has made, if it came so far.
async fn before(call: &TaskCall, cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<Value>, Trouble> {
    if !call.may_repeat {
        return Ok(None);
    }
    match cluster.job(namespace, name).await {
        Ok(job) => Ok(Some(job)),
        Err(JobError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

/// Looks until the Job has ended. An API server that is away for a while ends nothing: the state has a deadline.
async fn await_end(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value, Trouble> {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        match cluster.job(namespace, name).await {
            Ok(job) if has(&job, "Complete") || has(&job, "Failed") => return Ok(job),
            Ok(_) => {}
            Err(error @ JobError::Refused { status: 429 | 500..=599, .. }) | Err(error @ JobError::Unanswered(_)) => {
                warn!("the Job `{name}` could not be looked at: {}", chain(&error));
            }
            Err(error) => return Err(refused(error)),
        }
    }
}

fn has(job: &Value, condition: &str) -> bool {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == condition && one["status"] == "True")
}

/// The log of every container of every pod, or why there is none.
async fn logs(cluster: &Cluster, namespace: &str, name: &str, options: &LogOptions) -> Value {
    let pods = match cluster.pods_of_job(namespace, name).await {
        Ok(pods) => pods,
        Err(error) => {
            let (error, cause) = refused(error);
            return json!({ "error": error, "cause": cause });
        }
    };
    let mut read = serde_json::Map::new();
    for pod in pods {
        let Some(pod_name) = pod["metadata"]["name"].as_str() else { continue };
        let mut containers = serde_json::Map::new();
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            let Some(container) = container["name"].as_str() else { continue };
            let log = match cluster.pod_log(namespace, pod_name, container, &options.log_parameters).await {
                Ok(text) => json!({ "log": log(text, options.raw_logs) }),
                Err(error) => {
                    let (error, cause) = refused(error);
                    json!({ "error": error, "cause": cause })
                }
            };
            containers.insert(container.to_owned(), log);
        }
        read.insert(pod_name.to_owned(), json!({ "containers": containers }));
    }
    json!({ "pods": read })
}

/// A log is JSON if it can be, unless it was asked for as it is.
fn log(text: String, raw: bool) -> Value {
    if raw {
        return Value::String(text);
    }
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// The API server's refusal as Step Functions names it. For one that did not answer it documents no name; 503 is what is
/// tried again, and a Job that was made all the same is found out then.
fn refused(error: JobError) -> Trouble {
    match error {
        JobError::Refused { status, body } => {
            let text = status_text(status);
            let cause = json!({ "ResponseBody": body, "StatusCode": status, "StatusText": text });
            (format!("EKS.{status}"), cause.to_string())
        }
        JobError::Unanswered(error) => {
            let said = format!("{}; {}", chain(&error), error.remedy());
            ("EKS.503".to_owned(), json!({ "ResponseBody": { "message": said, "reason": "Unanswered" } }).to_string())
        }
    }
}

fn status_text(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

fn cut(mut cause: String) -> String {
    cause.truncate(cause.floor_char_boundary(MOST_CAUSE_BYTES));
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_json_if_it_can_be_and_was_not_asked_for_as_it_is() {
        assert_eq!(log("{\"pi\": 3}".to_owned(), false), json!({"pi": 3}));
        assert_eq!(log("{\"pi\": 3}".to_owned(), true), json!("{\"pi\": 3}"));
        assert_eq!(log("one\ntwo\n".to_owned(), false), json!("one\ntwo\n"));
    }

    #[test]
    fn a_refusal_has_the_form_that_step_functions_gives_it() {
        let body = json!({"kind": "Status", "message": "Unauthorized", "reason": "Unauthorized", "code": 401});
        let (error, cause) = refused(JobError::Refused { status: 401, body: body.clone() });
        assert_eq!(error, "EKS.401");
        let cause: Value = serde_json::from_str(&cause).unwrap();
        assert_eq!(cause, json!({"ResponseBody": body, "StatusCode": 401, "StatusText": "Unauthorized"}));
    }
}
