//! What JSONata machines do: every state type, retries, catches, tokens, limits, in virtual time.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use asl::{
    Execution, ExecutionOutcome, ExecutionStatus, HistoryEvent, Machine, Settings, TaskCall, TaskHandler, TaskOutcome,
    VirtualClock,
};
use async_trait::async_trait;
use serde_json::{Value, json};

/// Answers each state's calls from a script, in order, the last answer again and again; `Err(None)` never answers.
#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<String, Vec<Option<TaskOutcome>>>>,
    calls: Mutex<Vec<TaskCall>>,
}

impl Script {
    fn state(self, state: &str, answers: Vec<Option<TaskOutcome>>) -> Self {
        self.answers.lock().unwrap().insert(state.to_owned(), answers.into_iter().rev().collect());
        self
    }

    fn payloads(&self) -> Vec<Value> {
        self.calls.lock().unwrap().iter().map(|call| call.payload.value().clone()).collect()
    }
}

#[async_trait]
impl TaskHandler for Script {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            let script = answers.get_mut(&*call.state).unwrap_or_else(|| panic!("no script for {}", call.state));
            if script.len() > 1 { script.pop().unwrap() } else { script[0].clone() }
        };
        self.calls.lock().unwrap().push(call);
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

fn ok(value: Value) -> Option<TaskOutcome> {
    Some(TaskOutcome::success(value))
}

fn broken(error: &str) -> Option<TaskOutcome> {
    Some(TaskOutcome::failure(error, "because"))
}

struct Run {
    outcome: ExecutionOutcome,
    events: Vec<HistoryEvent>,
    seconds: f64,
}

impl Run {
    fn output(&self) -> &Value {
        assert_eq!(self.outcome.status, ExecutionStatus::Succeeded, "{:?}", self.outcome);
        self.outcome.output.as_ref().unwrap().value()
    }

    fn types(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.event_type.as_str()).collect()
    }

    fn shape(&self) -> Vec<(u64, u64, &'static str)> {
        self.events.iter().map(|event| (event.id, event.previous_event_id, event.event_type.as_str())).collect()
    }
}

