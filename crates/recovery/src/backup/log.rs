//! The log that leads from a backup to any moment after it: how far it reaches, and whether it has a hole.
//!
//! For a server that we run, that is the archive which `drctl wal push` fills; RDS and Aurora keep the log themselves and
//! only say to which moment a restore can go. Both are a policy of kind `wal`, and both are told by what was seen: a reach
//! every few minutes, and for an archive a chain that was followed record by record. Neither is a backup with a manifest, so
//! each is one object of the evidence bucket, written over by the next look; the bucket keeps the versions.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupId, EVIDENCE_PREFIX, Finding, Kind};
use crate::{database::DatabaseError, lsn::Lsn};

/// Time between two looks at how far the log reaches; the template's schedule has the same.
pub const LOOKS_SECONDS: i64 = 300;

/// Who keeps the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LogKeeper {
    /// A bucket, filled by the server's `archive_command`.
    Archive(String),
    /// RDS or Aurora, by the name of the instance or cluster.
    Rds(String),
}

/// How far the log reaches, as seen at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogReach {
    /// When somebody looked.
    pub observed_at: Timestamp,
    /// The run that asked.
    pub by: String,
    /// Who keeps it.
    pub keeper: LogKeeper,
    /// The newest moment that a restore can go to; absent if there is none or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaches_to: Option<Timestamp>,
    /// The oldest such moment, where RDS says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaches_from: Option<Timestamp>,
    /// The newest segment of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Bytes of log that the primary had and the archive has not, as far as the primary was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_bytes: Option<u64>,
    /// What is not as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

impl LogReach {
    /// Seconds of writes that a restore would not have had when somebody looked; `None` if there is nothing to restore to.
    pub fn behind_seconds(&self) -> Option<i64> {
        let reaches_to = self.reaches_to?;
        Some((self.observed_at.as_second() - reaches_to.as_second()).max(0))
    }
}

/// An archive that was followed from a base backup on, and how far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogChain {
    /// When the last look ended.
    pub observed_at: Timestamp,
    /// The run that asked.
    pub by: String,
    /// The newest proven base backup: a restore begins with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
    /// When it was last followed to its end without a finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Timestamp>,
    /// Segments that a restore from the base backup to the newest moment needs.
    pub needed: u64,
    /// What is not as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Where the next look goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<LogCursor>,
}

/// How far an archive was followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogCursor {
    /// Whose log it is.
    pub system_identifier: String,
    /// The timeline that it was followed to.
    pub timeline: u32,
    /// The bytes of one segment.
    pub segment_bytes: u64,
    /// When this pass over the archive began; what is older than the plan allows is read anew.
    pub began_at: Timestamp,
    /// Where in the log it began.
    pub from: Lsn,
    /// Where it goes on: the begin of the last whole record, so that the next one is seen behind it.
    pub next: Lsn,
    /// Segments that were followed in this pass.
    pub segments: u64,
    /// The newest object that was read: one that is newer and lies before `next` was written since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_object: Option<Timestamp>,
}

/// What one look at the log found: nothing, if the plan has no policy of kind `wal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFound {
    /// Of which server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How far it reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<LogReach>,
    /// How far it was followed; only of an archive, and not by a look that is in haste.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<LogChain>,
    /// It reaches as far as the plan asks for.
    pub fresh: bool,
    /// Everything that is wrong, in sentences with what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub says: Vec<String>,
}

/// Key in the evidence bucket of how far the log of a server reaches.
pub fn log_reach_key(subject: &str) -> String {
    format!("{EVIDENCE_PREFIX}{}/{subject}/reach.json", Kind::Wal)
}

/// Key in the evidence bucket of how far the archive of a server was followed.
pub fn log_chain_key(subject: &str) -> String {
    format!("{EVIDENCE_PREFIX}{}/{subject}/chain.json", Kind::Wal)
}

/// The moments between which RDS can restore a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restorable {
    /// The oldest, where the API says it.
    pub from: Option<Timestamp>,
    /// The newest; absent if automated backups are off.
    pub to: Option<Timestamp>,
}

/// Who keeps the log of a managed server.
#[async_trait]
pub trait ManagedLog: Send + Sync {
    /// The instance or cluster.
    fn name(&self) -> &str;

    /// The moments that a restore can go to.
    async fn restorable(&self) -> Result<Restorable, DatabaseError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restore_would_lack_is_counted_from_the_look() {
        let at = |text: &str| -> Option<Timestamp> { Some(text.parse().unwrap()) };
        let reach = |reaches_to| LogReach {
            observed_at: "2026-11-26T02:05:00Z".parse().unwrap(),
            by: "watch".to_owned(),
            keeper: LogKeeper::Rds("sparc-prod".to_owned()),
            reaches_to,
            reaches_from: None,
            segment: None,
            missing_bytes: None,
            findings: Vec::new(),
        };
        assert_eq!(reach(at("2026-11-26T02:01:30Z")).behind_seconds(), Some(210));
        assert_eq!(reach(at("2026-11-26T02:05:01Z")).behind_seconds(), Some(0), "another clock is ahead");
        assert_eq!(reach(None).behind_seconds(), None);
    }
}
