//! A write load that knows what was promised to it.
//!
//! Each client writes one row after another over TLS to whichever server takes writes, as libpq does with two hosts and
//! `target_session_attrs=read-write`, and keeps a record of every commit that was *acknowledged*. After a failover the
//! record says which promises were broken, by name.
//!
//! An attempt whose answer is lost is repeated, and the repetition is a row of its own. An
//! `insert … on conflict do nothing` would not do: repeated on a primary that has crashed and come back, it writes no
//! log, is acknowledged at once, and the standby never hears of it, so a test would see a loss that replication cannot
//! prevent (seen on 15.18 with synchronous replication).

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::postgres::{PROBE_DATABASE, Pair, Role, Server};

/// How hard to write.
#[derive(Debug, Clone)]
pub struct Options {
    /// Clients, each with one connection.
    pub clients: u32,
    /// Pause of a client between an acknowledgement and the next write.
    pub pause: Duration,
    /// How long a client waits for a connection, and then for a commit, before it calls the host dead and tries the next.
    pub patience: Duration,
    /// Ports on 127.0.0.1 instead of the servers' own, for proxies in between; in the order primary, standby.
    pub ports: Option<[u16; 2]>,
}

impl Default for Options {
    fn default() -> Self {
        Self { clients: 4, pause: Duration::from_millis(2), patience: Duration::from_millis(500), ports: None }
    }
}

/// A row: unique over the whole load, also when a client repeats a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Write {
    /// Which client.
    pub client: i32,
    /// Which of its writes.
    pub sequence: i64,
    /// Which attempt at it; the first is 1.
    pub attempt: i32,
}

/// A commit that a server acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub struct Acknowledgement {
    /// What was written.
    pub write: Write,
    /// The server that acknowledged it, as the pair names it.
    pub server: &'static str,
    /// The server's clock when it wrote the row.
    pub written_at: Timestamp,
    /// When the client heard of it.
    pub at: Instant,
    /// The same by the wall clock, for reports.
    pub at_time: Timestamp,
}

/// A time without acknowledgements.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// The last before.
    pub before: Acknowledgement,
    /// The first after.
    pub after: Acknowledgement,
}

impl Gap {
    /// How long it was.
    pub fn duration(&self) -> Duration {
        self.after.at.duration_since(self.before.at)
    }
}

type Record = Arc<Mutex<Vec<Acknowledgement>>>;

/// A running load. Dropping it stops the clients.
#[derive(Debug)]
pub struct Load {
    record: Record,
    stop: CancellationToken,
    clients: Vec<JoinHandle<()>>,
    started: Instant,
}

