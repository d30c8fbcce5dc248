//! Nodes that follow their node group.
//!
//! EKS is emulated by moto, which makes no nodes, and Kubernetes is the lab's: in between, this makes a node ready for
//! each that is asked for, a few at a time, as instances start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use tokio::task::JoinHandle;

use crate::aws::Aws;
use crate::error::Result;
use crate::kubernetes::Cluster;

/// How nodes come up.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many become ready at once.
    pub batch: u32,
    /// How long a batch takes.
    pub every: Duration,
    /// More than these never come: the region has no more capacity. None is the rule.
    pub capacity: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 10, every: Duration::from_millis(200), capacity: None }
    }
}

/// Keeps nodes as a node group asks for, until it is dropped.
#[derive(Debug)]
pub struct Nodes {
    ready: Arc<Mutex<u32>>,
    task: JoinHandle<()>,
}

impl Nodes {
    /// Follows the node group of a cluster; returns when as many nodes are ready as it asks for now.
    pub async fn follow(
        aws: Arc<Aws>,
        region: &'static str,
        cluster: Arc<Cluster>,
        name: &str,
        node_group: &str,
        options: Options,
    ) -> Result<Self> {
        let path = format!("/clusters/{name}/node-groups/{node_group}");
        let limit = options.capacity.unwrap_or(u32::MAX);
        let ready = Arc::new(Mutex::new(0));
        if let Some(desired) = desired(&aws, region, &path).await? {
            let first = desired.min(limit);
            cluster.set_ready_nodes(node_group, first).await?;
            *ready.lock().unwrap_or_else(PoisonError::into_inner) = first;
        }
        let (node_group, now_ready) = (node_group.to_owned(), ready.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(options.every).await;
                let Ok(Some(desired)) = desired(&aws, region, &path).await else { continue };
                let wanted = desired.min(limit);
                let have = *now_ready.lock().unwrap_or_else(PoisonError::into_inner);
                let next = if wanted > have { wanted.min(have.saturating_add(options.batch)) } else { wanted };
                if next != have && cluster.set_ready_nodes(&node_group, next).await.is_ok() {
                    *now_ready.lock().unwrap_or_else(PoisonError::into_inner) = next;
                }
            }
        });
        Ok(Self { ready, task })
    }

    /// How many nodes are ready now.
    pub fn ready(&self) -> u32 {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn desired(aws: &Aws, region: &str, path: &str) -> Result<Option<u32>> {
    let answer = aws.call("eks", region, Method::GET, path, &[], "").await?.or_refused("eks", "DescribeNodegroup")?;
    let group: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    let desired = group["nodegroup"]["scalingConfig"]["desiredSize"].as_u64();
    Ok(desired.and_then(|desired| u32::try_from(desired).ok()))
}
