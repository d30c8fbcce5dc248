//! A node that runs Jobs: each pod is a process of a real program.
//!
//! Stands for the Job controller, the scheduler, one kubelet and the registry. An image is a program on this machine; a pod
//! gets its arguments, its environment, the files of its ConfigMap volumes, and beside them what a node gives its pods:
//! credentials, as the agent of EKS Pod Identity does. Its end is its exit code, its log is read through the API server, which
//! asks this node for it as it asks a kubelet. A pod that is deleted gets SIGTERM, and SIGKILL after its grace period.
//!
//! It is no container: the program sees this machine's files, and its user and its limits are the lab's. A volume lies in a
//! folder of the lab, so a variable that begins with the path it is mounted at is told that folder instead.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Segments, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::admin::Admin;
use super::serve::serve;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::process::{Launch, Process};
use crate::tls::Authority;

/// The node's name.
const NODE: &str = "lab-node";

/// How often the cluster is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// What Kubernetes waits before a Job's second pod; doubled for each one after it, up to six minutes.
/// <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy>
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(360);

/// A program that stands for an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the image's name begins with, without tag and digest.
    pub name: String,
    /// The program that its entrypoint is.
    pub program: PathBuf,
    /// What the node gives its pods: credentials, and where AWS is.
    pub env: Vec<(String, String)>,
}

/// How a node runs Jobs.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// What it can run.
    pub images: Vec<Image>,
    /// Seconds of the lab for a second of waiting between two pods of a Job.
    pub scale: f64,
}

/// A node; dropping it ends what runs on it.
pub struct Node {
    pods: Pods,
    folder: Arc<Folder>,
    _stop: DropGuard,
}

/// Pods of this node, by namespace and name.
type Pods = Arc<Mutex<HashMap<(String, String), Running>>>;

struct Running {
    process: Process,
    asked_to_end: Option<Instant>,
}

fn lock(pods: &Pods) -> MutexGuard<'_, HashMap<(String, String), Running>> {
    pods.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) async fn start(admin: Admin, options: NodeOptions) -> Result<Node> {
        let folder = Arc::new(Folder::on_disk()?);
        let authority = Authority::new(folder.path())?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let logs = Router::new()
            .route("/containerLogs/{namespace}/{pod}/{container}", get(log))
            .with_state(folder.path().to_path_buf());
        let port = serve(logs, &authority, &stop).await?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        admin.create("/api/v1/nodes", &node).await?;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }});
        admin.merge(&format!("/api/v1/nodes/{NODE}/status"), &status).await?;
        let pods = Pods::default();
        let mut kubelet = Kubelet {
            admin,
            options,
            folder: folder.path().to_path_buf(),
            pods: pods.clone(),
            failures: HashMap::new(),
        };
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                // A cluster that is being stopped or cut off refuses; the next look finds out.
                if let Err(error) = kubelet.look().await {
                    tracing::debug!(%error, "the lab's node could not look at the cluster");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }));
        Ok(Node { pods, folder, _stop: guard })
    }

    /// Kills what runs in a pod at once, with everything that it has started, as when memory runs out.
    pub fn kill(&self, namespace: &str, pod: &str) -> bool {
        let mut pods = lock(&self.pods);
        let running = pods.get_mut(&(namespace.to_owned(), pod.to_owned()));
        running.map(|running| running.process.kill_tree()).is_some()
    }

    /// What a pod has written so far.
    pub fn log(&self, namespace: &str, pod: &str) -> String {
        std::fs::read_to_string(log_file(self.folder.path(), namespace, pod)).unwrap_or_default()
    }

    /// Names of the pods that run now.
    pub fn running(&self) -> Vec<String> {
        let mut pods = lock(&self.pods);
        let running =
            |(key, running): (&(String, String), &mut Running)| running.process.is_running().then(|| key.1.clone());
        pods.iter_mut().filter_map(running).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        lock(&self.pods).clear();
    }
}

struct Kubelet {
    admin: Admin,
    options: NodeOptions,
    folder: PathBuf,
    pods: Pods,
    /// When the last pod of a Job failed, by the Job's uid, and how many had.
    failures: HashMap<String, (u64, Instant)>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Kubelet {
    async fn look(&mut self) -> Result<()> {
        let mut by_job: HashMap<String, Vec<Value>> = HashMap::new();
        for pod in self.admin.list("/api/v1/pods", "job-name").await? {
            let pod = self.follow(pod).await?;
            if let Some(owner) = pod.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str) {
                by_job.entry(owner.to_owned()).or_default().push(pod);
            }
        }
        for job in self.admin.list("/apis/batch/v1/jobs", "").await? {
            let pods = by_job.remove(text(&job, "/metadata/uid")).unwrap_or_default();
            self.control(&job, &pods).await?;
        }
        Ok(())
    }

