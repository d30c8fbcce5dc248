//! What `backup-trigger` and `checksum-verify` are asked, and what `backup-trigger` answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupId, DueJob, JobEnd, Kind, Rung, Sha256Hex};

/// What `backup-trigger` is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BackupTriggerRequest {
    /// Says which backups are due, and where each is taken. Answers [`Due`].
    Plan {
        /// The run that asks.
        run: String,
        /// When they are due: the schedule's time, not the clock.
        due_at: Timestamp,
        /// Which kinds; all of the plan if there are none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kinds: Vec<Kind>,
    },
    /// Takes one backup, or looks whether it is there already. Answers [`Outcome`].
    Take {
        /// The run that asks.
        run: String,
        /// Which.
        backup: BackupId,
    },
    /// Looks whether a backup that a Job takes is complete, and takes nothing. Answers [`Outcome`].
    Confirm {
        /// The run that asks.
        run: String,
        /// Which.
        backup: BackupId,
        /// Since when this is asked: how long nothing was seen of an attempt is counted from here, if there is none.
        since: Timestamp,
        /// How the Job ended, as far as whoever started it knows.
        job: JobEnd,
    },
}

/// Where a backup is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the function, within its 15 minutes.
    Lambda,
    /// In a Job of the cluster, which has no such bound.
    Job,
}

/// Which backups are due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Due {
    /// One each, in the order in which they should be begun.
    pub backups: Vec<DueBackup>,
}

/// One backup that is due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DueBackup {
    /// Which.
    pub backup: BackupId,
    /// Where it is taken.
    pub place: Place,
    /// Why there, with the figures.
    pub because: String,
    /// Plain bytes to be moved, if that could be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// How long that takes at the rate that was measured or, before the first backup, at the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<u64>,
    /// The Job, where one takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<DueJob>,
}

/// A backup that is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Which.
    pub backup: BackupId,
    /// Key of its manifest in the backups bucket.
    pub manifest_key: String,
    /// SHA-256 of the manifest.
    pub manifest_sha256: Sha256Hex,
    /// How many artifacts it has.
    pub artifacts: u64,
    /// Their length before encoding.
    pub plain_bytes: u64,
    /// Their length as stored.
    pub stored_bytes: u64,
    /// From its beginning to its end, over all attempts.
    pub took_seconds: f64,
    /// It was complete before this call.
    pub already: bool,
}

/// What `checksum-verify` is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ChecksumVerifyRequest {
    /// Says which backups should be looked at: complete and not proven, or proven too long ago.
    Plan {
        /// The run that asks.
        run: String,
        /// The moment that ages are counted to.
        at: Timestamp,
        /// Which kinds; all of the plan if there are none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kinds: Vec<Kind>,
    },
    /// Proves one backup up to a rung and keeps the proof.
    Prove {
        /// The run that asks.
        run: String,
        /// Which.
        backup: BackupId,
        /// How far.
        rung: Rung,
    },
    /// Proves one artifact of a backup, so that many are read beside each other, and keeps what it found for `conclude`.
    ProveArtifact {
        /// The run that asks.
        run: String,
        /// Which backup.
        backup: BackupId,
        /// Which artifact.
        key: String,
        /// How far; at most `structure`.
        rung: Rung,
    },
    /// Keeps the proof of a backup whose artifacts were proven one by one by the same run.
    Conclude {
        /// The run that asks.
        run: String,
        /// Which.
        backup: BackupId,
        /// How far.
        rung: Rung,
    },
    /// Says how far the log reaches: to which moment a restore can go. Answers [`super::LogFound`].
    LookAtLog {
        /// The run that asks.
        run: String,
    },
    /// The same, and follows an archive record by record, as far as one call gets; [`crate::fault::Fault::NotYet`] means
    /// that there is more. Answers [`super::LogFound`].
    FollowLog {
        /// The run that asks.
        run: String,
    },
    /// Marks what may expire, and never the last proven one of a subject.
    Retain {
        /// The run that asks.
        run: String,
        /// The moment that ages are counted to.
        at: Timestamp,
    },
}
