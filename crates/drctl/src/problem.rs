//! What stops a command before it has changed anything: one line that says what, where and what to do.

use std::fmt;

use recovery::{
    fault::{Classified, chain},
    plan::PlanError,
};

/// Exit code of a command that did what it was asked, and found nothing wrong.
pub const DONE: u8 = 0;
/// Exit code of a command that found something: open contradictions, a run that did not end well.
pub const FOUND: u8 = 1;
/// Exit code of a command that could not be understood or carried out; nothing was changed.
pub const UNUSABLE: u8 = 2;

/// One line for the person at the keyboard.
#[derive(Debug)]
pub struct Problem(String);

impl Problem {
    /// A problem in words: what is wrong, where, and what to do.
    pub fn new(line: impl fmt::Display) -> Problem {
        // Others' words may have several lines; a terminal at night needs one.
        Problem(
            line.to_string().split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        )
    }

    /// An error of the domain with what to do about it.
    pub fn of<E: Classified>(error: &E) -> Problem {
        Problem::new(format!("{}; {}", chain(error), error.remedy()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Problem {
        Problem::new(error)
    }
}

/// The name among `known` that somebody probably meant.
pub fn did_you_mean<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let letters = |word: &str| word.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect::<Vec<_>>();
    let asked = letters(wrong);
    known
        .map(|name| (distance(&asked, &letters(name)), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, name)| name)
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