    /// What the Job controller does: one pod at a time until one succeeds, or too many have failed, or it took too long.
    async fn control(&mut self, job: &Value, pods: &[Value]) -> Result<()> {
        let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        if conditions.into_iter().any(|one| one["status"] == "True") || !job["metadata"]["deletionTimestamp"].is_null()
        {
            return Ok(());
        }
        let uid = text(job, "/metadata/uid").to_owned();
        let count = |phase: &str| pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count() as u64;
        let before = job["status"]["failed"].as_u64().unwrap_or(0);
        let (succeeded, failed) = (count("Succeeded"), count("Failed").max(before));
        let active = pods.len() as u64 - count("Succeeded") - count("Failed");
        if job["status"]["startTime"].is_null() {
            return self.tell(job, json!({"startTime": now()})).await;
        }
        let started: Option<Timestamp> = text(job, "/status/startTime").parse().ok();
        let ran = started.map_or(0, |started| Timestamp::now().as_second() - started.as_second());
        let limit = job["spec"]["backoffLimit"].as_u64().unwrap_or(6);
        let deadline = job["spec"]["activeDeadlineSeconds"].as_i64();
        let over = |reason: &str, message: &str| {
            json!({
                "active": null, "failed": failed,
                "conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message,
                    "lastProbeTime": now(), "lastTransitionTime": now()}],
            })
        };
        if succeeded > 0 {
            let complete =
                json!([{"type": "Complete", "status": "True", "lastProbeTime": now(), "lastTransitionTime": now()}]);
            let status = json!({
                "active": null, "succeeded": succeeded, "failed": (failed > 0).then_some(failed),
                "completionTime": now(), "conditions": complete,
            });
            return self.tell(job, status).await;
        }
        if deadline.is_some_and(|deadline| ran >= deadline) {
            for pod in pods.iter().filter(|pod| matches!(text(pod, "/status/phase"), "Pending" | "Running")) {
                self.delete(pod).await?;
            }
            return self.tell(job, over("DeadlineExceeded", "Job was active longer than specified deadline")).await;
        }
        if failed > limit {
            return self.tell(job, over("BackoffLimitExceeded", "Job has reached the specified backoff limit")).await;
        }
        if active == 0 {
            let (known, since) = self.failures.entry(uid).or_insert_with(|| (failed, Instant::now()));
            if *known != failed {
                (*known, *since) = (failed, Instant::now());
            }
            let doubled = 2u32.saturating_pow(u32::try_from(failed.saturating_sub(1)).unwrap_or(u32::MAX));
            let backoff = if failed == 0 { Duration::ZERO } else { (FIRST_BACKOFF * doubled).min(LONGEST_BACKOFF) };
            if since.elapsed() >= backoff.mul_f64(self.options.scale) {
                self.make_pod(job, failed).await?;
            }
        }
        let told = &job["status"];
        if told["active"].as_u64().unwrap_or(0) != active || told["failed"].as_u64().unwrap_or(0) != failed {
            let some = |number: u64| (number > 0).then_some(number);
            return self.tell(job, json!({"active": some(active), "failed": some(failed)})).await;
        }
        Ok(())
    }

    async fn tell(&self, job: &Value, status: Value) -> Result<()> {
        let (namespace, name) = (text(job, "/metadata/namespace"), text(job, "/metadata/name"));
        let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs/{name}/status");
        self.admin.merge(&path, &json!({ "status": status })).await.map(drop)
    }

    async fn make_pod(&self, job: &Value, failed: u64) -> Result<()> {
        let (namespace, name) = (text(job, "/metadata/namespace"), text(job, "/metadata/name"));
        let template = &job["spec"]["template"];
        let mut spec = template["spec"].clone();
        spec["nodeName"] = json!(NODE);
        let mut labels = template["metadata"]["labels"].clone();
        labels["job-name"] = json!(name);
        let suffix = uuid::Uuid::new_v4().simple().to_string();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{name}-{failed}{}", &suffix[..5]), "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": text(job, "/metadata/uid"), "controller": true,
                }],
            },
            "spec": spec,
        });
        self.admin.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).await.map(drop)
    }

    async fn delete(&self, pod: &Value) -> Result<()> {
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.admin.ask(reqwest::Method::DELETE, &path, "", None).await.map(drop)
    }

    /// What a kubelet does for one pod; gives the pod as it is then.
    async fn follow(&self, mut pod: Value) -> Result<Value> {
        if text(&pod, "/spec/nodeName") != NODE || matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed") {
            return Ok(pod);
        }
        let (namespace, name) = (text(&pod, "/metadata/namespace").to_owned(), text(&pod, "/metadata/name").to_owned());
        let key = (namespace.clone(), name.clone());
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
        let known = lock(&self.pods).contains_key(&key);
        if leaving && !known {
            self.admin.delete(&path).await?;
            return Ok(pod);
        }
        let status = if known {
            let ended = {
                let mut pods = lock(&self.pods);
                let Some(running) = pods.get_mut(&key) else { return Ok(pod) };
                if leaving {
                    running.leave(pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(30));
                }
                running.process.exit_code()
            };
            let Some(code) = ended else { return Ok(pod) };
            lock(&self.pods).remove(&key);
            if leaving {
                self.admin.delete(&path).await?;
                return Ok(pod);
            }
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            let reason = if code == 0 { "Completed" } else { "Error" };
            container_status(&pod, phase, json!({"terminated": {"exitCode": code, "reason": reason}}))
        } else {
            match self.run(&pod).await {
                Ok(process) => {
                    lock(&self.pods).insert(key, Running { process, asked_to_end: None });
                    container_status(&pod, "Running", json!({"running": {"startedAt": now()}}))
                }
                Err(error) => {
                    let waiting = json!({"waiting": {"reason": "CreateContainerError", "message": error.to_string()}});
                    let status = container_status(&pod, "Pending", waiting);
                    if pod["status"]["containerStatuses"] == status["containerStatuses"] {
                        return Ok(pod);
                    }
                    status
                }
            }
        };
        self.admin.merge(&format!("{path}/status"), &json!({ "status": status })).await?;
        pod["status"] = status;
        Ok(pod)
    }

    /// Starts the program of a pod's only container.
    async fn run(&self, pod: &Value) -> Result<Process> {
        let container = &pod["spec"]["containers"][0];
        let asked = text(container, "/image");
        let base = asked.split('@').next().unwrap_or_default();
        let image = self.options.images.iter().find(|image| image.name == base);
        let image = image.ok_or_else(|| Error::State(format!("the lab's registry has no image `{asked}`")))?;
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let mounts = self.mounts(pod, container).await?;
        let mut env: BTreeMap<String, String> = image.env.iter().cloned().collect();
        for variable in container["env"].as_array().into_iter().flatten() {
            let mut value = text(variable, "/value").to_owned();
            for (at, folder) in &mounts {
                if let Some(below) = value.strip_prefix(at.as_str()) {
                    value = format!("{}{below}", folder.display());
                }
            }
            env.insert(text(variable, "/name").to_owned(), value);
        }
        let arguments = container["args"].as_array().into_iter().flatten();
        Process::start(Launch {
            program: &image.program,
            args: arguments.filter_map(|argument| argument.as_str().map(str::to_owned)).collect(),
            env: env.into_iter().collect(),
            working_directory: &self.folder,
            log: &log_file(&self.folder, namespace, name),
            account: None,
            death_signal: "KILL",
        })
    }

    /// ConfigMap volumes as folders, by the path that they are mounted at.
    async fn mounts(&self, pod: &Value, container: &Value) -> Result<Vec<(String, PathBuf)>> {
        let namespace = text(pod, "/metadata/namespace");
        let mut mounts = Vec::new();
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            let volume = volumes.into_iter().find(|volume| volume["name"] == mount["name"]);
            let Some(source) = volume.map(|volume| &volume["configMap"]).filter(|source| source.is_object()) else {
                continue;
            };
            let map = text(source, "/name");
            let found = self.admin.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{map}")).await?;
            let found = found.ok_or_else(|| Error::State(format!("configmap \"{map}\" not found")))?;
            let folder = self.folder.join("volumes").join(text(pod, "/metadata/name")).join(text(mount, "/name"));
            for item in source["items"].as_array().into_iter().flatten() {
                let (key, path) = (text(item, "/key"), text(item, "/path"));
                let content = found["data"][key].as_str();
                let missing = || Error::State(format!("configmap \"{map}\" references non-existent config key: {key}"));
                let file = folder.join(path);
                write(&file, content.ok_or_else(missing)?)?;
            }
            mounts.push((text(mount, "/mountPath").to_owned(), folder));
        }
        Ok(mounts)
    }
}

