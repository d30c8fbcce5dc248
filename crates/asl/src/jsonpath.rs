//! Placeholder of the JSONPath language, which this version does not read yet.
use serde_json::Value;
#[derive(Debug, Clone)]
pub(crate) struct Query;
#[derive(Debug, Clone)]
pub(crate) struct Reference;
const LATER: &str = "JSONPath is not supported yet, use JSONata";
impl Query {
    pub(crate) fn parse(_text: &str, _intrinsics: bool) -> Result<Query, String> {
        Err(LATER.to_owned())
    }
}
impl Reference {
    pub(crate) fn parse(_text: &str) -> Result<Reference, String> {
        Err(LATER.to_owned())
    }
    pub(crate) fn place(&self, _input: &Value, _result: Value) -> Result<Value, String> {
        Err(LATER.to_owned())
    }
}
