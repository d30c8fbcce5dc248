//! What was lost, since when, and who says so; read from the event that starts a run.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    database::Manner,
    fault::{Classified, Fault},
    plan::{Plan, Region},
};

/// `detail-type` of the event with which a person or another machine asks for a failover.
pub const REQUESTED: &str = "Regional Failover Requested";
/// `detail-type` of CloudWatch's event.
pub const ALARM: &str = "CloudWatch Alarm State Change";

/// What was lost, since when, and who says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// The event's identifier.
    pub id: String,
    /// One of the plan's scenarios.
    pub scenario: String,
    /// Whether the primary is expected to live.
    pub manner: Manner,
    /// Regions that are said to be lost.
    pub lost: Vec<Region>,
    /// When the impairment began; recovery time is counted from here.
    pub began_at: Timestamp,
    /// When the primary was away at the latest: until then it may have promised writes, so a loss is bounded by it and not by
    /// the begin. A look that fails says only that the primary was away when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_by: Option<Timestamp>,
    /// When it was declared.
    pub declared_at: Timestamp,
    /// The alarm or the person.
    pub declared_by: String,
    /// In their words.
    pub reason: String,
    /// What somebody has taken upon themselves.
    pub consents: Vec<Consent>,
}

/// What somebody has taken upon themselves, on the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// To what.
    pub to: Risk,
    /// Who.
    pub by: String,
    /// Why.
    pub because: String,
}

/// A risk that stops a run unless somebody takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// The old primary may go on taking writes.
    StillWritable,
    /// More is lost than the plan accepts.
    DataLoss,
}

impl Risk {
    /// As events and the command line name it.
    pub fn name(self) -> &'static str {
        match self {
            Risk::StillWritable => "still-writable",
            Risk::DataLoss => "data-loss",
        }
    }
}

impl Incident {
    /// The consent to a risk, if there is one.
    pub fn consent(&self, to: Risk) -> Option<&Consent> {
        self.consents.iter().find(|consent| consent.to == to)
    }

    /// Reads the event that started a run: CloudWatch's alarm through EventBridge, or a request.
    ///
    /// # Errors
    /// The event is neither, or names what the plan does not know.
    pub fn from_event(event: &Value, plan: &Plan) -> Result<Incident, NotAnIncident> {
        let envelope: Envelope = serde_json::from_value(event.clone()).map_err(NotAnIncident::Envelope)?;
        match envelope.detail_type.as_str() {
            ALARM => from_alarm(envelope, plan),
            REQUESTED => from_request(envelope, plan),
            other => Err(NotAnIncident::DetailType(other.to_owned())),
        }
    }
}

/// EventBridge's envelope, tolerant: AWS may add fields.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: Timestamp,
    detail: Value,
}

#[derive(Deserialize)]
struct AlarmDetail {
    #[serde(rename = "alarmName")]
    alarm_name: String,
    state: AlarmState,
    #[serde(default)]
    configuration: Value,
}

