//! Adapters for the places that a plan names, put together once for functions and for `drctl`.
//!
//! Nothing is connected here: an adapter connects when it is asked something, so a place that is lost costs whoever asks
//! it, and nobody else.

mod needs;
mod state;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use recovery::{
    backup::Kind,
    database::Replica,
    fault::{Failure, chain},
    plan::{Driver, Region},
};
use recovery_aws::{Aws, eks_token};
use recovery_datapath::Taker;
use recovery_kubernetes::{Cluster, Connection, Limits, OnConflict, Token, TokenProvider};
use recovery_lambda::{Settings, misconfigured};
use recovery_postgres::{BackupSource, Logical, Physical, SelfManaged, Server};

pub use needs::closure;

/// The database cluster of the plan.
pub struct Databases {
    /// The server that takes writes.
    pub primary: Arc<Server>,
    /// The server that follows it.
    pub standby: Arc<Server>,
    /// The API that promotes it.
    pub replica: Arc<dyn Replica>,
}

/// The servers of the plan, verified against the plan's certificate authorities.
///
/// # Errors
/// The authorities' file cannot be used.
pub fn databases(settings: &Settings, aws: &Aws) -> Result<Databases, Failure> {
    let plan = &settings.plan;
    let authorities = settings.file(&plan.postgresql.ca_file)?;
    let tls = recovery_postgres::trust(authorities.as_bytes())
        .map_err(|error| misconfigured(&format!("`{}`: {}", plan.postgresql.ca_file, chain(&error))))?;
    let secrets = aws.secrets();
    let primary = Arc::new(Server::primary(plan, &tls, &secrets));
    let standby = Arc::new(Server::standby(plan, &tls, &secrets));
    let replica = match (plan.postgresql.driver, aws.replica()) {
        (Driver::Rds | Driver::AuroraGlobal, Some(managed)) => managed,
        (Driver::SelfManaged, _) | (_, None) => Arc::new(SelfManaged(Arc::clone(&standby))),
    };
    Ok(Databases { primary, standby, replica })
}

/// How each kind of backup is taken.
pub type Takers = BTreeMap<Kind, Box<dyn Taker>>;

/// Everything that can be taken on the plan's platform.
///
/// # Errors
/// The authorities' file, or that of a cluster, cannot be used.
pub fn takers(settings: &Settings, aws: &Aws) -> Result<Takers, Failure> {
    let plan = &settings.plan;
    let tls = recovery_postgres::trust(settings.file(&plan.postgresql.ca_file)?.as_bytes())
        .map_err(|error| misconfigured(&format!("`{}`: {}", plan.postgresql.ca_file, chain(&error))))?;
    let authorities = settings.folder.join(&plan.postgresql.ca_file);
    let source = BackupSource::of_plan(plan, authorities, &tls, &aws.secrets());
    let mut takers = Takers::new();
    takers.insert(Kind::Logical, Box::new(Logical::new(source.clone())));
    takers.insert(Kind::Physical, Box::new(Physical::new(source)));
    takers.append(&mut state::takers(settings, aws)?);
    if let Some(snapshots) = aws.snapshots() {
        takers.insert(Kind::Snapshot, Box::new(snapshots));
    }
    Ok(takers)
}

/// One of the two clusters of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the platform ran.
    Primary,
    /// Where it goes.
    Secondary,
}

/// The platform's namespace in a cluster, reached with tokens that the cluster's own region signs.
///
/// # Errors
/// The cluster's certificate authority cannot be read.
pub fn workloads(settings: &Settings, aws: &Aws, side: Side) -> Result<Cluster, Failure> {
    let plan = &settings.plan;
    // In a disaster the recovery overlay is the truth: in the cluster that takes over, fields of others are taken.
    let (cluster, region, on_conflict) = match side {
        Side::Primary => (&plan.kubernetes.primary, &plan.regions.primary, OnConflict::Refuse),
        Side::Secondary => (&plan.kubernetes.secondary, &plan.regions.secondary, OnConflict::Take),
    };
    let connection = Connection {
        cluster: cluster.name.clone(),
        endpoint: cluster.endpoint.to_string(),
        ca_pem: settings.file(&cluster.ca_file)?,
        namespace: plan.kubernetes.namespace.clone(),
        writers: plan.kubernetes.writers.clone(),
        limits: Limits { connect: plan.failover.look_timeout.0, ..Limits::default() },
        on_conflict,
    };
    let credentials = aws.config(region).credentials_provider();
    let tokens = EksTokens { credentials, region: region.clone(), cluster: cluster.name.clone() };
    Ok(Cluster::new(connection, Arc::new(tokens)))
}

/// A cluster of the plan as a state machine addresses it: by name, endpoint and authority.
///
/// # Errors
/// The plan has no cluster of this name.
pub fn addressed(
    settings: &Settings,
    aws: &Aws,
    name: &str,
    endpoint: &str,
    ca_pem: String,
    namespace: &str,
) -> Result<Cluster, Failure> {
    let plan = &settings.plan;
    let sides =
        [(&plan.kubernetes.primary, &plan.regions.primary), (&plan.kubernetes.secondary, &plan.regions.secondary)];
    let (cluster, region) = sides
        .into_iter()
        .find(|(cluster, _)| cluster.name == name)
        .ok_or_else(|| misconfigured(&format!("`{name}` is no cluster of the plan")))?;
    let connection = Connection {
        cluster: cluster.name.clone(),
        endpoint: endpoint.to_owned(),
        ca_pem,
        namespace: namespace.to_owned(),
        writers: plan.kubernetes.writers.clone(),
        limits: Limits::default(),
        on_conflict: OnConflict::Refuse,
    };
    let credentials = aws.config(region).credentials_provider();
    let tokens = EksTokens { credentials, region: region.clone(), cluster: cluster.name.clone() };
    Ok(Cluster::new(connection, Arc::new(tokens)))
}

/// Signs tokens with the regional STS of the cluster's own region.
struct EksTokens {
    credentials: Option<SharedCredentialsProvider>,
    region: Region,
    cluster: String,
}

#[async_trait]
impl TokenProvider for EksTokens {
    async fn token(&self) -> Result<Token, Box<dyn std::error::Error + Send + Sync>> {
        let provider = self.credentials.as_ref().ok_or("there are no AWS credentials")?;
        let credentials = provider.provide_credentials().await?;
        let token = eks_token::sign_eks_token(&credentials, self.region.code(), &self.cluster, SystemTime::now())?;
        Ok(Token { secret: token.into_secret(), valid_for: Some(eks_token::VALID_FOR) })
    }
}
