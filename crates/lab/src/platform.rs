//! The platform of `plans/sparc.toml`, alive on one machine: a [`Lab`], the clusters of both regions with the platform's
//! workloads in them, and a plan file that names all of it as the shipped plan names the real one.
//!
//! Workloads are tied to the lab's services: a service of a region answers while its Deployment there has replicas, and in
//! the secondary region only once it was pointed at the server that takes writes. Nodes arrive a few at a time after the
//! node group was asked for them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use recovery::plan::{Approval, Driver, Plan};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::assembly::{Lab, Options as LabOptions};
use crate::aws::{ACCESS_KEY, PRIMARY, SECONDARY, SECRET_KEY};
use crate::error::{Error, Result};
use crate::faults::{Desk, HttpProxy, PostgresProxy, Upstream};
use crate::kubernetes::{Admin, Cluster, Flavour, Kubelet, Options as ClusterOptions, Verdict, Workload};
use crate::services::{Region, SERVICES};

/// Nodes that become Ready at each step, and the time between two.
const NODES_ARRIVE: (u32, Duration) = (12, Duration::from_millis(150));

/// How the platform is made.
pub struct Options {
    /// The lab under it.
    pub lab: LabOptions,
    /// Which Kubernetes API.
    pub flavour: Flavour,
    /// Which API promotes the standby.
    pub driver: Driver,
    /// Whether a person must approve.
    pub approval: Approval,
    /// The plan that is rendered, as TOML: `plans/sparc.toml`.
    pub plan: String,
    /// The manifests of the recovery overlay: `bundles/disaster-recovery.yaml`.
    pub bundle: String,
    /// Faults between the recovery and everything that it speaks to; none leaves the ways free.
    pub faults: Option<Desk>,
}

/// The platform, alive.
pub struct Platform {
    /// The cluster of the region that is lost.
    pub primary_cluster: Cluster,
    /// The cluster of the region that takes over.
    pub secondary_cluster: Cluster,
    /// Everything else.
    pub lab: Arc<Lab>,
    plan: PathBuf,
    nodes: tokio::task::JoinHandle<()>,
    /// Without them the services behind are out of reach.
    _proxies: Proxies,
}

impl Platform {
    /// Makes the platform; returns when every part answers.
    pub async fn start(options: Options) -> Result<Platform> {
        let late = Arc::new(OnceLock::new());
        let cluster = |name: &str, region: &'static str| {
            Cluster::start(ClusterOptions {
                name: name.to_owned(),
                region: region.to_owned(),
                namespace: "sparc-prod".to_owned(),
                flavour: options.flavour,
                access_key_id: ACCESS_KEY.to_owned(),
                secret_access_key: SECRET_KEY.to_owned(),
                kubelet: Arc::new(Wired { region, lab: Arc::clone(&late) }),
                ..ClusterOptions::new(name)
            })
        };
        let (lab, primary_cluster, secondary_cluster) = futures::future::try_join3(
            Lab::start(options.lab.clone()),
            cluster("sparc-prod-us-east-1", PRIMARY),
            cluster("sparc-prod-us-west-2", SECONDARY),
        )
        .await?;
        let lab = Arc::new(lab);
        for (service, _) in SERVICES {
            lab.secondary.break_service(service);
        }
        let _ = late.set(Arc::downgrade(&lab));

        let bucket = &lab.addresses().aws.evidence_bucket;
        let bundle = for_server(&options.bundle, secondary_cluster.kind());
        lab.aws.put_object(bucket, "bundles/disaster-recovery.yaml", bundle).await?;
        run_in_primary(&primary_cluster, &options.bundle, &lab).await?;
        let mut ways = Ways::free(&lab, [&primary_cluster, &secondary_cluster]);
        let proxies = match &options.faults {
            Some(desk) => Proxies::start(desk, &lab, &mut ways).await?,
            None => Proxies::default(),
        };
        let plan = lab.folder().join("sparc.toml");
        let rendered = render(&options, &lab, &ways)?;
        std::fs::write(&plan, rendered).map_err(Error::system(format!("write {}", plan.display())))?;

        let desired = desired_nodes(&lab).await?;
        secondary_cluster.set_ready_nodes(&lab.addresses().aws.node_group, desired).await?;
        let admin = secondary_cluster.admin().clone();
        let nodes = tokio::spawn(let_nodes_arrive(Arc::downgrade(&lab), admin, desired));
        Ok(Platform { primary_cluster, secondary_cluster, lab, plan, nodes, _proxies: proxies })
    }

    /// The plan file of this platform.
    pub fn plan(&self) -> &Path {
        &self.plan
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.nodes.abort();
    }
}

