//! The state of a cluster, page by page: discovery says what there is, lists give it, the writer of the export decides.
//!
//! Each list is of one moment (its pages continue one version of the server's store); two lists are not of the same one.

use async_trait::async_trait;
use kube::Resource;
use kube::api::{DynamicObject, ListParams};
use kube::core::Request;
use kube::discovery::ApiResource;
use recovery::backup::BackupId;
use recovery::cluster_state::{
    ClusterState, EVERY_NAMESPACE, ExportError, ExportHeader, ExportIdentity, ExportSummary, FORM, Selection, Sink,
    VolumeSelection, VolumeSnapshot,
};
use recovery::envelope::{DataKey, DataKeys, KeyContext, KeyError};
use recovery::fault::Fault;
use recovery_export::ExportWriter;
use serde::Deserialize;
use serde_json::Value;

use crate::connection::Cluster;
use crate::error::Error;
use crate::resources::Listed;

/// Bytes that one page should have. Decoded it takes some times as much.
const PAGE_BYTES: usize = 2 << 20;
/// Bytes that one page may have: etcd takes objects of 1.5 MiB, and the first page of a resource is a guess.
const MOST_PAGE_BYTES: usize = 24 << 20;
/// Objects in the first page of a resource.
const FIRST_PAGE: u32 = 10;
/// Objects in a page at most.
const MOST_IN_A_PAGE: u32 = 500;

/// One page of a list. Items are not decoded into types of ours: what a newer server adds must survive.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continued: String,
}

#[async_trait]
impl ClusterState for Cluster {
    fn cluster(&self) -> &str {
        &self.at.cluster
    }

    async fn export(
        &self,
        identity: &ExportIdentity,
        selection: &Selection,
        keys: &dyn DataKeys,
        sink: &mut dyn Sink,
    ) -> Result<ExportSummary, ExportError> {
        let client = self.client().await.map_err(trouble)?;
        let version = self.ask("asking for its version", client.apiserver_version()).await.map_err(trouble)?;
        self.expect_namespaces(selection).await?;
        let (listed, not_listed) = self.resources(selection).await.map_err(trouble)?;
        let key = data_key(identity, keys).await.map_err(ExportError::Key)?;
        let header = ExportHeader {
            form: FORM,
            identity: identity.clone(),
            cluster: self.at.cluster.clone(),
            server: version.git_version,
            selection: selection.clone(),
            key: key.wrapped,
        };
        let (mut writer, first) = ExportWriter::begin(header, &key.plain)?;
        writer.not_listed(not_listed);
        sink.write(&first).await.map_err(ExportError::Write)?;
        let everywhere = selection.namespaces.iter().any(|one| one == EVERY_NAMESPACE);
        for resource in &listed {
            if !resource.namespaced || everywhere {
                self.export_list(resource, None, &mut writer, sink).await?;
                continue;
            }
            for namespace in &selection.namespaces {
                self.export_list(resource, Some(namespace), &mut writer, sink).await?;
            }
        }
        let (summary, last) = writer.end()?;
        sink.write(&last).await.map_err(ExportError::Write)?;
        Ok(summary)
    }

    async fn snapshot_volume(
        &self,
        volume: &VolumeSelection,
        backup: &BackupId,
    ) -> Result<VolumeSnapshot, ExportError> {
        self.snapshot(volume, backup).await
    }
}

