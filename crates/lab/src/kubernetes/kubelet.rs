//! Makes rollouts happen, as far as an API can show them: pods, their states, observed generations and counts.
//!
//! Stands for the deployment controller, the scheduler and the kubelets together. What a workload does, and whether it
//! comes up at all, is the decision of the [`Kubelet`] that the lab was started with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::admin::Admin;
use crate::error::Result;

/// How often the cluster is looked at. The small API has no watch, and ten requests a second are nothing to either.
const PAUSE: Duration = Duration::from_millis(100);

/// A Deployment that is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Name of the Deployment.
    pub name: String,
    /// How many; zero means that it is to end.
    pub replicas: u32,
    /// Image of the first container.
    pub image: String,
    /// Environment of the first container; references to ConfigMaps are resolved, others are left out.
    pub env: BTreeMap<String, String>,
    /// Labels of the pods.
    pub labels: BTreeMap<String, String>,
}

/// How a workload fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is up.
    Running,
    /// Not yet: ask again.
    NotYet,
    /// Its new pods do not come up; those of the revision before stay.
    Stuck(Stuck),
}

/// Why a pod does not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// The registry does not give the image.
    ImagePull(String),
    /// No node takes it.
    Unschedulable(String),
    /// It ends right after its start.
    CrashLoop(String),
    /// The Deployment gave up waiting.
    DeadlineExceeded,
}

/// Decides what happens to workloads.
#[async_trait]
pub trait Kubelet: Send + Sync {
    /// A workload is to run like this from now on. Asked when its template or its count changes, and again as long as the
    /// answer is not [`Verdict::Running`]. Return soon: nothing else moves meanwhile.
    async fn run(&self, workload: &Workload) -> Verdict;
}

/// Everything comes up at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct EverythingRuns;

#[async_trait]
impl Kubelet for EverythingRuns {
    async fn run(&self, _: &Workload) -> Verdict {
        Verdict::Running
    }
}

/// What was decided of a Deployment last.
struct Seen {
    workload: Workload,
    revision: String,
    since: Instant,
    verdict: Verdict,
}

pub(super) fn start(admin: Admin, kubelet: Arc<dyn Kubelet>, stop: &CancellationToken) {
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        let mut seen = HashMap::new();
        loop {
            // A cluster that is being stopped or cut off refuses; the next look finds out.
            if let Err(error) = look(&admin, kubelet.as_ref(), &mut seen).await {
                tracing::debug!(%error, "the lab's controller could not look at the cluster");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }));
}

async fn look(admin: &Admin, kubelet: &dyn Kubelet, seen: &mut HashMap<String, Seen>) -> Result<()> {
    for deployment in admin.list("/apis/apps/v1/deployments", "").await? {
        move_on(admin, kubelet, seen, &deployment).await?;
    }
    Ok(())
}

