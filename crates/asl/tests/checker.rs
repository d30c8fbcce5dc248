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

/// A machine with one mistake, and what is to be said about it; `bench/checkers` gives the same ones to others.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Broken {
    mistake: String,
    definition: Option<Value>,
    /// Instead of a definition, what is no JSON or cannot be told by it.
    text: Option<String>,
    code: String,
    path: String,
}

#[test]
fn each_mistake_is_found_where_it_stands() {
    let cases: Vec<Broken> = serde_json::from_str(include_str!("broken_machines.json")).unwrap();
    let mut missed = Vec::new();
    for case in &cases {
        let text = case.text.clone().unwrap_or_else(|| serde_json::to_string_pretty(&case.definition).unwrap());
        let found = check(&text);
        if !found.iter().any(|problem| problem.code == case.code && problem.path == case.path) {
            let said: Vec<String> = found.iter().map(|problem| format!("{} {problem}", problem.code)).collect();
            missed.push(format!("{}: no {} at {}, but {said:#?}", case.mistake, case.code, case.path));
        }
    }
    assert!(missed.is_empty(), "{} of {}\n{}", missed.len(), cases.len(), missed.join("\n"));
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
