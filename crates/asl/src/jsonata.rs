//! JSONata as Step Functions speaks it: a trait-sized border around the engine that evaluates it.
//!
//! Step Functions runs JSONata 2.0.6 without `$eval`, with six functions of its own, and without a root document: there is
//! no `$` and no `$$` at the top of an expression, only `$states` and the machine's variables. The engine used here knows
//! a later JSONata and would accept more; [`Expression::parse`] rejects what AWS would reject, because a machine that
//! passes here and fails there is worse than one that fails in both places.
//!
//! The engine's values are reference counted for one thread. An [`Expression`] therefore knows which parts of `$states`
//! and which variables it reads, and only those are converted; expressions that merely walk into `$states` or a variable,
//! which is what most are, never enter the engine at all.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;
use jsonata_core::ast::{AstNode, BinaryOp, PathStep, Stage};
use jsonata_core::evaluator::{Context, Evaluator, EvaluatorError, EvaluatorOptions};
use jsonata_core::parser;
use jsonata_core::value::JValue;
use serde_json::{Map, Number, Value};

use crate::random::Random;

/// The longest an evaluation may take before it is taken for one that never ends.
const MAX_EVALUATION_MS: u64 = 5_000;
/// The longest sequence that AWS builds before it reports its memory limit (measured: `[1..873782]`).
const MAX_SEQUENCE: usize = 873_782;
/// Nested calls; deep enough for any honest recursion and well within the stack.
const MAX_STACK: usize = 3_000;
/// The longest expression that is read; a definition as a whole may have 1 MB.
const MAX_SOURCE_BYTES: usize = 262_144;

/// Functions that Step Functions adds to JSONata.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html>
const ADDED_FUNCTIONS: [&str; 5] = ["parse", "uuid", "hash", "partition", "range"];

/// Functions of JSONata 2.0.6, without those Step Functions refuses.
const KNOWN_FUNCTIONS: &[&str] = &[
    "sum",
    "count",
    "max",
    "min",
    "average",
    "string",
    "substring",
    "substringBefore",
    "substringAfter",
    "lowercase",
    "uppercase",
    "length",
    "trim",
    "pad",
    "match",
    "contains",
    "replace",
    "split",
    "join",
    "formatNumber",
    "formatBase",
    "formatInteger",
    "parseInteger",
    "number",
    "floor",
    "ceil",
    "round",
    "abs",
    "sqrt",
    "power",
    "random",
    "boolean",
    "not",
    "map",
    "zip",
    "filter",
    "single",
    "reduce",
    "sift",
    "keys",
    "lookup",
    "append",
    "exists",
    "spread",
    "merge",
    "reverse",
    "each",
    "error",
    "assert",
    "type",
    "sort",
    "shuffle",
    "distinct",
    "base64encode",
    "base64decode",
    "encodeUrlComponent",
    "encodeUrl",
    "decodeUrlComponent",
    "decodeUrl",
    "toMillis",
    "fromMillis",
    "now",
    "millis",
    "clone",
    "eval",
];

/// What an expression reads from outside itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// `$states.input`
    pub input: bool,
    /// `$states.context`
    pub context: bool,
    /// `$states.result`
    pub result: bool,
    /// `$states.errorOutput`
    pub error_output: bool,
    /// Variables that are free in the expression, without the `$`.
    pub variables: BTreeSet<String>,
    /// Functions that are called and not defined in the expression, without the `$`.
    pub functions: BTreeSet<String>,
}

