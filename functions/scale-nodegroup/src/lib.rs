//! Brings the node group of the failover region to the size that the plan asks for.
//!
//! Runs three times in `regional-failover`: as `ScaleNodegroup` beside the move of the database, because capacity is the
//! long pole; as `AwaitCapacity` before workloads are deployed; and as `ReleaseCapacity` when a run stops before the point
//! of no return. Nothing here cannot be undone.
//!
//! Asking is repeated safely: EKS is looked at first, a size that is there is success, and a request carries a token that
//! is the same for every attempt of one state. The three bounds go together, because EKS refuses a desired size above the
//! maximum. What counts is nodes that are Ready, which only the cluster knows; a failover never makes a group smaller.

use jiff::Timestamp;
use recovery::{
    cluster::{ClusterError, NodeGroup, NodeGroupSize, NodeGroupStatus, Workloads},
    failover::CapacityChange,
    fault::{Classified, Fault},
    run::{CapacityReleased, Run, Scaling},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What the state machine asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which of the three.
    pub action: Action,
    /// The record so far.
    pub run: Run,
}

/// The three things that happen to a node group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Ask for the size and go on.
    Request,
    /// Ask if nobody has, and count.
    Await,
    /// Give back what this run asked for.
    Release,
}

impl Action {
    /// The state that asks, which is part of the token of a request.
    const fn state(self) -> &'static str {
        match self {
            Action::Request => "ScaleNodegroup",
            Action::Await => "AwaitCapacity",
            Action::Release => "ReleaseCapacity",
        }
    }
}

/// What came of it; each form belongs to one action.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scaled {
    /// [`Action::Request`]: the group as EKS shows it after the request.
    Requested(NodeGroupStatus),
    /// [`Action::Await`]: enough nodes are Ready.
    Ready(Scaling),
    /// [`Action::Release`]: the size before.
    Released(CapacityReleased),
}

/// Why there is not the size that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record has no plan, so there is nothing to do.
    #[error("not scaling: the run `{0}` has no plan")]
    NoPlan(String),
    /// EKS or the cluster failed.
    #[error("cannot bring node group `{node_group}` to {} nodes", size.desired)]
    Cluster {
        /// Which group.
        node_group: String,
        /// The size that was wanted.
        size: NodeGroupSize,
        /// Why not.
        #[source]
        source: ClusterError,
    },
    /// The cluster does not say how many nodes it has.
    #[error("cannot count the Ready nodes of `{node_group}`")]
    NotCounted {
        /// Which group.
        node_group: String,
        /// Why not.
        #[source]
        source: ClusterError,
    },
    /// Nodes are on their way.
    #[error("{ready} of {desired} nodes of `{node_group}` are Ready, {enough} are enough to go on{}", listed(issues))]
    NotReady {
        /// Which group.
        node_group: String,
        /// Ready now.
        ready: u32,
        /// Asked for.
        desired: u32,
        /// Enough to go on.
        enough: u32,
        /// EKS's own words on what is wrong.
        issues: Vec<String>,
    },
    /// Nobody knows how large the group was.
    #[error("not releasing capacity: the size of `{0}` before the run was not seen")]
    SizeBeforeUnknown(String),
}

fn listed(issues: &[String]) -> String {
    if issues.is_empty() { String::new() } else { format!("; EKS says: {}", issues.join("; ")) }
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::NoPlan(_) => Fault::Permanent,
            Error::Cluster { source, .. } | Error::NotCounted { source, .. } => source.fault(),
            Error::NotReady { .. } => Fault::NotYet,
            Error::SizeBeforeUnknown(_) => Fault::Refused,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::NoPlan(_) => "start the machine from its first state".to_owned(),
            Error::Cluster { source, .. } | Error::NotCounted { source, .. } => source.remedy(),
            Error::NotReady { issues, .. } if issues.is_empty() => "wait for the nodes".to_owned(),
            Error::NotReady { .. } => "add instance types or zones to the node group, or raise the quota".to_owned(),
            Error::SizeBeforeUnknown(group) => format!("set the size of `{group}` by hand to what it should be"),
        }
    }
}

/// Asks for the size, counts what is there, or gives it back.
///
/// # Errors
/// See [`Error`].
pub async fn scale(
    request: Request,
    nodes: &dyn NodeGroup,
    workloads: &dyn Workloads,
    now: Timestamp,
) -> Result<Scaled, Error> {
    let Request { action, run } = request;
    let change = &run.plan.as_ref().ok_or_else(|| Error::NoPlan(run.id.clone()))?.capacity;
    let token = token(&run.id, action);
    match action {
        Action::Request => Ok(Scaled::Requested(ask(change, nodes, &token).await?)),
        Action::Await => await_ready(change, nodes, workloads, &token, now).await.map(Scaled::Ready),
        Action::Release => release(change, nodes, &token).await.map(Scaled::Released),
    }
}

/// One token per run and state: a repeated attempt is the same request to EKS, another state's is another one.
fn token(run: &str, action: Action) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("sparc-recovery:{run}/{}", action.state()).as_bytes()).to_string()
}

async fn ask(change: &CapacityChange, nodes: &dyn NodeGroup, token: &str) -> Result<NodeGroupStatus, Error> {
    let failed = |source| Error::Cluster { node_group: change.node_group.clone(), size: change.after, source };
    let status = nodes.look().await.map_err(failed)?;
    let Some(size) = missing(&status, change.after) else { return Ok(status) };
    nodes.resize(size, token).await.map_err(failed)?;
    nodes.look().await.map_err(failed)
}

