//! The export of a cluster's state, on a real kube-apiserver: what is taken, what is sealed, what is left out and said, and
//! that another cluster takes all of it. Keys are those of the emulated AWS.
//!
//! There is no CSI driver here: where a volume is snapshotted, the test plays the snapshot controller.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use lab::aws::Aws as EmulatedAws;
use lab::kubernetes::{Cluster as LabCluster, Flavour, Options};
use recovery::backup::BackupId;
use recovery::closure::{ClusterObjects, Reference};
use recovery::cluster_state::{
    ClusterState, ExportError, ExportIdentity, ExportSummary, Selection, VolumeSelection, VolumeSnapshot,
};
use recovery::envelope::DataKeys;
use recovery::fault::{Classified, Fault, chain};
use recovery::plan::Plan;
use recovery_aws::Aws;
use recovery_aws::eks_token::{VALID_FOR, sign_eks_token};
use recovery_export::{Entry, ExportReader};
use recovery_kubernetes::{Cluster, Connection, Limits, OnConflict, Token, TokenProvider};
use serde::Deserialize;
use serde_json::{Value, json};

const CLUSTER: &str = "sparc-east";
const SECRET: &str = "correct horse battery staple";
const LITERAL: &str = "hunter2-in-the-environment";

struct Stage {
    lab: LabCluster,
}

impl Stage {
    async fn start() -> Stage {
        let options = Options { flavour: Flavour::Real, region: "us-east-1".to_owned(), ..Options::new(CLUSTER) };
        match LabCluster::start(options).await {
            Ok(lab) => Stage { lab },
            Err(error) => panic!("{}; {}", chain(&error), error.remedy()),
        }
    }

    /// The cluster as somebody with this access key sees it.
    fn seen_by(&self, access_key_id: &'static str) -> Cluster {
        let connection = Connection {
            cluster: CLUSTER.to_owned(),
            endpoint: self.lab.endpoint().to_owned(),
            ca_pem: self.lab.ca_pem().to_owned(),
            namespace: "sparc".to_owned(),
            writers: "sparc.example/writes=true".to_owned(),
            limits: Limits::default(),
            on_conflict: OnConflict::Refuse,
        };
        let tokens: Arc<dyn TokenProvider> = Arc::new(move || {
            let credentials = Credentials::new(access_key_id, "test", None, None, "test");
            let token = sign_eks_token(&credentials, "us-east-1", CLUSTER, SystemTime::now())?;
            Ok(Token { secret: token.into_secret(), valid_for: Some(VALID_FOR) })
        });
        Cluster::new(connection, tokens)
    }

    /// The backup role, with the rights that the suite ships for it and no others.
    async fn as_backup(&self) -> Cluster {
        for document in serde_yaml_ng::Deserializer::from_str(include_str!("../../../bundles/backup-rights.yaml")) {
            self.apply(&Value::deserialize(document).unwrap()).await;
        }
        self.lab.admit_as("backup", "test", "sparc-backup", &["sparc:backup"]);
        self.seen_by("backup")
    }

    /// Applies an object the way a restore will, by the server's own merge.
    async fn apply(&self, object: &Value) {
        let path = self.path(object).await;
        self.lab.admin().apply(&path, "restore", object).await.unwrap();
    }

