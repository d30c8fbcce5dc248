//! All of the lab at once: what `drctl drill --lab` runs against.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::aws::{ACCESS_KEY, ACCOUNT, Access, Aws, PRIMARY, SECONDARY, SECRET_KEY, Seed, Seeded, TERTIARY};
use crate::edge::{self, Edge};
use crate::error::{Error, Result};
use crate::faults::{Desk, HttpProxy, Upstream};
use crate::folder::Folder;
use crate::kubernetes::{self, Cluster, Flavour};
use crate::nodes::{self, Nodes};
use crate::postgres::{self, Heart, PROBE_DATABASE, Pair, Passwords};
use crate::process;
use crate::rds::{self, GLOBAL_CLUSTER, Rds};
use crate::services::{Region, SERVICES, Wire, WiredKubelet};
use crate::stack::Stack;
use crate::workloads;

/// The platform's namespace.
const NAMESPACE: &str = "sparc-prod";

/// How a lab is made.
#[derive(Clone)]
pub struct Options {
    /// The pair. Its passwords are made up by the lab.
    pub postgres: postgres::Options,
    /// How the states of RDS take their time.
    pub rds: rds::Options,
    /// Seconds of the lab for a second of Route 53's health checks; reports must name it.
    pub edge_scale: f64,
    /// How often the heartbeat is renewed on the primary; none leaves that to others.
    pub heartbeat: Option<Duration>,
    /// The Kubernetes API of the primary and of the secondary region; none starts no clusters. A real server takes some
    /// seconds and 300 MB.
    pub kubernetes: Option<[Flavour; 2]>,
    /// How nodes come up in the secondary region.
    pub nodes: nodes::Options,
    /// The suite itself, deployed before the rest of the platform's account is made; none leaves AWS without functions.
    pub stack: Option<Stack>,
    /// Told at the beginning and at the end of each stage, since a person watches.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            postgres: postgres::Options::default(),
            rds: rds::Options::default(),
            edge_scale: 0.02,
            heartbeat: Some(Duration::from_secs(1)),
            kubernetes: Some([Flavour::Small, Flavour::RealIfThere]),
            nodes: nodes::Options::default(),
            stack: None,
            progress: Arc::new(|_| {}),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("postgres", &self.postgres)
            .field("rds", &self.rds)
            .field("edge_scale", &self.edge_scale)
            .field("heartbeat", &self.heartbeat)
            .field("kubernetes", &self.kubernetes)
            .field("nodes", &self.nodes)
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

/// A stage of the lab's start; several run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being made, in words for a person.
    pub stage: &'static str,
    /// How long it took; `None` at its beginning.
    pub done_after: Option<Duration>,
}

/// Where everything is: what a plan file of the lab is rendered from. No secret is in it, only names of secrets.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The AWS account in all ARNs.
    pub account: &'static str,
    /// Primary, secondary, tertiary.
    pub regions: [&'static str; 3],
    /// Names and ids in the emulated account.
    pub aws: Seeded,
    /// `host:port` of the database servers, primary and standby; the host is the name in their certificates.
    pub databases: [(String, u16); 2],
    /// The authority of both, PEM.
    pub database_authority: PathBuf,
    /// The database with the heartbeat.
    pub probe_database: &'static str,
    /// The Aurora global cluster over the same pair, and the ARN of its cluster in the secondary region.
    pub global_cluster: (&'static str, String),
    /// The clusters' endpoint, authority (a PEM file) and kind, primary and secondary; empty without clusters.
    pub clusters: Vec<ClusterAddress>,
    /// The platform's namespace in both.
    pub namespace: &'static str,
    /// The rendered bundle's key in the evidence bucket.
    pub bundle_key: &'static str,
    /// Health check URLs of the services in the primary region, by service.
    pub primary_services: BTreeMap<String, String>,
    /// The same in the secondary region: what verifying a recovery asks.
    pub secondary_services: BTreeMap<String, String>,
    /// The platform's health seen from outside, through names and health checks.
    pub public_url: String,
    /// Seconds of the lab for a second of Route 53.
    pub edge_scale: f64,
    /// Variables for child processes, one `NAME=value` a line.
    pub env_file: PathBuf,
}

/// Where a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAddress {
    /// Its EKS name, which tokens are signed for.
    pub name: String,
    /// `https://127.0.0.1:…`.
    pub endpoint: String,
    /// The authority of its certificate.
    pub authority: PathBuf,
    /// What it is, for reports: real or small.
    pub kind: String,
}

