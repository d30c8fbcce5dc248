//! The folder of a run: what it did, event by event, and what a second process needs to look at it or to answer it.
//!
//! Events are appended before the next side effect; everything else is a view that is written whole and put in place by a
//! rename, so a reader never sees half of it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use recovery::{
    intervention::Intervention,
    run::{ApprovalGiven, Run},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{problem::Problem, views::Views};

static HIDDEN: AtomicU64 = AtomicU64::new(0);

/// Where runs are kept unless somebody says otherwise.
pub fn default_runs() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".local/state");
    state.unwrap_or_else(home).join("drctl/runs")
}

/// What a run is, in `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCard {
    /// Execution name.
    pub run: String,
    /// The machine.
    pub machine: String,
    /// The plan file.
    pub plan: PathBuf,
    /// The event file.
    pub event: PathBuf,
    /// How it stands.
    pub status: RunStatus,
    /// When it was started, the last time.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The process that runs it.
    pub pid: u32,
    /// The state that it is in, or ended in.
    pub state: Option<String>,
    /// Who has paused it and why, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Intervention>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// A process works on it, or was killed while it did.
    Running,
    /// It reached its end.
    Succeeded,
    /// It ended in a failure that the machine knows.
    Failed,
    /// The machine's own deadline passed.
    TimedOut,
    /// Somebody stopped it.
    Aborted,
}

/// A state waits for a person, in `approval-request.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// The token of this attempt.
    pub task_token: String,
    /// The state that waits.
    pub state: String,
    /// Since when.
    pub asked_at: Timestamp,
    /// How many people have to confirm.
    #[serde(default = "one")]
    pub needed: u8,
}

fn one() -> u8 {
    1
}

/// Who has confirmed on this machine, in `confirmations.json`, while more people are asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmations {
    /// The token of the question.
    pub task_token: String,
    /// In the order in which they did.
    pub confirmed: Vec<ApprovalGiven>,
}

/// A person's answer, in `approval.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalAnswer {
    /// The token that it answers.
    pub task_token: String,
    /// Yes or no.
    pub approve: bool,
    /// Who, why, when, and what they take upon themselves.
    pub given: ApprovalGiven,
}

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    views: Arc<OnceLock<Views>>,
}

/// The right to write into a run's folder, held while a process works on it.
#[derive(Debug)]
pub struct Hold {
    /// Locked as long as it is open.
    _lock: File,
    history: File,
}