fn start() -> jiff::Timestamp {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

async fn run_with(definition: Value, input: Value, handler: &Script) -> Run {
    let machine = Machine::parse(&definition.to_string()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let clock = VirtualClock::at(start());
    let settings = Settings::new("us-east-1", "111122223333", "Machine", "run-1");
    let mut events = Vec::new();
    let outcome = Execution::start(Arc::new(machine), input, settings).run(handler, &clock, &mut events).await.unwrap();
    let seconds = asl::Clock::now(&clock).duration_since(start()).as_secs_f64();
    Run { outcome, events, seconds }
}

async fn run(definition: Value, input: Value) -> Run {
    run_with(definition, input, &Script::default()).await
}

/// A JSONata machine of these states, starting at the first.
fn machine(states: Value) -> Value {
    let first = states.as_object().unwrap().keys().next().unwrap().clone();
    json!({"QueryLanguage": "JSONata", "StartAt": first, "States": states})
}

const FUNCTION: &str = "arn:aws:lambda:us-east-1:111122223333:function:f";

#[tokio::test]
async fn a_pass_hands_on_its_input_or_its_output_and_assigns_variables_all_at_once() {
    let run = run(
        machine(json!({
            "A": {"Type": "Pass", "Assign": {"x": 1, "y": "{% $states.input.n %}"}, "Next": "B"},
            "B": {"Type": "Pass", "Assign": {"x": "{% $y %}", "y": "{% $x %}"}, "Next": "C"},
            "C": {"Type": "Pass", "Output": {"x": "{% $x %}", "y": "{% $y %}", "n": "{% $states.input.n %}"}, "End": true}
        })),
        json!({"n": 7}),
    )
    .await;
    assert_eq!(run.output(), &json!({"x": 7, "y": 1, "n": 7}));
    assert_eq!(
        run.shape(),
        [
            (1, 0, "ExecutionStarted"),
            (2, 0, "PassStateEntered"),
            (3, 2, "PassStateExited"),
            (4, 3, "PassStateEntered"),
            (5, 4, "PassStateExited"),
            (6, 5, "PassStateEntered"),
            (7, 6, "PassStateExited"),
            (8, 7, "ExecutionSucceeded"),
        ]
    );
    let exited = serde_json::to_value(&run.events[2]).unwrap();
    assert_eq!(exited["stateExitedEventDetails"]["assignedVariables"], json!({"x": "1", "y": "7"}));
    assert_eq!(exited["stateExitedEventDetails"]["output"], json!("{\"n\":7}"));
    assert_eq!(exited["timestamp"], json!("2026-01-02T03:04:05.678Z"));
}

#[tokio::test]
async fn a_choice_takes_the_first_rule_that_holds() {
    let definition = machine(json!({
        "C": {"Type": "Choice", "Choices": [
            {"Condition": "{% $states.input.n > 10 %}", "Next": "Big", "Assign": {"size": "big"}, "Output": "{% $states.input.n %}"},
            {"Condition": "{% $states.input.n > 5 %}", "Next": "Big", "Assign": {"size": "middle"}}
        ], "Default": "Small", "Assign": {"size": "small"}, "Output": {"small": true}},
        "Big": {"Type": "Pass", "Output": {"size": "{% $size %}", "in": "{% $states.input %}"}, "End": true},
        "Small": {"Type": "Succeed", "Output": {"size": "{% $size %}", "in": "{% $states.input %}"}}
    }));
    assert_eq!(run(definition.clone(), json!({"n": 11})).await.output(), &json!({"size": "big", "in": 11}));
    assert_eq!(run(definition.clone(), json!({"n": 6})).await.output(), &json!({"size": "middle", "in": {"n": 6}}));
    assert_eq!(
        run(definition.clone(), json!({"n": 1})).await.output(),
        &json!({"size": "small", "in": {"small": true}})
    );
}

#[tokio::test]
async fn a_choice_without_a_match_and_without_default_fails_the_execution() {
    let definition = machine(json!({
        "C": {"Type": "Choice", "Choices": [{"Condition": "{% false %}", "Next": "D"}]},
        "D": {"Type": "Succeed"}
    }));
    let run = run(definition, json!({})).await;
    assert_eq!(run.outcome.status, ExecutionStatus::Failed);
    // What AWS gives; the documentation names States.NoChoiceMatched.
    assert_eq!(run.outcome.error.as_deref(), Some("States.Runtime"));
    assert_eq!(run.shape(), [(1, 0, "ExecutionStarted"), (2, 0, "ChoiceStateEntered"), (3, 2, "ExecutionFailed")]);
}

#[tokio::test]
async fn a_condition_that_is_not_a_boolean_is_an_evaluation_error() {
    let definition = machine(json!({
        "C": {"Type": "Choice", "Choices": [{"Condition": "{% 1 %}", "Next": "D"}]},
        "D": {"Type": "Succeed"}
    }));
    let run = run(definition, json!({})).await;
    assert_eq!(run.outcome.error.as_deref(), Some("States.QueryEvaluationError"));
    assert_eq!(run.events[2].text("location"), Some("Choices[0]/Condition"));
}

#[tokio::test]
async fn a_wait_lasts_as_long_as_it_says_and_no_real_time_passes() {
    let definition = machine(json!({
        "S": {"Type": "Wait", "Seconds": "{% $states.input.s %}", "Next": "T"},
        "T": {"Type": "Wait", "Timestamp": "2026-01-02T04:04:05.678Z", "Output": "{% $now() %}", "End": true}
    }));
    let run = run(definition, json!({"s": 600})).await;
    assert_eq!(run.output(), &json!("2026-01-02T04:04:05.678Z"));
    assert_eq!(run.seconds, 3600.0);
}

#[tokio::test]
async fn a_fail_state_names_error_and_cause() {
    let definition =
        machine(json!({"F": {"Type": "Fail", "Error": "{% 'Recovery.' & $states.input.kind %}", "Cause": "why"}}));
    let run = run(definition, json!({"kind": "Refused"})).await;
    assert_eq!(run.outcome.status, ExecutionStatus::Failed);
    assert_eq!((run.outcome.error.as_deref(), run.outcome.cause.as_deref()), (Some("Recovery.Refused"), Some("why")));
    assert_eq!(run.shape(), [(1, 0, "ExecutionStarted"), (2, 0, "FailStateEntered"), (3, 2, "ExecutionFailed")]);
}

#[tokio::test]
async fn a_function_arn_leaves_lambda_events_and_gets_the_arguments() {
    let script = Script::default().state("T", vec![ok(json!({"answer": 42}))]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Arguments": {"q": "{% $states.input.q %}", "name": "{% $states.context.State.Name %}"},
              "Assign": {"a": "{% $states.result.answer %}"}, "Output": {"got": "{% $states.result %}"}, "Next": "P"},
        "P": {"Type": "Pass", "Output": ["{% $a %}", "{% $states.input %}"], "End": true}
    }));
    let run = run_with(definition, json!({"q": "why"}), &script).await;
    assert_eq!(run.output(), &json!([42, {"got": {"answer": 42}}]));
    assert_eq!(script.payloads(), [json!({"q": "why", "name": "T"})]);
    assert_eq!(
        run.types()[1..6],
        [
            "TaskStateEntered",
            "LambdaFunctionScheduled",
            "LambdaFunctionStarted",
            "LambdaFunctionSucceeded",
            "TaskStateExited"
        ]
    );
    let calls = script.calls.lock().unwrap();
    assert_eq!(calls[0].function().unwrap().function, FUNCTION);
    assert_eq!(calls[0].idempotency_key, "run-1/T@2.0");
}

