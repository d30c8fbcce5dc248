//! `pg_dump` of every database, as of snapshots that are taken together.

use std::pin::pin;

use async_trait::async_trait;
use futures::future::{Either, select, try_join, try_join_all};
use recovery::{
    backup::{BackupId, Content, DirectoryFormat, DumpFormat, Kind, Source, Tool},
    plan::Driver,
};
use recovery_datapath::{Ends, Made, Produced, ProducerError, Sink, TakeError, Taker};

use super::{
    BackupSource, Programs,
    passfile::PassFile,
    session::{Cluster, Session, quoted},
};

/// What a dump may come to beside the size of its database: SQL is shorter than pages, but for small rows.
const DUMP_OF_SIZE: u64 = 2;

/// `pg_dump` of every database of the plan, and the globals.
///
/// A snapshot is of one database, so there is one for each; all are opened at the same time, before the first dump begins,
/// and each is held until its own dump has ended. The manifest names the position of each.
pub struct Logical {
    source: BackupSource,
    databases: Vec<String>,
    /// Written by several processes through a scratch folder.
    directory: Option<DirectoryFormat>,
}

impl Logical {
    /// Of the databases that the plan's policy names, or of all.
    pub fn new(source: BackupSource) -> Logical {
        let policy = source.plan.backups.policy(Kind::Logical);
        let directory = policy.and_then(|policy| policy.directory);
        let databases = policy.and_then(|policy| policy.databases.clone());
        let databases = databases.unwrap_or_else(|| source.plan.postgresql.databases.clone());
        Logical { source, databases, directory }
    }

    async fn sessions(&self) -> Result<(Vec<Session>, PassFile, String), TakeError> {
        let failed = |error| TakeError::source("opening the databases", error);
        let credentials = self.source.credentials().await.map_err(failed)?;
        let opening = self.databases.iter().map(|database| self.source.session(&credentials, database));
        let sessions = try_join_all(opening).await.map_err(failed)?;
        let passfile = PassFile::new(&credentials)
            .map_err(|error| TakeError::source("handing over the password", ProducerError::Other(Box::new(error))))?;
        Ok((sessions, passfile, credentials.username))
    }
}

