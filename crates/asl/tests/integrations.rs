//! Calls that take more than an answer: jobs that are waited for, activities and their workers, credentials. The core is
//! driven by hand, since what the world does is the point.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use asl::core::{Core, Effect, Input};
use asl::{
    Execution, FileJournal, HistoryEvent, Machine, Settings, SystemClock, TaskCall, TaskHandler, TaskOutcome,
    Unobserved,
};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// An execution of one Task, what it has done so far, and the call that is open.
struct World {
    core: Core,
    now: Timestamp,
    events: Vec<HistoryEvent>,
    call: Option<TaskCall>,
}

impl World {
    fn of(task: Value) -> World {
        let mut state = json!({"Type": "Task", "End": true});
        state.as_object_mut().unwrap().extend(task.as_object().unwrap().clone());
        let definition = json!({"QueryLanguage": "JSONata", "StartAt": "T", "States": {"T": state}}).to_string();
        let machine = Machine::parse(&definition).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let settings = Settings::new("us-east-1", "111122223333", "Machine", "run");
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let core = Core::new(Arc::new(machine), Arc::new(settings));
        let mut world = World { core, now, events: Vec::new(), call: None };
        world.happens(Input::Start(json!({"n": 1}).into()));
        world
    }

    fn happens(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let progress = self.core.apply(self.now, input);
            self.events.extend(progress.events);
            for effect in progress.effects {
                if let Effect::Invoke(call) = effect {
                    self.call = Some(call);
                }
            }
            next = progress.more.then_some(Input::Continue);
        }
    }

    fn passes(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self.happens(Input::Clock);
    }

    fn call(&self) -> u64 {
        self.call.as_ref().unwrap().call
    }

    fn ends(&mut self, outcome: TaskOutcome) {
        let call = self.call();
        self.happens(Input::CallEnded { call, outcome });
    }

    /// Events after the state was entered.
    fn types(&self) -> Vec<&'static str> {
        self.events[2..].iter().map(|event| event.event_type.as_str()).collect()
    }

    fn error(&self) -> Option<&str> {
        self.core.outcome().unwrap().error.as_deref()
    }
}

const JOB: &str = "arn:aws:states:::states:startExecution.sync:2";
const ACTIVITY: &str = "arn:aws:states:us-east-1:111122223333:activity:a";

#[test]
fn a_job_is_submitted_and_ends_later() {
    let mut world = World::of(
        json!({"Resource": JOB, "Arguments": {"StateMachineArn": "arn"}, "Output": "{% $states.result.Status %}"}),
    );
    let call = world.call();
    world.happens(Input::CallSubmitted { call, output: json!({"ExecutionArn": "e"}) });
    assert_eq!(world.types(), ["TaskScheduled", "TaskStarted", "TaskSubmitted"]);
    assert!(world.core.outcome().is_none());
    world.ends(TaskOutcome::success(json!({"Status": "SUCCEEDED"})));
    assert_eq!(world.types()[3..], ["TaskSucceeded", "TaskStateExited", "ExecutionSucceeded"]);
    assert_eq!(world.core.outcome().unwrap().output.as_ref().unwrap().value(), &json!("SUCCEEDED"));
    let scheduled = serde_json::to_value(&world.events[2]).unwrap();
    assert_eq!(scheduled["taskScheduledEventDetails"]["resourceType"], json!("states"));
    assert_eq!(scheduled["taskScheduledEventDetails"]["resource"], json!("startExecution.sync:2"));
}

#[test]
fn a_job_that_fails_is_a_failed_task_with_the_jobs_description_as_cause() {
    let mut world = World::of(json!({"Resource": JOB}));
    let call = world.call();
    world.happens(Input::CallSubmitted { call, output: json!({}) });
    world.ends(TaskOutcome::failure("States.TaskFailed", "{\"Status\":\"FAILED\"}"));
    assert_eq!(world.types(), ["TaskScheduled", "TaskStarted", "TaskSubmitted", "TaskFailed", "ExecutionFailed"]);
    assert_eq!(world.error(), Some("States.TaskFailed"));
}

/// Starts a job that never ends, or finds it and tells how it ended.
struct Starter {
    ends: bool,
}

#[async_trait]
impl TaskHandler for Starter {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        assert_eq!(call.may_repeat, self.ends, "whoever comes after a killed runner is warned");
        call.submitted(json!({"ExecutionArn": "e"}));
        if !self.ends {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        TaskOutcome::failure("States.TaskFailed", "{}")
    }
}

