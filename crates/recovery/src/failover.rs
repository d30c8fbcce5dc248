//! The decision: from what was seen and what the plan says to one immutable plan, or a refusal.
//!
//! [`decide`] is pure. Every guard that can stop a failover before it begins stands here, in one list, with the sentence
//! that the person on call reads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::NodeGroupSize,
    database::{Manner, PrimaryPosition, ServerStatus},
    fence::{Claim, FenceRecord, FenceState, claim},
    incident::{Incident, Risk},
    lsn::Lsn,
    objective::{Span, human_seconds},
    permit::Permit,
    plan::{Approval, Capacity, Cdn, Driver, Plan, Record, Region},
    survey::{Sighting, Survey},
};

/// Every choice of a failover. Later states have none to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverPlan {
    /// The run that it belongs to.
    pub run: String,
    /// What was lost.
    pub incident: Incident,
    /// What was seen.
    pub survey: Survey,
    /// The region that is left.
    pub from: Region,
    /// The region that takes over.
    pub to: Region,
    /// Whether the primary is asked to stop, or taken for lost.
    pub manner: Manner,
    /// Whether a person confirms before the point of no return.
    pub approval: Approval,
    /// Epoch that the fence will have.
    pub epoch: u64,
    /// What may be promoted.
    pub permit: Permit,
    /// The API that promotes it.
    pub driver: Driver,
    /// Write-ahead log, in bytes, that the standby has received and must replay before it can take writes.
    pub backlog_bytes: u64,
    /// The node group and its size before and after.
    pub capacity: CapacityChange,
    /// Replicas by writer, as they ran in the primary region; empty if they could not be read.
    pub replicas: BTreeMap<String, u32>,
    /// Names, in the order in which they move.
    pub names: NamesChange,
    /// When the scenario's objective ends.
    pub due_at: Timestamp,
    /// What is not as it should be but stops nothing.
    pub warnings: Vec<String>,
}

/// The node group that carries the platform afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityChange {
    /// EKS cluster.
    pub cluster: String,
    /// Managed node group.
    pub node_group: String,
    /// Size before, to which a run that stops before the point of no return goes back; unknown if it was not seen.
    pub before: Option<NodeGroupSize>,
    /// Size asked for.
    pub after: NodeGroupSize,
    /// Ready nodes with which workloads may start.
    pub enough: u32,
}

/// Names, in the order in which they move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesChange {
    /// Bucket that the inverted health checks watch.
    pub switch_bucket: String,
    /// Object whose presence moves traffic.
    pub switch_key: String,
    /// Records edited afterwards; empty if the plan leaves them alone.
    pub records: Vec<Record>,
    /// CDN edited afterwards.
    pub cdn: Option<Cdn>,
}

