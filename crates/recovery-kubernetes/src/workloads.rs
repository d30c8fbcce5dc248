//! The domain's trait, on what the other modules do.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use recovery::cluster::{Applied, Bundle, ClusterError, Rollout, Workloads, Writer};

use crate::connection::Cluster;
use crate::error::Error;

#[async_trait]
impl Workloads for Cluster {
    async fn writers(&self) -> Result<Vec<Writer>, ClusterError> {
        Ok(self.writer_statuses().await?.into_iter().map(|status| status.writer).collect())
    }

    async fn stop_writers(&self, epoch: u64) -> Result<Vec<Writer>, ClusterError> {
        Ok(self.scale_to_zero(epoch).await?)
    }

    async fn restart_writers(&self, epoch: u64) -> Result<Vec<Writer>, ClusterError> {
        Ok(self.restore_replicas(epoch).await?)
    }

    async fn apply(&self, bundle: &Bundle) -> Result<Applied, ClusterError> {
        Ok(self.apply_bundle(&bundle.manifests, &bundle.replicas).await?)
    }

    async fn rollouts(&self, names: &[String]) -> Result<Vec<Rollout>, ClusterError> {
        Ok(self.rollout_status(names).await?)
    }

    async fn ready_nodes(&self, node_group: &str) -> Result<u32, ClusterError> {
        Ok(self.count_ready_nodes(node_group).await?)
    }
}

impl Cluster {
    /// Counts nodes of a managed node group that are Ready and take pods.
    pub async fn count_ready_nodes(&self, node_group: &str) -> Result<u32, Error> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        // EKS puts this label on the nodes of managed node groups.
        let label = format!("eks.amazonaws.com/nodegroup={node_group}");
        let found = self.ask("listing nodes", nodes.list(&ListParams::default().labels(&label))).await?;
        Ok(u32::try_from(found.items.iter().filter(|node| is_ready(node)).count()).unwrap_or(u32::MAX))
    }
}

fn is_ready(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    !cordoned && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
