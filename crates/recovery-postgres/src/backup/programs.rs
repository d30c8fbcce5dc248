//! PostgreSQL's own tools, of the right version.

use std::path::{Path, PathBuf};

use recovery::fault::{Classified, Fault};
use tokio::process::Command;

use super::{BackupSource, passfile::PassFile};

/// PostgreSQL's own tools in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    folder: PathBuf,
    major: u32,
    version: String,
}

/// The tools cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("there is no `pg_dump` that reads a server of version {server_major}; found: {found}")]
pub struct ProgramsError {
    /// The server's major version.
    pub server_major: u32,
    /// What there is.
    pub found: String,
}

impl Classified for ProgramsError {
    fn fault(&self) -> Fault {
        Fault::Permanent
    }

    fn remedy(&self) -> String {
        format!(
            "install postgresql-client-{} or add the layer with PostgreSQL's tools to the function",
            self.server_major
        )
    }
}

impl Programs {
    /// The tools for a server: of its own version, so that what they write can be restored there, or else of the next
    /// newer one; an older `pg_dump` refuses. Looked for on `PATH`, which has Lambda's layers, and in Debian's folders.
    ///
    /// # Errors
    /// There are none.
    pub async fn for_server(server_major: u32) -> Result<Programs, ProgramsError> {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        folders.extend(debian.map(|entry| entry.path().join("bin")));
        let mut found = Vec::new();
        for folder in folders {
            found.extend(Programs::at(&folder).await);
        }
        let choice = found.iter().filter(|one| one.major >= server_major).min_by_key(|one| one.major);
        choice.cloned().ok_or_else(|| {
            let versions: Vec<&str> = found.iter().map(|one| one.version.as_str()).collect();
            let found = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
            ProgramsError { server_major, found }
        })
    }

    async fn at(folder: &Path) -> Option<Programs> {
        // Debian's `pg_dump` on PATH is a wrapper that chooses a version by itself; its real folders are looked at too.
        let program = folder.join("pg_dump").canonicalize().ok()?;
        if program.file_name()? != "pg_dump" {
            return None;
        }
        let said = Command::new(&program).arg("--version").env("LC_ALL", "C").output().await.ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        // "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let version = said.split_whitespace().nth(2)?.to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        Some(Programs { folder: program.parent()?.to_owned(), major: digits.parse().ok()?, version })
    }

    /// The version, for example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// One of the tools, on its way to a server. Everything that it is told by the environment is said here; what the
    /// process itself was told stays outside, but for where libraries are.
    pub(crate) fn command(
        &self,
        program: &str,
        source: &BackupSource,
        user: &str,
        passfile: &PassFile,
        database: &str,
    ) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "LD_LIBRARY_PATH" || name == "PATH"));
        command
            .env("LC_ALL", "C")
            .env("PGHOST", &source.host)
            .env("PGPORT", source.port.to_string())
            .env("PGUSER", user)
            .env("PGDATABASE", database)
            .env("PGPASSFILE", passfile.path())
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", &source.authorities)
            .env("PGCONNECT_TIMEOUT", "10")
            .env("PGAPPNAME", "sparc-backup")
            .arg("--no-password");
        command
    }
}
