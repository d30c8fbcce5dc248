//! How backups stand, told to CloudWatch in its embedded metric format: a line of the log each.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use jiff::Timestamp;
use recovery::{backup::LogFound, plan::Plan};
use serde_json::{Map, Value, json};

use crate::Stood;

/// Where the metrics are found.
pub const NAMESPACE: &str = "Sparc/Recovery";
/// 1 if the newest backup is older than the plan allows or there is none, else 0.
pub const STALE: &str = "BackupStale";
/// 1 if the newest proven backup is older than the plan allows or there is none, else 0.
pub const UNPROVEN: &str = "BackupUnproven";
/// Seconds since the newest backup was due.
pub const AGE: &str = "BackupAge";
/// Seconds since the newest proven backup was due.
pub const UNPROVEN_AGE: &str = "BackupUnprovenAge";

/// 1 if the log reaches less far than the plan asks for, is broken, or nobody knows; else 0.
pub const LOG_STALE: &str = "LogStale";
/// Seconds of writes that a restore would lack.
pub const LOG_BEHIND: &str = "LogBehind";

/// The line of one look at the log; none, if the plan keeps no log.
pub fn of_log(found: &LogFound, plan: &Plan, at: Timestamp) -> Option<Value> {
    let reach = found.reach.as_ref()?;
    let mut metrics = vec![(LOG_STALE, "Count", i64::from(!found.fresh || !found.says.is_empty()))];
    metrics.extend(reach.behind_seconds().map(|behind| (LOG_BEHIND, "Seconds", behind)));
    Some(line(&[("Platform", &plan.platform)], &metrics, at))
}

/// One line of the embedded format.
fn line(dimensions: &[(&str, &str)], metrics: &[(&str, &str, i64)], at: Timestamp) -> Value {
    let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    let listed: Vec<Value> = metrics.iter().map(|(name, unit, _)| json!({ "Name": name, "Unit": unit })).collect();
    let directive = json!({ "Namespace": NAMESPACE, "Dimensions": [names], "Metrics": listed });
    let mut line = Map::new();
    line.insert("_aws".into(), json!({ "Timestamp": at.as_millisecond(), "CloudWatchMetrics": [directive] }));
    line.extend(dimensions.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    line.extend(metrics.iter().map(|(name, _, value)| ((*name).to_owned(), Value::from(*value))));
    Value::Object(line)
}

/// The lines of one look: for each kind, and one for all of them, which alarms watch.
pub fn embedded(standings: &[Stood], plan: &Plan, at: Timestamp) -> Vec<Value> {
    let flag = |bad: bool| i64::from(bad);
    let platform = ("Platform", plan.platform.as_str());
    let any = |bad: fn(&Stood) -> bool| flag(standings.is_empty() || standings.iter().any(bad));
    let all = [(STALE, "Count", any(|stood| !stood.fresh)), (UNPROVEN, "Count", any(|stood| !stood.proven_in_time))];
    let mut lines = vec![line(&[platform], &all, at)];
    for stood in standings {
        let subject = stood.subject.as_deref().unwrap_or("none");
        let dimensions = [platform, ("Kind", stood.kind.word()), ("Subject", subject)];
        let mut metrics = vec![(STALE, "Count", flag(!stood.fresh)), (UNPROVEN, "Count", flag(!stood.proven_in_time))];
        metrics.extend(stood.age_seconds.map(|age| (AGE, "Seconds", age)));
        metrics.extend(stood.unproven_seconds.map(|age| (UNPROVEN_AGE, "Seconds", age)));
        lines.push(line(&dimensions, &metrics, at));
    }
    lines
}

#[cfg(test)]
mod tests {
    use recovery::backup::Kind;

    use super::*;

    const SPARC: &str = include_str!("../../../plans/sparc.toml");

    #[test]
    fn what_is_unknown_counts_as_stale_and_unproven() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let at = Timestamp::from_second(1_795_000_000).unwrap();
        let good = Stood {
            kind: Kind::Logical,
            subject: Some("sparc-prod".to_owned()),
            age_seconds: Some(3600),
            unproven_seconds: Some(7200),
            fresh: true,
            proven_in_time: true,
        };
        let none = Stood {
            kind: Kind::Cluster,
            age_seconds: None,
            unproven_seconds: None,
            fresh: false,
            proven_in_time: false,
            ..good.clone()
        };
        let flags = |lines: &[Value], line: usize| (lines[line][STALE].clone(), lines[line][UNPROVEN].clone());
        let lines = embedded(std::slice::from_ref(&good), &plan, at);
        assert_eq!(flags(&lines, 0), (json!(0), json!(0)));
        assert_eq!(lines[1][AGE], json!(3600));
        assert_eq!(lines[1]["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["Platform", "Kind", "Subject"]]));
        let lines = embedded(&[good, none], &plan, at);
        assert_eq!(flags(&lines, 0), (json!(1), json!(1)));
        assert_eq!(flags(&lines, 2), (json!(1), json!(1)));
        assert_eq!(lines[2].get(AGE), None);
        assert_eq!(flags(&embedded(&[], &plan, at), 0), (json!(1), json!(1)), "nobody looked");
    }
}
