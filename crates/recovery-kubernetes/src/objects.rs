//! Whether objects stand in a cluster, asked by their metadata: what is in a Secret never leaves the server.

use async_trait::async_trait;
use kube::api::{Api, DynamicObject};
use kube::core::GroupVersion;
use kube::discovery::{ApiResource, Scope, pinned_group};
use recovery::closure::{ClusterObjects, Reference};
use recovery::cluster::ClusterError;

use crate::connection::Cluster;
use crate::error::Error;

impl Cluster {
    /// How the server serves a kind of a version (`v1`, `apps/v1`), and whether it has namespaces.
    async fn kind(&self, api_version: &str, kind: &str) -> Result<Option<(ApiResource, bool)>, Error> {
        let version: GroupVersion = api_version.parse().map_err(|_| Error::UnknownKind {
            cluster: self.at.cluster.clone(),
            kind: format!("{api_version}/{kind}"),
            object: "something that a failover needs".to_owned(),
        })?;
        let client = self.client().await?;
        let doing = format!("asking which kinds `{api_version}` has");
        let group = match self.ask(&doing, pinned_group(&client, &version)).await {
            Ok(group) => group,
            Err(Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut resources = group.versioned_resources(&version.version).into_iter();
        let found = resources.find(|(resource, _)| resource.kind == kind);
        Ok(found.map(|(resource, can)| (resource, can.scope == Scope::Namespaced)))
    }

    async fn is_there(&self, object: &Reference) -> Result<bool, Error> {
        let Some((resource, namespaced)) = self.kind(&object.api_version, &object.kind).await? else {
            return Ok(false);
        };
        let client = self.client().await?;
        let api: Api<DynamicObject> = match &object.namespace {
            Some(namespace) if namespaced => Api::namespaced_with(client, namespace, &resource),
            _ => Api::all_with(client, &resource),
        };
        let doing = format!("looking for {}", object.label());
        Ok(self.ask(&doing, api.get_metadata_opt(&object.name)).await?.is_some())
    }
}

#[async_trait]
impl ClusterObjects for Cluster {
    fn cluster(&self) -> &str {
        &self.at.cluster
    }

    async fn holds(&self, object: &Reference) -> Result<bool, ClusterError> {
        Ok(self.is_there(object).await?)
    }

    async fn serves(&self, kind: &str) -> Result<bool, ClusterError> {
        let Some((api_version, kind)) = kind.rsplit_once('/') else { return Ok(false) };
        Ok(self.kind(api_version, kind).await?.is_some())
    }
}
