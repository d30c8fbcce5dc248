//! JSONPath as Step Functions reads it.
//!
//! Step Functions has the semantics of the Jayway library, not of RFC 9535. A path that can name only one place (a
//! *definite* path) gives the value there, and is an error when nothing is there; a path with a wildcard, slice, filter,
//! union or `..` gives the list of what it finds, which may be empty. `$` is the input, `$$` the context object, `$name`
//! a variable. Where a payload template allows it, a query may also be a call of an intrinsic function.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::intrinsics;
use crate::jsonata::Bindings;
use crate::random::Random;

/// The deepest nesting of brackets and calls that is read.
const MAX_DEPTH: usize = 20;

/// A path or an intrinsic function.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    text: Arc<str>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Path(Path),
    Call(Call),
}

/// A call of an intrinsic function.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) text: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) arguments: Vec<Argument>,
}

#[derive(Debug, Clone)]
pub(crate) enum Argument {
    Literal(Value),
    /// A string as written, with `\{` and `\}` still escaped; only `States.Format` looks at those.
    Text(String),
    Query(Query),
}

#[derive(Debug, Clone)]
struct Path {
    root: Root,
    steps: Vec<Step>,
    definite: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Root {
    Input,
    Context,
    Variable(String),
}

#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Keys(Vec<String>),
    Index(i64),
    Indices(Vec<i64>),
    Slice(Option<i64>, Option<i64>),
    Wildcard,
    /// `..`: the step that follows applies to every descendant.
    Deep,
    Filter(Filter),
    /// `.length()` and its kind, at the end of a path.
    Function(Function),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Length,
    Min,
    Max,
    Sum,
    Avg,
    Keys,
}

#[derive(Debug, Clone)]
enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Exists(Operand),
    Compare(Operand, Comparison, Operand),
    /// `=~ /…/`: the whole text matches.
    Matches(Operand, Regex),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone)]
enum Operand {
    Literal(Value),
    /// `@…`: from the item.
    Item(Vec<Step>),
    /// `$…`: from the root of the document that is being filtered.
    Root(Vec<Step>),
}

/// Why a query gave no value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PathError {
    /// A definite path names nothing.
    Missing {
        /// The path as written.
        path: String,
        /// Why, in the words of Jayway.
        reason: String,
    },
    /// A path among the arguments of an intrinsic function names nothing.
    MissingArgument {
        /// The function as written.
        function: String,
        /// The path.
        path: String,
    },
    /// An intrinsic function failed.
    Intrinsic {
        /// The function as written.
        function: String,
        /// Why.
        message: String,
    },
}

impl Query {
    /// Reads a path, or where `intrinsics` allows it a call of an intrinsic function.
    pub(crate) fn parse(text: &str, intrinsics: bool) -> Result<Query, String> {
        let mut reader = Reader { text, at: 0 };
        let kind = if text.starts_with("States.") {
            if !intrinsics {
                return Err("intrinsic functions are only allowed in payload templates, not in paths".to_owned());
            }
            Kind::Call(reader.call(0)?)
        } else {
            Kind::Path(reader.path(0)?)
        };
        if reader.at < text.len() {
            return Err(format!("`{}` is left over after the end", &text[reader.at..]));
        }
        Ok(Query { text: text.into(), kind })
    }

    /// As written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The names of the variables it reads.
    pub(crate) fn variables(&self, found: &mut Vec<String>) {
        match &self.kind {
            Kind::Path(Path { root: Root::Variable(name), .. }) => found.push(name.clone()),
            Kind::Path(_) => {}
            Kind::Call(call) => {
                for argument in &call.arguments {
                    if let Argument::Query(query) = argument {
                        query.variables(found);
                    }
                }
            }
        }
    }