async fn move_on(
    admin: &Admin,
    kubelet: &dyn Kubelet,
    seen: &mut HashMap<String, Seen>,
    deployment: &Value,
) -> Result<()> {
    let uid = deployment["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let template = &deployment["spec"]["template"];
    let revision = Sha256::digest(template.to_string().as_bytes())[..5]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let namespace = deployment["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let desired = deployment["spec"]["replicas"].as_u64().unwrap_or(1);

    let known = seen.get(&uid);
    let settled = known.is_some_and(|known| {
        known.revision == revision && u64::from(known.workload.replicas) == desired && known.verdict == Verdict::Running
    });
    if !settled {
        let workload = workload(admin, deployment).await?;
        let verdict = kubelet.run(&workload).await;
        let since = known.filter(|known| known.revision == revision).map_or_else(Instant::now, |known| known.since);
        seen.insert(uid.clone(), Seen { workload, revision: revision.clone(), since, verdict });
    }
    let Some(known) = seen.get(&uid) else { return Ok(()) };

    // Counts before this look: a rollout that is settled and looks settled costs one list in all.
    let status = &deployment["status"];
    let generation = &deployment["metadata"]["generation"];
    if settled
        && status["observedGeneration"] == *generation
        && status["availableReplicas"].as_u64().unwrap_or(0) == desired
        && status["replicas"].as_u64().unwrap_or(0) == desired
    {
        return Ok(());
    }

    let selector: Vec<String> = deployment["spec"]["selector"]["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
        .collect();
    let pods_path = format!("/api/v1/namespaces/{namespace}/pods");
    let pods = admin.list(&pods_path, &selector.join(",")).await?;
    let is_new = |pod: &&Value| pod["metadata"]["labels"]["pod-template-hash"] == revision.as_str();
    let (new, mut old): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|pod| is_new(pod));
    // Of older attempts those that never came up go first, as the deployment controller does it.
    old.sort_by_key(|pod| pod["status"]["phase"] != "Running");
    let serving = old.iter().filter(|pod| pod["status"]["phase"] == "Running").count() as u64;

    let first = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    // While the new pods are not up, one of them tries and the old ones serve, as a rolling update does.
    let running = known.verdict == Verdict::Running;
    let (keep_new, keep_old) = if running { (desired, 0) } else { (desired.min(1), desired.min(serving)) };
    for pod in new.iter().skip(first(keep_new)).chain(old.iter().skip(first(keep_old))) {
        admin.delete(&format!("{pods_path}/{}", pod["metadata"]["name"].as_str().unwrap_or_default())).await?;
    }
    let container = template["spec"]["containers"][0]["name"].as_str().unwrap_or("main");
    let image = known.workload.image.as_str();
    let wanted = pod_status(&known.verdict, container, image);
    let there: Vec<&Value> = new.iter().copied().take(first(keep_new)).collect();
    let taken: Vec<&str> = there.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    for pod in &there {
        if pod["status"]["phase"] != wanted["phase"]
            || pod["status"]["containerStatuses"][0]["state"] != wanted["containerStatuses"][0]["state"]
        {
            let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
            admin.merge(&format!("{pods_path}/{pod_name}/status"), &json!({"status": wanted})).await?;
        }
    }
    let mut number = 0;
    let mut missing = keep_new.saturating_sub(there.len() as u64);
    while missing > 0 {
        let pod_name = format!("{name}-{revision}-{number}");
        number += 1;
        if taken.contains(&pod_name.as_str()) {
            continue;
        }
        missing -= 1;
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name, "labels": template["metadata"]["labels"]}, "spec": template["spec"]});
        pod["metadata"]["labels"]["pod-template-hash"] = json!(revision);
        // In a whole cluster a ReplicaSet stands between the two.
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid, "controller": true}]);
        admin.create(&pods_path, &pod).await?;
        admin.merge(&format!("{pods_path}/{pod_name}/status"), &json!({"status": wanted})).await?;
    }

    let ready = keep_old + if running { desired } else { 0 };
    let deadline = deployment["spec"]["progressDeadlineSeconds"].as_u64().unwrap_or(600);
    let late = !running
        && (known.verdict == Verdict::Stuck(Stuck::DeadlineExceeded)
            || known.since.elapsed() > Duration::from_secs(deadline));
    let (reason, message) = match (running, late) {
        (true, _) => {
            ("NewReplicaSetAvailable", format!("ReplicaSet \"{name}-{revision}\" has successfully progressed."))
        }
        (_, true) => {
            ("ProgressDeadlineExceeded", format!("ReplicaSet \"{name}-{revision}\" has timed out progressing."))
        }
        _ => ("ReplicaSetUpdated", format!("ReplicaSet \"{name}-{revision}\" is progressing.")),
    };
    let available = if ready >= desired { "True" } else { "False" };
    let wanted = json!({
        "observedGeneration": generation,
        "replicas": keep_new + keep_old,
        "updatedReplicas": keep_new,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": desired.saturating_sub(ready),
        "conditions": [
            {"type": "Available", "status": available, "reason": "MinimumReplicas", "message": ""},
            {"type": "Progressing", "status": if late { "False" } else { "True" }, "reason": reason, "message": message},
        ],
    });
    let same = |field: &str| status[field] == wanted[field] || (status[field].is_null() && wanted[field] == 0);
    let fields = ["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    if fields.iter().all(|field| same(field)) && status["conditions"][1]["reason"] == reason {
        return Ok(());
    }
    admin
        .merge(&format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}/status"), &json!({"status": wanted}))
        .await?;
    Ok(())
}

fn pod_status(verdict: &Verdict, container: &str, image: &str) -> Value {
    let waiting = |reason: &str, message: &str| {
        json!({
            "phase": "Pending",
            "containerStatuses": [{
                "name": container, "image": image, "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}},
            }],
        })
    };
    match verdict {
        Verdict::Running => json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": container, "image": image, "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
            }],
        }),
        Verdict::NotYet | Verdict::Stuck(Stuck::DeadlineExceeded) => waiting("ContainerCreating", ""),
        Verdict::Stuck(Stuck::ImagePull(message)) => waiting("ImagePullBackOff", message),
        Verdict::Stuck(Stuck::CrashLoop(message)) => waiting("CrashLoopBackOff", message),
        Verdict::Stuck(Stuck::Unschedulable(message)) => json!({
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
        }),
    }
}

async fn workload(admin: &Admin, deployment: &Value) -> Result<Workload> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&deployment["metadata"]["namespace"]);
    let template = &deployment["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let mut env = BTreeMap::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        if let Some(name) = source["configMapRef"]["name"].as_str() {
            for (key, value) in config_map(admin, &namespace, name).await?.as_object().into_iter().flatten() {
                env.insert(key.clone(), text(value));
            }
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let reference = &variable["valueFrom"]["configMapKeyRef"];
        let value = match (variable["value"].as_str(), reference["name"].as_str()) {
            (Some(value), _) => value.to_owned(),
            (None, Some(name)) => {
                text(&config_map(admin, &namespace, name).await?[reference["key"].as_str().unwrap_or_default()])
            }
            (None, None) => continue,
        };
        env.insert(text(&variable["name"]), value);
    }
    let labels = template["metadata"]["labels"].as_object().into_iter().flatten();
    Ok(Workload {
        name: text(&deployment["metadata"]["name"]),
        replicas: u32::try_from(deployment["spec"]["replicas"].as_u64().unwrap_or(1)).unwrap_or(u32::MAX),
        image: text(&container["image"]),
        env,
        labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
        namespace,
    })
}

async fn config_map(admin: &Admin, namespace: &str, name: &str) -> Result<Value> {
    let found = admin.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}")).await?;
    Ok(found.map(|map| map["data"].clone()).unwrap_or_default())
}
