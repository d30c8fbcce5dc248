//! Backups that RDS keeps: proven by what it says of them, each deviation named; deleted when they have expired, and never the
//! last proven one.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

mod site;

use std::{sync::Arc, time::Duration};

use checksum_verify::{Error, LOG_BUDGET_BYTES, Planned, Response, Retained};
use jiff::{Timestamp, ToSpan};
use lab::{
    aws::{SECONDARY, TERTIARY},
    backups::Databases,
    faults::{Script, Selector, Times},
};
use recovery::{
    backup::{
        BackupId, ChecksumVerifyRequest, Counts, Kind, Proof, Reason, Rung, SNAPSHOT_TAG, SnapshotShelf, snapshot_id,
    },
    fault::{Classified, Fault, chain},
    plan::{Driver, Plan},
};
use recovery_aws::Aws;
use recovery_lambda::Settings;
use recovery_sites::Takers;

const REPLICA: &str = "sparc-prod-replica-us-west-2";
const DUE: &str = "2026-11-26T02:00:00Z";

struct Platform {
    site: Databases,
    plan: Arc<Plan>,
    aws: Aws,
    takers: Takers,
}

async fn platform(driver: Driver) -> Platform {
    let site = Databases::start(driver).await.unwrap();
    let mut plan = site.account.plan.clone();
    plan.backups.policies.retain(|policy| policy.kind == Kind::Snapshot);
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, site.account.aws.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: "/".into() };
    let takers = recovery_sites::takers(&settings, &aws).unwrap();
    Platform { site, plan, aws, takers }
}

impl Platform {
    fn id(&self, due: &str) -> BackupId {
        BackupId::new(Kind::Snapshot, Kind::Snapshot.subject(&self.plan), due.parse().unwrap()).unwrap()
    }

    /// One look of the function that takes backups.
    async fn look(&self, backup: &BackupId) -> Result<(), backup_trigger::Error> {
        site::trigger(&self.aws, &self.plan, &self.takers, &site::to_take(backup)).await.map(drop)
    }

