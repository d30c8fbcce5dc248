//! What a cluster holds, as a backup: its resources without what only that cluster's server gave them, and its volumes.
//!
//! An export is text, one JSON value a line: a header, one line for each object in the order in which a restore applies
//! them, and an end that counts. An export without its end is none. Secrets stand in it sealed; the adapter's module
//! comment says how.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    backup::BackupId,
    cluster::ClusterError,
    envelope::{DataKeys, KeyError, WrappedKey},
    fault::{Classified, Fault},
};

/// Version of the export's form.
pub const FORM: u32 = 1;

/// The word for every namespace but those of Kubernetes itself (`kube-…`).
pub const EVERY_NAMESPACE: &str = "*";

/// What of a cluster is taken, as the plan says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Namespaces by name; `"*"` is every one but those of Kubernetes itself.
    pub namespaces: Vec<String>,
    /// Whether resources without a namespace are taken too: definitions, roles, storage classes.
    pub cluster_resources: bool,
    /// Resources that are left out besides those that the server or its controllers make, as `plural.group` (`pods`,
    /// `certificaterequests.cert-manager.io`); `*.group` leaves out a whole group.
    pub exclude: Vec<String>,
    /// Resources that are sealed besides Secrets, as `plural.group`.
    pub seal: Vec<String>,
    /// Claims whose volumes are snapshotted.
    #[serde(rename = "volume")]
    pub volumes: Vec<VolumeSelection>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection {
            namespaces: vec![EVERY_NAMESPACE.to_owned()],
            cluster_resources: true,
            exclude: Vec::new(),
            seal: Vec::new(),
            volumes: Vec::new(),
        }
    }
}

/// A volume that is snapshotted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSelection {
    /// Where the claim is.
    pub namespace: String,
    /// The claim (`PersistentVolumeClaim`).
    pub claim: String,
    /// `VolumeSnapshotClass`; the default of the claim's driver if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// Which export this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportIdentity {
    /// The platform.
    pub platform: String,
    /// The backup that it is part of.
    pub backup: BackupId,
    /// When it began.
    pub began_at: Timestamp,
}

/// The first line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportHeader {
    /// [`FORM`].
    pub form: u32,
    /// Which export.
    pub identity: ExportIdentity,
    /// The cluster that it was taken from.
    pub cluster: String,
    /// Its server's version.
    pub server: String,
    /// What was asked for.
    pub selection: Selection,
    /// The data key of what is sealed.
    pub key: WrappedKey,
}

/// The last line of an export: what was found and what became of it, so that nothing is left out in silence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSummary {
    /// Version of the server, as in the header.
    pub server: String,
    /// Objects that the server listed.
    pub found: u64,
    /// Objects in the export.
    pub exported: u64,
    /// How many of them are sealed.
    pub sealed: u64,
    /// How many were left out, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Objects in the export, by kind (`apps/v1/Deployment`).
    pub counts: BTreeMap<String, u64>,
    /// Resources that were not listed at all, and why.
    pub not_listed: BTreeMap<String, String>,
    /// The server's version of the list (`resourceVersion`), by resource: each list is of one moment, all lists are not.
    pub listed_at: BTreeMap<String, String>,
    /// Objects outside of Secrets that seem to hold a secret in the clear, with the place. They are sealed too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspicious: Vec<String>,
}

