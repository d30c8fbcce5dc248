//! The suite as AWS runs it: `template.yaml` and its companions deployed by SAM into the emulated AWS, functions as processes
//! of their own, started by nothing but schedules, an alarm and a rule, and customers moved by the records and the health check
//! that `template-names.yaml` made.
//!
//! Every run of the tests deploys the programs that the tests' own build has made. `make deploy-test` deploys what `sam build`
//! makes, a release for Lambda's glibc, in the same story.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use lab::{
    aws::{PRIMARY, SECONDARY, TERTIARY},
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

/// What is deployed: these programs, with the plan's own parameters and the detection on.
async fn suite(template: Option<PathBuf>, programs: BTreeMap<String, PathBuf>) -> Stack {
    let repository = repository();
    let printed = Command::new(env!("CARGO_BIN_EXE_drctl"))
        .args(["deploy", "parameters", "--json", "--plan"])
        .arg(repository.join("plans/sparc.toml"))
        .output()
        .await
        .unwrap();
    let mut parameters: BTreeMap<String, String> = serde_json::from_slice(&printed.stdout).unwrap();
    parameters.insert("Detection".to_owned(), "ENABLED".to_owned());
    Stack { repository, programs, template, parameters }
}

/// The digest of the program that a function runs, from the package that Lambda gives out.
async fn deployed_program(world: &World, function: &str) -> String {
    let path = format!("/2015-03-31/functions/sparc-{function}");
    let described = world.platform.lab.aws.call("lambda", TERTIARY, Method::GET, &path, &[], "").await.unwrap();
    let described: Value = serde_json::from_str(&described.body).unwrap();
    let package = reqwest::get(described["Code"]["Location"].as_str().unwrap()).await.unwrap().bytes().await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("package.zip");
    std::fs::write(&file, package).unwrap();
    let unpacked = Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(folder.path()).status().await;
    assert!(unpacked.unwrap().success(), "{function}");
    digest(&folder.path().join("bootstrap")).await
}

