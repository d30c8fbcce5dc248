//! What is due, and where it is taken.

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, BackupManifest, Catalogue, Due, DueBackup, Kind, Place},
    fault::chain,
    plan::Plan,
};
use recovery_datapath::sha256;
use tracing::warn;

use crate::{
    Error, World,
    job::job,
    place::{Measured, place},
};

/// Every kind that is asked for, or every one that the plan has.
pub(crate) async fn due(
    run: &str,
    at: Timestamp,
    kinds: &[Kind],
    plan: &Plan,
    world: &World<'_>,
) -> Result<Due, Error> {
    let planned: Vec<Kind> = plan.backups.policies.iter().map(|policy| policy.kind).collect();
    if let Some(kind) = kinds.iter().find(|kind| !planned.contains(kind)) {
        return Err(Error::NotPlanned { kind: *kind });
    }
    let mut backups = Vec::new();
    for kind in planned.into_iter().filter(|kind| kinds.is_empty() || kinds.contains(kind)) {
        // The archive of the log is filled by the server itself.
        if kind == Kind::Wal {
            continue;
        }
        let taker = world.takers.get(&kind).ok_or(Error::NoTaker { kind })?;
        let subject = kind.subject(plan);
        let backup = BackupId::new(kind, subject, at).map_err(|_| Error::OtherSubject {
            backup: BackupId { kind, subject: subject.to_owned(), due_at: at },
            found: subject.to_owned(),
            planned: "a name of letters, digits, `-`, `_` and `.`".to_owned(),
        })?;
        // A source that cannot be measured now is no reason to plan nothing: the attempt will say what is wrong with it.
        let needs_scratch = plan.backups.policy(kind).is_some_and(|policy| policy.directory.is_some());
        backups.push(match taker.size_bytes().await {
            Ok(size_bytes) => {
                let measured = if size_bytes == 0 { None } else { measured(kind, subject, world).await };
                let mut due = place(backup, size_bytes, measured.as_ref(), plan.backups.bytes_per_second);
                if needs_scratch {
                    due = in_a_job(due);
                }
                if due.place == Place::Job {
                    let expected = due.expected_seconds.unwrap_or_default();
                    due.job = Some(job(&due.backup, run, size_bytes, expected, plan, world.authority));
                }
                due
            }
            Err(source) => {
                let error = Error::Size { kind, source };
                warn!("{}", chain(&error));
                DueBackup {
                    backup,
                    place: Place::Lambda,
                    because: format!("its size is not known: {}", chain(&error)),
                    size_bytes: None,
                    expected_seconds: None,
                    job: None,
                }
            }
        });
    }
    Ok(Due { backups })
}

/// How fast the newest complete backup of the same was. What cannot be read is not measured, and the plan's figure counts.
async fn measured(kind: Kind, subject: &str, world: &World<'_>) -> Option<Measured> {
    let catalogue = Catalogue { list: world.list, evidence: world.evidence };
    let known = catalogue.known(kind, subject).await;
    let known = known.inspect_err(|error| warn!("how fast backups were is not known: {}", chain(error))).ok()?;
    let newest = known.into_iter().find(|one| one.complete)?.backup;
    let receipt = catalogue.receipt(&newest).await.ok()??;
    let bytes = world.backups.get(&newest.manifest_key()).await.ok()??.body;
    // Somebody else's manifest would choose where databases are read.
    if sha256(&bytes) != receipt.manifest_sha256 {
        warn!(backup = %newest, "the manifest of `{newest}` is not the one that its receipt names");
        return None;
    }
    Measured::of(&BackupManifest::read(&bytes, &newest).ok()?)
}

/// The directory format needs a scratch folder, which a Lambda does not have.
fn in_a_job(due: DueBackup) -> DueBackup {
    let because = "the directory format needs a scratch folder, which a Job has".to_owned();
    DueBackup { place: Place::Job, because, ..due }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_scratch_folder_is_taken_in_a_job_however_small_it_is() {
        let backup: BackupId = "logical/sparc-prod/20261126T020000Z".parse().unwrap();
        let due = in_a_job(place(backup, 1_000_000, None, 60_000_000));
        assert_eq!((due.place, due.size_bytes, due.expected_seconds), (Place::Job, Some(1_000_000), Some(1)));
        assert!(due.because.contains("scratch folder"), "{}", due.because);
    }
}