/// A guard held: one line for the person on call.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No second region is left to go to.
    #[error("not failing over: `{0}` is lost too, and it is where the platform would go")]
    NowhereToGo(Region),
    /// The event names the wrong region.
    #[error("not failing over: `{primary}` is not among the lost regions ({lost})")]
    PrimaryNotLost {
        /// The plan's primary region.
        primary: Region,
        /// The regions in the event.
        lost: String,
    },
    /// The scenario has a machine of its own.
    #[error("not failing over: scenario `{scenario}` is answered by the machine `{machine}`")]
    OtherMachine {
        /// The event's scenario.
        scenario: String,
        /// The plan's machine for it.
        machine: String,
    },
    /// One failover at a time, and none when the platform has moved.
    #[error("not failing over: run `{}` holds the fence under epoch {} ({:?} since {})", .0.run, .0.epoch, .0.state, .0.written_at)]
    FenceHeld(Box<FenceRecord>),
    /// Nobody can say whether another run is at work.
    #[error("not failing over: the fence object cannot be read: {0}")]
    FenceUnknown(String),
    /// Nothing to promote.
    #[error("not promoting: the standby `{standby}` cannot be seen: {why}")]
    StandbyUnknown {
        /// The plan's standby.
        standby: String,
        /// Why it was not seen.
        why: String,
    },
    /// A server that takes writes without having been promoted by this run.
    #[error("not promoting: `{0}` is not a standby, and no run of ours has promoted it")]
    NotAStandby(String),
    /// Another cluster, or another branch of its history.
    #[error(
        "not promoting: `{standby}` is system {found}, timeline {found_timeline}; the primary is system {expected}, timeline {expected_timeline}"
    )]
    OtherHistory {
        /// The plan's standby.
        standby: String,
        /// Its system identifier.
        found: String,
        /// Its timeline.
        found_timeline: u32,
        /// The primary's system identifier.
        expected: String,
        /// The primary's timeline.
        expected_timeline: u32,
    },
    /// More would be lost than the plan accepts.
    #[error("not promoting: `{standby}` holds the log to {holds}, the primary was at {primary}: {bytes} bytes and {} would be lost, the plan accepts {accepted_bytes} bytes and {accepted}", human_seconds(*seconds))]
    TooFarBehind {
        /// The plan's standby.
        standby: String,
        /// What it holds.
        holds: Lsn,
        /// What the primary had.
        primary: Lsn,
        /// The difference.
        bytes: u64,
        /// The difference in time, by heartbeats.
        seconds: f64,
        /// The plan's bound.
        accepted_bytes: u64,
        /// The plan's bound.
        accepted: Span,
    },
    /// Nobody knows how far the primary was.
    #[error("not promoting: how far the primary `{0}` was is not known, so the loss cannot be bounded")]
    LossUnknown(String),
    /// A graceful switch needs somebody to ask.
    #[error("not switching: a graceful failover needs the primary, and `{primary}` cannot be seen: {why}")]
    PrimaryUnknown {
        /// The plan's primary.
        primary: String,
        /// Why it was not seen.
        why: String,
    },
    /// The alarm may be wrong: the primary works.
    #[error("not failing over: `{primary}` still takes writes, as it said at {}", status.observed_at)]
    PrimaryStillWritable {
        /// The plan's primary.
        primary: String,
        /// What it said.
        status: Box<ServerStatus>,
    },
    /// The server behind the primary's name is itself a standby.
    #[error("not failing over: `{0}` is in recovery, so it is not the primary")]
    PrimaryIsStandby(String),
}

impl Refusal {
    /// Whether this guard holds only because a look got no answer. One lost packet must not send a person away who asks
    /// for a failover, so such a look is worth another one.
    pub fn is_blind(&self) -> bool {
        matches!(self, Refusal::FenceUnknown(_) | Refusal::StandbyUnknown { .. } | Refusal::PrimaryUnknown { .. })
    }

    /// One imperative sentence for the person on call.
    pub fn remedy(&self, plan: &Plan) -> String {
        match self {
            Refusal::NowhereToGo(_) => format!(
                "rebuild in `{}`: start the machine `restore` with the scenario `multi-region-failure`",
                plan.regions.tertiary
            ),
            Refusal::PrimaryNotLost { .. } => {
                "correct `lost_regions`, or repair the standby while the primary works".to_owned()
            }
            Refusal::OtherMachine { machine, .. } => format!("start the machine `{machine}` with this event"),
            Refusal::FenceHeld(record) if record.state == FenceState::Moved => {
                format!("nothing: `{}` carries the platform; to go back, run the failback", record.to)
            }
            Refusal::FenceHeld(record) => format!("look at `drctl status {}` and end that run first", record.run),
            Refusal::FenceUnknown(_) => format!("check access to the bucket `{}`", plan.buckets.evidence),
            Refusal::StandbyUnknown { standby, .. } => {
                format!("bring `{standby}` back, or rebuild in `{}` with the machine `restore`", plan.regions.tertiary)
            }
            Refusal::NotAStandby(standby) => format!("find out who promoted `{standby}` before anything writes to it"),
            Refusal::OtherHistory { standby, .. } => {
                format!("correct the plan, or build `{standby}` again from the primary")
            }
            Refusal::TooFarBehind { .. } | Refusal::LossUnknown(_) => {
                "wait for the primary, or request the failover with a recorded consent to `data-loss`".to_owned()
            }
            Refusal::PrimaryUnknown { .. } => "request it with mode `ungraceful` if the primary is lost".to_owned(),
            Refusal::PrimaryStillWritable { .. } => {
                "request it with mode `graceful`, or record a consent to `still-writable`".to_owned()
            }
            Refusal::PrimaryIsStandby(_) => "correct [postgresql.primary] in the plan".to_owned(),
        }
    }
}

