//! What a person does to an execution: redrive, retry, skip, pause; each also from a journal that was cut at any record.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use asl::{
    ControlError, Execution, ExecutionOutcome, ExecutionStatus, Handle, HistoryEvent, Input, Journal, JournalError,
    Machine, Record, Refusal, Settings, TaskCall, TaskHandler, TaskOutcome, VirtualClock,
};
use async_trait::async_trait;
use serde_json::{Value, json};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:111122223333:function:f";

/// What outlives a runner, and what is broken in the world.
#[derive(Default)]
struct World {
    records: Mutex<Vec<Record>>,
    made: Mutex<BTreeMap<String, u32>>,
    broken: Mutex<Vec<String>>,
    hangs: Mutex<Vec<String>>,
}

impl World {
    fn made(&self, state: &str) -> u32 {
        self.made.lock().unwrap().get(state).copied().unwrap_or_default()
    }

    fn repair(&self) {
        self.broken.lock().unwrap().clear();
    }
}

struct Functions(Arc<World>);

#[async_trait]
impl TaskHandler for Functions {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        *self.0.made.lock().unwrap().entry(call.state.to_string()).or_default() += 1;
        let is_in = |list: &Mutex<Vec<String>>| list.lock().unwrap().iter().any(|state| *state == *call.state);
        if is_in(&self.0.hangs) {
            std::future::pending::<()>().await;
        }
        if is_in(&self.0.broken) {
            return TaskOutcome::function_failed("Recovery.Permanent", "broken");
        }
        call.function_answered(json!({"did": &*call.state, "key": call.idempotency_key}))
    }
}

struct Kept(Arc<World>);

#[async_trait]
impl Journal for Kept {
    async fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.0.records.lock().unwrap().extend_from_slice(records);
        Ok(())
    }
}

fn machine(definition: Value) -> Arc<Machine> {
    Arc::new(Machine::parse(&definition.to_string()).unwrap_or_else(|problems| panic!("{problems:#?}")))
}

fn task(next: &str) -> Value {
    let mut task =
        json!({"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": 60, "Output": "{% $states.result.did %}"});
    match next {
        "" => task["End"] = json!(true),
        next => task["Next"] = json!(next),
    }
    task
}

fn start(world: &Arc<World>, machine: &Arc<Machine>) -> Execution {
    let mut settings = Settings::new("us-east-1", "111122223333", "Machine", "run");
    settings.seed = 7;
    Execution::start(Arc::clone(machine), json!({}), settings).with_journal(Kept(Arc::clone(world)))
}

fn taken_up(world: &Arc<World>, machine: &Arc<Machine>) -> Execution {
    let records = world.records.lock().unwrap().clone();
    Execution::resume(Arc::clone(machine), &records, Kept(Arc::clone(world)), 0).unwrap()
}

fn clock() -> VirtualClock {
    VirtualClock::at("2026-01-02T03:04:05Z".parse().unwrap())
}

async fn finish(execution: Execution, world: &Arc<World>) -> (ExecutionOutcome, Vec<HistoryEvent>) {
    let mut history = Vec::new();
    let outcome = execution.run(&Functions(Arc::clone(world)), &clock(), &mut history).await.unwrap();
    (outcome, history)
}

fn kinds(history: &[HistoryEvent]) -> Vec<&str> {
    history.iter().map(|event| event.event_type.as_str()).collect()
}

/// Fails in one branch of a Parallel while another one has ended and a third one is at work.
fn branches() -> Arc<Machine> {
    machine(json!({"QueryLanguage": "JSONata", "StartAt": "First", "States": {
        "First": task("Both"),
        "Both": {"Type": "Parallel", "Branches": [
            {"StartAt": "Done", "States": {"Done": task("")}},
            {"StartAt": "Meanwhile", "States": {"Meanwhile": {"Type": "Wait", "Seconds": 1, "Next": "Fails"}, "Fails": task("Then"), "Then": task("")}},
            {"StartAt": "Slow", "States": {"Slow": {"Type": "Wait", "Seconds": 100, "Next": "Late"}, "Late": task("")}},
            {"StartAt": "Items", "States": {"Items": {"Type": "Map", "Items": [1, 2], "ItemProcessor": {"StartAt": "Item", "States": {
                "Item": {"Type": "Wait", "Seconds": "{% $states.input * 50 %}", "Output": "{% $states.input %}", "End": true}}}, "End": true}}}
        ], "Next": "Last"},
        "Last": {"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": 60,
            "Output": {"branches": "{% $states.input %}", "redrives": "{% $states.context.Execution.RedriveCount %}"}, "End": true}
    }}))
}

