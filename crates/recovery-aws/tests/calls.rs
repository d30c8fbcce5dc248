//! Compares the table of calls with what is really called: adapters, functions and state machines.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use recovery_aws::calls::{CALLS, Call, Home};
use regex::Regex;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(ending) {
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// The file of each service, and the client's crate in it.
const ADAPTERS: [(&str, &str, &str); 14] = [
    ("cloudfront.rs", "CloudFront", "aws_sdk_cloudfront"),
    ("ecr.rs", "ECR", "aws_sdk_ecr"),
    ("eks.rs", "EKS", "aws_sdk_eks"),
    ("kms.rs", "KMS", "aws_sdk_kms"),
    ("rds.rs", "RDS", "aws_sdk_rds"),
    ("rds_shelf.rs", "RDS", "aws_sdk_rds"),
    ("route53.rs", "Route53", "aws_sdk_route53"),
    ("s3.rs", "S3", "aws_sdk_s3"),
    ("s3_backups.rs", "S3", "aws_sdk_s3"),
    ("s3_parts.rs", "S3", "aws_sdk_s3"),
    ("s3_replication.rs", "S3", "aws_sdk_s3"),
    ("secrets_manager.rs", "SecretsManager", "aws_sdk_secretsmanager"),
    ("sns.rs", "SNS", "aws_sdk_sns"),
    ("step_functions.rs", "SFN", "aws_sdk_sfn"),
];

/// The files of services whose requests are signed here and not by a client of an SDK.
const SIGNED: [(&str, &str); 5] = [
    ("acm.rs", "ACM"),
    ("cloudformation.rs", "CloudFormation"),
    ("cloudwatch.rs", "CloudWatch"),
    ("ec2.rs", "EC2"),
    ("service_quotas.rs", "ServiceQuotas"),
];

#[test]
fn every_call_of_an_adapter_is_in_the_table_and_the_table_holds_no_other() {
    let call = Regex::new(r"\bclient\s*\.\s*([a-z0-9_]+)\(\)").unwrap();
    let signed = Regex::new(r#"\bclient\s*\.\s*call(?:_json)?\(\s*"([A-Za-z]+)""#).unwrap();
    let mut made = BTreeSet::new();
    for (file, text) in files(&repository().join("crates/recovery-aws/src"), ".rs") {
        if let Some((_, service, _)) = ADAPTERS.iter().find(|(name, ..)| *name == file) {
            for found in call.captures_iter(&text) {
                made.insert((*service, found[1].replace('_', "")));
            }
        }
        let by_hand = SIGNED.iter().find(|(name, _)| *name == file).map(|(_, service)| *service);
        for found in signed.captures_iter(&text) {
            let service = by_hand.unwrap_or_else(|| panic!("{file} signs {} itself", &found[1]));
            made.insert((service, found[1].to_lowercase()));
        }
    }
    let listed: BTreeSet<_> = CALLS
        .iter()
        // Signed here and made by the cluster.
        .filter(|call| call.service != "STS")
        .map(|call| (call.service, call.operation.to_lowercase()))
        .collect();
    assert_eq!(made, listed, "left: what adapters call; right: what the table of calls lists");
}

#[test]
fn clients_are_used_in_the_file_of_their_service_and_nowhere_else() {
    let sdk = Regex::new(r"\baws_sdk_[a-z0-9]+").unwrap();
    for (file, text) in files(&repository().join("crates/recovery-aws/src"), ".rs") {
        let own = ADAPTERS.iter().find(|(name, ..)| *name == file).map(|(.., sdk)| *sdk);
        for found in sdk.find_iter(&text).map(|found| found.as_str()) {
            // `aws.rs` makes the clients and calls nothing.
            assert!(file == "aws.rs" || Some(found) == own, "{file} uses {found}");
        }
        if file == "aws.rs" {
            assert!(!text.contains(".send()"), "aws.rs calls a service itself");
        }
    }
    let mut others = vec![repository().join("crates"), repository().join("functions")];
    while let Some(folder) = others.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("recovery-aws") {
                others.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!sdk.is_match(&text), "{} uses a client of its own", path.display());
            }
        }
    }
}

/// What a function's wiring mentions, and the service that it reaches by it.
const REACHES: [(&str, &str); 27] = [
    (".evidence()", "S3"),
    (".evidence_list()", "S3"),
    (".backups()", "S3"),
    (".wal_archive()", "S3"),
    (".backup_parts()", "S3"),
    ("takers(", "SecretsManager"),
    ("takers(", "KMS"),
    ("takers(", "ECR"),
    ("takers(", "STS"),
    ("takers(", "RDS"),
    ("takers(", "ACM"),
    ("takers(", "CloudWatch"),
    (".snapshot_shelves()", "RDS"),
    (".switch()", "S3"),
    (".bucket(", "S3"),
    (".objects()", "S3"),
    (".registry()", "ECR"),
    ("databases(", "SecretsManager"),
    ("takers(", "SecretsManager"),
    ("takers(", "RDS"),
    (".secrets()", "SecretsManager"),
    ("node_group(", "EKS"),
    (".replica", "RDS"),
    (".managed_log()", "RDS"),
    (".records(", "Route53"),
    (".distribution(", "CloudFront"),
    (".messenger()", "SNS"),
];

