//! A pristine cluster, initialised once and copied for each pair.
//!
//! `initdb`, four databases and a clean shutdown take over a second, a copy takes a tenth of one. A cleanly stopped data
//! folder is as good as a base backup: its copy starts as a standby at the shutdown checkpoint. The template holds no
//! password and no port; those are set for each pair. All pairs of one template share a system identifier, as clones do;
//! the second template, `other`, is there for tests that need a different one.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::server::{Place, Server};
use super::{DATABASES, PROBE_DATABASE, Passwords, Role, Tools, configuration};
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::process::Account;
use crate::tls::Authority;
use crate::{cache, ports};

const SCHEMA: &str = include_str!("schema.sql");

/// The replication slot that the primary keeps for the standby.
pub const SLOT: &str = "standby";

/// Which pristine cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that pairs are made from.
    Pair,
    /// Another `initdb`: another system identifier.
    Other,
}

/// The template's data folder, made now when it is not in the cache. Blocking.
pub(super) fn folder(tools: &Tools, which: Which) -> Result<PathBuf> {
    let recipe = Sha256::digest([SCHEMA, include_str!("template.rs")].concat());
    let recipe: String = recipe.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let name = match which {
        Which::Pair => "pair",
        Which::Other => "other",
    };
    let key = format!("postgres-{}-{name}-{recipe}", tools.version());
    cache::once(&cache::folder()?, &key, |made| build(tools, made))
}

fn build(tools: &Tools, made: &Path) -> Result<()> {
    let folder = Arc::new(Folder::new()?);
    let account = Account::ordinary()?;
    let data = folder.make("template", 0o700)?;
    let sockets = folder.make("s", 0o700)?;
    give(&data, account)?;
    give(&sockets, account)?;
    let mut initdb = Command::new("setpriv");
    if let Some(account) = account {
        initdb.args(["--reuid", &account.uid.to_string(), "--regid", &account.gid.to_string(), "--clear-groups"]);
    }
    let output = initdb
        .arg("--")
        .arg(tools.program("initdb"))
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--data-checksums",
            "--no-sync",
        ])
        .arg("-D")
        .arg(&data)
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TZ", "UTC")
        .output()
        .map_err(Error::system("start initdb through setpriv"))?;
    if !output.status.success() {
        return Err(Error::Program {
            program: "initdb".into(),
            said: String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | "),
        });
    }
    let authority = Arc::new(Authority::new(folder.path())?);
    let server = Server::new(Place {
        name: "template".into(),
        port: ports::free()?,
        data: data.clone(),
        sockets: sockets.clone(),
        tools: tools.clone(),
        account,
        passwords: Passwords::new(),
        authority: authority.clone(),
        folder: folder.clone(),
    });
    configuration::write(&configuration::Server {
        data: &data,
        sockets: &sockets,
        port: server.port(),
        account,
        authority: &authority,
        upstream: None,
        flush: false,
        extra: &[],
    })?;
    // The caller may be inside a runtime: this one gets a thread of its own.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(Error::system("start a runtime"))?
                    .block_on(fill(&server, tools.major()))
            })
            .join()
            .unwrap_or_else(|_| Err(Error::State("filling the template panicked".into())))
    })?;
    copy(&data, made)
}

async fn fill(server: &Server, major: u32) -> Result<()> {
    server.start_in("postgres").await?;
    let roles = format!(
        // The recovery's role needs ALTER SYSTEM, pg_promote, pg_terminate_backend and the control file's functions. It
        // could have each by a grant since PostgreSQL 15; in the lab, which also drives 13, it is a superuser.
        "create role {app} login; create role {recovery} login superuser; create role {replicator} login replication;
         create role {backup} login replication{reader};
         select pg_create_physical_replication_slot('{SLOT}', true);",
        app = Role::Application.name(),
        recovery = Role::Recovery.name(),
        replicator = Role::Replicator.name(),
        backup = Role::Backup.name(),
        // `pg_read_all_data` came with 14; before it only a superuser reads everything without a grant for each table.
        reader = if major >= 14 { " in role pg_read_all_data" } else { " superuser" },
    );
    let client = server.admin_of("postgres").await?;
    client.batch_execute(&roles).await.map_err(server.refused("make the roles"))?;
    for database in DATABASES {
        client
            .batch_execute(&format!("create database {database}"))
            .await
            .map_err(server.refused("make a database"))?;
        server.admin_of(database).await?.batch_execute(SCHEMA).await.map_err(server.refused("make the tables"))?;
    }
    debug_assert!(DATABASES.contains(&PROBE_DATABASE));
    drop(client);
    server.stop().await
}

/// Copies a data folder, permissions included, and nothing that belongs to a run of it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = |what: &Path| Error::system(format!("copy {}", what.display()));
    std::fs::create_dir_all(to).map_err(failed(to))?;
    let mode = std::fs::metadata(from).map_err(failed(from))?.permissions();
    std::fs::set_permissions(to, mode).map_err(failed(to))?;
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed(&source))?;
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_file() && entry.file_name() != "postmaster.pid" {
            std::fs::copy(&source, &target).map_err(failed(&source))?;
        }
    }
    Ok(())
}

/// Gives a file or a folder with all it holds to the server's user.
pub(super) fn give(path: &Path, account: Option<Account>) -> Result<()> {
    let Some(account) = account else { return Ok(()) };
    let failed = || Error::system(format!("give {} to the server's user", path.display()));
    let metadata = std::fs::symlink_metadata(path).map_err(failed())?;
    if metadata.uid() != account.uid.as_raw() {
        chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw())).map_err(failed())?;
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed())? {
            give(&entry.map_err(failed())?.path(), Some(account))?;
        }
    }
    Ok(())
}
