//! When each state began and ended, and where the time went.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{measure::reached_at, seen};
use crate::{failover::seconds_between, incident::Incident, run::Run};

/// One state as the engine recorded it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateSpan {
    /// Name of the state.
    pub state: String,
    /// Its `Comment`.
    #[serde(default)]
    pub comment: String,
    /// When it was entered.
    pub began_at: Timestamp,
    /// When it was left; absent while it is under way.
    pub ended_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// Error of the last attempt that failed: `Recovery.NotYet: 41 of 50 nodes Ready`.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The last attempt failed and a `Catch` took over, or the run ended there.
    #[serde(default)]
    pub failed: bool,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It did what it is for.
    Done,
    /// It failed.
    Failed,
    /// It was under way when the report was written.
    UnderWay,
}

/// Where a step's times come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepSource {
    /// The engine's event history.
    History,
    /// The run's record: the end is a measurement, the begin is the end of the step before.
    Record,
}

/// One step of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Name of the state.
    pub state: String,
    /// Why it stands where it stands.
    pub comment: String,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// How often it was tried; unknown without a history.
    pub attempts: Option<u32>,
    /// How it ended.
    pub ending: Ending,
    /// What was seen.
    pub seen: String,
    /// Where the times come from.
    pub source: StepSource,
}

/// Why a moment matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkKind {
    /// The impairment began.
    Impairment,
    /// Somebody or something said so.
    Declared,
    /// The run started.
    Started,
    /// The standby became the primary.
    PointOfNoReturn,
    /// Customers reach the secondary region.
    Recovered,
}

/// A moment that matters more than others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Why.
    pub kind: MarkKind,
    /// When.
    pub at: Timestamp,
    /// In words.
    pub label: String,
}

/// A stretch of the recovery time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Stable name: `detection`, `decision`, `fence`, `promotion`, `capacity`, `workloads`, `health`, `names`.
    pub name: String,
    /// In words.
    pub title: String,
    /// Begin.
    pub began_at: Timestamp,
    /// End.
    pub ended_at: Timestamp,
    /// Length in seconds.
    pub seconds: f64,
}

/// Where the time went. Capacity runs beside the database; the others follow each other.
pub(super) fn phases(run: &Run, incident: Option<&Incident>) -> Vec<Phase> {
    let began = incident.map(|incident| incident.began_at);
    let declared = incident.map(|incident| incident.declared_at);
    let decided = decided_at(run);
    let fenced = run.fence.as_ref().map(|fence| fence.observed_at);
    let writable = run.promotion.as_ref().map(|promotion| promotion.writable_at);
    let capacity = run.scaling.as_ref().map(|scaling| scaling.observed_at);
    let ready = match (writable, capacity) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let rolled_out = run.rollout.as_ref().map(|rollout| rollout.observed_at);
    let healthy = run.health.as_ref().map(|health| health.observed_at);
    let switched = run.names.as_ref().map(|names| names.at);
    let all = [
        ("detection", "Detection: from the impairment to the declaration", began, declared),
        ("decision", "Decision: from the declaration to the first change", declared.or(began), decided),
        ("fence", "Fence: closing the old primary", decided, fenced),
        ("promotion", "Promotion: until the new primary took a write", fenced, writable),
        ("capacity", "Capacity: until enough nodes were Ready, beside the database", decided, capacity),
        ("workloads", "Workloads: until all rollouts were complete", ready, rolled_out),
        ("health", "Health: until services had answered", rolled_out, healthy),
        ("names", "Names: from healthy services to the first customer", switched.or(healthy), reached_at(run)),
    ];
    all.into_iter()
        .filter_map(|(name, title, begin, end)| {
            let (began_at, ended_at) = (begin?, end?);
            // Clocks of several machines meet here: a step cannot end before it began.
            let ended_at = ended_at.max(began_at);
            Some(Phase {
                name: name.to_owned(),
                title: title.to_owned(),
                began_at,
                ended_at,
                seconds: seconds_between(began_at, ended_at),
            })
        })
        .collect()
}

/// When the run was free to change something: decided, and confirmed where that is asked for.
pub(super) fn decided_at(run: &Run) -> Option<Timestamp> {
    let planned = run.plan.as_ref().map(|plan| plan.survey.observed_at)?;
    Some(run.approval.as_ref().map_or(planned, |approval| approval.at.max(planned)))
}

pub(super) fn marks(run: &Run, incident: Option<&Incident>) -> Vec<Mark> {
    let mark = |kind, at, label: &str| Mark { kind, at, label: label.to_owned() };
    let mut marks = Vec::new();
    if let Some(incident) = incident {
        marks.push(mark(MarkKind::Impairment, incident.began_at, "impairment"));
        marks.push(mark(MarkKind::Declared, incident.declared_at, "declared"));
    }
    marks.push(mark(MarkKind::Started, run.started_at, "run started"));
    if let Some(promotion) = &run.promotion {
        marks.push(mark(MarkKind::PointOfNoReturn, promotion.writable_at, "point of no return"));
    }
    if let Some(at) = reached_at(run) {
        marks.push(mark(MarkKind::Recovered, at, "recovered"));
    }
    marks
}

