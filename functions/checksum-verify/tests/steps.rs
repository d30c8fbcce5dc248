//! Backups of real servers in an emulated bucket: proven when they are whole, and each damage found and named.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

mod site;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use checksum_verify::{EXPIRED, Error, LOG_BUDGET_BYTES, Planned, RETENTION_TAG, Response, Retained};
use jiff::SignedDuration;
use lab::{
    backups::Databases,
    faults::{Script, Selector, Times},
};
use recovery::{
    backup::{
        Artifact, ArtifactProof, BackupId, BackupManifest, Catalogue, ChecksumVerifyRequest, Content, Counts, Finding,
        Kind, Policy, Proof, Reason, Rung, Source, Taken,
    },
    fault::{Classified, Fault},
    plan::{Driver, Plan},
    store::{Precondition, put_json},
};
use recovery_aws::Aws;
use recovery_datapath::sha256;
use recovery_lambda::Settings;
use recovery_sites::Takers;

const DUE: &str = "2026-11-26T02:00:00Z";

struct Platform {
    site: Databases,
    plan: Arc<Plan>,
    aws: Aws,
    takers: Takers,
}

async fn platform() -> Platform {
    let site = Databases::start(Driver::SelfManaged).await.unwrap();
    let mut plan = site.account.plan.clone();
    plan.backups.read_from = Taken::Primary;
    let logical = plan.backups.policy(Kind::Logical).unwrap().clone();
    plan.backups.policies = vec![logical.clone(), Policy { kind: Kind::Physical, ..logical }];
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, site.account.aws.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: "/".into() };
    let takers = recovery_sites::takers(&settings, &aws).unwrap();
    Platform { site, plan, aws, takers }
}

fn id(kind: Kind) -> BackupId {
    id_of(kind, DUE)
}

fn id_of(kind: Kind, due: &str) -> BackupId {
    BackupId::new(kind, "sparc-prod", due.parse().unwrap()).unwrap()
}

impl Platform {
    async fn take(&self, backup: &BackupId) {
        site::trigger(&self.aws, &self.plan, &self.takers, &site::to_take(backup)).await.unwrap();
    }

    async fn ask(&self, request: ChecksumVerifyRequest) -> Result<Response, Error> {
        site::ask(&self.aws, &self.plan, &request, LOG_BUDGET_BYTES, &[]).await
    }

    async fn prove(&self, backup: &BackupId, rung: Rung) -> Proof {
        let request = ChecksumVerifyRequest::Prove { run: "test".to_owned(), backup: backup.clone(), rung };
        let Response::Proof(proof) = self.ask(request).await.unwrap() else { unreachable!("prove answers a proof") };
        *proof
    }

    async fn plan_at(&self, at: &str) -> Planned {
        let request =
            ChecksumVerifyRequest::Plan { run: "test".to_owned(), at: at.parse().unwrap(), kinds: vec![Kind::Logical] };
        let Response::Planned(planned) = self.ask(request).await.unwrap() else { unreachable!("plan answers a plan") };
        planned
    }

    async fn object(&self, key: &str) -> Vec<u8> {
        let storage = self.aws.backups();
        let mut body = storage.open(key, None, None).await.unwrap().unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = body.chunk().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    /// Writes an object of a backup, kept as backups are.
    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let headers = self.kept_as(&BackupId::of_key(key).unwrap());
        self.put_kept(key, bytes, &headers).await;
    }

    async fn put_kept(&self, key: &str, bytes: Vec<u8>, headers: &BTreeMap<&str, String>) {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let bucket = &self.plan.buckets.backups;
        self.site.account.aws.put_object_with(bucket, key, &headers, bytes).await.unwrap();
    }

