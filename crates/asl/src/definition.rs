//! A state machine's definition, compiled: names resolved to indices, expressions parsed, numbers checked.
//!
//! Compilation is also the first half of the checker. It walks the document with its places and reports everything that
//! Step Functions rejects when a machine is created; what Step Functions accepts and people regret is the business of
//! [`crate::check`]. Nothing in a compiled machine can fail to resolve while it runs.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::choice;
use crate::jsonata::{self, Expression};
use crate::jsonpath;
use crate::payload::Payload;
use crate::problem::{Problem, Severity};
use crate::source::{self, Kind, Member, Node, Place};
use crate::substitution;
use crate::template::{Amount, Query, Template};

mod distributed;
mod integrations;

pub(crate) use distributed::{Batcher, Distribution, Format, Headers, Percentage, Transformation, Writer};

/// The longest name of a state.
const MAX_STATE_NAME: usize = 80;
/// The most bytes a definition may have.
const MAX_DEFINITION_BYTES: usize = 1_048_576;
/// The largest number of seconds that Step Functions takes.
const MAX_SECONDS: u64 = 99_999_999;

/// The language a state's expressions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum QueryLanguage {
    /// The default.
    JSONPath,
    /// The newer one.
    JSONata,
}

/// A compiled state machine.
#[derive(Debug)]
pub struct Machine {
    pub(crate) groups: Vec<Group>,
    pub(crate) comment: Option<String>,
    pub(crate) language: QueryLanguage,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) digest: String,
}

/// States that can reach each other: the machine itself, a branch of a Parallel, the processor of a Map.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) states: Vec<State>,
    pub(crate) start: usize,
    pub(crate) comment: Option<String>,
}

/// What follows a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    State(usize),
    End,
    /// Choice, Succeed and Fail say it elsewhere.
    Nowhere,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: Arc<str>,
    pub(crate) comment: Option<String>,
    pub(crate) language: QueryLanguage,
    pub(crate) place: Place,
    pub(crate) next: Next,
    pub(crate) flow: Flow,
    pub(crate) assign: Option<Vec<(Arc<str>, Template)>>,
    pub(crate) retry: Vec<Retrier>,
    pub(crate) catch: Vec<Catcher>,
    pub(crate) kind: StateKind,
}

/// How data goes in and out of a state, in the fields of either language.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// JSONata `Output`.
    pub(crate) output: Option<Template>,
    /// JSONata `Arguments` or JSONPath `Parameters`.
    pub(crate) arguments: Option<Template>,
    /// JSONPath; `None` is `$`.
    pub(crate) input_path: Option<InputPath>,
    pub(crate) output_path: Option<InputPath>,
    pub(crate) result_selector: Option<Template>,
    pub(crate) result_path: Option<ResultPath>,
}

/// `InputPath` and `OutputPath`: a path, or `null` for the empty object.
#[derive(Debug, Clone)]
pub(crate) enum InputPath {
    Nothing,
    Path(jsonpath::Query),
}

/// `ResultPath`: a reference path, or `null` to drop the result.
#[derive(Debug, Clone)]
pub(crate) enum ResultPath {
    Discard,
    Path(jsonpath::Reference),
}

#[derive(Debug)]
pub(crate) enum StateKind {
    Pass { result: Option<Payload> },
    Task(Box<Task>),
    Choice { rules: Vec<Rule>, default: Option<usize> },
    Wait(Wait),
    Succeed,
    Fail { error: Option<Template>, cause: Option<Template> },
    Parallel { branches: Vec<usize> },
    Map(Box<MapState>),
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) resource: Resource,
    pub(crate) timeout: Option<Amount>,
    pub(crate) heartbeat: Option<Amount>,
    pub(crate) credentials: Option<Template>,
}

/// What a Task calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// As written.
    pub arn: Arc<str>,
    /// What kind of thing it is.
    pub kind: ResourceKind,
}

/// The kinds of resources a Task can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceKind {
    /// The ARN of a Lambda function.
    Function,
    /// The ARN of an activity.
    Activity,
    /// `arn:aws:states:::service:action[.sync|.sync:2|.waitForTaskToken]`
    Integration {
        /// `lambda`, `sqs`, `aws-sdk:dynamodb`: the `resourceType` of the history.
        service: Arc<str>,
        /// `invoke`, `sendMessage.waitForTaskToken`: the `resource` of the history.
        action: Arc<str>,
        /// How the call ends.
        pattern: Pattern,
    },
    /// Something else; the handler decides what it means.
    Other,
}

/// How an integration ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// When the service has answered.
    RequestResponse,
    /// When the job that was started has ended (`.sync`, `.sync:2`).
    RunJob,
    /// When somebody returns the task token (`.waitForTaskToken`).
    WaitForTaskToken,
}

#[derive(Debug)]
pub(crate) enum Wait {
    Seconds(Amount),
    /// A fixed moment, or an expression that gives one.
    Timestamp(Template),
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) condition: Condition,
    pub(crate) next: usize,
    pub(crate) assign: Option<Vec<(Arc<str>, Template)>>,
    pub(crate) output: Option<Template>,
    pub(crate) label: String,
}

#[derive(Debug)]
pub(crate) enum Condition {
    Constant(bool),
    Jsonata(Expression),
    Tree(choice::Test),
}

#[derive(Debug)]
pub(crate) struct MapState {
    pub(crate) group: usize,
    /// JSONata `Items`, or JSONPath `ItemsPath`.
    pub(crate) items: Option<Template>,
    pub(crate) selector: Option<Template>,
    pub(crate) max_concurrency: Option<Amount>,
    pub(crate) tolerated_count: Option<Amount>,
    pub(crate) tolerated_percentage: Option<Percentage>,
    /// Its iterations are executions of their own.
    pub(crate) distribution: Option<Distribution>,
}

#[derive(Debug)]
pub(crate) struct Retrier {
    pub(crate) errors: Vec<Arc<str>>,
    pub(crate) interval_seconds: u64,
    pub(crate) max_attempts: u64,
    pub(crate) backoff_rate: f64,
    pub(crate) max_delay_seconds: Option<u64>,
    pub(crate) full_jitter: bool,
}

#[derive(Debug)]
pub(crate) struct Catcher {
    pub(crate) errors: Vec<Arc<str>>,
    pub(crate) next: usize,
    pub(crate) assign: Option<Vec<(Arc<str>, Template)>>,
    pub(crate) output: Option<Template>,
    pub(crate) result_path: Option<ResultPath>,
}

impl Machine {
    /// Reads and compiles a definition. Every error is reported, not only the first.
    pub fn parse(text: &str) -> Result<Machine, Vec<Problem>> {
        let (machine, mut problems) = compile(text, Placeholders::Refused);
        problems.retain(|problem| problem.severity == Severity::Error);
        match machine {
            Some(machine) if problems.is_empty() => Ok(machine),
            _ => Err(problems),
        }
    }

    /// The machine's `Comment`.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// The machine's `TimeoutSeconds`.
    pub fn timeout_seconds(&self) -> Option<u64> {
        self.timeout_seconds
    }

    /// The language of states that do not name their own.
    pub fn query_language(&self) -> QueryLanguage {
        self.language
    }

    /// SHA-256 of the text it was compiled from: a run resumes only with the definition it was started with.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The name of the first state.
    pub fn start_at(&self) -> &str {
        let top = &self.groups[0];
        &top.states[top.start].name
    }
}

impl StateKind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            StateKind::Pass { .. } => "Pass",
            StateKind::Task(_) => "Task",
            StateKind::Choice { .. } => "Choice",
            StateKind::Wait(_) => "Wait",
            StateKind::Succeed => "Succeed",
            StateKind::Fail { .. } => "Fail",
            StateKind::Parallel { .. } => "Parallel",
            StateKind::Map(_) => "Map",
        }
    }
}

