//! What JSONPath machines do: the six fields that move data, paths to numbers and times, choices, and their errors.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use asl::{
    Execution, ExecutionOutcome, ExecutionStatus, HistoryEvent, Machine, Settings, TaskCall, TaskHandler, TaskOutcome,
    VirtualClock,
};
use async_trait::async_trait;
use serde_json::{Value, json};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:111122223333:function:f";

/// Answers every call with the same outcome and keeps what it was given.
struct Always(TaskOutcome, Mutex<Vec<Value>>);

impl Always {
    fn answer(value: Value) -> Always {
        Always(TaskOutcome::success(value), Mutex::default())
    }

    fn fail(error: &str) -> Always {
        Always(TaskOutcome::failure(error, "because"), Mutex::default())
    }
}

#[async_trait]
impl TaskHandler for Always {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        self.1.lock().unwrap().push(call.payload.value().clone());
        self.0.clone()
    }
}

async fn run_with(states: Value, input: Value, handler: &Always) -> (ExecutionOutcome, Vec<HistoryEvent>) {
    let first = states.as_object().unwrap().keys().next().unwrap().clone();
    let definition = json!({"StartAt": first, "States": states}).to_string();
    let machine = Machine::parse(&definition).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let clock = VirtualClock::at("2026-01-02T03:04:05.678Z".parse().unwrap());
    let mut events = Vec::new();
    let execution =
        Execution::start(Arc::new(machine), input, Settings::new("us-east-1", "111122223333", "Machine", "run"));
    let outcome = execution.run(handler, &clock, &mut events).await.unwrap();
    (outcome, events)
}

/// The output of a machine that succeeds.
async fn output(states: Value, input: Value) -> Value {
    let (outcome, _) = run_with(states, input, &Always::answer(json!({"answer": [1, 2]}))).await;
    assert_eq!(outcome.status, ExecutionStatus::Succeeded, "{outcome:?}");
    outcome.output.unwrap().into_value()
}

/// Error and cause of a machine that fails.
async fn failure(states: Value, input: Value) -> (String, String) {
    let (outcome, events) = run_with(states, input, &Always::answer(json!({"answer": [1, 2]}))).await;
    assert_eq!(outcome.status, ExecutionStatus::Failed, "{outcome:?}");
    let last = events.last().unwrap();
    assert_eq!((last.event_type.as_str(), last.previous_event_id), ("ExecutionFailed", last.id - 1));
    (outcome.error.unwrap_or_default(), outcome.cause.unwrap_or_default())
}

#[tokio::test]
async fn data_goes_through_the_six_fields_in_their_order() {
    let handler = Always::answer(json!({"answer": [1, 2], "noise": true}));
    let states = json!({"T": {
        "Type": "Task", "Resource": FUNCTION,
        "InputPath": "$.order",
        "Parameters": {"id.$": "$.id", "who.$": "$$.Execution.Name", "fixed": {"a": ["$.id"]}, "text.$": "States.Format('#{}', $.id)"},
        "ResultSelector": {"first.$": "$.answer[0]", "all.$": "$.answer"},
        "ResultPath": "$.order.result",
        "OutputPath": "$.order",
        "End": true
    }});
    let (outcome, _) = run_with(states, json!({"order": {"id": 7}, "other": 1}), &handler).await;
    assert_eq!(handler.1.lock().unwrap()[0], json!({"id": 7, "who": "run", "fixed": {"a": ["$.id"]}, "text": "#7"}));
    assert_eq!(outcome.output.unwrap().value(), &json!({"id": 7, "result": {"first": 1, "all": [1, 2]}}));
}

#[tokio::test]
async fn null_paths_give_an_empty_input_an_empty_output_and_no_result() {
    let states = json!({"P": {"Type": "Pass", "InputPath": null, "Parameters": {"in.$": "$"}, "End": true}});
    assert_eq!(output(states, json!({"a": 1})).await, json!({"in": {}}));
    let states = json!({"P": {"Type": "Pass", "OutputPath": null, "End": true}});
    assert_eq!(output(states, json!({"a": 1})).await, json!({}));
    let states =
        json!({"T": {"Type": "Task", "Resource": FUNCTION, "InputPath": "$.a", "ResultPath": null, "End": true}});
    assert_eq!(output(states, json!({"a": 1})).await, json!({"a": 1}));
}