    /// The words that a backup's objects are written with.
    fn kept_as(&self, backup: &BackupId) -> BTreeMap<&'static str, String> {
        let days = self.plan.backups.policy(backup.kind).unwrap().retention_days;
        let until = backup.due_at + SignedDuration::from_hours(24 * i64::from(days));
        BTreeMap::from([
            ("x-amz-server-side-encryption", "aws:kms".to_owned()),
            ("x-amz-server-side-encryption-aws-kms-key-id", self.plan.backups.kms_key.clone()),
            ("x-amz-object-lock-mode", "COMPLIANCE".to_owned()),
            ("x-amz-object-lock-retain-until-date", until.to_string()),
            ("x-amz-storage-class", "STANDARD_IA".to_owned()),
        ])
    }

    async fn manifest(&self, backup: &BackupId) -> BackupManifest {
        BackupManifest::read(&self.object(&backup.manifest_key()).await, backup).unwrap()
    }

    /// Writes a manifest and its receipt.
    async fn publish(&self, manifest: &BackupManifest) {
        self.put(&manifest.id.manifest_key(), manifest.to_bytes()).await;
        let (evidence, key) = (self.aws.evidence(), manifest.id.receipt_key());
        put_json(&*evidence, &key, &site::receipt(manifest), Precondition::None).await.unwrap();
    }

    /// A backup as a bucket without versions would hold it: what is written under a key takes the place of what was there.
    async fn taken_without_versions(&self, kind: Kind) -> BackupManifest {
        self.take(&id(kind)).await;
        let mut manifest = self.manifest(&id(kind)).await;
        for artifact in &mut manifest.artifacts {
            artifact.version_id = None;
        }
        self.publish(&manifest).await;
        manifest
    }
}

fn dump_of<'a>(manifest: &'a BackupManifest, name: &str) -> &'a Artifact {
    let is_it = |artifact: &&Artifact| matches!(&artifact.content, Content::Dump { database, .. } if database == name);
    manifest.artifacts.iter().find(is_it).unwrap()
}

