//! Every function's own process behind Lambda's runtime interface, with every file of `events/`: what a state machine gets to see.
//!
//! The platform behind them is alive and whole, so most events, which speak of a lost region, are answered with the reason why
//! nothing is done.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use lab::{
    faults::{Desk, Script, Selector, Times},
    kubernetes::Flavour,
    lambda::Function,
    platform::{Options, Platform},
    postgres::{PROBE_DATABASE, Pair, Role},
    stack,
};
use recovery::{
    fault::Fault,
    plan::{Approval, Driver},
};
use recovery_suite::FUNCTIONS;
use serde_json::{Value, json};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn events(function: &str) -> BTreeMap<String, Value> {
    let files = fs::read_dir(root().join("events").join(function)).unwrap();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
    };
    files.map(|entry| read(entry.unwrap().path())).collect()
}

async fn programs() -> BTreeMap<String, PathBuf> {
    tokio::task::spawn_blocking(|| stack::programs(&root())).await.unwrap().unwrap()
}

async fn platform(faults: Option<Desk>) -> Platform {
    let lab = lab::Options { kubernetes: Some([Flavour::Small; 2]), ..lab::Options::default() };
    let plan = fs::read_to_string(root().join("plans/sparc.toml")).unwrap();
    let options = Options { lab, driver: Driver::SelfManaged, approval: Approval::Automatic, plan, faults };
    Platform::start(options).await.unwrap()
}

fn environment(platform: &Platform) -> Vec<(String, String)> {
    let mut environment = platform.lab.env();
    environment.push(("RECOVERY_PLAN".to_owned(), platform.plan().display().to_string()));
    environment
}