#[tokio::test]
async fn a_redrive_does_only_what_had_not_succeeded() {
    let (world, machine) = (Arc::new(World::default()), branches());
    world.broken.lock().unwrap().push("Fails".to_owned());
    let (failed, before) = finish(start(&world, &machine), &world).await;
    assert_eq!(failed.status, ExecutionStatus::Failed);

    world.repair();
    let again = taken_up(&world, &machine).beginning_with(Input::Redrive, Some(json!({"by": "ann"}))).unwrap();
    let (outcome, history) = finish(again, &world).await;
    let expected = json!({"branches": ["Done", "Then", "Late", [1, 2]], "redrives": 1});
    assert_eq!(outcome.output.unwrap().value(), &expected);
    let made = world.made.lock().unwrap().clone();
    let counts: Vec<(&str, u32)> = made.iter().map(|(state, count)| (state.as_str(), *count)).collect();
    assert_eq!(counts, [("Done", 1), ("Fails", 2), ("First", 1), ("Last", 1), ("Late", 1), ("Then", 1)]);
    assert_eq!(&history[before.len()].event_type.as_str(), &"ExecutionRedriven");
    assert_eq!(history[before.len()].details_value(), json!({"redriveCount": 1}));
    // The state that failed was not left, so it is not entered again.
    assert_eq!(history.iter().filter(|event| event.event_type.as_str() == "TaskStateEntered").count(), 6);
    let ids: Vec<u64> = history.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());

    let records = world.records.lock().unwrap().clone();
    let noted = records
        .iter()
        .filter(|record| matches!(record, Record::Happened { note: Some(note), .. } if note["by"] == "ann"));
    assert_eq!(noted.count(), 1, "who did it stands in the journal");
    let keys: Vec<&String> = records
        .iter()
        .filter_map(|record| match record {
            Record::Intent { calls } => Some(calls),
            _ => None,
        })
        .flatten()
        .map(|(_, key)| key)
        .collect();
    let mut different = keys.clone();
    different.sort();
    different.dedup();
    assert_eq!(keys.len(), different.len(), "a redriven call is another call: {keys:?}");

    let refused = taken_up(&world, &machine).beginning_with(Input::Redrive, None).unwrap_err();
    assert_eq!(refused, Refusal::Succeeded);
}

#[tokio::test]
async fn a_redrive_is_resumed_from_any_record_of_the_journal() {
    let (world, machine) = (Arc::new(World::default()), branches());
    world.broken.lock().unwrap().push("Fails".to_owned());
    finish(start(&world, &machine), &world).await;
    world.repair();
    let redriven = taken_up(&world, &machine).beginning_with(Input::Redrive, None).unwrap();
    let (expected, history) = finish(redriven, &world).await;
    let records = world.records.lock().unwrap().clone();
    let redrive =
        records.iter().position(|record| matches!(record, Record::Happened { input: Input::Redrive, .. })).unwrap();
    for cut in redrive + 1..=records.len() {
        let world = Arc::new(World::default());
        *world.records.lock().unwrap() = records[..cut].to_vec();
        let (outcome, again) = finish(taken_up(&world, &machine), &world).await;
        assert_eq!(outcome, expected, "cut after record {cut}");
        assert_eq!(kinds(&again).len(), kinds(&history).len(), "cut after record {cut}");
    }
    // Before the redrive was noted, the execution stands as it ended.
    *world.records.lock().unwrap() = records[..redrive].to_vec();
    let (outcome, _) = finish(taken_up(&world, &machine), &world).await;
    assert_eq!(outcome.status, ExecutionStatus::Failed);
}

#[tokio::test]
async fn what_was_stopped_goes_on_where_it_was_stopped() {
    let (world, machine) = (Arc::new(World::default()), branches());
    world.hangs.lock().unwrap().push("Fails".to_owned());
    let execution = start(&world, &machine);
    let handle = execution.handle();
    let at_work = Arc::clone(&world);
    let stop = tokio::spawn(async move {
        while at_work.made("Fails") == 0 || at_work.made("Done") == 0 {
            tokio::task::yield_now().await;
        }
        handle.stop(Some("Stopped".to_owned()), None).await
    });
    // A clock that stands still: only a person ends this.
    let still = asl::SystemClock;
    let stopped = execution.run(&Functions(Arc::clone(&world)), &still, &mut Vec::new()).await.unwrap();
    stop.await.unwrap().unwrap();
    assert_eq!(stopped.status, ExecutionStatus::Aborted);

    world.hangs.lock().unwrap().clear();
    let again = taken_up(&world, &machine).beginning_with(Input::Redrive, None).unwrap();
    let (outcome, _) = finish(again, &world).await;
    assert_eq!(outcome.output.unwrap().value()["branches"], json!(["Done", "Then", "Late", [1, 2]]));
    assert_eq!(world.made("First"), 1);
    assert_eq!(world.made("Done"), 1, "the branch had ended");
}

