//! Finds before a run what Step Functions would reject, and what people regret.
//!
//! The first half is compilation itself, which reports everything that Step Functions refuses when a machine is created.
//! The second half is here: it walks the document again and asks of each state what a careful reader would ask. Is there
//! a deadline? Can this retrier ever match? Who assigns this variable? Nothing here stops a machine from running, but an
//! *error* of this half is a machine that will fail when it gets there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::definition::{Placeholders, QueryLanguage, Resource, compile, join};
use crate::jsonata::{self, Expression};
use crate::jsonpath::Query;
use crate::problem::{Problem, Severity};
use crate::source::{self, Kind, Node, Place};
use crate::substitution;

/// What the checker is told about a definition.
#[derive(Debug, Clone, Default)]
pub struct CheckSettings {
    /// The substitutions that something fills in. When it is not known, none is reported.
    pub substitutions: Option<BTreeSet<String>>,
}

/// Checks a definition; problems come in the order of the text, errors and warnings mixed.
pub fn check(text: &str) -> Vec<Problem> {
    check_with(text, &CheckSettings::default())
}

/// Checks a definition whose surroundings are known.
pub fn check_with(text: &str, settings: &CheckSettings) -> Vec<Problem> {
    let (_, mut problems) = compile(text, Placeholders::Allowed);
    if let Some(filled) = &settings.substitutions {
        let open = substitution::placeholders_of(text).into_iter().filter(|(_, name)| !filled.contains(*name));
        problems.extend(open.map(|(at, name)| substitution::unfilled(text, at, name)));
    }
    if let Ok(root) = source::read(text) {
        let mut checker = Checker { problems: Vec::new() };
        checker.machine(&root);
        problems.append(&mut checker.problems);
    }
    problems.sort_by_key(|problem| (problem.line, problem.column, problem.severity));
    problems.dedup();
    problems
}

struct Checker {
    problems: Vec<Problem>,
}

/// Variables that can be read in a scope, with the place of one assignment, and whether anybody reads them.
#[derive(Default)]
struct Variables {
    assigned: BTreeMap<String, (Place, String)>,
    read: BTreeSet<String>,
    /// Nothing outside can be read: the states are those of a distributed Map's child executions.
    closed: bool,
}

/// What `$states` has at a place besides `input` and `context`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offers {
    Nothing,
    Result,
    Error,
}

impl Checker {
    fn report(&mut self, severity: Severity, code: &'static str, place: Place, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(severity, code, place, path, message));
    }

    fn warn(&mut self, code: &'static str, place: Place, path: &str, message: impl Into<String>) {
        self.report(Severity::Warning, code, place, path, message);
    }

    fn machine(&mut self, root: &Node) {
        if root.get("States").is_some() && root.get("TimeoutSeconds").is_none() {
            self.warn("no-deadline", root.place, "", "the machine has no `TimeoutSeconds`, so a run that hangs hangs for a year: give it the time the whole run may take");
        }
        let language = language_of(root, QueryLanguage::JSONPath);
        self.scope(root, "", language, false, &mut Vec::new());
    }

    /// A machine, branch or processor, within the scopes that stand around it.
    fn scope(&mut self, node: &Node, path: &str, language: QueryLanguage, closed: bool, outer: &mut Vec<Variables>) {
        let Some(states) = node.get("States").and_then(Node::as_object) else { return };
        let states_path = join(path, "States");
        let mut own = Variables { closed, ..Variables::default() };
        for member in states {
            collect_assignments(&member.value, &join(&states_path, &member.key), &mut own);
        }
        for (name, (place, at)) in &own.assigned {
            if !closed && visible(outer).any(|scope| scope.assigned.contains_key(name)) {
                let message = format!(
                    "`${name}` is also assigned outside: an inner scope cannot write outer variables, so these are two variables of one name: rename one"
                );
                self.warn("shadowed-variable", *place, at, message);
            }
        }
        outer.push(own);
        for member in states {
            let at = join(&states_path, &member.key);
            self.state(&member.value, member.place, &member.key, &at, language_of(&member.value, language), outer);
        }
        self.dead_ends(states, &states_path);
        let Some(own) = outer.pop() else { return };
        for (name, (place, at)) in &own.assigned {
            if !own.read.contains(name) {
                self.warn("unread-variable", *place, at, format!("nobody reads `${name}`: use it or remove it"));
            }
        }
    }