/// The size to ask for, if the group is smaller than wanted in any of its numbers. Whoever made one of them larger, an
/// autoscaler for example, keeps it.
fn missing(status: &NodeGroupStatus, wanted: NodeGroupSize) -> Option<NodeGroupSize> {
    let size = NodeGroupSize {
        minimum: status.minimum.max(wanted.minimum),
        desired: status.desired.max(wanted.desired),
        maximum: status.maximum.max(wanted.maximum),
    };
    (size != size_of(status)).then_some(size)
}

fn size_of(status: &NodeGroupStatus) -> NodeGroupSize {
    NodeGroupSize { minimum: status.minimum, desired: status.desired, maximum: status.maximum }
}

/// Enough Ready nodes are enough, even where EKS does not answer or refuses the rest.
async fn await_ready(
    change: &CapacityChange,
    nodes: &dyn NodeGroup,
    workloads: &dyn Workloads,
    token: &str,
    now: Timestamp,
) -> Result<Scaling, Error> {
    let node_group = change.node_group.clone();
    let asked = ask(change, nodes, token).await;
    let ready = workloads
        .ready_nodes(&node_group)
        .await
        .map_err(|source| Error::NotCounted { node_group: node_group.clone(), source })?;
    let (desired, enough) = (change.after.desired, change.enough);
    let busy = matches!(&asked, Err(error) if error.fault() == Fault::NotYet);
    let issues = match asked {
        Ok(status) => status.issues,
        Err(error) if ready >= enough || busy => vec![recovery::fault::chain(&error)],
        Err(error) => return Err(error),
    };
    if ready < enough {
        return Err(Error::NotReady { node_group, ready, desired, enough, issues });
    }
    Ok(Scaling { node_group, desired, ready, enough, observed_at: now, issues })
}

async fn release(change: &CapacityChange, nodes: &dyn NodeGroup, token: &str) -> Result<CapacityReleased, Error> {
    let node_group = change.node_group.clone();
    let before = change.before.ok_or_else(|| Error::SizeBeforeUnknown(node_group.clone()))?;
    let failed = |source| Error::Cluster { node_group: node_group.clone(), size: before, source };
    let mut status = nodes.look().await.map_err(failed)?;
    if is_ours(&status, change, before) {
        nodes.resize(before, token).await.map_err(failed)?;
        status = nodes.look().await.map_err(failed)?;
    }
    Ok(CapacityReleased { desired: status.desired, observed_at: status.observed_at })
}

/// Whether the size is the one that this run asked for: a size that somebody else chose is left alone.
fn is_ours(status: &NodeGroupStatus, change: &CapacityChange, before: NodeGroupSize) -> bool {
    let after = change.after;
    let bounds_are_ours = (status.minimum, status.maximum) == (after.minimum, after.maximum);
    before != after && bounds_are_ours && status.desired >= after.desired
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(minimum: u32, desired: u32, maximum: u32) -> NodeGroupSize {
        NodeGroupSize { minimum, desired, maximum }
    }

    fn status(size: NodeGroupSize) -> NodeGroupStatus {
        NodeGroupStatus {
            observed_at: Timestamp::UNIX_EPOCH,
            minimum: size.minimum,
            desired: size.desired,
            maximum: size.maximum,
            status: "ACTIVE".to_owned(),
            issues: Vec::new(),
        }
    }

    #[test]
    fn a_group_is_never_made_smaller_by_a_failover() {
        let wanted = size(10, 50, 60);
        let situations = [
            ("the warm floor", size(2, 2, 5), Some(wanted)),
            ("asked for already", wanted, None),
            ("the autoscaler went further", size(10, 55, 60), None),
            ("somebody gave it more room", size(10, 50, 100), None),
            ("the maximum alone is missing", size(10, 50, 55), Some(wanted)),
            ("more nodes, but no floor", size(0, 58, 60), Some(size(10, 58, 60))),
        ];
        for (situation, there, expected) in situations {
            assert_eq!(missing(&status(there), wanted), expected, "{situation}");
        }
    }

    #[test]
    fn only_what_this_run_asked_for_is_given_back() {
        let (before, after) = (size(2, 2, 5), size(10, 50, 60));
        let change = CapacityChange {
            cluster: "sparc-prod-us-west-2".to_owned(),
            node_group: "workers".to_owned(),
            before: Some(before),
            after,
            enough: 30,
        };
        let situations = [
            ("the size that was asked for", after, true),
            ("the autoscaler went further within our bounds", size(10, 55, 60), true),
            ("nothing was asked for", before, false),
            ("given back already", before, false),
            ("somebody chose other bounds meanwhile", size(20, 50, 80), false),
        ];
        for (situation, there, expected) in situations {
            assert_eq!(is_ours(&status(there), &change, before), expected, "{situation}");
        }
    }

    #[test]
    fn a_repeated_attempt_is_the_same_request_and_another_state_another_one() {
        assert_eq!(token("failover-7", Action::Request), token("failover-7", Action::Request));
        assert_ne!(token("failover-7", Action::Request), token("failover-7", Action::Await));
        assert_ne!(token("failover-7", Action::Request), token("failover-8", Action::Request));
    }
}