    /// Whether it is the whole input.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(&self.kind, Kind::Path(path) if path.root == Root::Input && path.steps.is_empty())
    }

    /// The value, or why there is none.
    pub(crate) fn evaluate(&self, bindings: &dyn Bindings, random: &mut Random) -> Result<Value, PathError> {
        match &self.kind {
            Kind::Path(path) => path.evaluate(bindings).ok_or_else(|| self.missing(bindings)),
            // The sentence names the whole expression, however deep the call that failed.
            Kind::Call(call) => evaluate_call(call, bindings, random).map_err(|error| match error {
                PathError::MissingArgument { path, .. } => {
                    PathError::MissingArgument { function: self.text.to_string(), path }
                }
                PathError::Intrinsic { message, .. } => {
                    PathError::Intrinsic { function: self.text.to_string(), message }
                }
                other => other,
            }),
        }
    }

    /// The value a definite path names, or the list an indefinite one finds; `None` when there is nothing.
    pub(crate) fn find(&self, bindings: &dyn Bindings) -> Option<Value> {
        match &self.kind {
            Kind::Path(path) => path.evaluate(bindings),
            Kind::Call(_) => None,
        }
    }

    /// What to say of a path that names nothing.
    pub(crate) fn missing(&self, bindings: &dyn Bindings) -> PathError {
        let reason = match &self.kind {
            Kind::Path(path) => path.why_missing(bindings),
            Kind::Call(_) => String::new(),
        };
        PathError::Missing { path: self.text.to_string(), reason }
    }

    /// The place a definite path names, without copying.
    pub(crate) fn find_ref<'a>(&self, bindings: &'a dyn Bindings) -> Option<&'a Value> {
        match &self.kind {
            Kind::Path(path) if path.definite => path.root(bindings).and_then(|root| walk(root, &path.steps)),
            _ => None,
        }
    }

    /// Whether it is a definite path that fails only because an index lies past the end of an array.
    pub(crate) fn passes_an_end(&self, bindings: &dyn Bindings) -> bool {
        let Kind::Path(path) = &self.kind else { return false };
        let Some(mut at) = path.root(bindings).filter(|_| path.definite) else { return false };
        for step in &path.steps {
            if let (Step::Index(index), Value::Array(items)) = (step, at)
                && position(*index, items.len()).and_then(|index| items.get(index)).is_none()
            {
                return true;
            }
            match walk(at, std::slice::from_ref(step)) {
                Some(next) => at = next,
                None => return false,
            }
        }
        false
    }

    /// Whether it names at most one place.
    pub(crate) fn is_definite(&self) -> bool {
        matches!(&self.kind, Kind::Path(path) if path.definite && !matches!(path.steps.last(), Some(Step::Function(_))))
    }
}

fn evaluate_call(call: &Call, bindings: &dyn Bindings, random: &mut Random) -> Result<Value, PathError> {
    let mut values = Vec::with_capacity(call.arguments.len());
    for argument in &call.arguments {
        values.push(match argument {
            Argument::Literal(value) => value.clone(),
            Argument::Text(text) if &*call.name == "Format" => Value::from(text.as_str()),
            Argument::Text(text) => Value::String(text.replace("\\{", "{").replace("\\}", "}")),
            Argument::Query(query) => match query.evaluate(bindings, random) {
                Err(PathError::Missing { path, .. }) => {
                    return Err(PathError::MissingArgument { function: call.text.to_string(), path });
                }
                other => other?,
            },
        });
    }
    intrinsics::call(&call.name, values, random)
        .map_err(|message| PathError::Intrinsic { function: call.text.to_string(), message })
}

impl Path {
    fn root<'a>(&self, bindings: &'a dyn Bindings) -> Option<&'a Value> {
        match &self.root {
            Root::Input => Some(bindings.input()),
            Root::Context => Some(bindings.context()),
            Root::Variable(name) => bindings.variable(name),
        }
    }

    fn evaluate(&self, bindings: &dyn Bindings) -> Option<Value> {
        let root = self.root(bindings)?;
        if let Some((Step::Function(function), steps)) = self.steps.split_last() {
            let value = if self.definite {
                walk(root, steps)?.clone()
            } else {
                Value::Array(find(root, root, steps).into_iter().cloned().collect())
            };
            return apply(*function, &value);
        }
        if self.definite {
            return walk(root, &self.steps).cloned();
        }
        // The only step that makes values instead of finding them; it cannot be found by reference.
        if let Some((Step::Keys(names), steps)) = self.steps.split_last() {
            let parents = find(root, root, steps);
            let single = steps.iter().all(is_definite_step);
            let mut projected = parents.into_iter().filter_map(|parent| project(parent, names));
            return if single { projected.next() } else { Some(Value::Array(projected.collect())) };
        }
        Some(Value::Array(find(root, root, &self.steps).into_iter().cloned().collect()))
    }

    /// Jayway tells a last member that is missing from one on the way.
    fn why_missing(&self, bindings: &dyn Bindings) -> String {
        if let Some(mut at) = self.root(bindings).filter(|_| self.definite) {
            for (index, step) in self.steps.iter().enumerate() {
                match walk(at, std::slice::from_ref(step)) {
                    Some(next) => at = next,
                    None if index + 1 < self.steps.len() && at.is_object() => {
                        return format!("Missing property in path {}", self.canonical(index + 1));
                    }
                    None => break,
                }
            }
        }
        format!("No results for path: {}", self.canonical(self.steps.len()))
    }

    /// `$['a'][0]`, as far as so many steps.
    fn canonical(&self, steps: usize) -> String {
        let mut text = match &self.root {
            Root::Input => "$".to_owned(),
            Root::Context => "$$".to_owned(),
            Root::Variable(name) => format!("${name}"),
        };
        for step in &self.steps[..steps] {
            match step {
                Step::Key(key) => text.push_str(&format!("['{key}']")),
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                _ => {}
            }
        }
        text
    }
}