#[async_trait]
impl Taker for Logical {
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        let (sessions, ..) = self.sessions().await?;
        let sizes = try_join_all(sessions.iter().map(Session::database_bytes)).await;
        Ok(sizes.map_err(|error| TakeError::source("measuring the databases", error))?.into_iter().sum())
    }

    async fn take(&self, _backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        let failed = |error| TakeError::source("taking snapshots", error);
        let directory = self.directory;
        if directory.is_some() && std::env::var_os("AWS_LAMBDA_FUNCTION_NAME").is_some() {
            return Err(TakeError::Refused {
                says: "the directory format needs a scratch folder, which a Lambda does not have".to_owned(),
                remedy: "take it in a Job, or leave `directory` out of the policy".to_owned(),
            });
        }
        let (sessions, passfile, user) = self.sessions().await?;
        let Some(first) = sessions.first() else {
            return Err(TakeError::Refused {
                says: "the plan names no database".to_owned(),
                remedy: "add one to `postgresql.databases`".to_owned(),
            });
        };
        let cluster = first.cluster().await.map_err(failed)?;
        let programs = Programs::for_server(cluster.major()).await;
        let programs = programs.map_err(|error| TakeError::source("looking for pg_dump", error))?;
        let snapshots = try_join_all(sessions.iter().map(Session::snapshot)).await.map_err(failed)?;

        let start = |error| TakeError::source("starting a dump", error);
        let globals = self.globals(&programs, &cluster, &user, &passfile).map_err(start)?;
        sink.artifact("globals.sql", Content::Globals, globals, 0, whole_globals).await?;

        let mut databases = Vec::new();
        for ((session, snapshot), database) in sessions.iter().zip(&snapshots).zip(&self.databases) {
            let own = self.source.plan.backups.database(database).cloned();
            let (excluded, newest_by) = own.map(|own| (own.exclude_data_of, own.newest_by)).unwrap_or_default();
            let mut command = programs.command("pg_dump", &self.source, &user, &passfile, database);
            command.arg("--lock-wait-timeout=60s").arg(format!("--snapshot={}", snapshot.name));
            for table in &excluded {
                let (schema, name) = table.split_once('.').unwrap_or(("public", table));
                command.arg(format!("--exclude-table-data={}.{}", quoted(schema), quoted(name)));
            }
            if cluster.in_recovery {
                // Their rows are not in the log, and reading them on a standby is an error.
                command.arg("--no-unlogged-table-data");
            }
            let facts = pin!(async {
                let counting = session.facts(snapshot, &excluded, &newest_by, cluster.in_recovery);
                counting.await.map_err(|error| TakeError::source("counting rows", error))
            });
            let facts = if let Some(format) = directory {
                try_join(super::directory::dump(database, command, format, sink), facts).await?.1
            } else {
                command.args(["--format=custom", "--compress=0"]);
                let produced = Produced::by_program(&format!("the dump of `{database}`"), command).map_err(start)?;
                let content = Content::Dump { database: database.clone(), format: DumpFormat::Custom };
                let stopper = produced.stopper();
                let dump = pin!(async {
                    let name = format!("databases/{database}.dump");
                    let about = snapshot.size_bytes.saturating_mul(DUMP_OF_SIZE);
                    Ok::<_, TakeError>(sink.artifact(&name, content, produced, about, whole_dump).await?)
                });
                let (stored, facts) = match select(dump, facts).await {
                    Either::Left((stored, facts)) => (stored?, facts.await?),
                    Either::Right((Ok(facts), dump)) => (dump.await?, facts),
                    Either::Right((Err(error), dump)) => {
                        stopper.abort();
                        // It has failed by then, and takes its parts with it.
                        let _ = dump.await;
                        return Err(error);
                    }
                };
                tracing::info!(
                    database,
                    dump.plain_bytes = stored.ends.bytes,
                    dump.stored_bytes = stored.stored_bytes,
                    "the dump of `{database}` is stored"
                );
                facts
            };
            databases.push(facts);
        }
        let positions = snapshots.iter().map(|snapshot| snapshot.lsn);
        Ok(Made {
            tool: Tool { name: "pg_dump".to_owned(), version: programs.version().to_owned() },
            source: Source::PostgreSql {
                instance: self.source.instance.clone(),
                system_identifier: cluster.system_identifier,
                timeline: cluster.timeline,
                server_version: cluster.server_version,
                from_lsn: positions.clone().min(),
                to_lsn: positions.max(),
                in_recovery: cluster.in_recovery,
                databases,
                snapshots: Vec::new(),
            },
        })
    }
}

impl Logical {
    fn globals(
        &self,
        programs: &Programs,
        cluster: &Cluster,
        user: &str,
        passfile: &PassFile,
    ) -> Result<Produced, ProducerError> {
        let database = &self.source.plan.postgresql.probe_database;
        let mut command = programs.command("pg_dumpall", &self.source, user, passfile, database);
        command.args(["--globals-only", "--lock-wait-timeout=60s"]).arg(format!("--database={database}"));
        if !cluster.may_read_passwords || self.source.plan.postgresql.driver != Driver::SelfManaged {
            // RDS shows its verifiers to nobody; whoever restores sets passwords from their secrets.
            command.arg("--no-role-passwords");
        }
        Produced::by_program("the globals", command)
    }
}

pub(super) fn whole_dump(ends: &Ends) -> Result<(), String> {
    if ends.head.starts_with(b"PGDMP") { Ok(()) } else { Err("it does not begin as an archive of pg_dump".to_owned()) }
}

fn whole_globals(ends: &Ends) -> Result<(), String> {
    let mark = b"PostgreSQL database cluster dump complete";
    let complete = ends.tail.windows(mark.len()).any(|window| window == mark);
    if complete { Ok(()) } else { Err("its end mark is missing".to_owned()) }
}
