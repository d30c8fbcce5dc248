//! Which resources a server serves, and which of them a backup lists.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::discovery::ApiResource;
use recovery::cluster_state::Selection;
use recovery_export::{names, rank};

use crate::connection::Cluster;
use crate::error::Error;

/// Resources by name, and why they are not listed.
type NotListed = BTreeMap<String, String>;

/// Made by the server and its controllers for themselves, and made again by those of another cluster.
const MADE_BY_THE_SERVER: [&str; 9] = [
    "certificatesigningrequests.certificates.k8s.io",
    "csinodes.storage.k8s.io",
    "csistoragecapacities.storage.k8s.io",
    "events",
    "events.events.k8s.io",
    "leases.coordination.k8s.io",
    "nodes",
    "volumeattachments.storage.k8s.io",
    // A snapshot's own record, which names storage of its region; the backup has its handle beside the export.
    "volumesnapshotcontents.snapshot.storage.k8s.io",
];

/// Groups that only measure: nothing in them can be restored, and a metrics server that is down is no reason to have no
/// backup.
const MEASURING: [&str; 3] = ["custom.metrics.k8s.io", "external.metrics.k8s.io", "metrics.k8s.io"];

/// A resource that is listed.
pub(crate) struct Listed {
    pub resource: ApiResource,
    pub namespaced: bool,
}

impl Listed {
    /// `deployments.apps`, `configmaps`.
    pub fn name(&self) -> String {
        name(&self.resource.plural, &self.resource.group)
    }
}

