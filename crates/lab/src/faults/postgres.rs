//! The proxy for PostgreSQL.
//!
//! It ends the client's TLS with the *server's own* certificate and key, which the lab has, and opens TLS to the server
//! again: the channel binding of SCRAM looks at the certificate, so a proxy with another one would be turned away. In
//! between it reads the client's messages, so that a script can choose a statement by its text. The text is matched when
//! the statement is executed, not when it is prepared: an answer lost at the preparation would lose no work.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::http::{connect, listen};
use super::{Desk, Script};
use crate::error::{Error, Result};
use crate::postgres::Server;
use crate::tls::{self, Authority};

/// `SSLRequest`, protocol 1234.5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A running proxy. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct PostgresProxy {
    port: u16,
    desk: Desk,
    listener: JoinHandle<()>,
}

#[derive(Clone)]
struct Relay {
    server: Arc<str>,
    upstream: u16,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    desk: Desk,
}

impl PostgresProxy {
    /// Starts a proxy in front of a server of the lab.
    pub async fn start(server: &Server, authority: &Authority, desk: Desk) -> Result<Self> {
        let read = |name: &str| {
            let path = server.data().join(name);
            std::fs::read_to_string(&path).map_err(Error::system(format!("read {}", Path::new(&path).display())))
        };
        let relay = Relay {
            server: server.name().into(),
            upstream: server.port(),
            acceptor: tls::acceptor(&read("server.crt")?, &read("server.key")?)?,
            connector: TlsConnector::from(Arc::new(authority.client()?)),
            desk: desk.clone(),
        };
        let (listener, port) = listen().await?;
        let listener = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let relay = relay.clone();
                connections.spawn(async move {
                    let _ = relay.carry(client).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, desk, listener })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its desk; the service is `postgres`, operations are statements and `connect`.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What happens to the server's answers.
#[derive(Default)]
struct WayBack {
    /// They are swallowed.
    lose: AtomicBool,
    lost: Notify,
    delay: std::sync::Mutex<Option<Duration>>,
}

impl Relay {
    async fn carry(self, mut client: TcpStream) -> io::Result<()> {
        match self.desk.take("postgres", "connect", &self.server, b"") {
            // Accepted and closed, which a client cannot tell from a server that dies.
            Some(Script::Reject { .. } | Script::LoseAnswer) => return Ok(()),
            Some(Script::Hold) => self.desk.held().await,
            Some(Script::Slow(delay)) => tokio::time::sleep(delay).await,
            Some(Script::Trickle { .. } | Script::BreakBody { .. }) | None => {}
        }
        let mut first = [0; 8];
        client.read_exact(&mut first).await?;
        if first != SSL_REQUEST {
            // A cancel request or a client without TLS: carried as it is.
            let mut server = connect(self.upstream).await?;
            server.write_all(&first).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        client.write_all(b"S").await?;
        let client = self.acceptor.accept(client).await?;

        let mut server = connect(self.upstream).await?;
        server.write_all(&SSL_REQUEST).await?;
        if server.read_u8().await? != b'S' {
            return Err(io::Error::other("the server speaks no TLS"));
        }
        let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
        let server = self.connector.connect(name, server).await?;

        let (from_client, to_client) = tokio::io::split(client);
        let (from_server, to_server) = tokio::io::split(server);
        let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
        let way_back = Arc::new(WayBack::default());
        let there = self.there(from_client, to_server, to_client.clone(), way_back.clone());
        let back = back(from_server, to_client, way_back);
        // Whichever ends first ends both: the connections are dropped.
        tokio::select! {
            ended = there => ended,
            ended = back => ended,
        }
    }

    async fn there<R, W, C>(
        &self,
        mut from_client: R,
        mut to_server: W,
        to_client: Arc<tokio::sync::Mutex<C>>,
        way_back: Arc<WayBack>,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
        C: AsyncWrite + Unpin,
    {
        // The startup message has no type byte.
        let length = from_client.read_u32().await?;
        let mut startup = vec![0; (length as usize).saturating_sub(4)];
        from_client.read_exact(&mut startup).await?;
        to_server.write_u32(length).await?;
        to_server.write_all(&startup).await?;
        to_server.flush().await?;

        let mut statements: HashMap<Vec<u8>, String> = HashMap::new();
        let mut portals: HashMap<Vec<u8>, String> = HashMap::new();
        loop {
            let kind = from_client.read_u8().await?;
            let length = from_client.read_u32().await?;
            let mut body = vec![0; (length as usize).saturating_sub(4)];
            from_client.read_exact(&mut body).await?;
            let mut texts = body.split(|byte| *byte == 0);
            let mut next = || texts.next().unwrap_or_default().to_vec();
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let executed = match kind {
                b'Q' => Some(text(next())),
                b'P' => {
                    let (name, sql) = (next(), text(next()));
                    statements.insert(name, sql);
                    None
                }
                b'B' => {
                    let (portal, statement) = (next(), next());
                    let sql = statements.get(&statement).cloned().unwrap_or_default();
                    portals.insert(portal, sql);
                    None
                }
                b'E' => Some(portals.get(&next()).cloned().unwrap_or_default()),
                _ => None,
            };
            if let Some(statement) = executed {
                match self.desk.take("postgres", &statement, &self.server, b"") {
                    Some(Script::Reject { code, .. }) => {
                        let mut to_client = to_client.lock().await;
                        to_client.write_all(&refusal(&code)).await?;
                        return to_client.flush().await;
                    }
                    Some(Script::LoseAnswer) => way_back.lose.store(true, Ordering::SeqCst),
                    Some(Script::Hold) => self.desk.held().await,
                    Some(Script::Slow(delay)) => {
                        *way_back.delay.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(delay);
                    }
                    Some(Script::Trickle { .. } | Script::BreakBody { .. }) | None => {}
                }
            }
            to_server.write_u8(kind).await?;
            to_server.write_u32(length).await?;
            to_server.write_all(&body).await?;
            to_server.flush().await?;
            if kind == b'X' {
                return Ok(());
            }
            // After a statement whose answer is lost, the client's next words go nowhere: wait for the work to be done.
            if way_back.lose.load(Ordering::SeqCst) && matches!(kind, b'Q' | b'S') {
                way_back.lost.notified().await;
                return Ok(());
            }
        }
    }
}

async fn back<R, C>(mut from_server: R, to_client: Arc<tokio::sync::Mutex<C>>, way_back: Arc<WayBack>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    loop {
        let kind = from_server.read_u8().await?;
        let length = from_server.read_u32().await?;
        let mut body = vec![0; (length as usize).saturating_sub(4)];
        from_server.read_exact(&mut body).await?;
        if way_back.lose.load(Ordering::SeqCst) {
            // `ReadyForQuery`: what was asked is done.
            if kind == b'Z' {
                way_back.lost.notify_one();
                return Ok(());
            }
            continue;
        }
        let delay = way_back.delay.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let mut to_client = to_client.lock().await;
        to_client.write_u8(kind).await?;
        to_client.write_u32(length).await?;
        to_client.write_all(&body).await?;
        to_client.flush().await?;
    }
}

/// `ErrorResponse`, severity FATAL: the connection ends with it.
fn refusal(sqlstate: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0Mrejected by the lab's fault proxy\0\0");
    let mut message = vec![b'E'];
    message.extend(u32::try_from(fields.len() + 4).unwrap_or(4).to_be_bytes());
    message.extend(fields.as_bytes());
    message
}
