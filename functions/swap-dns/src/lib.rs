//! Moves the names that customers use to the failover region.
//!
//! Runs as `SwapDns` in `regional-failover` after the services there have answered and a write has gone through, and as
//! `EditRecords` at the very end. The first throws the switch: one object in a bucket of the tertiary region, which
//! inverted health checks of the lost region watch, so that Route 53 moves traffic by its data plane alone. The second
//! brings records and the CDN in line, whose control planes live in us-east-1; nothing waits for it.
//!
//! If both sides look unhealthy, Route 53 answers as if both were well and customers go back to a primary that is lost or
//! fenced, so the switch is thrown only onto a side that has just answered. It is thrown once: the object is written under
//! the condition that there is none, and one that is there is success. Which record changes were asked for is kept in the
//! evidence bucket, because asking again would make a new change that is pending again.
//! <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/dns-failover-problems.html>

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::{SignedDuration, Timestamp};
use recovery::{
    database::WriteAttempt,
    failover::{FailoverPlan, NamesChange},
    fault::{Classified, Fault},
    names::{Answer, Distribution, NamesError, Prober, Records},
    plan::{Check, Plan, Region},
    run::{FenceOutcome, NamesMoved, RecordsEdited, Run},
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};
use serde::{Deserialize, Serialize};

/// How old a proof of health may be when names move.
const RECENT: SignedDuration = SignedDuration::from_mins(5);

/// What the state machine asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which of the two.
    pub action: Action,
    /// The record so far.
    pub run: Run,
}

/// The two ways in which names move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Throw the switch that health checks watch.
    Switch,
    /// Bring records and the CDN in line.
    Edit,
}

/// What came of it; each form belongs to one action.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Swapped {
    /// [`Action::Switch`].
    Moved(NamesMoved),
    /// [`Action::Edit`].
    Edited(RecordsEdited),
}

/// What names are moved with.
pub struct Means<'a> {
    /// The bucket that health checks watch.
    pub switch: &'a dyn ObjectStore,
    /// The bucket that keeps what was asked for.
    pub evidence: &'a dyn ObjectStore,
    /// Asks the services.
    pub prober: &'a dyn Prober,
    /// The hosted zone.
    pub records: &'a dyn Records,
    /// The CDN, if the plan has one.
    pub cdn: Option<&'a dyn Distribution>,
}

/// The switch as it lies in the bucket: its presence is what counts, its content is for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    /// Who threw it.
    pub run: String,
    /// The region that customers leave.
    pub from: Region,
    /// The region that they go to.
    pub to: Region,
    /// When it was thrown.
    pub at: Timestamp,
}

/// Route 53 changes by record, as they were asked for.
type Changes = BTreeMap<String, String>;

/// Key of the changes of a run in the evidence bucket.
pub fn changes_key(run: &str) -> String {
    format!("records/{run}.json")
}

