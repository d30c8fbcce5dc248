//! The state of a cluster as an export: written page by page, read line by line.
//!
//! Three things decide its form. What a restore needs first stands first, in the order in which a bundle is applied, so
//! that an export is applied as it is read. Secrets are sealed one by one, and so is every object that seems to hold a
//! secret in the clear; the rest can be read, compared and searched. And the last line counts, so that an export that
//! broke off cannot be taken for a small cluster.
//!
//! Each list is of one moment (its pages continue one version of the server's store); two lists are not of the same one.

mod reader;
mod resources;

use std::collections::{BTreeMap, HashSet};

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
use recovery::envelope::{DataKeys, KeyContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connection::Cluster;
use crate::error::Error;
use crate::portable::{left_out, portable, secret_in_the_clear};
use crate::seal::{ObjectName, Seal, Sealed};

pub use reader::{Entry, ExportReader};
use resources::{Listed, is_of_kubernetes, names};

/// Bytes that one page should have. Decoded it takes some times as much.
const PAGE_BYTES: usize = 2 << 20;
/// Bytes that one page may have: etcd takes objects of 1.5 MiB, and the first page of a resource is a guess.
const MOST_PAGE_BYTES: usize = 24 << 20;
/// Objects in the first page of a resource.
const FIRST_PAGE: u32 = 10;
/// Objects in a page at most.
const MOST_IN_A_PAGE: u32 = 500;

/// One line of an export.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Line {
    Export(ExportHeader),
    Object(Value),
    Sealed(Sealed),
    End(ExportSummary),
}

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

/// What one export remembers while it is written.
struct Progress<'a> {
    selection: &'a Selection,
    seal: Seal,
    summary: ExportSummary,
    /// `uid`s: some resources are served by two groups, and their objects are the same.
    seen: HashSet<String>,
    /// Services whose endpoints a controller fills in.
    selecting: HashSet<(String, String)>,
}

impl Progress<'_> {
    /// Why this object is left out, if it is.
    fn left_out(&mut self, object: &Value) -> Option<&'static str> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if !self.seen.insert(text("/metadata/uid")) {
            return Some("served by another group too");
        }
        let owner = if object["kind"] == "Namespace" { &name } else { &namespace };
        if !owner.is_empty() && !self.selects(owner) {
            return Some("of another namespace");
        }
        if object["kind"] == "Service" && object["spec"]["selector"].as_object().is_some_and(|one| !one.is_empty()) {
            self.selecting.insert((namespace.clone(), name.clone()));
        }
        if object["kind"] == "Endpoints" && self.selecting.contains(&(namespace, name)) {
            // Addresses of pods that are gone; the controller would have to take them out again.
            return Some("made by its owner");
        }
        left_out(object)
    }

    fn selects(&self, namespace: &str) -> bool {
        let named = |name: &str| self.selection.namespaces.iter().any(|one| one == name);
        named(namespace) || (named(EVERY_NAMESPACE) && !is_of_kubernetes(namespace))
    }

    /// The line of an object.
    fn line(&mut self, resource: &str, object: Value) -> Result<Line, String> {
        let object = portable(object);
        let of = ObjectName::of(&object).ok_or_else(|| format!("an object of `{resource}` has no name"))?;
        let suspicious = if object["kind"] == "Secret" { None } else { secret_in_the_clear(&object) };
        let asked = of.kind == "Secret" || names(&self.selection.seal, resource);
        self.summary.exported += 1;
        *self.summary.counts.entry(of.full_kind()).or_default() += 1;
        if let Some(place) = &suspicious {
            self.summary.suspicious.push(format!("{} at {place}", of.label()));
        }
        if !asked && suspicious.is_none() {
            return Ok(Line::Object(object));
        }
        self.summary.sealed += 1;
        self.seal.close(of, &object).map(Line::Sealed)
    }
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
        let backup = identity.backup.to_string();
        let context: KeyContext =
            [("purpose", "cluster-state"), ("platform", identity.platform.as_str()), ("backup", backup.as_str())]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let client = self.client().await.map_err(trouble)?;
        let version = self.ask("asking for its version", client.apiserver_version()).await.map_err(trouble)?;
        self.expect_namespaces(selection).await?;
        let (listed, not_listed) = self.resources(selection).await.map_err(trouble)?;
        let key = keys.generate(&context).await.map_err(ExportError::Key)?;
        let unusable = |why| ExportError::Damaged { line: 1, why };
        let mut progress = Progress {
            selection,
            seal: Seal::new(&key.plain, identity, &self.at.cluster).map_err(unusable)?,
            summary: ExportSummary { not_listed, ..ExportSummary::default() },
            seen: HashSet::new(),
            selecting: HashSet::new(),
        };
        let header = ExportHeader {
            form: FORM,
            identity: identity.clone(),
            cluster: self.at.cluster.clone(),
            server: version.git_version,
            selection: selection.clone(),
            key: key.wrapped,
        };
        write(sink, &Line::Export(header)).await?;
        for resource in &listed {
            self.export_resource(resource, &mut progress, sink).await?;
        }
        write(sink, &Line::End(progress.summary.clone())).await?;
        Ok(progress.summary)
    }

    async fn snapshot_volume(
        &self,
        volume: &VolumeSelection,
        backup: &BackupId,
    ) -> Result<VolumeSnapshot, ExportError> {
        self.snapshot(volume, backup).await
    }
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

    /// Writes all objects of one resource, in one list or one for each namespace.
    async fn export_resource(
        &self,
        listed: &Listed,
        progress: &mut Progress<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), ExportError> {
        let everywhere = progress.selection.namespaces.iter().any(|one| one == EVERY_NAMESPACE);
        if !listed.namespaced || everywhere {
            return self.export_list(listed, None, progress, sink).await;
        }
        for namespace in progress.selection.namespaces.clone() {
            self.export_list(listed, Some(&namespace), progress, sink).await?;
        }
        Ok(())
    }

    async fn export_list(
        &self,
        listed: &Listed,
        namespace: Option<&str>,
        progress: &mut Progress<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), ExportError> {
        let resource = listed.name();
        let mut params = ListParams::default().limit(FIRST_PAGE);
        loop {
            let (page, bytes) = self.page(&listed.resource, namespace, &params).await?;
            let count = page.items.len();
            if params.continue_token.is_none() {
                progress.summary.listed_at.insert(resource.clone(), page.metadata.resource_version);
            }
            for mut object in page.items {
                progress.summary.found += 1;
                // Items of a list do not say what they are.
                object["apiVersion"] = listed.resource.api_version.clone().into();
                object["kind"] = listed.resource.kind.clone().into();
                if let Some(reason) = progress.left_out(&object) {
                    *progress.summary.left_out.entry(reason.to_owned()).or_default() += 1;
                    continue;
                }
                let line = progress.line(&resource, object).map_err(|why| ExportError::Damaged { line: 0, why })?;
                write(sink, &line).await?;
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

async fn write(sink: &mut dyn Sink, line: &Line) -> Result<(), ExportError> {
    let mut bytes = serde_json::to_vec(line).map_err(|error| ExportError::Write(error.into()))?;
    bytes.push(b'\n');
    sink.write(&bytes).await.map_err(ExportError::Write)
}

fn trouble(error: Error) -> ExportError {
    ExportError::Cluster(error.into())
}

/// Resources by name and why they are not listed.
type NotListed = BTreeMap<String, String>;

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