impl Resource {
    /// Reads a `Resource`; `None` when it is not an ARN.
    pub fn parse(arn: &str) -> Option<Resource> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let [prefix, _partition, service, _region, _account, rest] = parts.as_slice() else {
            return None;
        };
        if *prefix != "arn" {
            return None;
        }
        let kind = match *service {
            "lambda" if rest.starts_with("function:") => ResourceKind::Function,
            "states" if rest.starts_with("activity:") => ResourceKind::Activity,
            "states" => {
                // `lambda:invoke`, `aws-sdk:dynamodb:getItem`, `states:startExecution.sync:2`
                let (service, action) = match rest.strip_prefix("aws-sdk:") {
                    Some(sdk) => sdk.split_once(':').map(|(service, action)| (format!("aws-sdk:{service}"), action))?,
                    None => rest.split_once(':').map(|(service, action)| (service.to_owned(), action))?,
                };
                let pattern = if action.ends_with(".waitForTaskToken") {
                    Pattern::WaitForTaskToken
                } else if action.ends_with(".sync") || action.ends_with(".sync:2") {
                    Pattern::RunJob
                } else {
                    Pattern::RequestResponse
                };
                ResourceKind::Integration { service: service.into(), action: action.into(), pattern }
            }
            _ => ResourceKind::Other,
        };
        Some(Resource { arn: arn.into(), kind })
    }

    /// Whether the task ends only when its token is returned.
    pub fn waits_for_token(&self) -> bool {
        matches!(self.kind, ResourceKind::Integration { pattern: Pattern::WaitForTaskToken, .. })
    }

    /// Whether this is the optimised Lambda integration, `arn:aws:states:::lambda:invoke…`.
    pub fn is_lambda_invoke(&self) -> bool {
        matches!(&self.kind, ResourceKind::Integration { service, action, .. }
            if &**service == "lambda" && (&**action == "invoke" || action.starts_with("invoke.")))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

/// Whether `${Name}` may still stand in a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placeholders {
    Refused,
    Allowed,
}

/// Compiles, collecting problems; the machine is there whenever its structure could be understood at all.
pub(crate) fn compile(text: &str, placeholders: Placeholders) -> (Option<Machine>, Vec<Problem>) {
    let mut compiler = Compiler { problems: Vec::new(), groups: Vec::new(), names: HashSet::new(), placeholders };
    if text.len() > MAX_DEFINITION_BYTES {
        let place = Place { line: 1, column: 1 };
        compiler.error(
            "too-large",
            place,
            "",
            format!("the definition has {} bytes and may have {MAX_DEFINITION_BYTES}: move constants into the input or split the machine", text.len()),
        );
        return (None, compiler.problems);
    }
    let root = match source::read(text) {
        Ok(root) => root,
        Err(error) => {
            compiler.error("not-json", error.place, "", format!("this is not JSON: {}", error.message));
            return (None, compiler.problems);
        }
    };
    compiler.duplicates(&root, "");
    let machine = compiler.machine(&root, text);
    compiler.problems.sort_by_key(|problem| (problem.line, problem.column));
    (machine, compiler.problems)
}

struct Compiler {
    problems: Vec<Problem>,
    groups: Vec<Group>,
    names: HashSet<String>,
    placeholders: Placeholders,
}

/// What a state's fields are read with.
struct Scene<'a> {
    node: &'a Node,
    path: String,
    language: QueryLanguage,
    /// Names of the sibling states.
    siblings: &'a HashMap<String, usize>,
}

impl Scene<'_> {
    fn is_jsonata(&self) -> bool {
        self.language == QueryLanguage::JSONata
    }

    /// The field that says what a call is given.
    fn arguments_field(&self) -> &'static str {
        if self.is_jsonata() { "Arguments" } else { "Parameters" }
    }
}