    fn state(
        &mut self,
        node: &Node,
        place: Place,
        name: &str,
        path: &str,
        language: QueryLanguage,
        scopes: &mut Vec<Variables>,
    ) {
        let Some(members) = node.as_object() else { return };
        let kind = node.get("Type").and_then(Node::as_str).unwrap_or_default();
        match kind {
            "Task" => self.task(node, place, name, path, language),
            "Choice" => self.choice(node, place, name, path),
            "Map" => self.map(node, path),
            _ => {}
        }
        self.handlers(node, path, "Retry", "retrier");
        self.handlers(node, path, "Catch", "catcher");
        let result = matches!(kind, "Task" | "Parallel" | "Map");
        for member in members {
            let at = join(path, &member.key);
            match member.key.as_str() {
                "Branches" => {
                    if let Kind::Array(branches) = &member.value.kind {
                        for (index, branch) in branches.iter().enumerate() {
                            self.scope(branch, &join(&at, &index.to_string()), language, false, scopes);
                        }
                    }
                }
                "ItemProcessor" | "Iterator" => {
                    self.scope(&member.value, &at, language, is_distributed(&member.value), scopes)
                }
                "Comment" | "Type" | "Next" | "Default" | "Resource" | "StartAt" | "QueryLanguage" | "Result" => {}
                "Catch" => self.expressions(&member.value, &at, language, Offers::Error, scopes),
                "Assign" | "Output" | "ResultSelector" if result => {
                    self.expressions(&member.value, &at, language, Offers::Result, scopes)
                }
                _ => self.expressions(&member.value, &at, language, Offers::Nothing, scopes),
            }
        }
    }

    fn task(&mut self, node: &Node, place: Place, name: &str, path: &str, language: QueryLanguage) {
        let has = |field: &str| node.get(field).is_some();
        let deadline =
            ["TimeoutSeconds", "TimeoutSecondsPath", "HeartbeatSeconds", "HeartbeatSecondsPath"].into_iter().any(has);
        let resource = node.get("Resource").and_then(Node::as_str).and_then(Resource::parse);
        let waits = resource.as_ref().is_some_and(Resource::waits_for_token);
        if !deadline {
            let message = if waits {
                format!(
                    "`{name}` waits for a token without a deadline: give it `TimeoutSeconds`, or `HeartbeatSeconds`, or it waits for a year"
                )
            } else {
                format!("`{name}` has no deadline: give it `TimeoutSeconds`, the longest it may take")
            };
            self.warn("no-deadline", place, path, message);
        }
        let Some(resource) = resource else { return };
        let field = if language == QueryLanguage::JSONata { "Arguments" } else { "Parameters" };
        if resource.is_lambda_invoke()
            && let Some(arguments) = node.get(field).filter(|arguments| arguments.as_object().is_some())
            && arguments.get("FunctionName").is_none()
            && arguments.get("FunctionName.$").is_none()
        {
            let message = "`lambda:invoke` needs a `FunctionName`: name the function or its ARN";
            self.report(Severity::Error, "missing-function", arguments.place, &join(path, field), message);
        }
        if resource.is_lambda_invoke() && node.get(field).is_none() {
            let message = format!("`lambda:invoke` needs `{field}` with a `FunctionName` and a `Payload`");
            self.report(Severity::Error, "missing-function", place, path, message);
        }
        if waits && !mentions(node.get(field), "Task.Token") {
            let message = format!(
                "`{name}` waits for a token and hands none out: put the context object's `Task.Token` into `{field}`"
            );
            self.warn("lost-token", place, path, message);
        }
    }