/// Decides a failover.
///
/// # Errors
/// The first guard that holds.
pub fn decide(plan: &Plan, incident: &Incident, survey: &Survey, run: &str) -> Result<FailoverPlan, Refusal> {
    refuse_wrong_machine(plan, incident)?;
    let held = claim_fence(survey, run)?;
    let standby = seen_standby(plan, survey)?;
    let mut warnings = Vec::new();
    let permit = match &held {
        // A repeated run promotes what the first one was allowed to promote, whatever the world looks like now.
        Some(record) => record.permit.clone(),
        None => {
            refuse_living_primary(plan, incident, survey)?;
            refuse_other_history(plan, standby, survey)?;
            permit(plan, incident, survey, standby, &mut warnings)?
        }
    };
    if standby.retrieve_retry_ms > 1000 {
        warnings.push(format!(
            "`{}` may sleep {} ms before it notices its promotion; set wal_retrieve_retry_interval to 200 ms",
            plan.postgresql.standby.instance, standby.retrieve_retry_ms
        ));
    }
    if survey.switched.seen() == Some(&true) {
        warnings.push(format!(
            "the switch `{}` is thrown already; names follow as soon as health checks agree",
            plan.names.switch_key
        ));
    }
    let due = plan
        .scenarios
        .iter()
        .find(|scenario| scenario.name == incident.scenario)
        .map_or(Span::default(), |scenario| scenario.rto);
    let epoch = match (&held, &survey.fence) {
        (Some(record), _) => record.epoch,
        (None, Sighting::Seen(Some(record))) => record.epoch + 1,
        (None, _) => 1,
    };
    Ok(FailoverPlan {
        run: run.to_owned(),
        incident: incident.clone(),
        from: plan.regions.primary.clone(),
        to: plan.regions.secondary.clone(),
        manner: incident.manner,
        approval: plan.failover.approval,
        epoch,
        permit,
        driver: plan.postgresql.driver,
        backlog_bytes: standby.replayed_to.map_or(0, |replayed| standby.holds_to.bytes_since(replayed)),
        capacity: capacity_change(plan, survey, &mut warnings),
        replicas: recorded_replicas(survey),
        names: NamesChange {
            switch_bucket: plan.buckets.switch.clone(),
            switch_key: plan.names.switch_key.clone(),
            records: if plan.failover.edit_records { plan.names.records.clone() } else { Vec::new() },
            cdn: plan.names.cdn.clone().filter(|_| plan.failover.edit_records),
        },
        due_at: incident
            .began_at
            .saturating_add(jiff::SignedDuration::try_from(due.0).unwrap_or_default())
            .unwrap_or(Timestamp::MAX),
        survey: survey.clone(),
        warnings,
    })
}

fn refuse_wrong_machine(plan: &Plan, incident: &Incident) -> Result<(), Refusal> {
    let regions = &plan.regions;
    if incident.lost.contains(&regions.secondary) {
        return Err(Refusal::NowhereToGo(regions.secondary.clone()));
    }
    let machine = plan
        .scenarios
        .iter()
        .find(|scenario| scenario.name == incident.scenario)
        .map(|scenario| scenario.machine.as_str());
    if let Some(machine) = machine.filter(|machine| *machine != "regional-failover") {
        return Err(Refusal::OtherMachine { scenario: incident.scenario.clone(), machine: machine.to_owned() });
    }
    // In a graceful switch nothing needs to be lost.
    if incident.manner == Manner::Ungraceful && !incident.lost.contains(&regions.primary) {
        let lost: Vec<&str> = incident.lost.iter().map(Region::code).collect();
        return Err(Refusal::PrimaryNotLost { primary: regions.primary.clone(), lost: lost.join(", ") });
    }
    Ok(())
}

/// The record of this run if it holds the fence already.
fn claim_fence(survey: &Survey, run: &str) -> Result<Option<FenceRecord>, Refusal> {
    match &survey.fence {
        Sighting::Unknown(why) => Err(Refusal::FenceUnknown(why.clone())),
        Sighting::Seen(existing) => match claim(existing.as_ref(), run) {
            Claim::Take(_) => Ok(None),
            Claim::Held(record) => Ok(Some(*record)),
            Claim::Refused(record) => Err(Refusal::FenceHeld(record)),
        },
    }
}