/// What a function does with an event while the platform works: a field of its result, or a fault and words of its message.
enum Expected {
    Result(&'static str),
    Fault(Fault, &'static str),
}
use Expected::{Fault as Fails, Result as Answers};

const EXPECTED: &[(&str, &str, Expected)] = &[
    ("plan-failover", "primary-region-alarm", Fails(Fault::Refused, "still takes writes")),
    ("plan-failover", "two-regions-lost", Fails(Fault::Refused, "is lost too")),
    ("fence-primary", "close-lost-primary", Answers("proof")),
    ("fence-primary", "lift-after-a-refusal", Answers("writers")),
    ("promote-replica", "after-a-lost-primary", Fails(Fault::Refused, "the permit is for")),
    ("scale-nodegroup", "await-after-the-promotion", Fails(Fault::NotYet, "are Ready")),
    ("scale-nodegroup", "release-after-a-stop", Answers("desired")),
    ("scale-nodegroup", "request-beside-the-database", Answers("desired")),
    ("deploy-workloads", "primary-out-of-reach", Fails(Fault::NotYet, "rollouts are complete")),
    ("deploy-workloads", "writers-remembered-by-the-fence", Fails(Fault::NotYet, "rollouts are complete")),
    ("verify-recovery", "public-name-after-the-switch", Fails(Fault::NotYet, "is not served by")),
    ("verify-recovery", "services-after-the-rollout", Fails(Fault::NotYet, "services do not answer")),
    ("verify-recovery", "watch-the-primary", Answers("primary")),
    ("swap-dns", "edit-when-customers-are-back", Fails(Fault::NotYet, "are not in sync")),
    ("swap-dns", "switch-after-health", Fails(Fault::Refused, "were last asked")),
    ("swap-dns", "switch-with-an-ill-service", Fails(Fault::Refused, "did not answer")),
    ("notify", "approval-needed", Answers("message")),
    ("notify", "declared", Answers("message")),
    ("notify", "recovered", Answers("message")),
    ("notify", "refused", Answers("message")),
    ("report", "backups", Answers("key")),
    ("report", "refused", Answers("key")),
    // The lab runs its own server, which has no snapshots.
    ("backup-trigger", "plan-the-night", Fails(Fault::Permanent, "cannot be taken here")),
    ("backup-trigger", "take-a-logical-backup", Answers("manifest_key")),
    // Taken just before, so it is complete, whatever became of its Job.
    ("backup-trigger", "what-became-of-a-job", Answers("manifest_key")),
    ("backup-trigger", "what-is-due", Answers("backups")),
    ("checksum-verify", "artifacts-were-read", Answers("findings")),
    ("checksum-verify", "follow-the-log", Answers("says")),
    ("checksum-verify", "how-far-the-log-reaches", Answers("says")),
    ("checksum-verify", "one-artifact", Answers("rung")),
    ("checksum-verify", "one-backup-to-its-structure", Answers("rung")),
    ("checksum-verify", "retention", Answers("expired")),
    ("checksum-verify", "what-is-due", Answers("standings")),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_answered_by_the_functions_own_process() {
    let (programs, platform) = (programs().await, platform(None).await);
    for function in FUNCTIONS {
        let process = Function::start(&programs[function], environment(&platform)).await.unwrap();
        for (name, event) in events(function) {
            let answer = process.invoke(&event).await.unwrap();
            let expected = EXPECTED.iter().find(|(of, event, _)| (*of, *event) == (function, &*name));
            let (.., expected) = expected.unwrap_or_else(|| panic!("say what {function} does with {name}: {answer}"));
            match expected {
                Answers(field) => assert!(!answer[field].is_null(), "{function}, {name}: {answer}"),
                Fails(fault, words) => {
                    assert_eq!(answer["errorType"], fault.error_type(), "{function}, {name}: {answer}");
                    let message = answer["errorMessage"].as_str().unwrap();
                    assert!(message.contains(words), "{function}, {name}: {answer}");
                }
            }
            if function == "notify" {
                let again = process.invoke(&event).await.unwrap();
                assert_eq!(again["message"], answer["message"], "the message went out twice");
            }
        }

        // A wrong event is a mistake of a developer, by the name that machines match, and the process lives on.
        let mistakes =
            [json!({}), json!("watch"), json!({ "run": { "id": 7 } }), json!({ "action": "watch", "more": 1 })];
        for mistake in mistakes {
            let answer = process.invoke(&mistake).await.unwrap();
            assert_eq!(answer["errorType"], "Recovery.Permanent", "{function}, {mistake}: {answer}");
            let hint = format!("compare it with events/{function}");
            assert!(answer["errorMessage"].as_str().unwrap().contains(&hint), "{function}: {answer}");
        }
        assert!(process.logged().contains("\"run.id\""), "{function} logs without the run: {}", process.logged());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_without_its_plan_says_so_to_every_event() {
    let programs = programs().await;
    for function in FUNCTIONS {
        let nowhere = vec![("RECOVERY_PLAN".to_owned(), "/nowhere/plan.toml".to_owned())];
        let process = Function::start(&programs[function], nowhere).await.unwrap();
        let answer = process.invoke(&json!({})).await.unwrap();
        assert_eq!(answer["errorType"], "Recovery.Permanent", "{function}: {answer}");
        let message = answer["errorMessage"].as_str().unwrap();
        assert!(message.contains("/nowhere/plan.toml") && message.contains("deploy again"), "{function}: {message}");
    }
}

/// Lambda ends a function that does not answer in time. What it then says is matched by every state that calls one, and the next
/// invocation finds a new process.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_does_not_answer_in_time_is_ended_and_starts_anew() {
    let (programs, desk) = (programs().await, Desk::new());
    let platform = platform(Some(desk.clone())).await;
    let mut environment = environment(&platform);
    environment.push(("AWS_LAMBDA_FUNCTION_TIMEOUT".to_owned(), "2".to_owned()));
    let process = Function::start(&programs["notify"], environment).await.unwrap();
    let event = &events("notify")["declared"];
    desk.lay(Selector::operation("Publish").of("sns"), Times::First(1), Script::Hold);
    let late = process.invoke(event).await.unwrap();
    assert_eq!(late["errorType"], "Sandbox.Timedout", "{late}");

    let machine = fs::read_to_string(root().join("statemachines/regional-failover.asl.json")).unwrap();
    let machine: Value = serde_json::from_str(&machine).unwrap();
    let retry = machine["States"]["NotifyOutcome"]["Retry"].to_string();
    assert!(retry.contains("\"Sandbox.Timedout\""), "{retry}");

    let told = process.invoke(event).await.unwrap();
    assert_eq!(told["stage"], "declared", "{told}");
}

/// What a function that takes backups finds at `/opt`: programs of the layer, with libraries of the layer, dump a real server.
#[tokio::test(flavor = "multi_thread")]
async fn the_layer_of_client_programs_dumps_a_server_from_within_a_function() {
    let layer = tokio::task::spawn_blocking(|| stack::layer(&root().join("layers/postgresql"), "PostgresToolsLayer"));
    let layer = layer.await.unwrap().unwrap();
    let pair = Pair::start(lab::postgres::Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let (role, host, port) = (Role::Recovery, pair.primary.host(), pair.primary.port());
    // No secret in arguments or environment: a file that only its owner may read.
    let passwords = folder.path().join("pgpass");
    let line = format!("{host}:{port}:*:{}:{}\n", role.name(), pair.passwords().of(role));
    fs::write(&passwords, line).unwrap();
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = vec![("PGPASSFILE".to_owned(), passwords.display().to_string())];
    let program = root().join("crates/recovery-suite/tests/under_lambda/dump.sh");
    let process = Function::start_with_layer(&program, &layer, environment).await.unwrap();

    let connection = |database: &str| {
        let (user, authority) = (role.name(), pair.authority().path().display());
        let server = format!("host={host} hostaddr=127.0.0.1 port={port} user={user} dbname={database}");
        format!("{server} sslmode=verify-full sslrootcert={authority}")
    };
    let answer = process.invoke(&json!(connection(PROBE_DATABASE))).await.unwrap();
    assert_eq!(answer["version"], "pg_dump (PostgreSQL) 17.10", "{answer} {}", process.logged());
    assert!(answer["tables"].as_u64().unwrap() > 0, "{answer}");
    assert!(answer["libraries"].as_u64().unwrap() > 0, "the machine's own libraries: {answer}");
    let refused = process.invoke(&json!(connection("nowhere"))).await.unwrap();
    assert!(refused["errorMessage"].as_str().unwrap().contains("nowhere does not exist"), "{refused}");
}