    /// Where an object lives, as the server itself says of its kind.
    async fn path(&self, object: &Value) -> String {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let served = self.lab.admin().get(&root).await.unwrap().unwrap();
        let resource = served["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["kind"] == kind && !one["name"].as_str().unwrap().contains('/'));
        let plural = resource.unwrap_or_else(|| panic!("{version} {kind} is not served"))["name"].as_str().unwrap();
        match text("/metadata/namespace") {
            "" => format!("{root}/{plural}/{}", text("/metadata/name")),
            namespace => format!("{root}/namespaces/{namespace}/{plural}/{}", text("/metadata/name")),
        }
    }

    async fn wait_for_kind(&self, path: &str) {
        for _ in 0..200 {
            if self.lab.admin().get(path).await.unwrap().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} is never served");
    }
}

async fn keys() -> (EmulatedAws, impl DataKeys) {
    let emulated = EmulatedAws::start().await.unwrap();
    let arn = emulated.make_key().await.unwrap();
    let plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    let key = aws.keys(&plan.regions.tertiary).key(&arn);
    (emulated, key)
}

fn identity(subject: &str) -> ExportIdentity {
    let began_at = "2026-01-02T03:04:05Z".parse().unwrap();
    let backup = BackupId::new(recovery::backup::Kind::Cluster, subject, began_at).unwrap();
    ExportIdentity { platform: "sparc".to_owned(), backup, began_at }
}

fn of(namespaces: &[&str]) -> Selection {
    let namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
    Selection { namespaces, ..Selection::default() }
}

fn widget_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.sparc.example"},
        "spec": {"group": "sparc.example", "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    })
}

/// A platform of every sort of object that is treated in a way of its own.
async fn furnish(stage: &Stage) {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let meta = |name: &str| json!({"name": name, "namespace": "sparc"});
    let mut remembered = meta("database");
    // What `kubectl apply` writes down, secret and all.
    remembered["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration":
        json!({"kind": "Secret", "stringData": {"password": SECRET}}).to_string()});
    stage.apply(&widget_definition()).await;
    stage.wait_for_kind("/apis/sparc.example/v1").await;
    // Debian's server has it in the older version alone.
    let batch = stage.lab.admin().get("/apis/batch/v1").await.unwrap().unwrap();
    let batch = if batch.to_string().contains("\"cronjobs\"") { "batch/v1" } else { "batch/v1beta1" };
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": remembered, "type": "Opaque", "data": {"password": encoded}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("web"), "type": "Opaque", "stringData": {"key": "another"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("settings"), "data": {"host": "db.east"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": "other"}, "data": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own", "namespace": "kube-public"}, "data": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("worker")}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta("reader"),
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("core-apis"),
            "spec": {"selector": {"app": "core-apis"}, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta("core-apis"),
            "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta("data"),
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "gp3", "resources": {"requests": {"storage": "8Gi"}}}}),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "gp3"}, "provisioner": "ebs.csi.aws.com"}),
        json!({"apiVersion": "sparc.example/v1", "kind": "Widget", "metadata": meta("w"), "spec": {"size": 3}}),
        json!({"apiVersion": batch, "kind": "CronJob", "metadata": meta("nightly"), "spec": {"schedule": "0 2 * * *",
            "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}}}}}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("core-apis"),
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "core-apis"}},
                "template": {"metadata": {"labels": {"app": "core-apis"}}, "spec": {"containers": [{"name": "main", "image": "core:1"}]}}}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("careless"),
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "careless"}},
                "template": {"metadata": {"labels": {"app": "careless"}}, "spec": {"containers": [
                    {"name": "main", "image": "core:1", "env": [{"name": "DB_PASSWORD", "value": LITERAL}]}]}}}}),
    ];
    for object in &objects {
        stage.apply(object).await;
    }
    let admin = stage.lab.admin();
    admin
        .merge("/apis/sparc.example/v1/namespaces/sparc/widgets/w/status", &json!({"status": {"phase": "Up"}}))
        .await
        .unwrap();
    // More than a page.
    for n in 0..45 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(&format!("many-{n:02}")), "data": {"n": n.to_string()}});
        admin.create("/api/v1/namespaces/sparc/configmaps", &object).await.unwrap();
    }
    // The lab's controller makes pods, which come back by themselves.
    for _ in 0..200 {
        if admin.list("/api/v1/namespaces/sparc/pods", "").await.unwrap().len() >= 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the Deployment never has pods");
}

async fn export(cluster: &Cluster, selection: &Selection, keys: &dyn DataKeys) -> (Vec<u8>, ExportSummary) {
    let mut bytes = Vec::new();
    let summary = cluster.export(&identity(CLUSTER), selection, keys, &mut bytes).await.unwrap();
    (bytes, summary)
}

async fn read(bytes: &[u8], keys: &dyn DataKeys) -> Result<Vec<Entry>, ExportError> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut reader = ExportReader::begin(lines.next().unwrap())?;
    let plain = keys.unwrap(&reader.header().key).await.map_err(ExportError::Key)?;
    reader.unlock(&plain)?;
    let mut entries = Vec::new();
    for line in lines {
        entries.extend(reader.line(line)?);
    }
    reader.finish()?;
    Ok(entries)
}