    async fn take(&self, due: &str) -> BackupId {
        let backup = self.id(due);
        while let Err(error) = self.look(&backup).await {
            assert_eq!(error.fault(), Fault::NotYet, "{}", chain(&error));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        backup
    }

    async fn ask(&self, request: ChecksumVerifyRequest) -> Result<Response, Error> {
        let shelves = self.aws.snapshot_shelves();
        let snapshots: Vec<&dyn SnapshotShelf> =
            shelves.iter().flatten().map(|shelf| shelf as &dyn SnapshotShelf).collect();
        site::ask(&self.aws, &self.plan, &request, LOG_BUDGET_BYTES, &snapshots).await
    }

    /// As the machine does: what has no artifacts to be read is concluded.
    async fn prove(&self, backup: &BackupId) -> Proof {
        let (run, backup) = ("test".to_owned(), backup.clone());
        let request = ChecksumVerifyRequest::Conclude { run, backup, rung: Rung::Present };
        let Response::Proof(proof) = self.ask(request).await.unwrap() else { unreachable!("a proof") };
        *proof
    }

    async fn plan_at(&self, at: &str) -> Planned {
        let (run, at) = ("test".to_owned(), at.parse().unwrap());
        let request = ChecksumVerifyRequest::Plan { run, at, kinds: vec![Kind::Snapshot] };
        let Response::Planned(planned) = self.ask(request).await.unwrap() else { unreachable!("a plan") };
        planned
    }

    async fn retain(&self, at: Timestamp) -> Retained {
        let request = ChecksumVerifyRequest::Retain { run: "test".to_owned(), at };
        let Response::Retained(retained) = self.ask(request).await.unwrap() else { unreachable!("what was marked") };
        retained
    }

    /// Somebody else's hand, in RDS.
    async fn by_hand(&self, region: &str, action: &str, parameters: &[(&str, &str)]) {
        self.site.account.aws.query("rds", region, action, parameters).await.unwrap();
    }

    fn arn(&self, region: &str, backup: &BackupId) -> String {
        format!("arn:aws:rds:{region}:111122223333:snapshot:{}", snapshot_id(backup))
    }

    /// Names of all snapshots of a region.
    async fn there(&self, region: &str) -> Vec<String> {
        let (_, told) = self.site.rds.query(region, "DescribeDBSnapshots", &[]).await.unwrap();
        let names = told.split("<DBSnapshotIdentifier>").skip(1);
        let mut names: Vec<String> = names.map(|rest| rest.split('<').next().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rds_keeps_as_it_was_written_is_proven_and_each_deviation_is_named() {
    let platform = platform(Driver::Rds).await;
    let backup = platform.take(DUE).await;
    let before = platform.plan_at("2026-11-26T03:00:00Z").await;
    assert_eq!((before.backups.len(), before.artifacts.len()), (1, 0));
    assert_eq!(before.backups[0].rung, Rung::Present);
    assert!(before.standings[0].fresh && !before.standings[0].proven_in_time);
    let proof = platform.prove(&backup).await;
    assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Present), &[][..]));
    assert_eq!(proof.artifacts, Counts { found: 1, checked: 1, valid: 1 });
    let after = platform.plan_at("2026-11-26T03:00:00Z").await;
    assert!(after.standings[0].proven_in_time && after.backups.is_empty(), "{after:?}");
    // Asked for more than can be seen, it says how far it got and makes no finding of it.
    let request =
        ChecksumVerifyRequest::Prove { run: "test".to_owned(), backup: backup.clone(), rung: Rung::Structure };
    let Response::Proof(proof) = platform.ask(request).await.unwrap() else { unreachable!("a proof") };
    assert_eq!((proof.rung, proof.artifacts.valid, proof.findings.len()), (Some(Rung::Present), 1, 0));

    let (id, arn) = (snapshot_id(&backup), platform.arn(TERTIARY, &backup));
    let (id, arn) = (id.as_str(), arn.as_str());
    let tag =
        |value: &'static str| [("ResourceName", arn), ("Tags.Tag.1.Key", SNAPSHOT_TAG), ("Tags.Tag.1.Value", value)];
    let restore = |list: &'static str, value: &'static str| {
        [("DBSnapshotIdentifier", id), ("AttributeName", "restore"), (list, value)]
    };
    let (add, remove) = ("ValuesToAdd.AttributeValue.1", "ValuesToRemove.AttributeValue.1");
    let found = async |expected: &[(Reason, &str)]| {
        let proof = platform.prove(&backup).await;
        let told: Vec<String> =
            proof.findings.iter().map(|found| format!("{:?} {}", found.reason, found.says)).collect();
        assert_eq!(proof.findings.len(), expected.len(), "{told:#?}");
        for (found, (reason, says)) in proof.findings.iter().zip(expected) {
            assert_eq!((found.reason, found.artifact.as_deref()), (*reason, Some(arn)), "{told:#?}");
            assert!(found.says.contains(says) && !found.remedy.is_empty(), "{says}: {told:#?}");
        }
        let valid = u64::from(expected.is_empty());
        assert_eq!((proof.rung.is_some(), proof.artifacts.found, proof.artifacts.valid), (valid == 1, 1, valid));
    };
    platform.by_hand(TERTIARY, "ModifyDBSnapshotAttribute", &restore(add, "all")).await;
    found(&[(Reason::Exposed, "is public: everybody may restore it")]).await;
    platform.by_hand(TERTIARY, "ModifyDBSnapshotAttribute", &restore(remove, "all")).await;
    platform.by_hand(TERTIARY, "ModifyDBSnapshotAttribute", &restore(add, "444455556666")).await;
    found(&[(Reason::Exposed, "by the accounts 444455556666")]).await;
    platform.by_hand(TERTIARY, "ModifyDBSnapshotAttribute", &restore(remove, "444455556666")).await;
    platform.by_hand(TERTIARY, "AddTagsToResource", &tag("snapshot/sparc-prod/20261125T020000Z")).await;
    found(&[(Reason::OtherContent, "its tags do not say that it is of")]).await;
    let own = backup.to_string();
    let own = [("ResourceName", arn), ("Tags.Tag.1.Key", SNAPSHOT_TAG), ("Tags.Tag.1.Value", own.as_str())];
    platform.by_hand(TERTIARY, "AddTagsToResource", &own).await;
    found(&[]).await;
    platform.site.rds.spoil_snapshot(arn);
    found(&[(Reason::Unusable, "RDS says that it is failed")]).await;

    platform.by_hand(TERTIARY, "DeleteDBSnapshot", &[("DBSnapshotIdentifier", id)]).await;
    platform.site.rds.forget_snapshot(arn);
    found(&[(Reason::Missing, "somebody deleted it")]).await;
    let gone = platform.prove(&backup).await;
    assert!(gone.findings[0].remedy.contains(&format!("who deleted `{id}`")), "{}", gone.findings[0].remedy);
    let standing = &platform.plan_at("2026-11-26T03:00:00Z").await.standings[0];
    assert!(!standing.proven_in_time, "it was proven, and is not any more");

    // Another one under its name: of another database, under another key.
    let [instance, key] =
        ["somebody-elses", "arn:aws:kms:eu-west-1:111122223333:key/0000aaaa-0000-4000-8000-00000000aaaa"];
    let other = [
        ("DBInstanceIdentifier", instance),
        ("Engine", "postgres"),
        ("EngineVersion", "16.4"),
        ("DBInstanceClass", "db.m6g.large"),
        ("AllocatedStorage", "20"),
        ("MasterUsername", "somebody"),
        ("MasterUserPassword", "unused-by-the-lab"),
        ("StorageEncrypted", "true"),
        ("KmsKeyId", key),
    ];
    platform.by_hand(TERTIARY, "CreateDBInstance", &other).await;
    let swapped = [
        ("DBInstanceIdentifier", instance),
        ("DBSnapshotIdentifier", id),
        ("Tags.Tag.1.Key", SNAPSHOT_TAG),
        ("Tags.Tag.1.Value", own[2].1),
    ];
    platform.by_hand(TERTIARY, "CreateDBSnapshot", &swapped).await;
    found(&[
        (Reason::Protection, key),
        (Reason::OtherContent, "it is of `somebody-elses`, the backup is of `sparc-prod-replica-us-west-2`"),
        (Reason::OtherContent, "it is of version 16.4, written was 15.10"),
        (Reason::OtherContent, "it is of 20 GiB of storage, written was 100"),
        (Reason::OtherContent, "it was taken at"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rds_that_does_not_answer_says_nothing_of_a_snapshot() {
    let platform = platform(Driver::Rds).await;
    let backup = platform.take(DUE).await;
    platform.prove(&backup).await;
    let reject = |status, code: &str| Script::Reject { status, code: code.to_owned() };
    let situations = [
        ("DescribeDBSnapshots", reject(503, "ServiceUnavailable"), Fault::Transient),
        ("DescribeDBSnapshots", reject(400, "Throttling"), Fault::Transient),
        ("DescribeDBSnapshots", Script::LoseAnswer, Fault::Transient),
        ("DescribeDBSnapshotAttributes", reject(403, "AccessDenied"), Fault::Refused),
    ];
    for (operation, script, fault) in situations {
        let desk = &platform.site.account.desk;
        desk.clear();
        desk.lay(Selector::operation(operation).of("rds"), Times::Always, script.clone());
        let (run, backup) = ("test".to_owned(), backup.clone());
        let request = ChecksumVerifyRequest::Conclude { run, backup, rung: Rung::Present };
        let away = platform.ask(request).await.unwrap_err();
        assert_eq!(away.fault(), fault, "{script:?}: {}", chain(&away));
        assert!(!away.remedy().is_empty() && chain(&away).contains("in eu-west-1 failed"), "{}", chain(&away));
    }
    platform.site.account.desk.clear();
    assert!(platform.plan_at("2026-11-26T03:00:00Z").await.standings[0].proven_in_time, "the older proof still counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_snapshots_are_deleted_in_both_regions_a_day_after_their_mark_and_the_last_proven_one_never_is() {
    let platform = platform(Driver::Rds).await;
    let old = platform.take("2026-09-01T02:00:00Z").await;
    let proven = platform.take("2026-10-01T02:00:00Z").await;
    let newest = platform.take(DUE).await;
    // One that never came to be a backup, and one that is somebody's own.
    let orphan = platform.id("2026-09-15T02:00:00Z");
    assert_eq!(platform.look(&orphan).await.unwrap_err().fault(), Fault::NotYet);
    let theirs = [("DBInstanceIdentifier", REPLICA), ("DBSnapshotIdentifier", "recovery-notes-of-somebody")];
    platform.by_hand(SECONDARY, "CreateDBSnapshot", &theirs).await;
    let names = |backups: &[&BackupId], more: &[&str]| {
        let mut names: Vec<String> = backups.iter().map(|backup| snapshot_id(backup)).collect();
        names.extend(more.iter().map(|name| (*name).to_owned()));
        names.sort();
        names
    };
    let all = names(&[&old, &proven, &newest, &orphan], &[theirs[1].1]);
    let at: Timestamp = "2026-11-26T06:00:00Z".parse().unwrap();
    let mut waited = 0;
    while platform.there(SECONDARY).await != all {
        waited += 1;
        assert!(waited < 100, "{:?}", platform.there(SECONDARY).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // As long as nothing is proven, nothing goes.
    let unproven = platform.retain(at).await;
    assert_eq!((unproven.expired.len(), unproven.removed.len()), (0, 0), "{unproven:?}");

    platform.prove(&proven).await;
    let marked = platform.retain(at).await;
    assert_eq!(marked.expired, std::slice::from_ref(&old), "the proven one is too old as well, and stays");
    let first = std::slice::from_ref(&platform.arn(SECONDARY, &orphan)).to_vec();
    assert_eq!(marked.removed, first, "nobody will ever miss the orphan; the marked one has a day");
    assert_eq!(platform.there(TERTIARY).await, names(&[&old, &proven, &newest], &[]));

    // The source region refuses for now: what is in the tertiary one goes, and the rest is told and goes later.
    let desk = &platform.site.account.desk;
    let refuse = Script::Reject { status: 400, code: "InvalidDBSnapshotState".to_owned() };
    desk.lay(Selector::operation("DeleteDBSnapshot").of("rds"), Times::Nth(2), refuse);
    let next_day = at + 25.hours();
    let removed = platform.retain(next_day).await;
    assert_eq!(removed.removed, [platform.arn(TERTIARY, &old)]);
    assert!(removed.left.len() == 1 && removed.left[0].contains("InvalidDBSnapshotState"), "{:?}", removed.left);
    let removed = platform.retain(next_day).await;
    assert_eq!((removed.removed.as_slice(), removed.left.len()), (&[platform.arn(SECONDARY, &old)][..], 0));
    assert_eq!(platform.there(TERTIARY).await, names(&[&proven, &newest], &[]));
    assert_eq!(platform.there(SECONDARY).await, names(&[&proven, &newest], &[theirs[1].1]));
    let again = platform.retain(next_day).await;
    assert_eq!((again.removed.len(), again.expired.len()), (0, 0), "{again:?}");

    // The newest is proven, so the one before it is marked. Before its day is over the newest is lost: the marked one stays.
    platform.prove(&newest).await;
    assert_eq!(platform.retain(next_day).await.expired, std::slice::from_ref(&proven));
    platform.by_hand(TERTIARY, "DeleteDBSnapshot", &[("DBSnapshotIdentifier", &snapshot_id(&newest))]).await;
    assert_eq!(platform.prove(&newest).await.rung, None);
    let kept = platform.retain(next_day + 48.hours()).await;
    assert!(kept.removed.is_empty(), "{kept:?}");
    assert!(platform.there(TERTIARY).await.contains(&snapshot_id(&proven)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_snapshot_is_proven_and_found_missing_as_an_instances_is() {
    let platform = platform(Driver::AuroraGlobal).await;
    let backup = platform.take(DUE).await;
    let proof = platform.prove(&backup).await;
    assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Present), &[][..]));
    let id = snapshot_id(&backup);
    platform.by_hand(TERTIARY, "DeleteDBClusterSnapshot", &[("DBClusterSnapshotIdentifier", &id)]).await;
    let proof = platform.prove(&backup).await;
    assert_eq!((proof.rung, proof.findings[0].reason), (None, Reason::Missing), "{:?}", proof.findings);
}