fn seen_standby<'a>(plan: &Plan, survey: &'a Survey) -> Result<&'a ServerStatus, Refusal> {
    match &survey.standby {
        Sighting::Seen(status) => Ok(status),
        Sighting::Unknown(why) => {
            Err(Refusal::StandbyUnknown { standby: plan.postgresql.standby.instance.clone(), why: why.clone() })
        }
    }
}

fn refuse_living_primary(plan: &Plan, incident: &Incident, survey: &Survey) -> Result<(), Refusal> {
    let primary = || plan.postgresql.primary.instance.clone();
    match (&survey.primary, incident.manner) {
        (Sighting::Unknown(why), Manner::Graceful) => {
            Err(Refusal::PrimaryUnknown { primary: primary(), why: why.clone() })
        }
        (Sighting::Unknown(_), Manner::Ungraceful) => Ok(()),
        (Sighting::Seen(status), _) if status.in_recovery => Err(Refusal::PrimaryIsStandby(primary())),
        (Sighting::Seen(status), Manner::Ungraceful)
            if !status.read_only && incident.consent(Risk::StillWritable).is_none() =>
        {
            Err(Refusal::PrimaryStillWritable { primary: primary(), status: Box::new(status.clone()) })
        }
        (Sighting::Seen(_), _) => Ok(()),
    }
}

fn refuse_other_history(plan: &Plan, standby: &ServerStatus, survey: &Survey) -> Result<(), Refusal> {
    let name = || plan.postgresql.standby.instance.clone();
    if !standby.in_recovery {
        return Err(Refusal::NotAStandby(name()));
    }
    let known = survey.primary.seen().map(|primary| (&primary.system_identifier, primary.timeline));
    let kept = survey
        .position
        .seen()
        .and_then(Option::as_ref)
        .map(|position| (&position.system_identifier, position.timeline));
    match known.or(kept) {
        Some((system, timeline)) if (system, timeline) != (&standby.system_identifier, standby.timeline) => {
            Err(Refusal::OtherHistory {
                standby: name(),
                found: standby.system_identifier.clone(),
                found_timeline: standby.timeline,
                expected: system.clone(),
                expected_timeline: timeline,
            })
        }
        _ => Ok(()),
    }
}

fn permit(
    plan: &Plan,
    incident: &Incident,
    survey: &Survey,
    standby: &ServerStatus,
    warnings: &mut Vec<String>,
) -> Result<Permit, Refusal> {
    let name = &plan.postgresql.standby.instance;
    let permit = Permit {
        system_identifier: standby.system_identifier.clone(),
        timeline: standby.timeline,
        replay_to: standby.holds_to,
    };
    if incident.manner == Manner::Graceful {
        // The fence says how far the primary went; until then the primary's own position is the least.
        let reached = survey.primary.seen().map_or(standby.holds_to, |primary| primary.holds_to);
        return Ok(Permit { replay_to: reached, ..permit });
    }
    let Some(position) = last_known_position(survey) else {
        if incident.consent(Risk::DataLoss).is_some() {
            warnings.push("how far the primary was is not known; somebody has consented to the loss".to_owned());
            return Ok(permit);
        }
        return Err(Refusal::LossUnknown(plan.postgresql.primary.instance.clone()));
    };
    let bytes = position.lsn.bytes_since(standby.holds_to);
    let seconds =
        standby.heartbeat.map_or(f64::INFINITY, |seen| seconds_between(seen.written_at, position.heartbeat.written_at));
    let policy = &plan.failover;
    if bytes > policy.acceptable_loss_bytes || seconds > policy.acceptable_loss.seconds() {
        if let Some(consent) = incident.consent(Risk::DataLoss) {
            warnings.push(format!(
                "{bytes} bytes and {} are lost with the consent of {}",
                human_seconds(seconds),
                consent.by
            ));
            return Ok(permit);
        }
        return Err(Refusal::TooFarBehind {
            standby: name.clone(),
            holds: standby.holds_to,
            primary: position.lsn,
            bytes,
            seconds,
            accepted_bytes: policy.acceptable_loss_bytes,
            accepted: policy.acceptable_loss,
        });
    }
    Ok(permit)
}

