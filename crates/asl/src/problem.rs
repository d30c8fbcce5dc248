//! What is wrong with a machine, where, and what to do about it.

use std::fmt;

use serde::Serialize;

use crate::source::Place;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Step Functions rejects the machine, or it cannot do what it says.
    Error,
    /// The machine runs, but people regret it.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One finding in a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name for the kind of finding, such as `missing-next`.
    pub code: &'static str,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// Where in the document, such as `/States/Promote/Retry/0`.
    pub path: String,
    /// What is wrong and what to do, in a sentence or two.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(
        severity: Severity,
        code: &'static str,
        place: Place,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Problem { severity, code, line: place.line, column: place.column, path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {} ({})",
            self.line,
            self.column,
            self.severity,
            self.message,
            if self.path.is_empty() { "/" } else { &self.path }
        )
    }
}
