//! What the checker finds in broken machines, and that it says nothing about good ones.

#![allow(clippy::unwrap_used)]

use asl::check::{CheckSettings, check, check_with};
use asl::{Machine, Severity};
use serde_json::{Value, json};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:111122223333:function:f";

fn codes(definition: &Value) -> Vec<(&'static str, String)> {
    check(&serde_json::to_string_pretty(definition).unwrap())
        .into_iter()
        .map(|problem| (problem.code, problem.path))
        .collect()
}

/// A JSONata machine with a deadline.
fn machine(states: Value) -> Value {
    let first = states.as_object().unwrap().keys().next().unwrap().clone();
    json!({"QueryLanguage": "JSONata", "StartAt": first, "TimeoutSeconds": 60, "States": states})
}

fn task(extra: Value) -> Value {
    let mut state = json!({"Type": "Task", "Resource": FUNCTION, "TimeoutSeconds": 5, "End": true});
    for (key, value) in extra.as_object().unwrap() {
        match value {
            Value::Null => drop(state.as_object_mut().unwrap().shift_remove(key)),
            value => drop(state.as_object_mut().unwrap().insert(key.clone(), value.clone())),
        }
    }
    state
}

#[test]
fn a_good_machine_has_no_problems() {
    let good = machine(json!({
        "T": task(json!({"End": null, "Next": "C", "Assign": {"x": "{% $states.result.x %}"},
            "Retry": [{"ErrorEquals": ["Recovery.NotYet"], "IntervalSeconds": 5, "MaxAttempts": 60, "BackoffRate": 1}],
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "F", "Output": "{% $states.errorOutput %}"}]})),
        "C": {"Type": "Choice", "Choices": [{"Condition": "{% $x > 1 %}", "Next": "S"}], "Default": "F"},
        "S": {"Type": "Succeed"},
        "F": {"Type": "Fail", "Error": "Recovery.Refused", "Cause": "{% $string($states.input) %}"}
    }));
    assert_eq!(codes(&good), []);
}

