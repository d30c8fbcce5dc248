//! Looks at the world and decides everything; changes nothing.
//!
//! Runs as `PlanFailover`, the first task of `regional-failover`. What it returns is immutable: later states have no choices
//! to make. All looking happens at once and each look is bounded, so a lost region costs one time-out and not five; what
//! did not answer is recorded as unknown, and the decision says whether that matters. Where it does, the state machine looks
//! again before it gives up.
//!
//! Repeating is safe, it only reads. A repeated run finds its own fence and gets the permit that it had.

use jiff::Timestamp;
use recovery::{
    cluster::{NodeGroup, Workloads},
    database::{Database, PrimaryPosition, position_key},
    failover::{FailoverPlan, Refusal, decide},
    fault::{Classified, Fault, chain},
    fence,
    incident::{Incident, NotAnIncident},
    plan::Plan,
    store::{ObjectStore, get_json},
    survey::{Sighting, Survey},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What starts the decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Execution name.
    pub run_id: String,
    /// When the engine started the run.
    pub started_at: Timestamp,
    /// The event as it came.
    pub event: Value,
}

/// Where this function looks.
pub struct World<'a> {
    /// The server that takes writes.
    pub primary: &'a dyn Database,
    /// The server that follows it.
    pub standby: &'a dyn Database,
    /// Fence and positions.
    pub evidence: &'a dyn ObjectStore,
    /// The switch that health checks watch.
    pub switch: &'a dyn ObjectStore,
    /// Nodes of the secondary cluster.
    pub node_group: &'a dyn NodeGroup,
    /// Writers of the primary cluster.
    pub primary_workloads: &'a dyn Workloads,
}

/// There is no plan for this failover.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event does not ask for one.
    #[error("the event starts no failover")]
    Event(#[from] NotAnIncident),
    /// A guard held.
    #[error("{refusal}")]
    Refused {
        /// Which one.
        refusal: Box<Refusal>,
        /// What the person on call does.
        remedy: String,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::Event(error) => error.fault(),
            Error::Refused { refusal, .. } if refusal.is_blind() => Fault::Transient,
            Error::Refused { .. } => Fault::Refused,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::Event(error) => error.remedy(),
            Error::Refused { remedy, .. } => remedy.clone(),
        }
    }
}

/// Decides a failover from the event and the world.
///
/// # Errors
/// The event is not understood, or a guard holds.
pub async fn plan_failover(request: &Request, plan: &Plan, world: &World<'_>) -> Result<FailoverPlan, Error> {
    let incident = Incident::from_event(&request.event, plan)?;
    let survey = survey(plan, world).await;
    decide(plan, &incident, &survey, &request.run_id)
        .map_err(|refusal| Error::Refused { remedy: refusal.remedy(plan), refusal: Box::new(refusal) })
}

/// Looks at everything at once; what does not answer is a value too.
pub async fn survey(plan: &Plan, world: &World<'_>) -> Survey {
    let position = async {
        let kept = get_json::<PrimaryPosition>(world.evidence, &position_key(&plan.platform)).await?;
        Ok::<_, recovery::store::StoreError>(kept.map(|(position, _)| position))
    };
    let switched =
        async { Ok::<_, recovery::store::StoreError>(world.switch.get(&plan.names.switch_key).await?.is_some()) };
    let (primary, standby, position, fence, switched, node_group, writers) = tokio::join!(
        world.primary.status(),
        world.standby.status(),
        position,
        fence::read(world.evidence, &plan.platform),
        switched,
        world.node_group.look(),
        bounded(plan, world.primary_workloads.writers()),
    );
    let standby = sighting(standby);
    Survey {
        // The standby's clock is the one that the decision rests on; without it there is no decision to date.
        observed_at: standby.seen().map_or(Timestamp::UNIX_EPOCH, |status| status.observed_at),
        primary: sighting(primary),
        standby,
        position: sighting(position),
        fence: sighting(fence),
        switched: sighting(switched),
        node_group: sighting(node_group),
        writers: writers.map_or_else(Sighting::Unknown, sighting),
    }
}

/// The primary cluster may be behind a partition: it informs, so it is not waited for longer than the databases.
async fn bounded<T>(plan: &Plan, look: impl Future<Output = T>) -> Result<T, String> {
    let limit = plan.failover.look_timeout;
    tokio::time::timeout(limit.0, look).await.map_err(|_| format!("no answer within {limit}"))
}

fn sighting<T, E: std::error::Error>(looked: Result<T, E>) -> Sighting<T> {
    looked.map_or_else(|error| Sighting::Unknown(chain(&error)), Sighting::Seen)
}