#[tokio::test]
async fn a_job_that_was_started_is_told_at_once_and_once_also_when_its_runner_is_killed() {
    let definition = json!({"QueryLanguage": "JSONata", "StartAt": "T", "States": {
        "T": {"Type": "Task", "Resource": "arn:aws:states:::eks:runJob.sync", "Arguments": {}, "End": true}}});
    let machine = Arc::new(Machine::parse(&definition.to_string()).unwrap());
    let settings = Settings::new("us-east-1", "111122223333", "Machine", "run");
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let file = FileJournal::create(&journal).await.unwrap();
    let execution = Execution::start(Arc::clone(&machine), json!({}), settings).with_journal(file);
    let (starter, mut unobserved) = (Starter { ends: false }, Unobserved);
    let running = execution.run(&starter, &SystemClock, &mut unobserved);
    let started = async {
        while !std::fs::read_to_string(&journal).unwrap().contains("ExecutionArn") {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    // The runner is dropped here, as if it were killed.
    tokio::select! {
        ended = running => panic!("{ended:?}"),
        () = started => {}
    }

    let (file, records) = FileJournal::open(&journal).await.unwrap();
    let execution = Execution::resume(machine, &records, file, 0).unwrap();
    let mut events: Vec<HistoryEvent> = Vec::new();
    let outcome = execution.run(&Starter { ends: true }, &SystemClock, &mut events).await.unwrap();
    assert_eq!(outcome.error.as_deref(), Some("States.TaskFailed"));
    let types: Vec<&str> = events[2..].iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["TaskScheduled", "TaskStarted", "TaskSubmitted", "TaskFailed", "ExecutionFailed"]);
    let submitted = serde_json::to_value(&events[4]).unwrap();
    assert_eq!(submitted["taskSubmittedEventDetails"]["resourceType"], json!("eks"));
    assert_eq!(submitted["taskSubmittedEventDetails"]["resource"], json!("runJob.sync"));
}

#[test]
fn a_job_that_takes_too_long_times_out_after_it_was_submitted() {
    let mut world = World::of(json!({"Resource": JOB, "TimeoutSeconds": 60}));
    let call = world.call();
    world.happens(Input::CallSubmitted { call, output: json!({}) });
    world.passes(60);
    assert_eq!(world.types()[3..], ["TaskTimedOut", "ExecutionFailed"]);
    assert_eq!(world.error(), Some("States.Timeout"));
    // What comes after the end changes nothing.
    let events = world.events.len();
    world.ends(TaskOutcome::success(json!(1)));
    assert_eq!(world.events.len(), events);
}

#[test]
fn an_activity_waits_for_a_worker_who_may_give_a_name() {
    let mut world = World::of(
        json!({"Resource": ACTIVITY, "Arguments": {"q": "{% $states.input.n %}"}, "HeartbeatSeconds": 10, "TimeoutSeconds": 60}),
    );
    assert_eq!(world.types(), ["ActivityScheduled"]);
    let scheduled = serde_json::to_value(&world.events[2]).unwrap();
    assert_eq!(
        scheduled["activityScheduledEventDetails"],
        json!({"resource": ACTIVITY, "input": "{\"q\":1}", "inputDetails": {"truncated": false}, "timeoutInSeconds": 60, "heartbeatInSeconds": 10})
    );
    let call = world.call();
    world.happens(Input::CallStarted { call, worker: Some("w".to_owned()) });
    world.happens(Input::CallStarted { call, worker: Some("again".to_owned()) });
    world.ends(TaskOutcome::success(json!({"a": 1})));
    assert_eq!(
        world.types(),
        ["ActivityScheduled", "ActivityStarted", "ActivitySucceeded", "TaskStateExited", "ExecutionSucceeded"]
    );
    assert_eq!(world.events[3].text("workerName"), Some("w"));
}

#[test]
fn an_answer_shows_that_somebody_took_the_activity_up() {
    let mut world = World::of(json!({"Resource": ACTIVITY}));
    world.ends(TaskOutcome::failure("E", "why"));
    assert_eq!(world.types(), ["ActivityScheduled", "ActivityStarted", "ActivityFailed", "ExecutionFailed"]);
    assert!(world.events[3].details.is_empty());
}

#[test]
fn an_activity_that_nobody_takes_up_times_out_without_having_started() {
    let mut world = World::of(json!({"Resource": ACTIVITY, "TimeoutSeconds": 5}));
    world.passes(5);
    assert_eq!(world.types(), ["ActivityScheduled", "ActivityTimedOut", "ExecutionFailed"]);
    assert_eq!(world.error(), Some("States.Timeout"));
}

#[test]
fn a_worker_that_falls_silent_misses_its_heartbeat() {
    let mut world = World::of(json!({"Resource": ACTIVITY, "HeartbeatSeconds": 10, "TimeoutSeconds": 60}));
    let call = world.call();
    world.happens(Input::CallStarted { call, worker: None });
    world.passes(9);
    assert!(world.core.outcome().is_none());
    world.passes(1);
    assert_eq!(world.types()[2..], ["ActivityTimedOut", "ExecutionFailed"]);
}

#[test]
fn credentials_are_computed_handed_over_and_noted() {
    let world = World::of(json!({"Resource": "arn:aws:lambda:us-east-1:111122223333:function:f",
        "Credentials": {"RoleArn": "{% 'arn:aws:iam::' & $string($states.input.n) & ':role/r' %}"}}));
    assert_eq!(
        world.call.as_ref().unwrap().credentials.as_ref().unwrap().value(),
        &json!({"RoleArn": "arn:aws:iam::1:role/r"})
    );
    let scheduled = serde_json::to_value(&world.events[2]).unwrap();
    assert_eq!(
        scheduled["lambdaFunctionScheduledEventDetails"]["taskCredentials"],
        json!({"roleArn": "arn:aws:iam::1:role/r"})
    );
}