/// A failure that the machine itself catches and ends with.
fn caught() -> Arc<Machine> {
    let mut work = task("Good");
    work["Catch"] = json!([{"ErrorEquals": ["States.ALL"], "Assign": {"failure": "{% $states.errorOutput.Error %}"}, "Next": "Bad"}]);
    work["Retry"] = json!([{"ErrorEquals": ["Recovery.Permanent"], "IntervalSeconds": 600, "MaxAttempts": 1}]);
    machine(json!({"QueryLanguage": "JSONata", "StartAt": "Before", "TimeoutSeconds": 1000, "States": {
        "Before": {"Type": "Pass", "Assign": {"failure": "none"}, "Next": "Work"},
        "Work": work,
        "Good": {"Type": "Pass", "Output": {"did": "{% $states.input %}", "failure": "{% $failure %}"}, "End": true},
        "Bad": {"Type": "Fail", "Error": "{% $failure %}"}
    }}))
}

#[tokio::test]
async fn a_failure_that_was_caught_is_tried_again_as_if_it_had_not_been() {
    let (world, machine) = (Arc::new(World::default()), caught());
    world.broken.lock().unwrap().push("Work".to_owned());
    let (failed, _) = finish(start(&world, &machine), &world).await;
    assert_eq!(failed.error.as_deref(), Some("Recovery.Permanent"));
    assert!(taken_up(&world, &machine).failed_states().any(|state| state == "Work"));

    // As on AWS, a redrive of a machine that ended in a Fail state ends there again.
    let redriven = taken_up(&world, &machine).beginning_with(Input::Redrive, None).unwrap();
    let (failed, _) = finish(redriven, &world).await;
    assert_eq!(failed.error.as_deref(), Some("Recovery.Permanent"));
    assert_eq!(world.made("Work"), 2);

    world.repair();
    let retry = |state: &str| Input::Retry { state: state.to_owned() };
    assert_eq!(taken_up(&world, &machine).beginning_with(retry("Good"), None).unwrap_err(), Refusal::NotFailed);
    let retried = taken_up(&world, &machine).beginning_with(retry("Work"), None).unwrap();
    let (outcome, _) = finish(retried, &world).await;
    assert_eq!(outcome.output.unwrap().value(), &json!({"did": "Work", "failure": "none"}));
}

async fn until(world: &Arc<World>, state: &str) {
    while world.made(state) == 0 {
        tokio::task::yield_now().await;
    }
}

/// Runs with a person at the handle, on a clock that does not jump.
async fn with_a_person<F: Future<Output = ()> + Send + 'static>(
    world: &Arc<World>,
    machine: &Arc<Machine>,
    person: impl FnOnce(Handle, Arc<World>) -> F,
) -> (ExecutionOutcome, Vec<HistoryEvent>) {
    let execution = start(world, machine);
    let person = tokio::spawn(person(execution.handle(), Arc::clone(world)));
    let mut history = Vec::new();
    let outcome = execution.run(&Functions(Arc::clone(world)), &asl::SystemClock, &mut history).await.unwrap();
    person.await.unwrap();
    (outcome, history)
}

