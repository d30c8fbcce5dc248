//! One PostgreSQL server of the lab: started, stopped, frozen, killed, and asked where it stands.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Config, NoTls};

use super::{PROBE_DATABASE, Passwords, Role, Tools};
use crate::error::{Error, Result, tail};
use crate::folder::Folder;
use crate::process::{Account, Launch, Process};
use crate::tls::Authority;

/// How long a wait for a position or a state goes on before it is a failure. Never the expected time of anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(5);

/// What a server said about itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Identifies the cluster since `initdb`.
    pub system_identifier: u64,
    /// The timeline that the server writes or replays.
    pub timeline: u32,
    /// A standby, or still being promoted.
    pub in_recovery: bool,
    /// End of the log that the server holds: written on a primary, received on a standby.
    pub holds_to: PgLsn,
    /// End of the log that queries can see.
    pub replayed_to: PgLsn,
}

/// A server, running or not.
#[derive(Debug)]
pub struct Server {
    name: String,
    port: u16,
    data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    tools: Tools,
    account: Option<Account>,
    passwords: Passwords,
    authority: Arc<Authority>,
    process: Mutex<Option<Process>>,
    // Last, so that it is dropped after the process.
    folder: Arc<Folder>,
}

pub(super) struct Place {
    pub name: String,
    pub port: u16,
    pub data: PathBuf,
    pub sockets: PathBuf,
    pub tools: Tools,
    pub account: Option<Account>,
    pub passwords: Passwords,
    pub authority: Arc<Authority>,
    pub folder: Arc<Folder>,
}

impl Server {
    pub(super) fn new(place: Place) -> Self {
        Self {
            log: place.folder.path().join(format!("{}.log", place.name)),
            name: place.name,
            port: place.port,
            data: place.data,
            sockets: place.sockets,
            tools: place.tools,
            account: place.account,
            passwords: place.passwords,
            authority: place.authority,
            process: Mutex::new(None),
            folder: place.folder,
        }
    }

