//! Every machine of the suite with every one of its events, through two engines: ours, and the emulator's, which nobody
//! here wrote. The functions behind both are the suite's own, on a platform that is alive and made anew for each run.
//!
//! Compared are how the execution ended, the record (`$run`) as the last function saw it, the output, and the order of
//! the machine's states. What may differ is named in [`plain`] and [`for_the_emulator`], with the reason.
//!
//! The emulator has no `eks:runJob`: the events' backups fit into a Lambda, and what a Job adds is seen on our engine alone, in
//! the test `jobs`.

#![allow(clippy::unwrap_used)]

mod platform;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use asl::{Execution, HistoryEvent, Machine, Settings, SystemClock, TaskCall, TaskHandler, TaskOutcome};
use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::{Path as Segment, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::Engine;
use lab::{
    aws::{ACCOUNT, TERTIARY},
    kubernetes::Flavour,
    nodes,
    platform::{Options, Platform},
};
use recovery::plan::{Approval, Driver};
use recovery_aws::Aws;
use recovery_suite::{FUNCTIONS, Linked, Suite};
use reqwest::Method;
use serde_json::{Map, Value, json};

/// The longest a run may take.
const PATIENCE: Duration = Duration::from_secs(240);

const BOOTSTRAP: &str = include_str!("parity/bootstrap.py");

/// What an engine made of an event.
#[derive(Debug)]
struct Ended {
    status: String,
    error: Option<String>,
    cause: Option<String>,
    output: Option<Value>,
    run: Option<Value>,
    /// States in the order in which they were entered.
    states: Vec<String>,
}

/// The records that functions were handed, in order.
type Records = Arc<Mutex<Vec<Value>>>;

/// The suite's functions, and what they were asked with.
#[derive(Clone)]
struct Functions {
    suite: Arc<Suite>,
    records: Records,
}

impl Functions {
    fn note(&self, payload: &Value) {
        if let Some(run) = payload.get("run") {
            self.records.lock().unwrap().push(run.clone());
        }
    }

    fn last_record(&self) -> Option<Value> {
        self.records.lock().unwrap().last().cloned()
    }
}

#[async_trait]
impl TaskHandler for Functions {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        if let Some(function) = call.function() {
            self.note(function.payload);
        }
        Linked(Arc::clone(&self.suite)).invoke(call).await
    }
}

/// Answers a Lambda of the emulator with what the function itself says.
async fn bridge(
    State(functions): State<Functions>,
    Segment(name): Segment<String>,
    Json(payload): Json<Value>,
) -> Response {
    functions.note(&payload);
    match functions.suite.invoke(&name, payload).await {
        Ok(result) => Json(result).into_response(),
        Err(failure) => {
            let mut headers = HeaderMap::new();
            headers.insert("x-error-type", HeaderValue::from_str(&failure.error_type).unwrap());
            let body = json!({"errorType": failure.error_type, "errorMessage": failure.message});
            (StatusCode::INTERNAL_SERVER_ERROR, headers, Json(body)).into_response()
        }
    }
}

/// A platform in the situation that an event speaks of, and the functions on it.
async fn situation(machine: &str, event: &str) -> (Platform, Functions) {
    let options = Options {
        lab: lab::Options {
            heartbeat: None,
            kubernetes: Some([Flavour::Small; 2]),
            nodes: nodes::Options { batch: 60, every: Duration::from_millis(100), ..nodes::Options::default() },
            ..lab::Options::default()
        },
        driver: Driver::SelfManaged,
        approval: Approval::Automatic,
        plan: std::fs::read_to_string(platform::repository().join("plans/sparc.toml")).unwrap(),
        faults: None,
    };
    let platform = Platform::start(options).await.unwrap();
    let settings = recovery_lambda::Settings::read(platform.plan()).unwrap();
    let aws = Aws::from_environment(&settings.plan, platform.lab.env()).await;
    let suite = Suite::with(settings, aws).unwrap();
    suite.invoke("verify-recovery", json!({"action": "watch"})).await.unwrap();
    if machine == "verify-backups" {
        let take = json!({"action": "take", "run": "parity", "backup": "logical/sparc-prod/20261126T020000Z"});
        suite.invoke("backup-trigger", take).await.unwrap();
    }
    if event.starts_with("standby-behind") {
        platform.lab.pair.cut_stream().await.unwrap();
        // The plan accepts 64 MiB of log.
        platform.lab.pair.fill(72 << 20).await.unwrap();
        suite.invoke("verify-recovery", json!({"action": "watch"})).await.unwrap();
    }
    if matches!(event, "primary-region-alarm" | "standby-behind" | "standby-behind-consented") {
        platform.lab.lose_primary_region();
    }
    (platform, Functions { suite, records: Records::default() })
}

