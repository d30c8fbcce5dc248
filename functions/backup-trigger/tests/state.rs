//! Backups of what is no database: the state of a real cluster, and what replication has reached in the emulated AWS.
//!
//! There is no CSI driver here: the test plays the snapshot controller.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use backup_trigger::{Error, Outcome, Request, Response, World, backup_trigger};
use jiff::Timestamp;
use lab::{
    aws::{PRIMARY, SECONDARY},
    backups::Clusters,
    kubernetes::{Cluster as LabCluster, Flavour},
};
use recovery::{
    backup::{Artifact, BackupId, BackupManifest, Content, Kind, Source},
    closure::{Closure, NeedKind},
    cluster_state::{Selection, VolumeSelection, VolumeSnapshot},
    envelope::DataKeys,
    fault::{Classified, Fault, chain},
    holdings::MARKER_KEY,
    plan::Plan,
    registry::ImageDigests,
    replication::{Measured, ObjectReason, ReplicationSample},
    store::{ObjectStore, Precondition},
};
use recovery_aws::Aws;
use recovery_export::{ExportCheck, ExportReader};
use recovery_lambda::Settings;
use recovery_sites::Takers;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::Notify;

const PASSWORD: &str = "correct horse battery staple";

struct Platform {
    site: Clusters,
    plan: Arc<Plan>,
    aws: Aws,
    takers: Takers,
}

async fn give_rights(cluster: &LabCluster) {
    for document in serde_yaml_ng::Deserializer::from_str(include_str!("../../../bundles/backup-rights.yaml")) {
        let object = Value::deserialize(document).unwrap();
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        cluster.admin().create(&format!("/apis/rbac.authorization.k8s.io/v1/{plural}"), &object).await.unwrap();
    }
}

async fn platform() -> Platform {
    let site = Clusters::start([Flavour::Real, Flavour::Small]).await.unwrap();
    let mut plan = site.account.plan.clone();
    plan.backups.cluster = Selection {
        namespaces: vec!["sparc".to_owned()],
        volumes: vec![VolumeSelection { namespace: "sparc".to_owned(), claim: "data".to_owned(), class: None }],
        ..Selection::default()
    };
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, site.account.aws.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: site.folder().to_owned() };
    let takers = recovery_sites::takers(&settings, &aws).unwrap();
    Platform { site, plan, aws, takers }
}

impl Platform {
    fn id(&self, kind: Kind) -> BackupId {
        BackupId::new(kind, kind.subject(&self.plan), "2026-11-26T02:00:00Z".parse().unwrap()).unwrap()
    }

    async fn take(&self, kind: Kind) -> Result<Outcome, Error> {
        self.take_the(&self.id(kind)).await
    }

    async fn take_the(&self, backup: &BackupId) -> Result<Outcome, Error> {
        let (backups, evidence) = (self.aws.bucket(&self.plan.buckets.backups), self.aws.evidence());
        let world = World {
            takers: &self.takers,
            parts: self.aws.backup_parts(),
            backups: &backups,
            evidence: &*evidence,
            list: &*self.aws.evidence_list(),
            authority: "",
            now: Timestamp::now,
            within: Duration::from_secs(300),
            stop: &Notify::const_new(),
        };
        let request = Request::Take { run: "nightly".to_owned(), backup: backup.clone() };
        match backup_trigger(&request, &self.plan, &world).await? {
            Response::Outcome(outcome) => Ok(outcome),
            Response::Due(_) => panic!("take answers an outcome"),
        }
    }

