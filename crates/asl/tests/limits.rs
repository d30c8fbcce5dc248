//! The limits of Step Functions, each reached and just not reached: sizes, events, times, and which error comes first.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use asl::{
    Execution, ExecutionOutcome, ExecutionStatus, HistoryEvent, Machine, Settings, TaskCall, TaskHandler, TaskOutcome,
    VirtualClock,
};
use async_trait::async_trait;
use serde_json::{Value, json};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:111122223333:function:f";
/// The most bytes of a document.
const MOST: usize = 262_144;

/// Answers every call with the same outcome, never if there is none, and keeps when it was asked.
struct Always {
    outcome: Option<TaskOutcome>,
    clock: VirtualClock,
    asked_at: Mutex<Vec<jiff::Timestamp>>,
}

#[async_trait]
impl TaskHandler for Always {
    async fn invoke(&self, _call: TaskCall) -> TaskOutcome {
        self.asked_at.lock().unwrap().push(asl::Clock::now(&self.clock));
        match &self.outcome {
            Some(outcome) => outcome.clone(),
            None => std::future::pending().await,
        }
    }
}

struct Run {
    outcome: ExecutionOutcome,
    events: Vec<HistoryEvent>,
    /// Seconds between calls.
    pauses: Vec<f64>,
    seconds: f64,
}

impl Run {
    fn error(&self) -> Option<&str> {
        self.outcome.error.as_deref()
    }

    fn succeeded(&self) -> bool {
        self.outcome.status == ExecutionStatus::Succeeded
    }
}

async fn run_seeded(definition: Value, input: Value, answer: Option<TaskOutcome>, seed: u64) -> Run {
    let machine = Machine::parse(&definition.to_string()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let start = "2026-01-02T03:04:05Z".parse().unwrap();
    let clock = VirtualClock::at(start);
    let handler = Always { outcome: answer, clock: clock.clone(), asked_at: Mutex::default() };
    let mut settings = Settings::new("us-east-1", "111122223333", "Machine", "run");
    settings.seed = seed;
    let mut events = Vec::new();
    let execution = Execution::start(Arc::new(machine), input, settings);
    let outcome = execution.run(&handler, &clock, &mut events).await.unwrap();
    let asked = handler.asked_at.into_inner().unwrap();
    let pauses = asked.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).collect();
    Run { outcome, events, pauses, seconds: asl::Clock::now(&clock).duration_since(start).as_secs_f64() }
}

async fn run(definition: Value, input: Value, answer: Option<TaskOutcome>) -> Run {
    run_seeded(definition, input, answer, 1).await
}

fn machine(states: Value) -> Value {
    let first = states.as_object().unwrap().keys().next().unwrap().clone();
    json!({"QueryLanguage": "JSONata", "StartAt": first, "States": states})
}

/// A text that takes this many bytes as JSON, in letters of two bytes each and one of one, if need be.
fn text_of(bytes: usize) -> Value {
    let letters = bytes - 2;
    Value::from("ü".repeat(letters / 2) + &"x".repeat(letters % 2))
}

fn caught(mut state: Value, at: &str) -> Value {
    state["Catch"] = json!([{"ErrorEquals": ["States.ALL"], "Output": "caught", "Next": "Caught"}]);
    state["Next"] = json!("Caught");
    machine(json!({at: state, "Caught": {"Type": "Succeed"}}))
}