/// The position that was kept outside the primary's region, or the primary's own if it still answers.
fn last_known_position(survey: &Survey) -> Option<PrimaryPosition> {
    let kept = survey.position.seen().cloned().flatten();
    let asked = survey.primary.seen().and_then(|primary| {
        Some(PrimaryPosition {
            observed_at: primary.observed_at,
            system_identifier: primary.system_identifier.clone(),
            timeline: primary.timeline,
            lsn: primary.holds_to,
            heartbeat: primary.heartbeat?,
            archiver: None,
        })
    });
    asked.or(kept)
}

fn capacity_change(plan: &Plan, survey: &Survey, warnings: &mut Vec<String>) -> CapacityChange {
    let Capacity { node_group, minimum, desired, maximum, enough_percent } = &plan.kubernetes.capacity;
    let before = match &survey.node_group {
        Sighting::Seen(status) => {
            for issue in &status.issues {
                warnings.push(format!("node group `{node_group}`: {issue}"));
            }
            Some(NodeGroupSize { minimum: status.minimum, desired: status.desired, maximum: status.maximum })
        }
        Sighting::Unknown(why) => {
            warnings.push(format!("the size of node group `{node_group}` is not known: {why}"));
            None
        }
    };
    // Somebody may already have made it larger: never scale down in a failover.
    let floor = before.unwrap_or(NodeGroupSize { minimum: 0, desired: 0, maximum: 0 });
    let after = NodeGroupSize {
        minimum: floor.minimum.max(*minimum),
        desired: floor.desired.max(*desired),
        maximum: floor.maximum.max(*maximum),
    };
    CapacityChange {
        cluster: plan.kubernetes.secondary.name.clone(),
        node_group: node_group.clone(),
        before,
        after,
        enough: (desired * enough_percent).div_ceil(100),
    }
}

fn recorded_replicas(survey: &Survey) -> BTreeMap<String, u32> {
    let writers = survey.writers.seen().map(Vec::as_slice).unwrap_or_default();
    let before =
        |writer: &crate::cluster::Writer| writer.remembered.as_ref().map_or(writer.replicas, |kept| kept.replicas);
    writers.iter().map(|writer| (writer.name.clone(), before(writer))).filter(|(_, replicas)| *replicas > 0).collect()
}

