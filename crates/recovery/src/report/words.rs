//! The sentences of a report: what was seen, what was lost, what to do next.

use serde::{Deserialize, Serialize};

use super::{RecoveryReport, Verdict, measure::recovered_at, seen};
use crate::{
    database::WriteAttempt,
    failover::seconds_between,
    fault::Fault,
    intervention::{Deed, Intervention},
    notice::utc,
    objective::human_seconds,
    plan::Plan,
    run::{FenceOutcome, Run, RunFailure, RunOutcome},
    survey::Sighting,
};

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Of what.
    pub label: String,
    /// What.
    pub value: String,
}

/// What was seen of one part of the platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactGroup {
    /// `Database`, `Capacity`, `Workloads`, `Names`, `People`.
    pub title: String,
    /// In the order in which they happened.
    pub facts: Vec<Fact>,
}

/// A state that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// Name of the state.
    pub state: String,
    /// Error name, such as `Recovery.Refused`.
    pub error: String,
    /// What was tried, why it failed, what to do.
    pub message: String,
}

impl Trouble {
    pub(super) fn of(failure: &RunFailure) -> Trouble {
        Trouble { state: failure.state.clone(), error: failure.error.clone(), message: failure.message() }
    }
}

pub(super) fn facts(plan: &Plan, run: &Run) -> Vec<FactGroup> {
    let group = |title: &str, facts: Vec<(&str, String)>| FactGroup {
        title: title.to_owned(),
        facts: facts.into_iter().map(|(label, value)| Fact { label: label.to_owned(), value }).collect(),
    };
    let mut groups = vec![
        group("Database", database(plan, run)),
        group("Capacity", capacity(run)),
        group("Workloads", workloads(run)),
        group("Names", names(run)),
        group("People", people(run)),
    ];
    groups.retain(|group| !group.facts.is_empty());
    groups
}

fn database(plan: &Plan, run: &Run) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(decided) = &run.plan {
        facts.push((
            "Old primary, before",
            match &decided.survey.primary {
                Sighting::Seen(status) => format!(
                    "`{}` said at {}: timeline {}, log to {}, {}",
                    plan.postgresql.primary.instance,
                    utc(status.observed_at),
                    status.timeline,
                    status.holds_to,
                    if status.read_only { "read-only" } else { "takes writes" }
                ),
                Sighting::Unknown(why) => format!("`{}` was not seen: {why}", plan.postgresql.primary.instance),
            },
        ));
        facts.push((
            "Permit",
            format!(
                "system {}, timeline {}, log at least to {}; epoch {}",
                decided.permit.system_identifier, decided.permit.timeline, decided.permit.replay_to, decided.epoch
            ),
        ));
    }
    if let Some(fence) = &run.fence {
        facts.push(("Fence", format!("{}, at {}", seen::fence(fence), utc(fence.observed_at))));
        if let Some(WriteAttempt::Rejected { why }) = &fence.proof {
            facts.push(("Proof of the fence", format!("an attempted write was refused: {why}")));
        }
        if let Some(why) = &fence.cluster_unreachable {
            facts.push(("Writers of the lost region", format!("not reached: {why}")));
        }
    }
    if let Some(promotion) = &run.promotion {
        facts.push((
            "New primary",
            format!(
                "`{}` on timeline {}; the old one ended at {}",
                promotion.server, promotion.timeline, promotion.ended_at
            ),
        ));
        facts.push(("Takes writes since", format!("{} by its own clock", utc(promotion.writable_at))));
        let loss = &promotion.loss;
        if let Some(position) = loss.primary_was_at {
            facts.push(("Last position known of the old primary", position.to_string()));
        }
        if let Some(beat) = loss.newest_heartbeat {
            facts.push(("Newest heartbeat held", format!("number {}, written {}", beat.number, utc(beat.written_at))));
        }
        if let (Some(least), Some(most)) = (loss.seconds_at_least, loss.seconds_at_most) {
            facts.push((
                "Writes lost",
                format!("between {} and {}", human_seconds(least.max(0.0)), human_seconds(most.max(0.0))),
            ));
        }
    }
    if let Some(lifted) = run.reversal.as_ref().and_then(|reversal| reversal.fence.as_ref()) {
        facts.push(("Fence lifted", format!("{}, at {}", seen::lifted(lifted), utc(lifted.observed_at))));
    }
    facts
}