    /// The manifest as it was published, and its artifacts with their plain bytes.
    async fn published(&self, kind: Kind) -> (BackupManifest, Vec<(Artifact, Vec<u8>)>) {
        let bucket = self.aws.bucket(&self.plan.buckets.backups);
        let id = self.id(kind);
        let manifest = bucket.get(&id.manifest_key()).await.unwrap().expect("there is a manifest");
        let manifest = BackupManifest::read(&manifest.body, &id).unwrap();
        let mut artifacts = Vec::new();
        for artifact in manifest.artifacts.clone() {
            let stored = bucket.get(&artifact.key).await.unwrap().unwrap().body;
            assert!(!contains(&stored, PASSWORD.as_bytes()));
            let plain = zstd::stream::decode_all(&*stored).unwrap();
            assert_eq!(plain.len() as u64, artifact.plain_bytes);
            artifacts.push((artifact, plain));
        }
        (manifest, artifacts)
    }

    /// The only artifact of a backup, which is one value.
    async fn value<T: DeserializeOwned>(&self, kind: Kind, content: Content) -> (BackupManifest, T) {
        let (manifest, artifacts) = self.published(kind).await;
        let [(artifact, plain)] = artifacts.as_slice() else { panic!("{artifacts:?}") };
        assert_eq!(artifact.content, content);
        (manifest, serde_json::from_slice(plain).unwrap())
    }

    /// What a look at the replication shows that was due at a moment.
    async fn sample(&self, due: &str) -> ReplicationSample {
        let id = BackupId::new(Kind::Objects, Kind::Objects.subject(&self.plan), due.parse().unwrap()).unwrap();
        self.take_the(&id).await.unwrap();
        let bucket = self.aws.bucket(&self.plan.buckets.backups);
        let manifest = bucket.get(&id.manifest_key()).await.unwrap().expect("there is a manifest");
        let manifest = BackupManifest::read(&manifest.body, &id).unwrap();
        let stored = bucket.get(&manifest.artifacts[0].key).await.unwrap().unwrap().body;
        serde_json::from_slice(&zstd::stream::decode_all(&*stored).unwrap()).unwrap()
    }

