//! A run is killed after every record of its journal, and before every one, and goes on.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use asl::core::Input;
use asl::{
    Execution, FileJournal, HistoryEvent, Journal, JournalError, Machine, Record, ResumeError, RunError, Settings,
    TaskCall, TaskHandler, TaskOutcome, VirtualClock,
};
use async_trait::async_trait;
use serde_json::{Value, json};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:111122223333:function:f";

fn machine() -> Arc<Machine> {
    let task = |name: &str, next: &str| json!({"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": 60, "Arguments": {"step": name, "input": "{% $states.input %}"}, "Next": next});
    let mut last = task("c", "x");
    last.as_object_mut().unwrap().shift_remove("Next");
    last["End"] = json!(true);
    let definition = json!({"QueryLanguage": "JSONata", "StartAt": "Prepare", "States": {
        "Prepare": {"Type": "Pass", "Assign": {"random": "{% $random() %}", "began": "{% $now() %}"}, "Next": "Flaky"},
        "Flaky": {"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": 60, "Arguments": {"step": "flaky"},
                  "Retry": [{"ErrorEquals": ["Recovery.NotYet"], "IntervalSeconds": 3, "MaxAttempts": 3, "JitterStrategy": "FULL"}], "Next": "Both"},
        "Both": {"Type": "Parallel", "Branches": [
            {"StartAt": "Left", "States": {"Left": task("a", "Pause"), "Pause": {"Type": "Wait", "Seconds": 7, "End": true}}},
            {"StartAt": "Right", "States": {"Right": last}}
        ], "Next": "Each"},
        "Each": {"Type": "Map", "Items": [1, 2, 3], "MaxConcurrency": 2, "ItemProcessor": {"StartAt": "One", "States": {
            "One": {"Type": "Task", "Resource": FUNCTION, "Arguments": {"step": "item", "item": "{% $states.input %}"}, "End": true}}}, "Next": "Approve"},
        "Approve": {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "Arguments": {"token": "{% $states.context.Task.Token %}"},
                    "Output": {"approved": "{% $states.result %}", "random": "{% $random %}", "began": "{% $began %}"}, "End": true}
    }});
    Arc::new(Machine::parse(&definition.to_string()).unwrap_or_else(|problems| panic!("{problems:#?}")))
}

/// Everything that outlives a killed runner.
#[derive(Default)]
struct World {
    records: Mutex<Vec<Record>>,
    /// How often each call was made, by idempotency key.
    made: Mutex<BTreeMap<String, u32>>,
    tokens: Mutex<BTreeSet<String>>,
}

struct Functions(Arc<World>);

#[async_trait]
impl TaskHandler for Functions {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        let answered = self.0.records.lock().unwrap().iter().any(|record| matches!(record, Record::Happened { input: Input::CallEnded { call: ended, .. }, .. } if *ended == call.call));
        assert!(!answered, "{} was made again although its answer is known", call.idempotency_key);
        let made = {
            let mut made = self.0.made.lock().unwrap();
            let times = made.entry(call.idempotency_key.clone()).or_default();
            *times += 1;
            *times
        };
        assert!(made == 1 || call.may_repeat, "{} was repeated without a warning", call.idempotency_key);
        tokio::task::yield_now().await;
        if let Some(token) = &call.task_token {
            self.0.tokens.lock().unwrap().insert(token.to_string());
            return TaskOutcome::success(json!({}));
        }
        match call.payload.value()["step"].as_str() {
            Some("flaky") if call.attempt < 2 => TaskOutcome::function_failed("Recovery.NotYet", "look again"),
            _ => TaskOutcome::success(json!({"did": call.payload.value()["step"]})),
        }
    }
}

/// A journal whose process dies at its n-th append, before or after the records are safe.
struct Dying {
    world: Arc<World>,
    left: usize,
    after: bool,
}

#[async_trait]
impl Journal for Dying {
    async fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let dies = self.left == 0;
        self.left = self.left.saturating_sub(1);
        if !dies || self.after {
            self.world.records.lock().unwrap().extend_from_slice(records);
        }
        if dies { Err(JournalError::Other("killed".into())) } else { Ok(()) }
    }
}

fn settings() -> Settings {
    let mut settings = Settings::new("us-east-1", "111122223333", "Machine", "run");
    settings.seed = 42;
    settings
}