fn is_definite_step(step: &Step) -> bool {
    matches!(step, Step::Key(_) | Step::Index(_) | Step::Function(_))
}

fn project(parent: &Value, names: &[String]) -> Option<Value> {
    let map = parent.as_object()?;
    let members = names.iter().filter_map(|name| map.get(name).map(|value| (name.clone(), value.clone())));
    Some(Value::Object(members.collect::<Map<_, _>>()))
}

fn apply(function: Function, value: &Value) -> Option<Value> {
    let numbers = || -> Option<Vec<f64>> {
        let numbers: Vec<f64> = value.as_array()?.iter().filter_map(Value::as_f64).collect();
        (!numbers.is_empty()).then_some(numbers)
    };
    match function {
        Function::Length => Some(Value::from(match value {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            Value::String(text) => text.chars().count(),
            _ => return Some(Value::Null),
        })),
        Function::Keys => Some(Value::Array(value.as_object()?.keys().map(|key| Value::from(key.as_str())).collect())),
        Function::Min => numbers()?.into_iter().reduce(f64::min).map(Value::from),
        Function::Max => numbers()?.into_iter().reduce(f64::max).map(Value::from),
        Function::Sum => Some(Value::from(numbers()?.into_iter().sum::<f64>())),
        Function::Avg => {
            let numbers = numbers()?;
            Some(Value::from(numbers.iter().sum::<f64>() / numbers.len() as f64))
        }
    }
}

/// Follows steps that name one place each.
fn walk<'a>(root: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    let mut at = root;
    for step in steps {
        at = match (step, at) {
            (Step::Key(key), Value::Object(map)) => map.get(key)?,
            (Step::Index(index), Value::Array(items)) => items.get(position(*index, items.len())?)?,
            _ => return None,
        };
    }
    Some(at)
}

fn position(index: i64, length: usize) -> Option<usize> {
    if index >= 0 {
        usize::try_from(index).ok()
    } else {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
    }
}

/// Everything that steps find, in the order of the document.
fn find<'a>(document: &'a Value, start: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![start];
    let mut steps = steps.iter();
    while let Some(step) = steps.next() {
        let mut next = Vec::new();
        match step {
            Step::Deep => {
                let Some(inner) = steps.next() else { break };
                for value in found {
                    descend(document, value, inner, &mut next);
                }
            }
            step => {
                for value in found {
                    take(document, value, step, &mut next);
                }
            }
        }
        found = next;
    }
    found
}

fn descend<'a>(document: &'a Value, value: &'a Value, step: &Step, next: &mut Vec<&'a Value>) {
    take(document, value, step, next);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(document, item, step, next)),
        Value::Object(map) => map.values().for_each(|member| descend(document, member, step, next)),
        _ => {}
    }
}

