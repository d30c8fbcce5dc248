//! The suite as AWS runs it: `template.yaml` deployed by SAM into the emulated AWS, functions as processes of their own,
//! started by nothing but schedules, an alarm and a rule.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use lab::{
    aws::TERTIARY,
    stack::{self, Stack},
};
use platform::{World, repository};
use recovery::{
    fence::FenceState,
    plan::{Approval, Driver},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

/// Longest wait for one thing: a schedule fires once a minute, and a failover takes half of one on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);
const ALARM: &str = "sparc-primary-region-impaired";

/// What is deployed: the programs that this build made, with the plan's own parameters and the detection on.
async fn suite() -> Stack {
    let repository = repository();
    let printed = Command::new(env!("CARGO_BIN_EXE_drctl"))
        .args(["deploy", "parameters", "--json", "--plan"])
        .arg(repository.join("plans/sparc.toml"))
        .output()
        .await
        .unwrap();
    let mut parameters: BTreeMap<String, String> = serde_json::from_slice(&printed.stdout).unwrap();
    parameters.insert("Detection".to_owned(), "ENABLED".to_owned());
    let folder = repository.clone();
    let programs = tokio::task::spawn_blocking(move || stack::programs(&folder)).await.unwrap().unwrap();
    Stack { repository, programs, parameters }
}

/// Asks until there is an answer.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn states(world: &World, operation: &str, request: Value) -> Value {
    let target = format!("AWSStepFunctions.{operation}");
    world.platform.lab.aws.json("states", TERTIARY, &target, request).await.unwrap()
}

/// Every execution of the failover so far, by its ARN.
async fn executions(world: &World) -> BTreeSet<String> {
    let machine = &world.platform.lab.addresses().aws.outputs["RegionalFailoverMachineArn"];
    let listed = states(world, "ListExecutions", json!({ "stateMachineArn": machine })).await;
    let all = listed["executions"].as_array().unwrap();
    all.iter().map(|one| one["executionArn"].as_str().unwrap().to_owned()).collect()
}

/// Sets the alarm as CloudWatch would after three silent minutes, and waits for the execution that the rule starts.
async fn alarm(world: &World) -> String {
    let before = executions(world).await;
    let began = Timestamp::now() - SignedDuration::from_secs(2);
    let data =
        json!({ "version": "1.0", "startDate": began, "evaluatedDatapoints": [{ "timestamp": began, "value": 1.0 }] });
    for state in ["OK", "ALARM"] {
        let set = [
            ("AlarmName", ALARM),
            ("StateValue", state),
            ("StateReason", "three datapoints were 1.0"),
            ("StateReasonData", &data.to_string()),
        ];
        world.platform.lab.aws.query("monitoring", TERTIARY, "SetAlarmState", &set).await.unwrap();
    }
    until("the rule starts the failover", async || {
        executions(world).await.into_iter().find(|arn| !before.contains(arn))
    })
    .await
}

/// Waits for the end of an execution: its status and how it described itself.
async fn end(world: &World, execution: &str) -> Value {
    until("the execution ends", async || {
        let described = states(world, "DescribeExecution", json!({ "executionArn": execution })).await;
        (described["status"] != "RUNNING").then_some(described)
    })
    .await
}

/// What happened in an execution, for whoever reads a failed test: the states that it entered, and what failed in them.
async fn story(world: &World, execution: &str) -> String {
    let mut story = Vec::new();
    let mut next = Value::Null;
    loop {
        let mut ask = json!({ "executionArn": execution });
        if next.is_string() {
            ask["nextToken"] = next;
        }
        let history = states(world, "GetExecutionHistory", ask).await;
        for event in history["events"].as_array().unwrap() {
            if let Some(name) = event["stateEnteredEventDetails"]["name"].as_str() {
                story.push(name.to_owned());
            }
            for (kind, details) in event.as_object().unwrap() {
                if details["error"].is_string() {
                    story.push(format!("{kind}: {} {}", details["error"], details["cause"]));
                }
            }
        }
        next = history["nextToken"].clone();
        if !next.is_string() {
            return story.join("\n");
        }
    }
}

/// The values of the probe's metric, as the alarm sees them.
async fn looks(world: &World) -> Vec<f64> {
    let (from, to) = (Timestamp::now() - SignedDuration::from_mins(10), Timestamp::now());
    let ask = [
        ("Namespace", "Sparc/Recovery"),
        ("MetricName", "PrimaryImpaired"),
        ("Dimensions.member.1.Name", "Platform"),
        ("Dimensions.member.1.Value", "sparc"),
        ("Dimensions.member.2.Name", "Region"),
        ("Dimensions.member.2.Value", "us-east-1"),
        ("StartTime", &from.to_string()),
        ("EndTime", &to.to_string()),
        ("Period", "60"),
        ("Statistics.member.1", "Maximum"),
    ];
    let answer = world.platform.lab.aws.query("monitoring", TERTIARY, "GetMetricStatistics", &ask).await.unwrap();
    let values = answer.split("<Maximum>").skip(1).filter_map(|rest| rest.split('<').next()?.parse().ok());
    values.collect()
}