/// Runs until the process dies or the run ends, an operator answering every token.
async fn live(
    execution: Execution,
    world: &Arc<World>,
    clock: &VirtualClock,
    history: &mut Vec<HistoryEvent>,
) -> Result<Value, RunError> {
    let handle = execution.handle();
    let tokens = Arc::clone(world);
    let operator = tokio::spawn(async move {
        loop {
            let known: Vec<String> = tokens.tokens.lock().unwrap().iter().cloned().collect();
            for token in known {
                if handle.send_task_success(&token, json!("yes")).await == Err(asl::ControlError::Ended) {
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    let outcome = execution.run(&Functions(Arc::clone(world)), clock, history).await;
    operator.abort();
    outcome.map(|outcome| outcome.output.clone().unwrap_or_else(|| panic!("{outcome:?}")).into_value())
}

#[tokio::test]
async fn a_run_that_is_killed_at_any_record_goes_on_and_repeats_nothing_it_knows() {
    let machine = machine();
    let mut expected = None;
    for after in [true, false] {
        for at in 0.. {
            let world = Arc::new(World::default());
            let clock = VirtualClock::at("2026-01-02T03:04:05Z".parse().unwrap());
            let mut history = Vec::new();
            let dying = Dying { world: Arc::clone(&world), left: at, after };
            let first = live(
                Execution::start(Arc::clone(&machine), json!({"n": 1}), settings()).with_journal(dying),
                &world,
                &clock,
                &mut history,
            )
            .await;
            let (outcome, died) = match first {
                Ok(output) => (output, false),
                Err(RunError::Journal(_)) => {
                    let records = world.records.lock().unwrap().clone();
                    let seen = history.last().map_or(0, |event| event.id);
                    let dying = Dying { world: Arc::clone(&world), left: usize::MAX, after };
                    let execution = match Execution::resume(Arc::clone(&machine), &records, dying, seen) {
                        Ok(execution) => execution,
                        Err(ResumeError::NeverStarted) => {
                            assert!(records.is_empty());
                            let dying = Dying { world: Arc::clone(&world), left: usize::MAX, after };
                            Execution::start(Arc::clone(&machine), json!({"n": 1}), settings()).with_journal(dying)
                        }
                        Err(error) => panic!("{error}"),
                    };
                    (live(execution, &world, &clock, &mut history).await.unwrap(), true)
                }
                Err(error) => panic!("{error}"),
            };
            let ids: Vec<u64> = history.iter().map(|event| event.id).collect();
            assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "every event once, killed at {at}");
            assert_eq!(history.last().unwrap().event_type.as_str(), "ExecutionSucceeded");
            assert_eq!(outcome, *expected.get_or_insert(outcome.clone()), "killed at {at}");
            assert_eq!(world.made.lock().unwrap().len(), 3 + 2 + 3 + 1, "each call was made");
            if !died {
                assert!(at > 10, "the run has {at} records");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_journal_is_for_its_own_machine_and_engine() {
    let machine = machine();
    let world = Arc::new(World::default());
    let clock = VirtualClock::at("2026-01-02T03:04:05Z".parse().unwrap());
    let dying = Dying { world: Arc::clone(&world), left: 4, after: true };
    live(
        Execution::start(Arc::clone(&machine), json!({}), settings()).with_journal(dying),
        &world,
        &clock,
        &mut Vec::new(),
    )
    .await
    .unwrap_err();
    let mut records = world.records.lock().unwrap().clone();
    let other = Arc::new(Machine::parse(r#"{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}"#).unwrap());
    let error = Execution::resume(other, &records, Vec::new(), 0).unwrap_err();
    assert!(matches!(error, ResumeError::OtherDefinition(_)), "{error}");
    let Record::Started { engine, .. } = &mut records[0] else { panic!("the first record says how it was started") };
    *engine += 1;
    let later = ResumeError::OtherEngine(asl::journal::ENGINE_VERSION + 1);
    assert_eq!(Execution::resume(machine, &records, Vec::new(), 0).unwrap_err(), later);
}

fn sample() -> Vec<Record> {
    vec![
        Record::Started { engine: 2, definition: "d".to_owned(), settings: settings() },
        Record::Happened {
            at: "2026-01-02T03:04:05.000000007Z".parse().unwrap(),
            continued: 3,
            input: Input::Start(json!({"ü": "\n"}).into()),
            note: None,
        },
        Record::Intent { calls: vec![(1, "run/A@2.0".to_owned())] },
        Record::Happened {
            at: "2026-01-02T03:04:06Z".parse().unwrap(),
            continued: 0,
            input: Input::CallEnded { call: 1, outcome: TaskOutcome::failure("E", "C") },
            note: Some(json!({"by": "a"})),
        },
    ]
}

#[tokio::test]
async fn a_file_keeps_its_records_and_loses_only_a_torn_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = FileJournal::create(&path).await.unwrap();
    for record in sample() {
        journal.append(&[record]).await.unwrap();
    }
    drop(journal);
    assert!(FileJournal::create(&path).await.is_err(), "a journal is never overwritten");
    assert_eq!(FileJournal::records(&path).await.unwrap(), sample());
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, records) = FileJournal::open(&path).await.unwrap();
        let kept = ends.iter().filter(|end| **end <= length).count();
        assert_eq!(records, sample()[..kept], "cut at {length}");
        journal.append(&sample()[kept..]).await.unwrap();
        drop(journal);
        assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {length} and written on");
    }
}

#[tokio::test]
async fn damage_before_the_last_record_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = FileJournal::create(&path).await.unwrap();
    journal.append(&sample()).await.unwrap();
    drop(journal);
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 40;
    bytes[second] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = FileJournal::open(&path).await.unwrap_err();
    assert!(matches!(error, JournalError::Damaged { line: 2, .. }), "{error}");
    assert!(error.remedy().contains("copy"));
}