#[test]
fn each_mistake_is_found_where_it_stands() {
    let pass = json!({"Type": "Pass", "End": true});
    let cases: Vec<(Value, &str, &str)> = vec![
        (machine(json!({"P": {"Type": "Pass", "Ende": true, "End": true}})), "unknown-field", "/States/P/Ende"),
        (
            machine(json!({"P": {"Type": "Pass", "Parameters": {}, "End": true}})),
            "wrong-language",
            "/States/P/Parameters",
        ),
        (machine(json!({"P": {"Type": "Pass"}})), "missing-next", "/States/P"),
        (machine(json!({"P": {"Type": "Pass", "Next": "Q", "End": true}, "Q": pass})), "conflict", "/States/P/Next"),
        (machine(json!({"P": {"Type": "Pass", "Next": "Nowhere"}})), "missing-target", "/States/P/Next"),
        (machine(json!({"P": pass, "Q": pass})), "unreachable", "/States/Q"),
        (machine(json!({"P": {"Type": "Pass", "Next": "P"}})), "no-end", "/States"),
        (
            machine(
                json!({"C": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input %}", "Next": "L"}], "Default": "E"}, "L": {"Type": "Pass", "Next": "L"}, "E": pass}),
            ),
            "no-way-out",
            "/States/L",
        ),
        (machine(json!({"P": {"Type": "Paß", "End": true}})), "bad-value", "/States/P/Type"),
        (machine(json!({"P": {"End": true}})), "missing-field", "/States/P"),
        (json!({"StartAt": "X", "TimeoutSeconds": 1, "States": {"P": pass}}), "missing-target", "/StartAt"),
        (json!({"TimeoutSeconds": 1, "States": {"P": pass}}), "missing-field", ""),
        (json!({"StartAt": "P", "TimeoutSeconds": 1, "States": {}}), "missing-field", "/States"),
        (json!({"StartAt": "P", "States": {"P": pass}}), "no-deadline", ""),
        (json!([1]), "not-a-machine", ""),
        (machine(json!({"T": task(json!({"TimeoutSeconds": null}))})), "no-deadline", "/States/T"),
        (machine(json!({"T": task(json!({"Resource": null}))})), "missing-field", "/States/T"),
        (machine(json!({"T": task(json!({"Resource": "lambda"}))})), "bad-resource", "/States/T/Resource"),
        (machine(json!({"T": task(json!({"HeartbeatSeconds": 5}))})), "bad-value", "/States/T/HeartbeatSeconds"),
        (machine(json!({"T": task(json!({"TimeoutSeconds": 0}))})), "bad-value", "/States/T/TimeoutSeconds"),
        (machine(json!({"T": task(json!({"TimeoutSeconds": "5"}))})), "bad-value", "/States/T/TimeoutSeconds"),
        (
            machine(
                json!({"T": task(json!({"Resource": "arn:aws:states:::lambda:invoke", "Arguments": {"Payload": 1}}))}),
            ),
            "missing-function",
            "/States/T/Arguments",
        ),
        (
            machine(
                json!({"T": task(json!({"Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "Arguments": {"QueueUrl": "q"}}))}),
            ),
            "lost-token",
            "/States/T",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["States.ALL", "A"]}]}))})),
            "states-all",
            "/States/T/Retry/0/ErrorEquals/0",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["A"]}]}))})),
            "states-all",
            "/States/T/Retry/0/ErrorEquals/0",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["A"]}, {"ErrorEquals": ["A"]}]}))})),
            "unreachable-handler",
            "/States/T/Retry/1/ErrorEquals/0",
        ),
        (
            machine(
                json!({"T": task(json!({"Retry": [{"ErrorEquals": ["States.TaskFailed"]}, {"ErrorEquals": ["Recovery.NotYet"]}]}))}),
            ),
            "unreachable-handler",
            "/States/T/Retry/1/ErrorEquals/0",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["States.Runtime"]}]}))})),
            "unreachable-handler",
            "/States/T/Retry/0/ErrorEquals/0",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": []}]}))})),
            "bad-value",
            "/States/T/Retry/0/ErrorEquals",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["A"], "BackoffRate": 0.5}]}))})),
            "bad-value",
            "/States/T/Retry/0/BackoffRate",
        ),
        (
            machine(
                json!({"T": task(json!({"Retry": [{"ErrorEquals": ["A"], "IntervalSeconds": 10, "MaxDelaySeconds": 10}]}))}),
            ),
            "bad-value",
            "/States/T/Retry/0/MaxDelaySeconds",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["A"], "JitterStrategy": "HALF"}]}))})),
            "bad-value",
            "/States/T/Retry/0/JitterStrategy",
        ),
        (
            machine(json!({"T": task(json!({"Catch": [{"ErrorEquals": ["State.ALL"]}]}))})),
            "missing-next",
            "/States/T/Catch/0",
        ),
        (
            machine(json!({"T": task(json!({"Retry": [{"ErrorEquals": ["States.Timout"]}]}))})),
            "unknown-error",
            "/States/T/Retry/0/ErrorEquals/0",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Output": "{% 1 + %}", "End": true}})),
            "bad-jsonata",
            "/States/P/Output",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Output": {"a": ["{% $states.input ?? 1 %}"]}, "End": true}})),
            "bad-jsonata",
            "/States/P/Output/a/0",
        ),
        (machine(json!({"P": {"Type": "Pass", "Output": "{% $ %}", "End": true}})), "bad-jsonata", "/States/P/Output"),
        (
            machine(json!({"P": {"Type": "Pass", "Output": "{% $states.input", "End": true}})),
            "bad-jsonata",
            "/States/P/Output",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Output": "{% $nosuch(1) %}", "End": true}})),
            "unknown-function",
            "/States/P/Output",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Output": "{% $plan %}", "End": true}})),
            "unassigned-variable",
            "/States/P/Output",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Assign": {"plan": 1}, "End": true}})),
            "unread-variable",
            "/States/P/Assign/plan",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Assign": {"states": 1}, "End": true}})),
            "bad-name",
            "/States/P/Assign/states",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Output": "{% $states.result %}", "End": true}})),
            "missing-result",
            "/States/P/Output",
        ),
        (
            machine(json!({"P": {"Type": "Pass", "Output": "$.a", "End": true}})),
            "not-an-expression",
            "/States/P/Output",
        ),
        (
            machine(
                json!({"C": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input %}", "Next": "P"}]}, "P": pass}),
            ),
            "no-default",
            "/States/C",
        ),
        (machine(json!({"C": {"Type": "Choice", "Choices": []}})), "bad-value", "/States/C/Choices"),
        (
            machine(
                json!({"C": {"Type": "Choice", "Default": "P", "Choices": [{"Condition": true, "Next": "P"}, {"Condition": "{% $states.input %}", "Next": "P"}]}, "P": pass}),
            ),
            "unreachable-rule",
            "/States/C/Choices/1",
        ),
        (machine(json!({"W": {"Type": "Wait", "End": true}})), "missing-field", "/States/W"),
        (
            machine(json!({"W": {"Type": "Wait", "Seconds": 1, "Timestamp": "2026-01-01T00:00:00Z", "End": true}})),
            "conflict",
            "/States/W",
        ),
        (
            machine(json!({"W": {"Type": "Wait", "Timestamp": "tomorrow", "End": true}})),
            "bad-value",
            "/States/W/Timestamp",
        ),
        (machine(json!({"M": {"Type": "Map", "End": true}})), "missing-field", "/States/M"),
        (
            machine(
                json!({"L": {"Type": "Parallel", "Branches": [{"StartAt": "L", "States": {"L": pass}}], "End": true}}),
            ),
            "duplicate-name",
            "/States/L/Branches/0/States/L",
        ),
        (machine(json!({"L": {"Type": "Parallel", "Branches": [], "End": true}})), "bad-value", "/States/L/Branches"),
        (
            json!({"QueryLanguage": "JSONata", "TimeoutSeconds": 1, "StartAt": "P", "States": {"P": {"Type": "Pass", "QueryLanguage": "JSONPath", "End": true}}}),
            "language-mismatch",
            "/States/P/QueryLanguage",
        ),
        (
            json!({"TimeoutSeconds": 1, "StartAt": "P", "States": {"P": {"Type": "Pass", "Parameters": {"a.$": "$.["}, "End": true}}}),
            "bad-path",
            "/States/P/Parameters/a.$",
        ),
        (
            json!({"TimeoutSeconds": 1, "StartAt": "P", "States": {"P": {"Type": "Pass", "Parameters": {"a.$": "States.Nope()"}, "End": true}}}),
            "bad-path",
            "/States/P/Parameters/a.$",
        ),
        (
            json!({"TimeoutSeconds": 1, "StartAt": "P", "States": {"P": {"Type": "Pass", "Parameters": {"a": "$.b"}, "End": true}}}),
            "not-an-expression",
            "/States/P/Parameters/a",
        ),
        (
            json!({"TimeoutSeconds": 1, "StartAt": "P", "States": {"P": {"Type": "Pass", "ResultPath": "$.a[*]", "End": true}}}),
            "bad-path",
            "/States/P/ResultPath",
        ),
        (
            json!({"TimeoutSeconds": 1, "StartAt": "C", "States": {"C": {"Type": "Choice", "Default": "P", "Choices": [{"Variable": "$.a", "StringEqual": "x", "Next": "P"}]}, "P": pass}}),
            "unknown-field",
            "/States/C/Choices/0/StringEqual",
        ),
        (
            json!({"TimeoutSeconds": 1, "StartAt": "C", "States": {"C": {"Type": "Choice", "Default": "P", "Choices": [{"Variable": "$.a", "NumericEquals": "1", "Next": "P"}]}, "P": pass}}),
            "bad-type",
            "/States/C/Choices/0/NumericEquals",
        ),
    ];
    for (definition, code, path) in &cases {
        let found = codes(definition);
        assert!(
            found.iter().any(|(found, at)| found == code && at == path),
            "{code} at {path} is missing in {found:?} of {definition}"
        );
    }
}

