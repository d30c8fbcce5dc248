//! What the adapter promises, on a real kube-apiserver and on the lab's small API: one suite, so that the small one can be
//! trusted in a drill.
//!
//! Each situation has a namespace of its own. A real server takes seconds to start, so one test walks through all
//! situations on one server; on the small API each is a test by itself.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use lab::kubernetes::{Cluster as LabCluster, Flavour, Kubelet, Options, Stuck, Verdict, Workload};
use recovery::cluster::{Applied, Bundle, Rollout, Workloads, Writer};
use recovery::fault::{Classified, Fault};
use recovery_aws::eks_token::{VALID_FOR, sign_eks_token};
use recovery_kubernetes::{Cluster, Connection, Error, Limits, OnConflict, REPLICAS_BEFORE, Token, TokenProvider};
use serde_json::json;

const CLUSTER: &str = "sparc-west";

/// Decides by the tag of the image, and keeps what it was told.
#[derive(Default)]
struct ByTag(Mutex<Vec<Workload>>);

#[async_trait]
impl Kubelet for ByTag {
    async fn run(&self, workload: &Workload) -> Verdict {
        let mut told = self.0.lock().unwrap();
        if told.last() != Some(workload) {
            told.push(workload.clone());
        }
        match workload.image.rsplit(':').next() {
            Some("missing") => Verdict::Stuck(Stuck::ImagePull("not found in the registry".to_owned())),
            Some("heavy") => {
                Verdict::Stuck(Stuck::Unschedulable("0/2 nodes are available: 2 Insufficient cpu.".to_owned()))
            }
            Some("late") => Verdict::Stuck(Stuck::DeadlineExceeded),
            _ => Verdict::Running,
        }
    }
}

struct Stage {
    lab: LabCluster,
    told: Arc<ByTag>,
}

impl Stage {
    async fn start(flavour: Flavour) -> Self {
        let told = Arc::new(ByTag::default());
        let options = Options { flavour, kubelet: told.clone(), ..Options::new(CLUSTER) };
        match LabCluster::start(options).await {
            Ok(lab) => Stage { lab, told },
            Err(error) => panic!("{}; {}", recovery::fault::chain(&error), error.remedy()),
        }
    }

    /// A namespace of its own for a situation, and the adapter on it.
    async fn namespace(&self, name: &str) -> Cluster {
        self.lab.add_namespace(name).await.unwrap();
        self.adapter(name, OnConflict::Refuse)
    }

    fn connection(&self, namespace: &str, on_conflict: OnConflict) -> Connection {
        Connection {
            cluster: CLUSTER.to_owned(),
            endpoint: self.lab.endpoint().to_owned(),
            ca_pem: self.lab.ca_pem().to_owned(),
            namespace: namespace.to_owned(),
            writers: "sparc.example/writes=true".to_owned(),
            limits: Limits::default(),
            on_conflict,
        }
    }

    fn adapter(&self, namespace: &str, on_conflict: OnConflict) -> Cluster {
        Cluster::new(self.connection(namespace, on_conflict), token_for("us-west-2", CLUSTER))
    }

    fn deployment_path(namespace: &str, name: &str) -> String {
        format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    }

    async fn replicas(&self, namespace: &str, name: &str) -> u64 {
        let found = self.lab.admin().get(&Self::deployment_path(namespace, name)).await.unwrap().unwrap();
        found["spec"]["replicas"].as_u64().unwrap()
    }
}

fn token_for(region: &'static str, cluster: &'static str) -> Arc<dyn TokenProvider> {
    Arc::new(move || {
        let credentials = Credentials::new("test", "test", None, None, "test");
        let token = sign_eks_token(&credentials, region, cluster, SystemTime::now())?;
        Ok(Token { secret: token.into_secret(), valid_for: Some(VALID_FOR) })
    })
}

fn deployment(name: &str, image: &str, replicas: Option<u32>) -> String {
    let replicas = replicas.map(|replicas| format!("  replicas: {replicas}\n")).unwrap_or_default();
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {name}\n  labels: {{sparc.example/writes: 'true'}}\nspec:\n{replicas}  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         containers:\n      - name: main\n        image: {image}\n        env:\n        - {{name: DATABASE_HOST, valueFrom: \
         {{configMapKeyRef: {{name: database, key: host}}}}}}\n"
    )
}

fn config(host: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: database}}\ndata: {{host: {host}}}\n")
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: core-apis}\nspec:\n  selector: {app: core-apis}\n  ports: [{name: http, port: 80, protocol: TCP, targetPort: 8080}]\n";

