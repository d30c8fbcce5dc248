//! What a step's result says, in one line: for live progress and for the timeline.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    cluster::{NodeGroupStatus, Writer},
    database::{Manner, WriteAttempt},
    failover::FailoverPlan,
    objective::human_seconds,
    run::{
        ApprovalGiven, CapacityReleased, Fence, FenceLifted, FenceOutcome, Health, NamesMoved, Noticed, Promotion,
        Reached, RecordsEdited, Scaling, WorkloadRollout,
    },
    survey::Sighting,
};

/// One line on the result of a state, or `None` if its result has no words of its own.
pub fn seen(state: &str, result: &Value) -> Option<String> {
    fn read<T: DeserializeOwned>(result: &Value, say: impl Fn(&T) -> String) -> Option<String> {
        serde_json::from_value(result.clone()).ok().map(|value| say(&value))
    }
    match state {
        "PlanFailover" => read(result, plan),
        "AwaitApproval" => read(result, approval),
        "FencePrimary" => read(result, fence),
        "PromoteReplica" => read(result, promotion),
        "ScaleNodegroup" => read(result, scaling).or_else(|| read(result, node_group)),
        "AwaitCapacity" => read(result, scaling),
        "DeployWorkloads" => read(result, rollout),
        "VerifyRecovery" => read(result, health),
        "SwapDns" => read(result, names),
        "VerifyReached" => read(result, reached),
        "EditRecords" => read(result, records),
        "LiftFence" => read(result, lifted),
        "ReleaseCapacity" => read(result, released),
        "WriteReport" => result.get("key").and_then(Value::as_str).map(|key| format!("written to {key}")),
        notify if notify.starts_with("Notify") => {
            read(result, |noticed: &Noticed| format!("told, {}", noticed.message))
        }
        _ => None,
    }
}

pub(super) fn plan(decided: &FailoverPlan) -> String {
    let manner = match decided.manner {
        Manner::Graceful => "graceful",
        Manner::Ungraceful => "ungraceful",
    };
    let primary = match &decided.survey.primary {
        Sighting::Seen(status) if status.read_only => "the primary answers, read-only",
        Sighting::Seen(_) => "the primary answers",
        Sighting::Unknown(_) => "the primary cannot be seen",
    };
    let warnings = match decided.warnings.len() {
        0 => String::new(),
        1 => "; 1 warning".to_owned(),
        n => format!("; {n} warnings"),
    };
    format!(
        "{manner}, {} to {}, epoch {}; {primary}; the standby holds the log to {}{warnings}",
        decided.from, decided.to, decided.epoch, decided.permit.replay_to
    )
}

pub(super) fn approval(given: &ApprovalGiven) -> String {
    let others: String =
        given.seconded_by.iter().map(|other| format!("; by {}: {}", other.by, other.because)).collect();
    format!("confirmed by {}: {}{others}", given.by, given.because)
}

pub(super) fn fence(fence: &Fence) -> String {
    match (fence.outcome, &fence.database) {
        (FenceOutcome::Closed, Some(closed)) => format!(
            "closed: a write was refused; {} ended, log ends at {}{}",
            super::words::count(closed.sessions_ended, "session"),
            closed.lsn,
            stopped(fence.writers.as_deref())
        ),
        (FenceOutcome::Closed, None) => {
            format!("closed: a write was refused{}", stopped(fence.writers.as_deref()))
        }
        (FenceOutcome::Unreachable, _) => format!(
            "out of reach{}; nothing is proven about it",
            fence.database_unreachable.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
        ),
        (FenceOutcome::StillWritable, _) => format!(
            "STILL WRITABLE, with the consent of {}",
            fence.consent.as_ref().map_or("nobody on record", |consent| consent.by.as_str())
        ),
    }
}

fn stopped(writers: Option<&[Writer]>) -> String {
    match writers {
        None => String::new(),
        Some([]) => ", no writers".to_owned(),
        Some([one]) => format!(", writer `{}` stopped", one.name),
        Some(many) => format!(", {} writers stopped", many.len()),
    }
}