impl Compiler {
    fn report(
        &mut self,
        severity: Severity,
        code: &'static str,
        place: Place,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem::new(severity, code, place, path, message));
    }

    fn error(&mut self, code: &'static str, place: Place, path: impl Into<String>, message: impl Into<String>) {
        self.report(Severity::Error, code, place, path, message);
    }

    fn warn(&mut self, code: &'static str, place: Place, path: impl Into<String>, message: impl Into<String>) {
        self.report(Severity::Warning, code, place, path, message);
    }

    fn duplicates(&mut self, node: &Node, path: &str) {
        match &node.kind {
            Kind::Object(members) => {
                let mut seen = HashSet::new();
                for member in members {
                    let at = join(path, &member.key);
                    if !seen.insert(member.key.as_str()) {
                        self.error(
                            "duplicate-key",
                            member.place,
                            &at,
                            format!("`{}` is there twice, and only the last one would count: remove one", member.key),
                        );
                    }
                    self.duplicates(&member.value, &at);
                }
            }
            Kind::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.duplicates(item, &join(path, &index.to_string()));
                }
            }
            _ => {}
        }
    }

    fn machine(&mut self, root: &Node, text: &str) -> Option<Machine> {
        let Some(members) = root.as_object() else {
            self.error(
                "not-a-machine",
                root.place,
                "",
                format!("a state machine is an object with `StartAt` and `States`, this is {}", root.kind_name()),
            );
            return None;
        };
        self.known_fields(
            members,
            "",
            "a state machine",
            &["Comment", "QueryLanguage", "StartAt", "States", "TimeoutSeconds", "Version"],
        );
        let language = self.language(root, "", QueryLanguage::JSONPath, None);
        let timeout_seconds = self.whole_number(root, "", "TimeoutSeconds", 0, MAX_SECONDS);
        if let Some(version) = root.get("Version")
            && version.as_str() != Some("1.0")
        {
            self.error("bad-version", version.place, "/Version", "`Version` is \"1.0\": correct it or leave it out");
        }
        let comment = self.text(root, "", "Comment");
        let top = self.group(root, "", language)?;
        // The machine's own group comes first, whatever was compiled before it.
        debug_assert_eq!(top, 0);
        Some(Machine {
            groups: std::mem::take(&mut self.groups),
            comment,
            language,
            timeout_seconds,
            digest: crate::hashing::hex(&Sha256::digest(text.as_bytes())),
        })
    }

    fn language(
        &mut self,
        node: &Node,
        path: &str,
        inherited: QueryLanguage,
        outer: Option<QueryLanguage>,
    ) -> QueryLanguage {
        let Some(field) = node.get("QueryLanguage") else {
            return inherited;
        };
        match field.as_str() {
            Some("JSONata") => QueryLanguage::JSONata,
            Some("JSONPath") => {
                if outer == Some(QueryLanguage::JSONata) {
                    self.error(
                        "language-mismatch",
                        field.place,
                        join(path, "QueryLanguage"),
                        "a machine whose `QueryLanguage` is JSONata cannot have JSONPath states: set the machine to JSONPath, or rewrite this state",
                    );
                }
                QueryLanguage::JSONPath
            }
            _ => {
                self.error(
                    "bad-value",
                    field.place,
                    join(path, "QueryLanguage"),
                    "`QueryLanguage` is \"JSONPath\" or \"JSONata\"",
                );
                inherited
            }
        }
    }

    fn known_fields(&mut self, members: &[Member], path: &str, what: &str, known: &[&str]) {
        for member in members {
            if !known.contains(&member.key.as_str()) {
                let hint = match nearest(&member.key, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "remove it".to_owned(),
                };
                self.error(
                    "unknown-field",
                    member.place,
                    join(path, &member.key),
                    format!("{what} has no field `{}`: {hint}", member.key),
                );
            }
        }
    }

    /// Compiles `StartAt` and `States` of a machine, branch or processor; gives the index of the group.
    fn group(&mut self, node: &Node, path: &str, language: QueryLanguage) -> Option<usize> {
        let index = self.groups.len();
        let comment = self.text(node, path, "Comment");
        self.groups.push(Group { states: Vec::new(), start: 0, comment });
        let start = node.get("StartAt");
        let states = match node.get("States") {
            Some(states) => states,
            None => {
                self.error("missing-field", node.place, path, "`States` is missing: name the states and what they do");
                return None;
            }
        };
        let states_path = join(path, "States");
        let Some(members) = states.as_object() else {
            self.error(
                "bad-type",
                states.place,
                &states_path,
                format!("`States` is an object of states by name, this is {}", states.kind_name()),
            );
            return None;
        };
        if members.is_empty() {
            self.error(
                "missing-field",
                states.place,
                &states_path,
                "`States` is empty: a machine needs at least one state",
            );
            return None;
        }
        let mut siblings = HashMap::with_capacity(members.len());
        for member in members {
            let next = siblings.len();
            siblings.entry(member.key.clone()).or_insert(next);
        }
        let mut compiled: Vec<State> = Vec::with_capacity(siblings.len());
        let mut seen = HashSet::new();
        let mut whole = true;
        for member in members {
            if !seen.insert(member.key.as_str()) {
                continue;
            }
            let at = join(&states_path, &member.key);
            if member.key.chars().count() > MAX_STATE_NAME {
                self.error(
                    "bad-name",
                    member.place,
                    &at,
                    format!("a state's name has at most {MAX_STATE_NAME} characters: shorten it"),
                );
            }
            if member.key.trim().is_empty() {
                self.error("bad-name", member.place, &at, "a state needs a name that is not blank");
            }
            if !self.names.insert(member.key.clone()) {
                self.error("duplicate-name", member.place, &at, format!("`{}` is also the name of a state elsewhere in this machine: names are unique in the whole machine, rename one", member.key));
            }
            match self.state(member, &at, language, &siblings) {
                Some(state) => compiled.push(state),
                None => whole = false,
            }
        }
        let start = match start {
            None => {
                self.error("missing-field", node.place, path, "`StartAt` is missing: name the first state");
                None
            }
            Some(field) => match field.as_str() {
                None => {
                    self.error(
                        "bad-type",
                        field.place,
                        join(path, "StartAt"),
                        format!("`StartAt` is the name of a state, this is {}", field.kind_name()),
                    );
                    None
                }
                Some(name) => match siblings.get(name) {
                    Some(index) => Some(*index),
                    None => {
                        let hint = hint(name, siblings.keys());
                        self.error(
                            "missing-target",
                            field.place,
                            join(path, "StartAt"),
                            format!("`StartAt` names `{name}`, which is not a state here: {hint}"),
                        );
                        None
                    }
                },
            },
        };
        if !whole {
            return None;
        }
        let start = start?;
        self.reachability(&compiled, start, members, &states_path);
        self.groups[index].states = compiled;
        self.groups[index].start = start;
        Some(index)
    }

    fn reachability(&mut self, states: &[State], start: usize, members: &[Member], path: &str) {
        let mut reached = vec![false; states.len()];
        let mut open = vec![start];
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut reached[index], true) {
                continue;
            }
            open.extend(targets(&states[index]));
        }
        for (state, reached) in states.iter().zip(&reached) {
            if !reached && let Some(member) = members.iter().find(|member| *member.key == *state.name) {
                self.error(
                    "unreachable",
                    member.place,
                    join(path, &member.key),
                    format!(
                        "nothing leads to `{}`: point a `Next`, `Default` or `Catch` at it, or remove it",
                        member.key
                    ),
                );
            }
        }
        // A machine in which no state can end runs until it is stopped.
        let ends = |state: &State| {
            state.next == Next::End || matches!(state.kind, StateKind::Succeed | StateKind::Fail { .. })
        };
        let any_end = states.iter().zip(&reached).any(|(state, reached)| *reached && ends(state));
        if !any_end && let Some(member) = members.first() {
            self.warn(
                "no-end",
                member.place,
                path,
                "no state here ends: give one of them `\"End\": true`, or add a Succeed or Fail state",
            );
        }
    }

    fn text(&mut self, node: &Node, path: &str, field: &str) -> Option<String> {
        let value = node.get(field)?;
        match value.as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.error(
                    "bad-type",
                    value.place,
                    join(path, field),
                    format!("`{field}` is a string, this is {}", value.kind_name()),
                );
                None
            }
        }
    }

    fn whole_number(&mut self, node: &Node, path: &str, field: &str, least: u64, most: u64) -> Option<u64> {
        let value = node.get(field)?;
        let number = match &value.kind {
            Kind::Number(number) => number.as_u64().or_else(|| {
                number.as_f64().filter(|float| float.fract() == 0.0 && *float >= 0.0).map(|float| float as u64)
            }),
            _ => None,
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ if self.placeholders == Placeholders::Allowed
                && value.as_str().is_some_and(substitution::is_placeholder) =>
            {
                None
            }
            _ => {
                self.error(
                    "bad-value",
                    value.place,
                    join(path, field),
                    format!("`{field}` is a whole number from {least} to {most}"),
                );
                None
            }
        }
    }

    /// A number that in JSONata may also be an expression.
    fn amount(&mut self, scene: &Scene<'_>, field: &str, least: u64, most: u64) -> Option<Amount> {
        let value = scene.node.get(field)?;
        if scene.language == QueryLanguage::JSONata
            && let Some(text) = value.as_str()
            && jsonata::delimited(text).is_some()
        {
            return self
                .jsonata_text(text, value.place, &join(&scene.path, field))
                .map(|expression| Amount::Query(Query::Jsonata(expression)));
        }
        self.whole_number(scene.node, &scene.path, field, least, most).map(Amount::Fixed)
    }

    /// The `…Path` companion of a number, in JSONPath.
    fn amount_path(
        &mut self,
        scene: &Scene<'_>,
        fixed: &str,
        path_field: &str,
        least: u64,
        most: u64,
    ) -> Option<Amount> {
        let amount = self.amount(scene, fixed, least, most);
        let Some(value) = scene.node.get(path_field).filter(|_| scene.language == QueryLanguage::JSONPath) else {
            return amount;
        };
        if scene.node.get(fixed).is_some() {
            self.error(
                "conflict",
                value.place,
                join(&scene.path, path_field),
                format!("`{fixed}` and `{path_field}` exclude each other: keep one"),
            );
        }
        self.path_query(value, &join(&scene.path, path_field), path_field, false)
            .map(|query| Amount::Query(Query::Path(query)))
    }

    fn path_query(&mut self, value: &Node, path: &str, field: &str, intrinsics: bool) -> Option<jsonpath::Query> {
        let Some(text) = value.as_str() else {
            self.error(
                "bad-type",
                value.place,
                path,
                format!("`{field}` is a path such as \"$.field\", this is {}", value.kind_name()),
            );
            return None;
        };
        match jsonpath::Query::parse(text, intrinsics) {
            Ok(query) => Some(query),
            Err(why) => {
                self.error(
                    "bad-path",
                    value.place,
                    path,
                    format!("`{text}` is not a path that Step Functions reads: {why}"),
                );
                None
            }
        }
    }

    fn jsonata_text(&mut self, text: &str, place: Place, path: &str) -> Option<Expression> {
        let source = jsonata::delimited(text)?;
        match Expression::parse(source) {
            Ok(expression) => Some(expression),
            Err(why) => {
                self.error("bad-jsonata", place, path, format!("the JSONata expression cannot be used: {why}"));
                None
            }
        }
    }

    /// A template in the state's language.
    fn template(&mut self, scene: &Scene<'_>, field: &str) -> Option<Template> {
        let value = scene.node.get(field)?;
        let path = join(&scene.path, field);
        match scene.language {
            QueryLanguage::JSONata => self.jsonata_template(value, &path),
            QueryLanguage::JSONPath => self.path_template(value, &path),
        }
    }

    fn jsonata_template(&mut self, value: &Node, path: &str) -> Option<Template> {
        let template = match &value.kind {
            Kind::String(text) if jsonata::delimited(text).is_some() => {
                Template::Query(Query::Jsonata(self.jsonata_text(text, value.place, path)?))
            }
            Kind::String(text) => {
                if jsonata::half_delimited(text) {
                    self.error("bad-jsonata", value.place, path, "an expression begins with `{%` and ends with `%}`, with nothing before or after: add what is missing");
                }
                Template::Literal(Value::from(text.as_str()).into())
            }
            Kind::Array(items) => {
                let mut filled = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    filled.push(self.jsonata_template(item, &join(path, &index.to_string()))?);
                }
                collapse_array(filled)
            }
            Kind::Object(members) => {
                let mut filled: Vec<(Arc<str>, Template)> = Vec::with_capacity(members.len());
                for member in members {
                    filled.push((
                        member.key.as_str().into(),
                        self.jsonata_template(&member.value, &join(path, &member.key))?,
                    ));
                }
                collapse_object(filled)
            }
            _ => Template::Literal(value.to_value().into()),
        };
        Some(template)
    }

    fn path_template(&mut self, value: &Node, path: &str) -> Option<Template> {
        Some(match &value.kind {
            Kind::Array(items) => {
                let mut filled = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    filled.push(self.path_template(item, &join(path, &index.to_string()))?);
                }
                collapse_array(filled)
            }
            Kind::Object(members) => {
                let mut filled: Vec<(Arc<str>, Template)> = Vec::with_capacity(members.len());
                for member in members {
                    let at = join(path, &member.key);
                    match member.key.strip_suffix(".$") {
                        Some(key) => {
                            if members.iter().any(|other| other.key == key) {
                                self.error(
                                    "conflict",
                                    member.place,
                                    &at,
                                    format!("`{key}` and `{key}.$` would both set `{key}`: keep one"),
                                );
                            }
                            let query = self.path_query(&member.value, &at, &member.key, true)?;
                            filled.push((key.into(), Template::Query(Query::Path(query))));
                        }
                        None => filled.push((member.key.as_str().into(), self.path_template(&member.value, &at)?)),
                    }
                }
                collapse_object(filled)
            }
            _ => Template::Literal(value.to_value().into()),
        })
    }

    fn assign(&mut self, scene: &Scene<'_>) -> Option<Vec<(Arc<str>, Template)>> {
        let value = scene.node.get("Assign")?;
        let path = join(&scene.path, "Assign");
        let Some(members) = value.as_object() else {
            self.error(
                "bad-type",
                value.place,
                &path,
                format!("`Assign` is an object of variables, this is {}", value.kind_name()),
            );
            return None;
        };
        let mut variables = Vec::with_capacity(members.len());
        for member in members {
            let at = join(&path, &member.key);
            let (name, computed) = match (scene.language, member.key.strip_suffix(".$")) {
                (QueryLanguage::JSONPath, Some(name)) => (name, true),
                _ => (member.key.as_str(), false),
            };
            if !is_variable_name(name) {
                self.error("bad-name", member.place, &at, format!("`{name}` cannot be the name of a variable: letters, digits and `_`, not a digit first, at most 80, and not `states`"));
            }
            let template = match (scene.language, computed) {
                (QueryLanguage::JSONata, _) => self.jsonata_template(&member.value, &at),
                (QueryLanguage::JSONPath, true) => self
                    .path_query(&member.value, &at, &member.key, true)
                    .map(|query| Template::Query(Query::Path(query))),
                (QueryLanguage::JSONPath, false) => self.path_template(&member.value, &at),
            };
            variables.push((Arc::from(name), template?));
        }
        Some(variables)
    }

    fn input_path(&mut self, scene: &Scene<'_>, field: &str) -> Option<InputPath> {
        let value = scene.node.get(field).filter(|_| scene.language == QueryLanguage::JSONPath)?;
        if matches!(value.kind, Kind::Null) {
            return Some(InputPath::Nothing);
        }
        self.path_query(value, &join(&scene.path, field), field, false).map(InputPath::Path)
    }

    fn result_path(&mut self, scene: &Scene<'_>) -> Option<ResultPath> {
        let value = scene.node.get("ResultPath").filter(|_| scene.language == QueryLanguage::JSONPath)?;
        let path = join(&scene.path, "ResultPath");
        if matches!(value.kind, Kind::Null) {
            return Some(ResultPath::Discard);
        }
        let Some(text) = value.as_str() else {
            self.error(
                "bad-type",
                value.place,
                &path,
                format!("`ResultPath` is a reference path or null, this is {}", value.kind_name()),
            );
            return None;
        };
        match jsonpath::Reference::parse(text) {
            Ok(reference) => Some(ResultPath::Path(reference)),
            Err(why) => {
                self.error("bad-path", value.place, &path, format!("`{text}` is not a reference path: {why}"));
                None
            }
        }
    }

    fn target(&mut self, scene: &Scene<'_>, node: &Node, path: &str, field: &str) -> Option<usize> {
        let value = node.get(field)?;
        let at = join(path, field);
        let Some(name) = value.as_str() else {
            self.error(
                "bad-type",
                value.place,
                &at,
                format!("`{field}` is the name of a state, this is {}", value.kind_name()),
            );
            return None;
        };
        match scene.siblings.get(name) {
            Some(index) => Some(*index),
            None => {
                let hint = hint(name, scene.siblings.keys());
                self.error(
                    "missing-target",
                    value.place,
                    &at,
                    format!("`{field}` names `{name}`, which is not a state at this level: {hint}"),
                );
                None
            }
        }
    }

    fn next(&mut self, scene: &Scene<'_>, place: Place) -> Option<Next> {
        match (scene.node.get("Next"), scene.node.get("End")) {
            (None, None) => {
                self.error(
                    "missing-next",
                    place,
                    &scene.path,
                    "neither `Next` nor `End`: say which state follows, or `\"End\": true`",
                );
                None
            }
            (Some(next), Some(_)) => {
                self.error(
                    "conflict",
                    next.place,
                    join(&scene.path, "Next"),
                    "`Next` and `End` exclude each other: keep one",
                );
                None
            }
            (Some(_), None) => self.target(scene, scene.node, &scene.path, "Next").map(Next::State),
            (None, Some(end)) => match end.kind {
                Kind::Bool(true) => Some(Next::End),
                _ => {
                    self.error(
                        "bad-value",
                        end.place,
                        join(&scene.path, "End"),
                        "`End` is `true`; a state that does not end has a `Next` instead",
                    );
                    None
                }
            },
        }
    }

    fn state(
        &mut self,
        member: &Member,
        path: &str,
        inherited: QueryLanguage,
        siblings: &HashMap<String, usize>,
    ) -> Option<State> {
        let node = &member.value;
        let Some(members) = node.as_object() else {
            self.error("bad-type", node.place, path, format!("a state is an object, this is {}", node.kind_name()));
            return None;
        };
        let language = self.language(node, path, inherited, Some(inherited));
        let scene = Scene { node, path: path.to_owned(), language, siblings };
        let Some(kind_field) = node.get("Type") else {
            self.error(
                "missing-field",
                member.place,
                path,
                format!(
                    "`{}` has no `Type`: it is one of Pass, Task, Choice, Wait, Succeed, Fail, Parallel, Map",
                    member.key
                ),
            );
            return None;
        };
        let kind_name = kind_field.as_str().unwrap_or_default();
        let Some(fields) = fields(kind_name, language) else {
            let hint =
                match nearest(kind_name, &["Pass", "Task", "Choice", "Wait", "Succeed", "Fail", "Parallel", "Map"]) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "it is one of Pass, Task, Choice, Wait, Succeed, Fail, Parallel, Map".to_owned(),
                };
            self.error(
                "bad-value",
                kind_field.place,
                join(path, "Type"),
                format!("there is no state type `{kind_name}`: {hint}"),
            );
            return None;
        };
        let errors_before = self.error_count();
        for field in members {
            if fields.contains(&field.key.as_str()) {
                continue;
            }
            let other = match language {
                QueryLanguage::JSONata => self::fields(kind_name, QueryLanguage::JSONPath),
                QueryLanguage::JSONPath => self::fields(kind_name, QueryLanguage::JSONata),
            };
            let at = join(path, &field.key);
            if other.is_some_and(|other| other.contains(&field.key.as_str())) {
                let advice = match language {
                    QueryLanguage::JSONata => "write it with `Arguments`, `Output` and `{% … %}`",
                    QueryLanguage::JSONPath => "set `\"QueryLanguage\": \"JSONata\"` or use the fields of JSONPath",
                };
                self.error(
                    "wrong-language",
                    field.place,
                    at,
                    format!("`{}` is not a field of a {kind_name} state in {language:?}: {advice}", field.key),
                );
            } else {
                let hint = match nearest(&field.key, &fields) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "remove it".to_owned(),
                };
                self.error(
                    "unknown-field",
                    field.place,
                    at,
                    format!("a {kind_name} state has no field `{}`: {hint}", field.key),
                );
            }
        }
        let comment = self.text(node, path, "Comment");
        let next = match kind_name {
            "Choice" | "Succeed" | "Fail" => Next::Nowhere,
            // An error has been reported; compile the rest all the same, to report what is wrong there.
            _ => self.next(&scene, member.place).unwrap_or(Next::End),
        };
        let assign = self.assign(&scene);
        let arguments_field = scene.arguments_field();
        let flow = Flow {
            output: if language == QueryLanguage::JSONata { self.template(&scene, "Output") } else { None },
            arguments: if kind_name == "Map" { None } else { self.template(&scene, arguments_field) },
            input_path: self.input_path(&scene, "InputPath"),
            output_path: self.input_path(&scene, "OutputPath"),
            result_selector: if language == QueryLanguage::JSONPath {
                self.template(&scene, "ResultSelector")
            } else {
                None
            },
            result_path: self.result_path(&scene),
        };
        let retry = self.retriers(&scene);
        let catch = self.catchers(&scene);
        let kind = match kind_name {
            "Pass" => Some(StateKind::Pass { result: node.get("Result").map(|result| result.to_value().into()) }),
            "Task" => self.task(&scene, member.place),
            "Choice" => self.choice(&scene, member.place),
            "Wait" => self.wait(&scene, member.place),
            "Succeed" => Some(StateKind::Succeed),
            "Fail" => Some(self.fail(&scene)),
            "Parallel" => self.parallel(&scene, member.place),
            _ => self.map(&scene, member.place),
        };
        if self.error_count() > errors_before && kind.is_none() {
            return None;
        }
        Some(State {
            name: member.key.as_str().into(),
            comment,
            language,
            place: member.place,
            next,
            flow,
            assign,
            retry,
            catch,
            kind: kind?,
        })
    }

    fn error_count(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    fn task(&mut self, scene: &Scene<'_>, place: Place) -> Option<StateKind> {
        let resource = match scene.node.get("Resource") {
            None => {
                self.error("missing-field", place, &scene.path, "a Task needs a `Resource`: the ARN of what it calls");
                None
            }
            Some(value) => {
                let at = join(&scene.path, "Resource");
                match value.as_str() {
                    Some(text) if !substitution::placeholders_of(text).is_empty() => {
                        if self.placeholders == Placeholders::Refused {
                            self.error("unfilled-substitution", value.place, at, format!("`{text}` has not been filled in: give the substitution a value before the machine runs"));
                            None
                        } else {
                            Some(
                                Resource::parse(text)
                                    .unwrap_or(Resource { arn: text.into(), kind: ResourceKind::Other }),
                            )
                        }
                    }
                    Some(text) => match Resource::parse(text) {
                        Some(resource) => {
                            if let Some(message) = integrations::refusal(&resource) {
                                self.error("unknown-integration", value.place, at, message);
                            }
                            Some(resource)
                        }
                        None => {
                            self.error("bad-resource", value.place, at, format!("`{text}` is not an ARN: a Resource looks like `arn:aws:states:::lambda:invoke` or the ARN of a function"));
                            None
                        }
                    },
                    None => {
                        self.error(
                            "bad-type",
                            value.place,
                            at,
                            format!("`Resource` is the ARN of what is called, this is {}", value.kind_name()),
                        );
                        None
                    }
                }
            }
        };
        let timeout = self.amount_path(scene, "TimeoutSeconds", "TimeoutSecondsPath", 1, MAX_SECONDS);
        let heartbeat = self.amount_path(scene, "HeartbeatSeconds", "HeartbeatSecondsPath", 1, MAX_SECONDS);
        if let (Some(Amount::Fixed(timeout)), Some(Amount::Fixed(heartbeat))) = (&timeout, &heartbeat)
            && heartbeat >= timeout
            && let Some(field) = scene.node.get("HeartbeatSeconds")
        {
            self.error(
                "bad-value",
                field.place,
                join(&scene.path, "HeartbeatSeconds"),
                "`HeartbeatSeconds` must be smaller than `TimeoutSeconds`, or it never acts",
            );
        }
        let credentials = self.template(scene, "Credentials");
        Some(StateKind::Task(Box::new(Task { resource: resource?, timeout, heartbeat, credentials })))
    }

    fn choice(&mut self, scene: &Scene<'_>, place: Place) -> Option<StateKind> {
        let default = self.target(scene, scene.node, &scene.path, "Default");
        let at = join(&scene.path, "Choices");
        let Some(choices) = scene.node.get("Choices") else {
            self.error("missing-field", place, &scene.path, "a Choice needs `Choices`: the rules, each with a `Next`");
            return None;
        };
        let Kind::Array(items) = &choices.kind else {
            self.error(
                "bad-type",
                choices.place,
                at,
                format!("`Choices` is an array of rules, this is {}", choices.kind_name()),
            );
            return None;
        };
        if items.is_empty() {
            self.error("bad-value", choices.place, at, "`Choices` is empty: a Choice needs at least one rule");
            return None;
        }
        let mut rules = Vec::with_capacity(items.len());
        let mut whole = true;
        for (index, item) in items.iter().enumerate() {
            match self.rule(scene, item, &join(&at, &index.to_string())) {
                Some(rule) => rules.push(rule),
                None => whole = false,
            }
        }
        whole.then_some(StateKind::Choice { rules, default })
    }

    fn rule(&mut self, scene: &Scene<'_>, item: &Node, path: &str) -> Option<Rule> {
        let Some(members) = item.as_object() else {
            self.error(
                "bad-type",
                item.place,
                path,
                format!("a choice rule is an object, this is {}", item.kind_name()),
            );
            return None;
        };
        let inner = Scene { node: item, path: path.to_owned(), language: scene.language, siblings: scene.siblings };
        if item.get("Next").is_none() {
            self.error(
                "missing-next",
                item.place,
                path,
                "the rule has no `Next`: say which state follows when it holds",
            );
        }
        let next = self.target(scene, item, path, "Next");
        let assign = self.assign(&inner);
        let (condition, output, label) = match scene.language {
            QueryLanguage::JSONata => {
                self.known_fields(
                    members,
                    path,
                    "a choice rule in JSONata",
                    &["Condition", "Next", "Assign", "Output", "Comment"],
                );
                let output = self.template(&inner, "Output");
                let Some(value) = item.get("Condition") else {
                    self.error(
                        "missing-field",
                        item.place,
                        path,
                        "the rule has no `Condition`: write one such as `{% $x > 1 %}`",
                    );
                    return None;
                };
                let at = join(path, "Condition");
                let condition = match &value.kind {
                    Kind::Bool(value) => Condition::Constant(*value),
                    Kind::String(text) if jsonata::delimited(text).is_some() => {
                        Condition::Jsonata(self.jsonata_text(text, value.place, &at)?)
                    }
                    _ => {
                        self.error(
                            "bad-value",
                            value.place,
                            at,
                            "`Condition` is an expression `{% … %}` that gives true or false",
                        );
                        return None;
                    }
                };
                let label = match &condition {
                    Condition::Jsonata(expression) => expression.source().to_owned(),
                    Condition::Constant(value) => value.to_string(),
                    Condition::Tree(_) => String::new(),
                };
                (condition, output, label)
            }
            QueryLanguage::JSONPath => {
                let mut findings = Vec::new();
                let test = choice::Test::compile(item, path, true, &mut findings);
                self.problems.extend(findings);
                let test = test?;
                let label = test.to_string();
                (Condition::Tree(test), None, label)
            }
        };
        Some(Rule { condition, next: next?, assign, output, label })
    }

    fn wait(&mut self, scene: &Scene<'_>, place: Place) -> Option<StateKind> {
        let given: Vec<&str> = ["Seconds", "Timestamp", "SecondsPath", "TimestampPath"]
            .into_iter()
            .filter(|field| scene.node.get(field).is_some())
            .collect();
        match given.as_slice() {
            ["Seconds"] => {
                self.amount(scene, "Seconds", 0, MAX_SECONDS).map(|amount| StateKind::Wait(Wait::Seconds(amount)))
            }
            ["SecondsPath"] => self
                .amount_path(scene, "Seconds", "SecondsPath", 0, MAX_SECONDS)
                .map(|amount| StateKind::Wait(Wait::Seconds(amount))),
            ["Timestamp"] => {
                let value = scene.node.get("Timestamp")?;
                let at = join(&scene.path, "Timestamp");
                let Some(text) = value.as_str() else {
                    self.error(
                        "bad-type",
                        value.place,
                        at,
                        format!(
                            "`Timestamp` is a moment such as \"2026-01-02T03:04:05Z\", this is {}",
                            value.kind_name()
                        ),
                    );
                    return None;
                };
                if scene.language == QueryLanguage::JSONata && jsonata::delimited(text).is_some() {
                    return self.jsonata_text(text, value.place, &at).map(|expression| {
                        StateKind::Wait(Wait::Timestamp(Template::Query(Query::Jsonata(expression))))
                    });
                }
                if crate::moment::parse(text).is_none() && !substitution::is_placeholder(text) {
                    self.error("bad-value", value.place, at, format!("`{text}` is not a moment: write it like \"2026-01-02T03:04:05Z\", with `T` and `Z` or an offset"));
                    return None;
                }
                Some(StateKind::Wait(Wait::Timestamp(Template::Literal(Value::from(text).into()))))
            }
            ["TimestampPath"] => {
                let value = scene.node.get("TimestampPath")?;
                let query = self.path_query(value, &join(&scene.path, "TimestampPath"), "TimestampPath", false)?;
                Some(StateKind::Wait(Wait::Timestamp(Template::Query(Query::Path(query)))))
            }
            [] => {
                self.error("missing-field", place, &scene.path, "a Wait needs `Seconds` or `Timestamp`");
                None
            }
            many => {
                self.error(
                    "conflict",
                    place,
                    &scene.path,
                    format!("a Wait has exactly one of its times, this has {}: keep one", many.join(", ")),
                );
                None
            }
        }
    }

    fn fail(&mut self, scene: &Scene<'_>) -> StateKind {
        let mut part = |field: &str, path_field: &str| -> Option<Template> {
            if let Some(value) = scene.node.get(path_field).filter(|_| scene.language == QueryLanguage::JSONPath) {
                if scene.node.get(field).is_some() {
                    self.error(
                        "conflict",
                        value.place,
                        join(&scene.path, path_field),
                        format!("`{field}` and `{path_field}` exclude each other: keep one"),
                    );
                }
                return self
                    .path_query(value, &join(&scene.path, path_field), path_field, true)
                    .map(|query| Template::Query(Query::Path(query)));
            }
            let value = scene.node.get(field)?;
            if value.as_str().is_none() {
                self.error(
                    "bad-type",
                    value.place,
                    join(&scene.path, field),
                    format!("`{field}` is a string, this is {}", value.kind_name()),
                );
                return None;
            }
            match scene.language {
                QueryLanguage::JSONata => self.jsonata_template(value, &join(&scene.path, field)),
                QueryLanguage::JSONPath => Some(Template::Literal(value.to_value().into())),
            }
        };
        StateKind::Fail { error: part("Error", "ErrorPath"), cause: part("Cause", "CausePath") }
    }

    fn parallel(&mut self, scene: &Scene<'_>, place: Place) -> Option<StateKind> {
        let at = join(&scene.path, "Branches");
        let Some(value) = scene.node.get("Branches") else {
            self.error("missing-field", place, &scene.path, "a Parallel needs `Branches`: an array of machines");
            return None;
        };
        let Kind::Array(items) = &value.kind else {
            self.error(
                "bad-type",
                value.place,
                at,
                format!("`Branches` is an array of machines, this is {}", value.kind_name()),
            );
            return None;
        };
        if items.is_empty() {
            self.error("bad-value", value.place, at, "`Branches` is empty: a Parallel needs at least one branch");
            return None;
        }
        let mut branches = Vec::with_capacity(items.len());
        let mut whole = true;
        for (index, item) in items.iter().enumerate() {
            let branch_path = join(&at, &index.to_string());
            let Some(members) = item.as_object() else {
                self.error(
                    "bad-type",
                    item.place,
                    branch_path,
                    format!("a branch is an object with `StartAt` and `States`, this is {}", item.kind_name()),
                );
                whole = false;
                continue;
            };
            self.known_fields(
                members,
                &branch_path,
                "a branch",
                &["Comment", "QueryLanguage", "StartAt", "States", "Version", "ProcessorConfig"],
            );
            match self.group(item, &branch_path, scene.language) {
                Some(group) => branches.push(group),
                None => whole = false,
            }
        }
        whole.then_some(StateKind::Parallel { branches })
    }

    fn map(&mut self, scene: &Scene<'_>, place: Place) -> Option<StateKind> {
        let (field, processor) = match (scene.node.get("ItemProcessor"), scene.node.get("Iterator")) {
            (Some(processor), None) => ("ItemProcessor", processor),
            (None, Some(processor)) => ("Iterator", processor),
            (Some(_), Some(second)) => {
                self.error(
                    "conflict",
                    second.place,
                    join(&scene.path, "Iterator"),
                    "`Iterator` is the old name of `ItemProcessor`: keep one",
                );
                return None;
            }
            (None, None) => {
                self.error(
                    "missing-field",
                    place,
                    &scene.path,
                    "a Map needs an `ItemProcessor`: the machine that handles each item",
                );
                return None;
            }
        };
        let at = join(&scene.path, field);
        let Some(members) = processor.as_object() else {
            self.error(
                "bad-type",
                processor.place,
                at,
                format!("`{field}` is an object with `StartAt` and `States`, this is {}", processor.kind_name()),
            );
            return None;
        };
        self.known_fields(
            members,
            &at,
            "the processor of a Map",
            &["Comment", "QueryLanguage", "StartAt", "States", "ProcessorConfig", "Version"],
        );
        let mut distributed = false;
        if let Some(config) = processor.get("ProcessorConfig") {
            let config_path = join(&at, "ProcessorConfig");
            match config.as_object() {
                Some(members) => {
                    self.known_fields(members, &config_path, "`ProcessorConfig`", &["Mode", "ExecutionType"])
                }
                None => self.error(
                    "bad-type",
                    config.place,
                    &config_path,
                    format!("`ProcessorConfig` is an object, this is {}", config.kind_name()),
                ),
            }
            match config.get("Mode") {
                None => {}
                Some(mode) => match mode.as_str() {
                    Some("INLINE") => {}
                    Some("DISTRIBUTED") => {
                        distributed = true;
                        self.execution_type(config, &config_path);
                    }
                    _ => self.error(
                        "bad-value",
                        mode.place,
                        join(&config_path, "Mode"),
                        "`Mode` is \"INLINE\" or \"DISTRIBUTED\"",
                    ),
                },
            }
        }
        let group = self.group(processor, &at, scene.language);
        let items = match scene.language {
            QueryLanguage::JSONata => {
                if let Some(value) = scene.node.get("Items")
                    && !(matches!(&value.kind, Kind::Array(_) | Kind::Object(_))
                        || value.as_str().is_some_and(|text| jsonata::delimited(text).is_some()))
                {
                    self.error(
                        "bad-type",
                        value.place,
                        join(&scene.path, "Items"),
                        format!("`Items` is an array or an expression that gives one, this is {}", value.kind_name()),
                    );
                }
                self.template(scene, "Items")
            }
            QueryLanguage::JSONPath => match scene.node.get("ItemsPath") {
                Some(value) => self
                    .path_query(value, &join(&scene.path, "ItemsPath"), "ItemsPath", false)
                    .map(|query| Template::Query(Query::Path(query))),
                None => None,
            },
        };
        let selector = match (
            scene.node.get("ItemSelector"),
            scene.node.get("Parameters").filter(|_| scene.language == QueryLanguage::JSONPath),
        ) {
            (Some(_), Some(second)) => {
                self.error(
                    "conflict",
                    second.place,
                    join(&scene.path, "Parameters"),
                    "in a Map `Parameters` is the old name of `ItemSelector`: keep one",
                );
                None
            }
            (Some(_), None) => self.template(scene, "ItemSelector"),
            (None, Some(_)) => self.template(scene, "Parameters"),
            (None, None) => None,
        };
        let max_concurrency = self.amount_path(scene, "MaxConcurrency", "MaxConcurrencyPath", 0, MAX_SECONDS);
        let tolerated_count =
            self.amount_path(scene, "ToleratedFailureCount", "ToleratedFailureCountPath", 0, MAX_SECONDS);
        let tolerated_percentage = self.percentage(scene);
        let distribution = self.distribution(scene);
        Some(StateKind::Map(Box::new(MapState {
            group: group?,
            items,
            selector,
            max_concurrency,
            tolerated_count,
            tolerated_percentage,
            // Without the mode, the fields of a distributed Map are read for their mistakes and mean nothing.
            distribution: distributed.then_some(distribution),
        })))
    }

    /// Child executions of a distributed Map are of a type that has to be said.
    fn execution_type(&mut self, config: &Node, path: &str) {
        match config.get("ExecutionType") {
            None => self.error(
                "missing-field",
                config.place,
                path,
                "a distributed Map needs an `ExecutionType`: \"STANDARD\" or \"EXPRESS\"",
            ),
            Some(value) if !matches!(value.as_str(), Some("STANDARD" | "EXPRESS")) => self.error(
                "bad-value",
                value.place,
                join(path, "ExecutionType"),
                "`ExecutionType` is \"STANDARD\" or \"EXPRESS\"",
            ),
            Some(_) => {}
        }
    }

    /// The error names of a retrier or catcher, and the rules about `States.ALL`.
    fn error_names(&mut self, item: &Node, path: &str, last: bool, what: &str) -> Option<Vec<Arc<str>>> {
        let Some(value) = item.get("ErrorEquals") else {
            self.error(
                "missing-field",
                item.place,
                path,
                format!("the {what} has no `ErrorEquals`: name the errors it is for"),
            );
            return None;
        };
        let at = join(path, "ErrorEquals");
        let Kind::Array(names) = &value.kind else {
            self.error(
                "bad-type",
                value.place,
                at,
                format!("`ErrorEquals` is an array of error names, this is {}", value.kind_name()),
            );
            return None;
        };
        if names.is_empty() {
            self.error(
                "bad-value",
                value.place,
                &at,
                "`ErrorEquals` is empty: name at least one error, or `States.ALL`",
            );
        }
        let mut errors: Vec<Arc<str>> = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let at = join(&at, &index.to_string());
            let Some(text) = name.as_str() else {
                self.error(
                    "bad-type",
                    name.place,
                    at,
                    format!("an error name is a string, this is {}", name.kind_name()),
                );
                continue;
            };
            if text == "States.ALL" {
                if names.len() > 1 {
                    self.error("states-all", name.place, &at, "`States.ALL` stands alone: remove the other names, or give it a rule of its own after this one");
                }
                if !last {
                    self.error(
                        "states-all",
                        name.place,
                        &at,
                        format!(
                            "`States.ALL` matches everything, so the {what}s after it are never reached: put it last"
                        ),
                    );
                }
            } else if text.starts_with("States.") && !PREDEFINED_ERRORS.contains(&text) {
                let hint = nearest(text, &PREDEFINED_ERRORS)
                    .map(|near| format!("did you mean `{near}`?"))
                    .unwrap_or_else(|| "names that begin with `States.` are Step Functions' own".to_owned());
                self.warn("unknown-error", name.place, &at, format!("there is no error `{text}`: {hint}"));
            }
            errors.push(text.into());
        }
        Some(errors)
    }

    fn retriers(&mut self, scene: &Scene<'_>) -> Vec<Retrier> {
        let Some(value) = scene.node.get("Retry") else {
            return Vec::new();
        };
        let at = join(&scene.path, "Retry");
        let Kind::Array(items) = &value.kind else {
            self.error(
                "bad-type",
                value.place,
                at,
                format!("`Retry` is an array of retriers, this is {}", value.kind_name()),
            );
            return Vec::new();
        };
        let mut retriers = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = join(&at, &index.to_string());
            let Some(members) = item.as_object() else {
                self.error(
                    "bad-type",
                    item.place,
                    path,
                    format!("a retrier is an object, this is {}", item.kind_name()),
                );
                continue;
            };
            self.known_fields(
                members,
                &path,
                "a retrier",
                &[
                    "ErrorEquals",
                    "IntervalSeconds",
                    "MaxAttempts",
                    "BackoffRate",
                    "MaxDelaySeconds",
                    "JitterStrategy",
                    "Comment",
                ],
            );
            let errors = self.error_names(item, &path, index + 1 == items.len(), "retrier");
            let interval_seconds = self.whole_number(item, &path, "IntervalSeconds", 1, MAX_SECONDS).unwrap_or(1);
            let max_attempts = self.whole_number(item, &path, "MaxAttempts", 0, MAX_SECONDS).unwrap_or(3);
            let backoff_rate = match item.get("BackoffRate") {
                None => 2.0,
                Some(value) => match &value.kind {
                    Kind::Number(number) if number.as_f64().is_some_and(|rate| rate >= 1.0) => {
                        number.as_f64().unwrap_or(2.0)
                    }
                    _ => {
                        self.error(
                            "bad-value",
                            value.place,
                            join(&path, "BackoffRate"),
                            "`BackoffRate` is a number of at least 1.0",
                        );
                        2.0
                    }
                },
            };
            let max_delay_seconds = self.whole_number(item, &path, "MaxDelaySeconds", 1, 31_622_400);
            if let Some(most) = max_delay_seconds
                && most <= interval_seconds
                && let Some(field) = item.get("MaxDelaySeconds")
            {
                self.error(
                    "bad-value",
                    field.place,
                    join(&path, "MaxDelaySeconds"),
                    format!("`MaxDelaySeconds` must be greater than `IntervalSeconds` ({interval_seconds})"),
                );
            }
            let full_jitter = match item.get("JitterStrategy") {
                None => false,
                Some(value) => match value.as_str() {
                    Some("FULL") => true,
                    Some("NONE") => false,
                    _ => {
                        self.error(
                            "bad-value",
                            value.place,
                            join(&path, "JitterStrategy"),
                            "`JitterStrategy` is \"FULL\" or \"NONE\"",
                        );
                        false
                    }
                },
            };
            if let Some(errors) = errors {
                retriers.push(Retrier {
                    errors,
                    interval_seconds,
                    max_attempts,
                    backoff_rate,
                    max_delay_seconds,
                    full_jitter,
                });
            }
        }
        retriers
    }

    fn catchers(&mut self, scene: &Scene<'_>) -> Vec<Catcher> {
        let Some(value) = scene.node.get("Catch") else {
            return Vec::new();
        };
        let at = join(&scene.path, "Catch");
        let Kind::Array(items) = &value.kind else {
            self.error(
                "bad-type",
                value.place,
                at,
                format!("`Catch` is an array of catchers, this is {}", value.kind_name()),
            );
            return Vec::new();
        };
        let mut catchers = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = join(&at, &index.to_string());
            let Some(members) = item.as_object() else {
                self.error(
                    "bad-type",
                    item.place,
                    path,
                    format!("a catcher is an object, this is {}", item.kind_name()),
                );
                continue;
            };
            let known: &[&str] = match scene.language {
                QueryLanguage::JSONata => &["ErrorEquals", "Next", "Assign", "Output", "Comment"],
                QueryLanguage::JSONPath => &["ErrorEquals", "Next", "Assign", "ResultPath", "Comment"],
            };
            self.known_fields(members, &path, "a catcher", known);
            let errors = self.error_names(item, &path, index + 1 == items.len(), "catcher");
            let inner = Scene { node: item, path: path.clone(), language: scene.language, siblings: scene.siblings };
            if item.get("Next").is_none() {
                self.error(
                    "missing-next",
                    item.place,
                    &path,
                    "the catcher has no `Next`: say which state handles the error",
                );
            }
            let next = self.target(scene, item, &path, "Next");
            let assign = self.assign(&inner);
            let output = if scene.language == QueryLanguage::JSONata { self.template(&inner, "Output") } else { None };
            let result_path = self.result_path(&inner);
            if let (Some(errors), Some(next)) = (errors, next) {
                catchers.push(Catcher { errors, next, assign, output, result_path });
            }
        }
        catchers
    }
}

