//! How many states a second the interpreter walks through, and what a Map of ten thousand items costs.
//!
//! A plain harness: `cargo bench -p asl`. Each line is the best of five rounds on one core, events built and dropped as an
//! observer would see them.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use asl::core::{Core, Input};
use asl::{Machine, Settings};
use serde_json::{Value, json};

/// Runs to the end; gives the number of states entered and of events.
fn run(machine: &Arc<Machine>, settings: &Arc<Settings>, input: &Value) -> (u64, u64) {
    let mut core = Core::new(Arc::clone(machine), Arc::clone(settings));
    let mut now = "2026-01-01T00:00:00Z".parse().unwrap();
    let (mut states, mut events) = (0, 0);
    let mut next = Input::Start(input.clone().into());
    loop {
        let progress = core.apply(now, next);
        events += progress.events.len() as u64;
        states +=
            progress.events.iter().filter(|event| event.event_type.as_str().ends_with("StateEntered")).count() as u64;
        black_box(&progress);
        if core.outcome().is_some() {
            return (states, events);
        }
        next = if progress.more {
            Input::Continue
        } else {
            now = core.next_timer().expect("something to wait for");
            Input::Clock
        };
    }
}

fn measure(name: &str, definition: &Value, input: &Value) {
    let machine = Arc::new(Machine::parse(&definition.to_string()).unwrap());
    let mut settings = Settings::new("us-east-1", "111122223333", "M", "r");
    settings.max_events = u64::MAX;
    let settings = Arc::new(settings);
    let mut best = f64::MAX;
    let mut counted = (0, 0);
    for _ in 0..5 {
        let started = Instant::now();
        counted = run(&machine, &settings, input);
        best = best.min(started.elapsed().as_secs_f64());
    }
    let (states, events) = counted;
    println!(
        "{name:<52} {:>9.0} transitions/s  {:>7.2} µs each  {states:>6} states  {events:>6} events",
        states as f64 / best,
        best * 1e6 / states as f64
    );
}

fn loop_of(language: &str, work: Value, again: Value) -> Value {
    json!({"QueryLanguage": language, "StartAt": "Work", "States": {
        "Work": work,
        "Again": {"Type": "Choice", "Choices": [again], "Default": "Done"},
        "Done": {"Type": "Succeed"}
    }})
}

fn main() {
    let jsonata = loop_of(
        "JSONata",
        json!({"Type": "Pass", "Output": {"n": "{% $states.input.n + 1 %}", "kept": "{% $states.input.kept %}"}, "Next": "Again"}),
        json!({"Condition": "{% $states.input.n < 20000 %}", "Next": "Work"}),
    );
    let variables = loop_of(
        "JSONata",
        json!({"Type": "Pass", "Assign": {"n": "{% $exists($n) ? $n + 1 : 1 %}"}, "Next": "Again"}),
        json!({"Condition": "{% $n < 20000 %}", "Next": "Work"}),
    );
    let jsonpath = loop_of(
        "JSONPath",
        json!({"Type": "Pass", "Parameters": {"n.$": "States.MathAdd($.n, 1)", "kept.$": "$.kept"}, "Next": "Again"}),
        json!({"Variable": "$.n", "NumericLessThan": 20000, "Next": "Work"}),
    );
    let small = json!({"n": 0, "kept": {"a": [1, 2, 3]}});
    measure("Pass and Choice, JSONata", &jsonata, &small);
    measure("Pass and Choice, JSONata, a variable", &variables, &small);
    measure("Pass and Choice, JSONPath", &jsonpath, &small);
    let mut large = small.clone();
    large["kept"] = json!("x".repeat(100_000));
    measure("Pass and Choice, a variable, 100 kB passing through", &variables, &large);
    let map = json!({"QueryLanguage": "JSONata", "StartAt": "M", "States": {"M": {"Type": "Map", "Items": "{% [1..10000] %}",
        "ItemProcessor": {"StartAt": "P", "States": {"P": {"Type": "Pass", "Output": "{% $states.input * 2 %}", "End": true}}}, "End": true}}});
    measure("Map of 10,000 items", &map, &json!({}));
}