pub(super) fn loss(promotion: &Promotion) -> String {
    let loss = &promotion.loss;
    match (loss.seconds_at_most, loss.bytes) {
        (Some(0.0), Some(0)) => "nothing lost".to_owned(),
        (Some(seconds), None | Some(0)) => format!("at most {} of writes lost", human_seconds(seconds)),
        (Some(seconds), Some(bytes)) => {
            format!("at most {} of writes lost, at least {bytes} bytes of log", human_seconds(seconds))
        }
        (None, Some(0)) => "how much was lost is not known; no log is missing up to the last known position".to_owned(),
        (None, Some(bytes)) => format!("at least {bytes} bytes of log lost"),
        (None, None) => "how much was lost is not known".to_owned(),
    }
}

pub(super) fn promotion(promotion: &Promotion) -> String {
    let already = if promotion.already { ", as an earlier attempt had made it" } else { "" };
    format!("`{}` takes writes on timeline {}{already}; {}", promotion.server, promotion.timeline, loss(promotion))
}

pub(super) fn scaling(scaling: &Scaling) -> String {
    let issue = scaling.issues.first().map_or_else(String::new, |issue| format!("; {issue}"));
    format!("{} of {} nodes Ready, {} are enough{issue}", scaling.ready, scaling.desired, scaling.enough)
}

fn node_group(status: &NodeGroupStatus) -> String {
    format!("{} nodes asked for, {}", status.desired, status.status)
}

pub(super) fn rollout(rollout: &WorkloadRollout) -> String {
    let applied = &rollout.applied;
    format!(
        "{} complete in `{}`, writing to `{}`; {} created, {} changed",
        super::words::count(rollout.rollouts.len() as u64, "rollout"),
        rollout.cluster,
        rollout.database,
        applied.created.len(),
        applied.changed.len()
    )
}

pub(super) fn health(health: &Health) -> String {
    let healthy = health.answers.iter().filter(|answer| answer.answer.is_healthy()).count();
    format!("{healthy} of {} services answer, {}", health.answers.len(), write(&health.write))
}

pub(super) fn write(write: &WriteAttempt) -> String {
    match write {
        WriteAttempt::Accepted { .. } => "a write goes through".to_owned(),
        WriteAttempt::Rejected { why } => format!("a write is refused: {why}"),
    }
}

pub(super) fn names(names: &NamesMoved) -> String {
    let already = if names.already { "was there already" } else { "is thrown" };
    format!("the switch {} {already}", names.switch)
}

pub(super) fn reached(reached: &Reached) -> String {
    let region = reached.answer.region.as_ref().map_or_else(String::new, |region| format!(" from {region}"));
    match reached.answer.status {
        Some(status) => format!("{} answers {status}{region}", reached.url),
        None => format!("{} does not answer", reached.url),
    }
}

pub(super) fn records(records: &RecordsEdited) -> String {
    let names = match records.in_sync.as_slice() {
        [] => "no record".to_owned(),
        all => all.join(", "),
    };
    let cdn = records.cdn.as_ref().map_or_else(String::new, |cdn| format!("; CDN origin {cdn}"));
    format!("in sync: {names}{cdn}")
}

pub(super) fn lifted(lifted: &FenceLifted) -> String {
    if let Some(why) = &lifted.stays {
        return format!("the fence stays: {why}");
    }
    let proof = lifted.proof.as_ref().map_or_else(|| "the old primary was not reached".to_owned(), write);
    let left = if lifted.left.is_empty() { String::new() } else { format!("; left to do: {}", lifted.left.join("; ")) };
    format!("{proof}; counts given back to {}{left}", super::words::count(lifted.writers.len() as u64, "writer"))
}

pub(super) fn released(released: &CapacityReleased) -> String {
    format!("back to {} nodes", released.desired)
}
