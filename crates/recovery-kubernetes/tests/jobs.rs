//! Jobs on a real kube-apiserver, with the rights that the suite ships for whoever starts them: what they suffice for, what
//! they do not, and what there is to see of a Job that ended well, badly, or is there already.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use lab::kubernetes::{Cluster as LabCluster, Flavour, Image, NodeOptions, Options};
use recovery::fault::chain;
use recovery_aws::eks_token::{VALID_FOR, sign_eks_token};
use recovery_kubernetes::{Cluster, Connection, JobError, Limits, OnConflict, Token, TokenProvider};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

const CLUSTER: &str = "sparc-west";
const NAMESPACE: &str = "sparc-recovery";
const GROUP: &str = "sparc:backup-jobs";

async fn cluster() -> LabCluster {
    let lab = match LabCluster::start(Options { flavour: Flavour::Real, ..Options::new(CLUSTER) }).await {
        Ok(lab) => lab,
        Err(error) => panic!("{}; {}", chain(&error), error.remedy()),
    };
    for document in serde_yaml_ng::Deserializer::from_str(include_str!("../../../bundles/backup-job.yaml")) {
        let object = Value::deserialize(document).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = match object["kind"].as_str().unwrap() {
            "Namespace" => format!("/api/v1/namespaces/{name}"),
            "ServiceAccount" => format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}"),
            kind => {
                format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/{}s/{name}", kind.to_lowercase())
            }
        };
        lab.admin().apply(&path, "kubectl", &object).await.unwrap();
    }
    lab.admit_as("starter", "test", "nightly-backup", &[GROUP]);
    lab
}

/// The cluster as the role of the state machine sees it.
fn as_starter(lab: &LabCluster) -> Cluster {
    let connection = Connection {
        cluster: CLUSTER.to_owned(),
        endpoint: lab.endpoint().to_owned(),
        ca_pem: lab.ca_pem().to_owned(),
        namespace: NAMESPACE.to_owned(),
        writers: "sparc.example/writes=true".to_owned(),
        limits: Limits::default(),
        on_conflict: OnConflict::Refuse,
    };
    let tokens: Arc<dyn TokenProvider> = Arc::new(|| {
        let credentials = Credentials::new("starter", "test", None, None, "test");
        let token = sign_eks_token(&credentials, "us-west-2", CLUSTER, SystemTime::now())?;
        Ok(Token { secret: token.into_secret(), valid_for: Some(VALID_FOR) })
    });
    Cluster::new(connection, tokens)
}

fn job(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 1, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "registry/sh@sha256:00", "args": ["-c", script]}],
        }}},
    })
}

