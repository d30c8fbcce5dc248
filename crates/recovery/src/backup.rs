//! Backups: what they are called, where they lie, what is known of them, and what makes one worth anything.
//!
//! A backup is one folder of the backups bucket, `backups/<kind>/<subject>/<taken>/`: its artifacts, and `manifest.json`,
//! which is written last and once. The digest of the manifest lies elsewhere, in a [`Receipt`] of the evidence bucket, so
//! that a manifest that was changed with its artifacts is found out. What was proven of a backup is a [`Proof`], kept
//! beside the receipt and never overwritten; only a proof makes a [`VerifiedBackup`], and restore takes nothing else.

mod catalogue;
mod job;
mod log;
mod manifest;
mod parts;
mod policy;
mod proof;
mod request;
mod snapshots;
mod storage;
mod wal;

use std::{fmt, str::FromStr};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;

pub use catalogue::{Catalogue, Known, LogStanding, Newest, Proven, Standing, may_expire};
pub use job::{DueJob, JOB_CONFIG, JOB_PLAN, JobEnd, JobFile};
pub use log::{
    LOOKS_SECONDS, LogChain, LogCursor, LogFound, LogKeeper, LogReach, ManagedLog, Restorable, log_chain_key,
    log_reach_key,
};
pub use manifest::{
    Artifact, BackupManifest, Content, DatabaseFacts, DumpFormat, Encoding, FileListing, MANIFEST_VERSION,
    ManifestProblem, Phase, PlainDigest, Protection, Receipt, Sha256Hex, SnapshotCopy, Source, TableFacts, Tool,
};
pub use parts::{Keeping, PartStore, Written};
pub use policy::{Backups, DatabaseBackup, DirectoryFormat, JobSettings, Lock, Policy, Taken};
pub use proof::{ArtifactProof, Counts, Finding, Proof, Reason, Rung, Unproven, VerifiedBackup};
pub use request::{BackupTriggerRequest, ChecksumVerifyRequest, Due, DueBackup, Outcome, Place};
pub use snapshots::{SNAPSHOT_PREFIX, SNAPSHOT_TAG, Snapshot, SnapshotError, SnapshotShelf, snapshot_id};
pub use storage::{BackupStorage, ObjectBody, ObjectSummary, ObjectVersion, Page};
pub use wal::{WalArchive, wal_key};

/// How a backup is taken, and so what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// RDS or Aurora snapshot, copied to the tertiary region under a key of that region.
    Snapshot,
    /// `pg_dump` of each database of a cluster, and its globals.
    Logical,
    /// A base backup of a cluster, with PostgreSQL's manifest of it.
    Physical,
    /// The write-ahead log up to a moment ago: as `drctl wal push` archives it, or as RDS keeps it.
    Wal,
    /// Resources of a Kubernetes cluster, and its volumes.
    Cluster,
    /// What replication of objects has reached.
    Objects,
    /// Digests of images in both regions.
    Registry,
    /// Everything that a failover needs, present or missing in the region it goes to.
    Closure,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::Snapshot,
        Kind::Logical,
        Kind::Physical,
        Kind::Wal,
        Kind::Cluster,
        Kind::Objects,
        Kind::Registry,
        Kind::Closure,
    ];

    /// What a backup of this kind is of, on a platform. An Aurora cluster is named by an ARN; its last part is enough.
    pub fn subject(self, plan: &Plan) -> &str {
        match self {
            Kind::Snapshot | Kind::Logical | Kind::Physical | Kind::Wal => {
                let instance = &plan.postgresql.primary.instance;
                instance.rsplit_once(':').map_or(instance.as_str(), |(_, name)| name)
            }
            Kind::Cluster => &plan.kubernetes.primary.name,
            Kind::Objects => &plan.buckets.videos,
            Kind::Registry | Kind::Closure => &plan.platform,
        }
    }

    /// The word in keys, plans and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Snapshot => "snapshot",
            Kind::Logical => "logical",
            Kind::Physical => "physical",
            Kind::Wal => "wal",
            Kind::Cluster => "cluster",
            Kind::Objects => "objects",
            Kind::Registry => "registry",
            Kind::Closure => "closure",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which backup: `logical/sparc-prod/20261126T020000Z`.
///
/// It derives from the schedule and not from the moment of the call, so a repeated call means the same backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId {
    /// How it is taken.
    pub kind: Kind,
    /// Of what: a database cluster, a Kubernetes cluster, a bucket, a platform.
    pub subject: String,
    /// When it was due, to the second.
    pub due_at: Timestamp,
}

const STAMP: &str = "%Y%m%dT%H%M%SZ";

/// What can stand in a folder's name, an RDS snapshot identifier and a tag alike.
fn is_subject(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !text.starts_with('.')
}

impl BackupId {
    /// The id of what is due at a moment; parts of a second are dropped.
    ///
    /// # Errors
    /// The subject cannot stand in a key.
    pub fn new(kind: Kind, subject: &str, due_at: Timestamp) -> Result<BackupId, NotABackupId> {
        let whole = Timestamp::from_second(due_at.as_second()).unwrap_or(due_at);
        if !is_subject(subject) {
            return Err(NotABackupId(format!("{kind}/{subject}/{}", stamp(whole))));
        }
        Ok(BackupId { kind, subject: subject.to_owned(), due_at: whole })
    }