fn labels(entries: &[Entry]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry.name.label()).collect()
}

fn find<'a>(entries: &'a [Entry], label: &str) -> &'a Entry {
    entries.iter().find(|entry| entry.name.label() == label).unwrap_or_else(|| panic!("{label} is not in {entries:#?}"))
}

async fn without_its_rights_there_is_no_export(stage: &Stage, keys: &dyn DataKeys) {
    let mut bytes = Vec::new();
    let as_recovery = stage.seen_by("test");
    let refused = as_recovery.export(&identity(CLUSTER), &of(&["sparc"]), keys, &mut bytes).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Refused);
    assert!(chain(&refused).contains("cannot list resource"), "{}", chain(&refused));
    assert!(!String::from_utf8_lossy(&bytes).contains("\"end\""), "what was written before is no export");
}

async fn a_namespace_is_exported_whole_in_order_and_its_secrets_are_nowhere_in_the_clear(
    cluster: &Cluster,
    keys: &dyn DataKeys,
) {
    let (bytes, summary) = export(cluster, &of(&["sparc"]), keys).await;
    use base64::Engine;
    let text = String::from_utf8(bytes.clone()).unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    for secret in [SECRET, &encoded, LITERAL] {
        assert!(!text.contains(secret), "`{secret}` stands in the export");
    }
    let entries = read(&bytes, keys).await.unwrap();
    let held = labels(&entries);
    for expected in [
        "Namespace/sparc",
        "CustomResourceDefinition/widgets.sparc.example",
        "StorageClass/gp3",
        "Secret/sparc/database",
        "ConfigMap/sparc/settings",
        "ConfigMap/sparc/many-44",
        "ServiceAccount/sparc/worker",
        "Role/sparc/reader",
        "Service/sparc/core-apis",
        "PersistentVolumeClaim/sparc/data",
        "Widget/sparc/w",
        "CronJob/sparc/nightly",
        "Deployment/sparc/core-apis",
        "ClusterRole/sparc-backup",
    ] {
        assert!(held.contains(expected), "{expected} is missing from {held:#?}");
    }
    let unwanted = |label: &&String| {
        [
            "/other/",
            "/kube-public/",
            "/kube-system/",
            "Pod/",
            "Event/",
            "Lease/",
            "Node/",
            "Endpoints/",
            "ClusterRole/system:",
            "ClusterRole/admin",
        ]
        .iter()
        .any(|part| label.contains(part))
            || *label == "Namespace/other"
    };
    assert_eq!(held.iter().find(unwanted), None);
    assert_eq!(held.len(), entries.len(), "an object is in it twice");

    let secret = find(&entries, "Secret/sparc/database");
    assert!(secret.sealed);
    assert_eq!(secret.object.as_ref().unwrap()["data"]["password"], encoded);
    assert!(find(&entries, "Deployment/sparc/careless").sealed);
    assert!(!find(&entries, "Deployment/sparc/core-apis").sealed);
    assert_eq!(
        summary.suspicious,
        ["Deployment/sparc/careless at .spec.template.spec.containers[0].env[0].DB_PASSWORD"]
    );
    let service = find(&entries, "Service/sparc/core-apis").object.as_ref().unwrap();
    assert!(service["spec"]["clusterIP"].is_null() && service["spec"]["clusterIPs"].is_null(), "{service}");
    let widget = find(&entries, "Widget/sparc/w").object.as_ref().unwrap();
    assert_eq!((&widget["spec"]["size"], &widget["status"]), (&json!(3), &Value::Null));
    for entry in &entries {
        let metadata = &entry.object.as_ref().unwrap()["metadata"];
        for field in ["uid", "resourceVersion", "managedFields", "creationTimestamp", "ownerReferences"] {
            assert!(metadata[field].is_null(), "{} has a {field}", entry.name.label());
        }
    }

    assert_eq!(summary.found, summary.exported + summary.left_out.values().sum::<u64>(), "{summary:#?}");
    assert_eq!(summary.exported, entries.len() as u64);
    assert_eq!(summary.counts["v1/ConfigMap"], 46);
    assert!(summary.left_out["made by its owner"] >= 3, "pods and endpoints: {summary:#?}");
    assert_eq!(summary.not_listed["events"], "the server makes it");
}