    async fn is_published(&self, kind: Kind) -> bool {
        let bucket = self.aws.bucket(&self.plan.buckets.backups);
        bucket.get(&self.id(kind).manifest_key()).await.unwrap().is_some()
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

async fn furnish(cluster: &LabCluster) {
    let admin = cluster.admin();
    let meta = |name: &str| json!({"name": name, "namespace": "sparc"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("database"), "stringData": {"password": PASSWORD}});
    admin.create("/api/v1/namespaces/sparc/secrets", &secret).await.unwrap();
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta("data"),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}}});
    admin.create("/api/v1/namespaces/sparc/persistentvolumeclaims", &claim).await.unwrap();
    for (kind, plural, scope) in [
        ("VolumeSnapshot", "volumesnapshots", "Namespaced"),
        ("VolumeSnapshotContent", "volumesnapshotcontents", "Cluster"),
    ] {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.snapshot.storage.k8s.io"),
                "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter/pull/665"}},
            "spec": {"group": "snapshot.storage.k8s.io", "scope": scope,
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
        });
        admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.unwrap();
    }
    for plural in ["namespaces/sparc/volumesnapshots", "volumesnapshotcontents"] {
        let path = format!("/apis/snapshot.storage.k8s.io/v1/{plural}");
        let mut looks = 0;
        while admin.get(&path).await.unwrap().is_none() {
            looks += 1;
            assert!(looks < 200, "{path} is never served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn the_cluster_is_taken_when_its_volumes_are_and_its_secrets_are_sealed(platform: &Platform) {
    let admin = platform.site.primary.admin();
    let denied = platform.take(Kind::Cluster).await.unwrap_err();
    assert_eq!(denied.fault(), Fault::Refused, "{}", chain(&denied));
    give_rights(&platform.site.primary).await;

    let waiting = platform.take(Kind::Cluster).await.unwrap_err();
    assert_eq!(waiting.fault(), Fault::NotYet, "{}", chain(&waiting));
    assert!(chain(&waiting).contains("0 of 1 volume snapshots can be used; waiting for `data-20261126-020000`"));
    assert!(!platform.is_published(Kind::Cluster).await);

    // The snapshot controller and its driver.
    let snapshots = "/apis/snapshot.storage.k8s.io/v1/namespaces/sparc/volumesnapshots";
    let ready = json!({"status": {"readyToUse": true, "creationTime": "2026-11-26T02:00:05Z", "restoreSize": "8Gi"}});
    admin.merge(&format!("{snapshots}/data-20261126-020000/status"), &ready).await.unwrap();

    let outcome = platform.take(Kind::Cluster).await.unwrap();
    assert_eq!((outcome.artifacts, outcome.already), (2, false));
    let (manifest, artifacts) = platform.published(Kind::Cluster).await;
    let Source::Kubernetes { cluster, server_version, counts } = &manifest.source else { panic!("{manifest:?}") };
    assert_eq!((cluster.as_str(), counts["v1/Secret"]), ("sparc-prod-us-east-1", 1));
    assert!(server_version.starts_with("v1."), "{server_version}");

    let [(resources, lines), (volumes, snapshots)] = artifacts.as_slice() else { panic!("{artifacts:?}") };
    assert_eq!((&resources.content, &volumes.content), (&Content::ClusterResources, &Content::VolumeSnapshots));
    assert!(!contains(lines, PASSWORD.as_bytes()));
    let first = lines.split_inclusive(|byte| *byte == b'\n').next().unwrap();
    let key = ExportReader::begin(first).unwrap().header().key.clone();
    let keys = platform.aws.keys(&platform.plan.regions.tertiary).key(&platform.plan.backups.kms_key);
    let mut check = ExportCheck::with_key(keys.unwrap(&key).await.unwrap());
    check.feed(lines).unwrap();
    let (header, summary) = check.finish().unwrap();
    assert_eq!((header.identity.backup, &summary.counts), (platform.id(Kind::Cluster), counts));
    let snapshots: Vec<VolumeSnapshot> = serde_json::from_slice(snapshots).unwrap();
    assert_eq!((snapshots.len(), snapshots[0].ready, snapshots[0].claim.as_str()), (1, true, "data"));

    assert!(platform.take(Kind::Cluster).await.unwrap().already, "taken once");
}

async fn a_sample_of_objects_goes_on_where_the_last_one_ended(platform: &Platform) {
    let put = async |key: &str| {
        platform.aws.objects().put(key, "video/mp4", "1".into(), Precondition::None).await.unwrap();
    };
    for n in 0..12 {
        put(&format!("videos/{n:02}")).await;
    }
    let mark = async |number: u64, written_at: &str| {
        let marker = json!({"heartbeat": {"number": number, "written_at": written_at}}).to_string();
        platform.aws.objects().put(MARKER_KEY, "application/json", marker.into(), Precondition::None).await.unwrap();
    };
    mark(1, "2026-11-26T02:00:00Z").await;
    platform.site.account.aws.stop_replication().await.unwrap();
    mark(2, "2026-11-26T02:00:07Z").await;
    put("videos/late").await;
    platform.take(Kind::Objects).await.unwrap();
    let (manifest, seen) = platform.value::<ReplicationSample>(Kind::Objects, Content::ReplicationStatus).await;
    let expected = Source::Bucket { bucket: "sparc-videos-prod".to_owned(), replica: "sparc-videos-backup".to_owned() };
    assert_eq!(manifest.source, expected);
    // The late one, and the heartbeat that the copy has an older one of.
    assert_eq!((seen.checked, seen.valid, seen.wrong()), (14, 12, 2));
    let reasons: Vec<ObjectReason> = seen.findings.iter().map(|finding| finding.reason).collect();
    assert_eq!(reasons, [ObjectReason::Different, ObjectReason::NeverReplicated]);
    assert_eq!(seen.marker_behind_seconds, Some(7.0));
    assert_eq!((seen.measured, seen.trouble), (Some(Measured::default()), None), "S3 has written no metric yet");
    let cursor = platform.aws.evidence().get("backups/objects/sparc-videos-prod/cursor.json").await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&cursor.body).unwrap(), json!({"after": null}), "it came to the end");
}