#[tokio::test]
async fn two_hundred_and_fifty_six_kib_fit_everywhere_and_a_byte_more_nowhere() {
    let pass = |name: &str| json!({"StartAt": name, "States": {name: {"Type": "Pass", "Output": 1, "End": true}}});
    // A definition, a function from bytes to what it is given, and how the extra byte ends it: caught, or for good.
    type Given = fn(usize) -> (Value, Option<TaskOutcome>);
    let input: Given = |bytes| (json!({"text": text_of(bytes)}), None);
    let answer: Given = |bytes| (json!({}), Some(TaskOutcome::success(text_of(bytes))));
    let echo: Given = |bytes| (json!({"text": text_of(bytes)}), Some(TaskOutcome::success(json!(1))));
    let places: Vec<(&str, Value, Given, bool)> = vec![
        (
            "output",
            machine(json!({"P": {"Type": "Pass", "Output": "{% $states.input.text %}", "End": true}})),
            input,
            false,
        ),
        (
            "arguments of a Task",
            caught(json!({"Type": "Task", "Resource": FUNCTION, "Arguments": "{% $states.input.text %}"}), "T"),
            echo,
            false,
        ),
        ("result of a Task", caught(json!({"Type": "Task", "Resource": FUNCTION}), "T"), answer, true),
        (
            "arguments of a Parallel",
            caught(json!({"Type": "Parallel", "Arguments": "{% $states.input.text %}", "Branches": [pass("A")]}), "L"),
            input,
            false,
        ),
        (
            "input of an iteration",
            caught(
                json!({"Type": "Map", "Items": [1], "ItemSelector": "{% $states.input.text %}", "ItemProcessor": pass("I")}),
                "M",
            ),
            input,
            false,
        ),
        (
            "a variable",
            machine(
                json!({"P": {"Type": "Pass", "Assign": {"v": "{% $states.input.text %}"}, "Output": 1, "End": true}}),
            ),
            input,
            false,
        ),
    ];
    for (place, definition, given, is_caught) in places {
        let (document, outcome) = given(MOST);
        let fits = run(definition.clone(), document, outcome).await;
        assert!(fits.succeeded(), "{place}: {:?}", fits.outcome);
        let (document, outcome) = given(MOST + 1);
        let over = run(definition, document, outcome).await;
        if is_caught {
            assert_eq!(over.outcome.output.as_ref().unwrap().value(), &json!("caught"), "{place}");
        } else {
            assert_eq!(over.error(), Some("States.DataLimitExceeded"), "{place}: {:?}", over.outcome.status);
        }
    }
}

#[tokio::test]
async fn what_branches_and_iterations_give_together_is_a_result_that_can_be_caught() {
    let half = |name: &str| json!({"StartAt": name, "States": {name: {"Type": "Pass", "Output": "{% $states.input.text %}", "End": true}}});
    // Two texts, their comma and the brackets.
    let bytes = |total: usize| (total - 3) / 2;
    let parallel = caught(json!({"Type": "Parallel", "Branches": [half("A"), half("B")], "Output": "fits"}), "L");
    let map = caught(
        json!({"Type": "Map", "Items": [1, 2], "ItemSelector": "{% $states.input %}", "ItemProcessor": half("I"), "Output": "fits"}),
        "M",
    );
    for definition in [parallel, map] {
        let fits = run(definition.clone(), json!({"text": text_of(bytes(MOST - 1))}), None).await;
        assert_eq!(fits.outcome.output.unwrap().value(), &json!("fits"));
        let over = run(definition, json!({"text": text_of(bytes(MOST - 1) + 1)}), None).await;
        assert_eq!(over.outcome.output.unwrap().value(), &json!("caught"));
    }
}

#[tokio::test]
async fn variables_may_have_ten_mib_together_and_a_scope_gives_back_its_own() {
    let assign = |times: u64| {
        machine(json!({
            "P": {"Type": "Pass", "Assign": {"n": 0}, "Next": "C"},
            "C": {"Type": "Choice", "Choices": [{"Condition": format!("{{% $n < {times} %}}"), "Next": "L"}], "Default": "S"},
            "L": {"Type": "Parallel", "Next": "N", "Output": {"text": "{% $states.input.text %}"}, "Branches": [{"StartAt": "A", "States": {
                "A": {"Type": "Pass", "Assign": {"inner": "{% $states.input.text %}"}, "Output": 1, "End": true}}}]},
            "N": {"Type": "Pass", "Assign": {"n": "{% $n + 1 %}"}, "Next": "C"},
            "S": {"Type": "Succeed", "Output": "{% $n %}"}
        }))
    };
    // Fifty times 256 KiB one after the other, never more than once at a time.
    let run_of_scopes = run(assign(50), json!({"text": text_of(200_000)}), None).await;
    assert_eq!(run_of_scopes.outcome.output.unwrap().value(), &json!(50));

    let mut states = serde_json::Map::new();
    for index in 0..45 {
        let next = if index == 44 { json!({"End": true}) } else { json!({"Next": format!("P{}", index + 1)}) };
        let mut state = json!({"Type": "Pass", "Assign": {format!("v{index}"): "{% $states.input %}"}});
        state.as_object_mut().unwrap().extend(next.as_object().unwrap().clone());
        states.insert(format!("P{index}"), state);
    }
    let many = run(machine(Value::Object(states)), text_of(250_000), None).await;
    assert_eq!(many.error(), Some("States.DataLimitExceeded"));
    assert!(many.outcome.cause.unwrap().contains("'P41'"), "forty-one times 250,000 bytes fit, forty-two do not");
}