/// The root of a plain walk such as `$states.input.a.b`.
#[derive(Debug, Clone, PartialEq)]
enum Root {
    Input,
    Context,
    Result,
    ErrorOutput,
    Variable(String),
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expression {
    source: Arc<str>,
    ast: Arc<AstNode>,
    reads: Reads,
    walk: Option<(Root, Vec<String>)>,
}

/// What an expression may read, and from where.
pub trait Bindings {
    /// `$states.input`
    fn input(&self) -> &Value;
    /// `$states.context`
    fn context(&self) -> &Value;
    /// `$states.result`, where there is one.
    fn result(&self) -> Option<&Value>;
    /// `$states.errorOutput`, inside a Catch.
    fn error_output(&self) -> Option<&Value>;
    /// A variable.
    fn variable(&self, name: &str) -> Option<&Value>;
}

/// What an expression may draw on that is not data.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// What `$now()` and `$millis()` answer.
    pub now: Timestamp,
    /// Where `$random()` and `$uuid()` come from.
    pub random: &'a mut Random,
}

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvaluationError {
    /// The result was `undefined`.
    Undefined,
    /// The result was a function.
    Function,
    /// Evaluation failed with this message, which begins with JSONata's code.
    Thrown(String),
    /// Evaluation took too much time, memory or depth.
    Exhausted(&'static str),
}

/// Whether a string is an expression: it begins with `{%` and ends with `%}`.
pub fn delimited(text: &str) -> Option<&str> {
    text.strip_prefix("{%")?.strip_suffix("%}").map(str::trim)
}

/// Whether a string begins like an expression and does not end like one. A string that does not begin with `{%`, be it
/// only for a space before it, is a constant (R).
pub fn half_delimited(text: &str) -> bool {
    text.starts_with("{%") && delimited(text).is_none()
}

impl Expression {
    /// Parses the text between `{%` and `%}` and refuses what Step Functions refuses.
    pub fn parse(source: &str) -> Result<Expression, String> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(format!(
                "the expression has {} bytes, more than the {MAX_SOURCE_BYTES} that are read",
                source.len()
            ));
        }
        if source.trim().is_empty() {
            return Err("the expression is empty".to_owned());
        }
        let ast = parser::parse(source).map_err(|error| error.to_string())?;
        let mut survey = Survey::default();
        survey.visit(&ast, true);
        if let Some(refusal) = survey.refusal {
            return Err(refusal);
        }
        let walk = plain_walk(&ast);
        Ok(Expression { source: source.into(), ast: Arc::new(ast), reads: survey.reads, walk })
    }

    /// The text, without delimiters.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it reads from outside.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Functions it calls that Step Functions does not have.
    pub fn unknown_functions(&self) -> impl Iterator<Item = &str> {
        self.reads
            .functions
            .iter()
            .map(String::as_str)
            .filter(|name| !KNOWN_FUNCTIONS.contains(name) && !ADDED_FUNCTIONS.contains(name))
    }

    /// Evaluates to a JSON value.
    pub fn evaluate(&self, bindings: &dyn Bindings, surroundings: Surroundings<'_>) -> Result<Value, EvaluationError> {
        if let Some(found) = self.walk_plainly(bindings) {
            return found;
        }
        let mut context = Context::new();
        let mut states = Vec::with_capacity(4);
        if self.reads.input {
            states.push(("input", to_engine(bindings.input())));
        }
        if self.reads.context {
            states.push(("context", to_engine(bindings.context())));
        }
        if self.reads.result
            && let Some(result) = bindings.result()
        {
            states.push(("result", to_engine(result)));
        }
        if self.reads.error_output
            && let Some(error) = bindings.error_output()
        {
            states.push(("errorOutput", to_engine(error)));
        }
        let states = states.into_iter().map(|(key, value): (&str, JValue)| (key.to_owned(), value)).collect();
        context.bind("states".to_owned(), JValue::object(states));
        for name in &self.reads.variables {
            if let Some(value) = bindings.variable(name) {
                context.bind(name.clone(), to_engine(value));
            }
        }
        let options = EvaluatorOptions {
            timeout_ms: Some(MAX_EVALUATION_MS),
            max_stack_depth: Some(MAX_STACK),
            max_sequence_length: Some(MAX_SEQUENCE),
            ..EvaluatorOptions::default()
        };
        let mut evaluator = Evaluator::with_options(context, options);
        let random = Rc::new(Cell::new(surroundings.random.clone()));
        functions::register(&mut evaluator, &self.reads.functions, surroundings.now, &random).map_err(thrown)?;
        let outcome = evaluator.evaluate(&self.ast, &JValue::Undefined);
        *surroundings.random = random.take();
        let value = outcome.map_err(thrown)?;
        if value.is_undefined() {
            return Err(EvaluationError::Undefined);
        }
        from_engine(&value)
    }

    fn walk_plainly(&self, bindings: &dyn Bindings) -> Option<Result<Value, EvaluationError>> {
        let (root, names) = self.walk.as_ref()?;
        let mut at = match root {
            Root::Input => Some(bindings.input()),
            Root::Context => Some(bindings.context()),
            Root::Result => bindings.result(),
            Root::ErrorOutput => bindings.error_output(),
            Root::Variable(name) => bindings.variable(name),
        };
        for name in names {
            match at {
                // Stepping into an array maps over it, with all of JSONata's flattening: that is the engine's work.
                Some(Value::Array(_)) => return None,
                Some(Value::Object(map)) => at = map.get(name),
                _ => at = None,
            }
        }
        Some(match at {
            Some(value) => Ok(normalised(value)),
            None => Err(EvaluationError::Undefined),
        })
    }
}