#[tokio::test]
async fn lambda_invoke_wraps_the_answer_in_an_envelope() {
    struct Adder;
    #[async_trait]
    impl TaskHandler for Adder {
        async fn invoke(&self, call: TaskCall) -> TaskOutcome {
            let function = call.function().unwrap();
            assert_eq!(function.function, "adder");
            let sum = function.payload["a"].as_i64().unwrap() + function.payload["b"].as_i64().unwrap();
            call.function_answered(json!(sum))
        }
    }
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Arguments": {"FunctionName": "adder", "Payload": {"a": 1, "b": 2}},
              "Output": "{% $states.result.Payload %}", "TimeoutSeconds": 5, "End": true}
    }));
    let machine = Machine::parse(&definition.to_string()).unwrap();
    let mut events: Vec<HistoryEvent> = Vec::new();
    let outcome = Execution::start(Arc::new(machine), json!({}), Settings::new("us-east-1", "111122223333", "M", "r"))
        .run(&Adder, &VirtualClock::at(start()), &mut events)
        .await
        .unwrap();
    assert_eq!(outcome.output.unwrap().value(), &json!(3));
    let scheduled = serde_json::to_value(&events[2]).unwrap();
    assert_eq!(
        scheduled["taskScheduledEventDetails"],
        json!({"resourceType": "lambda", "resource": "invoke", "region": "us-east-1", "timeoutInSeconds": 5,
               "parameters": "{\"FunctionName\":\"adder\",\"Payload\":{\"a\":1,\"b\":2}}"})
    );
}

#[tokio::test]
async fn a_retrier_waits_longer_each_time_up_to_its_maximum_and_then_gives_up() {
    let script = Script::default().state("T", vec![broken("Recovery.NotYet")]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Arguments": "{% $states.context.State.RetryCount %}",
              "Retry": [{"ErrorEquals": ["Recovery.NotYet"], "IntervalSeconds": 2, "BackoffRate": 3, "MaxAttempts": 4, "MaxDelaySeconds": 20}], "End": true}
    }));
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.outcome.error.as_deref(), Some("Recovery.NotYet"));
    assert_eq!(script.payloads(), [json!(0), json!(1), json!(2), json!(3), json!(4)]);
    assert_eq!(run.seconds, 2.0 + 6.0 + 18.0 + 20.0);
    assert_eq!(
        run.types().iter().filter(|kind| **kind == "TaskStateEntered").count(),
        1,
        "a retry does not enter the state again"
    );
    let keys: Vec<String> = script.calls.lock().unwrap().iter().map(|call| call.idempotency_key.clone()).collect();
    assert_eq!(keys[4], "run-1/T@2.4");
}