/// A kubelet that starts and ends the lab's services of one region.
struct Wired {
    region: &'static str,
    lab: Arc<OnceLock<Weak<Lab>>>,
}

#[async_trait]
impl Kubelet for Wired {
    async fn run(&self, workload: &Workload) -> Verdict {
        let Some(lab) = self.lab.get().and_then(Weak::upgrade) else { return Verdict::NotYet };
        let region: &Region = if self.region == PRIMARY { &lab.primary } else { &lab.secondary };
        // In the region that takes over, a workload that is still wired to the lost primary does not work.
        let lost = lab.pair.primary.port().to_string();
        let misdirected = self.region != PRIMARY && workload.env.get("PGPORT") == Some(&lost);
        if workload.replicas == 0 || misdirected {
            region.break_service(&workload.name);
        } else {
            region.mend_service(&workload.name);
        }
        Verdict::Running
    }
}

/// The bundle as this server knows its kinds: PodDisruptionBudget is `policy/v1` since Kubernetes 1.21, and Debian's server
/// is older.
fn for_server(bundle: &str, kind: &str) -> String {
    if kind.contains("v1.20") {
        bundle.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")
    } else {
        bundle.to_owned()
    }
}

/// Runs the platform's Deployments in the primary region, with the counts that the bundle remembers.
async fn run_in_primary(cluster: &Cluster, bundle: &str, lab: &Lab) -> Result<()> {
    let [(host, port), _] = &lab.addresses().databases;
    let filled = bundle
        .replace("${DATABASE_HOST}", host)
        .replace("${DATABASE_PORT}", &port.to_string())
        .replace("${REGION}", PRIMARY);
    for document in serde_yaml_ng::Deserializer::from_str(&filled) {
        let malformed = |error: serde_yaml_ng::Error| Error::State(format!("the bundle is not YAML: {error}"));
        let mut object = Value::deserialize(document).map_err(malformed)?;
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = match kind.as_str() {
            "ConfigMap" => format!("/api/v1/namespaces/sparc-prod/configmaps/{name}"),
            "Deployment" => {
                let counted = object.pointer("/metadata/annotations/recovery.sparc~1replicas").and_then(Value::as_str);
                let replicas: u32 = counted.and_then(|count| count.parse().ok()).unwrap_or(1);
                object["spec"]["replicas"] = replicas.into();
                format!("/apis/apps/v1/namespaces/sparc-prod/deployments/{name}")
            }
            _ => continue,
        };
        cluster.admin().apply(&path, "deployer", &object).await?;
    }
    Ok(())
}

/// How the recovery reaches what is not behind an AWS endpoint.
struct Ways {
    /// Ports of primary and standby.
    databases: [u16; 2],
    /// API servers of both clusters: URL and certificate authority.
    clusters: [(String, String); 2],
}

impl Ways {
    fn free(lab: &Lab, clusters: [&Cluster; 2]) -> Ways {
        Ways {
            databases: lab.addresses().databases.clone().map(|(_, port)| port),
            clusters: clusters.map(|cluster| (cluster.endpoint().to_owned(), cluster.ca_pem().to_owned())),
        }
    }
}

/// Fault proxies on all ways, under one desk.
#[derive(Default)]
struct Proxies {
    _http: Vec<HttpProxy>,
    _postgres: Vec<PostgresProxy>,
}

/// Every AWS service that a failover calls, as [`crate::aws::Aws::route`] names them.
const SERVICES_CALLED: [&str; 7] = ["S3", "SECRETS_MANAGER", "SNS", "EKS", "RDS", "ROUTE_53", "CLOUDFRONT"];

impl Proxies {
    async fn start(desk: &Desk, lab: &Lab, ways: &mut Ways) -> Result<Proxies> {
        let mut proxies = Proxies::default();
        for service in SERVICES_CALLED {
            proxies._http.push(lab.script(service, desk).await?);
        }
        let authority = lab.pair.authority();
        for (url, ca_pem) in &mut ways.clusters {
            let upstream = Upstream { url: url.clone(), authority: Some(ca_pem.clone()) };
            let proxy = HttpProxy::start_tls(upstream, desk.clone(), authority).await?;
            (*url, *ca_pem) = (proxy.url().to_owned(), authority.pem().to_owned());
            proxies._http.push(proxy);
        }
        for (port, server) in ways.databases.iter_mut().zip([&lab.pair.primary, &lab.pair.standby]) {
            let proxy = PostgresProxy::start(server, authority, desk.clone()).await?;
            *port = proxy.port();
            proxies._postgres.push(proxy);
        }
        Ok(proxies)
    }
}