fn thrown(error: EvaluatorError) -> EvaluationError {
    match error.code() {
        Some("D1011" | "U1001") => EvaluationError::Exhausted(
            "Stack overflow error: Check for non-terminating recursive function. Consider rewriting as tail-recursive.",
        ),
        Some("D1012") => EvaluationError::Exhausted("Expression evaluation timeout: Check for infinite loop"),
        Some("D2015") => {
            EvaluationError::Exhausted("Expression evaluation memory limit exceeded: Check for excessive memory usage")
        }
        _ => EvaluationError::Thrown(error.message().to_owned()),
    }
}

/// A value as JSONata would hand it on: its numbers are doubles, and whole ones print without a fraction.
fn normalised(value: &Value) -> Value {
    match value {
        Value::Number(number) => number_value(number),
        Value::Array(items) => Value::Array(items.iter().map(normalised).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), normalised(value))).collect()),
        other => other.clone(),
    }
}

fn number_value(number: &Number) -> Value {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) if whole.unsigned_abs() <= 1 << 53 => Value::Number(number.clone()),
        (_, Some(float)) => double_value(float).unwrap_or(Value::Null),
        _ => Value::Number(number.clone()),
    }
}

/// Writes a double as JavaScript does: whole numbers below 10^21 have no fraction and no exponent.
pub(crate) fn double_value(float: f64) -> Option<Value> {
    if float.fract() == 0.0 {
        if float.abs() < 9.2e18 {
            return Some(Value::Number(Number::from(float as i64)));
        }
        if float > 0.0 && float < 1.8e19 {
            return Some(Value::Number(Number::from(float as u64)));
        }
    }
    Number::from_f64(float).map(Value::Number)
}

fn to_engine(value: &Value) -> JValue {
    match value {
        Value::Null => JValue::Null,
        Value::Bool(value) => JValue::Bool(*value),
        Value::Number(number) => JValue::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => JValue::string(text.as_str()),
        Value::Array(items) => JValue::array(items.iter().map(to_engine).collect()),
        Value::Object(map) => JValue::object(map.iter().map(|(key, value)| (key.clone(), to_engine(value))).collect()),
    }
}

fn from_engine(value: &JValue) -> Result<Value, EvaluationError> {
    Ok(match value {
        JValue::Null => Value::Null,
        JValue::Bool(value) => Value::Bool(*value),
        JValue::Number(number) => match double_value(*number) {
            Some(value) => value,
            // Measured on AWS: `{% 1/0 %}` gives the text.
            None if number.is_nan() => Value::from("NaN"),
            None => Value::from(if *number > 0.0 { "Infinity" } else { "-Infinity" }),
        },
        JValue::String(text) => Value::String(text.to_string()),
        JValue::Array(items) => {
            let mut list = Vec::with_capacity(items.len());
            for item in items.iter().filter(|item| !item.is_undefined()) {
                list.push(from_engine(item)?);
            }
            Value::Array(list)
        }
        JValue::Object(members) => {
            let mut map = Map::with_capacity(members.len());
            for (key, value) in members.iter().filter(|(_, value)| !value.is_undefined()) {
                map.insert(key.clone(), from_engine(value)?);
            }
            Value::Object(map)
        }
        _ => return Err(EvaluationError::Function),
    })
}

