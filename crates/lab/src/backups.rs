//! What backups are taken of and written to, without the rest of the platform: an account of the emulated AWS, and with it the
//! database pair or the clusters, each with the shipped plan that names them.
//!
//! Fault proxies stand in front of S3 and RDS, under one desk.

use std::path::Path;
use std::sync::Arc;

use recovery::plan::{Driver, Plan};

use crate::aws::{ACCESS_KEY, Aws, PRIMARY, SECONDARY, SECRET_KEY, Seed, Seeded};
use crate::error::{Error, Result};
use crate::faults::{Desk, HttpProxy, Upstream};
use crate::folder::Folder;
use crate::kubernetes::{self, Cluster, Flavour};
use crate::postgres::{self, Pair, Passwords};
use crate::rds::{self, Rds, cluster_arn};

const PLAN: &str = include_str!("../../../plans/sparc.toml");
/// The role that backups are taken as, and the group that `bundles/backup-rights.yaml` gives its rights to.
const ROLE: (&str, &str) = ("sparc-backup", "sparc:backup");

/// The account: buckets, keys, registries, secrets.
pub struct Account {
    /// The emulated AWS.
    pub aws: Aws,
    /// What stands in it.
    pub seeded: Seeded,
    /// Where faults are laid.
    pub desk: Desk,
    /// The shipped plan, with this account's key.
    pub plan: Plan,
    proxies: Vec<HttpProxy>,
}

impl Account {
    /// Starts and seeds it.
    pub async fn start() -> Result<Account> {
        Account::with(Seed::default()).await
    }

    async fn with(seed: Seed) -> Result<Account> {
        let aws = Aws::start().await?;
        let seeded = aws.seed(&seed).await?;
        let mut plan = Plan::parse("plans/sparc.toml", PLAN).map_err(|error| Error::State(error.to_string()))?;
        plan.backups.kms_key = seeded.backups_key.clone();
        let mut account = Account { aws, seeded, desk: Desk::default(), plan, proxies: Vec::new() };
        account.script("S3").await?;
        Ok(account)
    }

    /// Puts a fault proxy in front of a service, as [`Aws::route`] calls it.
    async fn script(&mut self, service: &'static str) -> Result<()> {
        let proxy = HttpProxy::start(Upstream::plain(self.aws.endpoint(service)), self.desk.clone()).await?;
        self.aws.route(service, proxy.url());
        self.proxies.push(proxy);
        Ok(())
    }
}

/// The database pair, and the account that its backups go to.
pub struct Databases {
    /// The account.
    pub account: Account,
    /// The servers.
    pub pair: Arc<Pair>,
    /// The RDS API over them.
    pub rds: Rds,
}

impl Databases {
    /// Starts them; the plan says that the servers are driven like this.
    pub async fn start(driver: Driver) -> Result<Databases> {
        let passwords = Passwords::new();
        let options = postgres::Options { passwords: Some(passwords.clone()), ..postgres::Options::default() };
        let seed = Seed { passwords: Some(passwords), ..Seed::default() };
        let (pair, mut account) = futures::future::try_join(Pair::start(options), Account::with(seed)).await?;
        let pair = Arc::new(pair);
        let rds = Rds::start(&account.aws, Arc::clone(&pair), rds::Options::default()).await?;
        account.script("RDS").await?;

        let postgresql = &mut account.plan.postgresql;
        postgresql.driver = driver;
        postgresql.ca_file = pair.authority().path().display().to_string();
        let servers = [&mut postgresql.primary, &mut postgresql.standby].into_iter().zip([PRIMARY, SECONDARY]);
        for ((server, region), real) in servers.zip([&pair.primary, &pair.standby]) {
            server.host = real.host().to_owned();
            server.port = real.port();
            if driver == Driver::AuroraGlobal {
                server.instance = cluster_arn(region);
            }
        }
        Ok(Databases { account, pair, rds })
    }
}

/// The two clusters, and the account that their backups go to. Who takes backups is let in, and has no rights yet.
pub struct Clusters {
    /// The account.
    pub account: Account,
    /// The cluster that is backed up.
    pub primary: Cluster,
    /// The cluster that a failover goes to.
    pub secondary: Cluster,
    folder: Folder,
}

impl Clusters {
    /// Starts them, of these kinds.
    pub async fn start([primary, secondary]: [Flavour; 2]) -> Result<Clusters> {
        let making =
            futures::future::try_join3(Account::start(), cluster(PRIMARY, primary), cluster(SECONDARY, secondary));
        let (mut account, primary, secondary) = making.await?;
        let folder = Folder::on_disk()?;
        let kubernetes = &mut account.plan.kubernetes;
        for (planned, real) in [(&mut kubernetes.primary, &primary), (&mut kubernetes.secondary, &secondary)] {
            let file = folder.path().join(format!("{}.pem", planned.name));
            std::fs::write(&file, real.ca_pem()).map_err(Error::system(format!("write {}", file.display())))?;
            let endpoint = url::Url::parse(real.endpoint());
            planned.endpoint = endpoint.map_err(|error| Error::State(format!("the cluster's endpoint: {error}")))?;
            planned.ca_file = file.display().to_string();
        }
        // Nobody connects to a database here.
        account.plan.postgresql.ca_file = account.plan.kubernetes.primary.ca_file.clone();
        Ok(Clusters { account, primary, secondary, folder })
    }

    /// The folder that the plan's files lie in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

async fn cluster(region: &str, flavour: Flavour) -> Result<Cluster> {
    let name = format!("sparc-prod-{region}");
    let options = kubernetes::Options { region: region.to_owned(), flavour, ..kubernetes::Options::new(&name) };
    let cluster = Cluster::start(options).await?;
    cluster.admit_as(ACCESS_KEY, SECRET_KEY, ROLE.0, &[ROLE.1]);
    Ok(cluster)
}