/// Takes the bytes of an export as they come.
#[async_trait]
pub trait Sink: Send {
    /// Takes some more.
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

#[async_trait]
impl Sink for Vec<u8> {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// How far a volume's snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Where the claim is.
    pub namespace: String,
    /// The claim.
    pub claim: String,
    /// The `VolumeSnapshot`.
    pub snapshot: String,
    /// Whether a volume can be made from it.
    pub ready: bool,
    /// When the storage took it, once it says so. Writers were not stopped: it is what a crash would have left.
    pub taken_at: Option<Timestamp>,
    /// Smallest volume that it fits into, as Kubernetes writes quantities.
    pub restore_size: Option<String>,
    /// The storage's own name of it, for example an EBS snapshot; it lies in the volume's region.
    pub handle: Option<String>,
    /// The driver that took it.
    pub driver: Option<String>,
    /// Whether it goes when its Kubernetes object goes, as with a namespace that is deleted.
    pub goes_with_its_object: Option<bool>,
    /// What the driver complains of; it tries again by itself.
    pub trouble: Option<String>,
}

/// A cluster whose state can be backed up.
#[async_trait]
pub trait ClusterState: Send + Sync {
    /// Its name.
    fn cluster(&self) -> &str;
    /// Writes an export. What was written before an error is not one.
    async fn export(
        &self,
        identity: &ExportIdentity,
        selection: &Selection,
        keys: &dyn DataKeys,
        sink: &mut dyn Sink,
    ) -> Result<ExportSummary, ExportError>;
    /// Asks for a snapshot of a volume, once for all attempts of one backup, and says how far it is.
    async fn snapshot_volume(&self, volume: &VolumeSelection, backup: &BackupId)
    -> Result<VolumeSnapshot, ExportError>;
}

/// An export that is none.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The cluster did not answer as it should.
    #[error("the state of the cluster cannot be read")]
    Cluster(#[source] ClusterError),
    /// There is no key to seal or open secrets with.
    #[error("secrets cannot be sealed or opened")]
    Key(#[source] KeyError),
    /// Whoever takes the bytes does not.
    #[error("the export cannot be written")]
    Write(#[source] std::io::Error),
    /// One object or page is larger than anything that belongs there.
    #[error("a page of `{resource}` in cluster `{cluster}` has {bytes} bytes; at most {most} are taken")]
    TooLarge {
        /// Which cluster.
        cluster: String,
        /// Which resource.
        resource: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// The selection names something that is not there.
    #[error("the plan's selection names {what}, which cluster `{cluster}` does not have")]
    NotThere {
        /// Which cluster.
        cluster: String,
        /// For example ``the namespace `sparc-prod` ``.
        what: String,
    },
    /// A line that is not of this form, or has been changed.
    #[error("line {line} of the export is not as it was written: {why}")]
    Damaged {
        /// From one.
        line: u64,
        /// What is wrong.
        why: String,
    },
}

impl Classified for ExportError {
    fn fault(&self) -> Fault {
        match self {
            ExportError::Cluster(error) => error.fault(),
            ExportError::Key(error) => error.fault(),
            ExportError::Write(_) => Fault::Transient,
            ExportError::TooLarge { .. } | ExportError::NotThere { .. } | ExportError::Damaged { .. } => {
                Fault::Permanent
            }
        }
    }

    fn remedy(&self) -> String {
        match self {
            ExportError::Cluster(error) => error.remedy(),
            ExportError::Key(error) => error.remedy(),
            ExportError::Write(_) => "repeat the backup; look at why its bytes were not taken".to_owned(),
            ExportError::TooLarge { resource, .. } => {
                format!("leave `{resource}` out of the plan's selection, or find out what fills it")
            }
            ExportError::NotThere { .. } => "correct [backups.cluster] in the plan".to_owned(),
            ExportError::Damaged { .. } => "do not restore from it; take an older backup that is proven".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_takes_everything_that_is_not_kubernetes_own() {
        let selection: Selection = toml::from_str("").unwrap();
        assert_eq!(selection, Selection::default());
        assert_eq!(selection.namespaces, [EVERY_NAMESPACE]);
        assert!(selection.cluster_resources);
        assert!(toml::from_str::<Selection>("namespace = [\"a\"]").is_err(), "a misspelt key is not passed over");
        let volumes: Selection = toml::from_str("[[volume]]\nnamespace = \"sparc-prod\"\nclaim = \"data\"\n").unwrap();
        assert_eq!(volumes.volumes[0].claim, "data");
    }
}
