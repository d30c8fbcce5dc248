//! Where a backup is taken, by its size and how fast the last one was.

use recovery::{
    backup::{BackupId, BackupManifest, DueBackup, Place, Source},
    objective::human_seconds,
};

/// What a Lambda has for moving bytes: its 15 minutes without what it needs to begin and to end.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const LAMBDA_SECONDS: u64 = 12 * 60;

/// What it must fit into after a Job has taken it: a Job may have been faster than a Lambda will be.
const AFTER_A_JOB_SECONDS: u64 = LAMBDA_SECONDS / 2;

/// How fast an earlier backup of the same was.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    backup: BackupId,
    bytes_per_second: u64,
    taken_in: Option<Place>,
}

impl Measured {
    /// What the manifest of a complete backup says of it, in the bytes that [`recovery_datapath::Taker::size_bytes`] counts;
    /// `None` if it is too little to say anything. Its time is that of all attempts, so a backup that was interrupted looks
    /// slower than it is.
    pub(crate) fn of(manifest: &BackupManifest) -> Option<Measured> {
        let databases = match &manifest.source {
            Source::PostgreSql { databases, .. } => databases.iter().map(|database| database.size_bytes).sum(),
            Source::Kubernetes { .. } | Source::Bucket { .. } | Source::Platform { .. } => 0,
        };
        let bytes = if databases > 0 { databases } else { manifest.plain_bytes() };
        let seconds = manifest.completed_at?.duration_since(manifest.began_at).as_secs_f64();
        // Within a second there is more beginning and ending than moving.
        let bytes_per_second = if seconds < 1.0 { 0 } else { (bytes as f64 / seconds) as u64 };
        (bytes_per_second > 0).then(|| Measured {
            backup: manifest.id.clone(),
            bytes_per_second,
            taken_in: manifest.taken_in,
        })
    }
}

/// Chooses, and says why.
pub(crate) fn place(backup: BackupId, size_bytes: u64, measured: Option<&Measured>, assumed: u64) -> DueBackup {
    let (rate, known_from) = match measured {
        Some(measured) => (measured.bytes_per_second, format!("measured on `{}`", measured.backup)),
        None => (assumed, "assumed by the plan".to_owned()),
    };
    let seconds = size_bytes.div_ceil(rate.max(1));
    let (bound, whose) = match measured.and_then(|measured| measured.taken_in) {
        Some(Place::Job) => (AFTER_A_JOB_SECONDS, "a Lambda is given after a Job"),
        Some(Place::Lambda) | None => (LAMBDA_SECONDS, "a Lambda has"),
    };
    let (place, relation) = if seconds <= bound { (Place::Lambda, "within") } else { (Place::Job, "more than") };
    let because = format!(
        "{} at {} a second ({known_from}) take {}, {relation} the {} that {whose}",
        human_bytes(size_bytes),
        human_bytes(rate),
        human_seconds(seconds as f64),
        human_seconds(bound as f64),
    );
    DueBackup { backup, place, because, size_bytes: Some(size_bytes), expected_seconds: Some(seconds), job: None }
}

/// Bytes as a person reads them: `1.4 GB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
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

    fn id(day: &str) -> BackupId {
        format!("logical/sparc-prod/{day}T020000Z").parse().unwrap()
    }

    #[test]
    fn size_and_rate_choose_the_place_and_say_why() {
        let measured =
            |mb: u64, taken_in| Some(Measured { backup: id("20261125"), bytes_per_second: mb * 1_000_000, taken_in });
        let on = "(measured on `logical/sparc-prod/20261125T020000Z`)";
        let (lambda, job) = (Some(Place::Lambda), Some(Place::Job));
        let situations = [
            (0, None, Place::Lambda, "0 bytes at 60.0 MB a second (assumed by the plan) take 0 s, within the 12 min that a Lambda has".to_owned()),
            (1_440, None, Place::Lambda, "1.4 GB at 60.0 MB a second (assumed by the plan) take 24 s, within the 12 min that a Lambda has".to_owned()),
            (43_200, None, Place::Lambda, "43.2 GB at 60.0 MB a second (assumed by the plan) take 12 min, within the 12 min that a Lambda has".to_owned()),
            (100_000, None, Place::Job, "100.0 GB at 60.0 MB a second (assumed by the plan) take 27 min 47 s, more than the 12 min that a Lambda has".to_owned()),
            // Faster than the plan believes, and slower.
            (100_000, measured(200, lambda), Place::Lambda, format!("100.0 GB at 200.0 MB a second {on} take 8 min 20 s, within the 12 min that a Lambda has")),
            (43_200, measured(50, lambda), Place::Job, format!("43.2 GB at 50.0 MB a second {on} take 14 min 24 s, more than the 12 min that a Lambda has")),
            (43_200, measured(50, None), Place::Job, format!("43.2 GB at 50.0 MB a second {on} take 14 min 24 s, more than the 12 min that a Lambda has")),
            // What a Job did fast is not given back to a Lambda that may be slower.
            (100_000, measured(200, job), Place::Job, format!("100.0 GB at 200.0 MB a second {on} take 8 min 20 s, more than the 6 min that a Lambda is given after a Job")),
            (30_000, measured(200, job), Place::Lambda, format!("30.0 GB at 200.0 MB a second {on} take 2 min 30 s, within the 6 min that a Lambda is given after a Job")),
        ];
        for (size_mb, measured, expected, because) in situations {
            let due = place(id("20261126"), size_mb * 1_000_000, measured.as_ref(), 60_000_000);
            assert_eq!((due.place, due.because), (expected, because));
        }
    }
}
