//! What was proven of a backup: a ladder, and a memory of how far each backup got.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupId, Receipt, Sha256Hex};

/// How much is proven; each rung includes those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Every artifact is there with its length, and the manifest is the one of the receipt.
    Present,
    /// Every byte was read; digests of stored and plain bytes are the manifest's.
    Digests,
    /// Every archive was read to its end and holds what the manifest says.
    Structure,
    /// A server started from it.
    Restored,
    /// Rows are those of the backup's snapshot.
    Rows,
    /// The application's own questions were answered.
    Queries,
}

impl Rung {
    /// Every rung, from the lowest.
    pub const ALL: [Rung; 6] =
        [Rung::Present, Rung::Digests, Rung::Structure, Rung::Restored, Rung::Rows, Rung::Queries];

    /// The word in plans, proofs and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Rung::Present => "present",
            Rung::Digests => "digests",
            Rung::Structure => "structure",
            Rung::Restored => "restored",
            Rung::Rows => "rows",
            Rung::Queries => "queries",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why something is not as it should be. Each is another thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is none where there should be one.
    Missing,
    /// Another length than the manifest's, or the end is cut off.
    Truncated,
    /// The stored bytes have another digest.
    StoredDigest,
    /// The stored bytes are right and decode to others than were backed up.
    PlainDigest,
    /// They do not decode.
    Encoding,
    /// The manifest is not the one that was written.
    ManifestChanged,
    /// The manifest cannot be read or contradicts its place.
    ManifestUnreadable,
    /// The archive cannot be read to its end.
    Structure,
    /// The archive is of something else: another database, another object.
    OtherContent,
    /// A database or table of the plan is not in it.
    NotCovered,
    /// The log has a gap.
    WalGap,
    /// Log of another cluster or of a branch that is not ours.
    WalForeign,
    /// It is older than the plan allows.
    Stale,
    /// It was not looked at, and so is not known to be good.
    NotChecked,
    /// The service that keeps it says that nothing can be restored from it.
    Unusable,
    /// It is kept otherwise than was written: under another key, under a weaker lock, in a slower storage class.
    Protection,
    /// Others may read it.
    Exposed,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// On which rung it was found.
    pub rung: Rung,
    /// Why.
    pub reason: Reason,
    /// Which artifact, by key; absent if it is about the backup as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// What was seen, beside what should be, in one line.
    pub says: String,
    /// What to do, in one line.
    pub remedy: String,
}

/// Three counts that are never merged, so that "all valid" cannot hide "half looked at".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// What the manifest names.
    pub found: u64,
    /// What was looked at on the highest rung that was tried.
    pub checked: u64,
    /// What of that is as it should be.
    pub valid: u64,
}

/// What one look at one artifact found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactProof {
    /// Which, by key.
    pub key: String,
    /// The highest rung that it reached; absent if it did not reach the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// The rung that was asked for.
    pub asked: Rung,
    /// Stored bytes that were read.
    pub read_bytes: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// A kept result of a verification, good or bad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Of which backup.
    pub backup: BackupId,
    /// Digest of the manifest that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<Sha256Hex>,
    /// The highest rung that all of it reached; absent if it did not reach the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// The rung that was asked for.
    pub asked: Rung,
    /// When it was finished, by the clock of the function.
    pub proven_at: Timestamp,
    /// How long it took.
    pub took_seconds: f64,
    /// The run that asked.
    pub by: String,
    /// Artifacts.
    pub artifacts: Counts,
    /// Stored bytes.
    pub bytes: Counts,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// A backup that may be restored from: the only value that restore takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifiedBackup {
    /// Which.
    pub backup: BackupId,
    /// The manifest that was proven.
    pub manifest_sha256: Sha256Hex,
    /// How much was proven.
    pub rung: Rung,
    /// When.
    pub proven_at: Timestamp,
}

/// Why a proof does not make a backup usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// The proof is of another backup.
    #[error("the proof is of `{found}`, the receipt of `{expected}`")]
    OtherBackup {
        /// The proof's.
        found: BackupId,
        /// The receipt's.
        expected: BackupId,
    },
    /// Another manifest was proven.
    #[error("`{0}` was proven under another manifest than the one that was written")]
    OtherManifest(BackupId),
    /// Not far enough.
    #[error("`{backup}` is proven to `{}`, `{needed}` is needed", reached.map_or("nothing", Rung::word))]
    TooLow {
        /// Which.
        backup: BackupId,
        /// How far it got.
        reached: Option<Rung>,
        /// How far it must get.
        needed: Rung,
    },
}

impl VerifiedBackup {
    /// What a proof permits.
    ///
    /// # Errors
    /// The proof is of something else, or does not reach far enough.
    pub fn from_proof(proof: &Proof, receipt: &Receipt, needed: Rung) -> Result<VerifiedBackup, Unproven> {
        let backup = proof.backup.clone();
        if backup != receipt.backup {
            return Err(Unproven::OtherBackup { found: backup, expected: receipt.backup.clone() });
        }
        let Some(manifest_sha256) = proof.manifest_sha256.clone().filter(|found| *found == receipt.manifest_sha256)
        else {
            return Err(Unproven::OtherManifest(backup));
        };
        match proof.rung {
            Some(rung) if rung >= needed => {
                Ok(VerifiedBackup { backup, manifest_sha256, rung, proven_at: proof.proven_at })
            }
            reached => Err(Unproven::TooLow { backup, reached, needed }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Kind;

    #[test]
    fn only_a_proof_of_the_same_manifest_that_goes_far_enough_permits() {
        let backup = BackupId::new(Kind::Logical, "sparc-prod", "2026-11-26T02:00:00Z".parse().unwrap()).unwrap();
        let receipt = Receipt {
            backup: backup.clone(),
            manifest_sha256: Sha256Hex::of(&[7; 32]),
            manifest_version_id: None,
            completed_at: backup.due_at,
            retain_until: backup.due_at,
        };
        let proof = Proof {
            backup: backup.clone(),
            manifest_sha256: Some(receipt.manifest_sha256.clone()),
            rung: Some(Rung::Digests),
            asked: Rung::Structure,
            proven_at: backup.due_at,
            took_seconds: 1.0,
            by: "verify-2026-11-26".to_owned(),
            artifacts: Counts { found: 2, checked: 2, valid: 1 },
            bytes: Counts::default(),
            findings: Vec::new(),
        };
        assert_eq!(VerifiedBackup::from_proof(&proof, &receipt, Rung::Digests).unwrap().rung, Rung::Digests);
        let too_low = VerifiedBackup::from_proof(&proof, &receipt, Rung::Structure).unwrap_err();
        assert_eq!(
            too_low.to_string(),
            "`logical/sparc-prod/20261126T020000Z` is proven to `digests`, `structure` is needed"
        );
        let nothing = Proof { rung: None, ..proof.clone() };
        assert!(VerifiedBackup::from_proof(&nothing, &receipt, Rung::Present).is_err());
        let changed = Proof { manifest_sha256: Some(Sha256Hex::of(&[8; 32])), ..proof.clone() };
        assert!(matches!(
            VerifiedBackup::from_proof(&changed, &receipt, Rung::Digests),
            Err(Unproven::OtherManifest(_))
        ));
    }
}