    fn choice(&mut self, node: &Node, place: Place, name: &str, path: &str) {
        if node.get("Default").is_none() {
            self.warn(
                "no-default",
                place,
                path,
                format!("`{name}` has no `Default`: when no rule holds the execution fails; say what happens then"),
            );
        }
        let Some(Kind::Array(rules)) = node.get("Choices").map(|choices| &choices.kind) else { return };
        let at = join(path, "Choices");
        let constant = |rule: &Node| {
            rule.get("Condition").and_then(|condition| match &condition.kind {
                Kind::Bool(value) => Some(*value),
                Kind::String(text) => match jsonata::delimited(text) {
                    Some("true") => Some(true),
                    Some("false") => Some(false),
                    _ => None,
                },
                _ => None,
            })
        };
        let mut decided = false;
        for (index, rule) in rules.iter().enumerate() {
            let here = join(&at, &index.to_string());
            if decided {
                self.warn(
                    "unreachable-rule",
                    rule.place,
                    &here,
                    "a rule before this one always holds, so this one is never asked: reorder or remove it",
                );
                continue;
            }
            match constant(rule) {
                Some(true) => decided = true,
                Some(false) => self.warn(
                    "unreachable-rule",
                    rule.place,
                    &here,
                    "this rule never holds: remove it or correct its condition",
                ),
                None => {}
            }
        }
    }

    /// Fields that only a distributed Map has.
    fn map(&mut self, node: &Node, path: &str) {
        let Some(processor) = node.get("ItemProcessor").or_else(|| node.get("Iterator")) else { return };
        if is_distributed(processor) {
            return;
        }
        for field in ["ItemReader", "ItemBatcher", "ResultWriter", "Label"] {
            if let Some(value) = node.get(field) {
                let message = format!(
                    "`{field}` belongs to a distributed Map: give the processor `\"ProcessorConfig\": {{\"Mode\": \"DISTRIBUTED\", …}}`, or remove it"
                );
                self.report(Severity::Error, "wrong-mode", value.place, &join(path, field), message);
            }
        }
    }

