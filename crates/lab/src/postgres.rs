//! A real PostgreSQL primary with a streaming standby, behind TLS, run as an ordinary user.
//!
//! ```no_run
//! # async fn example() -> lab::Result<()> {
//! let pair = lab::postgres::Pair::start(lab::postgres::Options::default()).await?;
//! pair.primary.write("before").await?;
//! pair.standby.wait_for_replay(pair.primary.position().await?.holds_to).await?;
//! pair.primary.crash();
//! pair.standby.execute("select pg_promote(false)").await?;
//! pair.standby.wait_for_promotion().await?;
//! pair.standby.write("after").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Tests wait for positions, never for time: that is what [`Server::wait_for_replay`] and its siblings are for.

mod configuration;
mod server;
mod template;
mod tools;
mod versions;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::prelude::*;
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::task::JoinHandle;
use tokio_postgres::types::PgLsn;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::ports;
use crate::process::Account;
use crate::tls::Authority;

pub(crate) use server::PATIENCE;
pub use server::{Position, Server};
pub use template::SLOT;
pub use tools::Tools;

/// The platform's databases.
pub const DATABASES: [&str; 4] = ["sparc_prod", "sparc_auth", "sparc_video", "sparc_analytics"];

/// The database with the heartbeat, in which writes are attempted.
pub const PROBE_DATABASE: &str = "sparc_prod";

/// The roles of the lab's servers. The superuser `postgres` has no password and no way in but the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `sparc_app`: reads and writes rows, as the platform's services do.
    Application,
    /// `sparc_recovery`: fences, promotes, ends sessions. A superuser in the lab.
    Recovery,
    /// `replicator`: streams the log.
    Replicator,
    /// `sparc_backup`: reads everything, streams base backups, writes nothing.
    Backup,
}

impl Role {
    /// Its name in PostgreSQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Application => "sparc_app",
            Self::Recovery => "sparc_recovery",
            Self::Replicator => "replicator",
            Self::Backup => "sparc_backup",
        }
    }
}

/// The passwords of one pair, made up for it. They are shown to nobody: not in argv, not in logs, not by `Debug`.
#[derive(Clone)]
pub struct Passwords([String; 4]);

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

impl Passwords {
    /// Makes four up.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect()))
    }

    /// The password of a role.
    pub fn of(&self, role: Role) -> &str {
        &self.0[role as usize]
    }

    /// Sets them. The server gets verifiers only, so that no statement log can hold a password.
    ///
    /// `synchronous_commit` is set aside: a synchronous primary would wait for a standby that has no password yet.
    fn statements(&self) -> String {
        let roles = [Role::Application, Role::Recovery, Role::Replicator, Role::Backup]
            .map(|role| {
                let verifier = verifier(self.of(role));
                format!("alter role {} password '{verifier}';", role.name())
            })
            .concat();
        format!("set synchronous_commit = local; {roles}")
    }
}

/// What PostgreSQL keeps instead of a password (`SCRAM-SHA-256`, RFC 5803), with a single iteration.
///
/// Iterations make guessing dear, and a made-up password of 190 bits is not guessed; but in a debug build the usual 4,096
/// cost a client a tenth of a second at each connection, and under load every connection timed out.
fn verifier(password: &str) -> String {
    const ITERATIONS: NonZeroU32 = NonZeroU32::MIN;
    let salt: [u8; 16] = rand::random();
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${ITERATIONS}:{}${}:{}", text(&salt), text(stored.as_ref()), text(server.as_ref()))
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords(…)")
    }
}

/// How a pair is made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Flush to the disk (`fsync`). Off in tests, where only processes die and never the kernel; on where times are
    /// measured, since a promotion flushes; [`Pair::start`] then takes a folder on a disk.
    pub flush: bool,
    /// The primary waits for the standby at each commit. As after `pg_basebackup`, which copies `postgresql.auto.conf`,
    /// the standby inherits `synchronous_standby_names`: promoted, it hangs at every commit until somebody clears it.
    pub synchronous: bool,
    /// The standby reaches the primary through this port instead of its own, for a proxy in between that is made
    /// beforehand with [`Options::primary_port`].
    pub upstream_port: Option<u16>,
    /// The primary's port, when it must be known beforehand.
    pub primary_port: Option<u16>,
    /// Passwords that others know beforehand; made up when there are none.
    pub passwords: Option<Passwords>,
    /// More settings for both servers; the last word over the lab's own.
    pub settings: Vec<(String, String)>,
    /// The programs of another version than the one that [`Tools::find`] finds.
    pub tools: Option<Tools>,
}

/// A primary, its standby, and what they share.
#[derive(Debug)]
pub struct Pair {
    /// The server that took writes when the pair was made.
    pub primary: Server,
    /// The server that follows it through the slot [`SLOT`].
    pub standby: Server,
    tools: Tools,
    account: Option<Account>,
    passwords: Passwords,
    authority: Arc<Authority>,
    folder: Arc<Folder>,
}

