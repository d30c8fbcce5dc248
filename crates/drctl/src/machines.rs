//! The suite's machines: those in `statemachines/` of the current folder, else those that were built in.

use std::path::Path;

use crate::problem::Problem;

const BUILT_IN: [(&str, &str); 1] =
    [("regional-failover", include_str!("../../../statemachines/regional-failover.asl.json"))];

/// Names of all machines, sorted.
pub fn names() -> Vec<String> {
    let folder = std::fs::read_dir("statemachines").into_iter().flatten().flatten();
    let found = folder.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".asl.json").map(str::to_owned));
    let mut names: Vec<String> = found.chain(BUILT_IN.iter().map(|(name, _)| (*name).to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// The definition of a machine, by name or by the path of a file.
///
/// # Errors
/// There is no such machine.
pub fn definition(name: &str) -> Result<String, Problem> {
    let as_file = Path::new(name);
    if as_file.extension().is_some() {
        return std::fs::read_to_string(as_file)
            .map_err(|error| Problem::input(format!("the machine `{name}` cannot be read: {error}")));
    }
    if let Ok(text) = std::fs::read_to_string(Path::new("statemachines").join(format!("{name}.asl.json"))) {
        return Ok(text);
    }
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    built_in
        .map(|(_, text)| (*text).to_owned())
        .ok_or_else(|| Problem::input(format!("no machine is called `{name}`; there are `{}`", names().join("`, `"))))
}
