//! Reads backups back and proves them: a ladder from "it is there" to "it can be read to its end", with a memory.
//!
//! Runs in `verify-backups` after backups were taken: `plan` says which to look at and how all of them stand,
//! `prove-artifact` reads one object from its first byte to its last, `conclude` keeps the proof, `retain` marks what may
//! expire. `prove` is the first three in one call, for `drctl`. `look-at-log` says every few minutes to which moment a restore
//! can go, and `follow-log` follows an archive of the log segment by segment. The rungs above `structure` need a server and are reached by
//! the machine `restore`, which writes proofs of the same form.
//!
//! The manifest is never believed for what it says of itself: its digest lies in the evidence bucket, and so do the proofs.
//! Nothing is changed but tags, and only of backups that are older than the last proven one; snapshots of RDS, which expire by
//! no tag, are deleted a day after theirs. Repeating is safe: proofs are added, never replaced, the same tags are set again, and
//! what has gone is gone.

mod artifact;
mod findings;
mod log;
pub mod metric;
mod plan;
mod prove;
mod retain;
mod snapshots;
pub mod stream;
pub mod structure;

use jiff::Timestamp;
use recovery::{
    backup::{
        ArtifactProof, BackupId, BackupStorage, Catalogue, ChecksumVerifyRequest, LogFound, ManagedLog, Proof, Rung,
        SnapshotError, SnapshotShelf,
    },
    database::DatabaseError,
    fault::{Classified, Fault},
    plan::Plan,
    store::StoreError,
};
use serde::{Deserialize, Serialize};

pub use artifact::prove_artifact;
pub use findings::{finding, remedy};
pub use log::LOG_BUDGET_BYTES;
pub use plan::{ArtifactDue, Planned, ProofDue, Stood};
pub use prove::{HIGHEST, MANIFEST_BOUND};
pub use retain::{EXPIRED, RETENTION_TAG, Retained};

/// What this function reads and marks.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The bucket of backups.
    pub backups: &'a dyn BackupStorage,
    /// The archive of the write-ahead log.
    pub wal: &'a dyn BackupStorage,
    /// Who keeps the log of a managed server; nobody, if the plan's is ours.
    pub managed_log: Option<&'a dyn ManagedLog>,
    /// How much of an archive one call may read, before encoding: [`LOG_BUDGET_BYTES`].
    pub log_budget_bytes: u64,
    /// Receipts and proofs.
    pub catalogue: Catalogue<'a>,
    /// Snapshots of the plan's server, by the region that they are in; none if it is not one of RDS.
    pub snapshots: &'a [&'a dyn SnapshotShelf],
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// What should be looked at, and how backups stand.
    Planned(Planned),
    /// What was proven of a backup.
    Proof(Box<Proof>),
    /// What was found out about one artifact.
    Artifact(ArtifactProof),
    /// What may expire.
    Retained(Retained),
    /// How the log stands.
    Log(Box<LogFound>),
}

/// Nothing is known of the backup, which is not the same as that it is bad: what is bad is a finding.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Objects or evidence cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// Snapshots cannot be asked for.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// RDS was not asked or did not answer.
    #[error("how far RDS can restore is not known")]
    Managed(#[from] DatabaseError),
    /// Nobody can ask RDS.
    #[error("the plan's server is managed, and there is nobody here who asks RDS")]
    NoManagedLog,
    /// The archive is longer than one call.
    #[error("{left} of {needed} segments of the log are left to follow")]
    NotFollowed {
        /// How many are left.
        left: u64,
        /// How many there are.
        needed: u64,
    },
    /// A rung that needs a server.
    #[error("`{0}` is not reached by reading; it needs a server that was restored from the backup")]
    NeedsServer(Rung),
    /// The manifest has no such artifact, or cannot be believed.
    #[error("`{key}` is no artifact of `{backup}`, or its manifest is not the one that was written")]
    NoArtifact {
        /// Which backup.
        backup: BackupId,
        /// Which key.
        key: String,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::Storage(error) => error.fault(),
            Error::Snapshots(error) => error.fault(),
            Error::Managed(error) => error.fault(),
            Error::NotFollowed { .. } => Fault::NotYet,
            Error::NoManagedLog | Error::NeedsServer(_) | Error::NoArtifact { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::Storage(error) => error.remedy(),
            Error::Snapshots(error) => error.remedy(),
            Error::Managed(error) => error.remedy(),
            Error::NotFollowed { .. } => "wait; the next call goes on where this one ended".to_owned(),
            Error::NoManagedLog => "report this as a defect".to_owned(),
            Error::NeedsServer(_) => "ask for `structure` at most, or run the machine `restore`".to_owned(),
            Error::NoArtifact { backup, .. } => format!("read what `drctl backups {backup}` says of it"),
        }
    }
}

/// Does what is asked.
///
/// # Errors
/// See [`Error`].
pub async fn checksum_verify(
    request: &ChecksumVerifyRequest,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<Response, Error> {
    use ChecksumVerifyRequest::{Conclude, FollowLog, LookAtLog, Plan, Prove, ProveArtifact, Retain};
    match request {
        Plan { at, kinds, .. } => plan::plan(*at, kinds, plan, world).await.map(Response::Planned),
        Prove { run, backup, rung } => {
            let proof = prove::prove(run, backup, reachable(*rung)?, plan, world, now).await?;
            Ok(Response::Proof(Box::new(proof)))
        }
        ProveArtifact { run, backup, key, rung } => {
            prove::prove_one(run, backup, key, reachable(*rung)?, plan, world).await.map(Response::Artifact)
        }
        Conclude { run, backup, rung } => {
            let proof = prove::conclude(run, backup, reachable(*rung)?, plan, world, now).await?;
            Ok(Response::Proof(Box::new(proof)))
        }
        LookAtLog { run } => log::look(run, plan, world, now).await.map(|found| Response::Log(Box::new(found))),
        FollowLog { run } => log::follow(run, plan, world, now).await.map(|found| Response::Log(Box::new(found))),
        Retain { at, .. } => retain::retain(*at, plan, world).await.map(Response::Retained),
    }
}

fn reachable(rung: Rung) -> Result<Rung, Error> {
    if rung <= HIGHEST { Ok(rung) } else { Err(Error::NeedsServer(rung)) }
}
