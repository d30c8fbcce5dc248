//! What is due, and where it is taken.

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, Due, DueBackup, Kind, Place},
    objective::human_seconds,
    plan::Plan,
};

use crate::{Error, World};

/// What a Lambda has for moving bytes: its 15 minutes without what it needs to begin and to end.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const LAMBDA_SECONDS: u64 = 12 * 60;

/// Every kind that is asked for, or every one that the plan has.
pub(crate) async fn due(at: Timestamp, kinds: &[Kind], plan: &Plan, world: &World<'_>) -> Result<Due, Error> {
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
        let size = taker.size_bytes().await;
        let needs_scratch = plan.backups.policy(kind).is_some_and(|policy| policy.directory.is_some());
        backups.push(match size {
            Ok(size_bytes) if needs_scratch => in_a_job(place(backup, size_bytes, plan.backups.bytes_per_second)),
            Ok(size_bytes) => place(backup, size_bytes, plan.backups.bytes_per_second),
            Err(source) => {
                let error = Error::Size { kind, source };
                tracing::warn!("{}", recovery::fault::chain(&error));
                DueBackup {
                    backup,
                    place: Place::Lambda,
                    because: format!("its size is not known: {}", recovery::fault::chain(&error)),
                    size_bytes: None,
                    expected_seconds: None,
                }
            }
        });
    }
    Ok(Due { backups })
}

fn place(backup: BackupId, size_bytes: u64, bytes_per_second: u64) -> DueBackup {
    let seconds = size_bytes.div_ceil(bytes_per_second.max(1));
    let place = if seconds <= LAMBDA_SECONDS { Place::Lambda } else { Place::Job };
    let (relation, bound) = match place {
        Place::Lambda => ("within", human_seconds(LAMBDA_SECONDS as f64)),
        Place::Job => ("more than", human_seconds(LAMBDA_SECONDS as f64)),
    };
    let because = format!(
        "{} at {} a second take {}, {relation} the {bound} that a Lambda has",
        human_bytes(size_bytes),
        human_bytes(bytes_per_second),
        human_seconds(seconds as f64),
    );
    DueBackup { backup, place, because, size_bytes: Some(size_bytes), expected_seconds: Some(seconds) }
}

/// The directory format needs a scratch folder, which a Lambda does not have.
fn in_a_job(due: DueBackup) -> DueBackup {
    let because = "the directory format needs a scratch folder, which a Job has".to_owned();
    DueBackup { place: Place::Job, because, ..due }
}

/// Bytes as a person reads them: `1.4 GB`.
fn human_bytes(bytes: u64) -> String {
    let (scale, unit) = match bytes {
        0..1_000 => return format!("{bytes} bytes"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    format!("{:.1} {unit}", bytes as f64 / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_rate_choose_the_place_and_say_why() {
        let backup: BackupId = "logical/sparc-prod/20261126T020000Z".parse().unwrap();
        let situations = [
            (0, Place::Lambda, "0 bytes at 60.0 MB a second take 0 s, within the 12 min that a Lambda has"),
            (1_440_000_000, Place::Lambda, "1.4 GB at 60.0 MB a second take 24 s, within the 12 min that a Lambda has"),
            (
                43_200_000_000,
                Place::Lambda,
                "43.2 GB at 60.0 MB a second take 12 min, within the 12 min that a Lambda has",
            ),
            (
                100_000_000_000,
                Place::Job,
                "100.0 GB at 60.0 MB a second take 27 min 47 s, more than the 12 min that a Lambda has",
            ),
        ];
        for (size, expected, because) in situations {
            let due = place(backup.clone(), size, 60_000_000);
            assert_eq!((due.place, due.because.as_str()), (expected, because));
        }
    }

    #[test]
    fn what_needs_a_scratch_folder_is_taken_in_a_job_however_small_it_is() {
        let backup: BackupId = "logical/sparc-prod/20261126T020000Z".parse().unwrap();
        let due = in_a_job(place(backup, 1_000_000, 60_000_000));
        assert_eq!((due.place, due.size_bytes, due.expected_seconds), (Place::Job, Some(1_000_000), Some(1)));
        assert!(due.because.contains("scratch folder"), "{}", due.because);
    }
}