fn arn(function: &str) -> String {
    format!("arn:aws:lambda:{TERTIARY}:{ACCOUNT}:function:{function}")
}

/// The definition with the functions' ARNs filled in.
fn filled(machine: &str, functions: &Functions) -> String {
    let path = platform::repository().join(format!("statemachines/{machine}.asl.json"));
    let values: BTreeMap<String, String> = functions
        .suite
        .substitutions()
        .into_iter()
        .map(|(name, value)| (name, arn(value.rsplit(':').next().unwrap())))
        .collect();
    asl::substitution::fill(&std::fs::read_to_string(path).unwrap(), &values).unwrap()
}

/// The suffix of the states that [`for_the_emulator`] adds.
const ASSIGNED: &str = "Assigned";

/// ministack 1.5.33 passes over `Assign` and `Output` of a Parallel or Map in JSONata, and over the `Output` of a Succeed,
/// which AWS documents for all of them (<https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html>). The
/// same is asked of a Pass: behind a Parallel or Map, in the place of a Succeed. It also passes over the `Items` of a Map whose
/// mode is DISTRIBUTED, and would run it once with the state's input
/// (<https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html>): there it is an inline one.
fn for_the_emulator(scope: &mut Value) {
    let Some(states) = scope["States"].as_object_mut() else { return };
    let mut added = Map::new();
    for (name, state) in states.iter_mut() {
        let members = state.as_object_mut().unwrap();
        for branch in members.get_mut("Branches").and_then(Value::as_array_mut).into_iter().flatten() {
            for_the_emulator(branch);
        }
        if let Some(processor) = members.get_mut("ItemProcessor") {
            for_the_emulator(processor);
        }
        match members["Type"].as_str() {
            Some("Succeed") => {
                members.insert("Type".to_owned(), "Pass".into());
                members.insert("End".to_owned(), true.into());
                continue;
            }
            Some("Map") => {
                if members["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED" {
                    members["ItemProcessor"]["ProcessorConfig"] = json!({"Mode": "INLINE"});
                    members.retain(|field, _| !matches!(field.as_str(), "Label" | "ToleratedFailurePercentage"));
                }
            }
            Some("Parallel") => {}
            _ => continue,
        }
        let mut pass = Map::from_iter([("Type".to_owned(), json!("Pass"))]);
        for field in ["Assign", "Output", "Next", "End"] {
            if let Some(value) = members.shift_remove(field) {
                let moved = value.to_string().replace("$states.result", "$states.input");
                pass.insert(field.to_owned(), serde_json::from_str(&moved).unwrap());
            }
        }
        members.insert("Next".to_owned(), format!("{name}{ASSIGNED}").into());
        added.insert(format!("{name}{ASSIGNED}"), pass.into());
    }
    states.extend(added);
}

async fn by_our_engine(machine: &str, event: &str, name: &str) -> Ended {
    let (_platform, functions) = situation(machine, event).await;
    let parsed = Arc::new(Machine::parse(&filled(machine, &functions)).unwrap());
    let input = serde_json::from_str(&platform::event_now(machine, event)).unwrap();
    let mut events: Vec<HistoryEvent> = Vec::new();
    let execution = Execution::start(parsed, input, Settings::new(TERTIARY, ACCOUNT, machine, name));
    let outcome = execution.run(&functions, &SystemClock, &mut events).await.unwrap();
    let entered = events.iter().filter(|event| event.event_type.as_str().ends_with("StateEntered"));
    Ended {
        status: outcome.status.to_string(),
        error: outcome.error,
        cause: outcome.cause,
        output: outcome.output.map(asl::Payload::into_value),
        run: functions.last_record(),
        states: entered.map(|event| event.text("name").unwrap().to_owned()).collect(),
    }
}

/// A Lambda's archive: Python knows the format, and the emulator needs Python anyway.
fn archive(folder: &Path) -> String {
    let (source, target) = (folder.join("bootstrap"), folder.join("bootstrap.zip"));
    std::fs::write(&source, BOOTSTRAP).unwrap();
    let program = "import sys, zipfile\n\
        entry = zipfile.ZipInfo('bootstrap')\n\
        entry.external_attr = 0o755 << 16\n\
        with zipfile.ZipFile(sys.argv[2], 'w') as archive:\n    archive.writestr(entry, open(sys.argv[1]).read())\n";
    let made = std::process::Command::new("python3").args(["-c", program]).args([&source, &target]).status().unwrap();
    assert!(made.success(), "python3 could not write {}", target.display());
    base64::engine::general_purpose::STANDARD.encode(std::fs::read(target).unwrap())
}

async fn by_the_emulator(machine: &str, event: &str, name: &str) -> Ended {
    let (platform, functions) = situation(machine, event).await;
    let aws = &platform.lab.aws;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let bridge_url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/{function}", post(bridge)).with_state(functions.clone());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let role = format!("arn:aws:iam::{ACCOUNT}:role/parity");
    for function in FUNCTIONS {
        let body = json!({
            "FunctionName": function, "Runtime": "provided.al2023", "Role": role, "Handler": "bootstrap", "Timeout": 60,
            "Code": {"ZipFile": archive}, "Environment": {"Variables": {"PARITY_BRIDGE": format!("{bridge_url}/{function}")}}
        });
        let made = aws.call("lambda", TERTIARY, Method::POST, "/2015-03-31/functions", &[], body.to_string()).await;
        made.unwrap().or_refused("lambda", "CreateFunction").unwrap();
    }
    let states = async |operation: &str, body: Value| {
        aws.json("states", TERTIARY, &format!("AWSStepFunctions.{operation}"), body).await.unwrap()
    };
    let mut definition: Value = serde_json::from_str(&filled(machine, &functions)).unwrap();
    for_the_emulator(&mut definition);
    let definition = definition.to_string();
    let created =
        states("CreateStateMachine", json!({"name": machine, "definition": definition, "roleArn": role})).await;
    let input = platform::event_now(machine, event);
    let started = json!({"stateMachineArn": created["stateMachineArn"], "name": name, "input": input});
    let execution = json!({"executionArn": states("StartExecution", started).await["executionArn"]});
    let deadline = Instant::now() + PATIENCE;
    let described = loop {
        let described = states("DescribeExecution", execution.clone()).await;
        if described["status"] != "RUNNING" {
            break described;
        }
        assert!(Instant::now() < deadline, "the emulator does not come to an end: {described}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut entered = Vec::new();
    let mut page = execution.clone();
    loop {
        page["maxResults"] = json!(1000);
        let history = states("GetExecutionHistory", page.clone()).await;
        entered.extend(
            history["events"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|event| event["stateEnteredEventDetails"]["name"].as_str().map(str::to_owned)),
        );
        match history["nextToken"].as_str() {
            Some(token) => page["nextToken"] = token.into(),
            None => break,
        }
    }
    server.abort();
    Ended {
        status: described["status"].as_str().unwrap().to_owned(),
        error: described["error"].as_str().map(str::to_owned),
        cause: described["cause"].as_str().map(str::to_owned),
        output: described["output"].as_str().map(|text| serde_json::from_str(text).unwrap()),
        run: functions.last_record(),
        states: entered,
    }
}

/// A document without what differs between two runs of the same thing: instants, durations, sizes and nodes that were
/// counted at a moment, positions in the log, random ids, and addresses of a platform that is made anew.
fn plain(value: &Value) -> Value {
    let is_measured = |key: &str| {
        let ends = ["_seconds", "_ms", "_bytes", "_percent"].iter().any(|ending| key.ends_with(ending));
        ends || key.starts_with("seconds_") || matches!(key, "bytes" | "heartbeats" | "ready")
    };
    match value {
        Value::Object(members) => {
            let plain_member = |(key, value): (&String, &Value)| {
                let measured = value.is_number() && is_measured(key);
                (key.clone(), if measured { Value::from("<measured>") } else { plain(value) })
            };
            Value::Object(members.iter().map(plain_member).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::String(text) => Value::from(plain_text(text)),
        other => other.clone(),
    }
}

fn plain_text(text: &str) -> String {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return "<instant>".to_owned();
    }
    // JSON inside a string, as alarms have it.
    if text.starts_with('{')
        && let Ok(inner) = serde_json::from_str::<Value>(text)
    {
        let members = plain(&inner).as_object().cloned().unwrap_or_default();
        return json!(BTreeMap::from_iter(members)).to_string();
    }
    let word = |word: &str| {
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let is_position = word.split_once('/').is_some_and(|(high, low)| {
            let hexadecimal = |part: &str| !part.is_empty() && part.chars().all(|letter| letter.is_ascii_hexdigit());
            hexadecimal(high) && hexadecimal(low)
        });
        // An id of CloudFront is capitals and digits, and by chance without a digit.
        let is_id = word.len() > 9 && word.chars().all(|letter| letter.is_ascii_uppercase());
        if is_position || is_id || digits > 0 { "<figure>".to_owned() } else { word.to_owned() }
    };
    // Sentences carry figures: times, sizes, ports, versions of objects.
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The machine's own states, in the order in which they were entered. The emulator's history has no others; what branches
/// did shows in the record.
fn own_states(definition: &Value, states: &[String]) -> Vec<String> {
    states.iter().filter(|state| definition["States"].get(state.as_str()).is_some()).cloned().collect()
}

/// What is not the same, a sentence each.
fn differences(machine: &str, event: &str, ours: &Ended, theirs: &Ended) -> Vec<String> {
    let path = platform::repository().join(format!("statemachines/{machine}.asl.json"));
    let definition: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let document = |value: &Option<Value>| value.as_ref().map(plain).unwrap_or_default();
    let compared = [
        ("status", json!(ours.status), json!(theirs.status)),
        ("error", json!(ours.error), json!(theirs.error)),
        ("cause", plain(&json!(ours.cause)), plain(&json!(theirs.cause))),
        // Without success AWS describes no output; the emulator shows the error there.
        ("output", document(&ours.output), if theirs.error.is_none() { document(&theirs.output) } else { Value::Null }),
        ("run", document(&ours.run), document(&theirs.run)),
        ("states", json!(own_states(&definition, &ours.states)), json!(own_states(&definition, &theirs.states))),
    ];
    let mut found = Vec::new();
    for (what, ours, theirs) in compared {
        where_they_differ(&format!("{machine} {event}: {what}"), &ours, &theirs, &mut found);
    }
    found
}

fn where_they_differ(at: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                where_they_differ(&format!("{at}.{key}"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                where_they_differ(&format!("{at}[{index}]"), a, b, found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{at}: {ours} here, {theirs} there")),
    }
}

/// The machines of the repository, each with the names of its events.
fn machines_and_events() -> Vec<(String, Vec<String>)> {
    let names = |folder: &Path, ending: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_default();
        let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(ending).map(str::to_owned);
        let mut names: Vec<String> = Vec::from_iter(Vec::into_iter(entries).filter_map(name));
        names.sort();
        names
    };
    let root = platform::repository();
    let events = |machine: &str| names(&root.join("events").join(machine), ".json");
    names(&root.join("statemachines"), ".asl.json").into_iter().map(|name| (name.clone(), events(&name))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_make_the_same_of_every_machine_and_event() {
    let mut found = Vec::new();
    for (machine, events) in machines_and_events() {
        assert!(!events.is_empty(), "`{machine}` has no event in events/{machine}/");
        for event in events {
            let name = format!("parity-{event}");
            let ours = by_our_engine(&machine, &event, &name).await;
            let theirs = by_the_emulator(&machine, &event, &name).await;
            let differences = differences(&machine, &event, &ours, &theirs);
            println!(
                "{machine} {event}: {}, {} states, {} differences",
                ours.status,
                ours.states.len(),
                differences.len()
            );
            for difference in &differences {
                println!("    {difference}");
            }
            found.extend(differences);
        }
    }
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
}