#[tokio::test]
async fn the_next_attempt_need_not_be_waited_for() {
    let (world, machine) = (Arc::new(World::default()), caught());
    world.broken.lock().unwrap().push("Work".to_owned());
    let began = std::time::Instant::now();
    let (outcome, _) = with_a_person(&world, &machine, |handle, world| async move {
        until(&world, "Work").await;
        world.repair();
        while handle.retry("Work").await == Err(ControlError::Refused(Refusal::NotFailed)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(outcome.status, ExecutionStatus::Succeeded);
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "the wait was ten minutes");
    assert_eq!(world.made("Work"), 2);
}

#[tokio::test]
async fn a_task_is_skipped_before_it_begins_while_it_works_and_after_it_failed() {
    let lambda = |name: &str| json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Arguments": {"FunctionName": FUNCTION, "Payload": {"step": name}}, "TimeoutSeconds": 60});
    let mut before = lambda("Before");
    before["Next"] = json!("Work");
    let mut work = lambda("Work");
    work["Assign"] = json!({"work": "{% $states.result.Payload.said %}"});
    work["Catch"] = json!([{"ErrorEquals": ["States.ALL"], "Next": "Bad"}]);
    work["Next"] = json!("Good");
    let machine = machine(json!({"QueryLanguage": "JSONata", "StartAt": "Before", "States": {
        "Before": before, "Work": work,
        "Good": {"Type": "Pass", "Output": "{% $work %}", "End": true},
        "Bad": {"Type": "Fail", "Error": "Bad"}
    }}));
    let answer = || json!({"said": "by hand"});

    // Before it begins, and while it works.
    for hangs in ["Before", "Work"] {
        let world = Arc::new(World::default());
        world.hangs.lock().unwrap().push(hangs.to_owned());
        let (outcome, history) = with_a_person(&world, &machine, move |handle, world| async move {
            until(&world, hangs).await;
            assert_eq!(handle.skip("Good", json!(1)).await, Err(ControlError::Refused(Refusal::NoSuchTask)));
            handle.with_note(json!({"by": "ann"})).skip("Work", answer()).await.unwrap();
            if hangs == "Before" {
                handle.skip("Before", json!(null)).await.unwrap();
            }
        })
        .await;
        assert_eq!(outcome.output.unwrap().value(), "by hand", "{hangs}");
        assert!(kinds(&history).contains(&"TaskStateSkipped"));
        assert_eq!(world.made("Work"), u32::from(hangs == "Work"));
        // Whoever resumes it has the same skips.
        let (again, _) = finish(taken_up(&world, &machine), &world).await;
        assert_eq!(again.status, ExecutionStatus::Succeeded);
    }

    // After it failed.
    let world = Arc::new(World::default());
    world.broken.lock().unwrap().push("Work".to_owned());
    finish(start(&world, &machine), &world).await;
    let skip = Input::Skip { state: "Work".to_owned(), answer: answer() };
    let (outcome, _) = finish(taken_up(&world, &machine).beginning_with(skip, None).unwrap(), &world).await;
    assert_eq!(outcome.output.unwrap().value(), "by hand");
    assert_eq!(world.made("Work"), 1);
}

#[tokio::test]
async fn a_pause_stops_the_executions_own_time_and_begins_nothing() {
    // Calls have more time than the execution, so that its own time is what ends it.
    let patient = |next: &str| {
        let mut task = task(next);
        task["TimeoutSeconds"] = json!(600);
        task
    };
    let machine = machine(json!({"QueryLanguage": "JSONata", "StartAt": "One", "TimeoutSeconds": 100, "States": {
        "One": patient("Two"), "Two": patient("")
    }}));
    let world = Arc::new(World::default());
    let mut core = asl::core::Core::new(Arc::clone(&machine), Arc::new(Settings::new("r", "a", "m", "e")));
    let at = |seconds: i64| jiff::Timestamp::from_second(1_000_000 + seconds).unwrap();
    let began = core.apply(at(0), Input::Start(json!({}).into()));
    assert_eq!(began.effects.len(), 1);
    core.apply(at(10), Input::Pause);
    core.apply(at(20), Input::Pause);
    let answered =
        core.apply(at(30), Input::CallEnded { call: 3, outcome: TaskOutcome::success(json!({"did": "One"})) });
    assert_eq!(kinds(&answered.events), ["LambdaFunctionSucceeded"], "an answer is taken, nothing follows from it");
    assert_eq!(core.next_timer(), None, "nothing is waited for");
    core.apply(at(5_000), Input::Clock);
    assert!(core.outcome().is_none(), "a pause is not a timeout");
    let went_on = core.apply(at(6_000), Input::Unpause);
    assert!(kinds(&went_on.events).contains(&"TaskStateEntered"));
    core.apply(at(6_089), Input::Clock);
    assert!(core.outcome().is_none());
    core.apply(at(6_091), Input::Clock);
    assert_eq!(core.outcome().unwrap().status, ExecutionStatus::TimedOut, "ninety seconds were left");

    // An execution that a person stops before it goes on makes no call.
    finish(start(&world, &machine), &world).await;
    let records = world.records.lock().unwrap().clone();
    let intent = records.iter().position(|record| matches!(record, Record::Intent { .. })).unwrap();
    let world = Arc::new(World::default());
    *world.records.lock().unwrap() = records[..=intent].to_vec();
    let stop = Input::Stop { error: Some("Aborted".to_owned()), cause: None };
    let (outcome, _) = finish(taken_up(&world, &machine).beginning_with(stop, None).unwrap(), &world).await;
    assert_eq!((outcome.status, world.made("One")), (ExecutionStatus::Aborted, 0));
}
