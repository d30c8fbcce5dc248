//! A JSON document that is shared, never copied, and knows its size.
//!
//! Step Functions passes documents of up to 262,144 bytes from state to state, and most states hand on what they were
//! given. A [`Payload`] makes that a reference count. The size in bytes of UTF-8, which every border has to check, is
//! computed once.

use std::io;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The most bytes of UTF-8 a payload may have between states, in a task's input or in its result.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
pub const MAX_PAYLOAD_BYTES: usize = 262_144;

#[derive(Debug)]
struct Shared {
    value: Value,
    size: OnceLock<usize>,
}

/// A shared JSON document.
#[derive(Debug, Clone)]
pub struct Payload(Arc<Shared>);

impl Payload {
    /// The document.
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// Its length in bytes when written without white space, which is how Step Functions measures.
    pub fn size_bytes(&self) -> usize {
        *self.0.size.get_or_init(|| size_bytes(&self.0.value))
    }

    /// Whether it is larger than Step Functions allows.
    pub fn is_oversize(&self) -> bool {
        self.size_bytes() > MAX_PAYLOAD_BYTES
    }

    /// The document, copied only when somebody else still holds it.
    pub fn into_value(self) -> Value {
        match Arc::try_unwrap(self.0) {
            Ok(shared) => shared.value,
            Err(shared) => shared.value.clone(),
        }
    }

    /// Whether both are the very same document in memory.
    pub fn same(a: &Payload, b: &Payload) -> bool {
        Arc::ptr_eq(&a.0, &b.0)
    }

    /// The document as compact text.
    pub fn to_text(&self) -> String {
        self.0.value.to_string()
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Payload(Arc::new(Shared { value, size: OnceLock::new() }))
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.value == other.0.value
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Payload::from)
    }
}

/// The length in bytes of a value written without white space, without writing it.
pub fn size_bytes(value: &Value) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Writing a `Value` to a sink that never fails cannot fail.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_size_is_that_of_the_compact_text() {
        let value = json!({"a": [1, 2.5, "ü\n"], "b": null});
        assert_eq!(size_bytes(&value), value.to_string().len());
    }
}