/// The names that Step Functions itself gives to errors.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html>
pub(crate) const PREDEFINED_ERRORS: [&str; 17] = [
    "States.ALL",
    "States.BranchFailed",
    "States.DataLimitExceeded",
    "States.ExceedToleratedFailureThreshold",
    "States.HeartbeatTimeout",
    "States.Http.Socket",
    "States.IntrinsicFailure",
    "States.ItemReaderFailed",
    "States.NoChoiceMatched",
    "States.ParameterPathFailure",
    "States.Permissions",
    "States.QueryEvaluationError",
    "States.ResultPathMatchFailure",
    "States.ResultWriterFailed",
    "States.Runtime",
    "States.TaskFailed",
    "States.Timeout",
];

/// The states that can follow a state within its group.
pub(crate) fn targets(state: &State) -> Vec<usize> {
    let mut targets = Vec::new();
    if let Next::State(index) = state.next {
        targets.push(index);
    }
    if let StateKind::Choice { rules, default } = &state.kind {
        targets.extend(rules.iter().map(|rule| rule.next));
        targets.extend(*default);
    }
    targets.extend(state.catch.iter().map(|catcher| catcher.next));
    targets
}

/// Groups of field names.
type Fields = &'static [&'static [&'static str]];

/// The fields a state of this type may have in this language; `None` when there is no such type.
fn fields(kind: &str, language: QueryLanguage) -> Option<Vec<&'static str>> {
    const PATH_IO: &[&str] = &["InputPath", "OutputPath"];
    const PATH_RESULT: &[&str] = &["Parameters", "ResultSelector", "ResultPath"];
    const STEP: &[&str] = &["Next", "End", "Assign"];
    const CARE: &[&str] = &["Retry", "Catch"];
    let (both, path, jsonata): (Fields, Fields, Fields) = match kind {
        "Pass" => (&[STEP], &[PATH_IO, &["Result", "Parameters", "ResultPath"]], &[&["Output"]]),
        "Task" => (
            &[STEP, CARE, &["Resource", "TimeoutSeconds", "HeartbeatSeconds", "Credentials"]],
            &[PATH_IO, PATH_RESULT, &["TimeoutSecondsPath", "HeartbeatSecondsPath"]],
            &[&["Arguments", "Output"]],
        ),
        "Choice" => (&[&["Choices", "Default", "Assign"]], &[PATH_IO], &[&["Output"]]),
        "Wait" => (&[STEP, &["Seconds", "Timestamp"]], &[PATH_IO, &["SecondsPath", "TimestampPath"]], &[&["Output"]]),
        "Succeed" => (&[], &[PATH_IO], &[&["Output"]]),
        "Fail" => (&[&["Error", "Cause"]], &[&["ErrorPath", "CausePath"]], &[]),
        "Parallel" => (&[STEP, CARE, &["Branches"]], &[PATH_IO, PATH_RESULT], &[&["Arguments", "Output"]]),
        "Map" => (
            &[
                STEP,
                CARE,
                &[
                    "ItemProcessor",
                    "Iterator",
                    "ItemSelector",
                    "ItemReader",
                    "ItemBatcher",
                    "ResultWriter",
                    "MaxConcurrency",
                    "ToleratedFailureCount",
                    "ToleratedFailurePercentage",
                    "Label",
                ],
            ],
            &[
                PATH_IO,
                PATH_RESULT,
                &["ItemsPath", "MaxConcurrencyPath", "ToleratedFailureCountPath", "ToleratedFailurePercentagePath"],
            ],
            &[&["Items", "Output"]],
        ),
        _ => return None,
    };
    let own = match language {
        QueryLanguage::JSONPath => path,
        QueryLanguage::JSONata => jsonata,
    };
    Some(
        ["Type", "Comment", "QueryLanguage"]
            .iter()
            .chain(both.iter().chain(own).flat_map(|part| part.iter()))
            .copied()
            .collect(),
    )
}