    /// Retriers and catchers that can never match, because an earlier one takes every error they name.
    fn handlers(&mut self, node: &Node, path: &str, field: &str, what: &str) {
        let Some(Kind::Array(items)) = node.get(field).map(|field| &field.kind) else { return };
        let at = join(path, field);
        let mut taken: HashMap<String, usize> = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            let Some(Kind::Array(names)) = item.get("ErrorEquals").map(|names| &names.kind) else { continue };
            let here = join(&join(&at, &index.to_string()), "ErrorEquals");
            for (position, name) in names.iter().enumerate() {
                let Some(text) = name.as_str() else { continue };
                let spot = join(&here, &position.to_string());
                if text == "States.Runtime" {
                    let message = format!(
                        "`States.Runtime` is never given to a {what}: the execution fails at once; prevent it instead, with defaults for what may be missing"
                    );
                    self.warn("unreachable-handler", name.place, &spot, message);
                }
                let by = taken.get(text).copied().or_else(|| {
                    let general = taken.get("States.TaskFailed").copied();
                    general.filter(|_| !matches!(text, "States.ALL" | "States.Timeout" | "States.HeartbeatTimeout"))
                });
                if let Some(by) = by {
                    let message = format!(
                        "`{text}` is already taken by {what} {}, which comes first: remove it here, or put the special case before the general one",
                        by + 1
                    );
                    self.warn("unreachable-handler", name.place, &spot, message);
                }
                taken.entry(text.to_owned()).or_insert(index);
            }
        }
    }

    /// Looks into every expression in a field.
    fn expressions(
        &mut self,
        node: &Node,
        path: &str,
        language: QueryLanguage,
        offers: Offers,
        scopes: &mut Vec<Variables>,
    ) {
        match &node.kind {
            Kind::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.expressions(item, &join(path, &index.to_string()), language, offers, scopes);
                }
            }
            Kind::Object(members) => {
                for member in members {
                    if matches!(member.key.as_str(), "Comment" | "ErrorEquals" | "Next") {
                        continue;
                    }
                    let at = join(path, &member.key);
                    match (language, &member.value.kind) {
                        (QueryLanguage::JSONPath, Kind::String(text)) => {
                            let reads =
                                member.key.ends_with(".$") || member.key == "Variable" || member.key.ends_with("Path");
                            self.path_text(text, member.value.place, &at, reads, scopes);
                        }
                        _ => self.expressions(&member.value, &at, language, offers, scopes),
                    }
                }
            }
            Kind::String(text) => match language {
                QueryLanguage::JSONata => self.jsonata_text(text, node.place, path, offers, scopes),
                QueryLanguage::JSONPath => {
                    let reads = path.ends_with("Path");
                    self.path_text(text, node.place, path, reads, scopes);
                }
            },
            _ => {}
        }
    }

    fn jsonata_text(&mut self, text: &str, place: Place, path: &str, offers: Offers, scopes: &mut [Variables]) {
        let Some(source) = jsonata::delimited(text) else {
            if text.starts_with("$.") || text.starts_with("$states.") {
                self.warn(
                    "not-an-expression",
                    place,
                    path,
                    format!("`{text}` is plain text here: write `{{% … %}}` around an expression"),
                );
            }
            return;
        };
        // What does not parse has been reported by compilation.
        let Ok(expression) = Expression::parse(source) else { return };
        for name in expression.unknown_functions() {
            let message = format!("there is no function `${name}` in the JSONata of Step Functions: correct the name");
            self.report(Severity::Error, "unknown-function", place, path, message);
        }
        let reads = expression.reads();
        if reads.result && offers != Offers::Result && source.contains("$states.result") {
            let message =
                "there is no `$states.result` here: only `Output` and `Assign` of Task, Parallel and Map have one";
            self.report(Severity::Error, "missing-result", place, path, message);
        }
        if reads.error_output && offers != Offers::Error && source.contains("$states.errorOutput") {
            let message = "there is no `$states.errorOutput` here: only `Output` and `Assign` of a catcher have one";
            self.report(Severity::Error, "missing-result", place, path, message);
        }
        // Asking whether a variable exists is a way to live without it.
        let asks = reads.functions.contains("exists");
        for name in &reads.variables {
            self.read(name, place, path, asks, scopes);
        }
    }

    fn path_text(&mut self, text: &str, place: Place, path: &str, reads: bool, scopes: &mut [Variables]) {
        if !reads {
            if text.starts_with("$.") || text.starts_with("$$.") {
                let message = format!(
                    "`{text}` is plain text here: for the value at that path the field's name must end in `.$`"
                );
                self.warn("not-an-expression", place, path, message);
            } else if jsonata::delimited(text).is_some() {
                let message =
                    "this is plain text in JSONPath: set `\"QueryLanguage\": \"JSONata\"` for it to be an expression";
                self.warn("not-an-expression", place, path, message);
            }
            return;
        }
        let Ok(query) = Query::parse(text, true) else { return };
        let mut variables = Vec::new();
        query.variables(&mut variables);
        for name in variables {
            self.read(&name, place, path, false, scopes);
        }
    }

    fn read(&mut self, name: &str, place: Place, path: &str, asks: bool, scopes: &mut [Variables]) {
        for scope in scopes.iter_mut().rev() {
            if scope.assigned.contains_key(name) {
                scope.read.insert(name.to_owned());
                return;
            }
            if scope.closed {
                break;
            }
        }
        if asks {
            return;
        }
        if scopes.iter().any(|scope| scope.assigned.contains_key(name)) {
            let message = format!(
                "`${name}` is a variable outside the distributed Map, whose child executions do not see it: hand it in with `ItemSelector`"
            );
            return self.report(Severity::Error, "unassigned-variable", place, path, message);
        }
        let known: Vec<&str> = scopes.iter().flat_map(|scope| scope.assigned.keys().map(String::as_str)).collect();
        let hint = match crate::definition::nearest(name, &known) {
            Some(near) => format!("did you mean `${near}`?"),
            None => "assign it in a state before, or correct the name".to_owned(),
        };
        self.report(
            Severity::Error,
            "unassigned-variable",
            place,
            path,
            format!("no state that comes before assigns `${name}`: {hint}"),
        );
    }

    /// States from which no end can be reached.
    fn dead_ends(&mut self, states: &[source::Member], path: &str) {
        let next_of = |node: &Node| {
            let mut targets: Vec<String> = Vec::new();
            for field in ["Next", "Default"] {
                targets.extend(node.get(field).and_then(Node::as_str).map(str::to_owned));
            }
            for field in ["Choices", "Catch"] {
                if let Some(Kind::Array(items)) = node.get(field).map(|field| &field.kind) {
                    targets.extend(
                        items.iter().filter_map(|item| item.get("Next").and_then(Node::as_str).map(str::to_owned)),
                    );
                }
            }
            targets
        };
        let ends = |node: &Node| {
            node.get("End").is_some() || matches!(node.get("Type").and_then(Node::as_str), Some("Succeed" | "Fail"))
        };
        let mut safe: BTreeSet<&str> =
            states.iter().filter(|state| ends(&state.value)).map(|state| state.key.as_str()).collect();
        // Nothing ends at all: compilation has said so.
        if safe.is_empty() {
            return;
        }
        loop {
            let found: Vec<&str> = states
                .iter()
                .filter(|state| {
                    !safe.contains(state.key.as_str())
                        && next_of(&state.value).iter().any(|target| safe.contains(target.as_str()))
                })
                .map(|state| state.key.as_str())
                .collect();
            if found.is_empty() {
                break;
            }
            safe.extend(found);
        }
        for state in
            states.iter().filter(|state| !safe.contains(state.key.as_str()) && state.value.as_object().is_some())
        {
            let message =
                format!("from `{}` no end can be reached: the run would go round until it is stopped", state.key);
            self.warn("no-way-out", state.place, &join(path, &state.key), message);
        }
    }
}