#[derive(Deserialize)]
struct AlarmState {
    value: String,
    #[serde(default)]
    reason: String,
    #[serde(rename = "reasonData")]
    reason_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestDetail {
    scenario: String,
    mode: Manner,
    lost_regions: Vec<Region>,
    began_at: Option<Timestamp>,
    declared_by: String,
    reason: String,
    #[serde(default)]
    consents: Vec<Consent>,
}

fn from_alarm(envelope: Envelope, plan: &Plan) -> Result<Incident, NotAnIncident> {
    let detail: AlarmDetail = serde_json::from_value(envelope.detail).map_err(NotAnIncident::Detail)?;
    if detail.state.value != "ALARM" {
        return Err(NotAnIncident::NoAlarm { alarm: detail.alarm_name, state: detail.state.value });
    }
    let lost = alarm_regions(&detail.configuration)?;
    if lost.is_empty() {
        return Err(NotAnIncident::NoRegion(detail.alarm_name));
    }
    let scenario = if lost.contains(&plan.regions.secondary) && lost.contains(&plan.regions.primary) {
        "multi-region-failure"
    } else {
        "data-center-failure"
    };
    let breaches = detail.state.reason_data.as_deref().map(breaches).unwrap_or_default();
    Ok(Incident {
        id: envelope.id,
        scenario: known_scenario(scenario, plan)?,
        manner: Manner::Ungraceful,
        lost: known_regions(lost, plan)?,
        began_at: breaches.first().copied().unwrap_or(envelope.time),
        // The first datapoint stands for the time from it to the second one.
        gone_by: Some(breaches.get(1).copied().unwrap_or(envelope.time)),
        declared_at: envelope.time,
        declared_by: format!("alarm {}", detail.alarm_name),
        reason: detail.state.reason,
        consents: Vec::new(),
    })
}

/// The values of the dimension `Region` of the alarm's metrics.
fn alarm_regions(configuration: &Value) -> Result<Vec<Region>, NotAnIncident> {
    let metrics = configuration.get("metrics").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut lost = Vec::new();
    for metric in metrics {
        let Some(code) = metric.pointer("/metricStat/metric/dimensions/Region").and_then(Value::as_str) else {
            continue;
        };
        let region = Region::try_from(code.to_owned()).map_err(NotAnIncident::Region)?;
        if !lost.contains(&region) {
            lost.push(region);
        }
    }
    Ok(lost)
}

/// The datapoints of the evaluation, oldest first: the impairment began no later than the first.
fn breaches(reason_data: &str) -> Vec<Timestamp> {
    let data: Value = serde_json::from_str(reason_data).unwrap_or_default();
    let points = data.get("evaluatedDatapoints").and_then(Value::as_array).cloned().unwrap_or_default();
    let time = |value: &Value, field: &str| cloudwatch_time(value.get(field)?.as_str()?);
    let mut times: Vec<Timestamp> = points.iter().filter_map(|point| time(point, "timestamp")).collect();
    times.sort_unstable();
    if times.is_empty() { time(&data, "startDate").into_iter().collect() } else { times }
}

/// CloudWatch writes `2026-11-23T02:58:00.000+0000`, which is not RFC 3339.
fn cloudwatch_time(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", text).ok())
}

fn from_request(envelope: Envelope, plan: &Plan) -> Result<Incident, NotAnIncident> {
    let detail: RequestDetail = serde_json::from_value(envelope.detail).map_err(NotAnIncident::Detail)?;
    Ok(Incident {
        id: envelope.id,
        scenario: known_scenario(&detail.scenario, plan)?,
        manner: detail.mode,
        lost: known_regions(detail.lost_regions, plan)?,
        began_at: detail.began_at.unwrap_or(envelope.time),
        gone_by: Some(envelope.time),
        declared_at: envelope.time,
        declared_by: detail.declared_by,
        reason: detail.reason,
        consents: detail.consents,
    })
}

fn known_scenario(name: &str, plan: &Plan) -> Result<String, NotAnIncident> {
    if plan.scenarios.iter().any(|scenario| scenario.name == name) {
        return Ok(name.to_owned());
    }
    let known: Vec<&str> = plan.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    Err(NotAnIncident::Scenario { name: name.to_owned(), known: known.join("`, `") })
}

fn known_regions(regions: Vec<Region>, plan: &Plan) -> Result<Vec<Region>, NotAnIncident> {
    let known = [&plan.regions.primary, &plan.regions.secondary, &plan.regions.tertiary];
    match regions.iter().find(|region| !known.contains(region)) {
        None => Ok(regions),
        Some(unknown) => Err(NotAnIncident::Region(format!(
            "`{unknown}` is none of the plan's regions; name `{}`, `{}` or `{}`",
            known[0], known[1], known[2]
        ))),
    }
}

/// The event does not say that something was lost.
#[derive(Debug, thiserror::Error)]
pub enum NotAnIncident {
    /// Not an EventBridge event.
    #[error("the event is not an EventBridge envelope")]
    Envelope(#[source] serde_json::Error),
    /// An event of something else.
    #[error("the event's detail-type is `{0}`, which starts no failover")]
    DetailType(String),
    /// The part that says what happened is wrong.
    #[error("the event's `detail` is not understood")]
    Detail(#[source] serde_json::Error),
    /// The alarm has gone back to normal.
    #[error("alarm `{alarm}` is in state `{state}`, not ALARM")]
    NoAlarm {
        /// Which alarm.
        alarm: String,
        /// Its state.
        state: String,
    },
    /// The alarm does not say where.
    #[error("alarm `{0}` has no metric with a dimension `Region`")]
    NoRegion(String),
    /// A region that is wrong or unknown.
    #[error("{0}")]
    Region(String),
    /// A scenario that the plan does not have.
    #[error("scenario `{name}` is not in the plan; it knows `{known}`")]
    Scenario {
        /// The name in the event.
        name: String,
        /// The plan's.
        known: String,
    },
}

impl Classified for NotAnIncident {
    fn fault(&self) -> Fault {
        match self {
            NotAnIncident::NoAlarm { .. } => Fault::Refused,
            NotAnIncident::Envelope(_)
            | NotAnIncident::DetailType(_)
            | NotAnIncident::Detail(_)
            | NotAnIncident::NoRegion(_)
            | NotAnIncident::Region(_)
            | NotAnIncident::Scenario { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            NotAnIncident::NoAlarm { .. } => "do nothing, or request the failover by name".to_owned(),
            _ => "compare the event with events/regional-failover/*.json".to_owned(),
        }
    }
}
