//! Our JSONata against the reference implementation in the version that Step Functions runs.
//!
//! `jsonata_reference.json` holds expressions of ours and what `jsonata` 2.0.6 from npm gave for each, over one input. To
//! renew it, evaluate each expression with `$states` bound and no root document, and write down the value, `undefined`,
//! `function`, or the code of the error.

#![allow(clippy::unwrap_used)]

use asl::jsonata::{Bindings, EvaluationError, Expression, Surroundings};
use asl::random::Random;
use serde_json::{Value, json};

struct Fixed {
    input: Value,
    context: Value,
}

impl Bindings for Fixed {
    fn input(&self) -> &Value {
        &self.input
    }
    fn context(&self) -> &Value {
        &self.context
    }
    fn result(&self) -> Option<&Value> {
        None
    }
    fn error_output(&self) -> Option<&Value> {
        None
    }
    fn variable(&self, _name: &str) -> Option<&Value> {
        None
    }
}

/// Where the engine underneath is known to differ, and why it does not matter here.
const KNOWN: [(&str, &str); 1] =
    [("$string($states.input.big)", "whole numbers beyond 2^53 are written with 17 digits instead of 15")];

/// Equality in which numbers are doubles, as they are in JSONata.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn expressions_give_what_the_reference_gives() {
    let reference: Value = serde_json::from_str(include_str!("jsonata_reference.json")).unwrap();
    let fixed = Fixed { input: reference["input"].clone(), context: json!({"x": 1}) };
    let mut differences = Vec::new();
    for case in reference["cases"].as_array().unwrap() {
        let source = case["expression"].as_str().unwrap();
        let expression = match Expression::parse(source) {
            Ok(expression) => expression,
            Err(why) => {
                differences.push(format!("{source}: refused: {why}"));
                continue;
            }
        };
        let mut random = Random::seeded(1);
        let found = expression.evaluate(&fixed, Surroundings { now: jiff::Timestamp::UNIX_EPOCH, random: &mut random });
        let agrees = match &found {
            Ok(value) => case.get("value").is_some_and(|expected| same(expected, value)),
            Err(EvaluationError::Undefined) => case.get("undefined").is_some(),
            Err(EvaluationError::Function) => case.get("function").is_some(),
            Err(EvaluationError::Thrown(message)) => {
                case.get("error").and_then(Value::as_str).is_some_and(|code| message.starts_with(code))
            }
            Err(EvaluationError::Exhausted(_)) => false,
        };
        let known = KNOWN.iter().any(|(known, _)| *known == source);
        assert!(!(agrees && known), "{source} agrees by now: take it off the list");
        if !agrees && !known {
            let mut expected = case.clone();
            expected.as_object_mut().unwrap().remove("expression");
            differences.push(format!("{source}: reference {expected}, here {found:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