#[tokio::test]
async fn a_pass_hands_on_its_result_its_parameters_or_its_input() {
    let states = json!({"P": {"Type": "Pass", "Result": {"x.$": "$.a"}, "ResultPath": "$.r", "End": true}});
    assert_eq!(output(states, json!({"a": 1})).await, json!({"a": 1, "r": {"x.$": "$.a"}}));
    let states = json!({"P": {"Type": "Pass", "InputPath": "$.a", "ResultPath": "$.copy", "End": true}});
    assert_eq!(output(states, json!({"a": 1})).await, json!({"a": 1, "copy": 1}));
}

#[tokio::test]
async fn variables_are_assigned_from_the_result_and_read_by_every_field() {
    let states = json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "Assign": {"list.$": "$.answer", "limit": 2, "name.$": "$$.State.Name"}, "ResultPath": null, "Next": "C"},
        "C": {"Type": "Choice", "Choices": [{"Variable": "$list[1]", "NumericEqualsPath": "$limit", "Next": "M", "Assign": {"chosen": true}}], "Default": "F"},
        "M": {"Type": "Map", "ItemsPath": "$list", "MaxConcurrencyPath": "$limit", "ItemSelector": {"v.$": "$$.Map.Item.Value", "i.$": "$$.Map.Item.Index", "n.$": "$name"},
              "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Pass", "Parameters": {"in.$": "$", "chosen.$": "$chosen"}, "End": true}}}, "End": true},
        "F": {"Type": "Fail"}
    });
    assert_eq!(
        output(states, json!({})).await,
        json!([{"in": {"v": 1, "i": 0, "n": "T"}, "chosen": true}, {"in": {"v": 2, "i": 1, "n": "T"}, "chosen": true}])
    );
}

#[tokio::test]
async fn a_parallel_gives_its_parameters_to_each_branch_and_places_the_list_of_results() {
    let branch = |name: &str, path: &str| json!({"StartAt": name, "States": {name: {"Type": "Pass", "InputPath": path, "End": true}}});
    let states = json!({"L": {"Type": "Parallel", "Parameters": {"a.$": "$.x", "b": 2}, "Branches": [branch("A", "$.a"), branch("B", "$.b")],
        "ResultSelector": {"both.$": "$"}, "ResultPath": "$.out", "End": true}});
    assert_eq!(output(states, json!({"x": 1})).await, json!({"x": 1, "out": {"both": [1, 2]}}));
}

#[tokio::test]
async fn a_caught_error_is_placed_into_the_raw_input() {
    let handler = Always::fail("E");
    let states = json!({
        "T": {"Type": "Task", "Resource": FUNCTION, "InputPath": "$.a", "Catch": [{"ErrorEquals": ["E"], "ResultPath": "$.error", "Assign": {"name.$": "$.Error"}, "Next": "P"}], "End": true},
        "P": {"Type": "Pass", "Parameters": {"in.$": "$", "name.$": "$name"}, "End": true}
    });
    let (outcome, _) = run_with(states, json!({"a": 1}), &handler).await;
    assert_eq!(
        outcome.output.unwrap().value(),
        &json!({"in": {"a": 1, "error": {"Error": "E", "Cause": "because"}}, "name": "E"})
    );
}