/// The shipped plan with the lab's addresses in place of the real ones.
fn render(options: &Options, lab: &Lab, ways: &Ways) -> Result<String> {
    let mut plan = Plan::parse("plans/sparc.toml", &options.plan).map_err(|error| Error::State(error.to_string()))?;
    let (at, aws) = (lab.addresses(), &lab.addresses().aws);
    let other = |error: &dyn std::fmt::Display| Error::State(format!("the lab's plan cannot be rendered: {error}"));

    plan.failover.approval = options.approval;
    let postgresql = &mut plan.postgresql;
    postgresql.driver = options.driver;
    postgresql.global_cluster = (options.driver == Driver::AuroraGlobal).then(|| at.global_cluster.0.to_owned());
    postgresql.probe_database = at.probe_database.to_owned();
    postgresql.ca_file = at.database_authority.display().to_string();
    postgresql.recovery_secret = aws.recovery_secret.clone();
    postgresql.application_secret = aws.application_secret.clone();
    for (i, server) in [&mut postgresql.primary, &mut postgresql.standby].into_iter().enumerate() {
        server.host = at.databases[i].0.clone();
        server.port = ways.databases[i];
        server.instance = aws.instances[i].clone();
    }
    if options.driver == Driver::AuroraGlobal {
        postgresql.standby.instance = at.global_cluster.1.clone();
    }

    for (i, cluster) in [&mut plan.kubernetes.primary, &mut plan.kubernetes.secondary].into_iter().enumerate() {
        let ((url, ca_pem), name) = (&ways.clusters[i], &aws.clusters[i]);
        let authority = lab.folder().join(format!("{name}.pem"));
        std::fs::write(&authority, ca_pem).map_err(Error::system(format!("write {}", authority.display())))?;
        cluster.name = name.clone();
        cluster.endpoint = url.parse().map_err(|error| other(&error))?;
        cluster.ca_file = authority.display().to_string();
    }
    plan.kubernetes.capacity.node_group = aws.node_group.clone();

    for check in &mut plan.checks {
        let url = at.secondary_services.get(&check.service);
        check.url = url.ok_or_else(|| other(&check.service))?.parse().map_err(|error| other(&error))?;
    }
    plan.names.hosted_zone = aws.hosted_zone.clone();
    plan.names.public_url = at.public_url.parse().map_err(|error| other(&error))?;
    plan.names.switch_key = aws.switch_key.clone();
    if let Some(cdn) = &mut plan.names.cdn {
        cdn.distribution = aws.distribution.clone();
    }
    plan.buckets.evidence = aws.evidence_bucket.clone();
    plan.buckets.switch = aws.switch_bucket.clone();
    for (level, topic) in plan.notification.levels.iter_mut().zip(&aws.topics) {
        level.topic_arn = topic.clone();
    }
    toml::to_string(&plan).map_err(|error| other(&error))
}

/// Nodes that the node group was asked for.
async fn desired_nodes(lab: &Lab) -> Result<u32> {
    let aws = &lab.addresses().aws;
    let path = format!("/clusters/{}/node-groups/{}", aws.clusters[1], aws.node_group);
    let answer = lab.aws.call("eks", SECONDARY, Method::GET, &path, &[], "").await?;
    let described: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let desired = described.pointer("/nodegroup/scalingConfig/desiredSize").and_then(Value::as_u64);
    desired
        .and_then(|nodes| u32::try_from(nodes).ok())
        .ok_or_else(|| Error::State(format!("the emulated EKS says nothing of its node group: {}", answer.body)))
}

/// Follows the node group: nodes come and go a few at a time.
async fn let_nodes_arrive(lab: Weak<Lab>, nodes: Admin, mut ready: u32) {
    let (step, pause) = NODES_ARRIVE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(lab) = lab.upgrade() else { return };
        let Ok(desired) = desired_nodes(&lab).await else { continue };
        let next = if desired > ready { desired.min(ready + step) } else { desired.max(ready.saturating_sub(step)) };
        if next != ready && nodes.set_ready_nodes(&lab.addresses().aws.node_group, next).await.is_ok() {
            ready = next;
        }
    }
}