fn take<'a>(document: &'a Value, value: &'a Value, step: &Step, next: &mut Vec<&'a Value>) {
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => next.extend(map.get(key)),
        (Step::Keys(names), Value::Object(map)) => next.extend(names.iter().filter_map(|name| map.get(name))),
        (Step::Index(index), Value::Array(items)) => {
            next.extend(position(*index, items.len()).and_then(|at| items.get(at)));
        }
        (Step::Indices(indices), Value::Array(items)) => {
            next.extend(indices.iter().filter_map(|index| position(*index, items.len()).and_then(|at| items.get(at))));
        }
        (Step::Slice(from, to), Value::Array(items)) => {
            let bound = |index: i64| {
                if index < 0 { (items.len() as i64 + index).max(0) } else { index.min(items.len() as i64) }
            };
            let (from, to) = (from.map_or(0, bound), to.map_or(items.len() as i64, bound));
            if from < to {
                next.extend(&items[from as usize..to as usize]);
            }
        }
        (Step::Wildcard, Value::Array(items)) => next.extend(items),
        (Step::Wildcard, Value::Object(map)) => next.extend(map.values()),
        (Step::Filter(filter), Value::Array(items)) => {
            next.extend(items.iter().filter(|item| filter.holds(document, item)))
        }
        (Step::Filter(filter), Value::Object(_)) if filter.holds(document, value) => next.push(value),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, document: &Value, item: &Value) -> bool {
        match self {
            Filter::All(parts) => parts.iter().all(|part| part.holds(document, item)),
            Filter::Any(parts) => parts.iter().any(|part| part.holds(document, item)),
            Filter::Not(part) => !part.holds(document, item),
            Filter::Exists(operand) => operand.value(document, item).is_some(),
            Filter::Matches(operand, pattern) => operand
                .value(document, item)
                .as_ref()
                .and_then(Value::as_str)
                .is_some_and(|text| pattern.is_match(text)),
            Filter::Compare(left, comparison, right) => {
                let (left, right) = (left.value(document, item), right.value(document, item));
                match (comparison, &left, &right) {
                    (Comparison::NotEqual, _, _) => match (&left, &right) {
                        (Some(left), Some(right)) => !same(left, right),
                        (None, None) => false,
                        _ => true,
                    },
                    (_, Some(left), Some(right)) => compare(left, *comparison, right),
                    _ => false,
                }
            }
        }
    }
}

impl Operand {
    fn value(&self, document: &Value, item: &Value) -> Option<Value> {
        let (root, steps) = match self {
            Operand::Literal(value) => return Some(value.clone()),
            Operand::Item(steps) => (item, steps),
            Operand::Root(steps) => (document, steps),
        };
        if let Some((Step::Function(function), steps)) = steps.split_last() {
            return apply(*function, walk(root, steps)?);
        }
        if steps.iter().all(is_definite_step) {
            return walk(root, steps).cloned();
        }
        let found = find(document, root, steps);
        (!found.is_empty()).then(|| Value::Array(found.into_iter().cloned().collect()))
    }
}

/// Equality of JSON in which 1 and 1.0 are the same number.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => left == right,
    }
}

fn compare(left: &Value, comparison: Comparison, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match comparison {
        Comparison::Equal => same(left, right),
        Comparison::NotEqual => !same(left, right),
        Comparison::Less => order.is_some_and(|order| order.is_lt()),
        Comparison::LessOrEqual => order.is_some_and(|order| order.is_le()),
        Comparison::Greater => order.is_some_and(|order| order.is_gt()),
        Comparison::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
        Comparison::In => right.as_array().is_some_and(|list| list.iter().any(|item| same(item, left))),
        Comparison::NotIn => !right.as_array().is_some_and(|list| list.iter().any(|item| same(item, left))),
    }
}

/// A reference path: one place in a document that can be written to.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    text: Arc<str>,
    steps: Vec<Spot>,
}

#[derive(Debug, Clone)]
enum Spot {
    Key(String),
    Index(usize),
}

impl Reference {
    /// Reads a reference path: `$`, keys and indices.
    pub(crate) fn parse(text: &str) -> Result<Reference, String> {
        let query = Query::parse(text, false)?;
        let Kind::Path(path) = query.kind else { return Err("it must be a path".to_owned()) };
        if path.root != Root::Input {
            return Err("it must begin with `$`: the context object and variables cannot be written to".to_owned());
        }
        let mut steps = Vec::with_capacity(path.steps.len());
        for step in path.steps {
            steps.push(match step {
                Step::Key(key) => Spot::Key(key),
                Step::Index(index) => match usize::try_from(index) {
                    Ok(index) => Spot::Index(index),
                    Err(_) => return Err("an index in a reference path is not negative".to_owned()),
                },
                _ => return Err("a reference path names one place: no `*`, `..`, slices or filters".to_owned()),
            });
        }
        Ok(Reference { text: text.into(), steps })
    }

