//! Records, a line each and without their digests, are taken up or refused.
#![no_main]

#[path = "../../tests/properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let records: Result<Vec<_>, _> = text.lines().map(serde_json::from_str).collect();
    if let Ok(records) = records {
        properties::take_up(&records);
    }
});
