//! Volumes by the storage's own snapshots, through the CSI objects of
//! <https://kubernetes.io/docs/concepts/storage/volume-snapshots/>.
//!
//! Each call looks and does at most one thing. A snapshot is named after its backup and its claim, so all attempts of one
//! backup ask for the same one. It is what a crash of the writers would have left: nothing is quiesced.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::GroupVersion;
use kube::discovery::{ApiResource, pinned_group};
use recovery::backup::BackupId;
use recovery::cluster_state::{ExportError, VolumeSelection, VolumeSnapshot};
use serde_json::{Value, json};

use crate::FIELD_MANAGER;
use crate::connection::Cluster;
use crate::error::Error;

const GROUP: &str = "snapshot.storage.k8s.io";
const VERSION: &str = "v1";
/// On each snapshot: the backup that it belongs to.
const BACKUP: &str = "recovery.sparc/backup";
/// Names of objects: RFC 1123 subdomains.
const MOST_CHARACTERS: usize = 253;

impl Cluster {
    pub(crate) async fn snapshot(
        &self,
        volume: &VolumeSelection,
        backup: &BackupId,
    ) -> Result<VolumeSnapshot, ExportError> {
        let trouble = |error: Error| ExportError::Cluster(error.into());
        let kind = self.snapshot_kind("VolumeSnapshot").await.map_err(trouble)?;
        let name = snapshot_name(&volume.claim, backup);
        let client = self.client().await.map_err(trouble)?;
        let snapshots: Api<DynamicObject> = Api::namespaced_with(client, &volume.namespace, &kind);
        let doing = format!("reading the snapshot `{name}`");
        let snapshot = match self.ask(&doing, snapshots.get_opt(&name)).await.map_err(trouble)? {
            Some(snapshot) => snapshot,
            None => {
                self.expect_claim(volume).await?;
                let wanted: DynamicObject = serde_json::from_value(wanted(volume, backup, &name))
                    .map_err(|error| ExportError::Damaged { line: 0, why: error.to_string() })?;
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                let doing = format!("asking for the snapshot `{name}`");
                self.ask(&doing, snapshots.create(&params, &wanted)).await.map_err(trouble)?
            }
        };
        let content = match snapshot.data["status"]["boundVolumeSnapshotContentName"].as_str() {
            Some(content) => self.snapshot_content(content).await.map_err(trouble)?,
            None => Value::Null,
        };
        Ok(read(volume, name, &snapshot.data, &content))
    }

    async fn snapshot_content(&self, name: &str) -> Result<Value, Error> {
        let kind = self.snapshot_kind("VolumeSnapshotContent").await?;
        let contents: Api<DynamicObject> = Api::all_with(self.client().await?, &kind);
        let doing = format!("reading the content `{name}` of a snapshot");
        Ok(self.ask(&doing, contents.get_opt(name)).await?.map(|content| content.data).unwrap_or_default())
    }

    async fn snapshot_kind(&self, kind: &str) -> Result<ApiResource, Error> {
        let client = self.client().await?;
        let version = GroupVersion::gv(GROUP, VERSION);
        let unknown = || Error::UnknownKind {
            cluster: self.at.cluster.clone(),
            kind: format!("{GROUP}/{VERSION}/{kind}"),
            object: "a volume's snapshot".to_owned(),
        };
        let group = match self.ask("asking which kinds of snapshots it has", pinned_group(&client, &version)).await {
            Ok(group) => group,
            Err(Error::Missing { .. }) => return Err(unknown()),
            Err(error) => return Err(error),
        };
        let found = group.versioned_resources(VERSION).into_iter().find(|(resource, _)| resource.kind == kind);
        found.map(|(resource, _)| resource).ok_or_else(unknown)
    }

    /// A snapshot of a claim that is not there would wait for ever.
    async fn expect_claim(&self, volume: &VolumeSelection) -> Result<(), ExportError> {
        let trouble = |error: Error| ExportError::Cluster(error.into());
        let VolumeSelection { namespace, claim, .. } = volume;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client().await.map_err(trouble)?, namespace);
        let doing = format!("reading the claim `{claim}`");
        match self.ask(&doing, claims.get_opt(claim)).await.map_err(trouble)? {
            Some(_) => Ok(()),
            None => Err(ExportError::NotThere {
                cluster: self.at.cluster.clone(),
                what: format!("the claim `{claim}` in the namespace `{namespace}`"),
            }),
        }
    }
}

fn wanted(volume: &VolumeSelection, backup: &BackupId, name: &str) -> Value {
    let mut spec = json!({ "source": { "persistentVolumeClaimName": volume.claim } });
    if let Some(class) = &volume.class {
        spec["volumeSnapshotClassName"] = class.as_str().into();
    }
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "VolumeSnapshot",
        "metadata": { "name": name, "namespace": volume.namespace, "annotations": { BACKUP: backup.to_string() } },
        "spec": spec,
    })
}

/// The same for every attempt of a backup: the claim and when the backup was due.
fn snapshot_name(claim: &str, backup: &BackupId) -> String {
    let due = backup.due_at.strftime("%Y%m%d-%H%M%S").to_string();
    let room = MOST_CHARACTERS - due.len() - 1;
    let claim: String = claim.chars().take(room).collect();
    format!("{claim}-{due}")
}

fn read(volume: &VolumeSelection, name: String, snapshot: &Value, content: &Value) -> VolumeSnapshot {
    let status = &snapshot["status"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    VolumeSnapshot {
        namespace: volume.namespace.clone(),
        claim: volume.claim.clone(),
        snapshot: name,
        ready: status["readyToUse"] == true,
        taken_at: status["creationTime"].as_str().and_then(|time| time.parse().ok()),
        restore_size: text(&status["restoreSize"]),
        handle: text(&content["status"]["snapshotHandle"]),
        driver: text(&content["spec"]["driver"]),
        goes_with_its_object: content["spec"]["deletionPolicy"].as_str().map(|policy| policy == "Delete"),
        trouble: text(&status["error"]["message"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_named_alike_by_every_attempt_and_within_the_servers_bounds() {
        let backup = "cluster/sparc-prod-us-east-1/20260102T030405Z".parse().unwrap();
        assert_eq!(snapshot_name("data", &backup), "data-20260102-030405");
        let long = snapshot_name(&"d".repeat(300), &backup);
        assert_eq!(long.len(), MOST_CHARACTERS);
        assert!(long.ends_with("d-20260102-030405"));
    }
}