/// A whole platform on one machine. Dropping it ends everything; so does killing its owner, however.
pub struct Lab {
    /// Users' way in.
    pub edge: Edge,
    /// The services of the region that is lost.
    pub primary: Region,
    /// The services of the region that takes over; their database is the standby.
    pub secondary: Region,
    /// The RDS API over the pair.
    pub rds: Rds,
    /// The emulated AWS.
    pub aws: Arc<Aws>,
    /// The database servers.
    pub pair: Arc<Pair>,
    /// Nodes of the secondary region's cluster; none without clusters.
    pub nodes: Option<Nodes>,
    clusters: [Mutex<Option<Arc<Cluster>>>; 2],
    addresses: Addresses,
    _heart: Option<Heart>,
    folders: [Arc<Folder>; 2],
}

impl Lab {
    /// Makes a lab; returns when every part answers. A few seconds once caches are warm.
    pub async fn start(options: Options) -> Result<Self> {
        let stages = Stages(options.progress.clone());
        let passwords = Passwords::new();
        let on_disk = Arc::new(Folder::on_disk()?);
        let pair_folder = if options.postgres.flush { on_disk.clone() } else { Arc::new(Folder::new()?) };

        let making_pair = stages.of("a PostgreSQL primary and its standby", async {
            let options = postgres::Options { passwords: Some(passwords.clone()), ..options.postgres.clone() };
            Pair::start_in(pair_folder.clone(), options).await
        });
        let making_aws = async {
            let access = if options.stack.is_some() { Access::Judged } else { Access::Open };
            let aws = stages.of("the emulated AWS, three regions", Aws::start_in(on_disk.clone(), access)).await?;
            let seed = Seed { passwords: Some(passwords.clone()), stack: options.stack.clone() };
            let seeded = stages.of("the platform's account", aws.seed(&seed)).await?;
            Ok::<_, Error>((aws, seeded))
        };
        let wires: [Arc<OnceLock<Wire>>; 2] = Default::default();
        let making_clusters = async {
            let Some([primary, secondary]) = options.kubernetes else { return Ok([None, None]) };
            let both = futures::future::try_join(
                cluster(PRIMARY, primary, &wires[0]),
                cluster(SECONDARY, secondary, &wires[1]),
            );
            let (primary, secondary) = stages.of("the Kubernetes API of two regions", both).await?;
            Ok([Some(Arc::new(primary)), Some(Arc::new(secondary))])
        };
        let making = futures::future::try_join3(making_pair, making_aws, making_clusters);
        let (pair, (aws, seeded), clusters) = making.await?;
        let (pair, aws) = (Arc::new(pair), Arc::new(aws));
        for (cluster, roles) in clusters.iter().zip(["PrimaryClusterRoles", "SecondaryClusterRoles"]) {
            let (Some(cluster), Some(stack)) = (cluster, &options.stack) else { continue };
            for (key, secret) in stack.sessions(seeded.outputs.get(roles).map_or("", String::as_str)) {
                cluster.admit(&key, &secret);
            }
        }
        let kind = clusters[1].as_ref().map_or("", |cluster| cluster.kind());
        aws.put_object(&seeded.evidence_bucket, workloads::KEY, workloads::bundle(Timestamp::now(), kind)).await?;
        let mut cluster_addresses = Vec::new();
        for (cluster, name) in clusters.iter().zip(&seeded.clusters) {
            let Some(cluster) = cluster else { continue };
            let authority = on_disk.path().join(format!("{name}.pem"));
            std::fs::write(&authority, cluster.ca_pem())
                .map_err(Error::system(format!("write {}", authority.display())))?;
            cluster_addresses.push(ClusterAddress {
                name: name.clone(),
                endpoint: cluster.endpoint().to_owned(),
                authority,
                kind: cluster.kind().to_owned(),
            });
        }
        if let Some(primary) = &clusters[0] {
            let database = (pair.primary.host(), pair.primary.port());
            stages.of("the platform's workloads", workloads::run(primary, PRIMARY, database)).await?;
        }
        let nodes = match &clusters[1] {
            Some(secondary) => {
                let (name, group) = (&seeded.clusters[1], &seeded.node_group);
                let (aws, secondary) = (aws.clone(), secondary.clone());
                Some(Nodes::follow(aws, SECONDARY, secondary, name, group, options.nodes.clone()).await?)
            }
            None => None,
        };

        let rds = Rds::start(&aws, pair.clone(), options.rds.clone());
        let rds = stages.of("the RDS API over both servers", rds).await?;
        let regions = futures::future::try_join(
            Region::start(PRIMARY, &pair, &pair.primary),
            Region::start(SECONDARY, &pair, &pair.standby),
        );
        let (primary, secondary) = stages.of("the services of two regions", regions).await?;
        if clusters.iter().all(Option::is_some) {
            let lost_database = Some(pair.primary.port());
            for (wire, region, lost) in [(&wires[0], &primary, None), (&wires[1], &secondary, lost_database)] {
                let _ = wire.set(region.wire_to_deployments(lost));
            }
            primary.wait_for_deployments().await?;
        }
        let hosts = hosts([&primary, &secondary]);
        let edge = edge::Options { scale: options.edge_scale, distribution: Some(seeded.distribution.clone()), hosts };
        let edge = Edge::start(aws.clone(), &seeded.hosted_zone, edge);
        let edge = stages.of("names and health checks", edge).await?;
        let heart = options.heartbeat.map(|every| pair.beat(every)).transpose()?;

        let env_file = on_disk.path().join("lab.env");
        let env: String = aws.env().into_iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        std::fs::write(&env_file, env).map_err(Error::system(format!("write {}", env_file.display())))?;
        let urls = |region: &Region| SERVICES.iter().map(|(name, _)| ((*name).to_owned(), region.url(name))).collect();
        let addresses = Addresses {
            account: ACCOUNT,
            regions: [PRIMARY, SECONDARY, TERTIARY],
            aws: seeded,
            databases: [&pair.primary, &pair.standby].map(|server| (server.host().to_owned(), server.port())),
            database_authority: pair.authority().path().to_owned(),
            probe_database: PROBE_DATABASE,
            global_cluster: (GLOBAL_CLUSTER, rds::cluster_arn(SECONDARY)),
            clusters: cluster_addresses,
            namespace: NAMESPACE,
            bundle_key: workloads::KEY,
            primary_services: urls(&primary),
            secondary_services: urls(&secondary),
            public_url: format!("{}/healthz", edge.url()),
            edge_scale: edge.scale(),
            env_file,
        };
        let folders = [pair_folder, on_disk];
        let clusters = clusters.map(Mutex::new);
        Ok(Self { edge, primary, secondary, rds, aws, pair, nodes, clusters, addresses, _heart: heart, folders })
    }

