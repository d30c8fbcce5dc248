//! `drctl watch`: the detection, from this computer.
//!
//! Each look writes a heartbeat on the primary and keeps its position in the evidence bucket, by the function
//! `verify-recovery`; after enough silent looks in a row it writes the alarm's event, as CloudWatch would send it, with the
//! first silent look as the beginning of the impairment.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use recovery::plan::Plan;
use recovery::survey::Sighting;
use recovery_suite::Suite;
use serde_json::{Value, json};
use verify_recovery::{Watch, metric};

use crate::{
    cli::WatchArgs,
    problem::{Problem, exit},
};

/// Watches until the primary is impaired.
pub async fn watch(args: WatchArgs) -> Result<u8, Problem> {
    let settings = crate::plan::settings(&args.plan.plan)?;
    let plan = Arc::clone(&settings.plan);
    let suite = Suite::open(settings).await.map_err(|failure| Problem::input(failure.message))?;
    let mut looks = tokio::time::interval(Duration::from_millis(args.every_ms));
    let mut silent: Vec<Timestamp> = Vec::new();
    loop {
        looks.tick().await;
        let asked_at = Timestamp::now();
        let seen = suite.invoke("verify-recovery", json!({ "action": "watch" })).await;
        let seen = seen.and_then(|value| {
            serde_json::from_value::<Watch>(value)
                .map_err(|error| recovery::fault::Failure::bad_request("watch", &error))
        });
        let why = match seen {
            Ok(Watch { primary: Sighting::Seen(position), .. }) => {
                silent.clear();
                say(
                    args.json,
                    &json!({ "at": asked_at, "lsn": position.lsn, "heartbeat": position.heartbeat.number }),
                    || format!("heartbeat {} at {}", position.heartbeat.number, position.lsn),
                );
                continue;
            }
            Ok(Watch { fenced: true, .. }) => {
                say(args.json, &json!({ "at": asked_at, "fenced": true }), || {
                    "the primary is fenced by a failover".to_owned()
                });
                return Ok(exit::DONE);
            }
            Ok(Watch { primary: Sighting::Unknown(why), .. }) => why,
            Err(failure) => failure.message,
        };
        silent.push(asked_at);
        say(args.json, &json!({ "at": asked_at, "silent": silent.len(), "why": why }), || {
            format!("silent, {} of {}: {why}", silent.len(), args.failures)
        });
        if silent.len() >= args.failures {
            let event = alarm(&plan, &silent, &why);
            let text = serde_json::to_vec_pretty(&event).unwrap_or_default();
            if let Some(path) = &args.event {
                std::fs::write(path, text)
                    .map_err(|error| Problem::input(format!("{}: cannot be written ({error})", path.display())))?;
            }
            return Ok(exit::DONE);
        }
    }
}

fn say(json: bool, value: &Value, text: impl FnOnce() -> String) {
    if json {
        tell!("{value}");
    } else {
        tell!("{}", text());
    }
}

/// The alarm on these looks, in the form in which EventBridge passes CloudWatch's on.
fn alarm(plan: &Plan, silent: &[Timestamp], why: &str) -> Value {
    let now = silent.last().copied().unwrap_or_default();
    let tertiary = plan.regions.tertiary.code();
    let name = format!("{}-primary-region-impaired", plan.platform);
    let points: Vec<Value> = silent.iter().rev().map(|at| json!({ "timestamp": at, "value": 1.0 })).collect();
    let data =
        json!({ "version": "1.0", "queryDate": now, "startDate": silent.first(), "evaluatedDatapoints": points });
    let metric = json!({
        "namespace": metric::NAMESPACE,
        "name": metric::PRIMARY_IMPAIRED,
        "dimensions": metric::dimensions(plan),
    });
    json!({
        "version": "0",
        "id": format!("watch-{}", now.as_millisecond()),
        "detail-type": recovery::incident::ALARM,
        "source": "aws.cloudwatch",
        "account": "111122223333",
        "time": now,
        "region": tertiary,
        "resources": [format!("arn:aws:cloudwatch:{tertiary}:111122223333:alarm:{name}")],
        "detail": {
            "alarmName": name,
            "configuration": { "metrics": [{ "id": "m0", "metricStat": { "metric": metric }, "returnData": true }] },
            "state": {
                "value": "ALARM",
                "reason": format!("the primary was silent {} times in a row: {why}", silent.len()),
                "reasonData": data.to_string(),
                "timestamp": now,
            },
        },
    })
}
