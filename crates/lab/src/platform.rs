//! The platform of `plans/sparc.toml`, alive on one machine: a [`Lab`], and a plan file that names all of it as the shipped
//! plan names the real one; on request with fault proxies on every way between the recovery and what it speaks to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use recovery::plan::{Approval, Driver, Plan};

use crate::assembly::{Lab, Options as LabOptions};
use crate::error::{Error, Result};
use crate::faults::{Desk, HttpProxy, PostgresProxy, Upstream};

/// The plan's file in the lab's folder.
pub(crate) const PLAN: &str = "sparc.toml";

/// How the platform is made.
pub struct Options {
    /// The lab under it; it must have clusters.
    pub lab: LabOptions,
    /// Which API promotes the standby.
    pub driver: Driver,
    /// Whether a person must approve.
    pub approval: Approval,
    /// The plan that is rendered, as TOML: `plans/sparc.toml`.
    pub plan: String,
    /// Faults between the recovery and everything that it speaks to; none leaves the ways free.
    pub faults: Option<Desk>,
}

/// The platform, alive.
pub struct Platform {
    /// Everything in it.
    pub lab: Lab,
    plan: PathBuf,
    /// Without them the services behind are out of reach.
    _proxies: Proxies,
}

impl Platform {
    /// Makes the platform; returns when every part answers.
    pub async fn start(options: Options) -> Result<Platform> {
        let lab = Lab::start(options.lab.clone()).await?;
        let mut ways = Ways::free(&lab)?;
        let proxies = match &options.faults {
            Some(desk) => Proxies::start(desk, &lab, &mut ways).await?,
            None => Proxies::default(),
        };
        let plan = lab.folder().join(PLAN);
        let rendered = render(&options, &lab, &ways)?;
        std::fs::write(&plan, rendered).map_err(Error::system(format!("write {}", plan.display())))?;
        Ok(Platform { lab, plan, _proxies: proxies })
    }

    /// The plan file of this platform.
    pub fn plan(&self) -> &Path {
        &self.plan
    }
}

/// How the recovery reaches what is not behind an AWS endpoint.
struct Ways {
    /// Ports of primary and standby.
    databases: [u16; 2],
    /// API servers of both clusters: URL and certificate authority.
    clusters: Vec<(String, String)>,
    /// Health check URLs of the secondary region's services, by service.
    services: BTreeMap<String, String>,
    /// The platform seen from outside.
    public_url: String,
}

impl Ways {
    fn free(lab: &Lab) -> Result<Ways> {
        let mut clusters = Vec::new();
        for cluster in &lab.addresses().clusters {
            let pem = std::fs::read_to_string(&cluster.authority);
            let pem = pem.map_err(Error::system(format!("read {}", cluster.authority.display())))?;
            clusters.push((cluster.endpoint.clone(), pem));
        }
        let databases = lab.addresses().databases.clone().map(|(_, port)| port);
        let (services, public_url) = (lab.addresses().secondary_services.clone(), lab.addresses().public_url.clone());
        Ok(Ways { databases, clusters, services, public_url })
    }
}

/// Fault proxies on all ways, under one desk.
#[derive(Default)]
struct Proxies {
    _http: Vec<HttpProxy>,
    _postgres: Vec<PostgresProxy>,
}

/// Every AWS service that a failover calls, as [`crate::aws::Aws::route`] names them.
const SERVICES_CALLED: [&str; 8] = ["S3", "ECR", "SECRETS_MANAGER", "SNS", "EKS", "RDS", "ROUTE_53", "CLOUDFRONT"];

impl Proxies {
    async fn start(desk: &Desk, lab: &Lab, ways: &mut Ways) -> Result<Proxies> {
        let mut proxies = Proxies::default();
        for service in SERVICES_CALLED {
            proxies._http.push(lab.script(service, desk).await?);
        }
        let authority = lab.pair.authority();
        for (url, ca_pem) in &mut ways.clusters {
            let upstream = Upstream::kubernetes(url.clone(), ca_pem.clone());
            let proxy = HttpProxy::start_tls(upstream, desk.clone(), authority).await?;
            (*url, *ca_pem) = (proxy.url().to_owned(), authority.pem().to_owned());
            proxies._http.push(proxy);
        }
        for (port, server) in ways.databases.iter_mut().zip([&lab.pair.primary, &lab.pair.standby]) {
            let proxy = PostgresProxy::start(server, authority, desk.clone()).await?;
            *port = proxy.port();
            proxies._postgres.push(proxy);
        }
        let region = format!("http://127.0.0.1:{}", lab.secondary.port());
        let services = HttpProxy::start(Upstream::unsigned("services", &region), desk.clone()).await?;
        for url in ways.services.values_mut() {
            *url = url.replacen(&region, services.url(), 1);
        }
        let edge = lab.edge.url();
        let outside = HttpProxy::start(Upstream::unsigned("outside", &edge), desk.clone()).await?;
        ways.public_url = ways.public_url.replacen(&edge, outside.url(), 1);
        proxies._http.extend([services, outside]);
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
        let missing = || Error::State("this lab has no clusters, and a platform needs two".to_owned());
        let ((url, ca_pem), name) = (ways.clusters.get(i).ok_or_else(missing)?, &aws.clusters[i]);
        let authority = lab.folder().join(format!("{name}-as-reached.pem"));
        std::fs::write(&authority, ca_pem).map_err(Error::system(format!("write {}", authority.display())))?;
        cluster.name = name.clone();
        cluster.endpoint = url.parse().map_err(|error| other(&error))?;
        cluster.ca_file = authority.display().to_string();
    }
    plan.kubernetes.capacity.node_group = aws.node_group.clone();

    for check in &mut plan.checks {
        let url = ways.services.get(&check.service);
        check.url = url.ok_or_else(|| other(&check.service))?.parse().map_err(|error| other(&error))?;
    }
    for component in &mut plan.components {
        let Some(check) = &mut component.check else { continue };
        // A service speaks for it, below its own health.
        let service = check.host_str().and_then(|host| host.split('.').next()).unwrap_or_default();
        let url = ways.services.get(service).ok_or_else(|| other(&component.name))?;
        let below = check.path().strip_prefix("/healthz").unwrap_or_default();
        *check = format!("{url}{below}").parse().map_err(|error| other(&error))?;
    }
    plan.names.hosted_zone = aws.hosted_zone.clone();
    plan.names.public_url = ways.public_url.parse().map_err(|error| other(&error))?;
    plan.names.switch_key = aws.switch_key.clone();
    if let Some(cdn) = &mut plan.names.cdn {
        cdn.distribution = aws.distribution.clone();
    }
    plan.buckets.evidence = aws.evidence_bucket.clone();
    plan.buckets.switch = aws.switch_bucket.clone();
    plan.backups.kms_key = aws.backups_key.clone();
    for (level, topic) in plan.notification.levels.iter_mut().zip(&aws.topics) {
        level.topic_arn = topic.clone();
    }
    toml::to_string(&plan).map_err(|error| other(&error))
}