fn collapse_array(items: Vec<Template>) -> Template {
    if items.iter().all(|item| matches!(item, Template::Literal(_))) {
        let values = items.into_iter().filter_map(|item| match item {
            Template::Literal(payload) => Some(payload.into_value()),
            _ => None,
        });
        return Template::Literal(Value::Array(values.collect()).into());
    }
    Template::Array(items)
}

fn collapse_object(members: Vec<(Arc<str>, Template)>) -> Template {
    if members.iter().all(|(_, value)| matches!(value, Template::Literal(_))) {
        let values = members.into_iter().filter_map(|(key, value)| match value {
            Template::Literal(payload) => Some((key.to_string(), payload.into_value())),
            _ => None,
        });
        return Template::Literal(Value::Object(values.collect()).into());
    }
    Template::Object(members)
}

/// Letters as Unicode identifiers have them, then digits and underscores too.
fn is_variable_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|letter| letter.is_alphabetic() || letter == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
        && name.chars().count() <= 80
        && name != "states"
}

pub(crate) fn join(path: &str, part: &str) -> String {
    // JSON pointers escape these two; states are sometimes named `a/b`.
    format!("{path}/{}", part.replace('~', "~0").replace('/', "~1"))
}

fn hint<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    match nearest(name, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "correct the name or add the state".to_owned(),
    }
}

/// The known name within two edits, if there is one.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