/// A data key that is known to open again: one that does not would make a backup of nothing.
async fn data_key(identity: &ExportIdentity, keys: &dyn DataKeys) -> Result<DataKey, KeyError> {
    let backup = identity.backup.to_string();
    let context: KeyContext =
        [("purpose", "cluster-state"), ("platform", identity.platform.as_str()), ("backup", backup.as_str())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let key = keys.generate(&context).await?;
    if keys.unwrap(&key.wrapped).await? == key.plain {
        return Ok(key);
    }
    Err(KeyError {
        key: key.wrapped.key_arn,
        doing: "open the data key that it has given",
        fault: Fault::Permanent,
        source: "it opens to other bits".into(),
    })
}

impl Cluster {
    /// A namespace that the plan names and the cluster lacks would be an empty backup.
    async fn expect_namespaces(&self, selection: &Selection) -> Result<(), ExportError> {
        let named = selection.namespaces.iter().filter(|name| *name != EVERY_NAMESPACE);
        for name in named {
            let client = self.client().await.map_err(trouble)?;
            let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
            let doing = format!("reading the namespace `{name}`");
            if self.ask(&doing, namespaces.get_opt(name)).await.map_err(trouble)?.is_none() {
                let what = format!("the namespace `{name}`");
                return Err(ExportError::NotThere { cluster: self.at.cluster.clone(), what });
            }
        }
        Ok(())
    }

    async fn export_list(
        &self,
        listed: &Listed,
        namespace: Option<&str>,
        writer: &mut ExportWriter,
        sink: &mut dyn Sink,
    ) -> Result<(), ExportError> {
        let resource = listed.name();
        let mut params = ListParams::default().limit(FIRST_PAGE);
        loop {
            let (page, bytes) = self.page(&listed.resource, namespace, &params).await?;
            let count = page.items.len();
            if params.continue_token.is_none() {
                writer.listed(&resource, &page.metadata.resource_version);
            }
            for mut object in page.items {
                // Items of a list do not say what they are.
                object["apiVersion"] = listed.resource.api_version.clone().into();
                object["kind"] = listed.resource.kind.clone().into();
                if let Some(line) = writer.object(&resource, object)? {
                    sink.write(&line).await.map_err(ExportError::Write)?;
                }
            }
            if page.metadata.continued.is_empty() {
                return Ok(());
            }
            params = params.limit(next_limit(count, bytes)).continue_token(&page.metadata.continued);
        }
    }

    async fn page(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Result<(Page, usize), ExportError> {
        let doing = format!("listing `{}`", resource.plural);
        let invalid = |said: String| Error::Invalid { cluster: self.at.cluster.clone(), object: doing.clone(), said };
        let request = Request::new(DynamicObject::url_path(resource, namespace))
            .list(params)
            .map_err(|error| trouble(invalid(error.to_string())))?;
        let client = self.client().await.map_err(trouble)?;
        // Not `request`: what it cannot decode it logs, secrets and all.
        let text = self.ask(&doing, client.request_text(request)).await.map_err(trouble)?;
        if text.len() > MOST_PAGE_BYTES {
            return Err(ExportError::TooLarge {
                cluster: self.at.cluster.clone(),
                resource: resource.plural.clone(),
                bytes: text.len(),
                most: MOST_PAGE_BYTES,
            });
        }
        let page = serde_json::from_str(&text).map_err(|error| {
            // Its own words may quote what it read.
            let why = format!("{:?} error in line {}, column {}", error.classify(), error.line(), error.column());
            trouble(Error::Unreadable { cluster: self.at.cluster.clone(), doing, why })
        })?;
        Ok((page, text.len()))
    }
}

/// Objects to ask for next, by the size of those that came.
fn next_limit(count: usize, bytes: usize) -> u32 {
    let each = (bytes / count.max(1)).max(1);
    u32::try_from(PAGE_BYTES / each).unwrap_or(MOST_IN_A_PAGE).clamp(1, MOST_IN_A_PAGE)
}

fn trouble(error: Error) -> ExportError {
    ExportError::Cluster(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_with_small_objects_and_shrink_with_large_ones() {
        assert_eq!(next_limit(10, 10 * 1024), MOST_IN_A_PAGE, "a KiB each");
        assert_eq!(next_limit(10, 10 << 20), 2, "a MiB each");
        assert_eq!(next_limit(1, 20 << 20), 1, "larger than a page should be");
        assert_eq!(next_limit(0, 0), MOST_IN_A_PAGE, "an empty page with a next one");
    }
}