#[tokio::test]
async fn event_twenty_five_thousand_is_the_failure() {
    let definition = machine(json!({
        "P": {"Type": "Pass", "Next": "C"},
        "C": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input.stop %}", "Next": "S"}], "Default": "P"},
        "S": {"Type": "Succeed"}
    }));
    let run = run(definition, json!({"stop": false}), None).await;
    let last = run.events.last().unwrap();
    assert_eq!((last.id, last.event_type.as_str()), (25_000, "ExecutionFailed"));
    assert_eq!(run.error(), Some("States.Runtime"));
    assert_eq!(
        run.outcome.cause.as_deref(),
        Some("The execution reached the maximum number of history events (25000).")
    );
}

#[tokio::test]
async fn an_execution_ends_after_a_year_whatever_its_machine_says() {
    const YEAR: f64 = 31_536_000.0;
    let mut definition = machine(json!({"W": {"Type": "Wait", "Seconds": 99_999_999, "End": true}}));
    let silent = run(definition.clone(), json!({}), None).await;
    assert_eq!((silent.outcome.status, silent.seconds), (ExecutionStatus::TimedOut, YEAR));
    definition["TimeoutSeconds"] = json!(99_999_999);
    assert_eq!(run(definition, json!({}), None).await.seconds, YEAR);
}

fn retried(retrier: Value) -> Value {
    machine(json!({"T": {"Type": "Task", "Resource": FUNCTION, "Retry": [retrier], "End": true}}))
}

#[tokio::test]
async fn a_delay_grows_to_its_maximum_and_stays_there() {
    let fails = || Some(TaskOutcome::failure("E", "why"));
    let retrier = json!({"ErrorEquals": ["E"], "IntervalSeconds": 3, "BackoffRate": 2.5, "MaxDelaySeconds": 20, "MaxAttempts": 5});
    assert_eq!(run(retried(retrier), json!({}), fails()).await.pauses, [3.0, 7.5, 18.75, 20.0, 20.0]);
    let defaults = json!({"ErrorEquals": ["E"]});
    assert_eq!(run(retried(defaults), json!({}), fails()).await.pauses, [1.0, 2.0, 4.0]);
    let forever = json!({"ErrorEquals": ["E"], "BackoffRate": 1000, "MaxAttempts": 8, "MaxDelaySeconds": 31_622_400});
    let mut definition = retried(forever);
    definition["TimeoutSeconds"] = json!(99_999_999);
    assert_eq!(run(definition, json!({}), fails()).await.outcome.status, ExecutionStatus::TimedOut);
}

#[tokio::test]
async fn full_jitter_spreads_each_delay_over_its_whole_length() {
    let fails = || Some(TaskOutcome::failure("E", "why"));
    let retrier = json!({"ErrorEquals": ["E"], "IntervalSeconds": 8, "BackoffRate": 2, "MaxDelaySeconds": 20, "MaxAttempts": 3, "JitterStrategy": "FULL"});
    let (mut least, mut most) = ([f64::MAX; 3], [0.0; 3]);
    for seed in 0..200 {
        let pauses = run_seeded(retried(retrier.clone()), json!({}), fails(), seed).await.pauses;
        for (index, pause) in pauses.into_iter().enumerate() {
            least[index] = f64::min(least[index], pause);
            most[index] = f64::max(most[index], pause);
        }
    }
    for (index, delay) in [8.0, 16.0, 20.0].into_iter().enumerate() {
        assert!(most[index] <= delay, "attempt {index} waited {} s", most[index]);
        assert!(least[index] < delay * 0.1 && most[index] > delay * 0.9, "{} to {}", least[index], most[index]);
    }
    let mut none = retrier;
    none["JitterStrategy"] = json!("NONE");
    assert_eq!(run(retried(none), json!({}), fails()).await.pauses, [8.0, 16.0, 20.0]);
}