async fn everything_leaves_out_what_is_of_kubernetes_itself(cluster: &Cluster, keys: &dyn DataKeys) {
    let everything = Selection { exclude: vec!["*.sparc.example".to_owned()], ..Selection::default() };
    let (bytes, summary) = export(cluster, &everything, keys).await;
    let held = labels(&read(&bytes, keys).await.unwrap());
    assert!(held.contains("ConfigMap/other/theirs") && held.contains("Secret/sparc/database"));
    assert!(!held.contains("ConfigMap/kube-public/own") && !held.contains("Widget/sparc/w"));
    assert!(
        held.contains("CustomResourceDefinition/widgets.sparc.example"),
        "the group is left out, not its definition"
    );
    assert_eq!(summary.not_listed["*.sparc.example"], "the plan leaves it out");

    let sealed = Selection { seal: vec!["configmaps".to_owned()], cluster_resources: false, ..of(&["other"]) };
    let (bytes, summary) = export(cluster, &sealed, keys).await;
    assert!(!String::from_utf8(bytes).unwrap().contains("StorageClass"));
    assert_eq!(summary.sealed, summary.counts["v1/ConfigMap"]);

    let mut nothing = Vec::new();
    let missing = cluster.export(&identity(CLUSTER), &of(&["nowhere"]), keys, &mut nothing).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "the plan's selection names the namespace `nowhere`, which cluster `sparc-east` does not have"
    );
    assert!(nothing.is_empty());
}

async fn a_group_that_does_not_answer_is_no_empty_one(stage: &Stage, cluster: &Cluster, keys: &dyn DataKeys) {
    let path = "/apis/apiregistration.k8s.io/v1/apiservices";
    let down = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.down.example"},
        "spec": {"group": "down.example", "version": "v1", "insecureSkipTLSVerify": true, "groupPriorityMinimum": 100,
            "versionPriority": 100, "service": {"name": "nobody", "namespace": "sparc"}}});
    stage.lab.admin().create(path, &down).await.unwrap();
    let everything_but = |exclude: &[&str]| {
        let exclude = exclude.iter().map(|&group| group.to_owned()).collect();
        Selection { exclude, ..of(&["sparc"]) }
    };
    let mut looks = 0;
    let error = loop {
        // The server needs a moment to list the group.
        match cluster.export(&identity(CLUSTER), &everything_but(&[]), keys, &mut Vec::new()).await {
            Err(error) => break error,
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        looks += 1;
        assert!(looks < 100, "a group that is down was passed over");
    };
    assert_eq!(error.fault(), Fault::Transient, "{}", chain(&error));
    assert!(chain(&error).contains("asking which resources `down.example/v1` has"), "{}", chain(&error));

    let (_, summary) = export(cluster, &everything_but(&["*.down.example"]), keys).await;
    assert_eq!(summary.not_listed["*.down.example"], "the plan leaves it out");
    stage.lab.admin().delete(&format!("{path}/v1.down.example")).await.unwrap();
}

async fn what_was_changed_is_found(cluster: &Cluster, keys: &dyn DataKeys) {
    let (bytes, _) = export(cluster, &of(&["sparc"]), keys).await;
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = |part: &str| lines.iter().position(|line| line.contains(part)).unwrap();
    let without = |n: usize| -> String {
        let kept = lines.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, line)| *line);
        kept.collect::<Vec<_>>().join("\n")
    };
    let swapped = |a: &str, b: &str| text.replace(a, "\"name\":\"?\"").replace(b, a).replace("\"name\":\"?\"", b);
    let moved = |from: usize, to: usize| {
        let mut lines = lines.clone();
        let line = lines.remove(from);
        lines.insert(to, line);
        lines
    };
    let flipped = {
        let from = text.find("\"sealed\":\"").unwrap() + 30;
        let other = if &text[from..=from] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &text[..from], &text[from + 1..])
    };
    let situations: Vec<(&str, String, &str)> = vec![
        ("cut off", lines[..lines.len() - 1].join("\n"), "it breaks off: there is no end"),
        ("an object taken out", without(at("many-07")), "its end counts"),
        ("one bit of a secret", flipped, "was sealed under another key or in another place, or has been changed"),
        (
            "two secrets swapped",
            swapped("\"name\":\"database\"", "\"name\":\"web\""),
            "was sealed under another key or in another place, or has been changed",
        ),
        (
            "a definition after what it defines",
            moved(at("\"CustomResourceDefinition\""), at("\"Widget\"") + 1).join("\n"),
            "stands after what needs it",
        ),
        ("half a line", text.replacen("\"object\"", "\"obj\"", 1), "it is not of the form"),
    ];
    for (situation, changed, expected) in situations {
        let error = read(changed.as_bytes(), keys).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{situation}: {error}");
        assert_eq!(error.fault(), Fault::Permanent, "{situation}");
    }
    let other = text.replacen("\"purpose\":\"cluster-state\"", "\"purpose\":\"something\"", 1);
    assert!(matches!(read(other.as_bytes(), keys).await.unwrap_err(), ExportError::Key(_)), "another context");
}