impl RunFolder {
    /// The folder of a run, which need not exist.
    ///
    /// # Errors
    /// The name cannot be an execution's name.
    pub fn new(runs: &Path, run: &str) -> Result<RunFolder, Problem> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        // https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html: at most 80 characters.
        if run.is_empty() || run.len() > 80 || run.starts_with('.') || !run.chars().all(allowed) {
            return Err(Problem::input(format!(
                "`{run}` cannot be a run's name; use up to 80 letters, digits, `-`, `_` and `.`"
            )));
        }
        Ok(RunFolder { path: runs.join(run), views: Arc::default() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the folder for this process and begins a new history; an older one is kept beside it.
    ///
    /// # Errors
    /// Another process works on the run, or the folder cannot be written.
    pub fn hold(&self) -> Result<Hold, Problem> {
        let failed = |error: std::io::Error| {
            Problem::input(format!(
                "the run's folder `{}` cannot be used: {error}; name another with --runs-dir",
                self.path.display()
            ))
        };
        std::fs::create_dir_all(&self.path).map_err(failed)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = self.card().map_or_else(|_| "?".to_owned(), |card| card.pid.to_string());
                return Err(Problem::input(format!(
                    "process {pid} works on this run already; look at `drctl status`, or name another run with --name"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        self.put_aside("history.jsonl").map_err(failed)?;
        let history = self.path.join("history.jsonl");
        let history = OpenOptions::new().create(true).append(true).open(history).map_err(failed)?;
        Ok(Hold { _lock: lock, history })
    }

    /// Gives a file of an earlier attempt another name; absent is fine.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put_aside(&self, name: &str) -> std::io::Result<()> {
        let file = self.path.join(name);
        if !file.exists() {
            return Ok(());
        }
        let (stem, ending) =
            name.split_once('.').map_or((name, String::new()), |(stem, end)| (stem, format!(".{end}")));
        let older = (1..).map(|n| self.path.join(format!("{stem}-{n}{ending}"))).find(|path| !path.exists());
        std::fs::rename(file, older.unwrap_or_default())
    }

    /// Where the functions' log goes; an earlier attempt's stays in it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn open_log(&self) -> std::io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.path.join("log.jsonl"))
    }

    /// What the run is.
    ///
    /// # Errors
    /// There is no such run.
    pub fn card(&self) -> Result<RunCard, Problem> {
        self.read("run.json")
    }

    /// The record as last known.
    ///
    /// # Errors
    /// There is none.
    pub fn record(&self) -> Result<Run, Problem> {
        self.read("record.json")
    }

    /// The state that waits for a person.
    ///
    /// # Errors
    /// None waits.
    pub fn approval_request(&self) -> Result<ApprovalRequest, Problem> {
        self.read("approval-request.json")
    }

    /// Who has confirmed this question on this machine.
    pub fn confirmations(&self, task_token: &str) -> Vec<ApprovalGiven> {
        let kept = self.read::<Confirmations>("confirmations.json").ok();
        kept.filter(|kept| kept.task_token == task_token).map(|kept| kept.confirmed).unwrap_or_default()
    }

    /// A person's answer, if there is one.
    pub fn approval_answer(&self) -> Option<ApprovalAnswer> {
        self.read("approval.json").ok()
    }

    /// Takes the question back once it is answered or has run out.
    pub fn withdraw_approval_request(&self) {
        let _ = std::fs::remove_file(self.path.join("approval-request.json"));
    }

    /// Takes an answer away that was used, or is for another question.
    pub fn forget_answer(&self) {
        let _ = std::fs::remove_file(self.path.join("approval.json"));
    }

    /// Reads a JSON file of the folder.
    ///
    /// # Errors
    /// It is not there or not of this form.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, Problem> {
        let path = self.path.join(name);
        let text = std::fs::read(&path).map_err(|error| {
            Problem::input(format!("`{}` cannot be read: {error}; see `drctl status`", path.display()))
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| Problem::input(format!("`{}` is not understood: {error}", path.display())))
    }

    /// Writes a file of the folder, whole or not at all, after everything that was shown before.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, name: &str, body: &[u8]) -> std::io::Result<()> {
        if let Some(views) = self.views.get() {
            views.settle();
        }
        put(&self.path.join(name), body)
    }

    /// Has a JSON file of the folder written soon, for those who look on; see [`crate::views`].
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn show_json<T: Serialize>(&self, name: &str, value: &T) -> std::io::Result<()> {
        let body = serde_json::to_vec_pretty(value)?;
        let views = match self.views.get() {
            Some(views) => views,
            None => {
                let started = Views::start(put)?;
                self.views.get_or_init(|| started)
            }
        };
        views.show(self.path.join(name), body).or_else(|body| put(&self.path.join(name), &body))
    }

    /// Writes a JSON file of the folder, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> std::io::Result<()> {
        self.write(name, &serde_json::to_vec_pretty(value)?)
    }
}

/// Puts content into a file by a rename, so that a reader never sees half of it.
fn put(file: &Path, body: &[u8]) -> std::io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Two processes, or two tasks of one, never write the same hidden file.
    let number = HIDDEN.fetch_add(1, Ordering::Relaxed);
    let hidden = file.with_file_name(format!(".{name}.{}.{number}", std::process::id()));
    std::fs::write(&hidden, body)?;
    std::fs::rename(&hidden, file)
}

impl Hold {
    /// Appends one event to the history.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append<T: Serialize>(&mut self, event: &T) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.history.write_all(&line)
    }
}