impl Pair {
    /// Makes a pair in a folder of its own, and returns when the standby has replayed what the primary has written.
    pub async fn start(options: Options) -> Result<Self> {
        let folder = if options.flush { Folder::on_disk()? } else { Folder::new()? };
        Self::start_in(Arc::new(folder), options).await
    }

    /// The same in a folder that others share.
    pub async fn start_in(folder: Arc<Folder>, options: Options) -> Result<Self> {
        ports::anew(|| async {
            let (folder, options) = (folder.clone(), options.clone());
            let pair = blocking(move || Self::lay_out(folder, &options)).await?;
            // Verifiers must be the same on both, so they are set before the standby's first connection needs one.
            pair.primary.start().await?;
            pair.primary.execute(&pair.passwords.statements()).await?;
            pair.standby.start().await?;
            pair.caught_up().await?;
            Ok(pair)
        })
        .await
    }

    fn lay_out(folder: Arc<Folder>, options: &Options) -> Result<Self> {
        let tools = options.tools.clone().map_or_else(Tools::find, Ok)?;
        let account = Account::ordinary()?;
        let pristine = template::folder(&tools, template::Which::Pair)?;
        let authority = Arc::new(Authority::new(folder.path())?);
        let passwords = options.passwords.clone().unwrap_or_default();
        let sockets = folder.make("s", 0o700)?;
        template::give(&sockets, account)?;

        let primary_port = match options.primary_port {
            Some(port) => port,
            None => ports::free()?,
        };
        let make = |name: &str, port: u16, upstream: Option<u16>| -> Result<Server> {
            let data = folder.path().join(name);
            if data.exists() {
                // A start before this one found its port taken.
                std::fs::remove_dir_all(&data).map_err(Error::system(format!("remove {}", data.display())))?;
            }
            template::copy(&pristine, &data)?;
            if upstream.is_some() {
                // The slot is the primary's; a copy on the standby would hold the log back there.
                let slot = data.join("pg_replslot").join(SLOT);
                std::fs::remove_dir_all(&slot).map_err(Error::system(format!("remove {}", slot.display())))?;
            }
            if options.synchronous {
                let auto = data.join("postgresql.auto.conf");
                std::fs::write(&auto, "synchronous_standby_names = 'standby'\n")
                    .map_err(Error::system(format!("write {}", auto.display())))?;
            }
            template::give(&data, account)?;
            configuration::write(&configuration::Server {
                data: &data,
                sockets: &sockets,
                port,
                account,
                authority: &authority,
                upstream: upstream.map(|port| configuration::Upstream { port, passwords: &passwords }),
                flush: options.flush,
                extra: &options.settings,
            })?;
            Ok(Server::new(server::Place {
                name: name.into(),
                port,
                data,
                sockets: sockets.clone(),
                tools: tools.clone(),
                account,
                passwords: passwords.clone(),
                authority: authority.clone(),
                folder: folder.clone(),
            }))
        };
        let primary = make("primary", primary_port, None)?;
        let standby = make("standby", ports::free()?, Some(options.upstream_port.unwrap_or(primary_port)))?;
        Ok(Self { primary, standby, tools, account, passwords, authority, folder })
    }

    /// The programs that both servers are made with.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The authority that signed both servers' certificates.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The passwords of the pair's roles.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// The folder of the pair.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Waits until the standby has replayed everything that the primary has written by now; returns that position.
    pub async fn caught_up(&self) -> Result<PgLsn> {
        let written = self.primary.position().await?.holds_to;
        self.standby.wait_for_replay(written).await?;
        Ok(written)
    }

    /// Writes at least so many bytes of log on the primary, as one transaction of rows that compress badly; returns
    /// where its log ends. With [`Pair::pause_replay`] the standby holds a backlog; with [`Pair::cut_stream`] it lacks it.
    pub async fn fill(&self, bytes: u64) -> Result<PgLsn> {
        let client = self.primary.admin().await?;
        let refused = || self.primary.refused("fill its log");
        let lsn = |row: tokio_postgres::Row| -> PgLsn { row.get(0) };
        let begin = lsn(client.query_one("select pg_current_wal_insert_lsn()", &[]).await.map_err(refused())?);
        loop {
            // Eight kilobytes in each statement's row, stored out of line, sixteen megabytes at a time at most.
            let end = lsn(client.query_one("select pg_current_wal_insert_lsn()", &[]).await.map_err(refused())?);
            let missing = bytes.saturating_sub(u64::from(end) - u64::from(begin));
            if missing == 0 {
                let _ = client.batch_execute("select pg_switch_wal()").await;
                return Ok(self.primary.position().await?.holds_to);
            }
            let rows = i32::try_from((missing / 1_024).clamp(1, 16_384)).unwrap_or(1);
            client
                .execute(
                    "insert into lab.ballast select string_agg(md5(random()::text), '') from generate_series(1, $1) r,
                     generate_series(1, 28) piece group by r",
                    &[&rows],
                )
                .await
                .map_err(refused())?;
        }
    }

