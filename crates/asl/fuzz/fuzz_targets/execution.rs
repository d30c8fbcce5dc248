//! A machine ends whatever it is given: a definition, a NUL, the input. Both seed the answers that it gets.
#![no_main]

#[path = "../../tests/properties/mod.rs"]
mod properties;

use std::hash::{DefaultHasher, Hash, Hasher};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (definition, input) = text.split_once('\0').unwrap_or((text, "{}"));
    let Ok(input) = serde_json::from_str(input) else { return };
    let mut seed = DefaultHasher::new();
    text.hash(&mut seed);
    properties::ends(definition, &input, seed.finish());
});
