//! What another process asks of the runner of a run, through the run's folder.
//!
//! A request is a file that is put in place whole and stays until the runner has done it; its reply is another one. A
//! runner that was killed in between does it when it is taken up again, once: requests carry an identity, and what was
//! done stands in the journal.

use std::{path::PathBuf, time::Duration};

use recovery::intervention::Intervention;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run_folder::RunFolder;

/// Name of their place in a run's folder.
pub const FOLDER: &str = "requests";
/// How often whoever asks looks for the reply.
const POLL: Duration = Duration::from_millis(50);

/// Something to be done to a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What, by whom and why.
    pub intervention: Intervention,
    /// What a step that is skipped would have answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Whether it was done.
    pub done: bool,
    /// In words.
    pub said: String,
}

fn place(folder: &RunFolder) -> PathBuf {
    folder.path().join(FOLDER)
}

fn request_name(id: &str) -> String {
    format!("{FOLDER}/{id}.json")
}

fn reply_name(id: &str) -> String {
    format!("{FOLDER}/{id}.reply")
}

/// Asks.
///
/// # Errors
/// The folder cannot be written.
pub fn ask(folder: &RunFolder, request: &Request) -> std::io::Result<()> {
    std::fs::create_dir_all(place(folder))?;
    folder.write_json(&request_name(&request.intervention.id), request)
}

/// What is asked, oldest first.
pub fn asked(folder: &RunFolder) -> Vec<Request> {
    let Ok(entries) = std::fs::read_dir(place(folder)) else { return Vec::new() };
    let mut requests: Vec<Request> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json") && !name.starts_with('.'))
        .filter_map(|name| folder.read(&format!("{FOLDER}/{name}")).ok())
        .collect();
    requests.sort_by(|a, b| (a.intervention.at, &a.intervention.id).cmp(&(b.intervention.at, &b.intervention.id)));
    requests
}

/// Says what became of a request, and takes it away.
pub fn reply(folder: &RunFolder, id: &str, reply: &Reply) {
    // Whoever asked may be gone, and a folder that cannot be written ends the run elsewhere.
    let _ = folder.write_json(&reply_name(id), reply);
    let _ = std::fs::remove_file(folder.path().join(request_name(id)));
}

/// Waits for the reply.
pub async fn wait(folder: &RunFolder, id: &str, patience: Duration) -> Option<Reply> {
    let waiting = async {
        loop {
            if let Ok(reply) = folder.read::<Reply>(&reply_name(id)) {
                let _ = std::fs::remove_file(folder.path().join(reply_name(id)));
                return reply;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(patience, waiting).await.ok()
}

/// Takes a request back that nobody will answer.
pub fn withdraw(folder: &RunFolder, id: &str) {
    let _ = std::fs::remove_file(folder.path().join(request_name(id)));
}
