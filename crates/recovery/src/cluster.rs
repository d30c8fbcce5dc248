//! The clusters of both regions: nodes, writers and workloads.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::{Classified, Fault};

/// What EKS says of a managed node group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGroupStatus {
    /// When it was read.
    pub observed_at: Timestamp,
    /// Lower bound.
    pub minimum: u32,
    /// Nodes asked for.
    pub desired: u32,
    /// Upper bound.
    pub maximum: u32,
    /// `ACTIVE`, `UPDATING`, `DEGRADED`, …
    pub status: String,
    /// Health issues in EKS's words, for example `AsgInstanceLaunchFailures: …`.
    pub issues: Vec<String>,
}

/// A managed node group.
#[async_trait]
pub trait NodeGroup: Send + Sync {
    /// Reads sizes and health.
    async fn look(&self) -> Result<NodeGroupStatus, ClusterError>;
    /// Asks for a size: all three bounds together, because EKS refuses `desired` above `maximum`.
    async fn resize(&self, size: NodeGroupSize, token: &str) -> Result<(), ClusterError>;
}

/// The three numbers of a node group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGroupSize {
    /// Lower bound.
    pub minimum: u32,
    /// Nodes asked for.
    pub desired: u32,
    /// Upper bound.
    pub maximum: u32,
}

/// A Deployment that writes to the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Its name in the platform's namespace.
    pub name: String,
    /// Replicas in its spec now.
    pub replicas: u32,
    /// Replicas that it had before it was stopped, and by which epoch.
    pub remembered: Option<Remembered>,
}

/// A count that was put aside, kept on the Deployment itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Replicas before.
    pub replicas: u32,
    /// Epoch of the fence that stopped it.
    pub epoch: u64,
}

/// What an apply did, in names like `Deployment/core-apis`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Were not there.
    pub created: Vec<String>,
    /// Differ from before.
    pub changed: Vec<String>,
    /// Were as they should be.
    pub unchanged: Vec<String>,
}

/// How far one rollout is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Deployment.
    pub name: String,
    /// Replicas asked for.
    pub desired: u32,
    /// Replicas of the new revision that are available.
    pub available: u32,
    /// The controller has seen this generation and all of it is available.
    pub complete: bool,
    /// Why it does not move, if it says so: `ProgressDeadlineExceeded: …`.
    pub stuck: Option<String>,
}

/// What is applied, and as whom.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Manifests, YAML, several documents.
    pub manifests: String,
    /// Replicas by Deployment name, set through the scale subresource after the apply.
    pub replicas: BTreeMap<String, u32>,
}

/// The platform's namespace in one cluster.
#[async_trait]
pub trait Workloads: Send + Sync {
    /// The Deployments that write.
    async fn writers(&self) -> Result<Vec<Writer>, ClusterError>;
    /// Scales writers to zero and remembers their counts under this epoch. Repeating keeps the first counts.
    async fn stop_writers(&self, epoch: u64) -> Result<Vec<Writer>, ClusterError>;
    /// Gives writers stopped under this epoch their counts back. Others are left alone.
    async fn restart_writers(&self, epoch: u64) -> Result<Vec<Writer>, ClusterError>;
    /// Applies a bundle on the server's side, in order of dependency, then sets replicas.
    async fn apply(&self, bundle: &Bundle) -> Result<Applied, ClusterError>;
    /// Reads the rollouts of these Deployments.
    async fn rollouts(&self, names: &[String]) -> Result<Vec<Rollout>, ClusterError>;
    /// Counts nodes of a node group (label `eks.amazonaws.com/nodegroup`) that are Ready and schedulable.
    async fn ready_nodes(&self, node_group: &str) -> Result<u32, ClusterError>;
}

/// A cluster did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No connection, no answer, throttled or a server error: nothing is known of what happened.
    #[error("cannot reach cluster `{cluster}`")]
    Unreachable {
        /// Which cluster.
        cluster: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// 401 or 403.
    #[error("cluster `{cluster}` denies {doing}")]
    Denied {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// Its own words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another manager owns the field.
    #[error("cluster `{cluster}`: `{object}` is managed by somebody else: {who}")]
    Conflict {
        /// Which cluster.
        cluster: String,
        /// Which object.
        object: String,
        /// Managers and fields, as the server names them.
        who: String,
    },
    /// A change is under way that must end first.
    #[error("cluster `{cluster}` is busy: {why}")]
    Busy {
        /// Which cluster.
        cluster: String,
        /// Its own words.
        why: String,
    },
    /// A quota or a bound stands against it.
    #[error("cluster `{cluster}` refuses: {why}")]
    Refused {
        /// Which cluster.
        cluster: String,
        /// Its own words.
        why: String,
    },
    /// The manifest or the request is wrong.
    #[error("cluster `{cluster}` cannot take {object}: {why}")]
    Invalid {
        /// Which cluster.
        cluster: String,
        /// What was sent.
        object: String,
        /// Its own words.
        why: String,
    },
}

impl Classified for ClusterError {
    fn fault(&self) -> Fault {
        match self {
            ClusterError::Unreachable { .. } => Fault::Transient,
            ClusterError::Busy { .. } => Fault::NotYet,
            ClusterError::Denied { .. } | ClusterError::Conflict { .. } | ClusterError::Refused { .. } => {
                Fault::Refused
            }
            ClusterError::Invalid { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            ClusterError::Unreachable { cluster, .. } => {
                format!("check the endpoint of `{cluster}` in the plan and the route to it")
            }
            ClusterError::Denied { cluster, .. } => {
                format!("map the function's role in the access entries of `{cluster}`")
            }
            ClusterError::Conflict { object, .. } => {
                format!("decide who owns `{object}` and remove the field from the other")
            }
            ClusterError::Busy { .. } => "wait for the change that is under way".to_owned(),
            ClusterError::Refused { .. } => "raise the quota or the bound, then run again".to_owned(),
            ClusterError::Invalid { object, .. } => format!("correct {object} in the bundle and upload it again"),
        }
    }
}
