//! The border between a function and AWS Lambda.
//!
//! A function is a library with a request, a result and a classified error; what is here makes a Lambda of it. The plan is
//! read and clients are warmed during init. The request is understood inside the invocation, so that a wrong event is
//! `Recovery.Permanent` like any other mistake of a developer, and not a name of a Rust type that no state machine
//! matches. Panics cross the border the same way. A failure is logged once, here.
//!
//! Settings come from the environment: `RECOVERY_PLAN` names the plan file, default `plan.toml` beside the binary;
//! `RECOVERY_LOG` is the least level of the log, default `info`, or levels of targets with commas between: `warn,recovery_aws=debug`.

use std::{
    any::Any,
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use recovery::{
    fault::{Classified, Failure, Fault},
    plan::Plan,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tracing::{Instrument, error, info, info_span, level_filters::LevelFilter, warn};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use lambda_runtime::Error;

/// What a function knows before its first request.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The platform.
    pub plan: Arc<Plan>,
    /// The folder of the plan file, which relative names in the plan start from.
    pub folder: PathBuf,
}

impl Settings {
    /// Reads the plan that the environment names.
    ///
    /// # Errors
    /// It cannot be read or is wrong; one line says where.
    pub fn from_environment() -> Result<Settings, Failure> {
        let path = match std::env::var_os("RECOVERY_PLAN") {
            Some(path) => PathBuf::from(path),
            None => beside_the_binary("plan.toml"),
        };
        Settings::read(&path)
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// It cannot be read or is wrong; one line says where.
    pub fn read(path: &Path) -> Result<Settings, Failure> {
        let plan = Plan::read(path).map_err(|error| misconfigured(&error.to_string()))?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Settings { plan: Arc::new(plan), folder })
    }

    /// Reads a file that the plan names, for example a certificate authority.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&self, name: &str) -> Result<String, Failure> {
        let path = self.folder.join(name);
        std::fs::read_to_string(&path).map_err(|error| {
            misconfigured(&format!("`{}`, which the plan names, cannot be read: {error}", path.display()))
        })
    }
}

/// A mistake in what was packaged with the function: no attempt can succeed.
pub fn misconfigured(problem: &str) -> Failure {
    Failure {
        error_type: Fault::Permanent.error_type().to_owned(),
        message: format!("{problem}; correct it and deploy again"),
    }
}

fn beside_the_binary(name: &str) -> PathBuf {
    // LAMBDA_TASK_ROOT is where Lambda unpacks the package.
    let folder = std::env::var_os("LAMBDA_TASK_ROOT").map(PathBuf::from);
    let folder = folder.or_else(|| std::env::current_exe().ok()?.parent().map(Path::to_path_buf));
    folder.unwrap_or_default().join(name)
}

/// Serves a function until Lambda ends the process.
///
/// `prepare` runs once during init: it makes clients and may warm them. If it fails, every invocation is answered with its
/// failure, because an init that exits is `Runtime.ExitError`, which machines take for a passing trouble.
///
/// # Errors
/// The runtime's own, when it is not started by Lambda.
pub async fn serve<W, P, PF, H, HF, Q, T, E>(name: &'static str, prepare: P, handle: H) -> Result<(), Error>
where
    P: FnOnce(Settings) -> PF,
    PF: Future<Output = Result<W, Failure>>,
    H: Fn(Arc<W>, Q) -> HF,
    HF: Future<Output = Result<T, E>> + Send + 'static,
    W: Send + Sync + 'static,
    Q: DeserializeOwned,
    T: Serialize + Send + 'static,
    E: Classified + Send + 'static,
{
    log_json();
    let wiring = match Settings::from_environment() {
        Ok(settings) => prepare(settings).await.map(Arc::new),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &wiring {
        error!(function = name, error.kind = %failure.error_type, "`{name}` cannot start: {}", failure.message);
    }
    let (wiring, handle) = (&wiring, &handle);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let wiring = wiring.as_ref().map_err(Failure::clone).map_err(diagnostic)?;
        answer(name, Arc::clone(wiring), handle, event.payload).await.map_err(diagnostic)
    }))
    .await
}

/// Status of a process whose function failed in a way that another attempt may get over.
pub const AGAIN: u8 = 1;

/// Status of a process whose function failed for good, until somebody changes something.
pub const IN_VAIN: u8 = 2;

/// Answers one request and ends: what a function does where no Lambda calls it, such as in a Job of a cluster. The answer is
/// one JSON line on standard output, behind the log; the status is 0 if the function succeeded, [`AGAIN`] or [`IN_VAIN`].
pub async fn once<W, P, PF, H, HF, Q, T, E>(name: &'static str, request: Value, prepare: P, handle: H) -> ExitCode
where
    P: FnOnce(Settings) -> PF,
    PF: Future<Output = Result<W, Failure>>,
    H: Fn(Arc<W>, Q) -> HF,
    HF: Future<Output = Result<T, E>> + Send + 'static,
    W: Send + Sync + 'static,
    Q: DeserializeOwned,
    T: Serialize + Send + 'static,
    E: Classified + Send + 'static,
{
    log_json();
    let answered = async {
        let wiring = Arc::new(prepare(Settings::from_environment()?).await?);
        answer(name, wiring, handle, request).await
    };
    match answered.await {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}", serde_json::json!(failure));
            let again = [Fault::Transient, Fault::NotYet].iter().any(|fault| fault.error_type() == failure.error_type);
            ExitCode::from(if again { AGAIN } else { IN_VAIN })
        }
    }
}

