//! Backups of a PostgreSQL cluster by its own tools, streamed.
//!
//! [`Logical`] is `pg_dump` of each database over an exported snapshot, with the rows of its tables counted in the same
//! snapshot, and the globals. [`Physical`] is what `pg_basebackup` asks for, asked for by ourselves. Neither touches a disk of
//! ours, but for the directory format of `pg_dump`, which passes through a bounded scratch folder; the password reaches the
//! tools through a file that has no name (`memfd_create`), so it is in no argument, no environment and on no disk.

mod base_backup;
mod directory;
mod logical;
mod passfile;
mod physical;
mod programs;
mod session;

use std::{path::PathBuf, sync::Arc};

use recovery::{backup::Taken, plan::Plan, secrets::Secrets};

pub use logical::Logical;
pub use physical::Physical;
pub use programs::{Programs, ProgramsError};

/// A server that is read for backups, and how.
#[derive(Clone)]
pub struct BackupSource {
    plan: Arc<Plan>,
    instance: String,
    host: String,
    port: u16,
    authorities: PathBuf,
    tls: rustls::ClientConfig,
    secrets: Arc<dyn Secrets>,
}

impl BackupSource {
    /// The server that the plan reads backups from. `authorities` is the file that `tls` was made from: PostgreSQL's tools
    /// read it themselves.
    pub fn of_plan(
        plan: &Arc<Plan>,
        authorities: PathBuf,
        tls: &rustls::ClientConfig,
        secrets: &Arc<dyn Secrets>,
    ) -> BackupSource {
        let server = match plan.backups.read_from {
            Taken::Primary => &plan.postgresql.primary,
            Taken::Standby => &plan.postgresql.standby,
        };
        BackupSource {
            plan: Arc::clone(plan),
            instance: server.instance.clone(),
            host: server.host.clone(),
            port: server.port,
            authorities,
            tls: tls.clone(),
            secrets: Arc::clone(secrets),
        }
    }
}