fn capacity(run: &Run) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(decided) = &run.plan {
        let change = &decided.capacity;
        let before = change.before.map_or_else(|| "unknown".to_owned(), |size| size.desired.to_string());
        facts.push((
            "Asked for",
            format!("{before} → {} nodes in `{}` of `{}`", change.after.desired, change.node_group, change.cluster),
        ));
    }
    if let Some(scaling) = &run.scaling {
        facts.push(("Counted", format!("{}, at {}", seen::scaling(scaling), utc(scaling.observed_at))));
    }
    if let Some(released) = run.reversal.as_ref().and_then(|reversal| reversal.capacity.as_ref()) {
        facts.push(("Released", format!("{}, at {}", seen::released(released), utc(released.observed_at))));
    }
    facts
}

fn workloads(run: &Run) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(rollout) = &run.rollout {
        facts.push(("Rolled out", format!("{}, at {}", seen::rollout(rollout), utc(rollout.observed_at))));
        facts.push((
            "Bundle",
            rollout
                .rendered_at
                .map_or_else(|| "does not say when it was rendered".to_owned(), |at| format!("rendered {}", utc(at))),
        ));
        let replicas: Vec<String> =
            rollout.rollouts.iter().map(|r| format!("{} {}/{}", r.name, r.available, r.desired)).collect();
        if !replicas.is_empty() {
            facts.push(("Replicas", replicas.join(", ")));
        }
    }
    if let Some(health) = &run.health {
        facts.push(("Answers", format!("{}, at {}", seen::health(health), utc(health.observed_at))));
    }
    facts
}

fn names(run: &Run) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(names) = &run.names {
        facts.push(("Switch", format!("{}, at {}", seen::names(names), utc(names.at))));
    }
    if let Some(reached) = &run.reached {
        facts
            .push(("Seen from outside", format!("{}, at {}", seen::reached(reached), utc(reached.answer.observed_at))));
    }
    if let Some(records) = &run.records {
        facts.push(("Records and CDN", seen::records(records)));
    }
    facts
}

fn people(run: &Run) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(approval) = &run.approval {
        facts.push(("Confirmed", format!("by {} at {}: {}", approval.by, utc(approval.at), approval.because)));
        for other in &approval.seconded_by {
            facts.push(("Confirmed too", format!("by {} at {}: {}", other.by, utc(other.at), other.because)));
        }
        for consent in &approval.consents {
            facts.push(("Consent", format!("to {} by {}: {}", consent.to.name(), consent.by, consent.because)));
        }
    }
    for done in &run.interventions {
        let Intervention { deed, by, because, at, .. } = done;
        facts.push(("By hand", format!("{by} {} at {}: {because}", deed.in_words(), utc(*at))));
    }
    for notice in &run.notices {
        facts.push(("Told", format!("{} at {}", notice.stage.name(), utc(notice.at))));
    }
    facts
}

pub(super) fn lost(run: &Run) -> Vec<String> {
    let Some(promotion) = &run.promotion else { return Vec::new() };
    let loss = &promotion.loss;
    let mut lost = Vec::new();
    match (loss.seconds_at_least, loss.seconds_at_most) {
        (_, Some(0.0)) => {}
        (Some(least), Some(most)) => lost.push(format!(
            "Database writes of at least {} and at most {}.",
            human_seconds(least.max(0.0)),
            human_seconds(most.max(0.0))
        )),
        (None, Some(most)) => lost.push(format!("Database writes of at most {}.", human_seconds(most.max(0.0)))),
        (_, None) => lost.push("How much time of database writes is lost is not known.".to_owned()),
    }
    if let Some(bytes) = loss.bytes.filter(|bytes| *bytes > 0) {
        lost.push(format!("{bytes} bytes of write-ahead log after {}.", promotion.ended_at));
    }
    if let Some(heartbeats) = loss.heartbeats.filter(|n| *n > 0) {
        lost.push(format!("{} that the old primary had written.", count(heartbeats, "heartbeat")));
    }
    if let Some(closed) = run.fence.as_ref().and_then(|fence| fence.database.as_ref()).filter(|c| c.sessions_ended > 0)
    {
        lost.push(format!(
            "{} of the old primary ended by the fence: what was not committed there is gone.",
            count(closed.sessions_ended, "session")
        ));
    }
    lost
}

