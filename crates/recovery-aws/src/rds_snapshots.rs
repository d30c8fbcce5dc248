//! Takes snapshots of RDS and Aurora, and copies of them in the tertiary region under a key of that region.
//!
//! Each look does at most one thing: begin the snapshot, begin the copy, or find that both are there. Names derive from the
//! backup's, so a repeated call names the same snapshot and is refused by RDS instead of making a second one.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use recovery::{
    backup::{BackupId, SNAPSHOT_TAG, Snapshot, SnapshotCopy, SnapshotError, SnapshotShelf, Source, Tool, snapshot_id},
    plan::Region,
};
use recovery_datapath::{Made, Sink, TakeError, Taker};

use crate::rds_shelf::RdsShelf;

/// Snapshots of an instance or a cluster, copied to another region.
pub struct Snapshots {
    source: RdsShelf,
    tertiary: RdsShelf,
    tertiary_region: Region,
    credentials: Option<SharedCredentialsProvider>,
    instance: String,
    kms_key: String,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// What one look does.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Both are there.
    Done(Snapshot),
    /// The service works on it.
    Wait(String),
    Begin,
    Copy(Snapshot),
    /// It will not come to an end by itself.
    GiveUp(String),
}

/// What is to be done, by what there is.
fn next(id: &str, backup: &BackupId, original: Option<Snapshot>, copy: Option<Snapshot>) -> Next {
    let of_another = |snapshot: &Snapshot| snapshot.backup().as_ref() != Some(backup);
    let waits = |what: &str, snapshot: &Snapshot| {
        Next::Wait(format!("the {what} `{id}` is {}, {} %", snapshot.status, snapshot.percent))
    };
    match (copy, original) {
        (Some(taken), _) | (None, Some(taken)) if of_another(&taken) => {
            Next::GiveUp(format!("a snapshot `{id}` is there that does not say that it is of this backup"))
        }
        (Some(copy), _) if copy.is_whole() => Next::Done(copy),
        (Some(copy), _) if copy.has_failed() => Next::GiveUp(format!("the copy `{id}` has failed")),
        (Some(copy), _) => waits("copy", &copy),
        (None, None) => Next::Begin,
        (None, Some(original)) if original.is_whole() => Next::Copy(original),
        (None, Some(original)) if original.has_failed() => Next::GiveUp(format!("the snapshot `{id}` has failed")),
        (None, Some(original)) => waits("snapshot", &original),
    }
}

impl Snapshots {
    /// Of the plan's instance, in its own region and in the tertiary one, where copies are under this key.
    pub fn new(
        source: RdsShelf,
        (tertiary, tertiary_region): (RdsShelf, &Region),
        credentials: Option<SharedCredentialsProvider>,
        instance: &str,
        kms_key: &str,
    ) -> Snapshots {
        Snapshots {
            source,
            tertiary,
            tertiary_region: tertiary_region.clone(),
            credentials,
            instance: instance.to_owned(),
            kms_key: kms_key.to_owned(),
        }
    }

    /// What the copy must be to be worth anything where both other regions are lost.
    fn opens_in_the_tertiary_region(&self, copy: &Snapshot) -> Result<String, TakeError> {
        let refused = |says: String| TakeError::Refused {
            says,
            remedy: "delete the copy and look at what made it; the next backup gets another name".to_owned(),
        };
        match &copy.kms_key {
            None => Err(refused(format!("the copy `{}` is not encrypted", copy.id))),
            Some(key) if *key != self.kms_key => {
                Err(refused(format!("the copy `{}` is under `{key}`, the plan's key is `{}`", copy.id, self.kms_key)))
            }
            Some(key) => Ok(key.clone()),
        }
    }
}

fn failed(error: SnapshotError) -> TakeError {
    TakeError::source("taking the snapshot", error)
}

/// `15.14` as `server_version_num` has it.
fn server_version(engine: &str) -> u32 {
    let mut parts = engine.split('.').map_while(|part| part.parse::<u32>().ok());
    parts.next().unwrap_or_default() * 10_000 + parts.next().unwrap_or_default()
}

