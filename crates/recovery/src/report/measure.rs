//! Objectives against measurements. Unknown is a verdict of its own, says why, and counts as not met.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    failover::seconds_between,
    holdings::{ImagesHeld, ObjectsHeld},
    incident::Incident,
    names::Answer,
    notice::utc,
    objective::{Priority, RecoveryPoint, Span, human_seconds},
    plan::{Component, Mechanism, Objective, Plan},
    run::{Run, RunOutcome, ServiceAnswer},
    survey::Sighting,
};

/// How a measurement stands to its objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Measured, and within the objective.
    Met,
    /// Measured, and beyond the objective.
    NotMet,
    /// Not measured; counts as not met.
    Unknown,
}

/// One objective and what was measured against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The objective as the plan writes it: `15 min`, `real-time`, `rebuilt`.
    pub objective: String,
    /// The objective in seconds; absent where there is nothing to lose.
    pub objective_seconds: Option<f64>,
    /// What was measured, in seconds; absent if it was not.
    pub measured_seconds: Option<f64>,
    /// How the two stand to each other.
    pub verdict: Verdict,
    /// What the figure comes from, or why there is none.
    pub because: String,
}

impl Measure {
    fn new(objective: String, limit: Option<f64>, measured: Result<(f64, String), String>) -> Measure {
        let (measured_seconds, verdict, because) = match (limit, measured) {
            (None, Ok((_, because))) => (None, Verdict::Met, because),
            (None, Err(because)) => (None, Verdict::Unknown, because),
            (Some(limit), Ok((seconds, because))) if seconds.is_finite() => {
                let seconds = seconds.max(0.0);
                (Some(seconds), if seconds <= limit { Verdict::Met } else { Verdict::NotMet }, because)
            }
            (Some(_), Ok((_, because)) | Err(because)) => (None, Verdict::Unknown, because),
        };
        Measure { objective, objective_seconds: limit, measured_seconds, verdict, because }
    }

    fn rto(objective: Span, measured: Result<(f64, String), String>) -> Measure {
        Measure::new(objective.to_string(), Some(objective.seconds()), measured)
    }

    fn rpo(objective: RecoveryPoint, measured: Result<(f64, String), String>) -> Measure {
        Measure::new(objective.to_string(), objective.seconds(), measured)
    }

    /// Away for longer than allowed, though nobody knows for how long yet.
    fn exceeded_by_now(mut self, away: f64) -> Measure {
        if self.verdict == Verdict::Unknown && self.objective_seconds.is_some_and(|limit| away > limit) {
            self.verdict = Verdict::NotMet;
        }
        self
    }
}

/// A service, its objectives, and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceResult {
    /// Short name.
    pub service: String,
    /// The name that people use.
    pub title: String,
    /// How urgent it is.
    pub priority: Priority,
    /// When it answered by itself, in the secondary region.
    pub answered_at: Option<Timestamp>,
    /// When customers had it again: the later of its own answer and the public name's.
    pub back_at: Option<Timestamp>,
    /// Recovery time.
    pub rto: Measure,
    /// Data loss.
    pub rpo: Measure,
}

/// A component, its targets, and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentResult {
    /// Short name.
    pub name: String,
    /// The name that people use.
    pub title: String,
    /// How it is kept recoverable, in words.
    pub mechanism: String,
    /// Recovery time.
    pub rto: Measure,
    /// Data loss.
    pub rpo: Measure,
}

/// The scenario's objective for the whole platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// Short name.
    pub name: String,
    /// The name that people use.
    pub title: String,
    /// Recovery time of the last service.
    pub rto: Measure,
}

/// When an answer had come; it is stamped with the moment of the question.
fn answered_at(answer: &Answer) -> Timestamp {
    let took = SignedDuration::try_from_secs_f64(answer.took_seconds.max(0.0)).unwrap_or_default();
    answer.observed_at.saturating_add(took).unwrap_or(answer.observed_at)
}

