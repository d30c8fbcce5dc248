//! What the Job of one backup is made from.

use base64::{Engine, prelude::BASE64_STANDARD};
use recovery::{
    backup::{BackupId, DueJob, JobFile},
    plan::Plan,
};
use recovery_datapath::{Parts, sha256};

/// Bounds of what the cluster gives a Job before it ends it: something that takes an hour when it should take a minute is
/// still worth waiting for, something that takes longer than a night is none.
const SHORTEST_SECONDS: u64 = 3600;
const LONGEST_SECONDS: u64 = 20 * 3600;

/// How much longer than expected a backup may take: another load on the server, a retry that begins anew.
const PATIENCE: u64 = 4;

/// For the program itself, `pg_dump` and what the parts do not count.
const BASE_BYTES: u64 = 256 * 1024 * 1024;

/// Files of a dump in the directory format that are on their way at once for each of its processes; each has its own parts.
const UPLOADS_OF_A_PROCESS: u64 = 4;

/// The Job of a backup of this size that a run has planned. `authority` is that of the cluster which runs it, PEM.
pub(crate) fn job(
    backup: &BackupId,
    run: &str,
    size_bytes: u64,
    expected_seconds: u64,
    plan: &Plan,
    authority: &str,
) -> DueJob {
    let (cluster, settings) = (&plan.kubernetes.secondary, &plan.backups.job);
    DueJob {
        name: name(backup, run),
        cluster: cluster.name.clone(),
        // Step Functions appends paths to it.
        endpoint: cluster.endpoint.as_str().trim_end_matches('/').to_owned(),
        certificate_authority: BASE64_STANDARD.encode(authority),
        namespace: settings.namespace.clone(),
        image: settings.image.clone(),
        service_account: settings.service_account.clone(),
        memory: memory(size_bytes, uploads(backup, plan)),
        deadline_seconds: expected_seconds.saturating_mul(PATIENCE).clamp(SHORTEST_SECONDS, LONGEST_SECONDS),
        files: JobFile::of_plan(plan),
    }
}

/// The same for the same backup of the same run, so that an attempt whose answer was lost does not make a second Job;
/// another one for another run, so that a Job that failed is not in the way of the next night's.
fn name(backup: &BackupId, run: &str) -> String {
    let digest = sha256(format!("{backup} {run}").as_bytes());
    let due = backup.due_at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%dt%H%M%Sz");
    format!("backup-{}-{due}-{}", backup.kind, &digest.as_str()[..10])
}

/// How many objects are written at once.
fn uploads(backup: &BackupId, plan: &Plan) -> u64 {
    let directory = plan.backups.policy(backup.kind).and_then(|policy| policy.directory);
    directory.map_or(1, |format| u64::from(format.jobs) * UPLOADS_OF_A_PROCESS)
}

/// A dump may come to twice its database, which chooses the length of parts, and seldom to more than its database once it
/// is compressed, which chooses how many of the longer ones are reached. Of several uploads one may have nearly everything.
fn memory(size_bytes: u64, uploads: u64) -> String {
    let of_one = |stored: u64| Parts::for_about(stored.saturating_mul(2)).memory_bytes(stored);
    let parts = of_one(size_bytes) + (uploads - 1) * of_one(size_bytes / uploads);
    format!("{}Mi", (BASE_BYTES + parts).div_ceil(64 * 1024 * 1024) * 64)
}

#[cfg(test)]
mod tests {
    use recovery::backup::DirectoryFormat;

    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn one_run_names_its_job_always_the_same_and_another_run_does_not() {
        let backup: BackupId = "logical/sparc-prod/20261126T020000Z".parse().unwrap();
        let first = name(&backup, "nightly-1");
        assert!(first.starts_with("backup-logical-20261126t020000z-") && first.len() < 63, "{first}");
        assert_eq!(first, name(&backup, "nightly-1"));
        assert_ne!(first, name(&backup, "nightly-2"));
        let other: BackupId = "logical/other/20261126T020000Z".parse().unwrap();
        assert_ne!(first, name(&other, "nightly-1"));
    }

    #[test]
    fn memory_and_deadline_grow_with_the_size_and_have_bounds() {
        let plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
        let backup: BackupId = "logical/sparc-prod/20261126T020000Z".parse().unwrap();
        let situations = [
            (GB, 17, "320Mi", 3600),
            (100 * GB, 1_667, "448Mi", 6668),
            (1_000 * GB, 16_667, "1920Mi", 66_668),
            (5_000 * GB, 83_334, "8448Mi", 72_000),
        ];
        for (size, expected, memory, deadline) in situations {
            let job = job(&backup, "nightly-1", size, expected, &plan, "PEM");
            assert_eq!((job.memory.as_str(), job.deadline_seconds), (memory, deadline), "{size}");
            assert_eq!(job.endpoint, "https://kubernetes.us-west-2.sparc.com");
            assert_eq!(job.certificate_authority, "UEVN");
        }
        let mut several = plan.clone();
        let logical = several.backups.policies.iter_mut().find(|policy| policy.kind == backup.kind).unwrap();
        logical.directory = Some(DirectoryFormat { jobs: 4, scratch_bytes: 256 << 20 });
        let job = job(&backup, "nightly-1", 100 * GB, 1_667, &several, "PEM");
        assert_eq!(job.memory, "768Mi", "each of sixteen uploads has its parts");
    }
}
