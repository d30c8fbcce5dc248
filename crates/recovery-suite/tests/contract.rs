//! Keeps the languages together: state machines, functions, events and the domain use the same names.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use recovery::{
    backup::{BackupTriggerRequest, ChecksumVerifyRequest, DueJob, JOB_CONFIG, JOB_PLAN},
    fault::Fault,
    incident::Incident,
    notice::Stage,
    plan::Plan,
    run::Run,
};
use recovery_suite::FUNCTIONS;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The resource that runs a Job in a cluster; its work is that of `backup-trigger`.
const RUN_JOB: &str = "arn:aws:states:::eks:runJob.sync";

/// Names that only AWS produces.
const OF_AWS: [&str; 15] = [
    "States.ALL",
    "States.Timeout",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Sandbox.Timedout",
    "Runtime.ExitError",
    "EKS.429",
    "EKS.500",
    "EKS.502",
    "EKS.503",
    "EKS.504",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn json_files(folder: &Path) -> Vec<(PathBuf, Value)> {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let read = |path: PathBuf| (path.clone(), serde_json::from_slice(&fs::read(path).unwrap()).unwrap());
    files.into_iter().map(read).collect()
}

/// Every state of every machine, those of branches included.
fn states() -> Vec<(String, Value)> {
    fn collect(machine: &Value, into: &mut Vec<(String, Value)>) {
        for (name, state) in machine["States"].as_object().unwrap() {
            into.push((name.clone(), state.clone()));
            let branches = state["Branches"].as_array().into_iter().flatten();
            for inner in branches.chain(state.get("ItemProcessor")) {
                collect(inner, into);
            }
        }
    }
    let mut all = Vec::new();
    for (_, machine) in json_files(&root().join("statemachines")) {
        collect(&machine, &mut all);
    }
    all
}

#[test]
fn every_state_says_why_it_stands_there() {
    for (name, state) in states() {
        assert!(state["Comment"].as_str().is_some_and(|comment| comment.len() > 20), "{name}");
    }
}

#[test]
fn every_task_calls_a_function_that_is_there_and_has_a_deadline() {
    let mut called = BTreeSet::new();
    for (name, state) in states() {
        if state["Type"] != "Task" {
            continue;
        }
        assert!(state["TimeoutSeconds"].as_u64().is_some(), "{name} has no deadline");
        if state["Resource"] == RUN_JOB {
            continue;
        }
        let arn = state["Arguments"]["FunctionName"].as_str().unwrap();
        let pascal = arn
            .strip_prefix("${")
            .and_then(|arn| arn.strip_suffix("FunctionArn}"))
            .unwrap_or_else(|| panic!("{name}: {arn}"));
        let mut folder = String::new();
        for letter in pascal.chars() {
            if letter.is_uppercase() && !folder.is_empty() {
                folder.push('-');
            }
            folder.push(letter.to_ascii_lowercase());
        }
        assert!(
            FUNCTIONS.contains(&folder.as_str()) && root().join("functions").join(&folder).is_dir(),
            "{name}: {folder}"
        );
        called.insert(folder);
    }
    assert_eq!(called.len(), FUNCTIONS.len(), "a function that no machine calls: {called:?}");
}

/// What the machine writes into a Job, its plan and its program say in other places too.
#[test]
fn the_job_that_a_machine_makes_is_the_one_that_the_plan_and_the_program_mean() {
    let (_, state) = states().into_iter().find(|(_, state)| state["Resource"] == RUN_JOB).unwrap();
    let job = &state["Arguments"]["Job"];
    let (spec, pod) = (&job["spec"], &job["spec"]["template"]["spec"]);
    let container = &pod["containers"][0];
    assert_eq!(container["args"], json!(["{% $states.input.backup %}", "{% $run.id %}"]));
    assert_eq!(pod["volumes"][0]["configMap"]["name"], JOB_CONFIG);
    // Its own file system is read-only, and a dump in the directory format passes through a folder.
    assert_eq!(pod["volumes"][1], json!({ "name": "scratch", "emptyDir": {} }));
    assert_eq!(container["volumeMounts"][1], json!({ "name": "scratch", "mountPath": "/tmp" }));
    let at = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(container["env"], json!([{"name": "RECOVERY_PLAN", "value": format!("{at}/{JOB_PLAN}")}]));
    // Nothing but the plan's place is told by the environment, and no secret by anything.
    let text = state["Arguments"].to_string().to_lowercase();
    assert!(!text.contains("secret") && !text.contains("password"), "{text}");
    // The program's status for what is in vain ends the Job at once, where the cluster knows how.
    let failing = &spec["podFailurePolicy"]["rules"][1];
    assert_eq!(failing["onExitCodes"]["values"], json!([recovery_lambda::IN_VAIN]));
    // Every field that is asked for is one that the function answers.
    let due = DueJob {
        name: String::new(),
        cluster: String::new(),
        endpoint: String::new(),
        certificate_authority: String::new(),
        namespace: String::new(),
        image: String::new(),
        service_account: String::new(),
        memory: String::new(),
        deadline_seconds: 0,
        files: Vec::new(),
    };
    let answered = serde_json::to_value(due).unwrap();
    let text = state["Arguments"].to_string();
    let asked: BTreeSet<&str> = text
        .split("$states.input.job.")
        .skip(1)
        .map(|rest| rest.split(|c: char| c != '_' && !c.is_ascii_lowercase()).next().unwrap())
        .collect();
    assert_eq!(asked, answered.as_object().unwrap().keys().map(String::as_str).collect());
    // The cluster ends a Job before the state gives it up, and the state before the machine.
    let machine: Value =
        serde_json::from_slice(&fs::read(root().join("statemachines/nightly-backup.asl.json")).unwrap()).unwrap();
    assert!(
        state["TimeoutSeconds"].as_u64() > Some(20 * 3600)
            && state["TimeoutSeconds"].as_u64() < machine["TimeoutSeconds"].as_u64()
    );
}

#[test]
fn every_error_that_is_matched_is_one_that_is_raised() {
    let raised: Vec<&str> = Fault::ALL.iter().map(|fault| fault.error_type()).collect();
    for (name, state) in states() {
        for rule in ["Retry", "Catch"] {
            for matcher in state[rule].as_array().into_iter().flatten() {
                for error in matcher["ErrorEquals"].as_array().unwrap() {
                    let error = error.as_str().unwrap();
                    assert!(raised.contains(&error) || OF_AWS.contains(&error), "{name}: {error}");
                }
            }
        }
        if state["Type"] == "Task" {
            let last = state["Catch"]
                .as_array()
                .and_then(|catch| catch.last())
                .unwrap_or_else(|| panic!("{name} has no Catch"));
            assert_eq!(last["ErrorEquals"], json!(["States.ALL"]), "{name}");
        }
    }
}

#[test]
fn every_result_is_a_field_of_the_record() {
    let opened = serde_json::to_value(Run::opened("r", Timestamp::UNIX_EPOCH, json!({}))).unwrap();
    let mut fields = BTreeSet::new();
    for (_, state) in states() {
        let mut texts = vec![state["Assign"]["run"].clone()];
        texts.extend(state["Catch"].as_array().into_iter().flatten().map(|catch| catch["Assign"]["run"].clone()));
        for text in texts.iter().filter_map(Value::as_str) {
            let Some((_, merged)) = text.split_once("$merge([$run, ") else { continue };
            let Some((field, _)) = merged.split_once("{'").and_then(|(_, rest)| rest.split_once('\'')) else {
                continue;
            };
            fields.insert(field.to_owned());
        }
    }
    assert!(fields.len() >= 10, "{fields:?}");
    for field in fields {
        let mut run = opened.clone();
        run[&field] = if field == "troubles" || field == "notices" { json!([]) } else { Value::Null };
        serde_json::from_value::<Run>(run).unwrap_or_else(|error| panic!("`{field}`: {error}"));
    }
}

#[test]
fn every_stage_that_a_machine_announces_is_known() {
    let known: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
    for (name, state) in states() {
        let Some(stage) = state["Arguments"]["Payload"]["stage"].as_str() else { continue };
        assert!(known.contains(&stage) || stage == "{% $outcome %}", "{name}: {stage}");
    }
}

#[test]
fn every_event_is_what_its_folder_takes() {
    fn all_are<T: DeserializeOwned>(folder: &str) {
        for (path, event) in json_files(&root().join("events").join(folder)) {
            serde_json::from_value::<T>(event).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    all_are::<plan_failover::Request>("plan-failover");
    all_are::<fence_primary::Request>("fence-primary");
    all_are::<promote_replica::Request>("promote-replica");
    all_are::<scale_nodegroup::Request>("scale-nodegroup");
    all_are::<deploy_workloads::Request>("deploy-workloads");
    all_are::<verify_recovery::Request>("verify-recovery");
    all_are::<swap_dns::Request>("swap-dns");
    all_are::<notify::Request>("notify");
    all_are::<report::Request>("report");
    all_are::<BackupTriggerRequest>("backup-trigger");
    all_are::<ChecksumVerifyRequest>("checksum-verify");

    let plan = Plan::read(&root().join("plans/sparc.toml")).unwrap();
    for (path, event) in json_files(&root().join("events/regional-failover")) {
        Incident::from_event(&event, &plan).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
