//! Late, wrong and repeated answers; the bundle lies in the lab's emulated AWS, the cluster follows a script.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use async_trait::async_trait;
use deploy_workloads::{Error, Request, deploy};
use jiff::Timestamp;
use lab::aws::{Aws as EmulatedAws, Seed};
use recovery::{
    cluster::{Applied, Bundle, ClusterError, Rollout, Workloads, Writer},
    fault::{Classified, Failure, Fault},
    plan::Plan,
    run::WorkloadRollout,
    store::Precondition,
};
use recovery_aws::Aws;
use serde::Deserialize;
use serde_yaml_ng::Value;

const BUNDLE: &str = include_str!("../../../bundles/disaster-recovery.yaml");

fn event(situation: &str) -> Request {
    let path = format!("{}/../../events/deploy-workloads/{situation}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn plan() -> Plan {
    Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap()
}

/// A cluster that takes everything; `stuck` Deployments do not come up.
#[derive(Default)]
struct Cluster {
    applied: Mutex<Vec<Bundle>>,
    stuck: Vec<&'static str>,
}

#[async_trait]
impl Workloads for Cluster {
    async fn writers(&self) -> Result<Vec<Writer>, ClusterError> {
        unreachable!("nobody asks for writers")
    }
    async fn stop_writers(&self, _epoch: u64) -> Result<Vec<Writer>, ClusterError> {
        unreachable!("nobody stops writers")
    }
    async fn restart_writers(&self, _epoch: u64) -> Result<Vec<Writer>, ClusterError> {
        unreachable!("nobody restarts writers")
    }
    async fn apply(&self, bundle: &Bundle) -> Result<Applied, ClusterError> {
        self.applied.lock().unwrap().push(bundle.clone());
        Ok(Applied::default())
    }
    async fn rollouts(&self, names: &[String]) -> Result<Vec<Rollout>, ClusterError> {
        let rollout = |name: &String| {
            let stuck = self.stuck.contains(&name.as_str());
            Rollout {
                name: name.clone(),
                desired: 4,
                available: if stuck { 1 } else { 4 },
                complete: !stuck,
                stuck: stuck.then(|| "ProgressDeadlineExceeded: no nodes".to_owned()),
            }
        };
        Ok(names.iter().map(rollout).collect())
    }
    async fn ready_nodes(&self, _node_group: &str) -> Result<u32, ClusterError> {
        unreachable!("nobody counts nodes")
    }
}

/// An evidence bucket with a bundle in it.
async fn bucket(bundle: Option<&str>) -> (EmulatedAws, Aws) {
    let emulated = EmulatedAws::start().await.unwrap();
    emulated.seed(&Seed::default()).await.unwrap();
    let aws = Aws::from_environment(&plan(), emulated.env()).await;
    match bundle {
        Some(bundle) => upload(&aws, bundle).await,
        None => aws.evidence().delete(&plan().kubernetes.bundle).await.unwrap(),
    }
    (emulated, aws)
}

async fn upload(aws: &Aws, bundle: &str) {
    let key = plan().kubernetes.bundle;
    aws.evidence().put(&key, "application/yaml", bundle.into(), Precondition::None).await.unwrap();
}

async fn deploy_to(cluster: &Cluster, aws: &Aws, request: Request) -> Result<WorkloadRollout, Error> {
    deploy(request, &plan(), aws.evidence().as_ref(), cluster, Timestamp::UNIX_EPOCH).await
}

#[test]
fn every_event_of_the_folder_is_a_request() {
    let folder = format!("{}/../../events/deploy-workloads", env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let request: Result<Request, _> = serde_json::from_slice(&std::fs::read(&path).unwrap());
        assert!(request.is_ok(), "{}: {:?}", path.display(), request.err());
        read += 1;
    }
    assert!(read > 0);
}

#[tokio::test]
async fn the_bundle_is_pointed_at_the_new_primary_with_the_counts_that_ran_before() {
    let (_emulated, aws) = bucket(Some(BUNDLE)).await;
    let cluster = Cluster::default();
    let rollout = deploy_to(&cluster, &aws, event("writers-remembered-by-the-fence")).await.unwrap();
    assert_eq!(rollout.rendered_at, Some("2026-11-23T02:45:00Z".parse().unwrap()));
    assert_eq!(rollout.rollouts.len(), 7);
    let images: Vec<&String> = rollout.images.iter().filter(|image| image.contains(".us-west-2.")).collect();
    assert_eq!(images.len(), 7, "{:?}", rollout.images);
    let applied = cluster.applied.lock().unwrap().pop().unwrap();
    assert!(applied.manifests.contains("host: \"replica.us-west-2.db.sparc.com\""));
    assert!(!applied.manifests.contains("${"), "a placeholder is left");
    let counts: Vec<(&str, u32)> = applied.replicas.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let expected = [
        ("analytics", 3),
        ("audit-logs", 2),
        ("auth", 6),
        ("core-apis", 14), // the fence knew best
        ("incidents", 7),  // the survey saw it
        ("live-video", 10),
        ("playback", 4),
    ];
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn rollouts_are_awaited_with_what_stops_them() {
    let (_emulated, aws) = bucket(Some(BUNDLE)).await;
    let cluster = Cluster { stuck: vec!["incidents"], ..Cluster::default() };
    let waiting = deploy_to(&cluster, &aws, event("primary-out-of-reach")).await.unwrap_err();
    assert_eq!(waiting.fault(), Fault::NotYet);
    let text = "6 of 7 rollouts are complete; waiting for `incidents` 1/4 (ProgressDeadlineExceeded: no nodes)";
    assert_eq!(waiting.to_string(), text);
}

#[tokio::test]
async fn nothing_is_applied_that_cannot_work_or_before_there_is_a_primary() {
    let lost = BUNDLE.replace(".dkr.ecr.${REGION}.", ".dkr.ecr.us-east-1.");
    let secret = BUNDLE.replace("value: sparc_auth", "value: \"postgres://app:hunter2@db/sparc_auth\"");
    let unknown = BUNDLE.replace("${DATABASE_PORT}", "${DATABASE_PROT}");
    let situations = [
        ("no bundle", None, Fault::Refused, "there is no bundle `s3://sparc-recovery-evidence/bundles/"),
        ("images of the lost region", Some(lost.as_str()), Fault::Refused, "of the region `us-east-1`, which is lost"),
        ("a password", Some(secret.as_str()), Fault::Refused, "Deployment/auth carries `PGDATABASE` in the clear"),
        ("an unknown placeholder", Some(unknown.as_str()), Fault::Permanent, "asks for `DATABASE_PROT`"),
    ];
    let (_emulated, aws) = bucket(None).await;
    for (situation, bundle, fault, text) in situations {
        if let Some(bundle) = bundle {
            upload(&aws, bundle).await;
        }
        let cluster = Cluster::default();
        let error = deploy_to(&cluster, &aws, event("primary-out-of-reach")).await.unwrap_err();
        let failure = Failure::from(&error);
        assert_eq!(failure.error_type, fault.error_type(), "{situation}: {failure}");
        assert!(failure.message.contains(text) && !failure.message.contains("hunter2"), "{situation}: {failure}");
        assert!(cluster.applied.lock().unwrap().is_empty(), "{situation}");
    }
    upload(&aws, BUNDLE).await;
    let mut early = event("primary-out-of-reach");
    early.run.promotion = None;
    let cluster = Cluster::default();
    assert_eq!(deploy_to(&cluster, &aws, early).await.unwrap_err().fault(), Fault::Refused);
    assert!(cluster.applied.lock().unwrap().is_empty());
}

#[test]
fn the_overlay_lets_customers_in_and_has_every_service_that_is_checked() {
    let documents: Vec<Value> =
        serde_yaml_ng::Deserializer::from_str(BUNDLE).map(|document| Value::deserialize(document).unwrap()).collect();
    let of = |kind: &str| -> Vec<&Value> { documents.iter().filter(|d| d["kind"].as_str() == Some(kind)).collect() };
    let names = |kind: &str| -> Vec<&str> { of(kind).iter().filter_map(|d| d["metadata"]["name"].as_str()).collect() };
    for check in plan().checks {
        for kind in ["Deployment", "Service", "PodDisruptionBudget"] {
            assert!(names(kind).contains(&check.service.as_str()), "no {kind}/{}", check.service);
        }
    }
    for service in of("Service") {
        assert!(service["spec"].get("sessionAffinity").is_none(), "customers are pinned to pods: {service:?}");
    }
    // Customers come through load balancers that keep their address: the rule that lets them in names no sender.
    let open = of("NetworkPolicy").into_iter().any(|policy| {
        policy["spec"]["podSelector"]["matchLabels"]["sparc.com/serves"].as_str() == Some("customers")
            && policy["spec"]["ingress"]
                .as_sequence()
                .is_some_and(|rules| rules.iter().any(|r| r.get("from").is_none()))
    });
    assert!(open, "a policy shuts customers out");
    for deployment in of("Deployment") {
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["sparc.com/serves"].as_str(), Some("customers"));
        for container in template["spec"]["containers"].as_sequence().unwrap() {
            assert!(container["image"].as_str().unwrap().contains("@sha256:"), "{container:?}");
            assert!(container.get("readinessProbe").is_some(), "{container:?}");
        }
    }
}