/// `$states.input.a.b` and `$variable.a.b`, without predicates or bindings.
fn plain_walk(ast: &AstNode) -> Option<(Root, Vec<String>)> {
    let (head, steps): (&AstNode, &[PathStep]) = match ast {
        AstNode::Variable(_) => (ast, &[]),
        AstNode::Path { steps } => {
            let (first, rest) = steps.split_first()?;
            if !is_plain(first) {
                return None;
            }
            (&first.node, rest)
        }
        _ => return None,
    };
    let AstNode::Variable(variable) = head else {
        return None;
    };
    let mut names = Vec::with_capacity(steps.len());
    for step in steps {
        match &step.node {
            AstNode::Name(name) if is_plain(step) => names.push(name.clone()),
            _ => return None,
        }
    }
    if variable != "states" {
        return (!variable.is_empty() && variable != "$").then(|| (Root::Variable(variable.clone()), names));
    }
    if names.is_empty() {
        return None;
    }
    let root = match names.remove(0).as_str() {
        "input" => Root::Input,
        "context" => Root::Context,
        "result" => Root::Result,
        "errorOutput" => Root::ErrorOutput,
        _ => return None,
    };
    Some((root, names))
}

fn is_plain(step: &PathStep) -> bool {
    step.stages.is_empty() && step.focus.is_none() && step.index_var.is_none() && step.ancestor_label.is_none()
}

/// Walks a syntax tree, notes what it reads, and finds what Step Functions would refuse.
#[derive(Default)]
struct Survey {
    reads: Reads,
    refusal: Option<String>,
    bound: Vec<String>,
}

impl Survey {
    fn refuse(&mut self, why: impl Into<String>) {
        if self.refusal.is_none() {
            self.refusal = Some(why.into());
        }
    }

    /// `top` is true where `$` would be the root document, which Step Functions does not have.
    fn visit(&mut self, node: &AstNode, top: bool) {
        match node {
            AstNode::String(_) | AstNode::Number(_) | AstNode::Boolean(_) | AstNode::Null | AstNode::Undefined => {}
            AstNode::Placeholder | AstNode::Regex { .. } | AstNode::Parent(_) => {}
            AstNode::Name(name) => {
                if top {
                    self.refuse(format!("`{name}` at the top of an expression has nothing to be looked up in: write `$states.input.{name}` or a variable"));
                }
            }
            AstNode::Wildcard | AstNode::Descendant => {
                if top {
                    self.refuse("`*` and `**` at the top of an expression have nothing to be looked up in: write `$states.input.*`");
                }
            }
            AstNode::Variable(name) if name.is_empty() => {
                if top {
                    self.refuse(
                        "`$` is not available at the top of an expression in Step Functions: write `$states.input`",
                    );
                }
            }
            AstNode::Variable(name) if name == "$" => self.refuse_root(),
            AstNode::ParentVariable(_) => self.refuse_root(),
            AstNode::Variable(name) => {
                if name == "states" {
                    // A use that is not the head of a path may read anything.
                    self.read_all();
                } else if !self.bound.contains(name) {
                    if KNOWN_FUNCTIONS.contains(&name.as_str()) || ADDED_FUNCTIONS.contains(&name.as_str()) {
                        self.call(name);
                    } else {
                        self.reads.variables.insert(name.clone());
                    }
                }
            }
            AstNode::Path { steps } => self.path(steps, top),
            AstNode::Binary { op, lhs, rhs } => match op {
                BinaryOp::Coalesce => {
                    self.refuse("`??` is newer than the JSONata of Step Functions (2.0.6): write `$exists(a) ? a : b`")
                }
                BinaryOp::Default => {
                    self.refuse("`?:` is newer than the JSONata of Step Functions (2.0.6): write `a ? a : b`")
                }
                BinaryOp::ColonEqual => {
                    if let AstNode::Variable(name) = lhs.as_ref() {
                        // A function may call itself, so the name is bound before its value is looked at; a plain value
                        // that reads the name reads the outer one.
                        if !matches!(rhs.as_ref(), AstNode::Lambda { .. }) {
                            self.visit(rhs, top);
                            self.bound.push(name.clone());
                        } else {
                            self.bound.push(name.clone());
                            self.visit(rhs, top);
                        }
                    } else {
                        self.visit(rhs, top);
                    }
                }
                _ => {
                    self.visit(lhs, top);
                    self.visit(rhs, top);
                }
            },
            AstNode::Unary { operand, .. } => self.visit(operand, top),
            AstNode::Function { name, args, is_builtin } => {
                if *is_builtin {
                    // A variable of a machine never holds a function, so a name that is called is one of the language's.
                    if !self.bound.contains(name) {
                        self.call(name);
                    }
                } else if top {
                    self.refuse(format!("`{name}(…)` is not a function: functions begin with `$`"));
                }
                self.all(args, top);
            }
            AstNode::Call { procedure, args } => {
                self.visit(procedure, top);
                self.all(args, top);
            }
            AstNode::Lambda { params, body, .. } => {
                let depth = self.bound.len();
                self.bound.extend(params.iter().map(|name| name.trim_start_matches('$').to_owned()));
                self.visit(body, top);
                self.bound.truncate(depth);
            }
            AstNode::Array(items) | AstNode::ArrayGroup(items) => self.all(items, top),
            AstNode::Object(pairs) => self.pairs(pairs, top),
            AstNode::ObjectTransform { input, pattern } => {
                self.visit(input, top);
                self.pairs(pattern, false);
            }
            AstNode::Block(items) => {
                let depth = self.bound.len();
                self.all(items, top);
                self.bound.truncate(depth);
            }
            AstNode::Conditional { condition, then_branch, else_branch } => {
                self.visit(condition, top);
                self.visit(then_branch, top);
                if let Some(branch) = else_branch {
                    self.visit(branch, top);
                }
            }
            AstNode::FunctionApplication(inner) => self.visit(inner, false),
            AstNode::Sort { input, terms } => {
                self.visit(input, top);
                for (term, _) in terms {
                    self.visit(term, false);
                }
            }
            AstNode::Transform { .. } => {
                self.refuse("the transform operator `|…|…|` is not available in Step Functions: build the new object with `$merge`");
            }
        }
    }

