//! Snapshots that RDS takes and copies, as the state machine asks for them: one step an invocation.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use backup_trigger::{Error, Outcome};
use jiff::Timestamp;
use lab::{
    aws::{PRIMARY, SECONDARY, TERTIARY},
    faults::{Script, Selector, Times},
};
use recovery::{
    backup::{BackupId, BackupManifest, Kind, Receipt, SnapshotCopy, Source, Taken, snapshot_id},
    fault::{Classified, Fault, chain},
    plan::{Driver, Plan},
    store::get_json,
};
use recovery_datapath::sha256;
use serde_json::json;
use site::Platform;

const REPLICA: &str = "sparc-prod-replica-us-west-2";

async fn platform(driver: Driver) -> Platform {
    Platform::of(driver, |plan: &mut Plan| {
        assert_eq!(plan.backups.read_from, Taken::Standby, "as shipped");
        plan.backups.policies.retain(|policy| policy.kind == Kind::Snapshot);
    })
    .await
}

fn backup(platform: &Platform, due: &str) -> BackupId {
    BackupId::new(Kind::Snapshot, Kind::Snapshot.subject(&platform.plan), due.parse().unwrap()).unwrap()
}

impl Platform {
    async fn look(&self, backup: &BackupId) -> Result<Outcome, Error> {
        self.take(backup, "nightly").await
    }

    /// Looks again and again, as `Retry` on `Recovery.NotYet` does; every word on the way.
    async fn to_its_end(&self, backup: &BackupId) -> (Result<Outcome, Error>, Vec<String>) {
        let (began, mut said) = (Instant::now(), Vec::new());
        loop {
            match self.look(backup).await {
                Err(error) if error.fault() == Fault::NotYet => {
                    assert!(began.elapsed() < Duration::from_secs(60), "{said:?}");
                    said.push(chain(&error));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                ended => return (ended, said),
            }
        }
    }

    /// RDS past the proxy: what it says of all snapshots of a region.
    async fn told(&self, region: &str, action: &str) -> String {
        let (status, told) = self.site.rds.query(region, action, &[]).await.unwrap();
        assert!(status.is_success(), "{told}");
        told
    }

    async fn copy_of(&self, backup: &BackupId) -> (BackupManifest, SnapshotCopy) {
        let bytes = self.object(&backup.manifest_key()).await.expect("there is a manifest");
        let receipt = get_json::<Receipt>(&*self.aws.evidence(), &backup.receipt_key()).await.unwrap().unwrap().0;
        assert_eq!(receipt.manifest_sha256, sha256(&bytes));
        let manifest = BackupManifest::read(&bytes, backup).unwrap();
        assert!(manifest.artifacts.is_empty());
        let Source::PostgreSql { snapshots, .. } = &manifest.source else { panic!("{:?}", manifest.source) };
        let [copy] = snapshots.as_slice() else { panic!("{snapshots:?}") };
        let copy = copy.clone();
        (manifest, copy)
    }

    async fn key(&self, operation: &str) {
        let key = json!({ "KeyId": self.plan.backups.kms_key });
        self.site.account.aws.json("kms", TERTIARY, &format!("TrentService.{operation}"), key).await.unwrap();
    }

    fn count(&self, operation: &str) -> usize {
        self.calls(&Selector::operation(operation))
    }
}

/// The text of an element, once for each.
fn all<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect()
}

