//! Whatever it is given, the crate neither panics nor hangs: definitions, inputs, paths, expressions, answers.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use asl::core::{Core, Effect, Input};
use asl::{Machine, Settings, TaskOutcome};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of any shape, seasoned with words that mean something to a state machine.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("$.a".to_owned()),
        Just("$".to_owned()),
        Just("{% $states.input.a %}".to_owned()),
        Just("{% $x %}".to_owned()),
        Just("States.Format('{}', $.a)".to_owned()),
        Just("2026-01-01T00:00:00Z".to_owned()),
        Just("A".to_owned()),
        Just("Pass".to_owned()),
        "[ -~]{0,12}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(|float| json!(float)),
        word.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let key = prop_oneof![
            Just("a".to_owned()),
            Just("a.$".to_owned()),
            Just("Type".to_owned()),
            Just("Next".to_owned()),
            Just("End".to_owned()),
            Just("ErrorEquals".to_owned()),
            Just("Variable".to_owned()),
            "[a-zA-Z.$]{0,6}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Machines that mostly compile: states of every type with fields drawn at random.
fn any_machine() -> impl Strategy<Value = Value> {
    let state = (0..9usize, prop::collection::vec(any_json(), 8), 0..4usize, any::<bool>()).prop_map(|(kind, json, next, ends)| {
        let target = ["A", "B", "C", "D"][next];
        let mut state = match kind {
            0 => json!({"Type": "Pass", "Parameters": json[0], "ResultPath": "$.r"}),
            1 => json!({"Type": "Pass", "QueryLanguage": "JSONata", "Output": json[0], "Assign": {"x": json[1]}}),
            2 => json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Parameters": json[0], "TimeoutSeconds": 5,
                        "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "JitterStrategy": "FULL"}], "Catch": [{"ErrorEquals": ["States.ALL"], "Next": target}]}),
            3 => json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "IsPresent": true, "Next": target}, {"Variable": "$.b", "NumericLessThan": 3, "Next": "D"}], "Default": "B"}),
            4 => json!({"Type": "Wait", "Seconds": 3}),
            5 => json!({"Type": "Succeed", "OutputPath": "$"}),
            6 => json!({"Type": "Fail", "Error": "E"}),
            7 => json!({"Type": "Map", "QueryLanguage": "JSONata", "Items": json[0], "ItemSelector": json[1], "MaxConcurrency": 2,
                        "ItemProcessor": {"StartAt": format!("I{next}"), "States": {format!("I{next}"): {"Type": "Pass", "Output": json[2], "End": true}}},
                        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": target}]}),
            _ => json!({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "Parameters": {"t.$": "$$.Task.Token"}, "HeartbeatSeconds": 2}),
        };
        if !matches!(kind, 3 | 5 | 6) {
            let (field, value) = if ends { ("End", json!(true)) } else { ("Next", json!(target)) };
            state[field] = value;
        }
        state
    });
    prop::collection::vec(state, 4).prop_map(|states| {
        let states: Value = ["A", "B", "C", "D"]
            .iter()
            .zip(states)
            .map(|(name, state)| ((*name).to_owned(), state))
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({"StartAt": "A", "TimeoutSeconds": 1000, "States": states})
    })
}

/// Ids, predecessors and types of a history.
type Shape = Vec<(u64, u64, &'static str)>;

/// Drives a core with answers chosen by a seed until it ends; gives how it ended and how many inputs it took.
fn drive(definition: &str, input: Value, seed: u64) -> Option<(String, Shape)> {
    // Unreachable states are refused, so many drawn machines are; that is a test of the compiler.
    let machine = Machine::parse(definition).ok()?;
    let mut settings = Settings::new("us-east-1", "111122223333", "M", "r");
    settings.seed = seed;
    settings.max_events = 2_000;
    let mut core = Core::new(Arc::new(machine), Arc::new(settings));
    let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut inputs = std::collections::VecDeque::from([Input::Start(input.into())]);
    let mut history = Vec::new();
    let mut dice = asl::random::Random::seeded(seed);
    for _ in 0..20_000 {
        let next = match inputs.pop_front() {
            Some(next) => next,
            None => match core.next_timer() {
                Some(at) => {
                    now = at;
                    Input::Clock
                }
                None => panic!("stuck in {:?}", core.current_states()),
            },
        };
        let progress = core.apply(now, next);
        history
            .extend(progress.events.iter().map(|event| (event.id, event.previous_event_id, event.event_type.as_str())));
        if progress.more {
            inputs.push_front(Input::Continue);
        }
        for effect in progress.effects {
            match effect {
                Effect::Done(outcome) => return Some((outcome.status.to_string(), history)),
                Effect::Cancel { .. } => {}
                Effect::Invoke(call) => match dice.bits() % 5 {
                    0 => inputs.push_back(Input::CallEnded {
                        call: call.call,
                        outcome: TaskOutcome::failure("Recovery.NotYet", "not yet"),
                    }),
                    1 => {}
                    2 => {
                        inputs.push_back(Input::CallEnded {
                            call: call.call,
                            outcome: TaskOutcome::success(json!({"a": 1})),
                        });
                        inputs.push_back(Input::CallEnded {
                            call: call.call,
                            outcome: TaskOutcome::success(json!({"a": 2})),
                        });
                        let token = call.task_token.as_deref().unwrap_or("none").to_owned();
                        inputs.push_back(Input::TokenSucceeded { token: token.clone(), output: json!({"b": 2}) });
                        inputs.push_back(Input::TokenFailed { token, error: None, cause: None });
                    }
                    _ => inputs.push_back(Input::CallEnded {
                        call: call.call,
                        outcome: TaskOutcome::success(json!({"a": [1, 2, {"b": null}]})),
                    }),
                },
            }
        }
        now = now.checked_add(SignedDuration::from_millis(7)).unwrap();
    }
    panic!("it never ends");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_a_machine_or_a_list_of_problems(text in "\\PC{0,200}") {
        let _ = Machine::parse(&text);
        let _ = asl::check::check(&text);
        let _ = asl::substitution::fill(&text, &std::collections::BTreeMap::new());
    }

    #[test]
    fn any_json_is_a_machine_or_a_list_of_problems(value in any_json()) {
        let text = value.to_string();
        prop_assert!(Machine::parse(&text).is_err());
        let machine = json!({"StartAt": "A", "States": {"A": value}}).to_string();
        let _ = Machine::parse(&machine);
        for problem in asl::check::check(&machine) {
            prop_assert!(problem.line == 1 && problem.column <= machine.chars().count() + 1);
        }
    }

    #[test]
    fn any_machine_ends_and_its_history_is_a_tree(definition in any_machine(), input in any_json(), seed in any::<u64>()) {
        let text = definition.to_string();
        if let Some((_, history)) = drive(&text, input.clone(), seed) {
            for (index, (id, previous, _)) in history.iter().enumerate() {
                prop_assert_eq!(*id, index as u64 + 1);
                prop_assert!(previous < id);
            }
            // The same inputs give the same execution.
            prop_assert_eq!(drive(&text, input, seed).unwrap().1, history);
        }
    }

    #[test]
    fn any_expression_parses_or_is_refused(source in "[$a-z0-9 .,:;?!%*+<>=(){}\\[\\]'\"/|&~^@#-]{0,40}") {
        let _ = asl::jsonata::Expression::parse(&source);
    }

    #[test]
    fn any_json_text_is_read_as_serde_reads_it(value in any_json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(asl::source::read(&text).unwrap().to_value(), serde_json::from_str::<Value>(&text).unwrap());
    }
}