#[tokio::test]
async fn errors_are_matched_by_name_in_the_order_of_the_rules() {
    let rules = |names: &[&str]| {
        let catch: Vec<Value> =
            names.iter().map(|name| json!({"ErrorEquals": [name], "Output": name, "Next": "Caught"})).collect();
        machine(json!({
            "T": {"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": 5, "Catch": catch, "Next": "Caught"},
            "Caught": {"Type": "Succeed"}
        }))
    };
    let fails = |name: &str| Some(TaskOutcome::failure(name, "why"));
    let table: Vec<(&[&str], Option<TaskOutcome>, &str)> = vec![
        // The first rule that matches, not the one that matches best.
        (&["States.TaskFailed", "E"], fails("E"), "States.TaskFailed"),
        (&["E", "States.TaskFailed", "States.ALL"], fails("E"), "E"),
        (&["States.TaskFailed", "States.ALL"], fails("Lambda.ServiceException"), "States.TaskFailed"),
        // A deadline is no failed task.
        (&["States.TaskFailed", "States.Timeout", "States.ALL"], None, "States.Timeout"),
        (&["States.TaskFailed", "States.ALL"], None, "States.ALL"),
        (&["States.HeartbeatTimeout", "States.ALL"], None, "States.ALL"),
        // A function's own deadline is.
        (&["States.Timeout", "States.TaskFailed"], fails("Sandbox.Timedout"), "States.TaskFailed"),
        (&["States.Timeout", "Sandbox.Timedout"], fails("Sandbox.Timedout"), "Sandbox.Timedout"),
        // Names are compared whole and exactly.
        (&["e", "E2", "States.ALL"], fails("E"), "States.ALL"),
        (
            &["Lambda", "Lambda.TooManyRequestsException"],
            fails("Lambda.TooManyRequestsException"),
            "Lambda.TooManyRequestsException",
        ),
        (&["States.Permissions", "States.ALL"], fails("States.Permissions"), "States.Permissions"),
    ];
    for (names, answer, expected) in table {
        let run = run(rules(names), json!({}), answer).await;
        assert_eq!(run.outcome.output.as_ref().map(|output| output.value()), Some(&json!(expected)), "{names:?}");
    }
    // No rule: the state fails with its own error.
    assert_eq!(run(rules(&["Other"]), json!({}), fails("E")).await.error(), Some("E"));
    assert_eq!(run(rules(&["States.TaskFailed"]), json!({}), None).await.error(), Some("States.Timeout"));
}

#[tokio::test]
async fn retriers_come_before_catchers_and_a_used_up_retrier_stops_the_search() {
    let definition = |retry: Value| {
        machine(json!({
            "T": {"Type": "Task", "Resource": FUNCTION, "Retry": retry, "Catch": [{"ErrorEquals": ["States.ALL"], "Output": "caught", "Next": "Caught"}], "Next": "Caught"},
            "Caught": {"Type": "Succeed"}
        }))
    };
    let fails = || Some(TaskOutcome::failure("E", "why"));
    let first = json!([{"ErrorEquals": ["E"], "MaxAttempts": 1}, {"ErrorEquals": ["States.ALL"], "MaxAttempts": 5}]);
    let run_of_two = run(definition(first), json!({}), fails()).await;
    assert_eq!((run_of_two.pauses.len(), run_of_two.outcome.output.unwrap().value()), (1, &json!("caught")));
    let other = json!([{"ErrorEquals": ["F"]}, {"ErrorEquals": ["States.ALL"], "MaxAttempts": 2}]);
    assert_eq!(run(definition(other), json!({}), fails()).await.pauses.len(), 2);
}

#[tokio::test]
async fn nothing_catches_a_runtime_error_wherever_it_happens() {
    let broken = json!({"StartAt": "B", "States": {"B": {"Type": "Pass", "QueryLanguage": "JSONPath", "InputPath": "$.missing", "End": true}}});
    for state in [
        json!({"Type": "Parallel", "Branches": [broken]}),
        json!({"Type": "Map", "ItemProcessor": broken}),
        json!({"Type": "Task", "Resource": FUNCTION, "Parameters": {"x.$": "$.missing"}}),
    ] {
        let mut state = state;
        for rule in ["Retry", "Catch"] {
            state[rule] = json!([{"ErrorEquals": ["States.ALL"]}]);
        }
        state["Catch"][0]["Next"] = json!("Caught");
        state["Next"] = json!("Caught");
        let definition = json!({"StartAt": "S", "States": {"S": state, "Caught": {"Type": "Succeed"}}});
        let run = run(definition, json!([{}]), Some(TaskOutcome::success(json!({})))).await;
        assert_eq!(run.error(), Some("States.Runtime"));
        assert_eq!(run.events.last().unwrap().event_type.as_str(), "ExecutionFailed");
    }
}

#[test]
fn a_definition_has_at_most_a_mebibyte() {
    let definition = |bytes: usize| {
        let empty = json!({"Comment": "", "StartAt": "P", "States": {"P": {"Type": "Pass", "End": true}}}).to_string();
        empty.replacen("\"\"", &format!("\"{}\"", "x".repeat(bytes - empty.len())), 1)
    };
    assert!(Machine::parse(&definition(1_048_576)).is_ok());
    assert_eq!(Machine::parse(&definition(1_048_577)).unwrap_err()[0].code, "too-large");
}
