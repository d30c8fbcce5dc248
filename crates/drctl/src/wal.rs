//! `drctl wal`: what PostgreSQL runs as `archive_command` and `restore_command`.
//!
//! PostgreSQL reads exit codes. For an archive, anything but 0 means that the file is kept and offered again. For a restore,
//! 1 to 125 mean that the archive does not have the file: a restore ends there and opens for writes. So only that is 1,
//! and whatever else goes wrong, a wrong argument included, is above 125, which ends the server's start instead.
//! <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-PITR-RECOVERY>

use std::{collections::BTreeMap, ffi::OsString};

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{Keeping, Kind},
    fault::{Classified, Failure, Fault},
    plan::{Plan, StorageClass},
};
use recovery_aws::Aws;
use recovery_datapath::wal;

use crate::{
    cli::{WalFetchArgs, WalPushArgs},
    problem::{Problem, exit},
};

/// Whether a command line is one whose exit code must not be taken for "the archive does not have it".
pub fn is_fetch(arguments: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = arguments.skip(1).filter(|word| !word.to_string_lossy().starts_with('-')).collect();
    words.windows(2).any(|pair| pair[0] == "wal" && pair[1] == "fetch")
}

/// `drctl wal push`.
pub async fn push(args: WalPushArgs) -> Result<u8, Problem> {
    let plan = Plan::read(&args.plan.plan)?;
    let failed = |error: wal::WalError| Problem::failed(Failure::from(&error).message);
    let identifier = wal::system_identifier(&args.pgdata).map_err(failed)?;
    let archive = Aws::from_plan(&plan).await.wal_segments();
    let path = args.pgdata.join(&args.path);
    let keeping = keeping(&plan, Timestamp::now());
    wal::push(&*archive, &path, identifier, &keeping).await.map_err(failed)?;
    Ok(exit::DONE)
}

/// `drctl wal fetch`.
pub async fn fetch(args: WalFetchArgs) -> Result<u8, Problem> {
    let plan = Plan::read(&args.plan.plan).map_err(|error| Problem::unknown(error.to_string()))?;
    let failed = |error: wal::WalError| {
        let absent = args.standby && error.fault() == Fault::Transient;
        let line = Failure::from(&error).message;
        // A standby looks again in a moment, and never opens for writes by itself.
        if absent { Problem::failed(line) } else { Problem::unknown(line) }
    };
    let identifier = wal::system_identifier(&args.pgdata).map_err(failed)?;
    let archive = Aws::from_plan(&plan).await.wal_segments();
    let to = args.pgdata.join(&args.path);
    let found = wal::fetch(&*archive, &args.name, &to, identifier).await.map_err(failed)?;
    Ok(if found { exit::DONE } else { exit::FOUND })
}

/// As the plan's policy of kind `wal` says, or 30 days.
fn keeping(plan: &Plan, now: Timestamp) -> Keeping {
    let policy = plan.backups.policy(Kind::Wal);
    let days = policy.map_or(30, |policy| policy.retention_days);
    let until = now.checked_add(SignedDuration::from_hours(24 * i64::from(days)));
    Keeping {
        kms_key: Some(plan.backups.kms_key.clone()),
        // A class with a least duration or length would cost more than it saves for files that are small and many.
        storage_class: policy.map_or(StorageClass::Standard, |policy| policy.storage_class),
        lock: plan.backups.lock,
        retain_until: until.unwrap_or(Timestamp::MAX),
        tags: BTreeMap::from([("kind".to_owned(), Kind::Wal.to_string())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fetch_is_a_fetch() {
        let is = |line: &str| is_fetch(line.split(' ').map(OsString::from));
        assert!(is("drctl wal fetch") && is("drctl --plan=x wal fetch --nonsense"));
        assert!(!is("drctl wal push wal") && !is("drctl report fetch"));
    }

    #[test]
    fn log_is_kept_for_thirty_days_where_the_plan_says_nothing() {
        let plan = Plan::parse("p.toml", include_str!("../../../plans/sparc.toml")).unwrap();
        let now: Timestamp = "2026-11-26T02:00:00Z".parse().unwrap();
        assert_eq!(keeping(&plan, now).retain_until, "2026-12-26T02:00:00Z".parse().unwrap());
    }
}
