//! Runs the platform's workloads in the failover region, against the database that has just become the primary.
//!
//! Runs as `DeployWorkloads` in `regional-failover`, after `PromoteReplica`: before that there is no primary to point
//! anything at. The bundle of rendered manifests lies in the evidence bucket, so neither a build nor a registry of
//! manifests is needed; it is refused if it needs the region that was lost.
//!
//! Applying is the server's merge, so repeating changes nothing, and [`Fault::NotYet`] while rollouts move is how the state
//! machine waits for them. Replica counts are those that ran before the disaster, as far as anybody wrote them down.

mod bundle;

use std::collections::BTreeMap;

use jiff::Timestamp;
use recovery::{
    cluster::{Bundle, ClusterError, Rollout, Workloads},
    fault::{Classified, Fault},
    plan::Plan,
    run::{Run, WorkloadRollout},
    store::{ObjectStore, StoreError},
};
use serde::Deserialize;

pub use bundle::BundleProblem;

/// What the state machine asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record so far.
    pub run: Run,
}

/// Why the workloads do not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record has no plan, so there is nothing to do.
    #[error("not deploying: the run `{0}` has no plan")]
    NoPlan(String),
    /// There is no primary to point workloads at.
    #[error("not deploying: the run `{0}` has promoted nothing")]
    NotPromoted(String),
    /// Nobody has uploaded the manifests.
    #[error("not deploying: there is no bundle `s3://{bucket}/{key}`")]
    NoBundle {
        /// Which bucket.
        bucket: String,
        /// Which object.
        key: String,
    },
    /// The bucket failed.
    #[error("the bundle cannot be read")]
    Unread(#[source] StoreError),
    /// The manifests cannot work here.
    #[error("not deploying the bundle `{key}`")]
    Unusable {
        /// Which object.
        key: String,
        /// Why not.
        #[source]
        problem: BundleProblem,
    },
    /// The cluster did not take it.
    #[error("the bundle is not applied")]
    Cluster(#[source] ClusterError),
    /// Pods are on their way.
    #[error("{complete} of {asked} rollouts are complete; waiting for {waiting}")]
    RollingOut {
        /// How many are.
        complete: usize,
        /// How many there are.
        asked: usize,
        /// The others, with their numbers and what stops them.
        waiting: String,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::NoPlan(_) => Fault::Permanent,
            Error::NotPromoted(_) | Error::NoBundle { .. } => Fault::Refused,
            Error::Unread(source) => source.fault(),
            Error::Unusable { problem, .. } => problem.fault(),
            Error::Cluster(source) => source.fault(),
            Error::RollingOut { .. } => Fault::NotYet,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::NoPlan(_) | Error::NotPromoted(_) => "start the machine from its first state".to_owned(),
            Error::NoBundle { key, .. } => format!("render the recovery overlay and upload it as `{key}`"),
            Error::Unread(source) => source.remedy(),
            Error::Unusable { problem, .. } => problem.remedy(),
            Error::Cluster(source) => source.remedy(),
            Error::RollingOut { .. } => "look at the pods of the Deployments that wait".to_owned(),
        }
    }
}

/// Applies the bundle and looks how far its rollouts are.
///
/// # Errors
/// See [`Error`].
pub async fn deploy(
    request: Request,
    plan: &Plan,
    evidence: &dyn ObjectStore,
    workloads: &dyn Workloads,
    now: Timestamp,
) -> Result<WorkloadRollout, Error> {
    let Request { run } = request;
    let decided = run.plan.as_ref().ok_or_else(|| Error::NoPlan(run.id.clone()))?;
    let promotion = run.promotion.as_ref().ok_or_else(|| Error::NotPromoted(run.id.clone()))?;
    let key = &plan.kubernetes.bundle;
    let template = evidence.get(key).await.map_err(Error::Unread)?;
    let template =
        template.ok_or_else(|| Error::NoBundle { bucket: evidence.bucket().to_owned(), key: key.clone() })?;
    let unusable = |problem| Error::Unusable { key: key.clone(), problem };

    let standby = &plan.postgresql.standby;
    let port = standby.port.to_string();
    let values = [("DATABASE_HOST", standby.host.as_str()), ("DATABASE_PORT", &port), ("REGION", decided.to.code())];
    let manifests = bundle::render(&template.body, &BTreeMap::from(values)).map_err(unusable)?;
    let contents = bundle::inspect(&manifests, &decided.from).map_err(unusable)?;
    let replicas = replicas(&run, &contents.replicas, &contents.deployments);

    let applied = workloads.apply(&Bundle { manifests, replicas }).await.map_err(Error::Cluster)?;
    let rollouts = workloads.rollouts(&contents.deployments).await.map_err(Error::Cluster)?;
    let waiting: Vec<String> = rollouts.iter().filter(|rollout| !rollout.complete).map(progress).collect();
    if !waiting.is_empty() {
        return Err(Error::RollingOut {
            complete: rollouts.len() - waiting.len(),
            asked: rollouts.len(),
            waiting: waiting.join("; "),
        });
    }
    Ok(WorkloadRollout {
        cluster: plan.kubernetes.secondary.name.clone(),
        database: promotion.server.clone(),
        applied,
        rollouts,
        observed_at: now,
        rendered_at: contents.rendered_at,
        images: contents.images.into_iter().collect(),
    })
}

/// Counts by Deployment of the bundle, from the best witness that knows it: what the fence put aside ran when the disaster
/// came; what the plan of the run saw ran a moment before; what the bundle says ran when it was rendered. A Deployment that
/// nobody knows keeps what its manifest says.
fn replicas(run: &Run, rendered: &BTreeMap<String, u32>, deployments: &[String]) -> BTreeMap<String, u32> {
    let mut counts = rendered.clone();
    if let Some(plan) = &run.plan {
        counts.extend(plan.replicas.clone());
    }
    let writers = run.fence.iter().filter_map(|fence| fence.writers.as_ref()).flatten();
    let fenced = writers.filter_map(|writer| Some((writer.name.clone(), writer.remembered.as_ref()?.replicas)));
    counts.extend(fenced);
    // A service that ran with none is not what anybody wants back from a disaster, and others are not in this bundle.
    counts.retain(|name, count| *count > 0 && deployments.contains(name));
    counts
}

fn progress(rollout: &Rollout) -> String {
    let Rollout { name, desired, available, stuck, .. } = rollout;
    match stuck {
        Some(why) => format!("`{name}` {available}/{desired} ({why})"),
        None => format!("`{name}` {available}/{desired}"),
    }
}
