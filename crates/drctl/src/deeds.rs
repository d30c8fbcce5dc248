//! What people did to a run: kept in its journal, in its folder for whoever looks, and in the evidence bucket for the
//! report that a function writes.

use asl::{Input, Record};
use recovery::{
    intervention::{self, Deed, Intervention},
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};

use crate::run_folder::RunFolder;

/// Name of the file in a run's folder.
const FILE: &str = "interventions.json";

/// What the folder of a run knows.
pub fn of(folder: &RunFolder) -> Vec<Intervention> {
    folder.read(FILE).unwrap_or_default()
}

/// Keeps what was done in the run's folder.
///
/// # Errors
/// The folder cannot be written.
pub fn note(folder: &RunFolder, done: &[Intervention]) -> std::io::Result<()> {
    folder.write_json(FILE, &done)
}

/// A pause that still holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Pause {
    /// Somebody asked for it.
    Asked(Intervention),
    /// Its runner was about to stop, and was killed before it had.
    OnTheWayToItsEnd,
}

/// What the journal of a run says, in order, and the pause that holds at its end.
pub fn in_journal(records: &[Record]) -> (Vec<Intervention>, Option<Pause>) {
    let (mut done, mut pause) = (Vec::new(), None);
    for record in records {
        let Record::Happened { input, note, .. } = record else { continue };
        let noted: Option<Intervention> = note.clone().and_then(|note| serde_json::from_value(note).ok());
        match input {
            Input::Pause => pause = Some(noted.clone().map_or(Pause::OnTheWayToItsEnd, Pause::Asked)),
            Input::Unpause | Input::Redrive | Input::Stop { .. } => pause = None,
            _ => {}
        }
        intervention::merge(&mut done, noted);
    }
    (done, pause)
}

/// Keeps what was done in the evidence bucket, beside what others have kept there.
///
/// # Errors
/// The store's.
pub async fn keep(store: &dyn ObjectStore, run: &str, done: &[Intervention]) -> Result<(), StoreError> {
    let key = intervention::key(run);
    loop {
        let found = get_json::<Vec<Intervention>>(store, &key).await?;
        let (mut known, precondition) = match found {
            Some((known, etag)) => (known, Precondition::Unchanged(etag)),
            None => (Vec::new(), Precondition::Absent),
        };
        let before = known.len();
        intervention::merge(&mut known, done.iter().cloned());
        if known.len() == before {
            return Ok(());
        }
        match put_json(store, &key, &known, precondition).await {
            Err(StoreError::PreconditionFailed { .. }) => {}
            other => return other,
        }
    }
}

/// Takes back what was asked for and refused.
///
/// # Errors
/// The store's.
pub async fn forget(store: &dyn ObjectStore, run: &str, id: &str) -> Result<(), StoreError> {
    let key = intervention::key(run);
    loop {
        let Some((mut known, etag)) = get_json::<Vec<Intervention>>(store, &key).await? else { return Ok(()) };
        known.retain(|done| done.id != id);
        match put_json(store, &key, &known, Precondition::Unchanged(etag)).await {
            Err(StoreError::PreconditionFailed { .. }) => {}
            other => return other,
        }
    }
}

/// An intervention that a person asks for now.
pub fn asked(deed: Deed, by: &str, because: &str) -> Intervention {
    let at = jiff::Timestamp::now();
    let kind = match &deed {
        Deed::Pause => "pause",
        Deed::Continue => "continue",
        Deed::Abort => "abort",
        Deed::Retry { .. } => "retry",
        Deed::Skip { .. } => "skip",
        Deed::Redrive => "redrive",
        Deed::TakeOver { .. } => "take-over",
    };
    let id = format!("{}-{kind}-{}", at.as_microsecond(), std::process::id());
    Intervention { id, deed, by: by.to_owned(), because: because.to_owned(), at }
}
