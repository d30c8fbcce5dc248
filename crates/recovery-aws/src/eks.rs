//! Managed node groups. EKS is a regional service with a regional control plane; capacity is the long pole of a failover,
//! so its bounds are asked for together and its complaints are passed on in its own words.

use async_trait::async_trait;
use aws_sdk_eks::{Client, types::NodegroupScalingConfig};
use jiff::Timestamp;
use recovery::cluster::{ClusterError, NodeGroup, NodeGroupSize, NodeGroupStatus};

use crate::trouble::{Kind, Trouble};

/// What the nodes of a group are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footing {
    /// The subnets that it may take addresses from.
    pub subnets: Vec<String>,
    /// Instance types in its own order; none where a launch template names them.
    pub instance_types: Vec<String>,
    /// Whether they are spot instances.
    pub spot: bool,
}

/// One managed node group.
#[derive(Clone, Debug)]
pub struct ManagedNodeGroup {
    client: Client,
    cluster: String,
    name: String,
}

impl ManagedNodeGroup {
    /// A node group behind a client of its cluster's region.
    pub fn new(client: Client, cluster: &str, name: &str) -> ManagedNodeGroup {
        ManagedNodeGroup { client, cluster: cluster.to_owned(), name: name.to_owned() }
    }

    /// What its nodes are made of.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is no such group.
    pub async fn footing(&self) -> Result<Footing, Trouble> {
        let request = self.client.describe_nodegroup().cluster_name(&self.cluster).nodegroup_name(&self.name);
        let answer = request.send().await?;
        let group = answer.nodegroup().ok_or_else(|| Trouble::unexpected("EKS answered without a node group"))?;
        Ok(Footing {
            subnets: group.subnets().to_vec(),
            instance_types: group.instance_types().to_vec(),
            spot: group.capacity_type().is_some_and(|capacity| capacity.as_str() == "SPOT"),
        })
    }

    fn error(&self, trouble: Trouble) -> ClusterError {
        let cluster = self.cluster.clone();
        let object = || format!("node group `{}`", self.name);
        match trouble.kind {
            Kind::Unavailable | Kind::Precondition => ClusterError::Unreachable { cluster, source: trouble.boxed() },
            Kind::Denied => ClusterError::Denied {
                cluster,
                doing: format!("a look at or a change of {}", object()),
                source: trouble.boxed(),
            },
            // "The specified resource is in use": an update is under way.
            Kind::Busy => ClusterError::Busy { cluster, why: trouble.to_string() },
            Kind::Limit => ClusterError::Refused { cluster, why: trouble.to_string() },
            Kind::Missing | Kind::Invalid => {
                ClusterError::Invalid { cluster, object: object(), why: trouble.to_string() }
            }
        }
    }
}

#[async_trait]
impl NodeGroup for ManagedNodeGroup {
    async fn look(&self) -> Result<NodeGroupStatus, ClusterError> {
        let request = self.client.describe_nodegroup().cluster_name(&self.cluster).nodegroup_name(&self.name);
        let answer = request.send().await.map_err(|error| self.error(error.into()))?;
        let missing = |what: &str| self.error(Trouble::unexpected(format!("EKS answered without {what}")));
        let group = answer.nodegroup().ok_or_else(|| missing("a node group"))?;
        let scaling = group.scaling_config().ok_or_else(|| missing("a scaling configuration"))?;
        let count = |number: Option<i32>| number.and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        let issues = group.health().map(|health| health.issues()).unwrap_or_default();
        Ok(NodeGroupStatus {
            // EKS does not say when it looked.
            observed_at: Timestamp::now(),
            minimum: count(scaling.min_size()),
            desired: count(scaling.desired_size()),
            maximum: count(scaling.max_size()),
            status: group.status().map_or("UNKNOWN", |status| status.as_str()).to_owned(),
            issues: issues
                .iter()
                .map(|issue| {
                    let code = issue.code().map_or("Unknown", |code| code.as_str());
                    format!("{code}: {}", issue.message().unwrap_or("no message"))
                })
                .collect(),
        })
    }

    async fn resize(&self, size: NodeGroupSize, token: &str) -> Result<(), ClusterError> {
        let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let request = self
            .client
            .update_nodegroup_config()
            .cluster_name(&self.cluster)
            .nodegroup_name(&self.name)
            .scaling_config(
                NodegroupScalingConfig::builder()
                    .min_size(count(size.minimum))
                    .desired_size(count(size.desired))
                    .max_size(count(size.maximum))
                    .build(),
            )
            .client_request_token(token);
        request.send().await.map(|_| ()).map_err(|error| self.error(error.into()))
    }
}