    /// Whether it is `$`: the result replaces everything.
    pub(crate) fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Puts a result into a document, making objects on the way.
    pub(crate) fn place(&self, input: &Value, result: Value) -> Result<Value, String> {
        let mut document = input.clone();
        let mut at = &mut document;
        for step in &self.steps {
            at = match (step, at) {
                (Spot::Key(key), Value::Object(map)) => {
                    map.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()))
                }
                (Spot::Index(index), Value::Array(items)) if *index < items.len() => &mut items[*index],
                _ => return Err(format!("Unable to apply ReferencePath {} to input {input}", self.text)),
            };
        }
        *at = result;
        Ok(document)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.eat(word) {
            return Ok(());
        }
        Err(match self.peek() {
            Some(found) => format!("expected `{word}` at character {}, found `{found}`", self.at + 1),
            None => format!("expected `{word}` at the end"),
        })
    }

    fn path(&mut self, depth: usize) -> Result<Path, String> {
        if !self.eat("$") {
            return Err("a path begins with `$`".to_owned());
        }
        let root = if self.eat("$") {
            Root::Context
        } else if self.peek().is_some_and(|letter| letter.is_alphabetic() || letter == '_') {
            Root::Variable(self.identifier())
        } else {
            Root::Input
        };
        let steps = self.steps(depth)?;
        let definite = steps.iter().all(is_definite_step);
        Ok(Path { root, steps, definite })
    }

    fn identifier(&mut self) -> String {
        let mut name = String::new();
        while let Some(letter) = self.peek().filter(|letter| letter.is_alphanumeric() || *letter == '_') {
            name.push(letter);
            self.next();
        }
        name
    }

    fn steps(&mut self, depth: usize) -> Result<Vec<Step>, String> {
        let mut steps: Vec<Step> = Vec::new();
        loop {
            if matches!(steps.last(), Some(Step::Function(_))) {
                return Ok(steps);
            }
            match self.peek() {
                Some('.') => {
                    self.next();
                    if self.eat(".") {
                        steps.push(Step::Deep);
                        if self.peek() == Some('[') {
                            continue;
                        }
                    }
                    steps.push(self.name()?);
                }
                Some('[') => {
                    self.next();
                    let step = self.bracket(depth)?;
                    steps.push(step);
                }
                _ => return Ok(steps),
            }
        }
    }

    fn name(&mut self) -> Result<Step, String> {
        if self.eat("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        while let Some(letter) = self.peek().filter(|letter| {
            !matches!(letter, '.' | '[' | ']' | '(' | ')' | ',' | '=' | '<' | '>' | '!' | '&' | '|' | '\'' | '"' | '~')
                && !letter.is_whitespace()
        }) {
            name.push(letter);
            self.next();
        }
        if name.is_empty() {
            return Err(match self.peek() {
                Some(found) => format!("expected a name at character {}, found `{found}`", self.at + 1),
                None => "it ends with `.`".to_owned(),
            });
        }
        if self.rest().starts_with("()") {
            let function = match name.as_str() {
                "length" | "size" => Function::Length,
                "min" => Function::Min,
                "max" => Function::Max,
                "sum" => Function::Sum,
                "avg" => Function::Avg,
                "keys" => Function::Keys,
                other => return Err(format!("there is no function `{other}()` in a path")),
            };
            self.at += 2;
            return Ok(Step::Function(function));
        }
        Ok(Step::Key(name))
    }

    fn bracket(&mut self, depth: usize) -> Result<Step, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        self.skip_space();
        let step = match self.peek() {
            Some('*') => {
                self.next();
                Step::Wildcard
            }
            Some('\'' | '"') => {
                let mut names = vec![self.quoted()?];
                self.skip_space();
                while self.eat(",") {
                    self.skip_space();
                    names.push(self.quoted()?);
                    self.skip_space();
                }
                if names.len() == 1 { Step::Key(names.remove(0)) } else { Step::Keys(names) }
            }
            Some('?') => {
                self.next();
                self.skip_space();
                let filter = self.any(depth + 1)?;
                Step::Filter(filter)
            }
            Some(':') => {
                self.next();
                self.skip_space();
                Step::Slice(None, self.integer()?)
            }
            Some('-' | '0'..='9') => {
                let Some(first) = self.integer()? else { return Err("expected a number".to_owned()) };
                self.skip_space();
                if self.eat(":") {
                    self.skip_space();
                    Step::Slice(Some(first), self.integer()?)
                } else {
                    let mut indices = vec![first];
                    while self.eat(",") {
                        self.skip_space();
                        let Some(index) = self.integer()? else { return Err("expected a number after `,`".to_owned()) };
                        indices.push(index);
                        self.skip_space();
                    }
                    if indices.len() == 1 { Step::Index(first) } else { Step::Indices(indices) }
                }
            }
            Some(found) => {
                return Err(format!(
                    "expected an index, a quoted name, `*`, a slice or a filter after `[`, found `{found}`"
                ));
            }
            None => return Err("`[` without `]`".to_owned()),
        };
        self.skip_space();
        self.expect("]")?;
        Ok(step)
    }

    fn integer(&mut self) -> Result<Option<i64>, String> {
        let start = self.at;
        self.eat("-");
        while self.peek().is_some_and(|letter| letter.is_ascii_digit()) {
            self.next();
        }
        let digits = &self.text[start..self.at];
        if digits.is_empty() {
            return Ok(None);
        }
        digits.parse().map(Some).map_err(|_| format!("`{digits}` is not an index"))
    }

    fn quoted(&mut self) -> Result<String, String> {
        let Some(quote) = self.next().filter(|letter| matches!(letter, '\'' | '"')) else {
            return Err("expected a quoted name".to_owned());
        };
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(format!("{quote} without an end")),
                // R: a backslash before anything but the quote or itself stands for itself.
                Some('\\') => match self.next() {
                    Some(escaped) if escaped == quote || escaped == '\\' => text.push(escaped),
                    Some(other) => text.extend(['\\', other]),
                    None => return Err(format!("{quote} without an end")),
                },
                Some(letter) if letter == quote => return Ok(text),
                Some(letter) => text.push(letter),
            }
        }
    }

    fn any(&mut self, depth: usize) -> Result<Filter, String> {
        let mut parts = vec![self.all(depth)?];
        self.skip_space();
        while self.eat("||") {
            parts.push(self.all(depth)?);
            self.skip_space();
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Filter, String> {
        let mut parts = vec![self.term(depth)?];
        self.skip_space();
        while self.eat("&&") {
            parts.push(self.term(depth)?);
            self.skip_space();
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::All(parts) })
    }

    fn term(&mut self, depth: usize) -> Result<Filter, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        self.skip_space();
        if self.peek() == Some('!') && !self.rest().starts_with("!=") {
            self.next();
            return Ok(Filter::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.eat("(") {
            let inner = self.any(depth + 1)?;
            self.skip_space();
            self.expect(")")?;
            return Ok(inner);
        }
        let left = self.operand(depth)?;
        self.skip_space();
        if self.eat("=~") {
            self.skip_space();
            return Ok(Filter::Matches(left, self.pattern()?));
        }
        let comparison = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("in ", Comparison::In),
            ("nin ", Comparison::NotIn),
        ]
        .into_iter()
        .find_map(|(word, comparison)| self.eat(word).then_some(comparison));
        let Some(comparison) = comparison else { return Ok(Filter::Exists(left)) };
        self.skip_space();
        Ok(Filter::Compare(left, comparison, self.operand(depth)?))
    }

    /// `/…/i`, matched against the whole text as Java's `matches` does.
    fn pattern(&mut self) -> Result<Regex, String> {
        self.expect("/")?;
        let mut pattern = String::new();
        loop {
            match self.next() {
                None => return Err("a pattern without a closing `/`".to_owned()),
                Some('/') => break,
                Some('\\') if self.peek() == Some('/') => pattern.extend(self.next()),
                Some('\\') => {
                    pattern.push('\\');
                    pattern.extend(self.next());
                }
                Some(letter) => pattern.push(letter),
            }
        }
        let ignore_case = self.eat("i");
        RegexBuilder::new(&format!("^(?:{pattern})$"))
            .case_insensitive(ignore_case)
            .size_limit(1 << 20)
            .build()
            .map_err(|_| format!("`/{pattern}/` is not a pattern that can be read"))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, String> {
        match self.peek() {
            Some('@') => {
                self.next();
                Ok(Operand::Item(self.steps(depth + 1)?))
            }
            Some('$') => {
                self.next();
                Ok(Operand::Root(self.steps(depth + 1)?))
            }
            Some('\'' | '"') => self.quoted().map(|text| Operand::Literal(Value::from(text))),
            Some('[') => {
                self.next();
                let mut list = Vec::new();
                self.skip_space();
                while !self.eat("]") {
                    match self.operand(depth + 1)? {
                        Operand::Literal(value) if depth <= MAX_DEPTH => list.push(value),
                        _ => return Err("a list in a filter has constants only".to_owned()),
                    }
                    self.skip_space();
                    self.eat(",");
                    self.skip_space();
                }
                Ok(Operand::Literal(Value::Array(list)))
            }
            _ => self.literal().map(Operand::Literal),
        }
    }

    /// A number, `true`, `false` or `null`.
    fn literal(&mut self) -> Result<Value, String> {
        let start = self.at;
        while self.peek().is_some_and(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '+' | '.')) {
            self.next();
        }
        let word = &self.text[start..self.at];
        match serde_json::from_str::<Value>(word) {
            Ok(value) => Ok(value),
            Err(_) => Err(match word {
                "" => format!("expected a value at character {}", start + 1),
                word => format!("`{word}` is not a value: quote a text with `'`"),
            }),
        }
    }

    fn call(&mut self, depth: usize) -> Result<Call, String> {
        if depth > MAX_DEPTH {
            return Err("functions are nested too deeply".to_owned());
        }
        let start = self.at;
        self.expect("States.")?;
        let name = self.identifier();
        let Some(arity) = intrinsics::arity(&name) else {
            return Err(format!("there is no intrinsic function `States.{name}`"));
        };
        self.skip_space();
        self.expect("(")?;
        let mut arguments = Vec::new();
        self.skip_space();
        if !self.eat(")") {
            loop {
                self.skip_space();
                arguments.push(self.argument(depth)?);
                self.skip_space();
                if self.eat(",") {
                    continue;
                }
                self.expect(")")?;
                break;
            }
        }
        if !arity.contains(&arguments.len()) {
            return Err(format!("`States.{name}` does not take {} arguments", arguments.len()));
        }
        Ok(Call { text: self.text[start..self.at].into(), name: name.into(), arguments })
    }

    fn argument(&mut self, depth: usize) -> Result<Argument, String> {
        if self.rest().starts_with("States.") {
            let start = self.at;
            let call = self.call(depth + 1)?;
            return Ok(Argument::Query(Query { text: self.text[start..self.at].into(), kind: Kind::Call(call) }));
        }
        match self.peek() {
            Some('$') => {
                let start = self.at;
                let path = self.path(depth + 1)?;
                Ok(Argument::Query(Query { text: self.text[start..self.at].into(), kind: Kind::Path(path) }))
            }
            Some('\'') => {
                self.next();
                let mut text = String::new();
                loop {
                    match self.next() {
                        None => return Err("a string without a closing `'`".to_owned()),
                        Some('\'') => return Ok(Argument::Text(text)),
                        Some('\\') => match self.next() {
                            Some(escaped @ ('{' | '}')) => {
                                text.push('\\');
                                text.push(escaped);
                            }
                            Some(escaped @ ('\'' | '\\' | '"')) => text.push(escaped),
                            Some(other) => {
                                text.push('\\');
                                text.push(other);
                            }
                            None => return Err("a string without a closing `'`".to_owned()),
                        },
                        Some(letter) => text.push(letter),
                    }
                }
            }
            _ => self.literal().map(Argument::Literal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed(Value, Value, Value);

    impl Bindings for Fixed {
        fn input(&self) -> &Value {
            &self.0
        }
        fn context(&self) -> &Value {
            &self.1
        }
        fn result(&self) -> Option<&Value> {
            None
        }
        fn error_output(&self) -> Option<&Value> {
            None
        }
        fn variable(&self, name: &str) -> Option<&Value> {
            (name == "x").then_some(&self.2)
        }
    }

    fn bindings() -> Fixed {
        Fixed(
            json!({
                "store": {"book": [
                    {"title": "A", "price": 8.95, "tags": ["x"]},
                    {"title": "B", "price": 12.99, "isbn": "0-1"},
                    {"title": "C", "price": 22.99, "isbn": "0-2"}
                ], "bicycle": {"color": "red", "price": 19.95}},
                "max": 10, "a b": 1, "empty": [], "n": null
            }),
            json!({"Execution": {"Name": "e"}}),
            json!({"y": [1, 2]}),
        )
    }

    fn evaluate(path: &str) -> Result<Value, PathError> {
        Query::parse(path, true)
            .unwrap_or_else(|why| panic!("{path}: {why}"))
            .evaluate(&bindings(), &mut Random::seeded(1))
    }

    #[test]
    fn definite_paths_give_the_value_and_indefinite_ones_a_list() {
        for (path, expected) in [
            ("$.max", json!(10)),
            ("$['a b']", json!(1)),
            ("$.store.book[0].title", json!("A")),
            ("$.store.book[-1].title", json!("C")),
            ("$.n", json!(null)),
            ("$$.Execution.Name", json!("e")),
            ("$x.y[1]", json!(2)),
            ("$x", json!({"y": [1, 2]})),
            ("$.store.book[*].title", json!(["A", "B", "C"])),
            ("$.store.book[0,2].title", json!(["A", "C"])),
            ("$.store.book[1:].title", json!(["B", "C"])),
            ("$.store.book[:1].title", json!(["A"])),
            ("$.store.book[-2:].title", json!(["B", "C"])),
            ("$.store.book[0:2].title", json!(["A", "B"])),
            ("$..price", json!([8.95, 12.99, 22.99, 19.95])),
            ("$..book[0].title", json!(["A"])),
            ("$.store.bicycle.*", json!(["red", 19.95])),
            ("$.store.book[?(@.isbn)].title", json!(["B", "C"])),
            ("$.store.book[?(@.price < 10)].title", json!(["A"])),
            ("$.store.book[?(@.price < $.max)].title", json!(["A"])),
            ("$.store.book[?(@.price > 10 && @.title != 'C')].title", json!(["B"])),
            ("$.store.book[?(@.title == 'A' || @.title == \"C\")].title", json!(["A", "C"])),
            ("$.store.book[?(!(@.isbn))].title", json!(["A"])),
            ("$.store.book[?(@.title in ['A', 'B'])].title", json!(["A", "B"])),
            ("$.store.book[?(@.title =~ /[ab]/i)].title", json!(["A", "B"])),
            ("$.store.book[?(@.isbn =~ /0-.*/ && @.price < 20)].title", json!(["B"])),
            ("$.store.bicycle['color','price']", json!({"color": "red", "price": 19.95})),
            ("$.nothing[*]", json!([])),
            ("$.nothing.at[1:5].all", json!([])),
            ("$.store.book.length()", json!(3)),
        ] {
            assert_eq!(evaluate(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_definite_path_to_nothing_is_an_error() {
        for path in [
            "$.nothing",
            "$.store.book[3]",
            "$.store.book[-4]",
            "$.max.deeper",
            "$.empty[0]",
            "$y",
            "$.store.book.title",
        ] {
            assert!(matches!(evaluate(path), Err(PathError::Missing { .. })), "{path}");
        }
        let reason = |path: &str| match evaluate(path) {
            Err(PathError::Missing { reason, .. }) => reason,
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(reason("$.store.book[0]['c d']"), "No results for path: $['store']['book'][0]['c d']");
        assert_eq!(reason("$.store.book[9].title"), "No results for path: $['store']['book'][9]['title']");
        assert_eq!(reason("$.a.b.c"), "Missing property in path $['a']");
    }

    #[test]
    fn what_is_not_a_path_is_refused_with_a_reason() {
        for path in [
            "",
            "a",
            "$.",
            "$.a.",
            "$[",
            "$[a]",
            "$['a]",
            "$.a b",
            "$[1",
            "$[?(@.a ==)]",
            "$.a[1:2",
            "States.Nope()",
            "States.Format(",
            "States.UUID(1)",
            "$.x.foo()",
        ] {
            assert!(Query::parse(path, true).is_err(), "{path}");
        }
        assert!(Query::parse("States.UUID()", false).is_err());
        assert!(Query::parse(&format!("$[?{}@.a", "(".repeat(100_000)), true).is_err());
    }

    #[test]
    fn a_result_is_placed_where_the_reference_path_says() {
        let place = |path: &str, input: Value| Reference::parse(path).unwrap().place(&input, json!(9));
        assert_eq!(place("$.a.b", json!({"c": 1})), Ok(json!({"c": 1, "a": {"b": 9}})));
        assert_eq!(place("$.a[1]", json!({"a": [1, 2]})), Ok(json!({"a": [1, 9]})));
        assert_eq!(place("$", json!({"c": 1})), Ok(json!(9)));
        assert!(place("$.a", json!([1])).is_err());
        assert!(place("$.a[5]", json!({"a": [1]})).is_err());
        assert!(Reference::parse("$.a[*]").is_err());
        assert!(Reference::parse("$$.a").is_err());
    }
}
