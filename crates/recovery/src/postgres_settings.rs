//! The settings that a primary and a standby need for what the plan promises, for each version of PostgreSQL.
//!
//! A setting that a version does not know keeps its server from starting, so every one has the versions that know it.
//! Everything for a standby that lives in `recovery.conf` in older texts is an ordinary setting since 12, and
//! `wal_keep_segments` is `wal_keep_size` since 13. What both need is written for both: a standby is the next primary. A test
//! starts a primary and a standby of every version with them, and sees that no setting is unknown, unused or another value.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::plan::{Driver, Mechanism, Plan};

/// Versions that settings are known for.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 13..=18;

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows.
    Standby,
}

/// One setting, and why it has this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its value, unquoted.
    pub value: String,
    /// Why.
    pub because: &'static str,
}

/// What stands on the server's machine.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The command line of `drctl` with everything that it needs before `wal`, for example `drctl`.
    pub drctl: &'a str,
    /// The plan, as the server's user reads it.
    pub plan_file: &'a Path,
    /// Certificate authorities that the primary is verified against.
    pub ca_file: &'a Path,
    /// Password file of the replication role, which only the server's user may read.
    pub passfile: &'a Path,
    /// The replication role.
    pub replication_role: &'a str,
    /// The slot that the primary keeps for the standby.
    pub slot: &'a str,
}

/// The settings cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSettings {
    /// RDS has parameter groups and no files.
    #[error(
        "`postgresql.driver` is {0:?}, which has no configuration files; set what is needed in its parameter group, or \
         change the driver"
    )]
    Managed(Driver),
    /// Settings of this version are not known.
    #[error("settings are known for PostgreSQL {first} to {last}, not for {0}", first = VERSIONS.start(), last = VERSIONS.end())]
    Version(u32),
    /// A path or a name that would end its quotes.
    #[error(
        "`{0}` cannot stand in a command of PostgreSQL's configuration; use letters, digits, `/`, `-`, `_`, `.` and `,`"
    )]
    Word(String),
}

/// The settings of one server.
///
/// # Errors
/// The plan's servers are not ours to configure, or the version is unknown.
pub fn settings(plan: &Plan, role: Role, version: u32, machine: &Machine<'_>) -> Result<Vec<Setting>, NoSettings> {
    let driver = plan.postgresql.driver;
    if driver != Driver::SelfManaged {
        return Err(NoSettings::Managed(driver));
    }
    if !VERSIONS.contains(&version) {
        return Err(NoSettings::Version(version));
    }
    let plan_file = word(&machine.plan_file.display().to_string())?;
    let drctl = machine.drctl.split(' ').map(word).collect::<Result<Vec<_>, _>>()?.join(" ");
    let archive_timeout = plan.components.iter().find_map(|component| match component.mechanism {
        Mechanism::StreamingReplication { archive_timeout } => archive_timeout,
        _ => None,
    });
    let mut list = Vec::new();
    let mut set = |name, value: String, because| list.push(Setting { name, value, because });
    set("wal_level", "replica".to_owned(), "base backups, archive and standbys need it");
    set("archive_mode", "on".to_owned(), "a standby archives nothing until it is promoted");
    set(
        "archive_command",
        format!("{drctl} wal push %p --plan {plan_file}"),
        "never overwrites another file, and is success for the same one",
    );
    if let Some(timeout) = archive_timeout {
        let seconds = timeout.0.as_secs();
        set("archive_timeout", format!("{seconds}s"), "the most that the archive alone can lose, as the plan promises");
    }
    set("max_wal_senders", "10".to_owned(), "standbys and base backups");
    set("max_replication_slots", "10".to_owned(), "one for each standby");
    set("wal_keep_size", "1GB".to_owned(), "a standby without its slot still finds its place");
    set("max_slot_wal_keep_size", "64GB".to_owned(), "a standby that never comes back does not fill the disk");
    set("wal_log_hints", "on".to_owned(), "pg_rewind turns an old primary into a standby");
    set("hot_standby", "on".to_owned(), "a standby is asked how far it is");
    set("password_encryption", "scram-sha-256".to_owned(), "13 still has md5 by default");
    set(
        "wal_retrieve_retry_interval",
        "200ms".to_owned(),
        "a standby that lost its stream notices a promotion sooner than in 5 s",
    );
    set("hot_standby_feedback", "on".to_owned(), "the primary does not remove rows that a backup of the standby reads");
    set("max_standby_streaming_delay", "30min".to_owned(), "a backup of the standby is not cancelled by replay");
    if version >= 15 {
        set("recovery_prefetch", "try".to_owned(), "replay reads ahead; since 15");
    }
    if version >= 17 {
        set("summarize_wal", "on".to_owned(), "incremental base backups need it; since 17");
    }
    if role == Role::Standby {
        let primary = &plan.postgresql.primary;
        let value = |text: &str| word(text);
        set(
            "primary_conninfo",
            format!(
                "host={} port={} user={} application_name={} sslmode=verify-full sslrootcert={} passfile={}",
                value(&primary.host)?,
                primary.port,
                value(machine.replication_role)?,
                value(&plan.postgresql.standby.instance)?,
                value(&machine.ca_file.display().to_string())?,
                value(&machine.passfile.display().to_string())?,
            ),
            "by TLS, to the server that the certificate names, with a password from a file",
        );
        set("primary_slot_name", value(machine.slot)?, "the primary keeps what this standby lacks");
        set(
            "restore_command",
            format!("{drctl} wal fetch %f %p --standby --plan {plan_file}"),
            "what the primary has no more is in the archive",
        );
        set("recovery_target_timeline", "latest".to_owned(), "follows a promotion of another standby");
    }
    Ok(list)
}