/// Seconds from `earlier` to `later`; negative if they are the other way round.
pub fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{cluster::NodeGroupStatus, database::Heartbeat, incident::Consent};

    fn plan() -> Plan {
        Plan::parse("sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn event(name: &str) -> Incident {
        let text = std::fs::read_to_string(format!("../../events/regional-failover/{name}.json")).unwrap();
        Incident::from_event(&serde_json::from_str(&text).unwrap(), &plan()).unwrap()
    }

    fn server(in_recovery: bool, lsn: u64, beat: i64) -> ServerStatus {
        ServerStatus {
            observed_at: at(beat),
            system_identifier: "7000000000000000001".to_owned(),
            timeline: 1,
            in_recovery,
            holds_to: Lsn(lsn),
            replayed_to: in_recovery.then_some(Lsn(lsn)),
            heartbeat: Some(Heartbeat { number: beat, written_at: at(beat) }),
            read_only: false,
            retrieve_retry_ms: 200,
            synchronous_standby_names: String::new(),
        }
    }

    fn position(lsn: u64, beat: i64) -> PrimaryPosition {
        let seen = server(false, lsn, beat);
        PrimaryPosition {
            observed_at: seen.observed_at,
            system_identifier: seen.system_identifier,
            timeline: 1,
            lsn: Lsn(lsn),
            heartbeat: Heartbeat { number: beat, written_at: at(beat) },
            archiver: None,
        }
    }

    /// The primary is gone and the standby has all of it.
    fn lost_primary() -> Survey {
        Survey {
            observed_at: at(100),
            primary: Sighting::Unknown("connection refused".to_owned()),
            standby: Sighting::Seen(server(true, 5000, 100)),
            position: Sighting::Seen(Some(position(5000, 100))),
            fence: Sighting::Seen(None),
            switched: Sighting::Seen(false),
            node_group: Sighting::Seen(NodeGroupStatus {
                observed_at: at(100),
                minimum: 3,
                desired: 3,
                maximum: 10,
                status: "ACTIVE".to_owned(),
                issues: Vec::new(),
            }),
            writers: Sighting::Seen(Vec::new()),
        }
    }

    fn living_primary() -> Survey {
        Survey { primary: Sighting::Seen(server(false, 6000, 101)), ..lost_primary() }
    }

    fn held(run: &str, state: FenceState) -> Sighting<Option<FenceRecord>> {
        let plan = plan();
        Sighting::Seen(Some(FenceRecord {
            epoch: 4,
            run: run.to_owned(),
            state,
            from: plan.regions.primary,
            to: plan.regions.secondary,
            permit: Permit { system_identifier: "7000000000000000001".to_owned(), timeline: 1, replay_to: Lsn(4000) },
            written_at: at(90),
        }))
    }

    #[test]
    fn every_situation_has_its_answer() {
        let mut behind = lost_primary();
        behind.position = Sighting::Seen(Some(position(200_000_000, 100)));
        let mut stale = lost_primary();
        stale.position = Sighting::Seen(Some(position(5000, 100_000)));
        let no_position = Survey { position: Sighting::Seen(None), ..lost_primary() };
        let no_standby = Survey { standby: Sighting::Unknown("timed out".to_owned()), ..lost_primary() };
        let promoted = Survey {
            standby: Sighting::Seen(ServerStatus { timeline: 2, ..server(false, 5000, 100) }),
            ..lost_primary()
        };
        let foreign = Survey {
            standby: Sighting::Seen(ServerStatus { system_identifier: "9".to_owned(), ..server(true, 5000, 100) }),
            ..lost_primary()
        };
        let branched = Survey {
            standby: Sighting::Seen(ServerStatus { timeline: 3, ..server(true, 5000, 100) }),
            ..living_primary()
        };
        let swapped = Survey { primary: Sighting::Seen(server(true, 5000, 100)), ..lost_primary() };
        let blind = Survey { fence: Sighting::Unknown("denied".to_owned()), ..lost_primary() };
        let other_run = Survey { fence: held("other", FenceState::Held), ..lost_primary() };
        let moved = Survey { fence: held("other", FenceState::Moved), ..lost_primary() };
        let lifted = Survey { fence: held("other", FenceState::Lifted), ..lost_primary() };
        let repeated = Survey { fence: held("run", FenceState::Moved), ..promoted.clone() };
        let wrong_region = Incident { lost: vec![plan().regions.tertiary], ..event("primary-region-alarm") };
        let corrupted = Incident { scenario: "database-corruption".to_owned(), ..event("primary-region-alarm") };
        let (alarm, graceful) = (event("primary-region-alarm"), event("manual-graceful"));
        let (consented, two_lost) = (event("standby-behind-consented"), event("two-regions-lost"));
        let still = Incident {
            consents: vec![Consent { to: Risk::StillWritable, by: "cto".to_owned(), because: "unplugged".to_owned() }],
            ..alarm.clone()
        };
        let (gone, living) = (lost_primary(), living_primary());
        let situations: Vec<(&str, &Incident, &Survey, &str)> = vec![
            ("the primary is gone, the standby has everything", &alarm, &gone, "epoch 1"),
            ("the primary works and is asked to stop", &graceful, &living, "epoch 1"),
            ("an earlier failover was put back", &alarm, &lifted, "epoch 5"),
            ("this run has promoted already", &alarm, &repeated, "epoch 4"),
            ("the alarm is wrong, the primary works", &alarm, &living, "still takes writes"),
            ("somebody takes that upon themselves", &still, &living, "epoch 1"),
            ("a graceful switch without a primary", &graceful, &gone, "needs the primary"),
            ("the standby lacks 200 MB", &alarm, &behind, "199995000 bytes and 0 s would be lost"),
            ("somebody takes the loss upon themselves", &consented, &behind, "epoch 1"),
            ("the standby is a day old", &alarm, &stale, "would be lost"),
            ("nobody knows how far the primary was", &alarm, &no_position, "cannot be bounded"),
            ("the same with consent", &consented, &no_position, "epoch 1"),
            ("the standby does not answer", &alarm, &no_standby, "cannot be seen: timed out"),
            ("somebody promoted the standby by hand", &alarm, &promoted, "is not a standby"),
            ("the standby is of another system", &alarm, &foreign, "is system 9"),
            ("the standby is on another branch", &graceful, &branched, "timeline 3; the primary is system"),
            ("the primary's name leads to a standby", &alarm, &swapped, "is in recovery"),
            ("the fence cannot be read", &alarm, &blind, "cannot be read: denied"),
            ("another run is at work", &alarm, &other_run, "run `other` holds the fence under epoch 4"),
            ("the platform has moved already", &alarm, &moved, "(Moved since"),
            ("both regions are lost", &two_lost, &gone, "`us-west-2` is lost too"),
            ("another region is lost", &wrong_region, &gone, "`us-east-1` is not among the lost regions"),
            ("the data is corrupt, not the region", &corrupted, &gone, "answered by the machine `restore`"),
        ];
        for (situation, incident, survey, expected) in situations {
            let answer = match decide(&plan(), incident, survey, "run") {
                Ok(decided) => format!("epoch {}", decided.epoch),
                Err(refusal) => refusal.to_string(),
            };
            assert!(answer.contains(expected), "{situation}: {answer}");
        }
    }

    #[test]
    fn capacity_is_never_scaled_down_in_a_failover() {
        let mut survey = lost_primary();
        let Sighting::Seen(status) = &mut survey.node_group else { unreachable!() };
        (status.minimum, status.desired, status.maximum) = (20, 80, 100);
        let decided = decide(&plan(), &event("primary-region-alarm"), &survey, "run").unwrap();
        assert_eq!(decided.capacity.after, NodeGroupSize { minimum: 20, desired: 80, maximum: 100 });
        assert_eq!(decided.capacity.enough, 30);
    }

    fn incident() -> impl Strategy<Value = Incident> {
        let events = ["primary-region-alarm", "manual-graceful", "standby-behind-consented", "two-regions-lost"];
        (proptest::sample::select(events.map(event).to_vec()), any::<bool>()).prop_map(|(incident, still_writable)| {
            let consent = Consent { to: Risk::StillWritable, by: "cto".to_owned(), because: "unplugged".to_owned() };
            let more = still_writable.then_some(consent);
            Incident { consents: incident.consents.iter().cloned().chain(more).collect(), ..incident }
        })
    }

    fn sighting() -> impl Strategy<Value = Sighting<ServerStatus>> {
        let status = (any::<bool>(), any::<bool>(), 1u64..3, 1u32..3, 0u64..1 << 30, 0i64..1000);
        proptest::option::weighted(0.8, status).prop_map(|seen| match seen {
            None => Sighting::Unknown("timed out".to_owned()),
            Some((in_recovery, read_only, system, timeline, holds, beat)) => Sighting::Seen(ServerStatus {
                read_only,
                timeline,
                system_identifier: system.to_string(),
                ..server(in_recovery, holds, beat)
            }),
        })
    }

    fn fence() -> impl Strategy<Value = Sighting<Option<FenceRecord>>> {
        let states = [FenceState::Held, FenceState::Promoting, FenceState::Moved, FenceState::Lifted];
        prop_oneof![
            Just(Sighting::Unknown("denied".to_owned())),
            Just(Sighting::Seen(None)),
            (proptest::sample::select(vec!["run", "other"]), proptest::sample::select(states.to_vec()))
                .prop_map(|(run, state)| held(run, state)),
        ]
    }

    proptest! {
        /// Whatever was seen: a permit is for the standby that was seen, asks for no more than it holds when nobody can be
        /// waited for, and loses no more than the plan accepts.
        #[test]
        fn an_ungraceful_permit_never_loses_more_than_the_plan_accepts(
            holds in 0u64..1 << 40, was in 0u64..1 << 40, beat in 0i64..10_000, last in 0i64..10_000, kept: bool,
        ) {
            let mut survey = lost_primary();
            survey.standby = Sighting::Seen(server(true, holds, beat));
            survey.position = Sighting::Seen(kept.then(|| position(was, last)));
            let plan = plan();
            if let Ok(decided) = decide(&plan, &event("primary-region-alarm"), &survey, "run") {
                prop_assert!(kept);
                prop_assert!(was.saturating_sub(holds) <= plan.failover.acceptable_loss_bytes);
                prop_assert!((last - beat) as f64 <= plan.failover.acceptable_loss.seconds());
                prop_assert_eq!(decided.permit.check("s", survey.standby.seen().unwrap()), Ok(()));
            }
        }

        /// Whatever the world looks like: guards that no consent lifts hold, a run that is repeated promotes what it was
        /// allowed to promote, epochs grow, capacity never shrinks, and the same question has the same answer.
        #[test]
        fn a_plan_is_built_only_where_every_guard_lets_it(
            incident in incident(), primary in sighting(), standby in sighting(), fence in fence(),
            kept in (any::<bool>(), 0u64..1 << 30, 0i64..1000), sizes in (0u32..100, 0u32..100, 0u32..100),
        ) {
            // EKS lets no group be otherwise.
            let sizes = (sizes.0, sizes.0 + sizes.1, sizes.0 + sizes.1 + sizes.2);
            let (plan, mut survey) = (plan(), lost_primary());
            survey.primary = primary;
            survey.standby = standby;
            survey.fence = fence.clone();
            survey.position = Sighting::Seen(kept.0.then(|| position(kept.1, kept.2)));
            if let Sighting::Seen(status) = &mut survey.node_group {
                (status.minimum, status.desired, status.maximum) = sizes;
            }
            let decided = decide(&plan, &incident, &survey, "run");
            prop_assert_eq!(&decided, &decide(&plan, &incident, &survey, "run"));
            let Ok(decided) = decided else { return Ok(()) };

            let standby = survey.standby.seen();
            prop_assert!(standby.is_some(), "a standby that nobody saw is promoted");
            prop_assert!(!incident.lost.contains(&plan.regions.secondary), "there is nowhere to go");
            let record = fence.seen().and_then(Option::as_ref);
            prop_assert!(fence.seen().is_some(), "nobody knows who holds the fence");
            match record.filter(|record| record.run == "run" && record.state != FenceState::Lifted) {
                Some(ours) => prop_assert_eq!((decided.epoch, &decided.permit), (ours.epoch, &ours.permit)),
                None => {
                    prop_assert!(record.is_none_or(|record| record.state == FenceState::Lifted), "it is another run's");
                    prop_assert!(decided.epoch > record.map_or(0, |record| record.epoch));
                    let primary = survey.primary.seen();
                    prop_assert!(primary.is_none_or(|primary| !primary.in_recovery), "it is no primary");
                    let writes = primary.is_some_and(|primary| !primary.read_only);
                    let consented = incident.consent(Risk::StillWritable).is_some();
                    prop_assert!(incident.manner == Manner::Graceful || !writes || consented, "it still takes writes");
                    prop_assert!(incident.manner == Manner::Ungraceful || primary.is_some(), "nobody can be asked to stop");
                    prop_assert!(standby.is_some_and(|standby| standby.in_recovery), "it was promoted by somebody else");
                    prop_assert_eq!(&decided.permit.system_identifier, &standby.unwrap().system_identifier);
                }
            }
            let after = decided.capacity.after;
            prop_assert!(after.minimum >= sizes.0 && after.desired >= sizes.1 && after.maximum >= sizes.2);
            prop_assert!(after.desired >= plan.kubernetes.capacity.desired && after.maximum >= after.desired);
        }

        /// A permit refuses every server that differs from what was seen in system, timeline or position.
        #[test]
        fn a_permit_fits_one_history_only(system in 1u64..3, timeline in 1u32..4, holds in 4000u64..6000) {
            let permit = Permit { system_identifier: "1".to_owned(), timeline: 2, replay_to: Lsn(5000) };
            let status = ServerStatus { system_identifier: system.to_string(), timeline, ..server(true, holds, 1) };
            let fits = system == 1 && timeline == 2 && holds >= 5000;
            prop_assert_eq!(permit.check("s", &status).is_ok(), fits);
            prop_assert_eq!(permit.check_promoted("s", &status).is_ok(), system == 1 && timeline > 2);
        }
    }
}