#[tokio::test]
async fn retriers_count_apart_and_counters_start_again_with_each_visit() {
    let script = Script::default()
        .state("T", vec![broken("A"), broken("B"), broken("A"), ok(json!(1)), broken("A"), broken("B"), ok(json!(2))]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION,
              "Retry": [{"ErrorEquals": ["A"], "MaxAttempts": 2}, {"ErrorEquals": ["States.ALL"], "MaxAttempts": 1}], "Next": "Again"},
        "Again": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input = 1 %}", "Next": "T"}], "Default": "Done"},
        "Done": {"Type": "Succeed"}
    }));
    assert_eq!(run_with(definition, json!({}), &script).await.output(), &json!(2));
}

#[tokio::test]
async fn zero_attempts_mean_never_and_the_catcher_acts() {
    let script = Script::default().state("T", vec![broken("A")]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Retry": [{"ErrorEquals": ["A"], "MaxAttempts": 0}, {"ErrorEquals": ["States.ALL"]}],
              "Catch": [{"ErrorEquals": ["B"], "Next": "Wrong"},
                        {"ErrorEquals": ["A"], "Next": "Caught", "Assign": {"e": "{% $states.errorOutput.Error %}"}, "Output": {"cause": "{% $states.errorOutput.Cause %}"}}],
              "Next": "Wrong"},
        "Wrong": {"Type": "Fail"},
        "Caught": {"Type": "Pass", "Output": ["{% $e %}", "{% $states.input %}"], "End": true}
    }));
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.output(), &json!(["A", {"cause": "because"}]));
    assert_eq!(script.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn without_output_a_catcher_hands_on_the_error() {
    let script = Script::default().state("T", vec![broken("A")]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "P"}], "End": true},
        "P": {"Type": "Pass", "End": true}
    }));
    assert_eq!(run_with(definition, json!({}), &script).await.output(), &json!({"Error": "A", "Cause": "because"}));
}

#[tokio::test]
async fn a_task_that_takes_too_long_times_out_and_is_not_a_failed_task() {
    let script = Script::default().state("T", vec![None]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": "{% 30 %}",
              "Catch": [{"ErrorEquals": ["States.TaskFailed"], "Next": "Wrong"}, {"ErrorEquals": ["States.Timeout"], "Next": "Late"}], "End": true},
        "Wrong": {"Type": "Fail"},
        "Late": {"Type": "Pass", "Output": "{% $states.input.Error %}", "End": true}
    }));
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.output(), &json!("States.Timeout"));
    assert_eq!(run.seconds, 30.0);
    assert!(run.types().contains(&"LambdaFunctionTimedOut"));
}

#[tokio::test]
async fn the_machines_own_timeout_is_not_caught() {
    let script = Script::default().state("T", vec![None]);
    let mut definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "P"}], "End": true},
        "P": {"Type": "Pass", "End": true}
    }));
    definition["TimeoutSeconds"] = json!(900);
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.outcome.status, ExecutionStatus::TimedOut);
    assert_eq!(run.seconds, 900.0);
    assert_eq!(run.shape()[run.events.len() - 1], (5, 0, "ExecutionTimedOut"));
    assert_eq!(run.outcome.error, None);
}

#[tokio::test]
async fn a_parallel_runs_its_branches_side_by_side_with_scopes_of_their_own() {
    let script = Script::default().state("T", vec![ok(json!("t"))]);
    let definition = machine(json!({
        "A": {"Type": "Pass", "Assign": {"x": "outer"}, "Next": "P"},
        "P": {"Type": "Parallel", "Arguments": {"n": 1}, "Branches": [
            {"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": FUNCTION, "Output": ["{% $states.result %}", "{% $x %}", "{% $states.input.n %}"], "End": true}}},
            {"StartAt": "W", "States": {
                "W": {"Type": "Wait", "Seconds": 5, "Assign": {"inner": 1}, "Next": "V"},
                "V": {"Type": "Pass", "Output": "{% $inner %}", "End": true}}}
        ], "Output": {"both": "{% $states.result %}", "leaked": "{% $exists($inner) %}"}, "End": true}
    }));
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.output(), &json!({"both": [["t", "outer", 1], 1], "leaked": false}));
    assert_eq!(
        run.types().iter().filter(|kind| kind.starts_with("ParallelState")).copied().collect::<Vec<_>>(),
        ["ParallelStateEntered", "ParallelStateStarted", "ParallelStateSucceeded", "ParallelStateExited"]
    );
}