/// When customers reached the secondary region through the public name.
pub(super) fn reached_at(run: &Run) -> Option<Timestamp> {
    run.reached.as_ref().filter(|reached| reached.answer.is_healthy()).map(|reached| answered_at(&reached.answer))
}

/// When a service answered by itself.
fn healthy_at(run: &Run, service: &str) -> Option<Timestamp> {
    let answers = run.health.as_ref()?.answers.iter().filter(|answer| answer.service == service);
    // A service with two checks works when the later one does.
    answers
        .map(|a| a.answer.is_healthy().then(|| answered_at(&a.answer)))
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .max()
}

/// Whether the platform left the primary region. If it did not, that region may well be serving: a run that was refused
/// because the primary works must not report that services are away.
fn has_moved(run: &Run) -> bool {
    matches!(run.outcome(), RunOutcome::Recovered | RunOutcome::Incomplete)
}

/// When the last of the plan's services was back.
pub(super) fn recovered_at(plan_services: &[ServiceResult]) -> Option<Timestamp> {
    plan_services.iter().map(|service| service.back_at).collect::<Option<Vec<_>>>()?.into_iter().max()
}

pub(super) struct Measurements {
    pub services: Vec<ServiceResult>,
    pub components: Vec<ComponentResult>,
    pub scenario: Option<ScenarioResult>,
}

impl Measurements {
    pub fn of(plan: &Plan, run: &Run, incident: Option<&Incident>, now: Timestamp) -> Measurements {
        let began_at = incident.map(|incident| incident.began_at);
        let components: Vec<ComponentResult> =
            plan.components.iter().map(|component| measure_component(component, plan, run, began_at)).collect();
        let services: Vec<ServiceResult> = plan
            .objectives
            .iter()
            .map(|objective| measure_service(objective, run, began_at, now, &components))
            .collect();
        let scenario = incident
            .and_then(|incident| plan.scenarios.iter().find(|scenario| scenario.name == incident.scenario))
            .map(|scenario| {
                let measured = match (began_at, recovered_at(&services)) {
                    (Some(began), Some(back)) => {
                        Ok((seconds_between(began, back), format!("the last service was back at {}", utc(back))))
                    }
                    _ => Err(missing(&services)),
                };
                let rto = Measure::rto(scenario.rto, measured);
                let away = began_at.map_or(0.0, |began| seconds_between(began, now));
                ScenarioResult {
                    name: scenario.name.clone(),
                    title: scenario.title.clone(),
                    rto: if has_moved(run) { rto.exceeded_by_now(away) } else { rto },
                }
            });
        Measurements { services, components, scenario }
    }
}

fn missing(services: &[ServiceResult]) -> String {
    let away: Vec<&str> =
        services.iter().filter(|service| service.back_at.is_none()).map(|service| service.service.as_str()).collect();
    match away.as_slice() {
        [] => "when the impairment began is not known".to_owned(),
        all if all.len() == services.len() => "no service was seen back".to_owned(),
        some => format!("not seen back: {}", some.join(", ")),
    }
}

fn measure_service(
    objective: &Objective,
    run: &Run,
    began_at: Option<Timestamp>,
    now: Timestamp,
    components: &[ComponentResult],
) -> ServiceResult {
    let own = healthy_at(run, &objective.service);
    let reached = reached_at(run);
    let back_at = own.zip(reached).map(|(own, reached)| own.max(reached));
    let measured = match (began_at, back_at) {
        (None, _) => Err("when the impairment began is not known".to_owned()),
        (Some(began), Some(back)) => Ok((
            seconds_between(began, back),
            match own {
                Some(own) if own == back => format!("it answered at {}", utc(back)),
                _ => format!("reached by the public name at {}", utc(back)),
            },
        )),
        (Some(_), None) if own.is_some() => {
            Err("it answers in the secondary region, but the public name was not seen to lead there".to_owned())
        }
        (Some(_), None) if reached.is_some() => Err("nothing asked it, or it did not answer".to_owned()),
        (Some(_), None) if !has_moved(run) => {
            Err("nothing has moved, so this run does not know whether the primary region serves it".to_owned())
        }
        (Some(began), None) => Err(format!(
            "not back when this report was written, {} after the impairment",
            human_seconds(seconds_between(began, now))
        )),
    };
    let away = began_at.map_or(0.0, |began| seconds_between(began, now));
    ServiceResult {
        service: objective.service.clone(),
        title: objective.title.clone(),
        priority: objective.priority,
        answered_at: own,
        back_at,
        rto: if has_moved(run) {
            Measure::rto(objective.rto, measured).exceeded_by_now(away)
        } else {
            Measure::rto(objective.rto, measured)
        },
        rpo: service_rpo(objective, components),
    }
}