fn bundle(documents: &[String]) -> Bundle {
    Bundle { manifests: documents.join("---\n"), replicas: BTreeMap::new() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

async fn eventually(cluster: &Cluster, name: &str, wanted: impl Fn(&Rollout) -> bool) -> Rollout {
    let mut last = None;
    for _ in 0..200 {
        let rollout = cluster.rollouts(&names(&[name])).await.unwrap().remove(0);
        if wanted(&rollout) {
            return rollout;
        }
        last = Some(rollout);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the rollout never came there; it is {last:?}");
}

async fn a_bundle_applied_twice_changes_nothing_the_second_time(stage: &Stage) {
    let cluster = stage.namespace("twice").await;
    let bundle = bundle(&[deployment("core-apis", "core:1", Some(3)), SERVICE.to_owned(), config("db.west")]);
    let first = cluster.apply(&bundle).await.unwrap();
    let in_order = names(&["ConfigMap/database", "Service/core-apis", "Deployment/core-apis"]);
    assert_eq!(first, Applied { created: in_order.clone(), ..Applied::default() });
    assert_eq!(stage.replicas("twice", "core-apis").await, 3, "the manifest's count, through the scale subresource");
    eventually(&cluster, "core-apis", |rollout| rollout.complete).await;

    let second = cluster.apply(&bundle).await.unwrap();
    assert_eq!(second, Applied { unchanged: in_order, ..Applied::default() });
}

async fn a_changed_address_reaches_the_workload_and_nothing_else_moves(stage: &Stage) {
    let cluster = stage.namespace("moved").await;
    let before = bundle(&[config("db.east"), SERVICE.to_owned(), deployment("core-apis", "core:1", None)]);
    cluster.apply(&before).await.unwrap();
    let after = bundle(&[config("db.west"), SERVICE.to_owned(), deployment("core-apis", "core:2", None)]);
    let applied = cluster.apply(&after).await.unwrap();
    assert_eq!(applied.changed, ["ConfigMap/database", "Deployment/core-apis"]);
    assert_eq!(applied.unchanged, ["Service/core-apis"]);
    eventually(&cluster, "core-apis", |rollout| rollout.complete).await;
    let told = stage.told.0.lock().unwrap();
    let last = told.iter().rfind(|workload| workload.namespace == "moved").unwrap();
    assert_eq!((last.image.as_str(), last.env["DATABASE_HOST"].as_str()), ("core:2", "db.west"));
}

async fn another_managers_field_is_named_and_nothing_is_applied(stage: &Stage) {
    let cluster = stage.namespace("conflict").await;
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "core-apis"},
        "spec": {
            "selector": {"matchLabels": {"app": "core-apis"}},
            "template": {"metadata": {"labels": {"app": "core-apis"}}, "spec": {"containers": [{"name": "main", "image": "core:1"}]}},
        },
    });
    let path = Stage::deployment_path("conflict", "core-apis");
    stage.lab.admin().apply(&path, "argocd-controller", &theirs).await.unwrap();
    let ours = bundle(&[config("db.west"), deployment("core-apis", "core:2", None)]);

    let error = cluster.apply_bundle(&ours.manifests, &ours.replicas).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Refused);
    let Error::Conflict { objects, .. } = &error else { panic!("{error}") };
    assert_eq!(objects[0].object, "Deployment/core-apis");
    assert_eq!(objects[0].owners[0].manager, "argocd-controller");
    assert_eq!(objects[0].owners[0].field, ".spec.template.spec.containers[name=\"main\"].image");
    let config = "/api/v1/namespaces/conflict/configmaps/database";
    assert_eq!(
        stage.lab.admin().get(config).await.unwrap(),
        None,
        "what stands before it in the order was not applied either"
    );

    let taking = stage.adapter("conflict", OnConflict::Take);
    let applied = taking.apply(&ours).await.unwrap();
    assert_eq!((applied.created, applied.changed), (names(&["ConfigMap/database"]), names(&["Deployment/core-apis"])));
}

