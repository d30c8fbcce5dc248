//! The eighteen intrinsic functions of JSONPath payload templates.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/intrinsic-functions.html>

use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::hashing;
use crate::jsonpath::same;
use crate::random::Random;

/// The most elements `States.ArrayRange` makes.
const MAX_RANGE: i64 = 1_000;
/// The longest text `States.Hash` and the Base64 functions take.
const MAX_TEXT: usize = 10_000;

/// How many arguments a function takes, by its name without `States.`; `None` when there is no such function.
pub(crate) fn arity(name: &str) -> Option<RangeInclusive<usize>> {
    Some(match name {
        "Array" => 0..=usize::MAX,
        "Format" => 1..=usize::MAX,
        "UUID" => 0..=0,
        "ArrayLength" | "ArrayUnique" | "Base64Encode" | "Base64Decode" | "StringToJson" | "JsonToString" => 1..=1,
        "ArrayPartition" | "ArrayContains" | "ArrayGetItem" | "Hash" | "MathAdd" | "StringSplit" => 2..=2,
        "ArrayRange" | "JsonMerge" => 3..=3,
        "MathRandom" => 2..=3,
        _ => return None,
    })
}

/// Calls a function; the arguments' number has been checked.
pub(crate) fn call(name: &str, mut arguments: Vec<Value>, random: &mut Random) -> Result<Value, String> {
    match name {
        "Array" => Ok(Value::Array(arguments)),
        "Format" => format(&arguments),
        "UUID" => Ok(Value::String(random.uuid())),
        "ArrayLength" => Ok(json!(array(&arguments, 0)?.len())),
        "ArrayUnique" => {
            let mut unique: Vec<Value> = Vec::new();
            for item in array(&arguments, 0)? {
                if !unique.iter().any(|known| same(known, item)) {
                    unique.push(item.clone());
                }
            }
            Ok(Value::Array(unique))
        }
        "ArrayPartition" => {
            // A size that is not whole is rounded down.
            let size = number(&arguments, 1)?.floor();
            if size < 1.0 {
                return Err("the chunk size must be a positive integer".to_owned());
            }
            Ok(Value::Array(
                array(&arguments, 0)?.chunks(size as usize).map(|chunk| Value::Array(chunk.to_vec())).collect(),
            ))
        }
        "ArrayContains" => Ok(Value::Bool(array(&arguments, 0)?.iter().any(|item| same(item, &arguments[1])))),
        "ArrayGetItem" => {
            let index = whole(&arguments, 1)?;
            let items = array(&arguments, 0)?;
            match usize::try_from(index).ok().and_then(|index| items.get(index)) {
                Some(item) => Ok(item.clone()),
                None => Err(format!("the index {index} is out of range for an array of {} elements", items.len())),
            }
        }
        "ArrayRange" => {
            let (first, last, step) = (rounded(&arguments, 0)?, rounded(&arguments, 1)?, rounded(&arguments, 2)?);
            if step == 0 {
                return Err("the step must not be zero".to_owned());
            }
            let count = if (last - first).signum() * step.signum() < 0 { 0 } else { (last - first) / step + 1 };
            if count > MAX_RANGE {
                return Err(format!("the range would have {count} elements, and at most {MAX_RANGE} are allowed"));
            }
            Ok(Value::Array((0..count).map(|index| json!(first + index * step)).collect()))
        }
        "Base64Encode" => Ok(Value::String(STANDARD.encode(text(&arguments, 0)?))),
        "Base64Decode" => {
            let bytes = STANDARD.decode(text(&arguments, 0)?).map_err(|_| "the argument is not Base64".to_owned())?;
            Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "Hash" => {
            let data = match &arguments[0] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            if data.len() > MAX_TEXT {
                return Err(format!("the data may have at most {MAX_TEXT} characters"));
            }
            let algorithm = text(&arguments, 1)?;
            hashing::hex_digest(algorithm, data.as_bytes())
                .map(Value::String)
                .ok_or_else(|| format!("`{algorithm}` is not one of MD5, SHA-1, SHA-256, SHA-384 and SHA-512"))
        }
        "JsonMerge" => {
            if arguments[2] != json!(false) {
                return Err("only shallow merging is supported: the third argument must be false".to_owned());
            }
            let mut merged = object(&arguments, 0)?.clone();
            merged.extend(object(&arguments, 1)?.clone());
            Ok(Value::Object(merged))
        }
        "MathRandom" => {
            let (from, to) = (rounded(&arguments, 0)?, rounded(&arguments, 1)?);
            if from >= to {
                return Err("the start must be smaller than the end".to_owned());
            }
            let fraction = match arguments.get(2) {
                None => random.fraction(),
                Some(_) => Random::seeded(rounded(&arguments, 2)? as u64).fraction(),
            };
            Ok(json!(from + (fraction * (to - from) as f64) as i64))
        }
        "MathAdd" => Ok(json!(rounded(&arguments, 0)? + rounded(&arguments, 1)?)),
        "StringSplit" => {
            let delimiters = text(&arguments, 1)?;
            let parts = text(&arguments, 0)?.split(|letter| delimiters.contains(letter));
            Ok(Value::Array(parts.filter(|part| !part.is_empty()).map(Value::from).collect()))
        }
        "StringToJson" => match text(&arguments, 0)? {
            text if text.trim().is_empty() => Ok(Value::Null),
            text => serde_json::from_str(text)
                .map(whole_zero)
                .map_err(|problem| format!("the argument is not JSON: {problem}")),
        },
        "JsonToString" => Ok(Value::String(arguments.swap_remove(0).to_string())),
        _ => Err(format!("there is no function States.{name}")),
    }
}

/// `-0` is 0 in the numbers of Step Functions.
fn whole_zero(value: Value) -> Value {
    if value.as_f64() == Some(0.0) { json!(0) } else { value }
}

fn format(arguments: &[Value]) -> Result<Value, String> {
    let template = text(arguments, 0)?;
    let mut formatted = String::with_capacity(template.len());
    let mut values = arguments[1..].iter();
    let mut letters = template.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if matches!(letters.peek(), Some('{' | '}' | '\\')) => formatted.extend(letters.next()),
            '{' if letters.peek() == Some(&'}') => {
                letters.next();
                match values.next() {
                    Some(Value::String(text)) => formatted.push_str(text),
                    Some(other) => formatted.push_str(&other.to_string()),
                    None => return Err("there are more `{}` than arguments".to_owned()),
                }
            }
            other => formatted.push(other),
        }
    }
    match values.next() {
        None => Ok(Value::String(formatted)),
        Some(_) => Err("there are more arguments than `{}`".to_owned()),
    }
}