#[test]
fn the_wiring_of_each_function_reaches_the_services_that_the_table_lists_for_it() {
    for entry in fs::read_dir(repository().join("functions")).unwrap() {
        let folder = entry.unwrap().path();
        let function = folder.file_name().unwrap().to_string_lossy().into_owned();
        let wiring = fs::read_to_string(folder.join("src/main.rs")).unwrap();
        let mut reached: BTreeSet<&str> =
            REACHES.iter().filter(|(text, _)| wiring.contains(text)).map(|(_, service)| *service).collect();
        if wiring.contains("Side::Secondary") {
            reached.insert("STS");
        }
        let listed: BTreeSet<&str> =
            CALLS.iter().filter(|call| call.function == function).map(|call| call.service).collect();
        assert_eq!(reached, listed, "left: what functions/{function}/src/main.rs reaches; right: the table of calls");
    }
}

/// A task of a machine: its name, function, action, and whether its failure decides the run's end.
struct Task {
    name: String,
    function: String,
    action: Option<String>,
    blocking: bool,
}

fn tasks(states: &Value, in_a_map: bool, found: &mut Vec<Task>) {
    for (name, state) in states.as_object().unwrap() {
        for branch in state["Branches"].as_array().into_iter().flatten() {
            tasks(&branch["States"], in_a_map, found);
        }
        if let Some(inner) = state["ItemProcessor"].get("States") {
            tasks(inner, true, found);
        }
        let arguments = &state["Arguments"];
        if state["Resource"] == "arn:aws:states:::eks:runJob.sync" {
            // The program in the Job makes the calls of its function. The Kubernetes API is asked by its own endpoint.
            let (function, action) = ("backup-trigger".to_owned(), Some("take".to_owned()));
            let blocking = !(in_a_map && state["Catch"].is_array());
            found.push(Task { name: name.clone(), function, action, blocking });
            continue;
        }
        let Some(arn) = arguments["FunctionName"].as_str() else { continue };
        let pascal = arn.trim_start_matches("${").trim_end_matches("FunctionArn}");
        let mut function = String::new();
        for letter in pascal.chars() {
            if letter.is_uppercase() && !function.is_empty() {
                function.push('-');
            }
            function.extend(letter.to_lowercase());
        }
        // What is caught as a trouble lets the run go on, as does what is caught beside others of its kind; what is caught as a
        // failure, or not at all, ends it.
        let caught = state["Catch"].to_string();
        let passed_over = caught.contains("'troubles'") || (in_a_map && state["Catch"].is_array());
        found.push(Task {
            name: name.clone(),
            function,
            action: arguments["Payload"]["action"].as_str().map(str::to_owned),
            blocking: !passed_over,
        });
    }
}

fn makes(task: &Task, call: &Call) -> bool {
    call.function == task.function && (call.action.is_none() || call.action == task.action.as_deref())
}

/// Calls whose failure their own function turns into an unknown, so that no state fails for them.
fn is_evidence(call: &Call) -> bool {
    call.function == "verify-recovery" && !call.blocking && matches!(call.home, Home::Secondary | Home::Primary)
}

#[test]
fn nothing_that_a_machine_waits_for_lives_in_the_control_planes_of_us_east_1() {
    let machines = files(&repository().join("statemachines"), ".asl.json");
    assert!(!machines.is_empty());
    let mut all = Vec::new();
    for (machine, text) in machines {
        let machine_json: Value = serde_json::from_str(&text).unwrap();
        let mut found = Vec::new();
        tasks(&machine_json["States"], false, &mut found);
        for task in &found {
            let Task { name, function, .. } = task;
            let mut calls = CALLS.iter().filter(|call| makes(task, call)).peekable();
            assert!(calls.peek().is_some(), "{machine}: `{name}` runs `{function}`, which the table of calls lacks");
            // What a function asks beside its work, and passes over, is not waited for.
            for call in calls.filter(|call| task.blocking && !is_evidence(call)) {
                let Call { service, operation, .. } = call;
                assert!(call.home != Home::UsEast1, "{machine}: `{name}` waits for {service} {operation} in us-east-1");
                assert!(call.blocking, "{machine}: `{name}` waits for {service} {operation}; say so in the table");
            }
        }
        all.extend(found);
    }
    for call in CALLS.iter().filter(|call| call.blocking) {
        let waits = all.iter().any(|task| task.blocking && makes(task, call));
        assert!(
            waits,
            "no machine waits for {} {} of `{}`; say so in the table",
            call.service, call.operation, call.function
        );
    }
}
