//! JSONata, or JSONPath and intrinsic functions: a value or an error. An expression, a NUL, the input.
#![no_main]

#[path = "../../tests/properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (source, input) = text.split_once('\0').unwrap_or((text, "{\"b\": [1, \"x\"]}"));
    let Ok(input) = serde_json::from_str(input) else { return };
    if source.starts_with('$') || source.starts_with("States.") {
        properties::reads(source, &input);
    }
    properties::evaluates(source, &input);
});