async fn another_cluster_takes_all_of_it(cluster: &Cluster, keys: &dyn DataKeys) {
    let (bytes, _) = export(cluster, &of(&["sparc"]), keys).await;
    let entries = read(&bytes, keys).await.unwrap();
    let restored = Stage::start().await;
    let again = restored.as_backup().await;
    for entry in &entries {
        restored.apply(entry.object.as_ref().unwrap()).await;
        if entry.name.kind == "CustomResourceDefinition" {
            restored.wait_for_kind("/apis/sparc.example/v1").await;
        }
    }
    let (bytes, _) = export(&again, &of(&["sparc"]), keys).await;
    let by_label = |entries: &[Entry]| -> BTreeMap<String, Value> {
        let objects = entries.iter().map(|entry| (entry.name.label(), entry.object.clone().unwrap()));
        objects.collect()
    };
    let (before, after) = (by_label(&entries), by_label(&read(&bytes, keys).await.unwrap()));
    for (label, object) in &before {
        assert_eq!(after.get(label), Some(object), "{label}");
    }
    assert_eq!(
        before.len(),
        after.len(),
        "{:?}",
        after.keys().filter(|label| !before.contains_key(*label)).collect::<Vec<_>>()
    );
}

async fn a_volume_is_snapshotted_once_and_waited_for(stage: &Stage, cluster: &Cluster) {
    let backup = identity(CLUSTER).backup;
    let volume =
        VolumeSelection { namespace: "sparc".to_owned(), claim: "data".to_owned(), class: Some("ebs".to_owned()) };
    let unknown = cluster.snapshot_volume(&volume, &backup).await.unwrap_err();
    assert!(chain(&unknown).contains("snapshot.storage.k8s.io/v1/VolumeSnapshot"), "{}", chain(&unknown));

    for (kind, plural, scope) in [
        ("VolumeSnapshot", "volumesnapshots", "Namespaced"),
        ("VolumeSnapshotContent", "volumesnapshotcontents", "Cluster"),
    ] {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.snapshot.storage.k8s.io"),
                // The server keeps groups under k8s.io for those who have had their API reviewed.
                "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter/pull/665"}},
            "spec": {"group": "snapshot.storage.k8s.io", "scope": scope,
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
        });
        stage.apply(&definition).await;
        let path = match scope {
            "Cluster" => format!("/apis/snapshot.storage.k8s.io/v1/{plural}"),
            _ => format!("/apis/snapshot.storage.k8s.io/v1/namespaces/sparc/{plural}"),
        };
        stage.wait_for_kind(&path).await;
    }
    let first = cluster.snapshot_volume(&volume, &backup).await.unwrap();
    assert_eq!((first.snapshot.as_str(), first.ready), ("data-20260102-030405", false));
    assert_eq!(
        cluster.snapshot_volume(&volume, &backup).await.unwrap(),
        first,
        "a repeated call asks for the same one"
    );
    let admin = stage.lab.admin();
    let all = "/apis/snapshot.storage.k8s.io/v1/namespaces/sparc/volumesnapshots";
    let asked = admin.list(all, "").await.unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0]["spec"],
        json!({"source": {"persistentVolumeClaimName": "data"}, "volumeSnapshotClassName": "ebs"})
    );
    assert_eq!(asked[0]["metadata"]["annotations"]["recovery.sparc/backup"], "cluster/sparc-east/20260102T030405Z");

    // From here on the test is the snapshot controller and its driver.
    let status = format!("{all}/data-20260102-030405/status");
    admin
        .merge(&status, &json!({"status": {"readyToUse": false, "error": {"message": "the volume is busy"}}}))
        .await
        .unwrap();
    let waiting = cluster.snapshot_volume(&volume, &backup).await.unwrap();
    assert_eq!((waiting.ready, waiting.trouble.as_deref()), (false, Some("the volume is busy")));
    let content = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": "content-1"},
        "spec": {"deletionPolicy": "Delete", "driver": "ebs.csi.aws.com"}});
    stage.apply(&content).await;
    let handle = json!({"status": {"snapshotHandle": "snap-0123456789abcdef0", "readyToUse": true}});
    admin.merge("/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/content-1/status", &handle).await.unwrap();
    let taken = json!({"status": {"readyToUse": true, "error": null, "boundVolumeSnapshotContentName": "content-1",
        "creationTime": "2026-01-02T03:05:00Z", "restoreSize": "8Gi"}});
    admin.merge(&status, &taken).await.unwrap();
    let ready = cluster.snapshot_volume(&volume, &backup).await.unwrap();
    let expected = VolumeSnapshot {
        namespace: "sparc".to_owned(),
        claim: "data".to_owned(),
        snapshot: "data-20260102-030405".to_owned(),
        ready: true,
        taken_at: Some("2026-01-02T03:05:00Z".parse().unwrap()),
        restore_size: Some("8Gi".to_owned()),
        handle: Some("snap-0123456789abcdef0".to_owned()),
        driver: Some("ebs.csi.aws.com".to_owned()),
        goes_with_its_object: Some(true),
        trouble: None,
    };
    assert_eq!(ready, expected);

    let nothing = VolumeSelection { claim: "nothing".to_owned(), ..volume };
    let missing = cluster.snapshot_volume(&nothing, &backup).await.unwrap_err();
    assert!(missing.to_string().contains("the claim `nothing` in the namespace `sparc`"), "{missing}");
    assert_eq!(admin.list(all, "").await.unwrap().len(), 1, "nothing is asked for a claim that is not there");
}