#[tokio::test]
async fn a_snapshot_is_taken_copied_under_the_tertiary_key_and_published_by_one_step_a_look() {
    let platform = platform(Driver::Rds).await;
    let backup = backup(&platform, "2026-11-26T02:00:00Z");
    let id = snapshot_id(&backup);
    let rds = &platform.site.rds;
    let says = async |expected: &str| {
        let waiting = platform.look(&backup).await.unwrap_err();
        assert_eq!((waiting.fault(), chain(&waiting).contains(expected)), (Fault::NotYet, true), "{}", chain(&waiting));
        platform.assert_nothing_is_published(&backup).await;
    };
    rds.begin_backup(REPLICA);
    says("DB Instance is not in available state: backing-up").await;
    rds.end_backup(REPLICA);
    rds.hold_snapshots();
    says(&format!("the snapshot `{id}` has been begun")).await;
    says(&format!("the snapshot `{id}` is creating,")).await;
    rds.finish_snapshots();
    let (taken, said) = platform.to_its_end(&backup).await;
    let copies = said.iter().position(|said| said.contains(&format!("the copy `{id}` has been begun"))).unwrap();
    let (of_the_snapshot, of_the_copy) = (&said[..copies], &said[copies + 1..]);
    assert!(of_the_snapshot.iter().all(|said| said.contains(&format!("the snapshot `{id}` is creating,"))), "{said:?}");
    assert!(of_the_copy.iter().all(|said| said.contains(&format!("the copy `{id}` is copying,"))), "{said:?}");
    let taken = taken.unwrap();
    assert_eq!((taken.artifacts, taken.already), (0, false));

    let (manifest, copy) = platform.copy_of(&backup).await;
    let key = platform.plan.backups.kms_key.as_str();
    assert_eq!(copy.arn, format!("arn:aws:rds:{TERTIARY}:111122223333:snapshot:{id}"));
    assert_eq!((copy.region.code(), copy.kms_key.as_str(), copy.allocated_gib), (TERTIARY, key, 100));
    assert_eq!((manifest.tool.name.as_str(), manifest.tool.version.as_str()), ("rds", "15.10"));
    let Source::PostgreSql { instance, server_version, .. } = &manifest.source else { unreachable!("PostgreSQL") };
    assert_eq!((instance.as_str(), *server_version), (REPLICA, 150_010));

    // Read back: the copy under the tertiary key, the original under that of its own region, both with the backup's tags.
    let (there, here) =
        (platform.told(TERTIARY, "DescribeDBSnapshots").await, platform.told(SECONDARY, "DescribeDBSnapshots").await);
    assert_eq!((all(&there, "KmsKeyId"), all(&there, "Encrypted")), (vec![key], vec!["true"]), "{there}");
    assert!(all(&here, "KmsKeyId")[0].starts_with(&format!("arn:aws:kms:{SECONDARY}:")), "{here}");
    for (region, told) in [(TERTIARY, &there), (SECONDARY, &here)] {
        assert_eq!(all(told, "DBSnapshotIdentifier"), [id.as_str()], "{region}");
        let (keys, values) = (all(told, "Key"), all(told, "Value"));
        let tags: BTreeMap<&str, &str> = keys.into_iter().zip(values).collect();
        assert_eq!((tags["backup"], tags["kind"]), (&*backup.to_string(), "snapshot"), "{region}: {told}");
    }
    let elsewhere = platform.told(PRIMARY, "DescribeDBSnapshots").await;
    assert!(!elsewhere.contains(&id), "the region that may be lost has no part in it: {elsewhere}");

    assert_eq!(platform.look(&backup).await.unwrap(), Outcome { already: true, ..taken });
    assert_eq!((platform.count("CreateDBSnapshot"), platform.count("CopyDBSnapshot")), (2, 1), "one was refused");
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_snapshot_and_no_second_copy() {
    let platform = platform(Driver::Rds).await;
    let backup = backup(&platform, "2026-11-26T02:00:00Z");
    // Both attempts of the SDK lose their answer: the first has done the work, the second is told that it is there.
    for operation in ["CreateDBSnapshot", "CopyDBSnapshot"] {
        platform.desk().lay(Selector::operation(operation).of("rds"), Times::First(2), Script::LoseAnswer);
    }
    let (mut lost, began) = (0, Instant::now());
    loop {
        let (ended, _) = platform.to_its_end(&backup).await;
        match ended {
            Ok(outcome) => break assert!(!outcome.already),
            Err(error) => {
                assert_eq!(error.fault(), Fault::Transient, "{}", chain(&error));
                lost += 1;
                assert!(began.elapsed() < Duration::from_secs(60), "{}", chain(&error));
            }
        }
    }
    assert_eq!((lost, platform.desk().fired().len()), (2, 4), "{:?}", platform.desk().fired());
    for region in [SECONDARY, TERTIARY] {
        let told = platform.told(region, "DescribeDBSnapshots").await;
        assert_eq!(all(&told, "DBSnapshotIdentifier"), [snapshot_id(&backup).as_str()], "{region}");
    }
    platform.copy_of(&backup).await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_what_to_do_and_nothing_is_published() {
    let platform = platform(Driver::Rds).await;
    let rds = &platform.site.rds;
    let refused = async |backup: &BackupId, says: &str, remedy: &str| {
        let (ended, _) = platform.to_its_end(backup).await;
        let error = ended.unwrap_err();
        assert_eq!(error.fault(), Fault::Refused, "{}", chain(&error));
        assert!(chain(&error).contains(says), "{}", chain(&error));
        assert!(error.remedy().contains(remedy), "{}", error.remedy());
        platform.assert_nothing_is_published(backup).await;
    };

    let first = backup(&platform, "2026-11-20T02:00:00Z");
    let quota = Script::Reject { status: 400, code: "SnapshotQuotaExceeded".to_owned() };
    platform.desk().lay(Selector::operation("CreateDBSnapshot").of("rds"), Times::First(1), quota.clone());
    refused(&first, "SnapshotQuotaExceeded", "or raise the quota of manual snapshots there").await;
    platform.desk().lay(Selector::operation("CopyDBSnapshot").of("rds"), Times::First(1), quota);
    refused(&first, "SnapshotQuotaExceeded", "delete snapshots in eu-west-1 that nobody needs").await;

    platform.key("DisableKey").await;
    refused(&first, "KMSKeyNotAccessibleFault", "it must be enabled").await;
    platform.key("EnableKey").await;
    let (taken, _) = platform.to_its_end(&first).await;
    assert!(!taken.unwrap().already, "the snapshot was there, and is copied when it can be");
    assert_eq!(platform.count("CreateDBSnapshot"), 2);

    let second = backup(&platform, "2026-11-21T02:00:00Z");
    rds.fail_next_snapshot(SECONDARY);
    refused(&second, &format!("the snapshot `{}` has failed", snapshot_id(&second)), "look at the events").await;
    let third = backup(&platform, "2026-11-22T02:00:00Z");
    rds.fail_next_snapshot(TERTIARY);
    refused(&third, &format!("the copy `{}` has failed", snapshot_id(&third)), "another name").await;

    // Somebody's own snapshot, under a name that is ours.
    let fourth = backup(&platform, "2026-11-23T02:00:00Z");
    let id = snapshot_id(&fourth);
    let theirs = [("DBInstanceIdentifier", REPLICA), ("DBSnapshotIdentifier", id.as_str())];
    platform.site.account.aws.query("rds", SECONDARY, "CreateDBSnapshot", &theirs).await.unwrap();
    refused(&fourth, "is there that does not say that it is of this backup", "another name").await;

    let throttled = Script::Reject { status: 400, code: "Throttling".to_owned() };
    platform.desk().lay(Selector::any().of("rds"), Times::Always, throttled);
    let away = platform.look(&backup(&platform, "2026-11-24T02:00:00Z")).await.unwrap_err();
    assert_eq!(away.fault(), Fault::Transient, "{}", chain(&away));
}

#[tokio::test]
async fn a_cluster_of_aurora_is_snapshotted_and_copied_as_an_instance_is() {
    let platform = platform(Driver::AuroraGlobal).await;
    let backup = backup(&platform, "2026-11-26T02:00:00Z");
    let (taken, said) = platform.to_its_end(&backup).await;
    assert_eq!(taken.unwrap().artifacts, 0);
    assert!(said.len() >= 2 && said[0].ends_with("has been begun"), "{said:?}");
    let (manifest, copy) = platform.copy_of(&backup).await;
    let id = snapshot_id(&backup);
    assert_eq!(copy.arn, format!("arn:aws:rds:{TERTIARY}:111122223333:cluster-snapshot:{id}"));
    assert_eq!(copy.kms_key, platform.plan.backups.kms_key);
    let there = platform.told(TERTIARY, "DescribeDBClusterSnapshots").await;
    assert_eq!(all(&there, "KmsKeyId"), [copy.kms_key.as_str()], "{there}");
    assert!(all(&there, "Value").contains(&backup.to_string().as_str()), "{there}");
    let Source::PostgreSql { instance, .. } = &manifest.source else { unreachable!("PostgreSQL") };
    assert_eq!(instance, &platform.plan.postgresql.standby.instance);
    assert_eq!((platform.count("CreateDBClusterSnapshot"), platform.count("CopyDBClusterSnapshot")), (1, 1));
    // Of a copy RDS says only when it was made; the data is of the original's moment.
    let (_, original) = platform
        .site
        .rds
        .query(SECONDARY, "DescribeDBClusterSnapshots", &[("DBClusterSnapshotIdentifier", &id)])
        .await
        .unwrap();
    let taken_at: Timestamp = all(&original, "SnapshotCreateTime")[0].parse().unwrap();
    assert_eq!(copy.taken_at.as_second(), taken_at.as_second());
    assert!(there.contains("<Key>taken-at</Key>"), "{there}");
}