    fn refuse_root(&mut self) {
        self.refuse("`$$` is not available in Step Functions: write `$states.input`");
    }

    fn read_all(&mut self) {
        self.reads.input = true;
        self.reads.context = true;
        self.reads.result = true;
        self.reads.error_output = true;
    }

    fn call(&mut self, name: &str) {
        match name {
            "clone" => self.refuse("`$clone` is not available in Step Functions: values are never changed in place"),
            _ => {
                self.reads.functions.insert(name.to_owned());
            }
        }
    }

    fn all(&mut self, nodes: &[AstNode], top: bool) {
        for node in nodes {
            self.visit(node, top);
        }
    }

    fn pairs(&mut self, pairs: &[(AstNode, AstNode)], top: bool) {
        for (key, value) in pairs {
            self.visit(key, top);
            self.visit(value, top);
        }
    }

    fn path(&mut self, steps: &[PathStep], top: bool) {
        let depth = self.bound.len();
        for (index, step) in steps.iter().enumerate() {
            let head = index == 0;
            match &step.node {
                AstNode::Variable(name) if head && name == "states" && step.stages.is_empty() => {
                    match steps.get(1).map(|next| &next.node) {
                        Some(AstNode::Name(member)) => match member.as_str() {
                            "input" => self.reads.input = true,
                            "context" => self.reads.context = true,
                            "result" => self.reads.result = true,
                            "errorOutput" => self.reads.error_output = true,
                            _ => {}
                        },
                        _ => self.read_all(),
                    }
                }
                node => self.visit(node, top && head),
            }
            self.bound.extend(step.focus.iter().chain(&step.index_var).cloned());
            for stage in &step.stages {
                match stage {
                    Stage::Filter(filter) => self.visit(filter, false),
                    Stage::Index(name) => self.bound.push(name.clone()),
                    Stage::KeepArray => {}
                }
            }
        }
        self.bound.truncate(depth);
    }
}