#[test]
fn a_problem_says_line_and_column_and_what_to_do() {
    let text = "{\n  \"StartAt\": \"A\",\n  \"TimeoutSeconds\": 1,\n  \"States\": {\n    \"A\": {\"Type\": \"Pass\", \"Nxt\": \"B\", \"End\": true}\n  }\n}";
    let problems = check(text);
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "5:27: error: a Pass state has no field `Nxt`: did you mean `Next`? (/States/A/Nxt)"
    );
    assert!(Machine::parse(text).is_err());
}

#[test]
fn a_key_that_is_there_twice_is_found() {
    let problems = check(
        r#"{"StartAt": "A", "TimeoutSeconds": 1, "States": {"A": {"Type": "Pass", "End": true}, "A": {"Type": "Succeed"}}}"#,
    );
    assert!(problems.iter().any(|problem| problem.code == "duplicate-key"), "{problems:?}");
}

#[test]
fn a_substitution_nobody_fills_is_found_when_it_is_known_what_is_filled() {
    let text = serde_json::to_string_pretty(&machine(
        json!({"T": task(json!({"Resource": "${PlanFunctionArn}", "Arguments": {"b": "${Bucket}"}}))}),
    ))
    .unwrap();
    assert_eq!(check(&text), []);
    let settings = CheckSettings { substitutions: Some(["PlanFunctionArn".to_owned()].into()) };
    let problems = check_with(&text, &settings);
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].code, problems[0].severity), ("unfilled-substitution", Severity::Error));
    assert!(problems[0].message.contains("${Bucket}"));
    // A machine with a hole cannot run.
    assert_eq!(Machine::parse(&text).unwrap_err()[0].code, "unfilled-substitution");
}

#[test]
fn a_variable_is_seen_from_inside_and_not_from_outside() {
    let inner = |output: &str| json!({"StartAt": "I", "States": {"I": {"Type": "Pass", "Assign": {"inner": 1}, "Next": "J"}, "J": {"Type": "Pass", "Output": output, "End": true}}});
    let good = machine(json!({
        "A": {"Type": "Pass", "Assign": {"outer": 1}, "Next": "L"},
        "L": {"Type": "Parallel", "Branches": [inner("{% $outer + $inner %}")], "End": true}
    }));
    assert_eq!(codes(&good), []);
    let bad = machine(json!({
        "L": {"Type": "Parallel", "Branches": [inner("{% $inner %}")], "Next": "B"},
        "B": {"Type": "Pass", "Output": "{% $inner %}", "End": true}
    }));
    assert_eq!(codes(&bad), [("unassigned-variable", "/States/B/Output".to_owned())]);
}