async fn what_stands_in_the_cluster_is_said_by_its_metadata_alone(cluster: &Cluster) {
    let secret = |name: &str, namespace: Option<&str>| Reference {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    assert!(cluster.holds(&secret("database", Some("sparc"))).await.unwrap());
    assert!(!cluster.holds(&secret("database", Some("other"))).await.unwrap());
    let class = Reference {
        api_version: "storage.k8s.io/v1".to_owned(),
        kind: "StorageClass".to_owned(),
        ..secret("gp3", None)
    };
    assert!(cluster.holds(&class).await.unwrap());
    assert!(!cluster.holds(&Reference { kind: "Nothing".to_owned(), ..class }).await.unwrap());
    assert!(cluster.serves("sparc.example/v1/Widget").await.unwrap());
    assert!(!cluster.serves("sparc.example/v2/Widget").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_clusters_state_is_taken_sealed_read_back_and_restored() {
    let (stage, (_emulated, keys)) = tokio::join!(Stage::start(), keys());
    assert!(stage.lab.kind().starts_with("real kube-apiserver v1."), "{}", stage.lab.kind());
    furnish(&stage).await;
    without_its_rights_there_is_no_export(&stage, &keys).await;
    let cluster = stage.as_backup().await;
    a_namespace_is_exported_whole_in_order_and_its_secrets_are_nowhere_in_the_clear(&cluster, &keys).await;
    everything_leaves_out_what_is_of_kubernetes_itself(&cluster, &keys).await;
    a_group_that_does_not_answer_is_no_empty_one(&stage, &cluster, &keys).await;
    what_was_changed_is_found(&cluster, &keys).await;
    what_stands_in_the_cluster_is_said_by_its_metadata_alone(&cluster).await;
    another_cluster_takes_all_of_it(&cluster, &keys).await;
    a_volume_is_snapshotted_once_and_waited_for(&stage, &cluster).await;
}
