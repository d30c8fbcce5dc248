//! The runs of this machine, as somebody finds them who did not start them.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use recovery::spelling::nearest;

use crate::{
    problem::Problem,
    run_folder::{RunCard, RunFolder, default_runs},
};

/// Where runs are kept: what was asked for, or the place for state of this user.
pub fn folder(asked: Option<&Path>) -> PathBuf {
    asked.map_or_else(default_runs, Path::to_path_buf)
}

/// All runs of a folder, newest first.
pub fn all(runs: &Path) -> Vec<(RunCard, RunFolder)> {
    let Ok(entries) = std::fs::read_dir(runs) else { return Vec::new() };
    let mut all: Vec<(RunCard, RunFolder)> = entries
        .flatten()
        .filter_map(|entry| RunFolder::new(runs, entry.file_name().to_str()?).ok())
        .filter_map(|folder| Some((folder.card().ok()?, folder)))
        .collect();
    all.sort_by_key(|(card, _)| std::cmp::Reverse(card.started_at));
    all
}

/// The folder of a run, if it has ever run on this machine.
pub fn find(runs: &Path, name: &str) -> Result<Option<RunFolder>, Problem> {
    let folder = RunFolder::new(runs, name)?;
    Ok(folder.path().is_dir().then_some(folder))
}

/// What to say when nobody knows a run.
pub fn unknown(runs: &Path, name: &str, elsewhere: &str) -> Problem {
    let known: Vec<String> = all(runs).into_iter().map(|(card, _)| card.run).collect();
    let hint = nearest(name, known.iter().map(String::as_str))
        .map_or_else(|| "see `drctl status`".to_owned(), |meant| format!("did you mean `{meant}`?"));
    Problem::input(format!("there is no run `{name}` in {}{elsewhere}; {hint}", runs.display()))
}

/// When a file of a run was last written.
pub fn written_at(folder: &RunFolder, name: &str) -> Option<Timestamp> {
    Timestamp::try_from(std::fs::metadata(folder.path().join(name)).ok()?.modified().ok()?).ok()
}

/// Whether a process works on the run: it holds the lock of the folder as long as it lives.
pub fn is_worked_on(folder: &RunFolder) -> bool {
    let Ok(lock) = std::fs::File::open(folder.path().join("lock")) else { return false };
    matches!(lock.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}
