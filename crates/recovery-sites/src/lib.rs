//! Adapters for the places that a plan names, put together once for functions and for `drctl`.
//!
//! Nothing is connected here: an adapter connects when it is asked something, so a place that is lost costs whoever asks
//! it, and nobody else.

use std::sync::Arc;

use recovery::{
    database::Replica,
    fault::{Failure, chain},
    plan::Driver,
};
use recovery_aws::Aws;
use recovery_kubernetes::{Cluster, eks};
use recovery_lambda::{Settings, misconfigured};
use recovery_postgres::{SelfManaged, Server};

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
    let kubernetes = &settings.plan.kubernetes;
    Ok(match side {
        Side::Primary => eks::primary(&settings.plan, settings.file(&kubernetes.primary.ca_file)?, aws),
        Side::Secondary => eks::secondary(&settings.plan, settings.file(&kubernetes.secondary.ca_file)?, aws),
    })
}