/// The functions that Step Functions adds or changes.
mod functions {
    use super::*;
    use crate::hashing;

    type Answer = Result<JValue, EvaluatorError>;

    fn error(message: impl Into<String>) -> EvaluatorError {
        EvaluatorError::EvaluationError(message.into())
    }

    /// Registers those of the functions that the expression calls: making closures is not free.
    pub(super) fn register(
        evaluator: &mut Evaluator,
        called: &BTreeSet<String>,
        now: Timestamp,
        random: &Rc<Cell<Random>>,
    ) -> Result<(), EvaluatorError> {
        for name in called {
            match name.as_str() {
                // Step Functions has it taken out: the name is there and no function behind it.
                "eval" => evaluator.register_fn_override("eval", |_: &[JValue]| {
                    Err(error("T1006: Attempted to invoke a non-function"))
                })?,
                "parse" => evaluator.register_fn("parse", parse)?,
                "hash" => evaluator.register_fn("hash", hash)?,
                "partition" => evaluator.register_fn("partition", partition)?,
                "range" => evaluator.register_fn("range", range)?,
                // The engine leaves spaces as they are.
                "encodeUrl" => evaluator.register_fn_override("encodeUrl", encode_url)?,
                "uuid" => {
                    let random = Rc::clone(random);
                    evaluator
                        .register_fn("uuid", move |_: &[JValue]| Ok(JValue::string(draw(&random, Random::uuid))))?;
                }
                "random" => {
                    let random = Rc::clone(random);
                    evaluator.register_fn_override("random", move |args: &[JValue]| {
                        // With a seed the same number comes every time; JSONata's own takes no argument.
                        Ok(JValue::Number(match args.first().and_then(JValue::as_f64) {
                            Some(seed) => Random::java_fraction(seed as i64),
                            None => draw(&random, Random::fraction),
                        }))
                    })?;
                }
                "millis" => {
                    evaluator.register_fn_override("millis", move |_: &[JValue]| {
                        Ok(JValue::Number(now.as_millisecond() as f64))
                    })?;
                }
                "now" => evaluator.register_fn_override("now", move |args: &[JValue]| format_now(now, args))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn draw<T>(random: &Cell<Random>, what: impl FnOnce(&mut Random) -> T) -> T {
        let mut generator = random.take();
        let drawn = what(&mut generator);
        random.set(generator);
        drawn
    }

    /// `$now(picture, timezone)` is `$fromMillis` of the same moment.
    fn format_now(now: Timestamp, args: &[JValue]) -> Answer {
        let mut context = Context::new();
        context.bind("at".to_owned(), JValue::Number(now.as_millisecond() as f64));
        let source = match args {
            [] => "$fromMillis($at)",
            [_] => "$fromMillis($at, $picture)",
            _ => "$fromMillis($at, $picture, $zone)",
        };
        for (name, value) in ["picture", "zone"].into_iter().zip(args) {
            context.bind(name.to_owned(), value.clone());
        }
        let ast = parser::parse(source).map_err(|problem| error(problem.to_string()))?;
        Evaluator::with_context(context).evaluate(&ast, &JValue::Undefined)
    }

    /// `encodeURI` of JavaScript.
    fn encode_url(args: &[JValue]) -> Answer {
        let text = match args {
            [] | [JValue::Undefined, ..] => return Ok(JValue::Undefined),
            [JValue::String(text), ..] => text,
            _ => return Err(error("T0410: Argument 1 of function \"encodeUrl\" does not match function signature")),
        };
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b";,/?:@&=+$-_.!~*'()#".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
        Ok(JValue::string(encoded))
    }

    fn parse(args: &[JValue]) -> Answer {
        match args.first() {
            None | Some(JValue::Undefined) => Ok(JValue::Undefined),
            Some(JValue::String(text)) => match serde_json::from_str::<Value>(text) {
                Ok(value) => Ok(to_engine(&value)),
                Err(problem) => Err(error(format!("$parse: the argument is not JSON: {problem}"))),
            },
            Some(_) => Err(error("T0410: Argument 1 of function \"parse\" does not match function signature")),
        }
    }

    fn hash(args: &[JValue]) -> Answer {
        let text = match args.first() {
            None | Some(JValue::Undefined) => return Ok(JValue::Undefined),
            Some(JValue::String(text)) => text.to_string(),
            Some(_) => {
                return Err(error("T0410: Argument 1 of function \"hash\" does not match function signature"));
            }
        };
        let algorithm = match args.get(1) {
            None | Some(JValue::Undefined) => "SHA-256".to_owned(),
            Some(JValue::String(name)) => name.to_string(),
            Some(_) => {
                return Err(error("T0410: Argument 2 of function \"hash\" does not match function signature"));
            }
        };
        match hashing::hex_digest(&algorithm, text.as_bytes()) {
            Some(digest) => Ok(JValue::string(digest)),
            None => Err(error(format!("$hash: `{algorithm}` is not one of MD5, SHA-1, SHA-256, SHA-384, SHA-512"))),
        }
    }

    /// A number among the arguments; `None` where it is undefined, which makes the whole call undefined.
    fn number(args: &[JValue], index: usize, function: &str) -> Result<Option<f64>, EvaluatorError> {
        match args.get(index) {
            None | Some(JValue::Undefined) => Ok(None),
            Some(JValue::Number(number)) => Ok(Some(number.trunc())),
            Some(_) => Err(error(format!(
                "T0410: Argument {} of function \"{function}\" does not match function signature",
                index + 1
            ))),
        }
    }

    fn partition(args: &[JValue]) -> Answer {
        let size = match number(args, 1, "partition")? {
            None => return Ok(JValue::Undefined),
            Some(0.0) => return Ok(JValue::Undefined),
            Some(size) if size > 0.0 => size as usize,
            Some(_) => return Err(error("$partition: the size of a part must be positive")),
        };
        match args.first() {
            None | Some(JValue::Undefined) => Ok(JValue::Undefined),
            Some(JValue::Array(items)) => {
                let items: Vec<JValue> = items.iter().cloned().collect();
                Ok(JValue::array(items.chunks(size).map(|part| JValue::array(part.to_vec())).collect()))
            }
            Some(single) => Ok(JValue::array(vec![JValue::array(vec![single.clone()])])),
        }
    }

    /// Arguments that are not whole are cut towards zero; the end is included when a step lands on it.
    fn range(args: &[JValue]) -> Answer {
        let (first, last, step) = (number(args, 0, "range")?, number(args, 1, "range")?, number(args, 2, "range")?);
        let (Some(first), Some(last), Some(step)) = (first, last, step) else { return Ok(JValue::Undefined) };
        if step == 0.0 {
            return Ok(JValue::Undefined);
        }
        let count = ((last - first) / step).floor() + 1.0;
        if count > MAX_SEQUENCE as f64 {
            return Err(error("D2015: the range is too long"));
        }
        let count = if count.is_finite() && count > 0.0 { count as usize } else { 0 };
        Ok(JValue::array((0..count).map(|index| JValue::Number(first + step * index as f64)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed {
        input: Value,
        context: Value,
        x: Value,
    }

    impl Bindings for Fixed {
        fn input(&self) -> &Value {
            &self.input
        }
        fn context(&self) -> &Value {
            &self.context
        }
        fn result(&self) -> Option<&Value> {
            None
        }
        fn error_output(&self) -> Option<&Value> {
            None
        }
        fn variable(&self, name: &str) -> Option<&Value> {
            (name == "x").then_some(&self.x)
        }
    }

    fn evaluate(source: &str) -> Result<Value, EvaluationError> {
        let fixed = Fixed {
            input: json!({"a": {"b": [1, 2.0, 3]}, "s": "t", "one": 1.0}),
            context: json!({"Execution": {"Id": "e"}}),
            x: json!([{"k": 1}, {"k": 2}]),
        };
        let mut random = Random::seeded(1);
        let now = "2026-01-02T03:04:05.678Z".parse().unwrap();
        Expression::parse(source).unwrap().evaluate(&fixed, Surroundings { now, random: &mut random })
    }

    #[test]
    fn expressions_read_states_and_variables() {
        for (source, expected) in [
            ("$states.input.s", json!("t")),
            ("$states.input.a.b", json!([1, 2, 3])),
            ("$states.input.one", json!(1)),
            ("$x.k", json!([1, 2])),
            ("$x[k = 2].k", json!(2)),
            ("$states.input.a.b[$ > 1]", json!([2, 3])),
            ("$states.context.Execution.Id & '!'", json!("e!")),
            ("$map([1..3], function($v) { $v * 2 })", json!([2, 4, 6])),
            ("$now()", json!("2026-01-02T03:04:05.678Z")),
            ("$now('[Y]')", json!("2026")),
            ("$millis()", json!(1767323045678i64)),
            ("$parse('{\"a\": 1.0}')", json!({"a": 1})),
            ("$partition([1..5], 2)", json!([[1, 2], [3, 4], [5]])),
            ("$range(0, 4, 2)", json!([0, 2, 4])),
            ("$hash('input data', 'SHA-1')", json!("aaff4a450a104cd177d28d18d74485e8cae074b7")),
            ("{'list': [$x.k]}", json!({"list": [1, 2]})),
            ("1 / 4", json!(0.25)),
            ("[1 / 0]", json!(["Infinity"])),
            ("$random(42)", json!(0.7275636800328681)),
            ("$range(-1.7, 2, 1)", json!([-1, 0, 1, 2])),
            ("($y := 1; $y + 1)", json!(2)),
        ] {
            assert_eq!(evaluate(source), Ok(expected), "{source}");
        }
    }

    #[test]
    fn nothing_functions_and_errors_are_told_apart() {
        assert_eq!(evaluate("$states.input.nowhere"), Err(EvaluationError::Undefined));
        assert_eq!(evaluate("$nowhere"), Err(EvaluationError::Undefined));
        assert_eq!(evaluate("$x.nowhere"), Err(EvaluationError::Undefined));
        assert_eq!(evaluate("function($v) { $v }"), Err(EvaluationError::Function));
        assert_eq!(
            evaluate("$eval('1')"),
            Err(EvaluationError::Thrown("T1006: Attempted to invoke a non-function".to_owned()))
        );
        assert!(matches!(evaluate("[1..900000] ~> $count()"), Err(EvaluationError::Exhausted(_))));
        assert!(matches!(evaluate("($f := function($n) { 1 + $f($n) }; $f(1))"), Err(EvaluationError::Exhausted(_))));
        assert!(matches!(evaluate("1 + 'a'"), Err(EvaluationError::Thrown(message)) if message.starts_with("T2002")));
    }

    #[test]
    fn what_step_functions_refuses_is_refused_when_the_machine_is_loaded() {
        for source in [
            "$",
            "$$",
            "$$.a",
            "a",
            "a.b",
            "a + 1",
            "*",
            "**.a",
            "$states.input.a ?? 1",
            "$states.input.a ?: 1",
            "$clone($states.input)",
            "$states.input ~> |a|{'b': 1}|",
            "$map([1], function($v) { $ })",
            "[a]",
            "{'a': b}",
            "foo(1)",
            "",
            "1 +",
        ] {
            assert!(Expression::parse(source).is_err(), "{source}");
        }
        for source in [
            "$states.input.a.$",
            "$x[$ = 1]",
            "$x[k = 1]",
            "$x.(k)",
            "$x{k: $}",
            "$x^(k)",
            "$states.input.a.{'b': c}",
            "$x ~> $count",
            "$string($x)",
        ] {
            assert!(Expression::parse(source).is_ok(), "{source}: {:?}", Expression::parse(source));
        }
    }

    #[test]
    fn an_expression_knows_what_it_reads() {
        let reads =
            Expression::parse("($y := $states.input.a; $map($list, function($v, $i) { $v + $y + $z }) ~> $mine)")
                .unwrap()
                .reads;
        assert!(reads.input && !reads.context && !reads.result);
        assert_eq!(reads.variables.iter().map(String::as_str).collect::<Vec<_>>(), ["list", "mine", "z"]);
    }
}
