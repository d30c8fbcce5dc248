//! A connection on which the streaming replication protocol is spoken, which `tokio_postgres` does not.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

use std::{io, time::Duration};

use aws_lc_rs::digest::{self, Algorithm};
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    },
    message::{
        backend::{COPY_DATA_TAG, ErrorFields, Header, Message},
        frontend,
    },
};
use recovery::{database::DatabaseError, secrets::Credentials};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_postgres::{error::SqlState, fallible_iterator::FallibleIterator};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_cert::{
    Certificate,
    der::{Decode, oid::db::rfc5912},
};

use crate::connection::classify_code;

const CONNECT: Duration = Duration::from_secs(10);

/// One read from the socket. TLS by itself reads a record at a time, and PostgreSQL's have 8 KiB.
const SOCKET_BYTES: usize = 256 * 1024;

/// The longest message that is believed, but for data.
const LONGEST_MESSAGE: usize = 1024 * 1024;

/// A connection to a server that sends its log and its files.
pub(crate) struct Replication {
    server: String,
    stream: TlsStream<BufReader<TcpStream>>,
    /// What has come and was not looked at.
    buffer: BytesMut,
    /// What is left of the data that [`Replication::next`] has found.
    data: usize,
    server_version: String,
}

/// What a server sends.
pub(crate) enum Incoming {
    /// Data of a copy, which [`Replication::data`] reads.
    Data,
    /// Another message; errors are none.
    Message(Message),
}

