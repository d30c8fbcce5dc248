//! `${Name}` in a definition, filled in before the machine is created, as SAM's `DefinitionSubstitutions` does.
//!
//! The same file is deployed by SAM and run by `drctl`; both fill the same names. A name is made of letters, digits and
//! underscores. `$${` and `${…}` with other characters are left alone, since JSONata and CloudFormation use them.

use std::collections::{BTreeMap, BTreeSet};

use crate::problem::{Problem, Severity};
use crate::source::Place;

/// The names of the substitutions in a definition.
pub fn placeholders(definition: &str) -> BTreeSet<String> {
    placeholders_of(definition).into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Fills in every substitution; reports each one that has no value, with its place.
///
/// Values are escaped as the inside of a JSON string, since that is where substitutions stand.
pub fn fill(definition: &str, values: &BTreeMap<String, String>) -> Result<String, Vec<Problem>> {
    let mut filled = String::with_capacity(definition.len());
    let mut problems = Vec::new();
    let mut copied = 0;
    for (at, name) in placeholders_of(definition) {
        match values.get(name) {
            Some(value) => {
                filled.push_str(&definition[copied..at]);
                filled.push_str(&escaped(value));
                copied = at + name.len() + "${}".len();
            }
            None => problems.push(unfilled(definition, at, name)),
        }
    }
    filled.push_str(&definition[copied..]);
    if problems.is_empty() { Ok(filled) } else { Err(problems) }
}

pub(crate) fn unfilled(definition: &str, at: usize, name: &str) -> Problem {
    let before = &definition[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let place = Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 };
    Problem::new(
        Severity::Error,
        "unfilled-substitution",
        place,
        "",
        format!("nothing fills in `${{{name}}}`: give it a value, under `DefinitionSubstitutions` for a deployment"),
    )
}

/// Where each substitution stands, and its name.
pub(crate) fn placeholders_of(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = text[from..].find("${") {
        let at = from + offset;
        from = at + 2;
        let escaped_dollar = text[..at].ends_with('$');
        let Some(length) = text[from..].find('}') else {
            break;
        };
        let name = &text[from..from + length];
        if !escaped_dollar && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            found.push((at, name));
            from += length + 1;
        }
    }
    found
}

/// Whether the whole text is one substitution.
pub(crate) fn is_placeholder(text: &str) -> bool {
    matches!(placeholders_of(text).as_slice(), [(0, name)] if name.len() + 3 == text.len())
}

fn escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_once_and_in_order() {
        let text = r#"{"a": "${PlanArn}", "b": "x${B_2}y${PlanArn}", "c": "$${No}", "d": "${not a name}", "e": "${"}"#;
        assert_eq!(placeholders(text).into_iter().collect::<Vec<_>>(), ["B_2", "PlanArn"]);
    }

    #[test]
    fn values_are_escaped_for_json() {
        let values = BTreeMap::from([("A".to_owned(), "say \"hi\"\n".to_owned())]);
        assert_eq!(fill(r#"{"a": "${A}"}"#, &values).unwrap(), r#"{"a": "say \"hi\"\n"}"#);
    }

    #[test]
    fn what_nobody_fills_is_reported_with_its_place() {
        let problems =
            fill("{\n  \"a\": \"${A}${B}\"\n}", &BTreeMap::from([("A".to_owned(), "1".to_owned())])).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].line, problems[0].column), (2, 13));
        assert!(problems[0].message.contains("${B}"));
    }
}
