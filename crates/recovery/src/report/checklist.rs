//! The recovery validation checklist of the plan document. An item is ticked by evidence or not at all.

use serde::{Deserialize, Serialize};

use super::{RecoveryReport, Verdict, measure::reached_at};
use crate::{
    database::WriteAttempt,
    notice::utc,
    objective::{Priority, human_seconds},
    plan::Plan,
    run::{Health, RunOutcome},
};

/// What is known of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckState {
    /// The evidence shows it.
    Passed,
    /// The evidence shows the opposite.
    Failed,
    /// Nothing in the run shows it.
    NotChecked,
}

/// One item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChecklistItem {
    /// As the plan document words it.
    pub item: String,
    /// What is known.
    pub state: CheckState,
    /// The evidence, or why there is none.
    pub evidence: String,
}

/// Items of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChecklistGroup {
    /// `Technical Validation`, `Business Validation`, `Post-Recovery Actions`.
    pub title: String,
    /// Its items.
    pub items: Vec<ChecklistItem>,
}

type Known = (CheckState, String);

fn passed(evidence: String) -> Known {
    (CheckState::Passed, evidence)
}

fn failed(evidence: String) -> Known {
    (CheckState::Failed, evidence)
}

fn unchecked(why: &str) -> Known {
    (CheckState::NotChecked, format!("not checked: {why}"))
}

pub(super) fn checklist(plan: &Plan, report: &RecoveryReport) -> Vec<ChecklistGroup> {
    let group = |title: &str, items: Vec<(&str, Known)>| ChecklistGroup {
        title: title.to_owned(),
        items: items
            .into_iter()
            .map(|(item, (state, evidence))| ChecklistItem { item: item.to_owned(), state, evidence })
            .collect(),
    };
    vec![
        group(
            "Technical Validation",
            vec![
                ("All services responding to health checks", all_services(plan, report)),
                ("Database connectivity verified", database_connectivity(report)),
                ("Data integrity checks passed", data_integrity(report)),
                ("Performance within acceptable limits", performance(plan, report)),
                ("Security controls re-enabled", unchecked("no step looks at them")),
                ("Monitoring and alerting functional", unchecked("no step looks at the monitoring of the new region")),
                ("Backup jobs resumed", unchecked("no step looks for a backup of the new primary")),
            ],
        ),
        group(
            "Business Validation",
            vec![
                ("Critical business functions operational", critical_functions(plan, report)),
                ("Customer access restored", customer_access(report)),
                ("Transaction processing working", transactions(report)),
                ("Video streaming functional", service_answers(plan, report, "live-video")),
                ("Historical data accessible", service_answers(plan, report, "playback")),
                ("Reports generating correctly", service_answers(plan, report, "analytics")),
            ],
        ),
        group(
            "Post-Recovery Actions",
            vec![
                ("Document timeline and actions", documented(report)),
                ("Calculate actual RTO/RPO", calculated(report)),
                ("Identify improvement areas", unchecked("a person's work")),
                ("Update runbooks", unchecked("a person's work")),
                ("Schedule post-mortem", unchecked("a person's work")),
                ("Communicate lessons learned", unchecked("a person's work")),
                ("Update DR procedures", unchecked("a person's work")),
                ("Plan next DR test", unchecked("a person's work")),
            ],
        ),
    ]
}

fn health(report: &RecoveryReport) -> Result<&Health, Known> {
    report.record.health.as_ref().ok_or_else(|| unchecked("the run did not get as far as asking services"))
}

fn all_services(plan: &Plan, report: &RecoveryReport) -> Known {
    let health = match health(report) {
        Ok(health) => health,
        Err(known) => return known,
    };
    let silent: Vec<&str> = plan
        .objectives
        .iter()
        .map(|objective| objective.service.as_str())
        .filter(|service| {
            let mut answers = health.answers.iter().filter(|answer| answer.service == *service).peekable();
            answers.peek().is_none() || !answers.all(|answer| answer.answer.is_healthy())
        })
        .collect();
    if silent.is_empty() {
        passed(format!(
            "all {} health checks answered with success by {}",
            health.answers.len(),
            utc(health.observed_at)
        ))
    } else {
        failed(format!("no healthy answer from {}", silent.join(", ")))
    }
}

fn database_connectivity(report: &RecoveryReport) -> Known {
    let database = report.record.promotion.as_ref().map_or("the database", |promotion| promotion.server.as_str());
    match health(report) {
        Ok(Health { write: WriteAttempt::Accepted { at }, .. }) => {
            passed(format!("the role that services use committed a write on `{database}` at {}", utc(*at)))
        }
        Ok(Health { write: WriteAttempt::Rejected { why }, .. }) => failed(format!("a write was refused: {why}")),
        Err(_) => match &report.record.promotion {
            Some(promotion) => {
                passed(format!("`{}` committed a write at {}", promotion.server, utc(promotion.writable_at)))
            }
            None => unchecked("no server was promoted"),
        },
    }
}

