//! One PostgreSQL server as the recovery sees it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    database::{
        Archiver, Closed, Database, DatabaseError, Heartbeat, Manner, PrimaryPosition, Replica, ReplicaRole,
        ServerStatus, WriteAttempt,
    },
    lsn::Lsn,
    plan::{self, Driver, Plan},
    secrets::Secrets,
};
use tokio_postgres::{Client, Row, error::SqlState};

use crate::connection::Door;

/// Everything about a server in one answer, so that its parts belong together.
///
/// On a primary the timeline comes from the current WAL file: right after a promotion `pg_control_checkpoint()` still names
/// the old one. On a standby the stream knows it before the next restartpoint does.
const STATUS: &str = "
select clock_timestamp() as observed_at,
       (select system_identifier::text from pg_control_system()) as system_identifier,
       recovery as in_recovery,
       case when recovery
            then (select greatest((select timeline_id from pg_control_checkpoint()),
                                  (select received_tli from pg_stat_wal_receiver)))
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       end as timeline,
       case when recovery
            then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            else pg_current_wal_flush_lsn()
       end::text as holds_to,
       pg_last_wal_replay_lsn()::text as replayed_to,
       (select setting::bigint from pg_settings where name = 'wal_retrieve_retry_interval') as retrieve_retry_ms,
       current_setting('synchronous_standby_names') as synchronous_standby_names,
       READ_ONLY as read_only,
       heartbeat.number, heartbeat.written_at
  from (select pg_is_in_recovery() as recovery) as server
  left join recovery.heartbeat on true";

/// Whether [`Database::close`] has been here, where `ALTER SYSTEM` is ours. Our own session overrides the setting.
const CLOSED_BY_FILE: &str =
    "exists (select from pg_file_settings where name = 'default_transaction_read_only' and setting = 'on' and applied)";

/// The same where it is not.
const CLOSED_BY_DATABASE: &str = "exists (select from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
    where d.datname = current_database() and 'default_transaction_read_only=on' = any (s.setconfig))";

/// Sessions that were there before the server became read-only, and could still write.
const END_SESSIONS: &str = "
select count(*) filter (where pg_terminate_backend(pid))
  from pg_stat_activity
 where backend_type = 'client backend' and pid <> pg_backend_pid() and backend_start < $1";

const SESSIONS_LEFT: &str = "
select count(*) from pg_stat_activity
 where backend_type = 'client backend' and pid <> pg_backend_pid() and backend_start < $1";

/// How often, and how many times, [`Database::close`] looks whether the postmaster has read its configuration and sessions
/// have gone: they do within milliseconds, and the state machine waits for those that do not.
const SETTLE: (Duration, u32) = (Duration::from_millis(4), 60);

/// One PostgreSQL server with two doors: the recovery's own role, and the role that services write with.
pub struct Server {
    name: String,
    /// `ALTER SYSTEM` is ours; on RDS and Aurora it is not.
    self_managed: bool,
    databases: Vec<String>,
    recovery: Door,
    application: Door,
}

impl Server {
    /// The primary of the plan.
    pub fn primary(plan: &Plan, tls: &rustls::ClientConfig, secrets: &Arc<dyn Secrets>) -> Server {
        Server::new(plan, &plan.postgresql.primary, tls, secrets)
    }

    /// The standby of the plan.
    pub fn standby(plan: &Plan, tls: &rustls::ClientConfig, secrets: &Arc<dyn Secrets>) -> Server {
        Server::new(plan, &plan.postgresql.standby, tls, secrets)
    }

    fn new(plan: &Plan, server: &plan::Server, tls: &rustls::ClientConfig, secrets: &Arc<dyn Secrets>) -> Server {
        let door = |secret: &str, options| Door {
            server: server.instance.clone(),
            host: server.host.clone(),
            port: server.port,
            database: plan.postgresql.probe_database.clone(),
            secret: secret.to_owned(),
            options,
            timeout: plan.failover.look_timeout.0,
            tls: tls.clone(),
            secrets: Arc::clone(secrets),
            kept: tokio::sync::Mutex::new(None),
        };
        Server {
            name: server.instance.clone(),
            self_managed: plan.postgresql.driver == Driver::SelfManaged,
            databases: plan.postgresql.databases.clone(),
            // The fence makes sessions read-only by default; this role must still be able to lift it.
            recovery: door(&plan.postgresql.recovery_secret, Some("-c default_transaction_read_only=off")),
            application: door(&plan.postgresql.application_secret, None),
        }
    }