    /// Where everything is.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Variables for child processes and for SDKs: endpoints, credentials that open nothing, the tertiary region.
    pub fn env(&self) -> Vec<(String, String)> {
        self.aws.env()
    }

    /// A folder on a disk that goes with the lab: plan, reports, whatever a run writes.
    pub fn folder(&self) -> &Path {
        self.folders[1].path()
    }

    /// Puts a fault proxy in front of an AWS service, for everybody who reads [`Lab::env`] afterwards. `service` as in
    /// [`Aws::route`]. Dropping the proxy leaves the service unreachable: keep it as long as the lab.
    pub async fn script(&self, service: &'static str, desk: &Desk) -> Result<HttpProxy> {
        let proxy = HttpProxy::start(Upstream::plain(self.aws.endpoint(service)), desk.clone()).await?;
        self.aws.route(service, proxy.url());
        Ok(proxy)
    }

    /// The cluster of the primary region, while there is one.
    pub fn primary_cluster(&self) -> Option<Arc<Cluster>> {
        lock(&self.clusters[0]).clone()
    }

    /// The cluster of the secondary region, if the lab has clusters.
    pub fn secondary_cluster(&self) -> Option<Arc<Cluster>> {
        lock(&self.clusters[1]).clone()
    }

    /// The primary region is lost at once: its database server, services and cluster are gone, as by a power failure.
    pub fn lose_primary_region(&self) {
        self.pair.primary.crash();
        self.primary.go_dark();
        lock(&self.clusters[0]).take();
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Tasks that were told to end may hold the pair a little longer: the processes are gone now, not then.
        self.pair.primary.crash();
        self.pair.standby.crash();
        self.nodes.take();
        for cluster in self.clusters.iter().filter_map(|cluster| lock(cluster).take()) {
            process::kill_inside(cluster.folder());
        }
        for folder in &self.folders {
            folder.clear();
        }
    }
}

async fn cluster(region: &str, flavour: Flavour, wire: &Arc<OnceLock<Wire>>) -> Result<Cluster> {
    let mut options = kubernetes::Options::new(&format!("sparc-prod-{region}"));
    options.region = region.to_owned();
    options.namespace = NAMESPACE.to_owned();
    options.flavour = flavour;
    options.kubelet = Arc::new(WiredKubelet(wire.clone()));
    options.access_key_id = ACCESS_KEY.to_owned();
    options.secret_access_key = SECRET_KEY.to_owned();
    Cluster::start(options).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Host names of the platform and where they live.
fn hosts(regions: [&Region; 2]) -> HashMap<String, u16> {
    let mut hosts = HashMap::new();
    for region in regions {
        let name = region.name();
        hosts.insert(format!("origin.{name}.sparc.com"), region.port());
        for (service, _) in SERVICES {
            hosts.insert(format!("{service}.{name}.sparc.com"), region.port());
        }
    }
    hosts
}

struct Stages(Arc<dyn Fn(Progress) + Send + Sync>);

impl Stages {
    async fn of<T>(&self, stage: &'static str, making: impl Future<Output = Result<T>>) -> Result<T> {
        (self.0)(Progress { stage, done_after: None });
        let begun = Instant::now();
        let made = making.await?;
        (self.0)(Progress { stage, done_after: Some(begun.elapsed()) });
        Ok(made)
    }
}
