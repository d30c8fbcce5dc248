//! What a run claims, computed from its record and from nothing else.
//!
//! [`RecoveryReport::of`] is a subtraction over a recorded [`Run`]: recovery time is counted from the impairment, not from
//! the moment at which somebody started something; data loss comes from heartbeats and log positions. What was not
//! measured is `unknown`, says why, and counts as not met. The record itself is part of the report, so that anybody can
//! do the subtraction again.
//!
//! The same value is written three times: `report.json` (for machines, described in `docs/report-schema.md`),
//! `report.md` (for a ticket) and `report.html` (for people, self-contained, readable on paper and without scripts).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    database::Manner,
    incident::Incident,
    objective::Priority,
    plan::{Plan, Region},
    run::{Run, RunOutcome},
};

mod backups;
mod chart;
mod checklist;
mod drill;
mod measure;
mod render;
mod seen;
mod timeline;
mod words;

pub use backups::{
    BACKUP_SCHEMA, BackupFinding, BackupForm, BackupOutcome, BackupReport, Missed, PolicyStanding, Proven, Taken,
};
pub use checklist::{CheckState, ChecklistGroup, ChecklistItem};
pub use drill::{Drill, FaultFired, LostWrite, NamesSeen, StandIn};
pub use measure::mechanism_in_words;
pub use measure::{ComponentResult, Measure, ScenarioResult, ServiceResult, Verdict};
pub use render::{backups_to_html, backups_to_markdown, to_html, to_markdown};
pub use seen::seen;
pub use timeline::{Ending, Mark, MarkKind, Phase, StateSpan, Step, StepSource};
pub use words::{Fact, FactGroup, Trouble};

/// Version of the form of `report.json`; rises when a reader of the old form would misread the new one.
pub const SCHEMA: u32 = 1;

/// Keys of the three forms of a run's report in the evidence bucket.
pub fn key(run: &str, form: &str) -> String {
    format!("reports/{run}/report.{form}")
}

/// What a run claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The plan's platform.
    pub platform: String,
    /// The run.
    pub run: String,
    /// When the report was computed, by the clock of whoever computed it.
    pub written_at: Timestamp,
    /// How the run ended.
    pub outcome: RunOutcome,
    /// The whole report in one sentence.
    pub sentence: String,
    /// What was lost, since when, and who said so; absent if the event was not understood.
    pub incident: Option<IncidentFacts>,
    /// The scenario's objective against what was measured; absent if the event was not understood.
    pub scenario: Option<ScenarioResult>,
    /// One per service objective of the plan, in its order.
    pub services: Vec<ServiceResult>,
    /// One per component of the plan, in its order.
    pub components: Vec<ComponentResult>,
    /// Where the time went, from the impairment to the first customer served.
    pub phases: Vec<Phase>,
    /// Each state of the machine.
    pub timeline: Vec<Step>,
    /// Moments that matter more than others.
    pub marks: Vec<Mark>,
    /// Database, capacity, workloads, names, people: what was seen of each.
    pub facts: Vec<FactGroup>,
    /// What was lost, in sentences.
    pub lost: Vec<String>,
    /// The failure that decided the end, if one did.
    pub failure: Option<Trouble>,
    /// Failures that decided nothing.
    pub troubles: Vec<Trouble>,
    /// What was not as it should be but stopped nothing.
    pub warnings: Vec<String>,
    /// The recovery validation checklist, each item with its evidence.
    pub checklist: Vec<ChecklistGroup>,
    /// What a person does next, in order.
    pub next: Vec<String>,
    /// What only a drill can know: acknowledged writes, the clients' gap, the faults that fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
    /// The record that all of this was computed from.
    pub record: Run,
}