#[async_trait]
impl Taker for Snapshots {
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        // RDS moves them itself.
        Ok(0)
    }

    async fn take(&self, backup: &BackupId, _sink: &Sink) -> Result<Made, TakeError> {
        let id = snapshot_id(backup);
        let copy = self.tertiary.find(&id).await.map_err(failed)?;
        // Once there is a copy, the region that it came from need not answer any more.
        let original = if copy.is_some() { None } else { self.source.find(&id).await.map_err(failed)? };
        let copy = match next(&id, backup, original, copy) {
            Next::Done(copy) => copy,
            Next::Wait(says) => return Err(TakeError::NotYet(says)),
            Next::GiveUp(says) => {
                let remedy = "look at the events of the instance; the next backup gets another name".to_owned();
                return Err(TakeError::Refused { says, remedy });
            }
            Next::Begin => {
                let tags = BTreeMap::from([
                    (SNAPSHOT_TAG.to_owned(), backup.to_string()),
                    ("kind".to_owned(), backup.kind.to_string()),
                ]);
                self.source.begin(&id, &tags).await.map_err(failed)?;
                return Err(TakeError::NotYet(format!("the snapshot `{id}` has been begun")));
            }
            Next::Copy(original) => {
                let (from, credentials) = (self.source.region(), self.credentials.as_ref());
                self.tertiary.copy(&original, from, &self.kms_key, credentials).await.map_err(failed)?;
                return Err(TakeError::NotYet(format!("the copy `{id}` has been begun")));
            }
        };
        let kms_key = self.opens_in_the_tertiary_region(&copy)?;
        Ok(Made {
            tool: Tool { name: "rds".to_owned(), version: copy.engine_version.clone() },
            source: Source::PostgreSql {
                instance: self.instance.clone(),
                system_identifier: None,
                timeline: None,
                server_version: server_version(&copy.engine_version),
                from_lsn: None,
                to_lsn: None,
                in_recovery: false,
                databases: Vec::new(),
                snapshots: vec![SnapshotCopy {
                    arn: copy.arn,
                    region: self.tertiary_region.clone(),
                    kms_key,
                    taken_at: copy.taken_at.unwrap_or(backup.due_at),
                    allocated_gib: copy.allocated_gib,
                }],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_does_one_thing() {
        let backup: BackupId = "snapshot/sparc-prod/20261126T020000Z".parse().unwrap();
        let id = snapshot_id(&backup);
        let snapshot = |status: &str, percent| Snapshot {
            id: id.clone(),
            arn: String::new(),
            of: "sparc-prod".to_owned(),
            status: status.to_owned(),
            percent,
            kms_key: None,
            taken_at: None,
            allocated_gib: 100,
            engine_version: "15.14".to_owned(),
            tags: BTreeMap::from([(SNAPSHOT_TAG.to_owned(), backup.to_string())]),
        };
        let (whole, under_way, failed) = (snapshot("available", 100), snapshot("creating", 40), snapshot("failed", 60));
        let others = Snapshot { tags: BTreeMap::new(), ..whole.clone() };
        let wait = |text: &str| Next::Wait(format!("the {text}"));
        let give_up = |text: String| Next::GiveUp(text);
        let situations = [
            (None, None, Next::Begin),
            (Some(&under_way), None, wait(&format!("snapshot `{id}` is creating, 40 %"))),
            (Some(&snapshot("available", 99)), None, wait(&format!("snapshot `{id}` is available, 99 %"))),
            (Some(&failed), None, give_up(format!("the snapshot `{id}` has failed"))),
            (Some(&whole), None, Next::Copy(whole.clone())),
            (Some(&whole), Some(&under_way), wait(&format!("copy `{id}` is creating, 40 %"))),
            (Some(&whole), Some(&failed), give_up(format!("the copy `{id}` has failed"))),
            (Some(&whole), Some(&whole), Next::Done(whole.clone())),
            (None, Some(&whole), Next::Done(whole.clone())),
            (
                Some(&others),
                None,
                give_up(format!("a snapshot `{id}` is there that does not say that it is of this backup")),
            ),
        ];
        for (original, copy, expected) in situations {
            assert_eq!(next(&id, &backup, original.cloned(), copy.cloned()), expected, "{original:?} and {copy:?}");
        }
    }

    #[test]
    fn a_version_of_the_engine_is_one_of_the_server() {
        assert_eq!((server_version("15.14"), server_version("17.4-R1"), server_version("")), (150_014, 170_000, 0));
    }
}