pub(super) fn sentence(report: &RecoveryReport) -> String {
    let to = report.incident.as_ref().map_or("the secondary region", |incident| incident.to.code());
    let (met, all) = report.objectives_met();
    let objectives = match all - met {
        0 => format!("all {all} service objectives were met"),
        missed => {
            let unknown = report
                .services
                .iter()
                .flat_map(|service| [&service.rto, &service.rpo])
                .filter(|measure| measure.verdict == Verdict::Unknown)
                .count();
            match unknown {
                0 => format!("{missed} of {all} service objectives were missed"),
                _ if unknown == missed => {
                    format!("{met} of {all} service objectives were met and {unknown} could not be measured")
                }
                _ => {
                    format!("{met} of {all} service objectives were met, {unknown} of the others could not be measured")
                }
            }
        }
    };
    let failure =
        report.failure.as_ref().map_or_else(|| "the run stopped".to_owned(), |f| format!("{} failed", f.state));
    match report.outcome {
        RunOutcome::Recovered => {
            let after = report.incident.as_ref().zip(recovered_at(&report.services)).map_or_else(
                String::new,
                |(incident, back)| {
                    format!(" {} after the impairment", human_seconds(seconds_between(incident.began_at, back)))
                },
            );
            let loss = match report.record.promotion.as_ref().map(|promotion| &promotion.loss) {
                Some(loss) => match (loss.seconds_at_most, loss.bytes) {
                    (Some(0.0), _) | (None, Some(0)) => "no database write was lost".to_owned(),
                    (Some(seconds), _) => format!("at most {} of database writes were lost", human_seconds(seconds)),
                    (None, _) => "how much was lost is not known".to_owned(),
                },
                None => "nothing was promoted".to_owned(),
            };
            format!("Customers reach {to} again{after}; {objectives}; {loss}.")
        }
        RunOutcome::Refused => {
            let why = report.failure.as_ref().map_or_else(String::new, |failure| {
                // The remedy stands in "what to do next".
                failure.message.split("; ").next().unwrap_or_default().to_owned()
            });
            format!("The failover was refused and nothing has moved: {why}.")
        }
        RunOutcome::Failed => match leftovers(&report.record).as_slice() {
            [] => format!("{failure} before the point of no return; nothing has moved."),
            _ => format!("{failure} before the point of no return; not everything could be put back."),
        },
        RunOutcome::Incomplete => {
            let database = match &report.record.promotion {
                Some(promotion) => format!("`{}` is the primary", promotion.server),
                // Its answer was lost, or it has not come yet.
                None => "a promotion was asked for and may have happened".to_owned(),
            };
            let customers = match report.record.reached {
                Some(_) => "customers reach it, but the run did not end as it should",
                None => "customers are not yet served",
            };
            format!("{failure} after the point of no return: {database}, and {customers} from {to}.")
        }
    }
}

fn leftovers(run: &Run) -> Vec<String> {
    let mut left: Vec<String> =
        run.reversal.iter().filter_map(|r| r.fence.as_ref()).flat_map(|fence| fence.left.clone()).collect();
    // Something may have been changed, and nothing says that it was put back.
    let reached_the_fence = run.fence.is_some()
        || run.failure.as_ref().is_some_and(|f| matches!(f.state.as_str(), "FencePrimary" | "PromoteReplica"));
    if run.promotion.is_none() && reached_the_fence {
        if run.reversal.as_ref().and_then(|reversal| reversal.fence.as_ref()).is_none() {
            left.push("see whether the old primary takes writes and its writers run".to_owned());
        }
        if run.reversal.as_ref().and_then(|reversal| reversal.capacity.as_ref()).is_none() {
            left.push("see whether the node group of the secondary region has its old size".to_owned());
        }
    }
    left
}

