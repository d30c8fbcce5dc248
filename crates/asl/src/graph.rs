//! The shape of a machine, for tools that draw or walk it.

use std::sync::Arc;

use serde::Serialize;

use crate::definition::{Machine, Next, QueryLanguage, State, StateKind};

/// States that can reach each other: the machine, a branch of a Parallel, the processor of a Map.
#[derive(Debug, Clone, Serialize)]
pub struct Scope {
    /// The first state.
    pub start: String,
    /// Why it is there.
    pub comment: Option<String>,
    /// The states in the order of the definition.
    pub states: Vec<StateNode>,
}

/// A state.
#[derive(Debug, Clone, Serialize)]
pub struct StateNode {
    /// Its name, unique in the machine.
    pub name: String,
    /// `Pass`, `Task`, `Choice`, `Wait`, `Succeed`, `Fail`, `Parallel` or `Map`.
    pub kind: &'static str,
    /// Its `Comment`.
    pub comment: Option<String>,
    /// The language of its expressions.
    pub language: QueryLanguage,
    /// What a Task calls.
    pub resource: Option<String>,
    /// The seconds a Task may take, when they are fixed.
    pub timeout_seconds: Option<u64>,
    /// The error names of its retriers with the most attempts of each.
    pub retries: Vec<(Vec<String>, u64)>,
    /// The variables it assigns.
    pub assigns: Vec<String>,
    /// Where it leads.
    pub edges: Vec<Edge>,
    /// Whether its scope ends here: `End`, Succeed or Fail.
    pub ends: bool,
    /// The branches of a Parallel, or the processor of a Map.
    pub scopes: Vec<Scope>,
    /// The line of the definition it begins on.
    pub line: usize,
}

/// A way from one state to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Why it is taken.
    #[serde(flatten)]
    pub label: EdgeLabel,
    /// Where it leads.
    pub target: String,
}

/// Why an edge is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "label", rename_all = "kebab-case")]
pub enum EdgeLabel {
    /// `Next`
    Next,
    /// A rule of a Choice.
    Rule {
        /// The condition as written.
        condition: String,
    },
    /// `Default` of a Choice.
    Default,
    /// A catcher.
    Catch {
        /// The errors it is for.
        errors: Vec<String>,
    },
}

impl Machine {
    /// The machine's states and edges.
    pub fn graph(&self) -> Scope {
        self.scope(0)
    }

    fn scope(&self, group: usize) -> Scope {
        let group = &self.groups[group];
        let name = |index: usize| group.states[index].name.to_string();
        Scope {
            start: name(group.start),
            comment: group.comment.clone(),
            states: group.states.iter().map(|state| self.node(state, &name)).collect(),
        }
    }

    fn node(&self, state: &State, name: &dyn Fn(usize) -> String) -> StateNode {
        let mut edges = Vec::new();
        let mut scopes = Vec::new();
        let (mut resource, mut timeout_seconds) = (None, None);
        match &state.kind {
            StateKind::Choice { rules, default } => {
                edges.extend(rules.iter().map(|rule| Edge {
                    label: EdgeLabel::Rule { condition: rule.label.clone() },
                    target: name(rule.next),
                }));
                edges.extend(default.map(|index| Edge { label: EdgeLabel::Default, target: name(index) }));
            }
            StateKind::Task(task) => {
                resource = Some(task.resource.arn.to_string());
                if let Some(crate::template::Amount::Fixed(seconds)) = task.timeout {
                    timeout_seconds = Some(seconds);
                }
            }
            StateKind::Parallel { branches } => scopes.extend(branches.iter().map(|group| self.scope(*group))),
            StateKind::Map(map) => scopes.push(self.scope(map.group)),
            _ => {}
        }
        if let Next::State(index) = state.next {
            edges.push(Edge { label: EdgeLabel::Next, target: name(index) });
        }
        let texts = |errors: &[Arc<str>]| errors.iter().map(|error| error.to_string()).collect();
        edges.extend(state.catch.iter().map(|catcher| Edge {
            label: EdgeLabel::Catch { errors: texts(&catcher.errors) },
            target: name(catcher.next),
        }));
        StateNode {
            name: state.name.to_string(),
            kind: state.kind.name(),
            comment: state.comment.clone(),
            language: state.language,
            resource,
            timeout_seconds,
            retries: state.retry.iter().map(|retrier| (texts(&retrier.errors), retrier.max_attempts)).collect(),
            assigns: state.assign.iter().flatten().map(|(name, _)| name.to_string()).collect(),
            edges,
            ends: state.next == Next::End || matches!(state.kind, StateKind::Succeed | StateKind::Fail { .. }),
            scopes,
            line: state.place.line,
        }
    }
}

impl Scope {
    /// A state anywhere in this scope or within it.
    pub fn find(&self, name: &str) -> Option<&StateNode> {
        self.states.iter().find_map(|state| {
            if state.name == name { Some(state) } else { state.scopes.iter().find_map(|scope| scope.find(name)) }
        })
    }

    /// Every state in this scope and within it, outer ones first.
    pub fn all_states(&self) -> Vec<&StateNode> {
        let mut found = Vec::new();
        for state in &self.states {
            found.push(state);
            for scope in &state.scopes {
                found.extend(scope.all_states());
            }
        }
        found
    }
}
