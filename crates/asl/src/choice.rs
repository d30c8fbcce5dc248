//! The rules of a Choice in JSONPath: thirty-nine operators and `And`, `Or`, `Not`.
//!
//! A value of another type than the operator's makes the comparison false. A variable that is not there is an error
//! (`States.Runtime`), except for `IsPresent`, which is the question.

use std::fmt;

use serde_json::Value;

use crate::definition::{join, nearest};
use crate::jsonata::Bindings;
use crate::jsonpath::{Query, same};
use crate::moment;
use crate::problem::{Problem, Severity};
use crate::source::{Kind, Node, Place};

/// A rule's condition.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Compare { variable: Query, operator: Operator, name: &'static str, operand: Operand },
}

#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Constant(Value),
    Path(Query),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Text(Order),
    Matches,
    Number(Order),
    Boolean,
    Moment(Order),
    Is(What),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Null,
    Present,
    Numeric,
    Text,
    Boolean,
    Moment,
}

/// Each operator by its name, and whether it also has a `…Path` form.
const OPERATORS: [(&str, Operator, bool); 23] = [
    ("StringEquals", Operator::Text(Order::Equal), true),
    ("StringLessThan", Operator::Text(Order::Less), true),
    ("StringGreaterThan", Operator::Text(Order::Greater), true),
    ("StringLessThanEquals", Operator::Text(Order::LessOrEqual), true),
    ("StringGreaterThanEquals", Operator::Text(Order::GreaterOrEqual), true),
    ("StringMatches", Operator::Matches, false),
    ("NumericEquals", Operator::Number(Order::Equal), true),
    ("NumericLessThan", Operator::Number(Order::Less), true),
    ("NumericGreaterThan", Operator::Number(Order::Greater), true),
    ("NumericLessThanEquals", Operator::Number(Order::LessOrEqual), true),
    ("NumericGreaterThanEquals", Operator::Number(Order::GreaterOrEqual), true),
    ("BooleanEquals", Operator::Boolean, true),
    ("TimestampEquals", Operator::Moment(Order::Equal), true),
    ("TimestampLessThan", Operator::Moment(Order::Less), true),
    ("TimestampGreaterThan", Operator::Moment(Order::Greater), true),
    ("TimestampLessThanEquals", Operator::Moment(Order::LessOrEqual), true),
    ("TimestampGreaterThanEquals", Operator::Moment(Order::GreaterOrEqual), true),
    ("IsNull", Operator::Is(What::Null), false),
    ("IsPresent", Operator::Is(What::Present), false),
    ("IsNumeric", Operator::Is(What::Numeric), false),
    ("IsString", Operator::Is(What::Text), false),
    ("IsBoolean", Operator::Is(What::Boolean), false),
    ("IsTimestamp", Operator::Is(What::Moment), false),
];

/// A path of a rule that names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingVariable(pub(crate) String);