impl Running {
    /// SIGTERM once, SIGKILL after the grace period.
    fn leave(&mut self, grace_seconds: u64) {
        match self.asked_to_end {
            None => {
                self.process.signal(Signal::SIGTERM);
                self.asked_to_end = Some(Instant::now());
            }
            Some(asked) if asked.elapsed() > Duration::from_secs(grace_seconds) => self.process.kill_tree(),
            Some(_) => {}
        }
    }
}

fn container_status(pod: &Value, phase: &str, state: Value) -> Value {
    let container = &pod["spec"]["containers"][0];
    json!({
        "phase": phase,
        "containerStatuses": [{
            "name": container["name"], "image": container["image"], "imageID": "", "ready": phase == "Running",
            "restartCount": 0, "state": state,
        }],
    })
}

fn log_file(folder: &Path, namespace: &str, pod: &str) -> PathBuf {
    folder.join(format!("{namespace}_{pod}.log"))
}

fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(Error::system(format!("make {}", folder.display())))?;
    }
    std::fs::write(file, text).map_err(Error::system(format!("write {}", file.display())))
}

/// What a kubelet answers the API server that is asked for a log.
async fn log(
    State(folder): State<PathBuf>,
    Segments((namespace, pod, _container)): Segments<(String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> (StatusCode, String) {
    let Ok(bytes) = std::fs::read(log_file(&folder, &namespace, &pod)) else {
        return (StatusCode::NOT_FOUND, format!("there is no log of {namespace}/{pod}"));
    };
    let text = String::from_utf8_lossy(&bytes);
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<usize>().ok());
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let skipped = number("tailLines").map_or(0, |tail| lines.len().saturating_sub(tail));
    let mut text = lines[skipped..].concat();
    if let Some(limit) = number("limitBytes") {
        text.truncate(text.floor_char_boundary(limit));
    }
    (StatusCode::OK, text)
}