/// Why names stay where they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record has no plan, so there is nothing to do.
    #[error("not moving names: the run `{0}` has no plan")]
    NoPlan(String),
    /// Customers would find a database that takes no writes.
    #[error("not moving names: the run `{0}` has promoted nothing")]
    NotPromoted(String),
    /// Customers of both sides would write to two databases.
    #[error("not moving names: the old primary is neither fenced nor proven out of reach")]
    NotFenced,
    /// Nobody has asked the services.
    #[error("not moving names: nobody has asked the services of `{0}`")]
    HealthUnknown(Region),
    /// A service was ill, or not asked at all, when health was proven.
    #[error("not moving names: {services} did not answer in `{region}` when last asked at {at}")]
    Ill {
        /// Which, in backticks.
        services: String,
        /// Where.
        region: Region,
        /// When.
        at: Timestamp,
    },
    /// The attempted write was refused.
    #[error("not moving names: `{region}` refused a write: {why}")]
    NotWritable {
        /// Where.
        region: Region,
        /// The server's words.
        why: String,
    },
    /// The proof is old.
    #[error("not moving names: the services of `{region}` were last asked at {at}, {minutes} minutes ago")]
    Stale {
        /// Where.
        region: Region,
        /// When.
        at: Timestamp,
        /// How long ago.
        minutes: i64,
    },
    /// A service does not answer at the moment of use.
    #[error("names wait: {0}")]
    NotNow(String),
    /// The bucket failed.
    #[error("the switch cannot be thrown")]
    Switch(#[source] StoreError),
    /// What was asked for cannot be kept.
    #[error("the record changes of run `{run}` cannot be kept track of")]
    Evidence {
        /// Which run.
        run: String,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// A control plane failed.
    #[error("records and CDN are not in line yet")]
    Names(#[source] NamesError),
    /// Route 53 has not told all its servers.
    #[error("{pending} of {asked} record changes are not in sync with all name servers: {records}")]
    Pending {
        /// How many are not.
        pending: usize,
        /// How many were asked for.
        asked: usize,
        /// Which, in backticks.
        records: String,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::NoPlan(_) => Fault::Permanent,
            Error::NotPromoted(_)
            | Error::NotFenced
            | Error::HealthUnknown(_)
            | Error::Ill { .. }
            | Error::NotWritable { .. }
            | Error::Stale { .. } => Fault::Refused,
            Error::NotNow(_) | Error::Pending { .. } => Fault::NotYet,
            Error::Switch(source) | Error::Evidence { source, .. } => source.fault(),
            Error::Names(source) => source.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::NoPlan(_) | Error::NotPromoted(_) => "start the machine from its first state".to_owned(),
            Error::NotFenced => "fence the old primary first, or cut its region off the network".to_owned(),
            Error::HealthUnknown(_) | Error::Stale { .. } => {
                "run `VerifyRecovery` again and go on from there".to_owned()
            }
            Error::Ill { services, .. } => format!("repair {services}, verify again, then throw the switch"),
            Error::NotWritable { .. } => "find out why the new primary refuses writes".to_owned(),
            Error::NotNow(_) => "look at the service; names move as soon as all answer".to_owned(),
            Error::Switch(source) | Error::Evidence { source, .. } => source.remedy(),
            Error::Names(source) => source.remedy(),
            Error::Pending { .. } => "nothing: traffic has moved by health checks".to_owned(),
        }
    }
}

/// Throws the switch, or brings records and the CDN in line.
///
/// # Errors
/// See [`Error`].
pub async fn swap(request: Request, plan: &Plan, means: &Means<'_>, now: Timestamp) -> Result<Swapped, Error> {
    let Request { action, run } = request;
    let decided = run.plan.as_ref().ok_or_else(|| Error::NoPlan(run.id.clone()))?;
    match action {
        Action::Switch => throw_switch(&run, decided, plan, means, now).await.map(Swapped::Moved),
        Action::Edit => edit(&run.id, &decided.names, means).await.map(Swapped::Edited),
    }
}

async fn throw_switch(
    run: &Run,
    decided: &FailoverPlan,
    plan: &Plan,
    means: &Means<'_>,
    now: Timestamp,
) -> Result<NamesMoved, Error> {
    let key = decided.names.switch_key.as_str();
    if let Some(at) = thrown_at(means.switch, key).await? {
        return Ok(moved(means.switch, key, true, at.unwrap_or(now)));
    }
    refuse_unproven(run, decided, &plan.checks, now)?;
    ask_once_more(&plan.checks, &decided.to, means.prober).await?;
    let switch = Switch { run: run.id.clone(), from: decided.from.clone(), to: decided.to.clone(), at: now };
    match put_json(means.switch, key, &switch, Precondition::Absent).await {
        Ok(()) => Ok(moved(means.switch, key, false, now)),
        // Somebody was first, most likely an attempt of ours whose answer was lost.
        Err(StoreError::PreconditionFailed { .. }) => {
            let at = thrown_at(means.switch, key).await?.flatten();
            Ok(moved(means.switch, key, true, at.unwrap_or(now)))
        }
        Err(source) => Err(Error::Switch(source)),
    }
}

/// When the switch was thrown: `None` if it was not, `Some(None)` if it does not say.
async fn thrown_at(switch: &dyn ObjectStore, key: &str) -> Result<Option<Option<Timestamp>>, Error> {
    let object = switch.get(key).await.map_err(Error::Switch)?;
    // Its content does not matter to health checks; an object that a person put there counts too.
    Ok(object.map(|object| serde_json::from_slice::<Switch>(&object.body).ok().map(|switch| switch.at)))
}

fn moved(switch: &dyn ObjectStore, key: &str, already: bool, at: Timestamp) -> NamesMoved {
    NamesMoved { switch: format!("s3://{}/{key}", switch.bucket()), already, at }
}

/// Names follow proof: a promoted database, a fenced primary, healthy services, an accepted write, all of it recent.
fn refuse_unproven(run: &Run, decided: &FailoverPlan, checks: &[Check], now: Timestamp) -> Result<(), Error> {
    let region = || decided.to.clone();
    if run.promotion.is_none() {
        return Err(Error::NotPromoted(run.id.clone()));
    }
    let fence = run.fence.as_ref().ok_or(Error::NotFenced)?;
    match fence.outcome {
        FenceOutcome::Closed | FenceOutcome::Unreachable => {}
        // Somebody has put their name under two primaries for a while.
        FenceOutcome::StillWritable if fence.consent.is_some() => {}
        FenceOutcome::StillWritable => return Err(Error::NotFenced),
    }
    let health = run.health.as_ref().ok_or_else(|| Error::HealthUnknown(region()))?;
    let is_well = |check: &Check| {
        let mut answers = health.answers.iter().filter(|answer| answer.service == check.service).peekable();
        answers.peek().is_some() && answers.all(|answer| answer.answer.is_healthy())
    };
    let ill: Vec<String> =
        checks.iter().filter(|check| !is_well(check)).map(|check| format!("`{}`", check.service)).collect();
    if !ill.is_empty() {
        return Err(Error::Ill { services: ill.join(", "), region: region(), at: health.observed_at });
    }
    if let WriteAttempt::Rejected { why } = &health.write {
        return Err(Error::NotWritable { region: region(), why: why.clone() });
    }
    let age = now.duration_since(health.observed_at);
    if age > RECENT {
        return Err(Error::Stale { region: region(), at: health.observed_at, minutes: age.as_mins() });
    }
    Ok(())
}

/// What was proven minutes ago is asked again at the moment of use.
async fn ask_once_more(checks: &[Check], to: &Region, prober: &dyn Prober) -> Result<(), Error> {
    let questions = checks.iter().map(|check| prober.ask(&check.url, check.within.0));
    let answers = futures::future::join_all(questions).await;
    let troubles: Vec<String> =
        checks.iter().zip(&answers).filter_map(|(check, answer)| trouble(&check.service, answer, to)).collect();
    if troubles.is_empty() { Ok(()) } else { Err(Error::NotNow(troubles.join("; "))) }
}

fn trouble(service: &str, answer: &Answer, to: &Region) -> Option<String> {
    match (answer.status, &answer.region) {
        (None, _) => {
            let why = answer.error.as_deref().unwrap_or("no reason given");
            Some(format!("`{service}` does not answer ({why})"))
        }
        (Some(status), _) if !answer.is_healthy() => Some(format!("`{service}` answers with HTTP {status}")),
        (_, Some(region)) if region != to.code() => Some(format!("`{service}` is served by `{region}`, not by `{to}`")),
        _ => None,
    }
}

async fn edit(run: &str, names: &NamesChange, means: &Means<'_>) -> Result<RecordsEdited, Error> {
    // Both are tried before either is complained about: they fail apart.
    let cdn = point_cdn(names, means).await;
    let in_sync = sync_records(run, names, means).await;
    Ok(RecordsEdited { in_sync: in_sync?, cdn: cdn? })
}

async fn point_cdn(names: &NamesChange, means: &Means<'_>) -> Result<Option<String>, Error> {
    let (Some(cdn), Some(distribution)) = (&names.cdn, means.cdn) else { return Ok(None) };
    distribution.point_origin(&cdn.origin, &cdn.secondary_domain).await.map_err(Error::Names)?;
    Ok(Some(cdn.secondary_domain.clone()))
}

async fn sync_records(run: &str, names: &NamesChange, means: &Means<'_>) -> Result<Vec<String>, Error> {
    let untracked = |source| Error::Evidence { run: run.to_owned(), source };
    let key = changes_key(run);
    let known = get_json::<Changes>(means.evidence, &key).await.map_err(untracked)?;
    let mut changes = known.map(|(changes, _)| changes).unwrap_or_default();
    let before = changes.len();
    for record in &names.records {
        let name = format!("{} {}", record.name, record.kind);
        if let Entry::Vacant(unasked) = changes.entry(name) {
            let change = means.records.upsert(record, &format!("run {run}")).await.map_err(Error::Names)?;
            unasked.insert(change);
        }
    }
    if changes.len() > before {
        put_json(means.evidence, &key, &changes, Precondition::None).await.map_err(untracked)?;
    }
    let (mut in_sync, mut pending) = (Vec::new(), Vec::new());
    for (name, change) in &changes {
        let done = means.records.is_in_sync(change).await.map_err(Error::Names)?;
        if done { in_sync.push(name.clone()) } else { pending.push(format!("`{name}`")) }
    }
    if pending.is_empty() {
        return Ok(in_sync);
    }
    Err(Error::Pending { pending: pending.len(), asked: changes.len(), records: pending.join(", ") })
}