#[tokio::test]
async fn a_failing_branch_aborts_the_others_and_can_be_caught() {
    let script = Script::default().state("T", vec![None]);
    let definition = machine(json!({
        "P": {"Type": "Parallel", "Branches": [
            {"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": FUNCTION, "End": true}}},
            {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 5, "Next": "F"}, "F": {"Type": "Fail", "Error": "E", "Cause": "C"}}}
        ], "Catch": [{"ErrorEquals": ["E"], "Next": "Caught"}], "End": true},
        "Caught": {"Type": "Pass", "End": true}
    }));
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.output(), &json!({"Error": "E", "Cause": "C"}));
    let tail: Vec<_> = run.types().into_iter().skip_while(|kind| *kind != "FailStateEntered").collect();
    assert_eq!(
        tail,
        [
            "FailStateEntered",
            "TaskStateAborted",
            "ParallelStateFailed",
            "ParallelStateExited",
            "PassStateEntered",
            "PassStateExited",
            "ExecutionSucceeded"
        ]
    );
}

#[tokio::test]
async fn a_map_handles_its_items_in_order_with_index_and_value() {
    let definition = machine(json!({
        "M": {"Type": "Map", "Items": "{% $states.input.list %}", "MaxConcurrency": 1,
              "ItemSelector": {"i": "{% $states.context.Map.Item.Index %}", "v": "{% $states.context.Map.Item.Value %}"},
              "ItemProcessor": {"StartAt": "P", "States": {"P": {"Type": "Pass", "Output": "{% $states.input.v & $string($states.input.i) & $states.context.Map.Item.Value %}", "End": true}}},
              "End": true}
    }));
    let run = run(definition, json!({"list": ["a", "b"]})).await;
    assert_eq!(run.output(), &json!(["a0a", "b1b"]));
    assert_eq!(
        run.shape()[2..12],
        [
            (3, 2, "MapStateStarted"),
            (4, 3, "MapIterationStarted"),
            (5, 4, "PassStateEntered"),
            (6, 5, "PassStateExited"),
            (7, 6, "MapIterationSucceeded"),
            (8, 6, "MapIterationStarted"),
            (9, 8, "PassStateEntered"),
            (10, 9, "PassStateExited"),
            (11, 10, "MapIterationSucceeded"),
            (12, 11, "MapStateSucceeded"),
        ]
    );
}

#[tokio::test]
async fn an_inline_map_runs_at_most_forty_iterations_at_once() {
    let script = Script::default().state("T", vec![None]);
    let mut definition = machine(json!({
        "M": {"Type": "Map", "Items": "{% [1..100] %}", "ItemProcessor": {"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": FUNCTION, "End": true}}}, "End": true}
    }));
    definition["TimeoutSeconds"] = json!(1);
    run_with(definition, json!({}), &script).await;
    assert_eq!(script.calls.lock().unwrap().len(), 40);
}

#[tokio::test]
async fn iterations_that_have_begun_end_when_a_later_one_cannot_begin() {
    let script = Script::default().state("T", vec![ok(json!(1))]);
    let definition = machine(json!({
        "M": {"Type": "Map", "Items": [{"v": 1}, {"v": 2}, {}], "ItemSelector": "{% $states.context.Map.Item.Value.v %}",
              "ItemProcessor": {"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": FUNCTION, "End": true}}},
              "Catch": [{"ErrorEquals": ["States.QueryEvaluationError"], "Next": "W"}], "End": true},
        "W": {"Type": "Wait", "Seconds": 5, "Output": "caught", "End": true}
    }));
    let run = run_with(definition, json!({}), &script).await;
    assert_eq!(run.output(), &json!("caught"));
    assert!(script.calls.lock().unwrap().is_empty(), "nothing is called for a Map that has failed");
}