impl Load {
    /// Starts the clients; returns when each has had its first acknowledgement.
    pub async fn start(pair: &Pair, options: Options) -> Result<Self> {
        let ports = options.ports.unwrap_or([pair.primary.port(), pair.standby.port()]);
        let hosts: Vec<Host> = [(&pair.primary, "primary", ports[0]), (&pair.standby, "standby", ports[1])]
            .into_iter()
            .map(|(server, name, port)| Host { name, config: host(server, port, options.patience) })
            .collect();
        let hosts: Arc<[Host]> = hosts.into();
        let connector = pair.authority().connector()?;
        let record = Record::default();
        let stop = CancellationToken::new();
        let started = Instant::now();
        let clients = (0..options.clients)
            .map(|number| {
                let client = Writer {
                    number: i32::try_from(number).unwrap_or(i32::MAX),
                    hosts: hosts.clone(),
                    connector: connector.clone(),
                    record: record.clone(),
                    pause: options.pause,
                    patience: options.patience,
                };
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = client.run() => {}
                    }
                })
            })
            .collect();
        let load = Self { record, stop, clients, started };
        let deadline = started + crate::postgres::PATIENCE;
        loop {
            let heard: HashSet<i32> = load.read().iter().map(|a| a.write.client).collect();
            if heard.len() == options.clients as usize {
                return Ok(load);
            }
            if Instant::now() > deadline {
                return Err(Error::State("the write load gets no acknowledgement from either server".into()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn read(&self) -> std::sync::MutexGuard<'_, Vec<Acknowledgement>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every acknowledgement so far, in the order the clients heard of them.
    pub fn acknowledged(&self) -> Vec<Acknowledgement> {
        self.read().clone()
    }

    /// How many so far.
    pub fn count(&self) -> usize {
        self.read().len()
    }

    /// Writes the record as JSON, one acknowledgement a line: evidence beside a report.
    pub fn write_record(&self, path: &Path) -> Result<()> {
        let mut lines = String::new();
        for a in self.read().iter() {
            let line = serde_json::json!({
                "client": a.write.client, "sequence": a.write.sequence, "attempt": a.write.attempt,
                "server": a.server, "written_at": a.written_at, "acknowledged_at": a.at_time,
            });
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
        std::fs::write(path, lines).map_err(Error::system(format!("write {}", path.display())))
    }

    /// Waits until every client has been acknowledged by the server of this name, after `since`.
    pub async fn wait_for_acknowledgements_of(&self, server: &str, since: Instant) -> Result<()> {
        let deadline = Instant::now() + crate::postgres::PATIENCE;
        loop {
            let heard: HashSet<i32> = self
                .read()
                .iter()
                .rev()
                .take_while(|a| a.at > since)
                .filter(|a| a.server == server)
                .map(|a| a.write.client)
                .collect();
            if heard.len() == self.clients.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::State(format!("no acknowledgements of {server} for all clients")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops the clients. What was in flight is not in the record: nobody promised it.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        for client in self.clients.drain(..) {
            let _ = client.await;
        }
    }

    /// Acknowledged writes that `server` does not have. Ask after [`Load::stop`], or what is acknowledged while the
    /// question runs is left out.
    pub async fn lost(&self, server: &Server) -> Result<Vec<Acknowledgement>> {
        let acknowledged = self.acknowledged();
        let rows = server.admin().await?.query("select client, sequence, attempt from lab.writes", &[]).await.map_err(
            |source| Error::Postgres { server: server.name().into(), action: "list the writes it has".into(), source },
        )?;
        let held: HashSet<Write> =
            rows.iter().map(|row| Write { client: row.get(0), sequence: row.get(1), attempt: row.get(2) }).collect();
        Ok(acknowledged.into_iter().filter(|a| !held.contains(&a.write)).collect())
    }

    /// The longest time in which no client at all was acknowledged, after `since`; `None` before two acknowledgements.
    pub fn gap(&self, since: Instant) -> Option<Gap> {
        longest(self.read().iter(), since)
    }

    /// The longest time that any single client was without an acknowledgement, after `since`: what a user may have seen.
    pub fn worst_gap_of_a_client(&self, since: Instant) -> Option<Gap> {
        let record = self.read();
        let clients: HashSet<i32> = record.iter().map(|a| a.write.client).collect();
        clients
            .into_iter()
            .filter_map(|client| longest(record.iter().filter(|a| a.write.client == client), since))
            .max_by_key(Gap::duration)
    }

    /// Acknowledgements counted by server in slices of time since the start: `(slice, server, count)`.
    pub fn rate(&self, slice: Duration) -> Vec<(usize, &'static str, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for a in self.read().iter() {
            let n = (a.at.duration_since(self.started).as_nanos() / slice.as_nanos().max(1)) as usize;
            *counts.entry((n, a.server)).or_insert(0) += 1;
        }
        counts.into_iter().map(|((n, server), count)| (n, server, count)).collect()
    }

    /// Evidence of two primaries with traffic: a write that a server took *after* another one had begun to take writes in
    /// its place. Judged by the servers' clock, which is one here: what a client hears late is no evidence.
    pub fn two_primaries(&self) -> Option<Acknowledgement> {
        let mut record = self.acknowledged();
        record.sort_by_key(|a| a.written_at);
        let mut seen: Vec<&str> = Vec::new();
        for a in record {
            if seen.last() != Some(&a.server) {
                if seen.contains(&a.server) {
                    return Some(a);
                }
                seen.push(a.server);
            }
        }
        None
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn longest<'a>(record: impl Iterator<Item = &'a Acknowledgement>, since: Instant) -> Option<Gap> {
    let mut before: Option<&Acknowledgement> = None;
    let mut worst: Option<(&Acknowledgement, &Acknowledgement)> = None;
    for after in record {
        if let Some(before) = before
            && after.at >= since
            && worst.is_none_or(|(b, a)| after.at.duration_since(before.at) > a.at.duration_since(b.at))
        {
            worst = Some((before, after));
        }
        before = Some(after);
    }
    worst.map(|(before, after)| Gap { before: before.clone(), after: after.clone() })
}

#[derive(Debug)]
struct Host {
    name: &'static str,
    config: Config,
}

fn host(server: &Server, port: u16, patience: Duration) -> Config {
    let own = server.config(Role::Application, PROBE_DATABASE);
    let mut config = Config::new();
    config
        .host(server.host())
        .port(port)
        .user(own.get_user().unwrap_or_default())
        .password(own.get_password().unwrap_or_default())
        .dbname(PROBE_DATABASE)
        .ssl_mode(tokio_postgres::config::SslMode::Require)
        .application_name("lab-load")
        .connect_timeout(patience)
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}

struct Writer {
    number: i32,
    hosts: Arc<[Host]>,
    connector: MakeRustlsConnect,
    record: Record,
    pause: Duration,
    patience: Duration,
}

struct Session {
    server: &'static str,
    client: Client,
    insert: Statement,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Writer {
    async fn run(&self) {
        let mut session = self.session().await;
        for sequence in 1.. {
            for attempt in 1.. {
                let write = Write { client: self.number, sequence, attempt };
                let answer = tokio::time::timeout(
                    self.patience,
                    session.client.query_one(&session.insert, &[&write.client, &write.sequence, &write.attempt]),
                )
                .await;
                if let Ok(Ok(row)) = answer {
                    let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
                    // Read under the lock: the record is in the order of its times.
                    record.push(Acknowledgement {
                        write,
                        server: session.server,
                        written_at: row.get(0),
                        at: Instant::now(),
                        at_time: Timestamp::now(),
                    });
                    break;
                }
                session = self.session().await;
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    /// The first host that takes writes, asked for again and again.
    async fn session(&self) -> Session {
        loop {
            for host in self.hosts.iter() {
                if let Ok(Some(session)) = tokio::time::timeout(self.patience, self.open(host)).await {
                    return session;
                }
            }
            // Between 10 and 20 ms, different for each client, so that they do not all knock at once.
            tokio::time::sleep(Duration::from_millis(10 + rand::random::<u64>() % 11)).await;
        }
    }

    async fn open(&self, host: &Host) -> Option<Session> {
        let (client, connection) = host.config.connect(self.connector.clone()).await.ok()?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let insert = client
            .prepare("insert into lab.writes (client, sequence, attempt) values ($1, $2, $3) returning written_at")
            .await
            .ok()?;
        Some(Session { server: host.name, client, insert, connection })
    }
}