async fn ended(cluster: &Cluster, name: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let job = cluster.job(NAMESPACE, name).await.unwrap();
        if job["status"]["conditions"][0]["status"] == "True" {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_made_watched_and_read_with_the_rights_that_are_shipped() {
    let lab = cluster().await;
    let image = Image { name: "registry/sh".to_owned(), program: "/bin/sh".into(), env: Vec::new() };
    let _node = lab.run_jobs(NodeOptions { images: vec![image], scale: 0.01 }).await.unwrap();
    let cluster = as_starter(&lab);

    let made = cluster.create_job(NAMESPACE, &job("good", "echo one; echo two; echo three")).await.unwrap();
    assert_eq!(made["metadata"]["name"], "good");
    let again = cluster.create_job(NAMESPACE, &job("good", "true")).await.unwrap_err();
    let JobError::Refused { status: 409, body } = &again else { panic!("{again:?}") };
    assert_eq!((&body["kind"], &body["reason"]), (&json!("Status"), &json!("AlreadyExists")), "{body}");

    let good = ended(&cluster, "good").await;
    assert_eq!(
        (&good["status"]["conditions"][0]["type"], &good["status"]["succeeded"]),
        (&json!("Complete"), &json!(1))
    );
    let [pod] = cluster.pods_of_job(NAMESPACE, "good").await.unwrap().try_into().unwrap();
    let pod = pod["metadata"]["name"].as_str().unwrap();
    // The API server asks the node, as it asks a kubelet.
    let last = BTreeMap::from([("tailLines".to_owned(), vec!["2".to_owned()])]);
    assert_eq!(cluster.pod_log(NAMESPACE, pod, "main", &last).await.unwrap(), "two\nthree\n");
    assert_eq!(cluster.pod_log(NAMESPACE, pod, "main", &BTreeMap::new()).await.unwrap(), "one\ntwo\nthree\n");

    cluster.create_job(NAMESPACE, &job("bad", "echo no; exit 3")).await.unwrap();
    let bad = ended(&cluster, "bad").await;
    assert_eq!(bad["status"]["conditions"][0]["reason"], "BackoffLimitExceeded", "{bad}");
    assert_eq!(bad["status"]["failed"], 2, "one attempt and one more");
    assert_eq!(cluster.pods_of_job(NAMESPACE, "bad").await.unwrap().len(), 2);

    let missing = cluster.job(NAMESPACE, "never").await.unwrap_err();
    assert!(matches!(missing, JobError::Refused { status: 404, .. }), "{missing:?}");
    let elsewhere = cluster.create_job("default", &job("good", "true")).await.unwrap_err();
    assert!(matches!(elsewhere, JobError::Refused { status: 403, .. }), "{elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_is_asked_to_end_and_its_job_goes_on() {
    let lab = cluster().await;
    let image = Image { name: "registry/sh".to_owned(), program: "/bin/sh".into(), env: Vec::new() };
    let node = lab.run_jobs(NodeOptions { images: vec![image], scale: 0.01 }).await.unwrap();
    let cluster = as_starter(&lab);
    // The first pod waits to be asked, the next one finds that it was.
    let folder = tempfile::tempdir().unwrap();
    let (mark, ready) = (folder.path().join("asked"), folder.path().join("ready"));
    let (asked, listens) = (mark.display(), ready.display());
    let script = format!(
        "test -e {asked} && exit 0; trap 'touch {asked}; exit 1' TERM; touch {listens}; while :; do sleep 0.05; done"
    );
    cluster.create_job(NAMESPACE, &job("evicted", &script)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready.exists() {
        assert!(Instant::now() < deadline, "its pod runs and listens");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pod = node.running().remove(0);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}");
    let (status, answer) = lab.admin().ask(Method::DELETE, &path, "", None).await.unwrap();
    assert!((200..300).contains(&status), "{answer}");
    let job = ended(&cluster, "evicted").await;
    assert_eq!(job["status"]["conditions"][0]["type"], "Complete", "{job}");
    assert!(folder.path().join("asked").exists(), "it was asked to end before it was ended");
}

/// What the API server itself says that the group may, right by right.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_jobs_may_do_that_and_nothing_else() {
    let lab = cluster().await;
    let may = async |verb: &str, group: &str, resource: &str, namespace: &str| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": "nightly-backup", "groups": [GROUP], "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace,
            }},
        });
        let judged = lab.admin().create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.unwrap();
        judged["status"]["allowed"].as_bool().unwrap()
    };
    for (verb, group, resource) in [
        ("create", "batch", "jobs"),
        ("get", "batch", "jobs"),
        ("list", "batch", "jobs"),
        ("get", "", "pods"),
        ("list", "", "pods"),
        ("get", "", "pods/log"),
    ] {
        assert!(may(verb, group, resource, NAMESPACE).await, "{verb} {resource}");
        for elsewhere in ["default", "kube-system", "sparc", ""] {
            assert!(!may(verb, group, resource, elsewhere).await, "{verb} {resource} in `{elsewhere}`");
        }
    }
    for (verb, group, resource) in [
        ("delete", "batch", "jobs"),
        ("patch", "batch", "jobs"),
        ("update", "batch", "jobs"),
        ("update", "batch", "jobs/status"),
        ("create", "batch", "cronjobs"),
        ("create", "", "pods"),
        ("delete", "", "pods"),
        ("create", "", "pods/exec"),
        ("create", "", "pods/portforward"),
        ("create", "", "pods/ephemeralcontainers"),
        ("get", "", "secrets"),
        ("list", "", "secrets"),
        ("get", "", "configmaps"),
        ("patch", "", "configmaps"),
        ("get", "", "serviceaccounts"),
        ("create", "", "serviceaccounts/token"),
        ("impersonate", "", "serviceaccounts"),
        ("bind", "rbac.authorization.k8s.io", "roles"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("create", "apps", "deployments"),
    ] {
        assert!(!may(verb, group, resource, NAMESPACE).await, "{verb} {resource}");
    }
}