impl Test {
    /// Compiles a rule; `top` rules also have `Next`, `Assign` and `Comment`.
    pub(crate) fn compile(rule: &Node, path: &str, top: bool, findings: &mut Vec<Problem>) -> Option<Test> {
        let mut complain = |code: &'static str, place: Place, at: String, message: String| {
            findings.push(Problem::new(Severity::Error, code, place, at, message));
        };
        let Some(members) = rule.as_object() else {
            complain(
                "bad-type",
                rule.place,
                path.to_owned(),
                format!("a choice rule is an object, this is {}", rule.kind_name()),
            );
            return None;
        };
        let mut found: Option<(&str, &Node, Place)> = None;
        let mut whole = true;
        for member in members {
            match member.key.as_str() {
                "Variable" | "Comment" => {}
                "Next" | "Assign" if top => {}
                "Next" => {
                    let message = "only the outermost rule has a `Next`: remove this one".to_owned();
                    complain("unknown-field", member.place, join(path, "Next"), message);
                    whole = false;
                }
                key => {
                    let known = matches!(key, "And" | "Or" | "Not") || operator(key).is_some();
                    if !known {
                        let mut names: Vec<&str> = OPERATORS.iter().map(|(name, ..)| *name).collect();
                        names.extend(["And", "Or", "Not", "Variable", "Next"]);
                        let hint = nearest(key, &names)
                            .map_or("remove it".to_owned(), |near| format!("did you mean `{near}`?"));
                        complain(
                            "unknown-field",
                            member.place,
                            join(path, key),
                            format!("a choice rule has no field `{key}`: {hint}"),
                        );
                        whole = false;
                    } else if let Some((first, ..)) = found {
                        let message = format!(
                            "a rule has one operator, this has `{first}` and `{key}`: join two rules with `And`"
                        );
                        complain("conflict", member.place, join(path, key), message);
                        whole = false;
                    } else {
                        found = Some((key, &member.value, member.place));
                    }
                }
            }
        }
        let Some((key, value, place)) = found else {
            if whole {
                let message = "the rule has no operator: compare a `Variable`, or use `And`, `Or`, `Not`".to_owned();
                complain("missing-field", rule.place, path.to_owned(), message);
            }
            return None;
        };
        let at = join(path, key);
        if matches!(key, "And" | "Or") {
            let Kind::Array(items) = &value.kind else {
                complain(
                    "bad-type",
                    value.place,
                    at,
                    format!("`{key}` is an array of rules, this is {}", value.kind_name()),
                );
                return None;
            };
            if items.is_empty() {
                complain("bad-value", value.place, at, format!("`{key}` is empty: give it at least one rule"));
                return None;
            }
            let mut tests = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                match Test::compile(item, &join(&at, &index.to_string()), false, findings) {
                    Some(test) => tests.push(test),
                    None => whole = false,
                }
            }
            return whole.then_some(if key == "And" { Test::All(tests) } else { Test::Any(tests) });
        }
        if key == "Not" {
            let test = Test::compile(value, &at, false, findings)?;
            return whole.then(|| Test::Not(Box::new(test)));
        }
        let (name, operator, by_path) = operator(key)?;
        let variable = match rule.get("Variable") {
            None => {
                let message = format!("`{key}` needs a `Variable`: the path of the value to look at");
                complain("missing-field", place, path.to_owned(), message);
                return None;
            }
            Some(variable) => match variable.as_str().map(|text| Query::parse(text, false)) {
                Some(Ok(query)) => query,
                Some(Err(why)) => {
                    let message = format!("`Variable` is not a path that Step Functions reads: {why}");
                    complain("bad-path", variable.place, join(path, "Variable"), message);
                    return None;
                }
                None => {
                    let message = format!("`Variable` is a path such as \"$.field\", this is {}", variable.kind_name());
                    complain("bad-type", variable.place, join(path, "Variable"), message);
                    return None;
                }
            },
        };
        let operand = if by_path {
            match value.as_str().map(|text| Query::parse(text, false)) {
                Some(Ok(query)) => Operand::Path(query),
                Some(Err(why)) => {
                    complain(
                        "bad-path",
                        value.place,
                        at,
                        format!("`{key}` is not a path that Step Functions reads: {why}"),
                    );
                    return None;
                }
                None => {
                    complain(
                        "bad-type",
                        value.place,
                        at,
                        format!("`{key}` is a path such as \"$.field\", this is {}", value.kind_name()),
                    );
                    return None;
                }
            }
        } else {
            let constant = value.to_value();
            if let Some(wanted) = operator.refuses(&constant) {
                complain(
                    "bad-type",
                    value.place,
                    at,
                    format!("`{key}` compares with {wanted}, this is {}", value.kind_name()),
                );
                return None;
            }
            Operand::Constant(constant)
        };
        whole.then_some(Test::Compare { variable, operator, name, operand })
    }

    /// Whether the rule holds.
    pub(crate) fn holds(&self, bindings: &dyn Bindings) -> Result<bool, MissingVariable> {
        match self {
            Test::All(tests) => {
                for test in tests {
                    if !test.holds(bindings)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Test::Any(tests) => {
                for test in tests {
                    if test.holds(bindings)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Test::Not(test) => Ok(!test.holds(bindings)?),
            Test::Compare { variable, operator, operand, .. } => {
                let found = look_up(variable, bindings);
                if let Operator::Is(What::Present) = operator {
                    let present = match &found {
                        Some(Value::Array(list)) if !variable.is_definite() => !list.is_empty(),
                        found => found.is_some(),
                    };
                    return Ok(Value::Bool(present) == *operand.constant());
                }
                let Some(value) = found else { return Err(MissingVariable(variable.text().to_owned())) };
                match operand {
                    Operand::Constant(constant) => Ok(operator.holds(&value, constant)),
                    Operand::Path(query) => match look_up(query, bindings) {
                        Some(other) => Ok(operator.holds(&value, &other)),
                        None => Err(MissingVariable(query.text().to_owned())),
                    },
                }
            }
        }
    }
}

fn look_up(query: &Query, bindings: &dyn Bindings) -> Option<Value> {
    match query.find_ref(bindings) {
        Some(value) => Some(value.clone()),
        None => query.find(bindings),
    }
}

impl Operand {
    fn constant(&self) -> &Value {
        match self {
            Operand::Constant(value) => value,
            Operand::Path(_) => &Value::Null,
        }
    }
}

/// The operator a field names: its name, what it does, and whether its operand is a path.
fn operator(key: &str) -> Option<(&'static str, Operator, bool)> {
    OPERATORS.iter().find_map(|(name, operator, has_path)| {
        if *name == key {
            return Some((*name, *operator, false));
        }
        (*has_path && key.strip_suffix("Path") == Some(name)).then_some((*name, *operator, true))
    })
}

impl Operator {
    /// What a constant should have been, if it is of the wrong type.
    fn refuses(self, constant: &Value) -> Option<&'static str> {
        let (fits, wanted) = match self {
            Operator::Text(_) | Operator::Matches => (constant.is_string(), "a string"),
            Operator::Number(_) => (constant.is_number(), "a number"),
            Operator::Boolean | Operator::Is(_) => (constant.is_boolean(), "true or false"),
            Operator::Moment(_) => (
                constant.as_str().is_some_and(|text| moment::parse(text).is_some()),
                "a moment such as \"2026-01-02T03:04:05Z\"",
            ),
        };
        (!fits).then_some(wanted)
    }

    fn holds(self, value: &Value, operand: &Value) -> bool {
        match self {
            Operator::Text(order) => match (value, operand) {
                // Java compares UTF-16 units, which differs from code points beyond the basic plane.
                (Value::String(a), Value::String(b)) => order.holds(a.encode_utf16().cmp(b.encode_utf16())),
                _ => false,
            },
            Operator::Matches => match (value, operand) {
                (Value::String(text), Value::String(pattern)) => matches(pattern, text),
                _ => false,
            },
            Operator::Number(order) => match (value, operand) {
                (Value::Number(_), Value::Number(_)) if same(value, operand) => order.holds(std::cmp::Ordering::Equal),
                (Value::Number(a), Value::Number(b)) => {
                    a.as_f64().partial_cmp(&b.as_f64()).is_some_and(|found| order.holds(found))
                }
                _ => false,
            },
            Operator::Boolean => value.is_boolean() && value == operand,
            Operator::Moment(order) => {
                let moment = |value: &Value| value.as_str().and_then(moment::parse);
                match (moment(value), moment(operand)) {
                    (Some(a), Some(b)) => order.holds(a.cmp(&b)),
                    _ => false,
                }
            }
            Operator::Is(what) => {
                let is = match what {
                    What::Null => value.is_null(),
                    What::Present => true,
                    What::Numeric => value.is_number(),
                    What::Text => value.is_string(),
                    What::Boolean => value.is_boolean(),
                    What::Moment => value.as_str().is_some_and(|text| moment::parse(text).is_some()),
                };
                Value::Bool(is) == *operand
            }
        }
    }
}

impl Order {
    fn holds(self, found: std::cmp::Ordering) -> bool {
        match self {
            Order::Equal => found.is_eq(),
            Order::Less => found.is_lt(),
            Order::Greater => found.is_gt(),
            Order::LessOrEqual => found.is_le(),
            Order::GreaterOrEqual => found.is_ge(),
        }
    }
}

/// `*` stands for any number of characters; `\*` is an asterisk and `\\` a backslash.
fn matches(pattern: &str, text: &str) -> bool {
    // The constant parts between the asterisks.
    let mut parts = vec![String::new()];
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' => parts.push(String::new()),
            '\\' => {
                if let (Some(escaped), Some(part)) = (letters.next(), parts.last_mut()) {
                    part.push(escaped);
                }
            }
            other => {
                if let Some(part) = parts.last_mut() {
                    part.push(other);
                }
            }
        }
    }
    let (Some((first, rest)), true) = (parts.split_first(), parts.len() > 1) else { return parts[0] == text };
    let Some(mut text) = text.strip_prefix(first.as_str()) else { return false };
    let Some((last, middle)) = rest.split_last() else { return text.is_empty() };
    for part in middle {
        match text.find(part.as_str()) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last.as_str())
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, tests: &[Test], word: &str| {
            for (index, test) in tests.iter().enumerate() {
                if index > 0 {
                    write!(f, " {word} ")?;
                }
                match test {
                    Test::Compare { .. } => write!(f, "{test}")?,
                    _ => write!(f, "({test})")?,
                }
            }
            Ok(())
        };
        match self {
            Test::All(tests) => list(f, tests, "and"),
            Test::Any(tests) => list(f, tests, "or"),
            Test::Not(test) => write!(f, "not ({test})"),
            Test::Compare { variable, name, operand, .. } => match operand {
                Operand::Constant(value) => write!(f, "{} {name} {value}", variable.text()),
                Operand::Path(query) => write!(f, "{} {name} {}", variable.text(), query.text()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;
    use serde_json::json;

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

    fn decide(rule: Value, input: Value) -> Result<bool, MissingVariable> {
        let node = source::read(&rule.to_string()).unwrap();
        let mut findings = Vec::new();
        let test = Test::compile(&node, "", true, &mut findings).unwrap_or_else(|| panic!("{rule}: {findings:?}"));
        test.holds(&Input(input))
    }

    #[test]
    fn every_operator_compares_its_own_type_and_is_false_for_others() {
        let early = "2026-01-02T03:04:05Z";
        let late = "2026-01-02T03:04:05.001Z";
        for (operator, operand, value, expected) in [
            ("StringEquals", json!("a"), json!("a"), true),
            ("StringEquals", json!("a"), json!(1), false),
            ("StringLessThan", json!("b"), json!("a"), true),
            ("StringGreaterThan", json!("b"), json!("c"), true),
            ("StringLessThanEquals", json!("b"), json!("b"), true),
            ("StringGreaterThanEquals", json!("b"), json!("a"), false),
            ("StringMatches", json!("log-*.txt"), json!("log-a.txt"), true),
            ("StringMatches", json!("*\\**"), json!("a*b"), true),
            ("StringMatches", json!("*\\**"), json!("ab"), false),
            ("StringMatches", json!("a*a"), json!("a"), false),
            ("StringMatches", json!("abc"), json!("abc"), true),
            ("StringMatches", json!("*"), json!(""), true),
            ("NumericEquals", json!(1), json!(1.0), true),
            ("NumericEquals", json!(1), json!("1"), false),
            ("NumericLessThan", json!(2), json!(1.5), true),
            ("NumericGreaterThan", json!(2), json!(2), false),
            ("NumericLessThanEquals", json!(2), json!(2), true),
            ("NumericGreaterThanEquals", json!(2), json!(1), false),
            ("BooleanEquals", json!(true), json!(true), true),
            ("BooleanEquals", json!(false), json!(0), false),
            ("TimestampEquals", json!(early), json!("2026-01-02T04:04:05+01:00"), true),
            ("TimestampLessThan", json!(late), json!(early), true),
            ("TimestampGreaterThan", json!(early), json!(late), true),
            ("TimestampLessThanEquals", json!(early), json!("soon"), false),
            ("TimestampGreaterThanEquals", json!(early), json!(early), true),
            ("IsNull", json!(true), json!(null), true),
            ("IsNull", json!(false), json!(0), true),
            ("IsPresent", json!(true), json!(null), true),
            ("IsNumeric", json!(true), json!(1.5), true),
            ("IsNumeric", json!(true), json!("1"), false),
            ("IsString", json!(false), json!(1), true),
            ("IsBoolean", json!(true), json!(false), true),
            ("IsTimestamp", json!(true), json!(early), true),
            ("IsTimestamp", json!(true), json!("2026"), false),
        ] {
            let rule = json!({"Variable": "$.v", operator: operand, "Next": "N"});
            assert_eq!(decide(rule, json!({"v": value})), Ok(expected), "{operator} {operand} {value}");
            if !operator.starts_with("Is") && operator != "StringMatches" {
                let rule = json!({"Variable": "$.v", format!("{operator}Path"): "$.o", "Next": "N"});
                assert_eq!(
                    decide(rule, json!({"v": value, "o": operand})),
                    Ok(expected),
                    "{operator}Path {operand} {value}"
                );
            }
        }
    }

    #[test]
    fn rules_are_joined_and_a_missing_variable_is_an_error_except_for_presence() {
        let present = json!({"Variable": "$.v", "IsPresent": true});
        let equals = json!({"Variable": "$.v", "NumericEquals": 1});
        assert_eq!(decide(json!({"And": [present, equals]}), json!({})), Ok(false));
        assert_eq!(decide(json!({"And": [present, equals]}), json!({"v": 1})), Ok(true));
        assert_eq!(decide(json!({"Or": [present, equals]}), json!({"v": 2})), Ok(true));
        assert_eq!(decide(json!({"Not": present}), json!({})), Ok(true));
        assert_eq!(decide(equals, json!({})), Err(MissingVariable("$.v".to_owned())));
        assert_eq!(
            decide(json!({"Variable": "$.v", "IsNull": true}), json!({})),
            Err(MissingVariable("$.v".to_owned()))
        );
    }

    #[test]
    fn a_rule_reads_as_a_sentence() {
        let node = source::read(r#"{"And": [{"Variable": "$.a", "NumericLessThan": 3}, {"Not": {"Variable": "$.b", "StringEqualsPath": "$.c"}}]}"#).unwrap();
        let test = Test::compile(&node, "", true, &mut Vec::new()).unwrap();
        assert_eq!(test.to_string(), "$.a NumericLessThan 3 and (not ($.b StringEquals $.c))");
    }
}