/// The worst of the components whose loss of data is the service's.
fn service_rpo(objective: &Objective, components: &[ComponentResult]) -> Measure {
    if objective.data.is_empty() {
        return Measure::rpo(
            objective.rpo,
            Err("the plan names no component that keeps its data (`data` is empty), so nothing measures its loss"
                .to_owned()),
        );
    }
    let parts: Vec<&ComponentResult> =
        objective.data.iter().filter_map(|name| components.iter().find(|c| &c.name == name)).collect();
    let worst = parts
        .iter()
        .filter_map(|part| part.rpo.measured_seconds.map(|seconds| (seconds, part)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let unknown: Vec<&&ComponentResult> = parts.iter().filter(|part| part.rpo.verdict == Verdict::Unknown).collect();
    let limit = objective.rpo.seconds().unwrap_or(f64::INFINITY);
    match (worst, unknown.as_slice()) {
        // What is known is already too much: no need to know the rest.
        (Some((seconds, part)), _) if seconds > limit => {
            Measure::rpo(objective.rpo, Ok((seconds, format!("{}: {}", part.name, part.rpo.because))))
        }
        (_, [first, ..]) => Measure::rpo(objective.rpo, Err(format!("{}: {}", first.name, first.rpo.because))),
        (Some((seconds, part)), []) => {
            Measure::rpo(objective.rpo, Ok((seconds, format!("{}: {}", part.name, part.rpo.because))))
        }
        // All its data is rebuilt.
        (None, []) => Measure::rpo(objective.rpo, Ok((0.0, "all of its data is rebuilt from its source".to_owned()))),
    }
}

fn is_database(component: &Component) -> bool {
    component.name == "postgresql" || matches!(component.mechanism, Mechanism::StreamingReplication { .. })
}

fn is_cluster(component: &Component) -> bool {
    component.name == "kubernetes" || matches!(component.mechanism, Mechanism::RenderedBundle { .. })
}

/// When a component was seen to work in the secondary region, and by what.
type Back = Result<(Timestamp, String), String>;
/// Seconds of data that it lost, and by what that is known.
type Lost = Result<(f64, String), String>;

fn measure_component(component: &Component, plan: &Plan, run: &Run, began_at: Option<Timestamp>) -> ComponentResult {
    let (back, rpo) = match component.mechanism {
        _ if is_database(component) => (database_back(run), database_rpo(run)),
        _ if is_cluster(component) => (cluster_back(run), cluster_rpo(run, began_at)),
        Mechanism::CrossRegionReplication { .. } => (objects_back(run), objects_rpo(run, began_at)),
        Mechanism::RegistryReplication { .. } => (images_back(run), images_rpo(run, began_at)),
        Mechanism::Rebuild => rebuilt(component, plan, run),
        _ => (asked(component, plan, run), Err("no step of this run measures it".to_owned())),
    };
    let rto = match (began_at, back) {
        (None, _) => Err("when the impairment began is not known".to_owned()),
        (Some(_), Err(why)) => Err(why),
        (Some(began), Ok((at, because))) => Ok((seconds_between(began, at), because)),
    };
    ComponentResult {
        name: component.name.clone(),
        title: component.title.clone(),
        mechanism: mechanism_in_words(&component.mechanism),
        rto: Measure::rto(component.rto, rto),
        rpo: Measure::rpo(component.rpo, rpo),
    }
}

fn database_back(run: &Run) -> Back {
    let promotion = run.promotion.as_ref().ok_or("the standby was not promoted")?;
    let at = promotion.writable_at;
    Ok((at, format!("`{}` committed a write at {} by its own clock", promotion.server, utc(at))))
}

fn database_rpo(run: &Run) -> Lost {
    let promotion = run.promotion.as_ref().ok_or("the standby was not promoted")?;
    let loss = &promotion.loss;
    match (loss.seconds_at_most, loss.bytes) {
        (Some(0.0), Some(0)) => Ok((0.0, "the promoted server holds all that the closed primary wrote".to_owned())),
        (Some(seconds), bytes) => {
            let bytes = bytes.map_or_else(String::new, |bytes| format!(", at least {bytes} bytes of log"));
            let heartbeats =
                loss.heartbeats.map_or_else(String::new, |n| format!(", {}", super::words::count(n, "heartbeat")));
            Ok((seconds, format!("at most, from the newest heartbeat on the promoted server{bytes}{heartbeats}")))
        }
        (None, Some(bytes)) => {
            Err(format!("at least {bytes} bytes of log are missing, and no heartbeat says how much time that is"))
        }
        (None, None) => Err("no position and no heartbeat of the primary were kept".to_owned()),
    }
}

fn cluster_back(run: &Run) -> Back {
    let rollout = run.rollout.as_ref().ok_or("the workloads were not rolled out")?;
    Ok((
        rollout.observed_at,
        format!(
            "{} complete at {}",
            super::words::count(rollout.rollouts.len() as u64, "rollout"),
            utc(rollout.observed_at)
        ),
    ))
}

fn cluster_rpo(run: &Run, began_at: Option<Timestamp>) -> Lost {
    let rollout = run.rollout.as_ref().ok_or("the workloads were not rolled out")?;
    let rendered =
        rollout.rendered_at.ok_or("the bundle does not say when it was rendered (`recovery.sparc/rendered-at`)")?;
    let began = began_at.ok_or("when the impairment began is not known")?;
    Ok((seconds_between(rendered, began), format!("the bundle was rendered at {}", utc(rendered))))
}

fn objects(run: &Run) -> Result<&ObjectsHeld, String> {
    const UNASKED: &str = "nobody looked into the copy: services were not seen to work";
    match run.health.as_ref().and_then(|health| health.holdings.objects.as_ref()) {
        Some(Sighting::Seen(held)) => Ok(held),
        Some(Sighting::Unknown(why)) => Err(format!("the copy was not read: {why}")),
        None => Err(UNASKED.to_owned()),
    }
}

fn objects_back(run: &Run) -> Back {
    let held = objects(run)?;
    held.newest.ok_or_else(|| no_marker(held))?;
    Ok((held.observed_at, format!("`{}` gave an object at {}", held.bucket, utc(held.observed_at))))
}

fn no_marker(held: &ObjectsHeld) -> String {
    format!("`{}` answers and holds no heartbeat, so nothing is known to have arrived", held.bucket)
}

/// As with the database: what came after the newest heartbeat that arrived may be missing, until the primary was away or the
/// last heartbeat that is known to have been written.
fn objects_rpo(run: &Run, began_at: Option<Timestamp>) -> Lost {
    let held = objects(run)?;
    let newest = held.newest.ok_or_else(|| no_marker(held))?;
    let began = began_at.ok_or("when the impairment began is not known")?;
    let gone_by = run.plan.as_ref().and_then(|plan| plan.incident.gone_by).unwrap_or(began);
    let last = held.written.map_or(gone_by, |written| written.written_at.max(gone_by));
    // The primary may have gone on after the last one that is known.
    let missing = held.written.map_or(0, |written| (written.number - newest.number).max(0).unsigned_abs());
    let count = match missing {
        0 => String::new(),
        missing => format!(", at least {}", super::words::count(missing, "heartbeat")),
    };
    let because = format!("at most, from the newest heartbeat in `{}`{count}", held.bucket);
    Ok((seconds_between(newest.written_at, last).max(0.0), because))
}

fn images(run: &Run) -> Result<&ImagesHeld, String> {
    match run.health.as_ref().and_then(|health| health.holdings.images.as_ref()) {
        Some(Sighting::Seen(held)) if held.missing.is_empty() => Ok(held),
        Some(Sighting::Seen(held)) => Err(format!("not in the registry: {}", held.missing.join(", "))),
        Some(Sighting::Unknown(why)) => Err(format!("the registry did not say: {why}")),
        None => Err("nobody looked into the registry: services were not seen to work".to_owned()),
    }
}

fn images_back(run: &Run) -> Back {
    let held = images(run)?;
    let all = super::words::count(held.asked as u64, "image");
    Ok((held.observed_at, format!("{all} of the bundle found by digest at {}", utc(held.observed_at))))
}

/// Every image of the bundle is there; what was pushed after it was rendered is not looked for.
fn images_rpo(run: &Run, began_at: Option<Timestamp>) -> Lost {
    images(run)?;
    let (seconds, because) = cluster_rpo(run, began_at)?;
    Ok((seconds, format!("at most: every image of the bundle is there, and {because}")))
}

/// A component that fills itself again has nothing to lose, once it was seen to work.
fn rebuilt(component: &Component, plan: &Plan, run: &Run) -> (Back, Lost) {
    let back = asked(component, plan, run);
    let lost = match &back {
        Ok(_) => Ok((0.0, "it is rebuilt from its source".to_owned())),
        Err(why) => Err(why.clone()),
    };
    (back, lost)
}

/// The answer of a component that the plan has a check for.
fn asked(component: &Component, plan: &Plan, run: &Run) -> Back {
    let answers = run.health.as_ref().map(|health| health.holdings.components.as_slice()).unwrap_or_default();
    let Some(ServiceAnswer { answer, .. }) = answers.iter().find(|one| one.service == component.name) else {
        return Err(unasked(component, plan, run));
    };
    let at = answered_at(answer);
    match (answer.is_healthy(), answer.status) {
        (true, _) => Ok((at, format!("it answered at {}", utc(at)))),
        (false, Some(status)) => Err(format!("it answered {status} at {}", utc(at))),
        (false, None) => Err(format!("it did not answer: {}", answer.error.as_deref().unwrap_or("no reason given"))),
    }
}

/// Why the recovery time of a component that no step asks is not known.
fn unasked(component: &Component, plan: &Plan, run: &Run) -> String {
    let dependents: Vec<&str> = plan
        .objectives
        .iter()
        .filter(|objective| objective.needs.contains(&component.name))
        .filter(|objective| healthy_at(run, &objective.service).is_some())
        .map(|objective| objective.service.as_str())
        .collect();
    if dependents.is_empty() {
        "no step of this run asks it".to_owned()
    } else {
        format!("no step of this run asks it; services that need it answered: {}", dependents.join(", "))
    }
}

/// A mechanism in words.
pub fn mechanism_in_words(mechanism: &Mechanism) -> String {
    match mechanism {
        Mechanism::StreamingReplication { archive_timeout: Some(span) } => {
            format!("streaming replication, archive every {span}")
        }
        Mechanism::StreamingReplication { archive_timeout: None } => {
            "streaming replication, no archive_timeout".to_owned()
        }
        Mechanism::Snapshots { every, storage_class } => {
            format!("snapshots every {every} in {storage_class}")
        }
        Mechanism::CrossRegionReplication { time_control: true } => {
            "cross-region replication with time control".to_owned()
        }
        Mechanism::CrossRegionReplication { time_control: false } => {
            "cross-region replication without time control".to_owned()
        }
        Mechanism::RegistryReplication { lag } => format!("replication by the registry, up to {lag} behind"),
        Mechanism::RenderedBundle { every } => format!("manifests rendered every {every}"),
        Mechanism::Rebuild => "rebuilt from its source".to_owned(),
    }
}