async fn a_count_that_somebody_else_set_survives_an_apply(stage: &Stage) {
    let cluster = stage.namespace("counts").await;
    let mut bundle = bundle(&[config("db.west"), deployment("core-apis", "core:1", Some(3))]);
    cluster.apply(&bundle).await.unwrap();
    let scale = format!("{}/scale", Stage::deployment_path("counts", "core-apis"));
    stage.lab.admin().merge(&scale, &json!({"spec": {"replicas": 5}})).await.unwrap();

    let applied = cluster.apply(&bundle).await.unwrap();
    assert!(applied.changed.is_empty(), "{applied:?}");
    assert_eq!(stage.replicas("counts", "core-apis").await, 5, "neither 3 nor the server's default of 1");

    bundle.replicas.insert("core-apis".to_owned(), 2);
    assert_eq!(cluster.apply(&bundle).await.unwrap().changed, ["Deployment/core-apis"]);
    assert_eq!(stage.replicas("counts", "core-apis").await, 2);
    assert!(cluster.apply(&bundle).await.unwrap().changed.is_empty());

    bundle.replicas.insert("gone".to_owned(), 2);
    let error = cluster.apply(&bundle).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Permanent);
}

async fn a_stuck_rollout_says_why(stage: &Stage) {
    let cluster = stage.namespace("stuck").await;
    let apply = async |image: &str| {
        cluster.apply(&bundle(&[config("db"), deployment("core-apis", image, Some(2))])).await.unwrap()
    };
    apply("core:1").await;
    let rollout = eventually(&cluster, "core-apis", |rollout| rollout.complete).await;
    assert_eq!((rollout.desired, rollout.available, rollout.stuck), (2, 2, None));
    for (image, expected) in [
        ("core:missing", "ImagePullBackOff: not found in the registry"),
        ("core:heavy", "Unschedulable: 0/2 nodes are available: 2 Insufficient cpu."),
        ("core:late", "ProgressDeadlineExceeded: ReplicaSet"),
    ] {
        apply(image).await;
        let rollout =
            eventually(&cluster, "core-apis", |rollout| rollout.stuck.as_deref().is_some_and(|s| s.contains(expected)))
                .await;
        assert!(!rollout.complete, "{image}");
    }
    let missing = cluster.rollouts(&names(&["nobody"])).await.unwrap().remove(0);
    assert_eq!(missing.stuck.as_deref(), Some("there is no Deployment `nobody` in namespace `stuck`"));
}

/// Name, replicas, and what is remembered: replicas and epoch.
type Count = (String, u32, Option<(u32, u64)>);

async fn writers_stop_once_and_get_their_own_counts_back(stage: &Stage) {
    let cluster = stage.namespace("writers").await;
    let agent = deployment("agent", "agent:1", Some(1)).replace("labels: {sparc.example/writes: 'true'}", "labels: {}");
    let idle = deployment("idle", "idle:1", Some(0));
    cluster.apply(&bundle(&[config("db"), deployment("core-apis", "core:1", Some(3)), idle, agent])).await.unwrap();
    let counts = |writers: Vec<Writer>| -> Vec<Count> {
        writers.into_iter().map(|w| (w.name, w.replicas, w.remembered.map(|r| (r.replicas, r.epoch)))).collect()
    };
    let of = |core: (u32, Option<(u32, u64)>), idle: (u32, Option<(u32, u64)>)| {
        vec![("core-apis".to_owned(), core.0, core.1), ("idle".to_owned(), idle.0, idle.1)]
    };
    let running = of((3, None), (0, None));
    let stopped = of((0, Some((3, 7))), (0, Some((0, 7))));
    assert_eq!(counts(cluster.writers().await.unwrap()), running, "the agent is no writer");

    assert_eq!(counts(cluster.stop_writers(7).await.unwrap()), stopped);
    assert_eq!(counts(cluster.stop_writers(7).await.unwrap()), stopped, "a repeated fence keeps the first counts");
    let error = cluster.scale_to_zero(6).await.unwrap_err();
    assert!(matches!(error, Error::Superseded { held: 7, .. }), "{error}");
    assert_eq!(counts(cluster.restart_writers(8).await.unwrap()), stopped, "what another epoch stopped is left alone");
    assert_eq!(stage.replicas("writers", "agent").await, 1);

    // Applying the bundle again must not start what the fence has stopped.
    let bundle = bundle(&[config("db"), deployment("core-apis", "core:1", Some(3))]);
    assert!(cluster.apply(&bundle).await.unwrap().changed.is_empty());
    assert_eq!(counts(cluster.writers().await.unwrap()), stopped);

    assert_eq!(counts(cluster.restart_writers(7).await.unwrap()), running);
    assert_eq!(counts(cluster.restart_writers(7).await.unwrap()), running);
    let found = stage.lab.admin().get(&Stage::deployment_path("writers", "core-apis")).await.unwrap().unwrap();
    assert!(found["metadata"]["annotations"][REPLICAS_BEFORE].is_null(), "the annotation is taken away");
}

