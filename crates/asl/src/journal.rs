//! The journal: what happened to an execution, in order, so that another process can go on where one was killed.
//!
//! A journal holds *inputs*, not states: how the execution was started, which calls were about to be made, how they
//! ended, which timers fired, what an operator did, each with its time. Resuming means replaying them through the pure
//! core, which gives the same execution again, and then making those calls that have no answer. An intent without an
//! answer is ambiguous: the call may have been made, or not. Such calls are marked
//! ([`TaskCall::may_repeat`](crate::TaskCall::may_repeat)) and carry the same idempotency key as the first time.
//!
//! [`FileJournal`] writes one record a line: sixteen hexadecimal digits of SHA-256 over the line before and this one,
//! a space, JSON. A last line that is torn is dropped when the file is opened, since its record was never acted upon;
//! damage anywhere else is an error, since what followed from it was.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};

use crate::core::{Input, Settings};
use crate::hashing;

/// Changes whenever the same inputs would give another execution; a journal of another version is not resumed.
pub const ENGINE_VERSION: u32 = 2;

/// One record of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// The first: which machine, as whom.
    Started {
        /// [`ENGINE_VERSION`] of the engine that wrote it.
        engine: u32,
        /// [`Machine::digest`](crate::Machine::digest) of the definition.
        definition: String,
        /// The settings, with the seed of everything random.
        settings: Settings,
    },
    /// Something happened to the execution.
    Happened {
        /// When.
        at: Timestamp,
        /// How often the core had gone on by itself since the record before.
        continued: u64,
        /// What.
        input: Input,
        /// Who did it and why, in the form of whoever runs the engine, which does not read it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<Value>,
    },
    /// These calls are about to be made.
    Intent {
        /// The calls, by number and idempotency key.
        calls: Vec<(u64, String)>,
    },
}

/// Why a journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be used.
    #[error("could not use the journal `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A record that is not the last is damaged.
    #[error("record {line} of the journal `{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A record could not be put into words.
    #[error("could not write a record of the journal")]
    Record(#[source] serde_json::Error),
    /// Another kind of journal failed.
    #[error("could not write the journal")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl JournalError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            JournalError::File { .. } => {
                "make the file readable and writable and give its disk room, then resume the run"
            }
            JournalError::Damaged { .. } => {
                "take the copy of the journal from the tertiary bucket; do not edit this one"
            }
            JournalError::Record(_) => "report it with the machine: a record could not be written as JSON",
            JournalError::Other(_) => "repair the place the journal is kept in, then resume the run",
        }
    }
}

/// Where records go. What follows from a record is done only after `append` has returned.
#[async_trait]
pub trait Journal: Send {
    /// Makes records durable.
    async fn append(&mut self, records: &[Record]) -> Result<(), JournalError>;
}

/// A journal in memory, for tests and for runs that nobody will resume.
#[async_trait]
impl Journal for Vec<Record> {
    async fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.extend_from_slice(records);
        Ok(())
    }
}

/// A journal in a file.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    file: Arc<std::fs::File>,
    chain: String,
}

impl FileJournal {
    /// Begins a journal; the file must not exist.
    pub async fn create(path: &Path) -> Result<FileJournal, JournalError> {
        let wrap = |source| JournalError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create_new(true).open(path).await.map_err(wrap)?;
        // The name of a new file is safe only when its folder is.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).await.map_err(wrap)?.sync_all().await.map_err(wrap)?;
        Ok(FileJournal { path: path.to_owned(), file: Arc::new(file.into_std().await), chain: String::new() })
    }

    /// Opens a journal to go on with it: gives its records, and cuts off a torn last one.
    pub async fn open(path: &Path) -> Result<(FileJournal, Vec<Record>), JournalError> {
        let wrap = |source| JournalError::File { path: path.to_owned(), source };
        let bytes = tokio::fs::read(path).await.map_err(wrap)?;
        let (records, whole, chain) = read(path, &bytes)?;
        let file = OpenOptions::new().write(true).open(path).await.map_err(wrap)?;
        file.set_len(whole as u64).await.map_err(wrap)?;
        file.sync_all().await.map_err(wrap)?;
        let mut file = file.into_std().await;
        file.seek(SeekFrom::End(0)).map_err(wrap)?;
        Ok((FileJournal { path: path.to_owned(), file: Arc::new(file), chain }, records))
    }

    /// Reads the records of a journal that somebody else may be writing.
    pub async fn records(path: &Path) -> Result<Vec<Record>, JournalError> {
        let bytes =
            tokio::fs::read(path).await.map_err(|source| JournalError::File { path: path.to_owned(), source })?;
        records(path, &bytes)
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut text = String::new();
        let mut chain = self.chain.clone();
        for record in records {
            let json = serde_json::to_string(record).map_err(JournalError::Record)?;
            chain = link(&chain, &json);
            text.push_str(&format!("{chain} {json}\n"));
        }
        // Written and synced in one go on a thread that may wait: each hand-over costs a busy machine time.
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = file.as_ref();
            file.write_all(text.as_bytes())?;
            file.sync_data()
        });
        let wrap = |source| JournalError::File { path: self.path.clone(), source };
        written.await.map_err(std::io::Error::other).flatten().map_err(wrap)?;
        self.chain = chain;
        Ok(())
    }
}

/// The records in the text of a journal; `name` says in errors which one it is.
pub fn records(name: &Path, text: &[u8]) -> Result<Vec<Record>, JournalError> {
    read(name, text).map(|(records, ..)| records)
}

fn link(before: &str, json: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(before.as_bytes());
    hasher.update(json.as_bytes());
    hashing::hex(&hasher.finalize()[..8])
}

/// The records, the length of the part that is whole, and the last checksum.
fn read(path: &Path, bytes: &[u8]) -> Result<(Vec<Record>, usize, String), JournalError> {
    let mut records = Vec::new();
    let (mut whole, mut chain) = (0, String::new());
    while let Some(length) = bytes[whole..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[whole..whole + length];
        let end = whole + length + 1;
        match parse(line, &chain) {
            Some((record, checksum)) => {
                records.push(record);
                chain = checksum;
                whole = end;
            }
            // A disk may have kept the end of a line and lost its beginning: the last line may be bad in any way.
            None if end == bytes.len() => break,
            None => return Err(JournalError::Damaged { path: path.to_owned(), line: records.len() + 1 }),
        }
    }
    Ok((records, whole, chain))
}

fn parse(line: &[u8], chain: &str) -> Option<(Record, String)> {
    let (checksum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if link(chain, json) != checksum {
        return None;
    }
    Some((serde_json::from_str(json).ok()?, checksum.to_owned()))
}