    /// Its name in messages: `primary` or `standby`, as it was when the pair was made.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Always the loopback: nothing of the lab listens elsewhere.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data folder, which belongs to the server's user.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The lab's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while its postmaster exists, frozen or not.
    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(Process::is_running)
    }

    /// Starts it, and returns when it takes connections.
    pub async fn start(&self) -> Result<()> {
        self.start_in(PROBE_DATABASE).await
    }

    /// The same, asking a database that is there before ours are.
    pub(super) async fn start_in(&self, database: &str) -> Result<()> {
        if self.is_running() {
            return Err(Error::State(format!("{} runs already", self.name)));
        }
        let started = Process::start(Launch {
            program: &self.tools.program("postgres"),
            args: vec!["-D".into(), self.data.display().to_string()],
            env: Vec::new(),
            working_directory: self.folder.path(),
            log: &self.log,
            account: self.account,
            // An immediate shutdown, which gives shared memory back; the janitor kills what does not obey.
            death_signal: "QUIT",
        })?;
        *self.process() = Some(started);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(client) = self.admin_of(database).await
                && client.simple_query("select 1").await.is_ok()
            {
                return Ok(());
            }
            if !self.is_running() {
                return Err(Error::Program { program: format!("postgres ({})", self.name), said: tail(&self.log) });
            }
            if Instant::now() > deadline {
                return Err(Error::NotReady {
                    server: self.name.clone(),
                    seconds: PATIENCE.as_secs(),
                    log: self.log.clone(),
                    said: tail(&self.log),
                });
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Ends its sessions and shuts it down with a checkpoint (`pg_ctl stop -m fast`). Returns when it is gone.
    pub async fn stop(&self) -> Result<()> {
        self.end(Signal::SIGINT).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        if let Some(process) = self.process().as_ref() {
            process.signal(signal);
        }
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            if Instant::now() > deadline {
                return Err(Error::State(format!("{} does not stop: {}", self.name, tail(&self.log))));
            }
            tokio::time::sleep(GLANCE).await;
        }
        *self.process() = None;
        Ok(())
    }

    /// Stops and starts it.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// `SIGKILL` for the postmaster and all its children at once: the host is gone. Connections break, nothing is
    /// flushed, nobody says goodbye. [`Server::start`] brings it back as what it was.
    pub fn crash(&self) {
        if let Some(mut process) = self.process().take() {
            process.kill_tree();
        }
    }

    /// `SIGSTOP` for all of it: the host hangs. The kernel still completes TCP handshakes, nobody answers.
    pub fn freeze(&self) {
        if let Some(process) = self.process().as_ref() {
            process.signal(Signal::SIGSTOP);
            process.signal_tree(Signal::SIGSTOP);
        }
    }

    /// Ends [`Server::freeze`].
    pub fn thaw(&self) {
        if let Some(process) = self.process().as_ref() {
            process.signal_tree(Signal::SIGCONT);
        }
    }

    /// Connection settings for a role over TCP with TLS; the connector is [`Authority::connector`].
    pub fn config(&self, role: Role, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host(self.host())
            .port(self.port)
            .user(role.name())
            .password(self.passwords.of(role))
            .dbname(database)
            .ssl_mode(tokio_postgres::config::SslMode::Require)
            .application_name("lab");
        config
    }

    /// Connects over TCP with TLS, as everybody but the lab itself does.
    pub async fn connect(&self, role: Role, database: &str) -> Result<Client> {
        let (client, connection) = self
            .config(role, database)
            .connect(self.authority.connector()?)
            .await
            .map_err(self.refused(format!("let {} in", role.name())))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects as the superuser through the socket, whose folder only the server's user may enter.
    pub async fn admin(&self) -> Result<Client> {
        self.admin_of(PROBE_DATABASE).await
    }

    /// As [`Server::admin`], in another database.
    pub async fn admin_of(&self, database: &str) -> Result<Client> {
        let (client, connection) = Config::new()
            .host_path(&self.sockets)
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .application_name("lab-admin")
            .connect(NoTls)
            .await
            .map_err(self.refused("let the lab in"))?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(super) fn refused(&self, action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Error {
        let (server, action) = (self.name.clone(), action.into());
        move |source| Error::Postgres { server, action, source }
    }

    /// Runs statements as the superuser, through the socket.
    pub async fn execute(&self, statements: &str) -> Result<()> {
        self.admin().await?.batch_execute(statements).await.map_err(self.refused(format!("run `{statements}`")))
    }

    /// Asks the server where it stands.
    pub async fn position(&self) -> Result<Position> {
        // The control file still names the old timeline right after a promotion (seen on 15.18), so a primary's timeline
        // is read from the name of the segment it writes.
        const QUESTION: &str = "select
            (select system_identifier from pg_control_system()),
            pg_is_in_recovery(),
            case when pg_is_in_recovery() then null else pg_current_wal_lsn() end,
            case when pg_is_in_recovery() then pg_last_wal_receive_lsn() end,
            case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end,
            case when pg_is_in_recovery()
                 then coalesce((select received_tli from pg_stat_wal_receiver), (select timeline_id from pg_control_checkpoint()))
                 else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end";
        let row = self.admin().await?.query_one(QUESTION, &[]).await.map_err(self.refused("say where it stands"))?;
        let none = PgLsn::from(0);
        let replayed: PgLsn = row.get::<_, Option<PgLsn>>(4).unwrap_or(none);
        let written: Option<PgLsn> = row.get(2);
        let received: PgLsn = row.get::<_, Option<PgLsn>>(3).unwrap_or(none);
        Ok(Position {
            system_identifier: u64::from_ne_bytes(row.get::<_, i64>(0).to_ne_bytes()),
            timeline: u32::try_from(row.get::<_, i32>(5)).unwrap_or(0),
            in_recovery: row.get(1),
            holds_to: written.unwrap_or(received.max(replayed)),
            replayed_to: written.unwrap_or(replayed),
        })
    }

    /// Waits until queries on this server see the log up to `lsn`.
    pub async fn wait_for_replay(&self, lsn: PgLsn) -> Result<()> {
        self.wait_for(&format!("replay to {lsn}"), |position| position.replayed_to >= lsn).await
    }

    /// Waits until this server holds the log up to `lsn`, replayed or not.
    pub async fn wait_for_receipt(&self, lsn: PgLsn) -> Result<()> {
        self.wait_for(&format!("receive up to {lsn}"), |position| position.holds_to >= lsn).await
    }

    /// Waits until this server has left recovery.
    pub async fn wait_for_promotion(&self) -> Result<()> {
        self.wait_for("leave recovery", |position| !position.in_recovery).await
    }

    async fn wait_for(&self, what: &str, done: impl Fn(&Position) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let position = self.position().await?;
            if done(&position) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::State(format!("{} does not {what}: {position:?}", self.name)));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Commits a write over TCP as the application. The only proof that a server is a primary.
    pub async fn write(&self, run: &str) -> Result<()> {
        let client = self.connect(Role::Application, PROBE_DATABASE).await?;
        client
            .execute(
                "insert into recovery.write_attempt (run) values ($1)
                 on conflict (run) do update set attempts = write_attempt.attempts + 1, written_at = clock_timestamp()",
                &[&run],
            )
            .await
            .map_err(self.refused("take a write"))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process().take() {
            process.signal_tree(Signal::SIGCONT);
            process.signal(Signal::SIGQUIT);
            if !process.wait_at_most(Duration::from_secs(2)) {
                process.kill_tree();
            }
        }
    }
}