    /// Folder in the backups bucket, with the slash at its end.
    pub fn folder(&self) -> String {
        format!("{BACKUPS_PREFIX}{self}/")
    }

    /// Key of an artifact; `name` may have folders of its own.
    pub fn artifact_key(&self, name: &str) -> String {
        format!("{}{name}", self.folder())
    }

    /// Key of the manifest in the backups bucket.
    pub fn manifest_key(&self) -> String {
        self.artifact_key("manifest.json")
    }

    /// Key in the evidence bucket of what is known of a backup while it is being taken.
    pub fn progress_key(&self) -> String {
        format!("{EVIDENCE_PREFIX}{self}/progress.json")
    }

    /// Key in the evidence bucket of the manifest's digest.
    pub fn receipt_key(&self) -> String {
        format!("{EVIDENCE_PREFIX}{self}/receipt.json")
    }

    /// Key in the evidence bucket of what was proven at a moment.
    pub fn proof_key(&self, proven_at: Timestamp) -> String {
        format!("{}{}.json", self.proofs_prefix(), stamp(proven_at))
    }

    /// Key in the evidence bucket that says that the artifacts were marked to expire.
    pub fn expired_key(&self) -> String {
        format!("{EVIDENCE_PREFIX}{self}/expired.json")
    }

    /// Key in the evidence bucket of what a run found out about one artifact.
    pub fn part_key(&self, run: &str, artifact: &str) -> String {
        let name = artifact.strip_prefix(&self.folder()).unwrap_or(artifact).replace('/', "!");
        format!("{EVIDENCE_PREFIX}{self}/parts/{run}/{name}.json")
    }

    /// Where the proofs lie in the evidence bucket; their names sort by time.
    pub fn proofs_prefix(&self) -> String {
        format!("{EVIDENCE_PREFIX}{self}/proofs/")
    }

    /// The backup that a key in the backups bucket belongs to.
    pub fn of_key(key: &str) -> Option<BackupId> {
        let rest = key.strip_prefix(BACKUPS_PREFIX)?;
        let mut parts = rest.splitn(4, '/');
        let (kind, subject, due, _) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        format!("{kind}/{subject}/{due}").parse().ok()
    }
}

/// Where backups lie in the backups bucket: `backups/<kind>/<subject>/<due>/`.
pub const BACKUPS_PREFIX: &str = "backups/";

/// Where receipts and proofs lie in the evidence bucket.
pub const EVIDENCE_PREFIX: &str = "backups/";

fn stamp(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime(STAMP).to_string()
}

/// The text names no backup.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no backup; write it as `drctl backups` does, for example `logical/sparc-prod/20261126T020000Z`")]
pub struct NotABackupId(String);

impl FromStr for BackupId {
    type Err = NotABackupId;

    fn from_str(text: &str) -> Result<Self, NotABackupId> {
        let parse = || {
            let [kind, subject, due] = text.split('/').collect::<Vec<_>>().try_into().ok()?;
            let kind = Kind::ALL.into_iter().find(|known| known.word() == kind)?;
            let due_at = jiff::civil::DateTime::strptime(STAMP, due).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
            // One spelling for one backup: a key that parses is a key that is written.
            (is_subject(subject) && stamp(due_at) == due).then(|| BackupId {
                kind,
                subject: subject.to_owned(),
                due_at,
            })
        };
        parse().ok_or_else(|| NotABackupId(text.to_owned()))
    }
}

impl TryFrom<String> for BackupId {
    type Error = NotABackupId;

    fn try_from(text: String) -> Result<Self, NotABackupId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> String {
        id.to_string()
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.subject, stamp(self.due_at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_read_back_from_itself_and_from_its_keys() {
        let id = BackupId::new(Kind::Logical, "sparc-prod", "2026-11-26T02:00:00.7Z".parse().unwrap()).unwrap();
        assert_eq!(id.to_string(), "logical/sparc-prod/20261126T020000Z");
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
        assert_eq!(BackupId::of_key(&id.manifest_key()), Some(id.clone()));
        assert_eq!(BackupId::of_key(&id.artifact_key("databases/sparc_prod/toc.dat.zst")), Some(id.clone()));
        assert_eq!(id.proof_key(id.due_at), "backups/logical/sparc-prod/20261126T020000Z/proofs/20261126T020000Z.json");
    }

    #[test]
    fn what_could_leave_its_folder_is_no_id() {
        for text in [
            "",
            "logical",
            "logical/sparc-prod",
            "logical/../20261126T020000Z",
            "logical/a b/20261126T020000Z",
            "logical//20261126T020000Z",
            "dump/sparc-prod/20261126T020000Z",
            "logical/sparc-prod/2026-11-26",
            "logical/sparc-prod/20261126T020000Z/manifest.json",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<BackupId>();
            let _ = BackupId::of_key(&text);
        }
    }
}
