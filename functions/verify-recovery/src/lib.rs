//! Asks the recovered services, not the steps, whether they work.
//!
//! Runs as `VerifyRecovery` before names move and as `VerifyReached` after it, through the public name as a customer would.
//! With the action `watch` it is the detection too: each call writes a heartbeat on the primary and keeps its position
//! outside the primary's region, so that a loss can be measured later; a primary that takes no heartbeat is impaired. The
//! heartbeat is written among the replicated objects as well, for the same reason.
//!
//! Repeating is safe: it asks questions, and its writes are rows of its own.

pub mod metric;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use recovery::{
    database::{Database, DatabaseError, PrimaryPosition, WriteAttempt, position_key},
    fault::{Classified, Fault, chain},
    fence::{self, FenceState},
    holdings::{Holdings, ImagesHeld, MARKER_KEY, Marker, ObjectsHeld, Registry, RegistryError, written_key},
    names::{Answer, Prober},
    plan::Plan,
    run::{Health, Reached, Run, ServiceAnswer},
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
    survey::Sighting,
};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Do the services of the secondary region work?
    Health {
        /// The record so far.
        run: Box<Run>,
    },
    /// Do customers reach them?
    Reached {
        /// The record so far.
        run: Box<Run>,
    },
    /// Does the primary take a heartbeat?
    Watch {},
}

/// What this function asks.
pub struct World<'a> {
    /// The server that takes writes before a failover; watched.
    pub primary: &'a dyn Database,
    /// The server that takes them afterwards.
    pub standby: &'a dyn Database,
    /// Asks services as a customer would.
    pub prober: &'a dyn Prober,
    /// Positions and the fence object.
    pub evidence: &'a dyn ObjectStore,
    /// Customers' objects in the primary region.
    pub objects: &'a dyn ObjectStore,
    /// Their copy in the secondary region.
    pub objects_copy: &'a dyn ObjectStore,
    /// Images in the secondary region.
    pub registry: &'a dyn Registry,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// Services work.
    Health(Health),
    /// Customers reach them.
    Reached(Reached),
    /// The primary, watched.
    Watch(Watch),
}

/// Asks what the request wants to know.
///
/// # Errors
/// Those of [`health`], [`reached`] and [`watch`].
pub async fn verify_recovery(
    request: &Request,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<Response, Error> {
    match request {
        Request::Health { run } => health(run, plan, world, now).await.map(Response::Health),
        Request::Reached { .. } => reached(plan, world.prober).await.map(Response::Reached),
        Request::Watch {} => watch(plan, world).await.map(Response::Watch),
    }
}

/// The platform does not work, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Services that do not answer as they should.
    #[error("{} of {asked} services do not answer: {}", silent.len(), silent.join("; "))]
    Silent {
        /// How many were asked.
        asked: usize,
        /// Which, and what they say.
        silent: Vec<String>,
    },
    /// The new primary refuses a write.
    #[error("`{server}` does not take writes: {why}")]
    NotWritable {
        /// The new primary.
        server: String,
        /// Its words.
        why: String,
    },
    /// The new primary does not answer.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The public name still leads elsewhere.
    #[error("`{url}` is not served by `{region}` yet: {said}")]
    Elsewhere {
        /// What was asked.
        url: String,
        /// Who should answer.
        region: String,
        /// What came.
        said: String,
    },
    /// The position could not be kept, so a loss could not be measured.
    #[error("the position of the primary cannot be kept")]
    Position(#[from] StoreError),
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::Silent { .. } | Error::NotWritable { .. } | Error::Elsewhere { .. } => Fault::NotYet,
            Error::Database(error) => error.fault(),
            Error::Position(error) => error.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::Silent { .. } => "read the logs of the services named, in the failover cluster".to_owned(),
            Error::NotWritable { server, .. } => format!("read the log of `{server}`"),
            Error::Elsewhere { .. } => {
                "look at the health checks of both records in Route 53; do not edit records while they agree".to_owned()
            }
            Error::Database(error) => error.remedy(),
            Error::Position(error) => error.remedy(),
        }
    }
}