/// What was lost, since when, and who said so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentFacts {
    /// The event's identifier.
    pub id: String,
    /// The scenario's short name.
    pub scenario: String,
    /// The scenario's title.
    pub title: String,
    /// The plan's words on what such a scenario loses.
    pub impact: String,
    /// Whether the primary was expected to live.
    pub manner: Manner,
    /// Regions that were said to be lost.
    pub lost: Vec<Region>,
    /// The region that the platform left.
    pub from: Region,
    /// The region that it went to.
    pub to: Region,
    /// When the impairment began; recovery time is counted from here.
    pub began_at: Timestamp,
    /// When it was declared.
    pub declared_at: Timestamp,
    /// The alarm or the person.
    pub declared_by: String,
    /// In their words.
    pub reason: String,
    /// The most urgent priority among the plan's services.
    pub priority: Priority,
}

impl RecoveryReport {
    /// Computes the report of a run.
    ///
    /// `history` are the states as the engine recorded them; without it (`&[]`) the timeline is derived from the record,
    /// in which each step has an end and begins where the one before it ended.
    pub fn of(plan: &Plan, run: &Run, history: &[StateSpan], now: Timestamp) -> RecoveryReport {
        let incident = run
            .plan
            .as_ref()
            .map(|decided| decided.incident.clone())
            .or_else(|| Incident::from_event(&run.event, plan).ok());
        let measured = measure::Measurements::of(plan, run, incident.as_ref(), now);
        let mut report = RecoveryReport {
            schema: SCHEMA,
            platform: plan.platform.clone(),
            run: run.id.clone(),
            written_at: now,
            outcome: run.outcome(),
            sentence: String::new(),
            incident: incident.as_ref().map(|incident| IncidentFacts::of(plan, incident)),
            scenario: measured.scenario,
            services: measured.services,
            components: measured.components,
            phases: timeline::phases(run, incident.as_ref()),
            timeline: timeline::steps(run, history),
            marks: timeline::marks(run, incident.as_ref()),
            facts: words::facts(plan, run),
            lost: words::lost(run),
            failure: run.failure.as_ref().map(Trouble::of),
            troubles: run.troubles.iter().map(Trouble::of).collect(),
            warnings: run.plan.as_ref().map(|decided| decided.warnings.clone()).unwrap_or_default(),
            checklist: Vec::new(),
            next: Vec::new(),
            drill: None,
            record: run.clone(),
        };
        report.complete(plan);
        report
    }

    /// Adds what only a drill can know.
    #[must_use]
    pub fn with_drill(mut self, plan: &Plan, drill: Drill) -> RecoveryReport {
        self.drill = Some(drill);
        self.complete(plan);
        self
    }

    /// The parts that are said about the others.
    fn complete(&mut self, plan: &Plan) {
        self.checklist = checklist::checklist(plan, self);
        self.next = words::next(plan, self);
        self.sentence = words::sentence(self);
    }

    /// Service objectives that were met, and all of them: `(9, 12)`. Each service has two.
    pub fn objectives_met(&self) -> (usize, usize) {
        let all = self.services.iter().flat_map(|service| [&service.rto, &service.rpo]);
        let met = all.clone().filter(|measure| measure.verdict == Verdict::Met).count();
        (met, all.count())
    }
}

impl IncidentFacts {
    fn of(plan: &Plan, incident: &Incident) -> IncidentFacts {
        let scenario = plan.scenarios.iter().find(|scenario| scenario.name == incident.scenario);
        IncidentFacts {
            id: incident.id.clone(),
            scenario: incident.scenario.clone(),
            title: scenario.map_or_else(|| incident.scenario.clone(), |s| s.title.clone()),
            impact: scenario.map_or_else(String::new, |s| s.impact.clone()),
            manner: incident.manner,
            lost: incident.lost.clone(),
            from: plan.regions.primary.clone(),
            to: plan.regions.secondary.clone(),
            began_at: incident.began_at,
            declared_at: incident.declared_at,
            declared_by: incident.declared_by.clone(),
            reason: incident.reason.clone(),
            priority: plan.objectives.iter().map(|objective| objective.priority).min().unwrap_or(Priority::P0),
        }
    }
}

#[cfg(test)]
mod tests;