#[tokio::test]
async fn a_map_over_nothing_gives_an_empty_list() {
    let definition = machine(json!({
        "M": {"Type": "Map", "Items": [], "ItemProcessor": {"StartAt": "P", "States": {"P": {"Type": "Pass", "End": true}}}, "End": true}
    }));
    assert_eq!(run(definition, json!({})).await.output(), &json!([]));
}

#[tokio::test]
async fn an_undefined_output_points_before_the_state_and_can_be_caught_on_a_task() {
    let definition = machine(json!({"P": {"Type": "Pass", "Output": {"r": "{% $nothing %}"}, "End": true}}));
    let failed = run(definition, json!({})).await;
    assert_eq!(failed.shape()[2..], [(3, 0, "EvaluationFailed"), (4, 3, "ExecutionFailed")]);
    assert_eq!(
        failed.outcome.cause.as_deref(),
        Some(
            "An error occurred while executing the state 'P' (entered at the event id #2). The JSONata expression '$nothing' specified for the field 'Output/r' returned nothing (undefined)."
        )
    );
    let script = Script::default().state("T", vec![ok(json!(1))]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Output": "{% $nothing %}", "Catch": [{"ErrorEquals": ["States.QueryEvaluationError"], "Next": "P"}], "End": true},
        "P": {"Type": "Pass", "Output": "caught", "End": true}
    }));
    assert_eq!(run_with(definition, json!({}), &script).await.output(), &json!("caught"));
}

const WAITER: &str = "arn:aws:states:::sqs:sendMessage.waitForTaskToken";

fn waiting(extra: Value) -> Value {
    let mut state = json!({"Type": "Task", "Resource": WAITER, "Arguments": {"token": "{% $states.context.Task.Token %}"}, "End": true});
    state.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    machine(json!({"T": state, "P": {"Type": "Pass", "Output": {"caught": "{% $states.input %}"}, "End": true}}))
}

/// Answers tokens as soon as they are handed out.
struct Answering {
    handle: Mutex<Option<asl::Handle>>,
    answer: Result<Value, (Option<String>, Option<String>)>,
    early: bool,
}

#[async_trait]
impl TaskHandler for Answering {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        let token = call.task_token.clone().expect("a token").to_string();
        assert_eq!(call.payload.value()["token"], json!(token));
        let handle = self.handle.lock().unwrap().clone().unwrap();
        let answer = self.answer.clone();
        let send = async move {
            assert_eq!(handle.send_task_heartbeat("unknown").await, Err(asl::ControlError::UnknownToken));
            match answer {
                Ok(output) => handle.send_task_success(&token, output).await,
                Err((error, cause)) => handle.send_task_failure(&token, error, cause).await,
            }
            .unwrap();
        };
        let sent = tokio::spawn(send);
        if self.early {
            // The answer overtakes the call that hands out the token.
            sent.await.unwrap();
        }
        TaskOutcome::success(json!({"MessageId": "m"}))
    }
}