fn is_distributed(processor: &Node) -> bool {
    let mode = processor.get("ProcessorConfig").and_then(|config| config.get("Mode"));
    mode.and_then(Node::as_str) == Some("DISTRIBUTED")
}

/// The scopes that can be read from inside, the innermost first.
fn visible(scopes: &[Variables]) -> impl Iterator<Item = &Variables> {
    let border = scopes.iter().rposition(|scope| scope.closed).unwrap_or(0);
    scopes[border..].iter().rev()
}

fn language_of(node: &Node, inherited: QueryLanguage) -> QueryLanguage {
    match node.get("QueryLanguage").and_then(Node::as_str) {
        Some("JSONata") => QueryLanguage::JSONata,
        Some("JSONPath") => QueryLanguage::JSONPath,
        _ => inherited,
    }
}

/// Every `Assign` of a state: its own, its rules', its catchers'.
fn collect_assignments(state: &Node, path: &str, variables: &mut Variables) {
    let mut take = |holder: &Node, path: String| {
        let Some(members) = holder.get("Assign").and_then(Node::as_object) else { return };
        for member in members {
            let name = member.key.strip_suffix(".$").unwrap_or(&member.key);
            let at = join(&join(&path, "Assign"), &member.key);
            variables.assigned.entry(name.to_owned()).or_insert((member.place, at));
        }
    };
    take(state, path.to_owned());
    for field in ["Choices", "Catch"] {
        if let Some(Kind::Array(items)) = state.get(field).map(|field| &field.kind) {
            for (index, item) in items.iter().enumerate() {
                take(item, join(&join(path, field), &index.to_string()));
            }
        }
    }
}

/// Whether a text with these words stands anywhere inside.
fn mentions(node: Option<&Node>, words: &str) -> bool {
    match node.map(|node| &node.kind) {
        Some(Kind::String(text)) => text.contains(words),
        Some(Kind::Array(items)) => items.iter().any(|item| mentions(Some(item), words)),
        Some(Kind::Object(members)) => members.iter().any(|member| mentions(Some(&member.value), words)),
        _ => false,
    }
}
