//! State machines by name: those of `./statemachines`, or the ones that were built into this program.
//!
//! A laptop that has only the binary can still recover the platform.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use asl::Machine;

use recovery::spelling::nearest;

use crate::problem::Problem;

/// Where machines are looked for first.
const FOLDER: &str = "statemachines";

/// What was there when this program was built. A test compares it with the folder.
const BUILT_IN: &[(&str, &str)] = &[
    ("regional-failover", include_str!("../../../statemachines/regional-failover.asl.json")),
    ("nightly-backup", include_str!("../../../statemachines/nightly-backup.asl.json")),
    ("verify-backups", include_str!("../../../statemachines/verify-backups.asl.json")),
];

/// A definition, not filled in yet.
#[derive(Debug)]
pub struct Definition {
    /// Its name, which is its file's name without `.asl.json`.
    pub name: String,
    /// Where it comes from, for people.
    pub origin: String,
    /// The definition with its substitutions.
    pub text: String,
}

/// Whether a machine takes or proves backups: it needs no incident, and its report has a form of its own.
pub fn is_of_backups(machine: &str) -> bool {
    matches!(machine, "nightly-backup" | "verify-backups")
}

/// The names of all machines.
pub fn names() -> Vec<String> {
    let mut names = names_in(Path::new(FOLDER));
    if names.is_empty() {
        names = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    }
    names.sort();
    names
}

/// The names of the machines beside a plan, in this folder, or built in.
pub fn names_beside(plan: &Path) -> Vec<String> {
    let beside = plan.parent().and_then(Path::parent).map(|root| root.join(FOLDER));
    let found = beside.map(|folder| names_in(&folder)).unwrap_or_default();
    if found.is_empty() { names() } else { found }
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".asl.json")?.to_owned()))
        .collect()
}

/// Finds a machine by name, or reads the file of that name.
pub fn find(name: &str) -> Result<Definition, Problem> {
    let file = name.ends_with(".json").then(|| PathBuf::from(name));
    let path = file.clone().unwrap_or_else(|| Path::new(FOLDER).join(format!("{name}.asl.json")));
    let is_a_name = !name.contains('/') && !name.contains('\\');
    if (file.is_some() || is_a_name) && path.is_file() {
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Problem::input(format!("{}: cannot be read ({error}); name another file", path.display()))
        })?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(name);
        let name = name.strip_suffix(".asl.json").or_else(|| name.strip_suffix(".json")).unwrap_or(name);
        return Ok(Definition { name: name.to_owned(), origin: path.display().to_string(), text });
    }
    if let Some(file) = file {
        return Err(Problem::input(format!(
            "{}: there is no such file; name a definition, or a machine from `drctl machine list`",
            file.display()
        )));
    }
    if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok(Definition {
            name: (*name).to_owned(),
            origin: "built into drctl".to_owned(),
            text: (*text).to_owned(),
        });
    }
    let known = names();
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there is `{}`", known.join("`, `")),
    };
    Err(Problem::input(format!("there is no machine `{name}`; {hint}")))
}

impl Definition {
    /// The machine with names in place of ARNs, for looking at it.
    pub fn parse(&self) -> Result<Machine, Problem> {
        Machine::parse(&self.filled()?).map_err(|problems| self.first_of(&problems))
    }

    /// The definition with names in place of ARNs.
    pub fn filled(&self) -> Result<String, Problem> {
        let values: BTreeMap<String, String> = asl::substitution::placeholders(&self.text)
            .into_iter()
            .map(|name| {
                let function = function_name(&name);
                (name, format!("arn:aws:lambda:eu-west-1:000000000000:function:{function}"))
            })
            .collect();
        asl::substitution::fill(&self.text, &values).map_err(|problems| self.first_of(&problems))
    }

    fn first_of(&self, problems: &[asl::Problem]) -> Problem {
        let Some(first) = problems.first() else {
            return Problem::input(format!("{}: the machine cannot be used", self.origin));
        };
        let more = match problems.len() {
            0 | 1 => String::new(),
            n => format!("; {} more with `drctl machine check {}`", n - 1, self.name),
        };
        Problem::input(format!("{}:{}:{}: {}{more}", self.origin, first.line, first.column, first.message))
    }
}

/// `PlanFailoverFunctionArn` names the function `plan-failover`.
pub fn function_name(substitution: &str) -> String {
    let stem = substitution.strip_suffix("FunctionArn").unwrap_or(substitution);
    let mut name = String::new();
    for letter in stem.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_of_the_repository_is_built_in() {
        let mut folder = names_in(Path::new("../../statemachines"));
        folder.sort();
        let mut built_in: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        built_in.sort_unstable();
        assert_eq!(folder, built_in, "add the new machine to BUILT_IN");
    }

    #[test]
    fn substitutions_name_functions() {
        assert_eq!(function_name("PlanFailoverFunctionArn"), "plan-failover");
        assert_eq!(function_name("NotifyFunctionArn"), "notify");
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_one_that_was_meant() {
        let said = |name: &str| find(name).unwrap_err().to_string();
        assert_eq!(
            said("regional-failver"),
            "there is no machine `regional-failver`; did you mean `regional-failover`?"
        );
        assert!(said("../../etc/passwd").starts_with("there is no machine `../../etc/passwd`; there is `"));
        assert!(said("nowhere.asl.json").contains("there is no such file"));
    }
}