async fn digest(file: &std::path::Path) -> String {
    let summed = Command::new("sha256sum").arg(file).output().await.unwrap();
    assert!(summed.status.success(), "{}", file.display());
    String::from_utf8(summed.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// What `drctl deploy check` finds: each finding, by what it is about.
async fn checked(world: &World) -> Vec<Value> {
    let checked = world.child(&["deploy", "check", "--json"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let checked: Value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said} {}", String::from_utf8_lossy(&checked.stderr)));
    checked["findings"].as_array().unwrap().clone()
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
    let programs = tokio::task::spawn_blocking(|| stack::programs(&repository())).await.unwrap().unwrap();
    the_platform_moves(suite(None, programs).await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "compiles a release, ten minutes and more; `make deploy-test` runs it"]
async fn what_sam_built_is_what_is_deployed_and_moves_the_platform() {
    let built = stack::built(&repository()).await.unwrap();
    let world = the_platform_moves(suite(Some(built.template.clone()), built.programs.clone()).await).await;
    for (function, program) in &built.programs {
        assert_eq!(deployed_program(&world, function).await, digest(program).await, "{function}");
    }
}

/// Deploys the suite, loses the primary region, and holds what must be true of it then.
async fn the_platform_moves(stack: Stack) -> World {
    let lab = lab::Options { stack: Some(stack), ..World::options() };
    let plan = std::fs::read_to_string(repository().join("plans/sparc.toml")).unwrap();
    let world = World::with(Driver::SelfManaged, Approval::Required, plan, lab).await;

    // The schedule calls the probe, which keeps a position and tells CloudWatch that all is well.
    let key = recovery::database::position_key("sparc");
    until("the schedule calls the probe", async || world.evidence(&key).await).await;
    let seen = until("the probe's metric", async || Some(looks(&world).await).filter(|seen| !seen.is_empty())).await;
    assert!(seen.iter().all(|value| *value == 0.0), "{seen:?}");

    the_companions_stand(&world).await;
    the_check_sees_what_stands_and_changes_nothing(&world).await;

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
    world
}

/// The stacks in the other two regions: what customers' names hang on is theirs, and the alarms see the replica's metrics.
async fn the_companions_stand(world: &World) {
    let lab = &world.platform.lab;
    let names = lab.aws.outputs("sparc-recovery-names", PRIMARY).await.unwrap();
    assert_eq!(lab.edge.is_healthy(&names["SwitchCheckId"]), Some(true), "the primary region is not out");
    assert_eq!(lab.edge.resolve("api.sparc.com").as_deref(), Some("origin.us-east-1.sparc.com"));

    let topic = &lab.aws.outputs("sparc-recovery-replica", SECONDARY).await.unwrap()["TopicArn"];
    assert!(topic.contains(":us-west-2:"), "{topic}");
    let lag = async |seconds: &str| {
        for minutes in 0..6 {
            // The emulator reads no fractions of a second.
            let at = (Timestamp::now() - SignedDuration::from_mins(minutes)).as_second();
            let at = Timestamp::from_second(at).unwrap().to_string();
            let datum = [
                ("Namespace", "AWS/RDS"),
                ("MetricData.member.1.MetricName", "ReplicaLag"),
                ("MetricData.member.1.Dimensions.member.1.Name", "DBInstanceIdentifier"),
                ("MetricData.member.1.Dimensions.member.1.Value", "sparc-prod-replica-us-west-2"),
                ("MetricData.member.1.Timestamp", &at),
                ("MetricData.member.1.Value", seconds),
            ];
            lab.aws.query("monitoring", SECONDARY, "PutMetricData", &datum).await.unwrap();
        }
        let ask = [("AlarmNames.member.1", "sparc-replica-behind")];
        let described = lab.aws.query("monitoring", SECONDARY, "DescribeAlarms", &ask).await.unwrap();
        described.split("<StateValue>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default().to_owned()
    };
    assert_eq!(lag("3").await, "OK");
    assert_eq!(lag("600").await, "ALARM");
}

/// What is deployed is what is here, and the account has room. Only nodes are fewer in a lab than the plan counts on.
async fn the_check_sees_what_stands_and_changes_nothing(world: &World) {
    let before = (world.standing().await, world.footprint().await);
    let findings = checked(world).await;
    let looked_at = [
        "fence",
        "switch",
        "probe",
        "replica",
        "lag",
        "secret",
        "machine",
        "nodes",
        "stack",
        "parameter",
        "drift",
        "quota",
        "addresses",
    ];
    for what in looked_at {
        assert!(findings.iter().any(|finding| finding["what"] == what), "nobody looked at the {what}: {findings:?}");
    }
    for finding in findings.iter().filter(|finding| finding["what"] != "nodes") {
        assert_eq!(finding["standing"], "good", "{finding}");
    }
    assert_eq!((world.standing().await, world.footprint().await), before, "a check changed something");

    // Somebody shortens by hand how long undelivered events are kept.
    let aws = &world.platform.lab.aws;
    let ask = json!({ "QueueName": "sparc-recovery-dead-letters" });
    let queue = aws.json("sqs", TERTIARY, "AmazonSQS.GetQueueUrl", ask).await.unwrap()["QueueUrl"].clone();
    let keep = async |seconds: &str| {
        let set = json!({ "QueueUrl": queue, "Attributes": { "MessageRetentionPeriod": seconds } });
        aws.json("sqs", TERTIARY, "AmazonSQS.SetQueueAttributes", set).await.unwrap();
    };
    keep("60").await;
    let drifted = checked(world).await;
    let drift = drifted.iter().find(|finding| finding["what"] == "drift").unwrap();
    assert_eq!(drift["standing"], "wrong", "{drift}");
    assert!(
        drift["says"].as_str().unwrap().contains("`DeadLetters` of `sparc-recovery` was changed by hand"),
        "{drift}"
    );
    keep("1209600").await;
}