impl Replication {
    /// Opens a connection, under TLS and to nobody but the server that the certificate names.
    pub(crate) async fn connect(
        server: &str,
        host: &str,
        port: u16,
        tls: &rustls::ClientConfig,
        credentials: &Credentials,
    ) -> Result<Replication, DatabaseError> {
        let connecting = async {
            let stream = secure(host, port, tls).await.map_err(|error| unreachable(server, error))?;
            let mut connection = Replication {
                server: server.to_owned(),
                stream,
                buffer: BytesMut::new(),
                data: 0,
                server_version: String::new(),
            };
            connection.start(credentials).await?;
            Ok(connection)
        };
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
            Err(DatabaseError::TimedOut { server: server.to_owned(), seconds: CONNECT.as_secs_f64() })
        })
    }

    /// As the server says it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub(crate) fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Sends a command.
    pub(crate) async fn command(&mut self, command: &str) -> Result<(), DatabaseError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| unreachable(&self.server, error))?;
        self.send(&message).await
    }

    /// What comes next; what was left of the data before is passed over.
    pub(crate) async fn next(&mut self) -> Result<Incoming, DatabaseError> {
        while !self.data().await?.is_empty() {}
        loop {
            let failed = |error| unreachable(&self.server, error);
            if let Some(header) = Header::parse(&self.buffer).map_err(failed)? {
                let length = usize::try_from(header.len()).unwrap_or_default().saturating_sub(4);
                if header.tag() == COPY_DATA_TAG {
                    self.buffer.advance(5);
                    self.data = length;
                    return Ok(Incoming::Data);
                }
                if length > LONGEST_MESSAGE {
                    return Err(self.unexpected(&format!("a message of {length} bytes")));
                }
            }
            match Message::parse(&mut self.buffer).map_err(failed)? {
                None => self.fill().await?,
                Some(Message::ErrorResponse(body)) => {
                    let (code, text) = said(body.fields());
                    let doing = "answering a command of replication";
                    return Err(classify_code(&self.server, doing, &code, format!("{}: {text}", code.code()).into()));
                }
                Some(Message::NoticeResponse(body)) => {
                    let (_, text) = said(body.fields());
                    tracing::warn!(server = self.server, "`{}` says: {text}", self.server);
                }
                Some(Message::ParameterStatus(body)) => {
                    if body.name().is_ok_and(|name| name == "server_version") {
                        self.server_version = body.value().unwrap_or_default().to_owned();
                    }
                }
                Some(message) => return Ok(Incoming::Message(message)),
            }
        }
    }

    /// As [`Replication::next`], where data has no place.
    pub(crate) async fn message(&mut self) -> Result<Message, DatabaseError> {
        match self.next().await? {
            Incoming::Message(message) => Ok(message),
            Incoming::Data => Err(self.unexpected("data where an answer should be")),
        }
    }

    /// More of the data; nothing at its end.
    pub(crate) async fn data(&mut self) -> Result<Bytes, DatabaseError> {
        if self.data == 0 {
            return Ok(Bytes::new());
        }
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let piece = self.buffer.split_to(self.data.min(self.buffer.len())).freeze();
        self.data -= piece.len();
        Ok(piece)
    }

    /// One byte of the data, or none at its end.
    pub(crate) async fn byte(&mut self) -> Result<Option<u8>, DatabaseError> {
        if self.data == 0 {
            return Ok(None);
        }
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        self.data -= 1;
        Ok(Some(self.buffer.get_u8()))
    }

    /// Says goodbye.
    pub(crate) async fn end(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        // Everything has been said; a server that does not hear it finds out by itself.
        drop(self.send(&message).await);
        drop(self.stream.shutdown().await);
    }

    /// An answer that the protocol does not allow here.
    pub(crate) fn unexpected(&self, what: &str) -> DatabaseError {
        DatabaseError::Failed {
            server: self.server.clone(),
            doing: "speaking the replication protocol",
            source: format!("it sent {what}").into(),
        }
    }

    async fn start(&mut self, credentials: &Credentials) -> Result<(), DatabaseError> {
        let parameters = [
            ("user", credentials.username.as_str()),
            ("replication", "true"),
            ("client_encoding", "UTF8"),
            ("application_name", "sparc-backup"),
        ];
        let mut message = BytesMut::new();
        frontend::startup_message(parameters, &mut message).map_err(|error| unreachable(&self.server, error))?;
        self.send(&message).await?;
        self.authenticate(credentials).await?;
        loop {
            match self.message().await? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::BackendKeyData(_) => {}
                _ => return Err(self.unexpected("something else than the end of its greeting")),
            }
        }
    }

    async fn authenticate(&mut self, credentials: &Credentials) -> Result<(), DatabaseError> {
        let Credentials { username, password } = credentials;
        let (username, password) = (username.as_bytes(), password.as_bytes());
        loop {
            let mut answer = BytesMut::new();
            let made = match self.message().await? {
                Message::AuthenticationOk => return Ok(()),
                // Under TLS, to a server whose certificate was verified.
                Message::AuthenticationCleartextPassword => frontend::password_message(password, &mut answer),
                Message::AuthenticationMd5Password(body) => {
                    frontend::password_message(md5_hash(username, password, body.salt()).as_bytes(), &mut answer)
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<String> =
                        body.mechanisms().map(|name| Ok(name.to_owned())).collect().unwrap_or_default();
                    self.scram(password, &mechanisms).await?;
                    continue;
                }
                _ => return Err(self.denied("it asks for a way to log in that is not supported here")),
            };
            made.map_err(|error| unreachable(&self.server, error))?;
            self.send(&answer).await?;
        }
    }

    /// SCRAM-SHA-256, bound to the server's certificate where server and certificate allow it.
    /// <https://www.postgresql.org/docs/current/sasl-authentication.html>
    async fn scram(&mut self, password: &[u8], mechanisms: &[String]) -> Result<(), DatabaseError> {
        let offers = |wanted: &str| mechanisms.iter().any(|mechanism| mechanism == wanted);
        let binding = self.certificate_digest();
        let (mechanism, binding) = match binding {
            Some(digest) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(digest))
            }
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(self.denied("it offers no way of SASL that is known here")),
        };
        let mut exchange = ScramSha256::new(password, binding);
        let denied = self.denied("it does not prove that it knows the password");
        let server = self.server.clone();
        let failed = |error| unreachable(&server, error);
        let mut answer = BytesMut::new();
        frontend::sasl_initial_response(mechanism, exchange.message(), &mut answer).map_err(failed)?;
        self.send(&answer).await?;
        let Message::AuthenticationSaslContinue(body) = self.message().await? else { return Err(denied) };
        exchange.update(body.data()).map_err(failed)?;
        let mut answer = BytesMut::new();
        frontend::sasl_response(exchange.message(), &mut answer).map_err(failed)?;
        self.send(&answer).await?;
        let Message::AuthenticationSaslFinal(body) = self.message().await? else { return Err(denied) };
        exchange.finish(body.data()).map_err(|_| denied)
    }

    /// `tls-server-end-point`: the certificate by the digest of its own signature.
    /// <https://www.rfc-editor.org/rfc/rfc5929#section-4.1>
    fn certificate_digest(&self) -> Option<Vec<u8>> {
        let (_, session) = self.stream.get_ref();
        let certificate = session.peer_certificates()?.first()?;
        let algorithm: &Algorithm = match Certificate::from_der(certificate).ok()?.signature_algorithm.oid {
            // What is signed with SHA-1 is digested with SHA-256 all the same.
            rfc5912::SHA_1_WITH_RSA_ENCRYPTION | rfc5912::SHA_256_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_256 => {
                &digest::SHA256
            }
            rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => &digest::SHA384,
            rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => &digest::SHA512,
            _ => return None,
        };
        Some(digest::digest(algorithm, certificate).as_ref().to_vec())
    }

    fn denied(&self, why: &str) -> DatabaseError {
        DatabaseError::Denied { server: self.server.clone(), source: why.into() }
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), DatabaseError> {
        let sent = async {
            self.stream.write_all(message).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| unreachable(&self.server, error))
    }

    /// Waits for something, and takes with it what has come already.
    async fn fill(&mut self) -> Result<(), DatabaseError> {
        self.buffer.reserve(SOCKET_BYTES);
        let read = self.stream.read_buf(&mut self.buffer).await;
        read.and_then(not_ended).map(drop).map_err(|error| unreachable(&self.server, error))
    }
}

/// A stream under TLS, asked for as PostgreSQL has it.
async fn secure(host: &str, port: u16, tls: &rustls::ClientConfig) -> io::Result<TlsStream<BufReader<TcpStream>>> {
    let mut socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // Nothing but this byte is taken from what is not yet encrypted.
    if socket.read_u8().await? != b'S' {
        return Err(io::Error::other("it does not speak TLS"));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(std::sync::Arc::new(tls.clone()));
    connector.connect(name, BufReader::with_capacity(SOCKET_BYTES, socket)).await
}

fn not_ended(read: usize) -> io::Result<usize> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

fn unreachable(server: &str, error: io::Error) -> DatabaseError {
    DatabaseError::Unreachable { server: server.to_owned(), source: Box::new(error) }
}

/// SQLSTATE and text of an error or a notice.
fn said(mut fields: ErrorFields<'_>) -> (SqlState, String) {
    let (mut code, mut message, mut detail) = (SqlState::INTERNAL_ERROR, String::new(), None);
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = SqlState::from_code(&text),
            b'M' => message = text,
            b'D' => detail = Some(text),
            _ => {}
        }
    }
    let text = [Some(message), detail].into_iter().flatten().collect::<Vec<_>>().join("; ").replace('\n', " ");
    (code, text)
}