async fn what_s3_measures_is_read_where_it_writes_it(platform: &Platform) {
    let put = async |region: &str, metric: &str, value: &str| {
        let moment = Timestamp::from_second(Timestamp::now().as_second()).unwrap().to_string();
        let datum = [
            ("Namespace", "AWS/S3"),
            ("MetricData.member.1.MetricName", metric),
            ("MetricData.member.1.Value", value),
            ("MetricData.member.1.Timestamp", &moment),
            ("MetricData.member.1.Dimensions.member.1.Name", "SourceBucket"),
            ("MetricData.member.1.Dimensions.member.1.Value", "sparc-videos-prod"),
            ("MetricData.member.1.Dimensions.member.2.Name", "DestinationBucket"),
            ("MetricData.member.1.Dimensions.member.2.Value", "sparc-videos-backup"),
            ("MetricData.member.1.Dimensions.member.3.Name", "RuleId"),
            ("MetricData.member.1.Dimensions.member.3.Value", "videos-to-the-secondary-region"),
        ];
        platform.site.account.aws.query("monitoring", region, "PutMetricData", &datum).await.unwrap();
    };
    put(SECONDARY, "ReplicationLatency", "12").await;
    put(SECONDARY, "BytesPendingReplication", "1048576").await;
    // Of the other region each: S3 writes neither there.
    put(PRIMARY, "ReplicationLatency", "100000").await;
    put(SECONDARY, "OperationsFailedReplication", "9").await;
    let due = |minute: u32| format!("2026-11-26T02:{minute}:00Z");
    let seen = platform.sample(&due(15)).await;
    let expected = Measured { latency_seconds: Some(12.0), bytes_pending: Some(1_048_576.0), ..Measured::default() };
    assert_eq!((seen.measured, seen.trouble), (Some(expected), None));

    put(PRIMARY, "OperationsFailedReplication", "2").await;
    let seen = platform.sample(&due(30)).await;
    assert_eq!(seen.trouble.as_deref(), Some("S3 gave 2 objects up"));
    put(SECONDARY, "ReplicationLatency", "1200").await;
    let late = Measured { latency_seconds: Some(1200.0), ..Measured::default() };
    assert!(late.wrong(Duration::from_secs(900)).unwrap().contains("1200 s behind, it may be 900 s"));
}

async fn images_are_compared_and_the_closure_is_listed(platform: &Platform) {
    platform.site.account.aws.forget_image("sparc/auth").await.unwrap();
    platform.take(Kind::Registry).await.unwrap();
    let (_, digests) = platform.value::<ImageDigests>(Kind::Registry, Content::ImageDigests).await;
    assert_eq!(
        (digests.comparison.missing + digests.comparison.on_their_way, digests.source.len()),
        (1, digests.copy.len() + 1)
    );

    platform.take(Kind::Closure).await.unwrap();
    let (_, closure) = platform.value::<Closure>(Kind::Closure, Content::RecoveryClosure).await;
    assert!(!closure.is_closed());
    let bundle = closure.items.iter().find(|item| item.need.kind == NeedKind::Bundle).unwrap();
    assert_ne!(bundle.found, recovery::closure::Found::Present, "nobody has uploaded it here");
    let key = closure.items.iter().find(|item| item.need.kind == NeedKind::Key).unwrap();
    assert_eq!(key.found, recovery::closure::Found::Present, "{key:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_database_is_backed_up_too() {
    let platform = platform().await;
    furnish(&platform.site.primary).await;
    the_cluster_is_taken_when_its_volumes_are_and_its_secrets_are_sealed(&platform).await;
    a_sample_of_objects_goes_on_where_the_last_one_ended(&platform).await;
    what_s3_measures_is_read_where_it_writes_it(&platform).await;
    images_are_compared_and_the_closure_is_listed(&platform).await;
}
