//! A session on one database that holds a snapshot, and what it sees in it.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use recovery::{
    backup::{DatabaseFacts, TableFacts},
    database::DatabaseError,
    lsn::Lsn,
    secrets::Credentials,
};
use tokio_postgres::{Client, Config, Row, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::BackupSource;
use crate::connection::classify;

const CONNECT: Duration = Duration::from_secs(10);

/// A backup waits for nobody's lock for ever, is ended by no timeout of an ordinary role, and writes nothing. Row security
/// would leave rows out silently; off, it is an error.
const OPTIONS: &str = "-c default_transaction_read_only=on -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 \
                       -c lock_timeout=60s -c row_security=off";

/// The snapshot, its name for others, the moment and the position, all in one statement.
const SNAPSHOT: &str = "
select pg_export_snapshot() as name, clock_timestamp() as as_of, pg_database_size(current_database()) as size_bytes,
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text as lsn";

/// Ordinary tables that a dump holds rows of: not the system's, not an extension's. A standby has no rows of unlogged tables.
const TABLES: &str = "
select n.nspname as schema, c.relname as name, c.relpersistence = 'u' as unlogged
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2";

pub(crate) struct Session {
    instance: String,
    database: String,
    client: Client,
}

/// What a server is.
pub(crate) struct Cluster {
    pub(crate) server_version: u32,
    pub(crate) in_recovery: bool,
    pub(crate) system_identifier: Option<String>,
    pub(crate) timeline: Option<u32>,
    pub(crate) may_read_passwords: bool,
}

impl Cluster {
    pub(crate) fn major(&self) -> u32 {
        self.server_version / 10_000
    }
}

/// A snapshot that is held as long as its session lives.
pub(crate) struct Snapshot {
    pub(crate) name: String,
    as_of: Timestamp,
    pub(crate) lsn: Lsn,
    pub(crate) size_bytes: u64,
}

impl BackupSource {
    pub(crate) async fn credentials(&self) -> Result<Credentials, DatabaseError> {
        self.secrets.credentials(&self.plan.backups.secret).await.map_err(|error| DatabaseError::Failed {
            server: self.instance.clone(),
            doing: "reading its backup secret",
            source: Box::new(error),
        })
    }

    pub(crate) async fn session(&self, credentials: &Credentials, database: &str) -> Result<Session, DatabaseError> {
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .dbname(database)
            .user(&credentials.username)
            .password(&credentials.password)
            .ssl_mode(SslMode::Require)
            .application_name("sparc-backup")
            .connect_timeout(CONNECT)
            .options(OPTIONS);
        let connecting = config.connect(MakeRustlsConnect::new(self.tls.clone()));
        let (client, connection) =
            connecting.await.map_err(|error| classify(&self.instance, "connecting for a backup", error))?;
        // The connection ends with the client; what broke it is seen by whoever uses the client.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Session { instance: self.instance.clone(), database: database.to_owned(), client })
    }
}

impl Session {
    async fn one(&self, doing: &'static str, query: &str) -> Result<Row, DatabaseError> {
        self.client.query_one(query, &[]).await.map_err(|error| classify(&self.instance, doing, error))
    }

    fn unexpected(&self, doing: &'static str, what: &str) -> DatabaseError {
        DatabaseError::Failed { server: self.instance.clone(), doing, source: what.to_owned().into() }
    }

    /// What the server is, as far as this role may know.
    pub(crate) async fn cluster(&self) -> Result<Cluster, DatabaseError> {
        const DOING: &str = "asking the server what it is";
        let row = self
            .one(
                DOING,
                "select current_setting('server_version_num')::int as version, pg_is_in_recovery() as in_recovery,
                        has_function_privilege('pg_control_system()', 'execute')
                        and has_function_privilege('pg_control_checkpoint()', 'execute') as control,
                        has_table_privilege('pg_authid', 'select') as passwords",
            )
            .await?;
        // A function that may not be called fails the whole query, wherever it stands in it.
        let control = if row.get("control") {
            let query = "select system_identifier::text as system, timeline_id as timeline
                           from pg_control_system(), pg_control_checkpoint()";
            Some(self.one(DOING, query).await?)
        } else {
            None
        };
        let version: i32 = row.get("version");
        Ok(Cluster {
            server_version: u32::try_from(version).unwrap_or_default(),
            in_recovery: row.get("in_recovery"),
            may_read_passwords: row.get("passwords"),
            timeline: control.as_ref().and_then(|row| u32::try_from(row.get::<_, i32>("timeline")).ok()),
            system_identifier: control.map(|row| row.get("system")),
        })
    }

    /// Length of all databases of the cluster, of those that this role may connect to or measure.
    pub(crate) async fn cluster_bytes(&self) -> Result<u64, DatabaseError> {
        let query = "select sum(pg_database_size(oid))::bigint as bytes from pg_database";
        let bytes: i64 = self.one("asking for the size of the cluster", query).await?.get("bytes");
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Length of this database.
    pub(crate) async fn database_bytes(&self) -> Result<u64, DatabaseError> {
        let query = "select pg_database_size(current_database()) as bytes";
        let bytes: i64 = self.one("asking for the size of a database", query).await?.get("bytes");
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Takes a snapshot and holds it. A standby allows it too (seen on 15.18).
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, DatabaseError> {
        const DOING: &str = "taking a snapshot";
        let begin = "begin isolation level repeatable read, read only";
        self.client.batch_execute(begin).await.map_err(|error| classify(&self.instance, DOING, error))?;
        let row = self.one(DOING, SNAPSHOT).await?;
        let lsn: Option<String> = row.get("lsn");
        let lsn = lsn.and_then(|text| text.parse().ok());
        Ok(Snapshot {
            name: row.get("name"),
            as_of: row.get("as_of"),
            lsn: lsn.ok_or_else(|| self.unexpected(DOING, "the server names no position"))?,
            size_bytes: u64::try_from(row.get::<_, i64>("size_bytes")).unwrap_or_default(),
        })
    }

    /// Counts what the snapshot sees.
    pub(crate) async fn facts(
        &self,
        snapshot: &Snapshot,
        excluded: &[String],
        newest_by: &BTreeMap<String, String>,
        in_recovery: bool,
    ) -> Result<DatabaseFacts, DatabaseError> {
        const DOING: &str = "counting rows as of the snapshot";
        let rows = self.client.query(TABLES, &[]).await.map_err(|error| classify(&self.instance, DOING, error))?;
        let names: Vec<String> =
            rows.iter().map(|row| format!("{}.{}", row.get::<_, &str>("schema"), row.get::<_, &str>("name"))).collect();
        let missing = excluded.iter().chain(newest_by.keys()).find(|name| !names.contains(name));
        if let Some(missing) = missing {
            let what =
                format!("`{}` has no table `{missing}`, which the plan's [[backups.database]] names", self.database);
            return Err(self.unexpected(DOING, &what));
        }
        let (mut tables, mut left_out) = (Vec::new(), Vec::new());
        for (row, name) in rows.iter().zip(names) {
            if excluded.contains(&name) || (in_recovery && row.get("unlogged")) {
                left_out.push(name);
                continue;
            }
            let column = newest_by.get(&name).map(|column| quoted(column));
            let newest = column.map_or_else(|| "null".to_owned(), |column| format!("max({column})"));
            let table = format!("{}.{}", quoted(row.get("schema")), quoted(row.get("name")));
            let query = format!("select count(*) as rows, ({newest})::timestamptz as newest from only {table}");
            let counted = self.one(DOING, &query).await?;
            tables.push(TableFacts {
                name,
                rows: u64::try_from(counted.get::<_, i64>("rows")).unwrap_or_default(),
                newest: counted.get("newest"),
            });
        }
        Ok(DatabaseFacts {
            name: self.database.clone(),
            as_of: snapshot.as_of,
            lsn: snapshot.lsn,
            size_bytes: snapshot.size_bytes,
            tables,
            excluded: left_out,
        })
    }
}

/// An identifier as SQL writes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