async fn an_autoscaler_of_a_writer_is_seen_and_left_alone(stage: &Stage) {
    let cluster = stage.namespace("autoscaled").await;
    let autoscaler = "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: core-apis}\nspec: {minReplicas: 2, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: core-apis}}\n";
    cluster
        .apply(&bundle(&[config("db"), deployment("core-apis", "core:1", Some(4)), autoscaler.to_owned()]))
        .await
        .unwrap();
    eventually(&cluster, "core-apis", |rollout| rollout.complete).await;
    let status = cluster.writer_statuses().await.unwrap().remove(0);
    assert_eq!((status.running, status.autoscaler.as_deref()), (4, Some("core-apis")));
    cluster.stop_writers(1).await.unwrap();
    assert_eq!(stage.replicas("autoscaled", "core-apis").await, 0);
    eventually(&cluster, "core-apis", |rollout| rollout.complete && rollout.desired == 0).await;
    assert_eq!(cluster.writer_statuses().await.unwrap()[0].running, 0, "its pods are gone too");
    cluster.restart_writers(1).await.unwrap();
    assert_eq!(stage.replicas("autoscaled", "core-apis").await, 4);
}

async fn an_unknown_kind_is_refused_before_anything_is_changed(stage: &Stage) {
    let cluster = stage.namespace("unknown").await;
    let widget = "apiVersion: nowhere.example/v1\nkind: Widget\nmetadata: {name: w}\n".to_owned();
    let bundle = bundle(&[config("db.west"), widget]);
    let error = cluster.apply_bundle(&bundle.manifests, &bundle.replicas).await.unwrap_err();
    assert!(matches!(&error, Error::UnknownKind { kind, .. } if kind == "nowhere.example/v1/Widget"), "{error}");
    assert_eq!(stage.lab.admin().get("/api/v1/namespaces/unknown/configmaps/database").await.unwrap(), None);
}

async fn a_definition_and_its_objects_travel_in_one_bundle(stage: &Stage) {
    let cluster = stage.namespace("defined").await;
    let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.sparc.example}\nspec:\n  group: sparc.example\n  scope: Namespaced\n  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}\n  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]\n".to_owned();
    let widget = "apiVersion: sparc.example/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n".to_owned();
    let bundle = bundle(&[widget, definition]);
    let mut refusals = 0;
    loop {
        match cluster.apply_bundle(&bundle.manifests, &bundle.replicas).await {
            Ok(_) => break,
            // A real server needs a moment to establish a definition, and another until its store is ready.
            Err(error) => assert!(matches!(error.fault(), Fault::NotYet | Fault::Transient), "{error:?}"),
        }
        refusals += 1;
        assert!(refusals < 100, "the definition is never established");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let found = stage.lab.admin().get("/apis/sparc.example/v1/namespaces/defined/widgets/w").await.unwrap().unwrap();
    assert_eq!(found["spec"]["size"], 3);
}

async fn an_invalid_object_leaves_nothing_half_applied(stage: &Stage) {
    let cluster = stage.namespace("invalid").await;
    let wrong = deployment("core-apis", "core:1", None)
        .replace("metadata: {labels: {app: core-apis}}", "metadata: {labels: {app: other}}");
    let bundle = bundle(&[config("db.west"), wrong]);
    let error = cluster.apply_bundle(&bundle.manifests, &bundle.replicas).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { object, .. } if object == "Deployment/core-apis"), "{error:?}");
    assert_eq!(stage.lab.admin().get("/api/v1/namespaces/invalid/configmaps/database").await.unwrap(), None);
}

async fn a_missing_right_is_a_refusal_that_names_it(stage: &Stage) {
    // `default` is a namespace in which the recovery role has no rights.
    let cluster = stage.adapter("default", OnConflict::Refuse);
    let error = cluster.scale_to_zero(1).await.unwrap_err();
    assert!(
        matches!(&error, Error::Forbidden { said, .. } if said.contains("\"sparc-recovery\" cannot list resource \"deployments\"")),
        "{error}"
    );
    let error = cluster.apply(&bundle(&[config("db")])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Refused);
}