async fn run_token(definition: Value, answer: Result<Value, (Option<String>, Option<String>)>, early: bool) -> Run {
    let machine = Machine::parse(&definition.to_string()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let execution =
        Execution::start(Arc::new(machine), json!({}), Settings::new("us-east-1", "111122223333", "M", "r"));
    let handler = Answering { handle: Mutex::new(Some(execution.handle())), answer, early };
    let mut events = Vec::new();
    let outcome = execution.run(&handler, &asl::SystemClock, &mut events).await.unwrap();
    Run { outcome, events, seconds: 0.0 }
}

#[tokio::test]
async fn a_token_ends_its_task_before_or_after_the_call_that_hands_it_out() {
    for early in [false, true] {
        let run = run_token(
            machine(json!({"T": {"Type": "Task", "Resource": WAITER, "Arguments": {"token": "{% $states.context.Task.Token %}"}, "End": true}})),
            Ok(json!({"approved": true})),
            early,
        )
        .await;
        assert_eq!(run.output(), &json!({"approved": true}));
        assert_eq!(run.types()[2..6], ["TaskScheduled", "TaskStarted", "TaskSubmitted", "TaskSucceeded"]);
    }
}

#[tokio::test]
async fn a_token_failure_without_error_and_cause_gives_nulls() {
    let definition = waiting(json!({"Catch": [{"ErrorEquals": ["States.ALL"], "Next": "P"}]}));
    let run = run_token(definition, Err((None, None)), false).await;
    assert_eq!(run.output(), &json!({"caught": {"Error": null, "Cause": null}}));
}

#[tokio::test]
async fn a_missed_heartbeat_is_a_timeout_under_either_name() {
    for name in ["States.Timeout", "States.HeartbeatTimeout", "States.ALL"] {
        let script = Script::default().state("T", vec![ok(json!({}))]);
        let definition = waiting(
            json!({"HeartbeatSeconds": 20, "TimeoutSeconds": 600, "Catch": [{"ErrorEquals": [name], "Next": "P"}]}),
        );
        let run = run_with(definition, json!({}), &script).await;
        assert_eq!(run.output()["caught"]["Error"], json!("States.Timeout"));
        assert_eq!(run.seconds, 20.0);
    }
}

#[tokio::test]
async fn a_stopped_execution_is_aborted_and_a_paused_one_waits() {
    struct Slow(tokio::sync::Notify);
    #[async_trait]
    impl TaskHandler for Slow {
        async fn invoke(&self, call: TaskCall) -> TaskOutcome {
            if &*call.state == "B" {
                self.0.notify_one();
                std::future::pending::<()>().await;
            }
            TaskOutcome::success(json!(1))
        }
    }
    let definition = machine(json!({
        "A": {"Type": "Task", "Resource": FUNCTION, "Next": "B"},
        "B": {"Type": "Task", "Resource": FUNCTION, "End": true}
    }));
    let machine = Arc::new(Machine::parse(&definition.to_string()).unwrap());
    let execution = Execution::start(machine, json!({}), Settings::new("us-east-1", "111122223333", "M", "r"));
    let handle = execution.handle();
    let slow = Arc::new(Slow(tokio::sync::Notify::new()));
    let running = {
        let slow = Arc::clone(&slow);
        tokio::spawn(async move {
            let mut events: Vec<HistoryEvent> = Vec::new();
            let outcome = execution.run(&*slow, &asl::SystemClock, &mut events).await.unwrap();
            (outcome, events)
        })
    };
    slow.0.notified().await;
    handle.pause().await.unwrap();
    handle.unpause().await.unwrap();
    handle.stop(Some("Operator".to_owned()), Some("enough".to_owned())).await.unwrap();
    let (outcome, events) = running.await.unwrap();
    assert_eq!(outcome.status, ExecutionStatus::Aborted);
    assert_eq!(events.last().unwrap().text("cause"), Some("enough"));
    assert_eq!(handle.pause().await, Err(asl::ControlError::Ended));
}

#[tokio::test]
async fn an_oversized_answer_is_caught_and_an_oversized_output_is_not() {
    let script = Script::default().state("T", vec![ok(json!("x".repeat(262_143)))]);
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "P"}], "End": true},
        "P": {"Type": "Pass", "Output": "{% $states.input.Error %}", "End": true}
    }));
    assert_eq!(run_with(definition, json!({}), &script).await.output(), &json!("States.DataLimitExceeded"));
    let definition = machine(json!({"P": {"Type": "Pass", "Output": "{% $pad('', 262143, 'x') %}", "End": true}}));
    assert_eq!(run(definition, json!({})).await.outcome.error.as_deref(), Some("States.DataLimitExceeded"));
}

#[tokio::test]
async fn a_machine_that_never_ends_fails_at_its_last_event() {
    let definition = machine(json!({
        "A": {"Type": "Pass", "Next": "B"},
        "B": {"Type": "Choice", "Choices": [{"Condition": "{% false %}", "Next": "C"}], "Default": "A"},
        "C": {"Type": "Succeed"}
    }));
    let run = run(definition, json!({})).await;
    assert_eq!(run.outcome.error.as_deref(), Some("States.Runtime"));
    assert_eq!(run.shape()[24_999], (25_000, 24_999, "ExecutionFailed"));
    assert_eq!(run.events.len(), 25_000);
}

