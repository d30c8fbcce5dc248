//! What must hold whatever comes in. The tests draw cases by the grammars; the fuzz targets of `fuzz/` are led by coverage.

#![allow(clippy::unwrap_used)]
// Each program that includes this module uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use asl::core::{Core, Effect, Input};
use asl::jsonata::{Bindings, Expression, Surroundings};
use asl::{Execution, Machine, Record, Settings, TaskOutcome};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The longest that one case may take: an expression is given five seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most memory the process may ever have had.
const MOST_KIB: u64 = 2 << 20;

/// Does something that must come to an end soon and must not have taken much memory.
pub fn bounded<T>(work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MOST_KIB, "it took {peak} KiB");
    done
}

/// Ids, predecessors and types of a history.
type Shape = Vec<(u64, u64, &'static str)>;

fn token(call: &asl::TaskCall) -> String {
    call.task_token.as_deref().unwrap_or("none").to_owned()
}

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
    let mut asked = std::collections::VecDeque::new();
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
                // A Task without a deadline waits for years; whoever was asked answers at last.
                None => match asked.pop_front() {
                    Some((call, token)) => {
                        inputs.push_back(Input::TokenFailed { token, error: None, cause: None });
                        Input::CallEnded { call, outcome: TaskOutcome::success(json!({"late": true})) }
                    }
                    None => panic!("stuck in {:?}", core.current_states()),
                },
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
                Effect::Invoke(call) => {
                    asked.push_back((call.call, token(&call)));
                    match dice.bits() % 5 {
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
                            inputs.push_back(Input::TokenSucceeded { token: token(&call), output: json!({"b": 2}) });
                            inputs.push_back(Input::TokenFailed { token: token(&call), error: None, cause: None });
                        }
                        _ => inputs.push_back(Input::CallEnded {
                            call: call.call,
                            outcome: TaskOutcome::success(json!({"a": [1, 2, {"b": null}]})),
                        }),
                    }
                }
            }
        }
        now = now.checked_add(SignedDuration::from_millis(7)).unwrap();
    }
    panic!("it never ends");
}

/// What an expression may read, in a test.
struct World {
    input: Value,
    context: Value,
}

impl Bindings for World {
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
    fn variable(&self, name: &str) -> Option<&Value> {
        (name == "x").then_some(&self.input)
    }
}

/// A short machine with calls in parallel and a timer.
pub fn journaled() -> Arc<Machine> {
    let definition = json!({"QueryLanguage": "JSONata", "StartAt": "M", "States": {
        "M": {"Type": "Map", "Items": [1, 2], "Next": "W", "ItemProcessor": {"StartAt": "T", "States": {
            "T": {"Type": "Task", "Resource": "arn:aws:lambda:r:1:function:f", "TimeoutSeconds": 5, "End": true}}}},
        "W": {"Type": "Wait", "Seconds": 5, "End": true}}});
    Arc::new(Machine::parse(&definition.to_string()).unwrap())
}

/// Answers every call with what it was given.
pub struct Echo;

#[async_trait::async_trait]
impl asl::TaskHandler for Echo {
    async fn invoke(&self, call: asl::TaskCall) -> TaskOutcome {
        TaskOutcome::success(call.payload.into_value())
    }
}

/// Takes records up as another process would, and goes on to the end.
pub async fn go_on(records: &[Record], journal: impl asl::Journal + 'static) {
    let Ok(execution) = Execution::resume(journaled(), records, journal, 0) else { return };
    let clock = asl::VirtualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let ended = tokio::time::timeout(PATIENCE, execution.run(&Echo, &clock, &mut asl::Unobserved)).await;
    ended.unwrap_or_else(|_| panic!("a resumed run never ends: {records:?}")).ok();
}

/// The same, with a runtime of its own.
pub fn take_up(records: &[Record]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(go_on(records, Vec::new()));
}

/// An expression is refused, or gives a value or an error.
pub fn evaluates(source: &str, input: &Value) {
    let Ok(expression) = Expression::parse(source) else { return };
    let world = World {
        input: json!({"a": input, "list": [input, 1, "x", [2]]}),
        context: json!({"Execution": {"Name": "n"}}),
    };
    let mut random = asl::random::Random::seeded(1);
    let surroundings = Surroundings { now: Timestamp::UNIX_EPOCH, random: &mut random };
    let _ = expression.evaluate(&world, surroundings);
}

/// A path or intrinsic function does the same.
pub fn reads(path: &str, input: &Value) {
    let definition = json!({"StartAt": "P", "States": {"P": {"Type": "Pass", "Parameters": {"v.$": path},
        "InputPath": "$", "ResultPath": "$.r", "OutputPath": "$.r", "End": true}}});
    drive(&definition.to_string(), json!({"a": input, "list": [input, {"a": 1, "b": 2}]}), 1);
}

/// A text is a machine or has a list of problems, each with its place in it.
pub fn is_checked(text: &str) {
    let _ = Machine::parse(text);
    let _ = asl::substitution::fill(text, &std::collections::BTreeMap::new());
    let lines = text.split('\n').count();
    for problem in asl::check::check(text) {
        assert!(problem.line <= lines, "line {} of {lines}: {problem:?}", problem.line);
    }
}

/// A machine ends, its history is a tree, and the same inputs give it again.
pub fn ends(definition: &str, input: &Value, seed: u64) {
    let Some((_, history)) = drive(definition, input.clone(), seed) else { return };
    for (index, (id, previous, _)) in history.iter().enumerate() {
        assert_eq!(*id, index as u64 + 1);
        assert!(previous < id);
    }
    assert_eq!(drive(definition, input.clone(), seed).unwrap().1, history);
}