async fn a_token_for_another_cluster_or_of_the_global_sts_is_not_taken(stage: &Stage) {
    for (region, name) in [("us-west-2", "sparc-east"), ("us-east-1", CLUSTER)] {
        let cluster = Cluster::new(stage.connection("default", OnConflict::Refuse), token_for(region, name));
        let error = cluster.writer_statuses().await.unwrap_err();
        assert!(matches!(error, Error::Unauthenticated { .. }), "{region} {name}: {error}");
    }
    let cluster = Cluster::new(
        stage.connection("default", OnConflict::Refuse),
        Arc::new(|| Err::<Token, _>("the role has no credentials".into())),
    );
    assert!(matches!(cluster.writer_statuses().await.unwrap_err(), Error::Token { .. }));
}

async fn nodes_count_when_they_are_ready_and_take_pods(stage: &Stage) {
    let cluster = stage.adapter("default", OnConflict::Refuse);
    assert_eq!(cluster.ready_nodes("failover").await.unwrap(), 0);
    stage.lab.set_ready_nodes("failover", 3).await.unwrap();
    stage.lab.set_ready_nodes("other", 1).await.unwrap();
    assert_eq!(cluster.ready_nodes("failover").await.unwrap(), 3);
    stage.lab.admin().merge("/api/v1/nodes/failover-0", &json!({"spec": {"unschedulable": true}})).await.unwrap();
    assert_eq!(cluster.ready_nodes("failover").await.unwrap(), 2);
    stage.lab.set_ready_nodes("failover", 1).await.unwrap();
    assert_eq!(cluster.ready_nodes("failover").await.unwrap(), 0);
}

macro_rules! contract {
    ($($situation:ident),* $(,)?) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn the_contract_holds_on_a_real_api_server() {
            let stage = Stage::start(Flavour::Real).await;
            assert!(stage.lab.kind().starts_with("real kube-apiserver v1."), "{}", stage.lab.kind());
            $(
                println!("{}", stringify!($situation));
                $situation(&stage).await;
            )*
        }

        mod on_the_small_api {
            use super::*;
            $(
                #[tokio::test]
                async fn $situation() {
                    super::$situation(&Stage::start(Flavour::Small).await).await;
                }
            )*
        }
    };
}

contract![
    a_bundle_applied_twice_changes_nothing_the_second_time,
    a_changed_address_reaches_the_workload_and_nothing_else_moves,
    another_managers_field_is_named_and_nothing_is_applied,
    a_count_that_somebody_else_set_survives_an_apply,
    a_stuck_rollout_says_why,
    writers_stop_once_and_get_their_own_counts_back,
    an_autoscaler_of_a_writer_is_seen_and_left_alone,
    an_unknown_kind_is_refused_before_anything_is_changed,
    a_definition_and_its_objects_travel_in_one_bundle,
    an_invalid_object_leaves_nothing_half_applied,
    a_missing_right_is_a_refusal_that_names_it,
    a_token_for_another_cluster_or_of_the_global_sts_is_not_taken,
    nodes_count_when_they_are_ready_and_take_pods,
];

#[tokio::test]
async fn a_cluster_that_is_gone_a_silent_one_and_a_false_one_are_told_apart() {
    let stage = Stage::start(Flavour::Small).await;
    let ask = async |change: &dyn Fn(&mut Connection)| {
        let mut connection = stage.connection("sparc", OnConflict::Refuse);
        connection.limits = Limits { connect: Duration::from_millis(500), request: Duration::from_millis(500) };
        change(&mut connection);
        Cluster::new(connection, token_for("us-west-2", CLUSTER)).writer_statuses().await.unwrap_err()
    };

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = ask(&|connection| connection.endpoint = format!("https://{closed}")).await;
    assert!(matches!(gone, Error::Unreachable { .. }), "{gone:?}");
    assert_eq!(gone.fault(), Fault::Transient);

    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    let held = ask(&|connection| connection.endpoint.clone_from(&endpoint)).await;
    assert!(matches!(held, Error::TimedOut { .. } | Error::Unreachable { .. }), "{held:?}");
    assert_eq!(held.fault(), Fault::Transient);

    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let untrusted = ask(&|connection| connection.ca_pem.clone_from(&other)).await;
    assert!(matches!(untrusted, Error::Untrusted { .. }), "{untrusted:?}");
    assert_eq!(untrusted.fault(), Fault::Refused);

    let nonsense = ask(&|connection| connection.ca_pem = "no certificate".to_owned()).await;
    assert_eq!(nonsense.fault(), Fault::Permanent);
}
