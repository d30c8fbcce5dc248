//! How many states a second the interpreter walks through, and what a Map of ten thousand items costs.
//!
//! A plain harness: `cargo bench --workspace --bench transitions`. Each line is the best of five rounds on one core, events
//! built and dropped as an observer would see them. With `-- --json NAME LIMIT` it runs one machine of `machines/` once and
//! prints what `bench/engines` compares.

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
        if let Some(outcome) = core.outcome() {
            assert_eq!(outcome.status.as_str(), "SUCCEEDED", "{outcome:?}");
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

fn machine(name: &str) -> Arc<Machine> {
    let path = format!("{}/benches/machines/{name}.asl.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    Arc::new(Machine::parse(&text).unwrap())
}

fn settings() -> Arc<Settings> {
    let mut settings = Settings::new("us-east-1", "111122223333", "M", "r");
    settings.max_events = u64::MAX;
    Arc::new(settings)
}

fn input(limit: u64) -> Value {
    json!({"n": 0, "limit": limit, "kept": {"a": [1, 2, 3]}, "items": (0..limit).collect::<Vec<u64>>()})
}

/// Seconds of the best of some rounds, states and events.
fn best(machine: &Arc<Machine>, input: &Value, rounds: u32) -> (f64, u64, u64) {
    let settings = settings();
    let mut best = f64::MAX;
    let mut counted = (0, 0);
    for _ in 0..rounds {
        let started = Instant::now();
        counted = run(machine, &settings, input);
        best = best.min(started.elapsed().as_secs_f64());
    }
    (best, counted.0, counted.1)
}

fn measure(title: &str, name: &str, input: &Value) {
    let (best, states, events) = best(&machine(name), input, 5);
    println!(
        "{title:<54} {:>9.0} transitions/s  {:>7.2} µs each  {states:>6} states  {events:>6} events  {best:>6.3} s",
        states as f64 / best,
        best * 1e6 / states as f64
    );
}

/// The most memory this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--json") {
        let (name, limit) = (&arguments[at + 1], arguments[at + 2].parse().unwrap());
        let (seconds, states, events) = best(&machine(name), &input(limit), 3);
        println!("{}", json!({"seconds": seconds, "states": states, "events": events}));
        return;
    }
    let mut small = input(20_000);
    small["items"] = json!([]);
    measure("Pass and Choice, JSONata", "loop-jsonata", &small);
    measure("Pass and Choice, JSONata, a variable", "loop-variable", &small);
    measure("Pass and Choice, JSONPath", "loop-jsonpath", &small);
    let mut large = small.clone();
    large["kept"] = json!("x".repeat(100_000));
    measure("Pass and Choice, a variable, 100 kB passing through", "loop-variable", &large);
    let before = peak_mib();
    measure("Map of 10,000 items, JSONata", "map-jsonata", &input(10_000));
    measure("Map of 10,000 items, JSONPath", "map-jsonpath", &input(10_000));
    println!("memory: {before} MiB at most before the Maps, {} MiB with them", peak_mib());
}
