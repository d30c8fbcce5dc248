//! Jobs, as the `eks:runJob` of Step Functions makes them: made, looked at, and their logs read. Refusals are passed on in the
//! API server's own form, because that is what a state machine gets to see.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/connect-eks.html>

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Resource,
    api::{GetParams, ListParams, LogParams, PostParams},
    core::Request,
};
use serde_json::{Value, json};

use crate::connection::Cluster;
use crate::error::Error;

/// Longest list of a Job's pods: each is an attempt.
const MOST_PODS: u32 = 100;

/// A Job was not made or not found, or nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The API server answered with something else than success.
    #[error("the API server answers {status}: {}", body["message"].as_str().unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its `Status`.
        body: Value,
    },
    /// It did not answer, so it may have done what it was asked.
    #[error(transparent)]
    Unanswered(#[from] Error),
}

impl Cluster {
    /// Makes a Job; answers it as the server has completed it.
    ///
    /// # Errors
    /// See [`JobError`]; 409 if there is one of this name.
    pub async fn create_job(&self, namespace: &str, job: &Value) -> Result<Value, JobError> {
        let request = Request::new(Job::url_path(&(), Some(namespace)));
        let body = job.to_string().into_bytes();
        let parameters = PostParams { field_manager: Some(crate::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let request = request.create(&parameters, body).map_err(|error| self.not_asked("making a Job", &error))?;
        let client = self.client().await?;
        let text = self.answered("making a Job", client.request_text(request)).await?;
        self.read("making a Job", &text)
    }

    /// A Job as it is now.
    ///
    /// # Errors
    /// See [`JobError`]; 404 if there is none of this name.
    pub async fn job(&self, namespace: &str, name: &str) -> Result<Value, JobError> {
        let request = Request::new(Job::url_path(&(), Some(namespace)));
        let request = request.get(name, &GetParams::default());
        let request = request.map_err(|error| self.not_asked("looking at a Job", &error))?;
        let client = self.client().await?;
        let text = self.answered("looking at a Job", client.request_text(request)).await?;
        self.read("looking at a Job", &text)
    }

    /// Its pods, one for each attempt that is still there.
    ///
    /// # Errors
    /// See [`JobError`].
    pub async fn pods_of_job(&self, namespace: &str, name: &str) -> Result<Vec<Value>, JobError> {
        let request = Request::new(Pod::url_path(&(), Some(namespace)));
        let parameters = ListParams::default().labels(&format!("job-name={name}")).limit(MOST_PODS);
        let request = request.list(&parameters);
        let request = request.map_err(|error| self.not_asked("listing the pods of a Job", &error))?;
        let client = self.client().await?;
        let text = self.answered("listing the pods of a Job", client.request_text(request)).await?;
        let list = self.read("listing the pods of a Job", &text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// What a container has written. `parameters` are those of the Kubernetes API: `tailLines`, `limitBytes`.
    ///
    /// # Errors
    /// See [`JobError`].
    pub async fn pod_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        parameters: &BTreeMap<String, Vec<String>>,
    ) -> Result<String, JobError> {
        let request = Request::new(Pod::url_path(&(), Some(namespace)));
        let first = |name: &str| parameters.get(name).and_then(|values| values.first());
        let number = |name: &str| first(name).and_then(|value| value.parse().ok());
        let on = |name: &str| first(name).is_some_and(|value| value == "true");
        let parameters = LogParams {
            container: Some(container.to_owned()),
            tail_lines: number("tailLines"),
            limit_bytes: number("limitBytes"),
            since_seconds: number("sinceSeconds"),
            timestamps: on("timestamps"),
            previous: on("previous"),
            ..LogParams::default()
        };
        let request = request.logs(pod, &parameters).map_err(|error| self.not_asked("reading a log", &error))?;
        let client = self.client().await?;
        self.answered("reading a log", client.request_text(request)).await
    }

    /// Waits for one answer, and keeps a refusal as the server wrote it.
    async fn answered(
        &self,
        doing: &str,
        answer: impl Future<Output = kube::Result<String>>,
    ) -> Result<String, JobError> {
        match tokio::time::timeout(self.at.limits.request, answer).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => {
                let mut body = json!({ "kind": "Status", "apiVersion": "v1" });
                if let (Some(body), Ok(Value::Object(said))) = (body.as_object_mut(), serde_json::to_value(&*status)) {
                    body.extend(said);
                }
                Err(JobError::Refused { status: status.code, body })
            }
            Ok(Err(error)) => Err(Error::from_kube(&self.at.cluster, doing, error).into()),
            Err(_) => Err(JobError::Unanswered(Error::TimedOut {
                cluster: self.at.cluster.clone(),
                doing: doing.to_owned(),
                seconds: self.at.limits.request.as_secs_f32(),
            })),
        }
    }

    fn not_asked(&self, doing: &str, error: &kube::core::request::Error) -> JobError {
        let (cluster, object) = (self.at.cluster.clone(), doing.to_owned());
        JobError::Unanswered(Error::Invalid { cluster, object, said: error.to_string() })
    }

    fn read(&self, doing: &str, text: &str) -> Result<Value, JobError> {
        serde_json::from_str(text).map_err(|error| {
            JobError::Unanswered(Error::Unreadable {
                cluster: self.at.cluster.clone(),
                doing: doing.to_owned(),
                why: error.to_string(),
            })
        })
    }
}