    /// Connects both doors ahead of the first request, so that it does not pay for them.
    pub async fn warm(&self) {
        // Not reachable now is an answer for later, when somebody asks.
        let _ = tokio::join!(
            self.status(),
            self.application.with("connecting", |client| async move { client.simple_query("").await })
        );
    }

    async fn set_read_only(&self, read_only: bool) -> Result<(), DatabaseError> {
        let statements: Vec<String> = if self.self_managed {
            let change = if read_only {
                "set default_transaction_read_only = on"
            } else {
                "reset default_transaction_read_only"
            };
            vec![format!("alter system {change}"), "select pg_reload_conf()".to_owned()]
        } else {
            // Replicated to the standby, where the promotion takes it back.
            let change = if read_only {
                "set default_transaction_read_only = on"
            } else {
                "reset default_transaction_read_only"
            };
            self.databases.iter().map(|database| format!("alter database {} {change}", quoted(database))).collect()
        };
        let statements = &statements;
        self.recovery
            .with("changing default_transaction_read_only", |client| async move {
                for statement in statements {
                    client.simple_query(statement).await?;
                }
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl Database for Server {
    fn name(&self) -> &str {
        &self.name
    }

    async fn status(&self) -> Result<ServerStatus, DatabaseError> {
        let query = STATUS.replace("READ_ONLY", if self.self_managed { CLOSED_BY_FILE } else { CLOSED_BY_DATABASE });
        let query = query.as_str();
        let row = self
            .recovery
            .with("reading its status", |client| async move { client.query_one(query, &[]).await })
            .await?;
        status(&row).map_err(|error| self.recovery.classify("reading its status", error))
    }

    async fn attempt_write(&self, run: &str) -> Result<WriteAttempt, DatabaseError> {
        self.application
            .with("attempting a write", |client| async move {
                let statement = "insert into recovery.write_attempt as w (run) values ($1)
                    on conflict (run) do update set attempts = w.attempts + 1, written_at = clock_timestamp()
                    returning written_at";
                match client.query_one(statement, &[&run]).await {
                    Ok(row) => Ok(WriteAttempt::Accepted { at: row.try_get(0)? }),
                    Err(error) => rejected(error),
                }
            })
            .await
    }

    async fn close(&self) -> Result<Closed, DatabaseError> {
        let now =
            |client: Arc<Client>| async move { client.query_one("select clock_timestamp()", &[]).await?.try_get(0) };
        let before: Timestamp = self.recovery.with("reading its clock", now).await?;
        self.set_read_only(true).await?;
        let reloaded_after = self.self_managed.then_some(before);
        self.recovery.with("ending sessions", |client| end_sessions(client, reloaded_after)).await
    }

    async fn open(&self) -> Result<(), DatabaseError> {
        self.set_read_only(false).await
    }

    async fn stand_alone(&self) -> Result<(), DatabaseError> {
        self.recovery
            .with("clearing synchronous_standby_names", |client| async move {
                client.simple_query("alter system set synchronous_standby_names = ''").await?;
                client.simple_query("select pg_reload_conf()").await?;
                Ok(())
            })
            .await
    }

    async fn beat(&self) -> Result<PrimaryPosition, DatabaseError> {
        // As the application role, so that a fenced primary has no heartbeat either.
        let row = self
            .application
            .with("writing a heartbeat", |client| async move {
                let beat = "insert into recovery.heartbeat as h (number, written_at) values (1, clock_timestamp())
                    on conflict (only_row) do update set number = h.number + 1, written_at = clock_timestamp()
                    returning number, written_at";
                let heartbeat = client.query_one(beat, &[]).await?;
                let position = "select clock_timestamp(), (select system_identifier::text from pg_control_system()),
                    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int, pg_current_wal_flush_lsn()::text,
                    current_setting('archive_mode') <> 'off', last_archived_time, last_failed_time, last_failed_wal, failed_count
                    from pg_stat_archiver";
                let position = client.query_one(position, &[]).await?;
                Ok((heartbeat, position))
            })
            .await?;
        let read = |(heartbeat, position): &(Row, Row)| {
            Ok(PrimaryPosition {
                observed_at: position.try_get(0)?,
                system_identifier: position.try_get(1)?,
                timeline: unsigned(position.try_get(2)?),
                lsn: lsn(position.try_get(3)?).unwrap_or_default(),
                heartbeat: Heartbeat { number: heartbeat.try_get(0)?, written_at: heartbeat.try_get(1)? },
                archiver: archiver(position)?,
            })
        };
        read(&row).map_err(|error| self.application.classify("writing a heartbeat", error))
    }
}

/// RDS archives by a way of its own, and shows what becomes of it all the same.
fn archiver(position: &Row) -> Result<Option<Archiver>, tokio_postgres::Error> {
    let archives: bool = position.try_get(4)?;
    let said = Archiver {
        last_archived_at: position.try_get(5)?,
        last_failed_at: position.try_get(6)?,
        last_failed: position.try_get(7)?,
        failures: position.try_get(8)?,
    };
    Ok(archives.then_some(said))
}

/// `25006` is the fence itself; anything else is not a proof that the server is closed.
fn rejected(error: tokio_postgres::Error) -> Result<WriteAttempt, tokio_postgres::Error> {
    match error.as_db_error() {
        Some(db) if *db.code() == SqlState::READ_ONLY_SQL_TRANSACTION => {
            Ok(WriteAttempt::Rejected { why: format!("{}: {}", db.code().code(), db.message()) })
        }
        _ => Err(error),
    }
}

/// Ends the sessions that began before new ones started read-only.
async fn end_sessions(client: Arc<Client>, reloaded_after: Option<Timestamp>) -> Result<Closed, tokio_postgres::Error> {
    let (pause, looks) = SETTLE;
    if let Some(before) = reloaded_after {
        // The postmaster reads its configuration first and then tells its children: once our own session has heard of the
        // change, every later session starts read-only.
        for _ in 0..looks {
            if client.query_one("select pg_conf_load_time() > $1", &[&before]).await?.try_get(0)? {
                break;
            }
            tokio::time::sleep(pause).await;
        }
    }
    let cutoff: Timestamp = client.query_one("select clock_timestamp()", &[]).await?.try_get(0)?;
    let ended: i64 = client.query_one(END_SESSIONS, &[&cutoff]).await?.try_get(0)?;
    let mut left: i64 = ended;
    for _ in 0..looks {
        left = client.query_one(SESSIONS_LEFT, &[&cutoff]).await?.try_get(0)?;
        if left == 0 {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    // A commit of our own flushes whatever asynchronous commits have left behind.
    client.batch_execute("begin read write; select txid_current(); commit").await?;
    let end = client.query_one("select pg_current_wal_flush_lsn()::text", &[]).await?;
    Ok(Closed {
        sessions_ended: u64::try_from(ended).unwrap_or_default(),
        sessions_left: u64::try_from(left).unwrap_or_default(),
        lsn: lsn(end.try_get(0)?).unwrap_or_default(),
    })
}

fn status(row: &Row) -> Result<ServerStatus, tokio_postgres::Error> {
    let number: Option<i64> = row.try_get("number")?;
    let written_at: Option<Timestamp> = row.try_get("written_at")?;
    Ok(ServerStatus {
        observed_at: row.try_get("observed_at")?,
        system_identifier: row.try_get("system_identifier")?,
        timeline: unsigned(row.try_get("timeline")?),
        in_recovery: row.try_get("in_recovery")?,
        holds_to: lsn(row.try_get("holds_to")?).unwrap_or_default(),
        replayed_to: lsn(row.try_get("replayed_to")?),
        heartbeat: number.zip(written_at).map(|(number, written_at)| Heartbeat { number, written_at }),
        read_only: row.try_get("read_only")?,
        retrieve_retry_ms: u64::try_from(row.try_get::<_, i64>("retrieve_retry_ms")?).unwrap_or_default(),
        synchronous_standby_names: row.try_get("synchronous_standby_names")?,
    })
}

fn lsn(text: Option<String>) -> Option<Lsn> {
    text.and_then(|text| text.parse().ok())
}

fn unsigned(timeline: i32) -> u32 {
    timeline.cast_unsigned()
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Promotes a standby that we run ourselves, with `pg_promote`.
pub struct SelfManaged(pub Arc<Server>);

#[async_trait]
impl Replica for SelfManaged {
    async fn role(&self) -> Result<ReplicaRole, DatabaseError> {
        let status = self.0.status().await?;
        Ok(if status.in_recovery { ReplicaRole::Following } else { ReplicaRole::Standalone })
    }

    async fn promote(&self, _: Manner) -> Result<(), DatabaseError> {
        // The server waits inside `pg_promote` and looks ten times a second; a recovery conflict may cancel the wait while
        // the promotion goes on (seen on 15.18), so whoever calls this looks at the server afterwards.
        let wait = 10;
        self.0
            .recovery
            .with_timeout("promoting", Duration::from_secs(wait + 2), |client| async move {
                client.query_one("select pg_promote(true, $1)", &[&(wait as i32)]).await.map(drop)
            })
            .await
    }
}