    /// Lets the standby receive but not replay. A promotion ends the pause by itself.
    pub async fn pause_replay(&self) -> Result<()> {
        self.standby.execute("select pg_wal_replay_pause()").await
    }

    /// Ends [`Pair::pause_replay`].
    pub async fn resume_replay(&self) -> Result<()> {
        self.standby.execute("select pg_wal_replay_resume()").await
    }

    /// Ends the stream; returns when the standby has no receiver any more. What the primary writes from now on, the
    /// standby lacks.
    pub async fn cut_stream(&self) -> Result<()> {
        // Two statements: ALTER SYSTEM cannot run inside the transaction that a batch is.
        self.standby.execute("alter system set primary_conninfo = ''").await?;
        self.standby.execute("select pg_reload_conf()").await?;
        self.until(&self.standby, "select not exists (select from pg_stat_wal_receiver)").await
    }

    /// Ends [`Pair::cut_stream`]; returns when the standby streams again.
    pub async fn restore_stream(&self) -> Result<()> {
        self.standby.execute("alter system reset primary_conninfo").await?;
        self.standby.execute("select pg_reload_conf()").await?;
        self.until(&self.standby, "select exists (select from pg_stat_wal_receiver where status = 'streaming')").await
    }

    async fn until(&self, server: &Server, question: &str) -> Result<()> {
        let client = server.admin().await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let yes: bool = client.query_one(question, &[]).await.map_err(server.refused(question))?.get(0);
            if yes {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::State(format!(
                    "{} never became true on {}: `{question}`",
                    "the answer",
                    server.name()
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A standby of *another* system: same tables, same roles, another `initdb`. It follows nobody. A promotion of it
    /// must be refused.
    pub async fn standby_of_another_system(&self) -> Result<Server> {
        let server = self.stray("other-system", template::Which::Other).await?;
        self.follow_nobody(&server).await?;
        Ok(server)
    }

    /// A standby of this system that was promoted once behind our back and is in recovery again: on another timeline.
    pub async fn standby_on_another_timeline(&self) -> Result<Server> {
        let server = self.stray("other-timeline", template::Which::Pair).await?;
        self.follow_nobody(&server).await?;
        server.execute("select pg_promote(false)").await?;
        server.wait_for_promotion().await?;
        server.execute("checkpoint").await?;
        server.stop().await?;
        self.follow_nobody(&server).await?;
        Ok(server)
    }

    /// A server beside the pair, started once as a primary so that it has this pair's passwords, then stopped.
    async fn stray(&self, name: &'static str, which: template::Which) -> Result<Server> {
        let (folder, tools, account) = (self.folder.clone(), self.tools.clone(), self.account);
        let (authority, passwords) = (self.authority.clone(), self.passwords.clone());
        let server = blocking(move || {
            let pristine = template::folder(&tools, which)?;
            let (data, sockets) = (folder.path().join(name), folder.path().join("s"));
            if data.exists() {
                return Err(Error::State(format!("this pair has a server {name} already")));
            }
            template::copy(&pristine, &data)?;
            template::give(&data, account)?;
            let port = ports::free()?;
            configuration::write(&configuration::Server {
                data: &data,
                sockets: &sockets,
                port,
                account,
                authority: &authority,
                upstream: None,
                flush: false,
                extra: &[],
            })?;
            Ok(Server::new(server::Place {
                name: name.into(),
                port,
                data,
                sockets,
                tools,
                account,
                passwords,
                authority,
                folder,
            }))
        })
        .await?;
        server.start().await?;
        server.execute(&self.passwords.statements()).await?;
        server.stop().await?;
        Ok(server)
    }

    async fn follow_nobody(&self, server: &Server) -> Result<()> {
        let signal = server.data().join("standby.signal");
        std::fs::write(&signal, "").map_err(Error::system(format!("write {}", signal.display())))?;
        template::give(&signal, self.account)?;
        server.start().await
    }

    /// Renews the heartbeat row of `sparc_prod` on the primary at intervals, until the answer is dropped. A beat that
    /// fails is left out; the beat goes on when the primary is back.
    pub fn beat(&self, every: Duration) -> Result<Heart> {
        let config = self.primary.config(Role::Application, PROBE_DATABASE);
        let connector = self.authority.connector()?;
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            loop {
                let Ok((client, connection)) = config.connect(connector.clone()).await else {
                    ticks.tick().await;
                    continue;
                };
                let connection = tokio::spawn(connection);
                while client
                    .execute("update recovery.heartbeat set number = number + 1, written_at = clock_timestamp()", &[])
                    .await
                    .is_ok()
                {
                    ticks.tick().await;
                }
                connection.abort();
                ticks.tick().await;
            }
        });
        Ok(Heart { task })
    }
}

/// Beats until it is dropped.
#[derive(Debug)]
pub struct Heart {
    task: JoinHandle<()>,
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::State(format!("a step of the lab panicked: {e}")))?
}