#[tokio::test]
async fn an_observer_that_fails_stops_the_run_before_anything_is_called() {
    struct Full;
    #[async_trait]
    impl asl::Observer for Full {
        async fn record(&mut self, _events: &[HistoryEvent]) -> Result<(), asl::ObserverError> {
            Err("disk full".into())
        }
    }
    let script = Script::default().state("T", vec![ok(json!(1))]);
    let definition = machine(json!({"T": {"Type": "Task", "Resource": FUNCTION, "End": true}}));
    let machine = Arc::new(Machine::parse(&definition.to_string()).unwrap());
    let execution = Execution::start(machine, json!({}), Settings::new("us-east-1", "111122223333", "M", "r"));
    let error = execution.run(&script, &VirtualClock::at(start()), &mut Full).await.unwrap_err();
    assert_eq!(error.to_string(), "could not record an event of the execution");
    assert!(script.calls.lock().unwrap().is_empty());
}

#[test]
fn the_graph_shows_every_edge() {
    let definition = machine(json!({
        "T": {"Type": "Task", "Comment": "why", "Resource": FUNCTION, "Catch": [{"ErrorEquals": ["E"], "Next": "C"}], "Next": "C"},
        "C": {"Type": "Choice", "Choices": [{"Condition": "{% $x %}", "Next": "M"}], "Default": "S"},
        "M": {"Type": "Map", "Items": [1], "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}}, "Next": "S"},
        "S": {"Type": "Succeed"}
    }));
    let graph = Machine::parse(&definition.to_string()).unwrap().graph();
    assert_eq!(graph.start, "T");
    let task = graph.find("T").unwrap();
    assert_eq!((task.kind, task.comment.as_deref(), task.edges.len()), ("Task", Some("why"), 2));
    assert_eq!(graph.find("C").unwrap().edges.iter().map(|edge| edge.target.as_str()).collect::<Vec<_>>(), ["M", "S"]);
    assert_eq!(graph.find("I").unwrap().kind, "Pass");
    assert_eq!(graph.all_states().len(), 5);
}

#[tokio::test]
async fn a_distributed_map_tolerates_as_many_failures_as_it_says() {
    let definition = |tolerated: u64| {
        machine(json!({
            "M": {"Type": "Map", "Items": [1, 2, 3, 4], "ToleratedFailureCount": tolerated,
                  "ItemProcessor": {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "C", "States": {
                      "C": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input % 2 = 0 %}", "Next": "F"}], "Default": "S"},
                      "F": {"Type": "Fail", "Error": "Even"}, "S": {"Type": "Succeed"}}},
                  "Catch": [{"ErrorEquals": ["States.ExceedToleratedFailureThreshold"], "Next": "P"}], "End": true},
            "P": {"Type": "Pass", "Output": "too many", "End": true}
        }))
    };
    let tolerant = run(definition(2), json!({})).await;
    assert_eq!(tolerant.output(), &json!([1, 3]));
    assert_eq!(
        tolerant.types(),
        [
            "ExecutionStarted",
            "MapStateEntered",
            "MapStateStarted",
            "MapRunStarted",
            "MapRunSucceeded",
            "MapStateSucceeded",
            "MapStateExited",
            "ExecutionSucceeded"
        ]
    );
    let strict = run(definition(1), json!({})).await;
    assert_eq!(strict.output(), &json!("too many"));
    assert!(strict.types().contains(&"MapRunFailed"));
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_task_and_not_the_run() {
    struct Clumsy;
    #[async_trait]
    impl TaskHandler for Clumsy {
        async fn invoke(&self, call: TaskCall) -> TaskOutcome {
            panic!("no answer for {}", call.state);
        }
    }
    let definition = machine(json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Catch": [{"ErrorEquals": ["Runtime.ExitError"], "Next": "P"}], "End": true},
        "P": {"Type": "Pass", "Output": "{% $parse($states.input.Cause).errorMessage %}", "End": true}
    }));
    let machine = Arc::new(Machine::parse(&definition.to_string()).unwrap());
    let execution = Execution::start(machine, json!({}), Settings::new("us-east-1", "111122223333", "M", "r"));
    let outcome = execution.run(&Clumsy, &VirtualClock::at(start()), &mut asl::Unobserved).await.unwrap();
    assert_eq!(outcome.output.unwrap().value(), &json!("the handler panicked: no answer for T"));
}