#[tokio::test]
async fn what_a_path_does_not_find_ends_the_execution_and_is_not_caught() {
    let start = "An error occurred while executing the state 'S' (entered at the event id #2). ";
    let catch = json!([{"ErrorEquals": ["States.ALL"], "Next": "S"}]);
    for (state, input, cause) in [
        (
            json!({"Type": "Pass", "Parameters": {"v.$": "$.none"}, "End": true}),
            json!({"a": 1}),
            "The JSONPath '$.none' specified for the field 'v.$' could not be found in the input '{\"a\":1}'",
        ),
        (
            json!({"Type": "Pass", "InputPath": "$.a.b", "End": true}),
            json!({"a": 1}),
            "Invalid path '$.a.b' : No results for path: $['a']['b']",
        ),
        (
            json!({"Type": "Pass", "InputPath": "$.none.b", "End": true}),
            json!({"a": 1}),
            "Invalid path '$.none.b' : Missing property in path $['none']",
        ),
        (
            json!({"Type": "Pass", "OutputPath": "$.b", "End": true}),
            json!({"a": 1}),
            "Invalid path '$.b' : No results for path: $['b']",
        ),
        (
            json!({"Type": "Pass", "Parameters": {"v.$": "States.Format('{}', States.Format('{}', $.none))"}, "End": true}),
            json!({}),
            "The function 'States.Format('{}', States.Format('{}', $.none))' had the following error: The JsonPath argument for the field '$.none' could not be found in the input '{}'",
        ),
        (
            json!({"Type": "Choice", "Choices": [{"Variable": "$.none", "IsNull": true, "Next": "S"}], "Default": "S"}),
            json!({}),
            "Invalid path '$.none': The choice state's condition path references an invalid value.",
        ),
        (
            json!({"Type": "Wait", "SecondsPath": "$.none", "End": true}),
            json!({}),
            "The SecondsPath parameter does not reference an input value: $.none",
        ),
        (
            json!({"Type": "Wait", "SecondsPath": "$.s", "End": true}),
            json!({"s": -1}),
            "The SecondsPath parameter references a negative value: $.s == -1",
        ),
        (
            json!({"Type": "Wait", "SecondsPath": "$.s", "End": true}),
            json!({"s": 1.5}),
            "The SecondsPath parameter cannot be parsed as a long value: $.s == 1.5",
        ),
        (
            json!({"Type": "Wait", "TimestampPath": "$.t", "End": true}),
            json!({"t": "soon"}),
            "The TimestampPath parameter does not reference a valid ISO-8601 extended offset date-time format string: $.t == soon",
        ),
        (
            json!({"Type": "Fail", "ErrorPath": "$.none"}),
            json!({}),
            "The JSONPath '$.none' specified for the field 'ErrorPath' could not be found in the input '{}'",
        ),
        (
            json!({"Type": "Task", "Resource": FUNCTION, "TimeoutSecondsPath": "$.none", "Catch": catch, "Next": "S"}),
            json!({}),
            "Invalid path '$.none' : No results for path: $['none']",
        ),
        (
            json!({"Type": "Map", "ItemsPath": "$.a", "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Succeed"}}}, "Catch": catch, "Next": "S"}),
            json!({"a": 1}),
            "Reference path \"$.a\" must point to array.",
        ),
        (
            json!({"Type": "Map", "MaxConcurrencyPath": "$[0]", "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Succeed"}}}, "Catch": catch, "Next": "S"}),
            json!(["x"]),
            "The MaxConcurrencyPath field refers to value \"x\" which is not a valid integer: $[0]",
        ),
    ] {
        // A state that only leads to itself needs a way out to be accepted.
        let mut states = json!({"S": state, "Out": {"Type": "Succeed"}});
        if states["S"]["Type"] == "Choice" {
            states["S"]["Default"] = json!("Out");
        } else if states["S"].get("Next").is_some() {
            states["S"]["Next"] = json!("Out");
        } else {
            states.as_object_mut().unwrap().shift_remove("Out");
        }
        let (error, found) = failure(states, input).await;
        assert_eq!((error.as_str(), found), ("States.Runtime", format!("{start}{cause}")));
    }
}

#[tokio::test]
async fn an_index_past_the_end_is_null_in_a_template_and_nowhere_else() {
    let states = json!({"P": {"Type": "Pass", "Parameters": {"v.$": "$.list[5]"}, "End": true}});
    assert_eq!(output(states, json!({"list": [1]})).await, json!({"v": null}));
    let states = json!({"P": {"Type": "Pass", "Parameters": {"v.$": "States.Format('{}', $.list[5])"}, "End": true}});
    assert_eq!(failure(states, json!({"list": [1]})).await.0, "States.Runtime");
}

