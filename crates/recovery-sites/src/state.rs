//! Backups of what is no database: the cluster's state, what replication of objects and images has reached, and whether a
//! failover would find what it needs.
//!
//! All but the closure ask the primary region, and nothing waits for them there: a backup that cannot be taken because its
//! region is lost fails, and a failover does not hear of it.

mod closure;
mod cluster;
mod objects;
mod registry;

use std::{sync::Arc, time::Duration};

use recovery::{
    backup::{Content, Kind, Tool},
    fault::Failure,
    plan::{Mechanism, Plan},
    replication::ReplicationMeter,
};
use recovery_aws::Aws;
use recovery_datapath::{Produced, Sink, TakeError, Taker};
use recovery_lambda::Settings;
use serde::Serialize;

use crate::{Side, Takers, workloads};
use closure::ClosureTaker;
use cluster::ClusterTaker;
use objects::ObjectsTaker;
use registry::RegistryTaker;

/// What S3 promises with replication time control, and what an object may take where the plan promises less.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/replication-time-control.html>
const WITH_TIME_CONTROL: Duration = Duration::from_secs(15 * 60);
const WITHOUT: Duration = Duration::from_secs(24 * 3600);

/// The kinds of the plan that are taken here, ready to be asked.
///
/// # Errors
/// The authority of a cluster cannot be read.
pub(crate) fn takers(settings: &Settings, aws: &Aws) -> Result<Takers, Failure> {
    let mut takers = Takers::new();
    for policy in &settings.plan.backups.policies {
        if let Some(taker) = taker(policy.kind, settings, aws)? {
            takers.insert(policy.kind, taker);
        }
    }
    Ok(takers)
}

fn taker(kind: Kind, settings: &Settings, aws: &Aws) -> Result<Option<Box<dyn Taker>>, Failure> {
    let plan = &settings.plan;
    let (primary, secondary) = (&plan.regions.primary, &plan.regions.secondary);
    Ok(match kind {
        Kind::Snapshot | Kind::Logical | Kind::Physical | Kind::Wal => None,
        Kind::Cluster => Some(Box::new(ClusterTaker {
            platform: plan.platform.clone(),
            cluster: Arc::new(workloads(settings, aws, Side::Primary)?),
            keys: Arc::new(aws.keys(&plan.regions.tertiary).key(&plan.backups.kms_key)),
            selection: plan.backups.cluster.clone(),
        })),
        Kind::Objects => Some(Box::new(ObjectsTaker {
            source: Arc::new(aws.videos()),
            copy: Arc::new(aws.videos_copy()),
            markers: [aws.objects(), aws.objects_copy()],
            evidence: aws.evidence(),
            meter: meter(plan, aws),
            within: if has_time_control(plan) { WITH_TIME_CONTROL } else { WITHOUT },
        })),
        Kind::Registry => Some(Box::new(RegistryTaker {
            source: Arc::new(aws.registry_of(primary)),
            copy: Arc::new(aws.registry_of(secondary)),
            regions: vec![primary.clone(), secondary.clone()],
            lag: registry_lag(plan),
        })),
        Kind::Closure => Some(Box::new(ClosureTaker {
            settings: settings.clone(),
            aws: aws.clone(),
            secondary: workloads(settings, aws, Side::Secondary)?,
        })),
    })
}

/// S3 measures only what it promises something for.
fn meter(plan: &Plan, aws: &Aws) -> Option<Arc<dyn ReplicationMeter>> {
    let metrics = aws.videos_metrics().filter(|_| has_time_control(plan))?;
    Some(Arc::new(metrics))
}

fn has_time_control(plan: &Plan) -> bool {
    let has = |mechanism: &Mechanism| matches!(mechanism, Mechanism::CrossRegionReplication { time_control: true });
    plan.components.iter().any(|component| has(&component.mechanism))
}

fn registry_lag(plan: &Plan) -> Duration {
    let lag = plan.components.iter().find_map(|component| match &component.mechanism {
        Mechanism::RegistryReplication { lag } => Some(lag.0),
        _ => None,
    });
    lag.unwrap_or_default()
}

/// This suite is the tool.
fn tool(name: &str) -> Tool {
    Tool { name: name.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Writes a value as an artifact.
async fn write<T: Serialize>(sink: &Sink, name: &str, content: Content, value: &T) -> Result<(), TakeError> {
    let what = content.to_string();
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| TakeError::Source {
        doing: format!("writing {what}"),
        fault: recovery::fault::Fault::Permanent,
        remedy: "report this as a defect".to_owned(),
        source: Box::new(error),
    })?;
    let about = bytes.len() as u64;
    // What is in memory is whole.
    sink.artifact(name, content, Produced::by_memory(&what, bytes), about, |_| Ok(())).await?;
    Ok(())
}
