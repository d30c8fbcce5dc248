//! Placeholder of the JSONPath choice rules, which this version does not read yet.
use std::fmt;

use crate::problem::{Problem, Severity};
use crate::source::Node;
#[derive(Debug, Clone)]
pub(crate) struct Test;
impl Test {
    pub(crate) fn compile(item: &Node, path: &str, _top: bool, findings: &mut Vec<Problem>) -> Option<Test> {
        findings.push(Problem::new(
            Severity::Error,
            "json-path",
            item.place,
            path,
            "JSONPath rules are not supported yet: use JSONata",
        ));
        None
    }
}
impl fmt::Display for Test {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