/// A word that means itself to a shell and inside of quotes.
fn word(text: &str) -> Result<String, NoSettings> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.,:=".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(NoSettings::Word(text.to_owned()))
    }
}

/// Settings as a file for `include`.
pub struct AsFile<'a> {
    /// Which server.
    pub role: Role,
    /// PostgreSQL's major version.
    pub version: u32,
    /// Its settings.
    pub settings: &'a [Setting],
}

impl fmt::Display for AsFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (which, beside) = match self.role {
            Role::Primary => ("primary", ""),
            Role::Standby => ("standby", "; an empty file `standby.signal` beside it makes it one"),
        };
        writeln!(f, "# PostgreSQL {}, {which}: include it from postgresql.conf{beside}.", self.version)?;
        for Setting { name, value, because } in self.settings {
            writeln!(f, "{name} = '{}' # {because}", value.replace('\'', "''"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARC: &str = include_str!("../../../plans/sparc.toml");

    fn machine() -> Machine<'static> {
        Machine {
            drctl: "drctl",
            plan_file: Path::new("/etc/sparc/plan.toml"),
            ca_file: Path::new("/etc/sparc/ca.pem"),
            passfile: Path::new("/etc/sparc/replicator.pgpass"),
            replication_role: "replicator",
            slot: "standby",
        }
    }

    #[test]
    fn each_version_gets_what_it_knows_and_nothing_that_keeps_it_from_starting() {
        let mut plan = Plan::parse("p.toml", SPARC).unwrap();
        assert_eq!(settings(&plan, Role::Primary, 15, &machine()), Err(NoSettings::Managed(Driver::Rds)));
        plan.postgresql.driver = Driver::SelfManaged;
        assert_eq!(settings(&plan, Role::Primary, 12, &machine()), Err(NoSettings::Version(12)));
        let names = |role, version| -> Vec<&str> {
            settings(&plan, role, version, &machine()).unwrap().iter().map(|setting| setting.name).collect()
        };
        for version in VERSIONS {
            let (primary, standby) = (names(Role::Primary, version), names(Role::Standby, version));
            assert!(primary.iter().all(|name| standby.contains(name)), "a standby is the next primary");
            assert!(standby.contains(&"restore_command") && !primary.contains(&"primary_conninfo"));
            assert_eq!(primary.contains(&"recovery_prefetch"), version >= 15);
            assert_eq!(primary.contains(&"summarize_wal"), version >= 17);
            for gone in ["wal_keep_segments", "standby_mode", "trigger_file", "promote_trigger_file"] {
                assert!(!standby.contains(&gone), "{gone} in {version}");
            }
        }
        let list = settings(&plan, Role::Primary, 15, &machine()).unwrap();
        let text = AsFile { role: Role::Primary, version: 15, settings: &list }.to_string();
        assert!(text.contains("archive_timeout = '300s' # "), "{text}");
        assert!(text.contains("archive_command = 'drctl wal push %p --plan /etc/sparc/plan.toml' # "), "{text}");
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_refused() {
        let mut plan = Plan::parse("p.toml", SPARC).unwrap();
        plan.postgresql.driver = Driver::SelfManaged;
        let machine = Machine { plan_file: Path::new("/etc/sparc/plan; rm -rf"), ..machine() };
        assert!(matches!(settings(&plan, Role::Primary, 15, &machine), Err(NoSettings::Word(_))));
    }
}