#[tokio::test]
async fn a_failed_function_and_a_result_without_a_place_can_be_caught_by_name() {
    let caught = |state: Value, error: &str| {
        let mut states = json!({"T": state, "P": {"Type": "Pass", "Parameters": {"error.$": "$.Error"}, "End": true}});
        states["T"]["Catch"] = json!([{"ErrorEquals": [error], "Next": "P"}]);
        states
    };
    let states = caught(
        json!({"Type": "Task", "Resource": FUNCTION, "Parameters": {"v.$": "States.StringToJson('{')"}, "End": true}),
        "States.IntrinsicFailure",
    );
    assert_eq!(output(states, json!({})).await, json!({"error": "States.IntrinsicFailure"}));
    let states = caught(
        json!({"Type": "Task", "Resource": FUNCTION, "ResultPath": "$.a.b", "End": true}),
        "States.ResultPathMatchFailure",
    );
    assert_eq!(output(states, json!({"a": [1]})).await, json!({"error": "States.ResultPathMatchFailure"}));
}

#[tokio::test]
async fn retries_and_timeouts_take_their_numbers_from_paths() {
    struct Never;
    #[async_trait]
    impl TaskHandler for Never {
        async fn invoke(&self, _call: TaskCall) -> TaskOutcome {
            std::future::pending().await
        }
    }
    let definition = json!({"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": FUNCTION, "TimeoutSecondsPath": "$.limit",
        "Retry": [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 10, "MaxAttempts": 1}], "End": true}}});
    let machine = Arc::new(Machine::parse(&definition.to_string()).unwrap());
    let clock = VirtualClock::at("2026-01-02T03:04:05Z".parse().unwrap());
    let mut events: Vec<HistoryEvent> = Vec::new();
    let execution =
        Execution::start(machine, json!({"limit": "30"}), Settings::new("us-east-1", "111122223333", "M", "r"));
    let outcome = execution.run(&Never, &clock, &mut events).await.unwrap();
    assert_eq!(outcome.error.as_deref(), Some("States.Timeout"));
    assert_eq!(asl::Clock::now(&clock), "2026-01-02T03:05:15Z".parse().unwrap());
}

#[tokio::test]
async fn a_jsonata_state_stands_in_a_jsonpath_machine_and_shares_its_variables() {
    let states = json!({
        "A": {"Type": "Pass", "Assign": {"n.$": "$.n"}, "Next": "B"},
        "B": {"Type": "Pass", "QueryLanguage": "JSONata", "Assign": {"m": "{% $n + 1 %}"}, "Output": {"half": "{% $n / 2 %}"}, "Next": "C"},
        "C": {"Type": "Pass", "Parameters": {"half.$": "$.half", "m.$": "$m"}, "End": true}
    });
    assert_eq!(output(states, json!({"n": 3})).await, json!({"half": 1.5, "m": 4}));
}

#[tokio::test]
async fn an_iterator_with_parameters_is_the_old_name_of_a_processor_with_a_selector() {
    let states = json!({"M": {"Type": "Map", "ItemsPath": "$.list", "Parameters": {"v.$": "$$.Map.Item.Value", "k.$": "$.k"},
        "Iterator": {"StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}}, "ResultPath": "$.out", "OutputPath": "$.out", "End": true}});
    assert_eq!(output(states, json!({"list": ["a"], "k": 1})).await, json!([{"v": "a", "k": 1}]));
}

#[tokio::test]
async fn an_error_in_a_nested_map_is_caught_where_somebody_is_ready_for_it() {
    let inner = json!({"Type": "Map", "ItemProcessor": {"StartAt": "Each", "States": {
        "Each": {"Type": "Choice", "Choices": [{"Variable": "$", "NumericGreaterThan": 2, "Next": "Bad"}], "Default": "Good"},
        "Bad": {"Type": "Fail", "Error": "TooMuch"}, "Good": {"Type": "Succeed"}}},
        "Catch": [{"ErrorEquals": ["TooMuch"], "ResultPath": null, "Next": "Sorry"}], "End": true});
    let states = json!({"Outer": {"Type": "Map", "ItemProcessor": {"StartAt": "Inner", "States": {"Inner": inner, "Sorry": {"Type": "Pass", "Result": "sorry", "End": true}}}, "End": true}});
    assert_eq!(output(states, json!([[1, 2], [2, 3], []])).await, json!([[1, 2], "sorry", []]));
}