/// The one finding that there should be.
fn only(proof: &Proof) -> &Finding {
    assert_eq!(proof.findings.len(), 1, "{:#?}", proof.findings);
    assert!(!proof.findings[0].remedy.is_empty());
    &proof.findings[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_proven_to_its_structure_and_remembered() {
    let platform = platform().await;
    for kind in [Kind::Logical, Kind::Physical] {
        platform.take(&id(kind)).await;
        let manifest = platform.manifest(&id(kind)).await;
        let before = platform.plan_at("2026-11-26T03:00:00Z").await;
        let proof = platform.prove(&id(kind), Rung::Structure).await;
        assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]), "{kind}");
        let count = manifest.artifacts.len() as u64;
        assert_eq!(proof.artifacts, Counts { found: count, checked: count, valid: count });
        assert_eq!(proof.bytes.checked, manifest.stored_bytes());
        if kind == Kind::Logical {
            assert_eq!(count, 5, "four databases and the globals");
            assert_eq!(before.backups.len(), 1);
            assert_eq!(before.artifacts.len(), 5);
            assert!(!before.standings[0].proven_in_time && before.standings[0].fresh);
        }
    }
    let after = platform.plan_at("2026-11-26T03:00:00Z").await;
    assert_eq!((after.backups.as_slice(), after.findings.as_slice()), (&[][..], &[][..]));
    assert!(after.standings[0].proven_in_time);

    let (list, evidence) = (platform.aws.evidence_list(), platform.aws.evidence());
    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
    let known = catalogue.known(Kind::Logical, "sparc-prod").await.unwrap();
    let usable = catalogue.newest_usable(&known, Rung::Structure).await.unwrap().unwrap();
    assert_eq!((usable.verified.backup, usable.verified.rung), (id(Kind::Logical), Rung::Structure));
    assert!(catalogue.newest_usable(&known, Rung::Restored).await.unwrap().is_none(), "nobody has restored it");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_of_an_object_is_found_and_named() {
    let platform = platform().await;
    let manifest = platform.taken_without_versions(Kind::Logical).await;
    let (prod, auth) = (dump_of(&manifest, "sparc_prod").key.clone(), dump_of(&manifest, "sparc_auth").key.clone());
    let (prod_bytes, auth_bytes) = (platform.object(&prod).await, platform.object(&auth).await);
    let flipped = |place: usize| {
        let mut bytes = prod_bytes.clone();
        bytes[place] ^= 1;
        bytes
    };
    let middle = prod_bytes.len() / 2;
    let situations = [
        ("one flipped bit", flipped(middle), Reason::StoredDigest),
        ("a flipped bit at the end", flipped(prod_bytes.len() - 1), Reason::StoredDigest),
        ("cut off", prod_bytes[..middle].to_vec(), Reason::Truncated),
        ("empty", Vec::new(), Reason::Truncated),
        ("the right size, other content", vec![b'x'; prod_bytes.len()], Reason::StoredDigest),
    ];
    for (situation, bytes, reason) in situations {
        platform.put(&prod, bytes).await;
        let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
        let found = only(&proof);
        assert_eq!((found.reason, found.artifact.as_deref()), (reason, Some(&*prod)), "{situation}: {}", found.says);
        assert!(proof.rung < Some(Rung::Digests), "{situation}");
        assert_eq!((proof.artifacts.found, proof.artifacts.valid), (5, 4), "{situation}");
    }
    platform.put(&prod, auth_bytes.clone()).await;
    platform.put(&auth, prod_bytes.clone()).await;
    let swapped = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    let named: BTreeMap<&str, Reason> =
        swapped.findings.iter().map(|found| (found.artifact.as_deref().unwrap(), found.reason)).collect();
    // Of other lengths, they are found before they are read.
    let reason = if prod_bytes.len() == auth_bytes.len() { Reason::OtherContent } else { Reason::Truncated };
    assert_eq!(named, BTreeMap::from([(&*prod, reason), (&*auth, reason)]));

    platform.put(&auth, auth_bytes).await;
    platform.site.account.aws.delete_object(&platform.plan.buckets.backups, &prod).await.unwrap();
    let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    assert_eq!((only(&proof).reason, only(&proof).artifact.as_deref()), (Reason::Missing, Some(&*prod)));

    platform.put(&prod, prod_bytes).await;
    let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    assert_eq!((proof.rung, proof.findings.len()), (Some(Rung::Structure), 0), "as it was before");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_bytes_that_are_kept_less_well_than_they_were_written_are_found() {
    let platform = platform().await;
    let manifest = platform.taken_without_versions(Kind::Logical).await;
    let key = dump_of(&manifest, "sparc_prod").key.clone();
    let bytes = platform.object(&key).await;
    let as_written = platform.kept_as(&manifest.id);
    let with = |changes: &[(&'static str, Option<&str>)]| {
        let mut headers = as_written.clone();
        for (name, value) in changes {
            match value {
                Some(value) => headers.insert(*name, (*value).to_owned()),
                None => headers.remove(*name),
            };
        }
        headers
    };
    let (mode, until) = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date");
    let (encryption, kms_key) = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id");
    let other = platform.site.account.aws.make_key().await.unwrap();
    let situations = [
        (with(&[(encryption, None), (kms_key, None)]), "under no key of KMS"),
        (with(&[(kms_key, Some(&other))]), other.as_str()),
        (with(&[(mode, None), (until, None)]), "under the lock `off`, written was `compliance`"),
        (with(&[(mode, Some("GOVERNANCE"))]), "under the lock `governance`"),
        (with(&[(until, Some("2026-12-25T02:00:00Z"))]), "locked until 2026-12-25T02:00:00Z"),
        (with(&[("x-amz-storage-class", Some("GLACIER"))]), "lies in GLACIER, which is read later than STANDARD_IA"),
    ];
    for (headers, says) in situations {
        platform.put_kept(&key, bytes.clone(), &headers).await;
        let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
        let found = only(&proof);
        assert_eq!((found.reason, found.artifact.as_deref()), (Reason::Protection, Some(&*key)), "{}", found.says);
        assert!(found.says.contains(says), "{says}: {}", found.says);
        assert_eq!((proof.rung, proof.artifacts.checked, proof.artifacts.valid), (None, 5, 4), "{says}");
    }
    // Made stricter, or moved to where it is read as soon: what was promised is kept.
    let stricter = with(&[(until, Some("2027-12-26T02:00:00Z")), ("x-amz-storage-class", Some("GLACIER_IR"))]);
    for headers in [stricter, as_written.clone()] {
        platform.put_kept(&key, bytes.clone(), &headers).await;
        let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
        assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_written_over_is_still_the_one_that_is_read() {
    let platform = platform().await;
    platform.take(&id(Kind::Logical)).await;
    let manifest = platform.manifest(&id(Kind::Logical)).await;
    let key = &dump_of(&manifest, "sparc_prod").key;
    platform.put(key, b"encrypted by somebody who wants money".to_vec()).await;
    let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest_is_not_believed_whatever_it_says() {
    let platform = platform().await;
    let manifest = platform.taken_without_versions(Kind::Logical).await;
    let mut changed = manifest.clone();
    changed.artifacts.retain(|artifact| artifact.content != Content::Globals);
    platform.put(&manifest.id.manifest_key(), changed.to_bytes()).await;
    let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    let found = only(&proof);
    assert_eq!((found.reason, proof.rung), (Reason::ManifestChanged, None));
    assert_eq!(found.artifact.as_deref(), Some(&*manifest.id.manifest_key()));

    platform.put(&manifest.id.manifest_key(), b"{}".to_vec()).await;
    assert_eq!(only(&platform.prove(&id(Kind::Logical), Rung::Present).await).reason, Reason::ManifestChanged);
    let nothing = id_of(Kind::Logical, "2026-11-27T02:00:00Z");
    let proof = platform.prove(&nothing, Rung::Present).await;
    assert_eq!((only(&proof).reason, proof.rung), (Reason::Missing, None), "a backup without a receipt is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_digests_cannot_see_the_structure_shows() {
    let platform = platform().await;
    let whole = platform.taken_without_versions(Kind::Logical).await;
    let plain_of =
        async |name: &str| zstd::stream::decode_all(&*platform.object(&dump_of(&whole, name).key).await).unwrap();
    let (prod, auth) = (plain_of("sparc_prod").await, plain_of("sparc_auth").await);
    // Digested and published like that: every digest is right.
    let written = async |plain: &[u8]| {
        let mut manifest = whole.clone();
        let key = dump_of(&whole, "sparc_prod").key.clone();
        let artifact = manifest.artifacts.iter_mut().find(|artifact| artifact.key == key).unwrap();
        let stored = zstd::stream::encode_all(plain, 1).unwrap();
        (artifact.plain_bytes, artifact.plain_sha256) = (plain.len() as u64, sha256(plain));
        artifact.plain_crc64nvme = Some(recovery_datapath::crc64nvme(plain));
        (artifact.stored_bytes, artifact.stored_sha256) = (stored.len() as u64, sha256(&stored));
        artifact.crc64nvme = recovery_datapath::crc64nvme(&stored);
        platform.put(&key, stored).await;
        platform.publish(&manifest).await;
        platform.prove(&id(Kind::Logical), Rung::Structure).await
    };
    for (situation, plain, reason) in [
        ("a dump that ended early", &prod[..prod.len() - 1000], Reason::Truncated),
        ("nothing", &[][..], Reason::Truncated),
        ("another database's", &auth[..], Reason::OtherContent),
        ("no dump", &b"PGDM? something else altogether, which has been digested"[..], Reason::Structure),
    ] {
        let proof = written(plain).await;
        assert_eq!(only(&proof).reason, reason, "{situation}: {}", only(&proof).says);
        assert_eq!(proof.rung, Some(Rung::Digests), "{situation}");
    }

    let mut fewer = whole.clone();
    let Source::PostgreSql { databases, .. } = &mut fewer.source else { unreachable!("a dump is of PostgreSQL") };
    let facts = databases.iter_mut().find(|facts| facts.name == "sparc_prod").unwrap();
    facts.tables[0].rows += 1;
    let table = facts.tables[0].name.clone();
    platform.put(&dump_of(&whole, "sparc_prod").key, zstd::stream::encode_all(&*prod, 1).unwrap()).await;
    let stored = platform.object(&dump_of(&whole, "sparc_prod").key).await;
    let key = dump_of(&whole, "sparc_prod").key.clone();
    let artifact = fewer.artifacts.iter_mut().find(|artifact| artifact.key == key).unwrap();
    (artifact.stored_bytes, artifact.stored_sha256) = (stored.len() as u64, sha256(&stored));
    artifact.crc64nvme = recovery_datapath::crc64nvme(&stored);
    platform.publish(&fewer).await;
    let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    assert!(only(&proof).says.contains(&table), "{}", only(&proof).says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_and_a_stale_backup_are_found() {
    let platform = platform().await;
    let whole = platform.taken_without_versions(Kind::Logical).await;
    let mut without = whole.clone();
    let video = dump_of(&whole, "sparc_video").key.clone();
    without.artifacts.retain(|artifact| artifact.key != video);
    platform.publish(&without).await;
    let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
    assert_eq!((only(&proof).reason, proof.rung), (Reason::NotCovered, None));
    assert!(only(&proof).says.contains("`sparc_video`"), "{}", only(&proof).says);

    let planned = platform.plan_at("2026-11-27T05:00:00Z").await;
    assert_eq!(planned.findings[0].reason, Reason::Stale, "27 hours old, 26 are allowed");
    assert!(planned.findings[0].says.contains("27.0 h"), "{}", planned.findings[0].says);
    assert!(!planned.standings[0].fresh && !planned.standings[0].proven_in_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_off_trickle_or_are_throttled_are_read_to_their_end_all_the_same() {
    let platform = platform().await;
    platform.take(&id(Kind::Logical)).await;
    let manifest = platform.manifest(&id(Kind::Logical)).await;
    let key = dump_of(&manifest, "sparc_prod").key.clone();
    let object = || Selector::request("GET", &key).of("s3");
    let slow = Script::Trickle { piece_bytes: 2048, pause: Duration::from_millis(1) };
    let throttled = Script::Reject { status: 503, code: "SlowDown".to_owned() };
    let situations = [
        (Times::First(2), Script::BreakBody { after_bytes: 1000 }),
        (Times::First(1), throttled.clone()),
        (Times::First(1), slow),
        (Times::First(1), Script::LoseAnswer),
    ];
    for (times, script) in situations {
        platform.site.account.desk.clear();
        let laid = platform.site.account.desk.lay(object(), times, script.clone());
        let proof = platform.prove(&id(Kind::Logical), Rung::Structure).await;
        assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]), "{script:?}");
        assert!(
            platform.site.account.desk.fired().iter().any(|call| call.fired_by == Some(laid)),
            "{script:?} did not act"
        );
    }

    // An object that nobody can read says nothing of itself: no finding, no proof.
    let (list, evidence) = (platform.aws.evidence_list(), platform.aws.evidence());
    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
    let proofs = async || catalogue.known(Kind::Logical, "sparc-prod").await.unwrap()[0].proofs.len();
    let before = proofs().await;
    let described = || Selector::request("HEAD", &key).of("s3");
    let unreadable = [
        (object(), throttled.clone()),
        (object(), Script::LoseAnswer),
        (object(), Script::BreakBody { after_bytes: 0 }),
        (described(), throttled.clone()),
        (Selector::request("GET", "manifest.json").of("s3"), throttled),
    ];
    for (calls, script) in unreadable {
        platform.site.account.desk.clear();
        platform.site.account.desk.lay(calls, Times::Always, script.clone());
        let (run, backup, rung) = ("broken".to_owned(), id(Kind::Logical), Rung::Structure);
        let whole = ChecksumVerifyRequest::Prove { run: run.clone(), backup: backup.clone(), rung };
        let one =
            ChecksumVerifyRequest::ProveArtifact { run: run.clone(), backup: backup.clone(), key: key.clone(), rung };
        for request in [whole, one] {
            let away = platform.ask(request).await.unwrap_err();
            assert_eq!(away.fault(), Fault::Transient, "{script:?}: {away:?}");
            assert!(recovery::fault::chain(&away).contains(&backup.folder()), "{away:?}");
        }
        assert_eq!(proofs().await, before, "{script:?}");
    }
    // Whoever puts the run together says that nobody has looked, and not that all is well.
    platform.site.account.desk.clear();
    let conclude =
        ChecksumVerifyRequest::Conclude { run: "broken".to_owned(), backup: id(Kind::Logical), rung: Rung::Structure };
    let Response::Proof(proof) = platform.ask(conclude).await.unwrap() else { unreachable!("a proof") };
    assert_eq!((proof.rung, proof.artifacts.checked, proof.artifacts.found), (None, 0, 5));
    assert!(proof.findings.iter().all(|found| found.reason == Reason::NotChecked));
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_proven_one_by_one_and_half_looked_at_is_not_all_valid() {
    let platform = platform().await;
    platform.take(&id(Kind::Logical)).await;
    let manifest = platform.manifest(&id(Kind::Logical)).await;
    let backup = id(Kind::Logical);
    let one = async |key: &str| -> ArtifactProof {
        let (run, backup, rung) = ("verify-1".to_owned(), backup.clone(), Rung::Structure);
        let request = ChecksumVerifyRequest::ProveArtifact { run, backup, key: key.to_owned(), rung };
        let Response::Artifact(part) = platform.ask(request).await.unwrap() else { unreachable!("one artifact") };
        part
    };
    let conclude = async |run: &str| -> Proof {
        let (run, backup, rung) = (run.to_owned(), backup.clone(), Rung::Structure);
        let request = ChecksumVerifyRequest::Conclude { run, backup, rung };
        let Response::Proof(proof) = platform.ask(request).await.unwrap() else { unreachable!("a proof") };
        *proof
    };
    let (last, most) = manifest.artifacts.split_last().unwrap();
    for artifact in most {
        assert_eq!(one(&artifact.key).await.rung, Some(Rung::Structure), "{}", artifact.key);
    }
    let proof = conclude("verify-1").await;
    assert_eq!((proof.artifacts.found, proof.artifacts.checked, proof.artifacts.valid), (5, 4, 4));
    assert_eq!((only(&proof).reason, only(&proof).artifact.as_deref()), (Reason::NotChecked, Some(&*last.key)));
    assert_eq!(proof.rung, None);
    one(&last.key).await;
    assert_eq!(conclude("verify-1").await.rung, Some(Rung::Structure));
    assert_eq!(conclude("verify-2").await.artifacts.checked, 0, "another run has looked at nothing");

    let elsewhere = ChecksumVerifyRequest::ProveArtifact {
        run: "verify-1".to_owned(),
        backup: backup.clone(),
        key: backup.artifact_key("nothing"),
        rung: Rung::Digests,
    };
    assert!(matches!(platform.ask(elsewhere).await.unwrap_err(), Error::NoArtifact { .. }));
    let too_high = ChecksumVerifyRequest::Prove { run: "x".to_owned(), backup, rung: Rung::Restored };
    assert_eq!(platform.ask(too_high).await.unwrap_err().fault(), Fault::Permanent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_marked_and_the_last_proven_one_never_is() {
    let platform = platform().await;
    let days = ["2026-09-01T02:00:00Z", "2026-10-01T02:00:00Z", "2026-11-26T02:00:00Z"];
    for due in days {
        platform.take(&id_of(Kind::Logical, due)).await;
    }
    let retain = async || -> Retained {
        let request =
            ChecksumVerifyRequest::Retain { run: "test".to_owned(), at: "2026-11-26T06:00:00Z".parse().unwrap() };
        let Response::Retained(retained) = platform.ask(request).await.unwrap() else {
            unreachable!("what was marked")
        };
        retained
    };
    let marked = async |backup: &BackupId| -> Vec<bool> {
        let storage = platform.aws.backups();
        let mut found = Vec::new();
        for object in storage.list(&backup.folder(), None, None).await.unwrap().objects {
            let tags = storage.tags(&object.key, None).await.unwrap().unwrap();
            assert!(object.key.ends_with("manifest.json") || tags.get("kind").is_some_and(|kind| kind == "logical"));
            found.push(tags.get(RETENTION_TAG).map(String::as_str) == Some(EXPIRED));
        }
        found
    };
    let unproven = retain().await;
    assert_eq!(
        (unproven.expired.as_slice(), unproven.kept.as_slice()),
        (&[][..], &["logical/sparc-prod".to_owned()][..])
    );

    platform.prove(&id_of(Kind::Logical, days[1]), Rung::Structure).await;
    let (first, second, third) =
        (id_of(Kind::Logical, days[0]), id_of(Kind::Logical, days[1]), id_of(Kind::Logical, days[2]));
    assert_eq!(retain().await.expired, std::slice::from_ref(&first), "the proven one is old too, and stays");
    assert_eq!(marked(&first).await, [true; 6]);
    assert_eq!(marked(&second).await, [false; 6]);

    platform.prove(&third, Rung::Structure).await;
    assert_eq!(retain().await.expired, [second]);
    assert_eq!(retain().await, Retained::default(), "nothing is left to be marked");
    assert_eq!(marked(&third).await, [false; 6]);
}

/// Without any digest of ours: the archives themselves tell.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_ends_early_or_differs_in_one_bit_is_found_by_reading_it() {
    use recovery_archive::{base, custom};
    let platform = platform().await;
    platform.take(&id(Kind::Logical)).await;
    platform.take(&id(Kind::Physical)).await;
    let plain = async |key: &str| zstd::stream::decode_all(&*platform.object(key).await).unwrap();
    let logical = platform.manifest(&id(Kind::Logical)).await;
    let dump = plain(&dump_of(&logical, "sparc_prod").key).await;
    let whole = custom::read(&*dump).unwrap();
    assert_eq!((whole.database.as_str(), whole.bytes), ("sparc_prod", dump.len() as u64));
    assert_eq!(whole.entries_with_data, whole.tables.len() as u64);
    for cut in (0..dump.len()).step_by(dump.len() / 300 + 1).chain([dump.len() - 1]) {
        assert!(custom::read(&dump[..cut]).is_err(), "cut to {cut} of {}", dump.len());
    }
    let longer = [&dump[..], b"\x01"].concat();
    assert!(custom::read(&*longer).is_err());

    let physical = platform.manifest(&id(Kind::Physical)).await;
    let archive = plain(&physical.artifacts[0].key).await;
    let whole = base::read(&*archive).unwrap();
    assert_eq!((whole.bytes, whole.unchecked), (archive.len() as u64, 0));
    assert!(whole.files > 500 && whole.log.is_some(), "{whole:?}");
    for cut in (0..archive.len() - 1024).step_by(archive.len() / 20 + 1) {
        assert!(base::read(&archive[..cut]).is_err(), "cut to {cut} of {}", archive.len());
    }
    // The bodies of a table, of the control file, and of the manifest.
    for mark in ["base/", "global/pg_control", "backup_manifest"] {
        let header =
            archive.chunks(512).position(|block| block.starts_with(mark.as_bytes()) && block[156] == b'0').unwrap();
        let mut flipped = archive.clone();
        flipped[(header + 1) * 512 + 40] ^= 4;
        assert!(base::read(&*flipped).is_err(), "{mark}");
    }
}
