//! Snapshots that a database service keeps for us, region by region: what they are called, and what is asked of them.
//!
//! The service keeps a manual snapshot until somebody deletes it, and has neither lifecycle rules nor locks for it. So each
//! carries the backup that it belongs to, in its name and in a tag, and what is ours can be told from what is not.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::BackupId;
use crate::fault::{Classified, Fault};

/// What the name of every snapshot of ours begins with; roles may touch no others.
pub const SNAPSHOT_PREFIX: &str = "recovery-";

/// The tag that says which backup a snapshot belongs to.
pub const SNAPSHOT_TAG: &str = "backup";

/// The longest name that both kinds take: of a cluster's, RDS takes 63 letters.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CopyDBClusterSnapshot.html>
const LONGEST_NAME: usize = 63;

/// The name of a backup's snapshot, the same in every region: letters, digits and single hyphens.
pub fn snapshot_id(backup: &BackupId) -> String {
    let subject = hyphenated(&backup.subject);
    let stamp = hyphenated(backup.to_string().rsplit('/').next().unwrap_or_default());
    let room = LONGEST_NAME - SNAPSHOT_PREFIX.len() - stamp.len() - 1;
    if subject.len() <= room {
        return format!("{SNAPSHOT_PREFIX}{subject}-{stamp}");
    }
    // Two long names may differ only behind the cut.
    let mark = format!("{:08x}", fnv1a(&backup.subject));
    let cut = subject[..room - mark.len() - 1].trim_end_matches('-');
    format!("{SNAPSHOT_PREFIX}{cut}-{mark}-{stamp}")
}

fn hyphenated(text: &str) -> String {
    let text: String = text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A snapshot as its service describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: String,
    /// Its ARN, with account and region.
    pub arn: String,
    /// The instance or cluster that it is of.
    pub of: String,
    /// `creating`, `copying`, `available`, `failed`, ….
    pub status: String,
    /// How much of it there is.
    pub percent: i32,
    /// Key that it is encrypted with; none if it is not.
    pub kms_key: Option<String>,
    /// When the data is of; for a copy, that of the snapshot that it was made from.
    pub taken_at: Option<Timestamp>,
    /// Allocated storage.
    pub allocated_gib: u64,
    /// `15.14`.
    pub engine_version: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Snapshot {
    /// The backup that it says it belongs to.
    pub fn backup(&self) -> Option<BackupId> {
        let backup: BackupId = self.tags.get(SNAPSHOT_TAG)?.parse().ok()?;
        (snapshot_id(&backup) == self.id).then_some(backup)
    }

    /// All of it is there, and it can be restored from.
    pub fn is_whole(&self) -> bool {
        self.status == "available" && self.percent == 100
    }

    /// It will never be whole.
    pub fn has_failed(&self) -> bool {
        self.status == "failed"
    }
}

/// The snapshots of one region.
#[async_trait]
pub trait SnapshotShelf: Send + Sync {
    /// Its region.
    fn region(&self) -> &str;

    /// The snapshot of this name; `None` if there is none.
    async fn find(&self, id: &str) -> Result<Option<Snapshot>, SnapshotError>;

    /// Every snapshot that belongs to a backup.
    async fn ours(&self) -> Result<Vec<Snapshot>, SnapshotError>;

    /// Accounts that may restore a snapshot beside our own; `all` is everybody.
    async fn shared_with(&self, id: &str) -> Result<Vec<String>, SnapshotError>;

    /// Deletes a snapshot; one that is not there is success.
    async fn delete(&self, id: &str) -> Result<(), SnapshotError>;
}

/// The service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{doing} in {region} failed")]
pub struct SnapshotError {
    /// What was tried, with the name.
    pub doing: String,
    /// Where.
    pub region: String,
    /// Who acts next.
    pub fault: Fault,
    /// What to do.
    pub remedy: String,
    /// The service's words.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Classified for SnapshotError {
    fn fault(&self) -> Fault {
        self.fault
    }

    fn remedy(&self) -> String {
        self.remedy.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Kind;

    #[test]
    fn names_are_what_the_service_takes_and_differ_where_subjects_do() {
        let name = |subject: &str| {
            let backup = BackupId::new(Kind::Snapshot, subject, "2026-11-26T02:00:00Z".parse().unwrap()).unwrap();
            snapshot_id(&backup)
        };
        assert_eq!(name("sparc-prod"), "recovery-sparc-prod-20261126t020000z");
        assert_eq!(name("sparc_prod--x"), "recovery-sparc-prod-x-20261126t020000z");
        let (long, other) = ("a-long-name-of-a-cluster-in-a-region-east", "a-long-name-of-a-cluster-in-a-region-west");
        assert_ne!(name(long), name(other));
        for subject in [long, other, &"x".repeat(100), &"-a".repeat(40)] {
            let name = name(subject);
            assert!(name.len() <= LONGEST_NAME && !name.contains("--"), "{name}");
            assert!(name.ends_with("-20261126t020000z"), "{name}");
        }
    }

    #[test]
    fn a_snapshot_is_ours_only_where_name_and_tag_agree() {
        let backup: BackupId = "snapshot/sparc-prod/20261126T020000Z".parse().unwrap();
        let mut snapshot = Snapshot {
            id: snapshot_id(&backup),
            arn: String::new(),
            of: "sparc-prod".to_owned(),
            status: "available".to_owned(),
            percent: 100,
            kms_key: None,
            taken_at: None,
            allocated_gib: 100,
            engine_version: "15.14".to_owned(),
            tags: BTreeMap::from([(SNAPSHOT_TAG.to_owned(), backup.to_string())]),
        };
        assert_eq!(snapshot.backup(), Some(backup));
        snapshot.id = "recovery-of-somebody-else".to_owned();
        assert_eq!(snapshot.backup(), None);
        snapshot.tags.clear();
        assert_eq!(snapshot.backup(), None);
    }
}