pub(super) fn steps(run: &Run, history: &[StateSpan]) -> Vec<Step> {
    let mut steps = if history.is_empty() { from_record(run) } else { from_history(run, history) };
    steps.sort_by_key(|step| step.began_at);
    steps
}

fn from_history(run: &Run, history: &[StateSpan]) -> Vec<Step> {
    history
        .iter()
        .map(|span| {
            let words = result_words(run, &span.state).unwrap_or_default();
            let retried = span.trouble.as_ref().map_or_else(String::new, |trouble| {
                if span.failed { trouble.clone() } else { format!("before that: {trouble}") }
            });
            let seen = match (span.failed, words.is_empty(), retried.is_empty()) {
                (true, _, _) | (false, true, _) => retried,
                (false, false, true) => words,
                (false, false, false) => format!("{words} ({retried})"),
            };
            Step {
                state: span.state.clone(),
                comment: span.comment.clone(),
                began_at: span.began_at,
                ended_at: span.ended_at,
                seconds: span.ended_at.map(|ended| seconds_between(span.began_at, ended).max(0.0)),
                attempts: Some(span.attempts),
                ending: match (span.failed, span.ended_at) {
                    (true, _) => Ending::Failed,
                    (false, Some(_)) => Ending::Done,
                    (false, None) => Ending::UnderWay,
                },
                seen,
                source: StepSource::History,
            }
        })
        .collect()
}

fn from_record(run: &Run) -> Vec<Step> {
    let planned = run.plan.as_ref().map(|plan| plan.survey.observed_at);
    let decided = decided_at(run);
    let fenced = run.fence.as_ref().map(|fence| fence.observed_at);
    let writable = run.promotion.as_ref().map(|promotion| promotion.writable_at);
    let capacity = run.scaling.as_ref().map(|scaling| scaling.observed_at);
    let rolled_out = run.rollout.as_ref().map(|rollout| rollout.observed_at);
    let healthy = run.health.as_ref().map(|health| health.observed_at);
    let switched = run.names.as_ref().map(|names| names.at);
    let lifted = run.reversal.as_ref().and_then(|reversal| reversal.fence.as_ref()).map(|fence| fence.observed_at);
    let released = run.reversal.as_ref().and_then(|reversal| reversal.capacity.as_ref()).map(|c| c.observed_at);
    let ready = match (writable, capacity) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let all = [
        ("PlanFailover", Some(run.started_at), planned),
        ("AwaitApproval", planned, run.approval.as_ref().map(|approval| approval.at)),
        ("FencePrimary", decided, fenced),
        ("PromoteReplica", fenced, writable),
        ("AwaitCapacity", decided, capacity),
        ("DeployWorkloads", ready, rolled_out),
        ("VerifyRecovery", rolled_out, healthy),
        ("SwapDns", healthy, switched),
        ("VerifyReached", switched, reached_at(run)),
        ("LiftFence", fenced.or(decided), lifted),
        ("ReleaseCapacity", lifted.or(decided), released),
    ];
    all.into_iter()
        .filter_map(|(state, began, ended)| {
            let (began_at, ended_at) = (began?, ended?);
            let ended_at = ended_at.max(began_at);
            Some(Step {
                state: state.to_owned(),
                comment: String::new(),
                began_at,
                ended_at: Some(ended_at),
                seconds: Some(seconds_between(began_at, ended_at)),
                attempts: None,
                ending: Ending::Done,
                seen: result_words(run, state).unwrap_or_default(),
                source: StepSource::Record,
            })
        })
        .collect()
}

/// What the result of a state says, from the record's field.
fn result_words(run: &Run, state: &str) -> Option<String> {
    match state {
        "PlanFailover" => run.plan.as_ref().map(seen::plan),
        "AwaitApproval" => run.approval.as_ref().map(seen::approval),
        "FencePrimary" => run.fence.as_ref().map(seen::fence),
        "PromoteReplica" => run.promotion.as_ref().map(seen::promotion),
        "AwaitCapacity" => run.scaling.as_ref().map(seen::scaling),
        "DeployWorkloads" => run.rollout.as_ref().map(seen::rollout),
        "VerifyRecovery" => run.health.as_ref().map(seen::health),
        "SwapDns" => run.names.as_ref().map(seen::names),
        "VerifyReached" => run.reached.as_ref().map(seen::reached),
        "EditRecords" => run.records.as_ref().map(seen::records),
        "LiftFence" => run.reversal.as_ref().and_then(|reversal| reversal.fence.as_ref()).map(seen::lifted),
        "ReleaseCapacity" => run.reversal.as_ref().and_then(|reversal| reversal.capacity.as_ref()).map(seen::released),
        _ => None,
    }
}
