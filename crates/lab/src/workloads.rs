//! What runs in the clusters before anything happens, from the suite's own bundle.
//!
//! The primary region's cluster runs the Deployments of `bundles/disaster-recovery.yaml`, as many of each as ran when it
//! was rendered; the secondary's runs nothing yet. The bundle itself lies in the evidence bucket, rendered a moment ago.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::kubernetes::Cluster;

const BUNDLE: &str = include_str!("../../../bundles/disaster-recovery.yaml");
/// The bundle's key in the evidence bucket.
pub(crate) const KEY: &str = "bundles/disaster-recovery.yaml";
const RENDERED_AT: &str = "recovery.sparc/rendered-at: ";

/// The bundle as if it had been rendered at `now` for a server of this kind: PodDisruptionBudget is `policy/v1` since
/// Kubernetes 1.21, and Debian's server is older.
pub(crate) fn bundle(now: Timestamp, kind: &str) -> String {
    let mut told = String::with_capacity(BUNDLE.len());
    for line in BUNDLE.lines() {
        match line.split_once(RENDERED_AT) {
            Some((indent, _)) => told.push_str(&format!("{indent}{RENDERED_AT}\"{now:.0}\"")),
            None => told.push_str(line),
        }
        told.push('\n');
    }
    if kind.contains("v1.20") { told.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n") } else { told }
}

/// Repository and digest of every image that the bundle names.
pub(crate) fn images() -> Vec<(&'static str, &'static str)> {
    let named =
        BUNDLE.lines().filter_map(|line| line.trim().strip_prefix("image: ")?.trim_matches('"').split_once('/'));
    named.filter_map(|(_, image)| image.split_once('@')).collect()
}

/// Makes the Deployments of the bundle run in a cluster of this region.
pub(crate) async fn run(cluster: &Cluster, region: &str, database: (&str, u16)) -> Result<usize> {
    let manifests = BUNDLE
        .replace("${REGION}", region)
        .replace("${DATABASE_HOST}", database.0)
        .replace("${DATABASE_PORT}", &database.1.to_string());
    let unreadable = |error: serde_yaml_ng::Error| Error::State(format!("the bundle is no YAML: {error}"));
    let path = format!("/apis/apps/v1/namespaces/{}/deployments", cluster.namespace());
    let mut count = 0;
    for document in serde_yaml_ng::Deserializer::from_str(&manifests) {
        let mut object = Value::deserialize(document).map_err(unreadable)?;
        if object["kind"] != "Deployment" {
            continue;
        }
        let replicas = object["metadata"]["annotations"]["recovery.sparc/replicas"].as_str();
        let replicas: u32 = replicas.and_then(|text| text.parse().ok()).unwrap_or(1);
        object["spec"]["replicas"] = replicas.into();
        object["metadata"]["namespace"] = cluster.namespace().into();
        cluster.admin().create(&path, &object).await?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_of_the_bundle_is_known_by_its_digest() {
        let images = images();
        assert_eq!(images.len(), BUNDLE.matches("image: ").count());
        assert!(
            images.contains(&("sparc/auth", "sha256:b78e3bbb8c44ed86b625c342a1a3d37202c4d87f222be4f271595810af84a93d"))
        );
    }

    #[test]
    fn the_bundle_says_that_it_was_rendered_now() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let told = bundle(now, "");
        assert!(told.contains("recovery.sparc/rendered-at: \"2026-01-02T03:04:05Z\""));
        assert_eq!(told.matches(RENDERED_AT).count(), told.matches("2026-01-02T03:04:05Z").count());
        assert_eq!(told.lines().count(), BUNDLE.lines().count());
    }
}