/// Answers one request: what [`serve`] does with each.
///
/// # Errors
/// What the function failed with, as it crosses the border.
pub async fn answer<W, H, HF, Q, T, E>(
    name: &'static str,
    wiring: Arc<W>,
    handle: H,
    payload: Value,
) -> Result<Value, Failure>
where
    H: Fn(Arc<W>, Q) -> HF,
    HF: Future<Output = Result<T, E>> + Send + 'static,
    Q: DeserializeOwned,
    T: Serialize + Send + 'static,
    E: Classified + Send + 'static,
{
    let span = info_span!("invocation", function = name, run.id = run_id(&payload).unwrap_or("unknown"));
    let answered = async {
        let request: Q = serde_json::from_value(payload).map_err(|error| Failure::bad_request(name, &error))?;
        // A task of its own: a panic in it ends the task and not the process.
        let outcome = tokio::spawn(handle(wiring, request).in_current_span()).await;
        let outcome = outcome.map_err(|ended| Failure::panicked(name, &panic_text(ended)))?;
        let result = outcome.map_err(|error| Failure::from(&error))?;
        serde_json::to_value(result).map_err(|error| Failure {
            error_type: Fault::Permanent.error_type().to_owned(),
            message: format!("the result of `{name}` cannot be written: {error}; report this as a defect"),
        })
    };
    answered.instrument(span.clone()).await.inspect_err(|failure| span.in_scope(|| log_failure(name, failure)))
}

/// Waiting is no news, refusals are the business of a person, the rest is trouble.
fn log_failure(name: &str, failure: &Failure) {
    let (kind, text) = (failure.error_type.as_str(), failure.message.as_str());
    if kind == Fault::NotYet.error_type() {
        info!(error.kind = kind, "`{name}` looks again: {text}");
    } else if kind == Fault::Permanent.error_type() {
        error!(error.kind = kind, "`{name}` cannot succeed: {text}");
    } else {
        warn!(error.kind = kind, "`{name}` failed: {text}");
    }
}

/// The run that a payload belongs to: most carry the whole record, the first step and backups only its id.
fn run_id(payload: &Value) -> Option<&str> {
    let run = payload.pointer("/run/id").or_else(|| payload.get("run_id")).or_else(|| payload.get("run"));
    run?.as_str()
}

fn panic_text(ended: tokio::task::JoinError) -> String {
    let Ok(payload) = ended.try_into_panic() else { return "it was cancelled".to_owned() };
    let payload: &(dyn Any + Send) = payload.as_ref();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

fn diagnostic(failure: Failure) -> Diagnostic {
    Diagnostic { error_type: failure.error_type, error_message: failure.message }
}

/// One JSON object a line on stdout, which is where Lambda takes the log from.
fn log_json() {
    // CloudWatch stamps every line.
    let lines = fmt::layer().json().flatten_event(true).without_time();
    let lines = lines.with_target(false).with_current_span(true).with_span_list(false);
    // A second call in one process keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(lines).with(filter()).try_init();
}

/// The same lines, with their time, in a file: what the functions say where no Lambda takes their log.
pub fn log_to(file: File) {
    let lines = fmt::layer().json().flatten_event(true).with_writer(Mutex::new(file));
    let lines = lines.with_target(false).with_current_span(true).with_span_list(false);
    // A second call in one process keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(lines).with(filter()).try_init();
}

/// No `EnvFilter`: it would bring an engine for regular expressions into every function.
fn filter() -> Targets {
    let asked = std::env::var("RECOVERY_LOG").ok().and_then(|filter| filter.parse().ok());
    // The Kubernetes client logs each error that it also returns, and a host that refuses connections is no error here.
    let usual = || Targets::new().with_default(LevelFilter::INFO).with_target("kube_client", LevelFilter::OFF);
    asked.unwrap_or_else(usual)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request {
        run_id: String,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the replica has not caught up")]
    struct Behind;

    impl Classified for Behind {
        fn fault(&self) -> Fault {
            Fault::NotYet
        }

        fn remedy(&self) -> String {
            "wait".to_owned()
        }
    }

    async fn step(request: Request) -> Result<String, Behind> {
        match request.run_id.as_str() {
            "behind" => Err(Behind),
            "broken" => panic!("index {} out of bounds", 7),
            id => Ok(format!("done for {id}")),
        }
    }

    async fn ask(payload: Value) -> Result<Value, Failure> {
        answer("test-step", Arc::new(()), |_, request| step(request), payload).await
    }

    #[tokio::test]
    async fn every_way_to_fail_has_one_of_four_names() {
        assert_eq!(ask(json!({"run_id": "a"})).await.unwrap(), json!("done for a"));
        let situations = [
            ("a step that waits", json!({"run_id": "behind"}), Fault::NotYet, "the replica has not caught up; wait"),
            ("a panic", json!({"run_id": "broken"}), Fault::Permanent, "`test-step` panicked: index 7 out of bounds"),
            ("a wrong event", json!({"run": 1}), Fault::Permanent, "the request of `test-step` is not understood"),
            ("no event at all", Value::Null, Fault::Permanent, "the request of `test-step` is not understood"),
        ];
        for (situation, payload, fault, text) in situations {
            let failure = ask(payload).await.unwrap_err();
            assert_eq!(failure.error_type, fault.error_type(), "{situation}");
            assert!(failure.message.contains(text), "{situation}: {}", failure.message);
        }
    }

    #[test]
    fn a_missing_plan_is_one_line_that_says_which() {
        let failure = Settings::read(Path::new("/nowhere/plan.toml")).unwrap_err();
        assert_eq!(failure.error_type, "Recovery.Permanent");
        assert!(failure.message.starts_with("/nowhere/plan.toml:1:1: cannot be read"), "{}", failure.message);
    }
}