/// Asks every service of the plan in the secondary region, and the new primary for a write, all at once; beside that it
/// looks at what else the region holds, which decides nothing here.
///
/// # Errors
/// Any of them does not work yet.
pub async fn health(run: &Run, plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<Health, Error> {
    let World { standby: primary, prober, .. } = *world;
    let questions = plan.checks.iter().map(|check| async move {
        ServiceAnswer { service: check.service.clone(), answer: prober.ask(&check.url, check.within.0).await }
    });
    let (answers, write, holdings) = tokio::join!(
        futures::future::join_all(questions),
        primary.attempt_write(&run.id),
        holdings(run, plan, world, now)
    );
    let silent: Vec<String> = answers.iter().filter(|one| !one.answer.is_healthy()).map(describe).collect();
    if !silent.is_empty() {
        return Err(Error::Silent { asked: answers.len(), silent });
    }
    let write = write?;
    if let WriteAttempt::Rejected { why } = write {
        return Err(Error::NotWritable { server: primary.name().to_owned(), why });
    }
    let observed_at = answers.iter().map(|one| one.answer.observed_at).max().unwrap_or(now);
    Ok(Health { answers, write, observed_at, holdings })
}

/// Looks at what the secondary region holds beside the database and the cluster. What cannot be seen is unknown.
async fn holdings(run: &Run, plan: &Plan, world: &World<'_>, now: Timestamp) -> Holdings {
    let limit = plan.failover.look_timeout.0;
    let checks = plan.components.iter().filter_map(|component| Some((component, component.check.as_ref()?)));
    let questions = checks.map(|(component, url)| async move {
        ServiceAnswer { service: component.name.clone(), answer: world.prober.ask(url, limit).await }
    });
    let images = async {
        match run.rollout.as_ref().map(|rollout| rollout.images.as_slice()) {
            None | Some([]) => None,
            Some(images) => Some(within(limit, images_held(images, world.registry, now)).await),
        }
    };
    let (components, objects, images) =
        tokio::join!(futures::future::join_all(questions), within(limit, objects_held(plan, world, now)), images);
    Holdings { components, objects: Some(objects), images }
}

async fn objects_held(plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<ObjectsHeld, StoreError> {
    let asked = Instant::now();
    let written = written_key(&plan.platform);
    let (newest, written) = tokio::try_join!(
        get_json::<Marker>(world.objects_copy, MARKER_KEY),
        get_json::<Marker>(world.evidence, &written)
    )?;
    let heartbeat = |found: Option<(Marker, String)>| found.map(|(marker, _)| marker.heartbeat);
    Ok(ObjectsHeld {
        bucket: world.objects_copy.bucket().to_owned(),
        newest: heartbeat(newest),
        written: heartbeat(written),
        observed_at: answered(now, asked),
    })
}

async fn images_held(images: &[String], registry: &dyn Registry, now: Timestamp) -> Result<ImagesHeld, RegistryError> {
    let asked = Instant::now();
    let missing = registry.missing(images).await?;
    Ok(ImagesHeld { asked: images.len(), missing, observed_at: answered(now, asked) })
}

/// When an answer had come to a question that was asked at `now`. Neither S3 nor the registry says a time of its own.
fn answered(now: Timestamp, asked: Instant) -> Timestamp {
    now.saturating_add(asked.elapsed()).unwrap_or(now)
}

/// A look that may take so long and no longer.
async fn within<T, E: std::error::Error>(limit: Duration, look: impl Future<Output = Result<T, E>>) -> Sighting<T> {
    match tokio::time::timeout(limit, look).await {
        Ok(Ok(seen)) => Sighting::Seen(seen),
        Ok(Err(error)) => Sighting::Unknown(chain(&error)),
        Err(_) => Sighting::Unknown(format!("no answer within {} s", limit.as_secs_f64())),
    }
}

/// Asks the public name from outside.
///
/// # Errors
/// Another region answers, or nobody.
pub async fn reached(plan: &Plan, prober: &dyn Prober) -> Result<Reached, Error> {
    let url = &plan.names.public_url;
    let secondary = plan.regions.secondary.code();
    let answer = prober.ask(url, plan.failover.look_timeout.0).await;
    if answer.is_healthy() && answer.region.as_deref() == Some(secondary) {
        return Ok(Reached { url: url.to_string(), answer });
    }
    Err(Error::Elsewhere { url: url.to_string(), region: secondary.to_owned(), said: said(&answer) })
}

/// What one look at the primary showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The heartbeat and where the log ended, or why there is none.
    pub primary: Sighting<PrimaryPosition>,
    /// The primary is fenced by a failover, so its silence is no impairment.
    pub fenced: bool,
}

/// Writes a heartbeat on the primary and keeps its position in the evidence bucket.
///
/// # Errors
/// The evidence bucket fails. A silent primary is an answer, not an error.
pub async fn watch(plan: &Plan, world: &World<'_>) -> Result<Watch, Error> {
    let World { primary, evidence, .. } = *world;
    match primary.beat().await {
        Ok(position) => {
            let key = position_key(&plan.platform);
            let (kept, marked) = tokio::join!(
                put_json(evidence, &key, &position, Precondition::None),
                within(plan.failover.look_timeout.0, mark(plan, world, Marker { heartbeat: position.heartbeat }))
            );
            kept?;
            if let Sighting::Unknown(why) = marked {
                // The database is what is watched. That the loss of objects will not be known is for a log.
                tracing::warn!("the heartbeat was not written among the objects: {why}");
            }
            Ok(Watch { primary: Sighting::Seen(position), fenced: false })
        }
        Err(error) => {
            let fence = fence::read(evidence, &plan.platform).await?;
            let fenced = fence.is_some_and(|record| record.state != FenceState::Lifted);
            Ok(Watch { primary: Sighting::Unknown(chain(&error)), fenced })
        }
    }
}

/// Writes the heartbeat among the replicated objects, then keeps outside the region that it was.
async fn mark(plan: &Plan, world: &World<'_>, marker: Marker) -> Result<(), StoreError> {
    put_json(world.objects, MARKER_KEY, &marker, Precondition::None).await?;
    put_json(world.evidence, &written_key(&plan.platform), &marker, Precondition::None).await
}

fn describe(one: &ServiceAnswer) -> String {
    format!("`{}` {}", one.service, said(&one.answer))
}

fn said(answer: &Answer) -> String {
    match (answer.status, &answer.error, &answer.region) {
        (Some(status), _, Some(region)) => format!("answered {status} from {region}"),
        (Some(status), _, None) => format!("answered {status} without saying from where"),
        (None, Some(error), _) => format!("did not answer: {error}"),
        (None, None, _) => "did not answer".to_owned(),
    }
}
