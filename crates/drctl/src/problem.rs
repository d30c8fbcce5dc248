//! What went wrong, in one line: what, where, what to do.

use std::{fmt, process::ExitCode};

/// A command that could not do its work.
#[derive(Debug)]
pub struct Problem {
    line: String,
    code: u8,
}

/// Exit codes of `drctl`, as its help lists them.
pub mod exit {
    /// The command did its work; a failover recovered.
    pub const DONE: u8 = 0;
    /// The work was done and found something wrong.
    pub const FOUND: u8 = 1;
    /// Something was given that cannot be used; nothing was changed.
    pub const INPUT: u8 = 2;
    /// A guard held; nothing has changed.
    pub const REFUSED: u8 = 3;
    /// It failed before the point of no return and was put back.
    pub const STOPPED: u8 = 4;
    /// It failed after the point of no return.
    pub const INCOMPLETE: u8 = 5;
    /// Whether the archive has a file is not known: PostgreSQL ends its start above 125, and a restore below it.
    pub const UNKNOWN: u8 = 254;
    /// A person interrupted it.
    pub const INTERRUPTED: u8 = 130;
}

impl Problem {
    /// Something that a person gave cannot be used; nothing was changed.
    pub fn input(line: impl fmt::Display) -> Problem {
        Problem { line: one_line(&line.to_string()), code: exit::INPUT }
    }

    /// The work was begun and could not be finished.
    pub fn failed(line: impl fmt::Display) -> Problem {
        Problem { line: one_line(&line.to_string()), code: exit::FOUND }
    }

    /// Nothing is known, and PostgreSQL must not take it for an answer.
    pub fn unknown(line: impl fmt::Display) -> Problem {
        Problem { line: one_line(&line.to_string()), code: exit::UNKNOWN }
    }

    /// The code that the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<recovery::plan::PlanError> for Problem {
    fn from(error: recovery::plan::PlanError) -> Problem {
        Problem::input(error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