fn data_integrity(report: &RecoveryReport) -> Known {
    match &report.drill {
        Some(drill) if drill.acknowledged_writes == 0 => unchecked("no client had a write acknowledged"),
        Some(drill) if drill.lost_writes.is_empty() => passed(format!(
            "all {} writes that clients had acknowledged are on the new primary",
            drill.acknowledged_writes
        )),
        Some(drill) => failed(format!(
            "{} of {} acknowledged writes are not on the new primary",
            drill.lost_writes.len(),
            drill.acknowledged_writes
        )),
        None => unchecked("system identifier, timeline and position were, rows were not"),
    }
}

fn performance(plan: &Plan, report: &RecoveryReport) -> Known {
    let Ok(health) = health(report) else { return unchecked("the run did not get as far as asking services") };
    let late: Vec<String> = health
        .answers
        .iter()
        .filter_map(|answer| {
            let check = plan.checks.iter().find(|check| check.service == answer.service)?;
            (answer.answer.took_seconds > check.within.seconds()).then(|| {
                format!("`{}` took {} of {}", answer.service, human_seconds(answer.answer.took_seconds), check.within)
            })
        })
        .collect();
    if !late.is_empty() {
        return failed(late.join(", "));
    }
    let slowest = health.answers.iter().map(|answer| answer.answer.took_seconds).fold(0.0, f64::max);
    unchecked(&format!(
        "one question to each service was answered within {}, but no load was applied",
        human_seconds(slowest)
    ))
}

fn critical_functions(plan: &Plan, report: &RecoveryReport) -> Known {
    let critical: Vec<&str> = plan
        .objectives
        .iter()
        .filter(|objective| objective.priority == Priority::P0)
        .map(|objective| objective.service.as_str())
        .collect();
    if report.record.health.is_none() {
        return unchecked("the run did not get as far as asking services");
    }
    let away: Vec<&str> = critical
        .iter()
        .copied()
        .filter(|service| report.services.iter().any(|s| s.service == *service && s.answered_at.is_none()))
        .collect();
    if away.is_empty() {
        passed(format!("the health checks of all P0 services answered with success: {}", critical.join(", ")))
    } else {
        failed(format!("no healthy answer from {}", away.join(", ")))
    }
}

fn customer_access(report: &RecoveryReport) -> Known {
    match (&report.record.reached, reached_at(&report.record)) {
        (Some(reached), Some(at)) => passed(format!(
            "{} answered {}{} at {}",
            reached.url,
            reached.answer.status.unwrap_or_default(),
            reached.answer.region.as_ref().map_or_else(String::new, |region| format!(" from {region}")),
            utc(at)
        )),
        (Some(reached), None) => failed(format!("{} did not answer with success", reached.url)),
        (None, _) if report.outcome == RunOutcome::Incomplete => {
            failed("the public name was not seen to lead to the new region".to_owned())
        }
        (None, _) => unchecked("names were not moved"),
    }
}

fn transactions(report: &RecoveryReport) -> Known {
    match health(report) {
        Ok(Health { write: WriteAttempt::Accepted { at }, .. }) => {
            passed(format!("a transaction of the role that services use was committed and flushed at {}", utc(*at)))
        }
        Ok(Health { write: WriteAttempt::Rejected { why }, .. }) => failed(format!("a transaction was refused: {why}")),
        Err(known) => known,
    }
}

fn service_answers(plan: &Plan, report: &RecoveryReport, service: &str) -> Known {
    if plan.objective(service).is_none() {
        return unchecked(&format!("the plan has no service `{service}`"));
    }
    let health = match health(report) {
        Ok(health) => health,
        Err(known) => return known,
    };
    match health.answers.iter().find(|answer| answer.service == service) {
        Some(answer) if answer.answer.is_healthy() => passed(format!(
            "the health check of `{service}` answered {} in {} at {}",
            answer.answer.status.unwrap_or_default(),
            human_seconds(answer.answer.took_seconds),
            utc(answer.answer.observed_at)
        )),
        Some(answer) => failed(match (&answer.answer.error, answer.answer.status) {
            (Some(error), _) => format!("the health check of `{service}` failed: {error}"),
            (None, status) => format!("the health check of `{service}` answered {}", status.unwrap_or_default()),
        }),
        None => unchecked(&format!("nothing asked `{service}`")),
    }
}

fn documented(report: &RecoveryReport) -> Known {
    if report.timeline.is_empty() {
        return unchecked("no step has left a time");
    }
    passed(format!("this report: {} steps with their times, and the record they come from", report.timeline.len()))
}

fn calculated(report: &RecoveryReport) -> Known {
    let all = report.services.iter().flat_map(|service| {
        [(&service.service, "recovery time", &service.rto), (&service.service, "data loss", &service.rpo)]
    });
    let unknown: Vec<String> = all
        .filter(|(_, _, measure)| measure.verdict == Verdict::Unknown)
        .map(|(service, what, _)| format!("{what} of {service}"))
        .collect();
    if unknown.is_empty() {
        return passed(format!("recovery time and data loss of all {} services are measured", report.services.len()));
    }
    unchecked(&format!(
        "{} of {} figures are not known ({})",
        unknown.len(),
        2 * report.services.len(),
        unknown.join(", ")
    ))
}
