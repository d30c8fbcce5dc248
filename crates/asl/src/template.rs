//! Payload templates and queries, in both query languages.
//!
//! A template is a JSON document with holes. In JSONata a string `{% … %}` is a hole; in JSONPath a member whose name ends
//! in `.$` is one. Everything without a hole is kept as one shared document.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::jsonata;
use crate::jsonpath;
use crate::payload::Payload;

/// An expression in either language.
#[derive(Debug, Clone)]
pub(crate) enum Query {
    Jsonata(jsonata::Expression),
    Path(jsonpath::Query),
}

/// A document with holes.
#[derive(Debug, Clone)]
pub(crate) enum Template {
    Literal(Payload),
    Query(Query),
    Object(Vec<(Arc<str>, Template)>),
    Array(Vec<Template>),
}

/// A number in a definition: fixed, or computed when the state is entered.
#[derive(Debug, Clone)]
pub(crate) enum Amount {
    Fixed(u64),
    Query(Query),
}

/// Where in a field a template is being filled; only spelled out when something goes wrong there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spot<'a> {
    Field(&'a str),
    Key(&'a Spot<'a>, &'a str),
    Index(&'a Spot<'a>, usize),
}

impl Spot<'_> {
    pub(crate) fn spell(&self) -> String {
        match self {
            Spot::Field(name) => (*name).to_owned(),
            Spot::Key(parent, key) => format!("{}/{key}", parent.spell()),
            Spot::Index(parent, index) => format!("{}[{index}]", parent.spell()),
        }
    }
}

impl Template {
    /// Fills the holes with what `answer` gives for each query.
    pub(crate) fn fill<E>(
        &self,
        spot: Spot<'_>,
        answer: &mut dyn FnMut(&Query, Spot<'_>) -> Result<Value, E>,
    ) -> Result<Value, E> {
        Ok(match self {
            Template::Literal(payload) => payload.value().clone(),
            Template::Query(query) => answer(query, spot)?,
            Template::Object(members) => {
                let mut map = Map::with_capacity(members.len());
                for (key, value) in members {
                    map.insert(key.to_string(), value.fill(Spot::Key(&spot, key), answer)?);
                }
                Value::Object(map)
            }
            Template::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    list.push(item.fill(Spot::Index(&spot, index), answer)?);
                }
                Value::Array(list)
            }
        })
    }

    /// The same, without copying a document that has no holes.
    pub(crate) fn fill_payload<E>(
        &self,
        spot: Spot<'_>,
        answer: &mut dyn FnMut(&Query, Spot<'_>) -> Result<Value, E>,
    ) -> Result<Payload, E> {
        match self {
            Template::Literal(payload) => Ok(payload.clone()),
            other => Ok(other.fill(spot, answer)?.into()),
        }
    }
}