fn wrong(index: usize, wanted: &str, found: &Value) -> String {
    format!("argument {} must be {wanted} but was: {found}", index + 1)
}

fn array(arguments: &[Value], index: usize) -> Result<&Vec<Value>, String> {
    arguments[index].as_array().ok_or_else(|| wrong(index, "an array", &arguments[index]))
}

fn object(arguments: &[Value], index: usize) -> Result<&Map<String, Value>, String> {
    arguments[index].as_object().ok_or_else(|| wrong(index, "an object", &arguments[index]))
}

fn text(arguments: &[Value], index: usize) -> Result<&str, String> {
    arguments[index].as_str().ok_or_else(|| wrong(index, "a string", &arguments[index]))
}

fn number(arguments: &[Value], index: usize) -> Result<f64, String> {
    arguments[index].as_f64().ok_or_else(|| wrong(index, "a number", &arguments[index]))
}

fn whole(arguments: &[Value], index: usize) -> Result<i64, String> {
    arguments[index].as_i64().ok_or_else(|| wrong(index, "an integer", &arguments[index]))
}

/// Rounds like `Math.round` of Java: halves go up, also below zero (R: -3.5 gives -3, 1.5 gives 2).
fn rounded(arguments: &[Value], index: usize) -> Result<i64, String> {
    let value = number(arguments, index)?;
    if value.abs() > f64::from(i32::MAX) + 1.0 {
        return Err(wrong(index, "an integer of 32 bits", &arguments[index]));
    }
    Ok((value + 0.5).floor() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonata::Bindings;
    use crate::jsonpath::{PathError, Query};

    struct Input(Value);

    impl Bindings for Input {
        fn input(&self) -> &Value {
            &self.0
        }
        fn context(&self) -> &Value {
            &Value::Null
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

    fn evaluate(source: &str) -> Result<Value, PathError> {
        let input =
            Input(json!({"a": [1, 2, 2, 3], "o": {"k": 1, "l": {"x": 1}}, "p": {"l": {"y": 2}}, "s": "say", "f": 1.5}));
        Query::parse(source, true)
            .unwrap_or_else(|why| panic!("{source}: {why}"))
            .evaluate(&input, &mut Random::seeded(7))
    }

    #[test]
    fn every_function_does_what_its_page_says() {
        for (source, expected) in [
            ("States.Format('{} and {}, \\{literal\\} \\'quoted\\'', $.s, 1)", json!("say and 1, {literal} 'quoted'")),
            ("States.Format('{}', null)", json!("null")),
            ("States.Format('{}', $.o)", json!("{\"k\":1,\"l\":{\"x\":1}}")),
            ("States.StringToJson('{\"a\": 1}')", json!({"a": 1})),
            ("States.StringToJson(' ')", json!(null)),
            ("States.StringToJson('{\\\"a\\\": 1}')", json!({"a": 1})),
            ("States.JsonToString($.a)", json!("[1,2,2,3]")),
            ("States.Array(1, 'two', true, null, $.s, States.Array())", json!([1, "two", true, null, "say", []])),
            ("States.ArrayPartition($.a, 3)", json!([[1, 2, 2], [3]])),
            ("States.ArrayPartition($.a, $.f)", json!([[1], [2], [2], [3]])),
            ("States.ArrayContains($.a, 2)", json!(true)),
            ("States.ArrayContains($.a, 'x')", json!(false)),
            ("States.ArrayRange(1, 9, 2)", json!([1, 3, 5, 7, 9])),
            ("States.ArrayRange(3, 1, -1)", json!([3, 2, 1])),
            ("States.ArrayRange(1, 3, -1)", json!([])),
            ("States.ArrayGetItem($.a, 3)", json!(3)),
            ("States.ArrayLength($.a)", json!(4)),
            ("States.ArrayUnique($.a)", json!([1, 2, 3])),
            ("States.Base64Encode('Data to encode')", json!("RGF0YSB0byBlbmNvZGU=")),
            ("States.Base64Decode('RGF0YSB0byBlbmNvZGU=')", json!("Data to encode")),
            ("States.Hash('input data', 'SHA-1')", json!("aaff4a450a104cd177d28d18d74485e8cae074b7")),
            ("States.Hash('', 'MD5')", json!("d41d8cd98f00b204e9800998ecf8427e")),
            ("States.JsonMerge($.o, $.p, false)", json!({"k": 1, "l": {"y": 2}})),
            ("States.MathAdd(111, -1)", json!(110)),
            ("States.MathAdd(-0.5, 0.5)", json!(1)),
            ("States.StringSplit('1,2;;3', ',;')", json!(["1", "2", "3"])),
        ] {
            assert_eq!(evaluate(source), Ok(expected), "{source}");
        }
        let random = evaluate("States.MathRandom(5, 8)").unwrap();
        assert!((5..8).contains(&random.as_i64().unwrap()));
        assert_eq!(evaluate("States.MathRandom(0, 1000000, 3)"), evaluate("States.MathRandom(0, 1000000, 3)"));
        assert_eq!(evaluate("States.UUID()").unwrap().as_str().unwrap().len(), 36);
    }

    #[test]
    fn wrong_arguments_are_failures_of_the_function() {
        for source in [
            "States.Format('{}')",
            "States.Format('', 1)",
            "States.StringToJson('{')",
            "States.ArrayPartition($.a, 0)",
            "States.ArrayGetItem($.a, 4)",
            "States.ArrayGetItem($.a, -1)",
            "States.ArrayRange(0, 5000, 1)",
            "States.ArrayRange(0, 1, 0)",
            "States.Base64Decode('%')",
            "States.Hash('a', 'CRC')",
            "States.JsonMerge($.o, $.p, true)",
            "States.MathAdd('1', 1)",
            "States.MathAdd(1e300, 1)",
            "States.ArrayLength('x')",
            "States.MathRandom(3, 3)",
        ] {
            assert!(matches!(evaluate(source), Err(PathError::Intrinsic { .. })), "{source}: {:?}", evaluate(source));
        }
        assert!(matches!(evaluate("States.ArrayLength($.none)"), Err(PathError::MissingArgument { .. })));
    }
}