fn name(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl Cluster {
    /// The resources to list, in the order of a restore, and those that are not, with the reason.
    ///
    /// A group that does not answer is an error unless the plan leaves it out: what is not asked for would be missing
    /// without a word.
    pub(crate) async fn resources(&self, selection: &Selection) -> Result<(Vec<Listed>, NotListed), Error> {
        let client = self.client().await?;
        let core = self.ask("asking for the versions of its API", client.list_core_api_versions()).await?;
        let groups = self.ask("asking for its API groups", client.list_api_groups()).await?;
        let mut found = Vec::new();
        let mut not_listed = NotListed::new();
        for version in &core.versions {
            let doing = format!("asking which resources `{version}` has");
            let list = self.ask(&doing, client.list_core_api_resources(version)).await?;
            found.extend(list.resources.into_iter().map(|resource| (String::new(), version.clone(), resource)));
        }
        for group in groups.groups {
            let all = format!("*.{}", group.name);
            if MEASURING.contains(&group.name.as_str()) {
                not_listed.insert(all, "it only measures".to_owned());
                continue;
            }
            if selection.exclude.contains(&all) {
                not_listed.insert(all, "the plan leaves it out".to_owned());
                continue;
            }
            // A resource may be served in an older version alone, so all are asked, the preferred one first.
            let preferred = group.preferred_version.as_ref().map(|one| one.group_version.as_str());
            let mut versions: Vec<&str> = group.versions.iter().map(|one| one.group_version.as_str()).collect();
            versions.sort_by_key(|version| Some(*version) != preferred);
            for version in versions {
                let doing = format!("asking which resources `{version}` has");
                let list = match self.ask(&doing, client.list_api_group_resources(version)).await {
                    // Seen while the server was about to add or to remove the group.
                    Err(Error::Missing { cluster, .. }) => {
                        let said = "it lists the version and does not serve it".to_owned();
                        return Err(Error::Unavailable { cluster, doing, code: 404, said });
                    }
                    answer => answer?,
                };
                found.extend(list.resources.into_iter().map(|one| (group.name.clone(), version.to_owned(), one)));
            }
        }
        Ok((choose(found, selection, &mut not_listed), not_listed))
    }
}

/// Group, `group/version` and resource, as discovery gives them, preferred versions first.
type Found = (String, String, APIResource);

fn choose(found: Vec<Found>, selection: &Selection, not_listed: &mut NotListed) -> Vec<Listed> {
    let mut taken = BTreeSet::new();
    let mut listed = Vec::new();
    for (group, api_version, resource) in found {
        let full = name(&resource.name, &group);
        // `deployments/scale` is a part of something else.
        if resource.name.contains('/') || !taken.insert(full.clone()) {
            continue;
        }
        let can = |verb: &str| resource.verbs.iter().any(|one| one == verb);
        let reason = if !can("list") || !can("create") {
            Some("it cannot be listed and made")
        } else if MADE_BY_THE_SERVER.contains(&full.as_str()) {
            Some("the server makes it")
        } else if names(&selection.exclude, &full) {
            Some("the plan leaves it out")
        } else if !resource.namespaced && resource.kind != "Namespace" && !selection.cluster_resources {
            Some("the plan takes no resources of the whole cluster")
        } else {
            None
        };
        if let Some(reason) = reason {
            not_listed.insert(full, reason.to_owned());
            continue;
        }
        let version = api_version.rsplit('/').next().unwrap_or_default().to_owned();
        listed.push(Listed {
            resource: ApiResource { group, version, api_version, kind: resource.kind, plural: resource.name },
            namespaced: resource.namespaced,
        });
    }
    // `extensions` serves what has long moved to other groups, in a version that newer servers do not take.
    listed.sort_by_key(|one| (rank(&one.resource.kind), one.resource.group == "extensions", one.name()));
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, kind: &str, namespaced: bool, verbs: &[&str]) -> APIResource {
        APIResource {
            name: name.to_owned(),
            kind: kind.to_owned(),
            namespaced,
            verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
            ..APIResource::default()
        }
    }

    fn found(group: &str, version: &str, resource: APIResource) -> Found {
        (group.to_owned(), version.to_owned(), resource)
    }

    const ALL: [&str; 3] = ["create", "get", "list"];

    #[test]
    fn what_can_be_restored_is_listed_once_in_the_order_of_a_restore_and_the_rest_is_named() {
        let discovered = vec![
            found("", "v1", resource("secrets", "Secret", true, &ALL)),
            found("", "v1", resource("namespaces", "Namespace", false, &ALL)),
            found("", "v1", resource("namespaces/status", "Namespace", false, &["get"])),
            found("", "v1", resource("events", "Event", true, &ALL)),
            found("", "v1", resource("componentstatuses", "ComponentStatus", false, &["get", "list"])),
            found("apps", "apps/v1", resource("deployments", "Deployment", true, &ALL)),
            found("apps", "apps/v1beta1", resource("deployments", "Deployment", true, &ALL)),
            found("extensions", "extensions/v1beta1", resource("ingresses", "Ingress", true, &ALL)),
            found("networking.k8s.io", "networking.k8s.io/v1", resource("ingresses", "Ingress", true, &ALL)),
            found("batch", "batch/v1beta1", resource("cronjobs", "CronJob", true, &ALL)),
            found("sparc.example", "sparc.example/v1", resource("widgets", "Widget", true, &ALL)),
            found("storage.k8s.io", "storage.k8s.io/v1", resource("storageclasses", "StorageClass", false, &ALL)),
        ];
        let selection =
            Selection { cluster_resources: false, exclude: vec!["*.sparc.example".to_owned()], ..Selection::default() };
        let mut not_listed = NotListed::new();
        let listed = choose(discovered, &selection, &mut not_listed);
        let names: Vec<String> = listed.iter().map(Listed::name).collect();
        let expected = [
            "namespaces",
            "secrets",
            "cronjobs.batch",
            "deployments.apps",
            "ingresses.networking.k8s.io",
            "ingresses.extensions",
        ];
        assert_eq!(names, expected);
        assert_eq!(listed[3].resource.api_version, "apps/v1", "the preferred version");
        let reasons: Vec<(&str, &str)> = not_listed.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        assert_eq!(
            reasons,
            [
                ("componentstatuses", "it cannot be listed and made"),
                ("events", "the server makes it"),
                ("storageclasses.storage.k8s.io", "the plan takes no resources of the whole cluster"),
                ("widgets.sparc.example", "the plan leaves it out"),
            ]
        );
    }
}