pub(super) fn next(plan: &Plan, report: &RecoveryReport) -> Vec<String> {
    let run = &report.record;
    let mut next = Vec::new();
    let old = &plan.postgresql.primary.instance;
    match report.outcome {
        RunOutcome::Recovered => {
            let new = run.promotion.as_ref().map_or("the new primary", |promotion| promotion.server.as_str());
            match run.fence.as_ref().map(|fence| fence.outcome) {
                Some(FenceOutcome::Unreachable) => next.push(format!(
                    "Before `{}` returns, make sure that `{old}` cannot take writes: nothing was proven about it.",
                    plan.regions.primary
                )),
                Some(FenceOutcome::StillWritable) => {
                    next.push(format!("Close `{old}` now: it takes writes that nobody will have, by recorded consent."))
                }
                _ => next.push(format!("Leave `{old}` closed until a failback has made it a standby of `{new}`.")),
            }
            next.push(format!("Build a new standby for `{new}`: it is alone."));
            next.push(format!("Take a backup of `{new}` and see that the backup jobs run against it."));
            if run.records.is_none() && plan.failover.edit_records {
                next.push(
                    "Edit the records and the CDN origin by hand when their control planes answer; traffic moves without them."
                        .to_owned(),
                );
            }
            if let Some(scaling) = run.scaling.as_ref().filter(|scaling| scaling.ready < scaling.desired) {
                next.push(format!(
                    "Watch the node group `{}`: {} of {} nodes were Ready when workloads started.",
                    scaling.node_group, scaling.ready, scaling.desired
                ));
            }
            if run.scaling.is_none() {
                next.push("Count the nodes of the secondary region: the run could not.".to_owned());
            }
        }
        RunOutcome::Refused | RunOutcome::Failed => {
            if let Some(failure) = &report.failure {
                if let Some((_, remedy)) = failure.message.rsplit_once("; ") {
                    next.push(sentence_case(remedy));
                } else if failure.error == Fault::Transient.error_type() {
                    next.push(format!("Look at `{}` and start the run again.", failure.state));
                }
                if failure.state == "AwaitApproval" {
                    next.push("Decide, then start a new run: nobody confirmed this one.".to_owned());
                }
            }
            next.extend(leftovers(run).iter().map(|left| sentence_case(left)));
            if next.is_empty() {
                next.push("Read the failure above and decide.".to_owned());
            }
        }
        RunOutcome::Incomplete => {
            next.push(match &run.promotion {
                Some(_) => format!("Do not go back to `{old}`: the database has moved."),
                None => format!("Do not open `{old}`: its standby may have been promoted."),
            });
            if let Some(failure) = &report.failure
                && let Some((_, remedy)) = failure.message.rsplit_once("; ")
            {
                next.push(format!("{}: {}.", failure.state, remedy.trim_end_matches('.')));
            }
            next.push(format!(
                "Start the machine again with the same event and the name `{}`: every step that is done stays done.",
                report.run
            ));
        }
    }
    for done in &run.interventions {
        if let Deed::Skip { state } = &done.deed {
            let Intervention { by, because, .. } = done;
            next.push(format!(
                "See to the work of `{state}`: {by} skipped it ({because}) and nothing here says that it was done."
            ));
        }
    }
    if report.outcome == RunOutcome::Recovered || report.outcome == RunOutcome::Incomplete {
        for service in report.services.iter().filter(|service| service.rpo.verdict == Verdict::Unknown) {
            next.push(format!("Find out what `{}` lost: {}.", service.service, service.rpo.because));
        }
        for write in report.drill.iter().filter(|drill| !drill.lost_writes.is_empty()) {
            let lost = count(write.lost_writes.len() as u64, "acknowledged write");
            next.push(format!("Account for the lost data: {lost}, named in the report."));
        }
    }
    if matches!(report.outcome, RunOutcome::Recovered | RunOutcome::Incomplete) {
        next.push("Work through the items of the checklist that are not checked.".to_owned());
    }
    next
}

/// A number and its noun: `1 heartbeat`, `3 heartbeats`.
pub(super) fn count(number: impl Into<i128>, noun: &str) -> String {
    match number.into() {
        1 => format!("1 {noun}"),
        many => format!("{many} {noun}s"),
    }
}

fn sentence_case(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    match chars.next() {
        Some(first) if !text.starts_with('`') => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        Some(first) => format!("{first}{}.", chars.as_str()),
        None => String::new(),
    }
}