async fn invoke(world: &World, function: &str, event: String) -> Value {
    let path = format!("/2015-03-31/functions/sparc-{function}/invocations");
    let answer = world.platform.lab.aws.call("lambda", TERTIARY, Method::POST, &path, &[], event).await.unwrap();
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

async fn probe(world: &World) -> Value {
    invoke(world, "verify-recovery", json!({ "action": "watch" }).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_suite_sees_a_loss_asks_a_person_and_moves_the_platform_once() {
    let lab = lab::Options { stack: Some(suite().await), ..World::options() };
    let plan = std::fs::read_to_string(repository().join("plans/sparc.toml")).unwrap();
    let world = World::with(Driver::SelfManaged, Approval::Required, plan, lab).await;

    // The schedule calls the probe, which keeps a position and tells CloudWatch that all is well.
    let key = recovery::database::position_key("sparc");
    until("the schedule calls the probe", async || world.evidence(&key).await).await;
    let seen = until("the probe's metric", async || Some(looks(&world).await).filter(|seen| !seen.is_empty())).await;
    assert!(seen.iter().all(|value| *value == 0.0), "{seen:?}");

    // What is deployed is what is here. Only nodes are fewer in a lab than the plan counts on.
    let checked = world.child(&["deploy", "check", "--json"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let checked: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let findings = checked["findings"].as_array().unwrap();
    for what in ["fence", "switch", "probe", "replica", "lag", "secret", "machine", "nodes"] {
        assert!(findings.iter().any(|finding| finding["what"] == what), "nobody looked at the {what}: {said}");
    }
    for finding in findings.iter().filter(|finding| finding["what"] != "nodes") {
        assert_eq!(finding["standing"], "good", "{finding}");
    }

    let lost_at = Instant::now();
    world.platform.lab.lose_primary_region();
    let silent = probe(&world).await;
    assert_eq!(silent["fenced"], false, "{silent}");
    let seen = looks(&world).await;
    let execution = alarm(&world).await;
    let run = execution.rsplit(':').next().unwrap().to_owned();
    until("the run asks a person", async || world.evidence(&recovery::approval::key(&run)).await).await;
    let approved = world
        .child(&["approve", &run, "--by", "sre-lead@sparc.com", "--because", "the region is gone"])
        .output()
        .await
        .unwrap();
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));

    let ended = end(&world, &execution).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{}", story(&world, &execution).await);
    let standby = world.platform.lab.pair.standby.position().await.unwrap();
    assert!(!standby.in_recovery && standby.timeline == 2, "{standby:?}");
    assert!(world.switch().await.is_some(), "names have not moved");
    let report = world.evidence(&format!("reports/{run}/report.json")).await.unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["outcome"], "recovered", "{report}");
    assert!(world.evidence(&format!("notices/{run}/recovered.json")).await.is_some());
    world.load.wait_for_acknowledgements_of("standby", lost_at).await.unwrap();
    assert_eq!(world.load.two_primaries(), None);
    assert_eq!(world.fence().await.unwrap().state, FenceState::Moved);
    let lab = &world.platform.lab;
    let told = lab.aws.sent(&lab.addresses().aws).await.unwrap();
    for subject in ["ALARM", "Approval needed", "Disaster Recovery Activated", "Recovered"] {
        let heard = told.iter().any(|one| one.subject.as_deref().unwrap_or_default().contains(subject));
        assert!(heard, "nobody heard `{subject}`: {told:?}");
    }
    // Whoever throws the switch: a rule on its bucket tells people too.
    assert!(told.iter().any(|one| one.message.contains("Object Created")), "the switch moved in silence: {told:?}");

    // From now on the primary's silence is no news.
    assert_eq!(probe(&world).await["fenced"], true);
    assert!(seen.contains(&1.0) || looks(&world).await.contains(&1.0), "the loss is in no metric: {seen:?}");

    // An alarm that comes twice starts two runs; the second one finds the fence taken, changes nothing, and says so.
    let moved = world.standing().await;
    let again = end(&world, &alarm(&world).await).await;
    assert_eq!(again["status"], "FAILED", "{again}");
    assert_eq!(again["error"], "Recovery.Refused", "{again}");
    assert_eq!(world.standing().await, moved);
    assert_eq!(lab.pair.standby.position().await.unwrap().timeline, 2);

    // All of it was done with what the functions' roles allow: without its calls, a role opens nothing.
    let path = "/2015-03-31/functions/sparc-report/configuration";
    let configuration = lab.aws.call("lambda", TERTIARY, Method::GET, path, &[], "").await.unwrap();
    let configuration: Value = serde_json::from_str(&configuration.body).unwrap();
    let role = configuration["Role"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let calls = [("RoleName", role.as_str()), ("PolicyName", "calls")];
    lab.aws.query("iam", TERTIARY, "DeleteRolePolicy", &calls).await.unwrap();
    let event = std::fs::read_to_string(repository().join("events/report/refused.json")).unwrap();
    let refused = invoke(&world, "report", event).await;
    assert_eq!(refused["errorType"], "Recovery.Refused", "{refused}");
    assert!(refused["errorMessage"].as_str().unwrap().contains("s3:PutObject"), "{refused}");
}
