//! Runs as they lie on this machine: one folder each, written by the runner, read by everybody else.
//!
//! Names of runs become names of folders and of objects, so they are checked before they are used.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use recovery::run::{ApprovalGiven, Run};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::problem::{Problem, did_you_mean};

/// How far a run is, as its runner last wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// Its name.
    pub run: String,
    /// The machine.
    pub machine: String,
    /// The plan, as it was named.
    pub plan: String,
    /// The event, as it was named.
    pub event: String,
    /// `running`, `succeeded`, `failed`, `timed-out` or `aborted`.
    pub status: String,
    /// When it started first.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// The runner's process.
    #[serde(default)]
    pub pid: Option<i32>,
    /// The state that it is in, or ended in.
    #[serde(default)]
    pub state: Option<String>,
}

/// A person's answer, as `drctl approve` leaves it.
#[derive(Clone, Debug, Deserialize)]
pub struct ApprovalAnswer {
    /// The token that it answers.
    pub task_token: String,
    /// Yes or no.
    pub approve: bool,
    /// Who, why, when, and what they take upon themselves.
    #[serde(flatten)]
    pub given: ApprovalGiven,
}

/// The right to write into a run's folder, held while a process works on the run.
#[derive(Debug)]
pub struct Hold {
    /// Locked as long as it is open, so a killed runner leaves no lock behind.
    _lock: fs::File,
    history: fs::File,
}

impl Hold {
    /// Appends one event to the history.
    pub fn append(&mut self, event: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.history.write_all(&line)
    }
}

/// A question to a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// What the answer carries.
    pub task_token: String,
    /// The state that waits.
    pub state: String,
    /// Since when.
    pub asked_at: Timestamp,
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

/// Where runs are kept: what was asked for, or the place for state of this user.
pub fn folder_of_runs(asked: Option<&Path>) -> Result<PathBuf, Problem> {
    if let Some(asked) = asked {
        return Ok(asked.to_path_buf());
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".local/state")))
        .ok_or_else(|| Problem::new("neither XDG_STATE_HOME nor HOME is set; name a folder with --runs-dir"))?;
    Ok(state.join("drctl/runs"))
}

/// Whether this can be a run's name: what Step Functions takes, which is also safe in a path and a key.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 80 && name.chars().all(fine) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Problem::new(format!("`{name}` cannot be the name of a run; use at most 80 letters, digits, `-`, `_` and `.`")))
}

/// All runs of a folder, newest first.
pub fn all(folder: &Path) -> Vec<RunFolder> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<(Timestamp, RunFolder)> = entries
        .flatten()
        .map(|entry| RunFolder { path: entry.path() })
        .filter_map(|run| Some((run.state()?.started_at, run)))
        .collect();
    runs.sort_by_key(|(started, _)| std::cmp::Reverse(*started));
    runs.into_iter().map(|(_, run)| run).collect()
}

/// The folder of a run, if it has ever run on this machine.
pub fn find(folder: &Path, name: &str) -> Result<Option<RunFolder>, Problem> {
    check_name(name)?;
    let path = folder.join(name);
    Ok(path.is_dir().then_some(RunFolder { path }))
}

/// What to say when nobody knows a run.
pub fn unknown(folder: &Path, name: &str, elsewhere: &str) -> Problem {
    let known: Vec<String> = all(folder).iter().map(RunFolder::name).collect();
    let hint = did_you_mean(name, known.iter().map(String::as_str))
        .map_or_else(|| "see `drctl status`".to_owned(), |meant| format!("did you mean `{meant}`?"));
    Problem::new(format!("there is no run `{name}` in {}{elsewhere}; {hint}", folder.display()))
}

impl RunFolder {
    /// The run's name.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The folder of a run that is about to start.
    pub fn of(folder: &Path, name: &str) -> Result<RunFolder, Problem> {
        check_name(name)?;
        Ok(RunFolder { path: folder.join(name) })
    }

    /// Takes the folder for this process and begins a new history; an older one is kept beside it.
    pub fn hold(&self) -> Result<Hold, Problem> {
        let unusable = |error: std::io::Error| {
            Problem::new(format!(
                "{}: cannot be used ({error}); name another folder with --runs-dir",
                self.path.display()
            ))
        };
        fs::create_dir_all(&self.path).map_err(unusable)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.file("lock"));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let pid =
                    self.state().and_then(|state| state.pid).map_or_else(|| "?".to_owned(), |pid| pid.to_string());
                let name = self.name();
                return Err(Problem::new(format!(
                    "process {pid} works on run `{name}` already; look at `drctl status {name}`, or name another with --name"
                )));
            }
            Err(fs::TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let history = self.file("history.jsonl");
        if history.exists() {
            let older = (1..).map(|n| self.file(&format!("history-{n}.jsonl"))).find(|path| !path.exists());
            fs::rename(&history, older.unwrap_or_default()).map_err(unusable)?;
        }
        self.forget("approval.json");
        let history = fs::OpenOptions::new().create(true).append(true).open(history).map_err(unusable)?;
        Ok(Hold { _lock: lock, history })
    }

    /// A person's answer, if there is one.
    pub fn answer(&self) -> Option<ApprovalAnswer> {
        self.read("approval.json")
    }

    /// Removes a file; absent is fine.
    pub fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.file(name));
    }

    /// The folder of all runs.
    pub fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// How far the run is.
    pub fn state(&self) -> Option<RunFile> {
        self.read("run.json")
    }

    /// The run's record, as last known.
    pub fn record(&self) -> Option<Run> {
        self.read("record.json")
    }

    /// The question that the run asks a person, if it was not answered yet.
    pub fn question(&self) -> Option<ApprovalRequest> {
        self.read("approval-request.json")
    }

    /// When a file was last written.
    pub fn written_at(&self, name: &str) -> Option<Timestamp> {
        Timestamp::try_from(fs::metadata(self.file(name)).ok()?.modified().ok()?).ok()
    }

    /// Reads a JSON file of it, if it is there and of this form.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.file(name)).ok()?).ok()
    }

    /// Whether the runner's process is there. It may be another one of the same number.
    pub fn is_alive(&self) -> bool {
        self.state().and_then(|state| state.pid).is_some_and(|pid| {
            // Signal 0 asks without doing anything; EPERM means that somebody else's process has the number.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
        })
    }

    /// Writes a file at once or not at all: whoever reads it never sees half of it.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Problem> {
        let path = self.file(name);
        let unwritten = |error: &dyn std::fmt::Display| {
            Problem::new(format!("{}: cannot be written ({error}); nothing was changed", path.display()))
        };
        let body = serde_json::to_vec_pretty(value).map_err(|error| unwritten(&error))?;
        self.write_text(name, &body)
    }

    /// Writes text at once or not at all.
    pub fn write_text(&self, name: &str, body: &[u8]) -> Result<(), Problem> {
        let path = self.file(name);
        let unwritten = |error: &dyn std::fmt::Display| {
            Problem::new(format!(
                "{}: cannot be written ({error}); name another folder with --runs-dir",
                path.display()
            ))
        };
        let half = self.file(&format!(".{name}.{}", std::process::id()));
        let written = fs::File::create(&half)
            .and_then(|mut file| file.write_all(body).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&half, &path));
        written.map_err(|error| unwritten(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_out_of_its_folder() {
        for name in ["failover-2026-11-23", "a.b_c", "x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", "../x", "a/b", "a b", ".hidden", "ü", &"x".repeat(81)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
