//! What a look at the primary tells CloudWatch, in its embedded metric format: one line of the log, which becomes a metric
//! without a call to anybody. <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use jiff::Timestamp;
use recovery::{plan::Plan, survey::Sighting};
use serde_json::{Map, Value, json};

use crate::Watch;

/// Where the metric is found.
pub const NAMESPACE: &str = "Sparc/Recovery";
/// 1 when the primary took no heartbeat and no failover has fenced it, else 0.
pub const PRIMARY_IMPAIRED: &str = "PrimaryImpaired";

/// Which primary: the alarm's event carries them, and the incident is read from them.
pub fn dimensions(plan: &Plan) -> Map<String, Value> {
    let text = |name: &str, value: &str| (name.to_owned(), Value::from(value));
    [text("Platform", &plan.platform), text("Region", plan.regions.primary.code())].into_iter().collect()
}

/// The line for one look.
pub fn embedded(watch: &Watch, plan: &Plan, now: Timestamp) -> Value {
    let impaired = matches!(watch.primary, Sighting::Unknown(_)) && !watch.fenced;
    let dimensions = dimensions(plan);
    let names: Vec<&String> = dimensions.keys().collect();
    let directive = json!({
        "Namespace": NAMESPACE,
        "Dimensions": [names],
        "Metrics": [{ "Name": PRIMARY_IMPAIRED, "Unit": "Count" }],
    });
    let mut line = Map::new();
    line.insert("_aws".into(), json!({ "Timestamp": now.as_millisecond(), "CloudWatchMetrics": [directive] }));
    line.extend(dimensions);
    line.insert(PRIMARY_IMPAIRED.into(), u8::from(impaired).into());
    if let Sighting::Unknown(why) = &watch.primary {
        line.insert("why".into(), why.as_str().into());
    }
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARC: &str = include_str!("../../../plans/sparc.toml");

    #[test]
    fn silence_is_an_impairment_unless_a_failover_has_fenced_the_primary() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        for (fenced, impaired) in [(false, 1), (true, 0)] {
            let watch = Watch { primary: Sighting::Unknown("connection refused".to_owned()), fenced };
            let line = embedded(&watch, &plan, Timestamp::from_second(1_795_000_000).unwrap());
            let expected = json!({
                "_aws": {
                    "Timestamp": 1_795_000_000_000_i64,
                    "CloudWatchMetrics": [{
                        "Namespace": "Sparc/Recovery",
                        "Dimensions": [["Platform", "Region"]],
                        "Metrics": [{ "Name": "PrimaryImpaired", "Unit": "Count" }],
                    }],
                },
                "Platform": "sparc",
                "Region": "us-east-1",
                "PrimaryImpaired": impaired,
                "why": "connection refused",
            });
            assert_eq!(line, expected);
        }
    }
}
