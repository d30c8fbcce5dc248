//! `BASE_BACKUP`: the files of a cluster as tar archives, and PostgreSQL's manifest of them.
//! <https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-BASE-BACKUP>

use std::sync::Arc;

use async_stream::try_stream;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use postgres_protocol::message::backend::{DataRowBody, Message};
use recovery::{backup::BackupId, database::DatabaseError};
use tar::{EntryType, Header};
use tokio::sync::Mutex;
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::replication::{Incoming, Replication};

/// The first version that puts a letter before each piece, and ends its archives itself.
const TAGGED_SINCE: u32 = 15;
const NEW_ARCHIVE: u8 = b'n';
const MANIFEST: u8 = b'm';
const PIECE: u8 = b'd';
const PROGRESS: u8 = b'p';
/// Ours, for what has no letter.
const COPY_DONE: u8 = b'c';

const BLOCK: usize = 512;
/// How a tar archive ends.
static TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The longest manifest that is believed: two million files. It is held in memory, for its length stands before it.
const MANIFEST_BYTES: usize = 512 * 1024 * 1024;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// A tablespace that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tablespace {
    pub(super) oid: u32,
    /// Where it lies on the server.
    pub(super) location: String,
}

impl Tablespace {
    /// The name of its archive, as `pg_basebackup` has it.
    pub(super) fn archive(&self) -> String {
        format!("{}.tar", self.oid)
    }
}

/// A base backup whose archives are taken one after the other.
pub(super) type Shared = Arc<Mutex<BaseBackup>>;

/// A base backup that is being sent: the archives of its tablespaces, and then that of the cluster.
pub(super) struct BaseBackup {
    connection: Replication,
    tagged: bool,
    tablespaces: Vec<Tablespace>,
    /// A letter that ended what was before it.
    ahead: Option<u8>,
}

impl BaseBackup {
    /// Has the server begin: after a checkpoint that it hurries, with the log that the backup needs in it.
    pub(super) async fn begin(mut connection: Replication, backup: &BackupId) -> Result<BaseBackup, DatabaseError> {
        let version = connection.server_version().to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let tagged = digits.parse::<u32>().is_ok_and(|major| major >= TAGGED_SINCE);
        // The log is in the backup, so nobody waits for its archive. An id has no quotes.
        let command = if tagged {
            format!("BASE_BACKUP (LABEL '{backup}', CHECKPOINT 'fast', WAL, WAIT 0, TABLESPACE_MAP, MANIFEST 'yes')")
        } else {
            format!("BASE_BACKUP LABEL '{backup}' FAST NOWAIT WAL TABLESPACE_MAP MANIFEST 'yes'")
        };
        connection.command(&command).await?;
        let _starts_at = rows(&mut connection).await?;
        let mut tablespaces = Vec::new();
        let mut list = rows(&mut connection).await?;
        // A version that did otherwise would be found here: the manifest comes right behind the cluster.
        if list.pop().and_then(|cluster| cluster.into_iter().next()) != Some(None) {
            return Err(connection.unexpected("the cluster not as its last archive"));
        }
        for row in list {
            let mut row = row.into_iter().flatten();
            let oid = row.next().and_then(|oid| oid.parse().ok());
            match (oid, row.next()) {
                (Some(oid), Some(location)) => tablespaces.push(Tablespace { oid, location }),
                _ => return Err(connection.unexpected("a tablespace without a number or a place")),
            }
        }
        let mut begun = BaseBackup { connection, tagged, tablespaces, ahead: None };
        if tagged {
            begun.copy_begins().await?;
            begun.ahead = Some(begun.letter().await?);
        }
        Ok(begun)
    }

    /// As the server says it, without what a distribution adds: `15.18`.
    pub(super) fn server_version(&self) -> &str {
        self.connection.server_version().split_whitespace().next().unwrap_or_default()
    }

    /// Tablespaces, in the order in which they come.
    pub(super) fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// Says goodbye to the server.
    pub(super) async fn end(self) {
        self.connection.end().await;
    }

    /// Goes to the archive that comes next.
    async fn open(&mut self, name: &str) -> Result<(), DatabaseError> {
        if !self.tagged {
            return self.copy_begins().await;
        }
        if self.ahead.take() != Some(NEW_ARCHIVE) {
            return Err(self.connection.unexpected("no archive where one should be"));
        }
        // Its name; the place of a tablespace follows, which is known.
        for expected in name.bytes().chain([0]) {
            if self.connection.byte().await? != Some(expected) {
                return Err(self.connection.unexpected(&format!("another archive than `{name}`")));
            }
        }
        while !self.connection.data().await?.is_empty() {}
        Ok(())
    }

    async fn manifest(&mut self) -> Result<Vec<u8>, DatabaseError> {
        if !self.tagged {
            self.copy_begins().await?;
        } else if self.ahead.take() != Some(MANIFEST) {
            return Err(self.connection.unexpected("no manifest behind the cluster"));
        }
        let mut manifest = Vec::new();
        loop {
            let piece = self.piece().await?;
            if piece.is_empty() {
                break;
            }
            manifest.extend_from_slice(&piece);
            if manifest.len() > MANIFEST_BYTES {
                return Err(self.connection.unexpected(&format!("a manifest of more than {MANIFEST_BYTES} bytes")));
            }
        }
        if self.tagged && self.ahead.take() != Some(COPY_DONE) {
            return Err(self.connection.unexpected("something behind the manifest"));
        }
        Ok(manifest)
    }

    /// The server's last word.
    async fn verdict(&mut self) -> Result<(), DatabaseError> {
        let _ends_at = rows(&mut self.connection).await?;
        loop {
            match self.connection.message().await? {
                Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(self.connection.unexpected("something else than its end")),
            }
        }
    }

    /// More of what is being sent; nothing at its end.
    async fn piece(&mut self) -> Result<Bytes, DatabaseError> {
        // What follows a letter that ended this is no part of it.
        while self.ahead.is_none() {
            let piece = self.connection.data().await?;
            if !piece.is_empty() {
                return Ok(piece);
            }
            if self.tagged {
                match self.letter().await? {
                    PIECE => {}
                    other => self.ahead = Some(other),
                }
            } else {
                match self.connection.next().await? {
                    Incoming::Data => {}
                    Incoming::Message(Message::CopyDone) => break,
                    Incoming::Message(_) => return Err(self.connection.unexpected("something else than files")),
                }
            }
        }
        Ok(Bytes::new())
    }

    /// The letter before what comes next.
    async fn letter(&mut self) -> Result<u8, DatabaseError> {
        loop {
            match self.connection.next().await? {
                Incoming::Message(Message::CopyDone) => return Ok(COPY_DONE),
                Incoming::Message(_) => return Err(self.connection.unexpected("something else than files")),
                Incoming::Data => match self.connection.byte().await? {
                    Some(PROGRESS) => {}
                    Some(letter) => return Ok(letter),
                    None => return Err(self.connection.unexpected("nothing as a piece of a file")),
                },
            }
        }
    }

    async fn copy_begins(&mut self) -> Result<(), DatabaseError> {
        match self.connection.message().await? {
            Message::CopyOutResponse(_) => Ok(()),
            _ => Err(self.connection.unexpected("no files where they should begin")),
        }
    }
}

/// The pieces of an archive. Where the server ends it, its end is kept back.
fn archive(begun: &mut BaseBackup, name: String) -> impl Stream<Item = Result<Bytes, DatabaseError>> {
    try_stream! {
        begun.open(&name).await?;
        let mut kept = BytesMut::new();
        loop {
            let piece = begun.piece().await?;
            if piece.is_empty() {
                break;
            }
            if !begun.tagged {
                yield piece;
                continue;
            }
            let passed = kept.len().saturating_sub(TRAILER.len().saturating_sub(piece.len()));
            if passed > 0 {
                yield kept.split_to(passed).freeze();
            }
            let passed = piece.len().saturating_sub(TRAILER.len());
            kept.extend_from_slice(&piece[passed..]);
            if passed > 0 {
                yield piece.slice(..passed);
            }
        }
        if begun.tagged && *kept != TRAILER {
            Err(begun.connection.unexpected("an archive without its end"))?;
        }
    }
}

/// The archive of the next tablespace.
pub(super) fn tablespace(begun: Shared, tablespace: &Tablespace) -> impl Stream<Item = Result<Bytes, Boxed>> + use<> {
    let name = tablespace.archive();
    try_stream! {
        let mut begun = begun.lock_owned().await;
        for await piece in archive(&mut begun, name) {
            yield piece?;
        }
        yield Bytes::from_static(&TRAILER);
    }
}

/// The archive of the cluster with the manifest as its last file, which is left in `manifest` too. It ends when the server
/// has said that all of it is good: only then it tells whether the checksums of all pages were.
pub(super) fn cluster(begun: Shared, manifest: Arc<Mutex<Bytes>>) -> impl Stream<Item = Result<Bytes, Boxed>> {
    try_stream! {
        let mut begun = begun.lock_owned().await;
        for await piece in archive(&mut begun, "base.tar".to_owned()) {
            yield piece?;
        }
        let whole = Bytes::from(begun.manifest().await?);
        let mut header = Header::new_ustar();
        header.set_path("backup_manifest")?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(whole.len() as u64);
        header.set_cksum();
        yield Bytes::copy_from_slice(header.as_bytes());
        yield whole.clone();
        yield Bytes::from_static(&TRAILER[..whole.len().next_multiple_of(BLOCK) - whole.len()]);
        yield Bytes::from_static(&TRAILER);
        *manifest.lock().await = whole;
        begun.verdict().await?;
    }
}

/// Rows of one result, as text.
async fn rows(connection: &mut Replication) -> Result<Vec<Vec<Option<String>>>, DatabaseError> {
    let mut rows = Vec::new();
    loop {
        match connection.message().await? {
            Message::RowDescription(_) => {}
            Message::DataRow(body) => {
                rows.push(fields(&body).map_err(|_| connection.unexpected("a row that is none"))?);
            }
            Message::CommandComplete(_) => return Ok(rows),
            _ => return Err(connection.unexpected("something else than rows")),
        }
    }
}

fn fields(row: &DataRowBody) -> std::io::Result<Vec<Option<String>>> {
    let text = |range| String::from_utf8_lossy(&row.buffer()[range]).into_owned();
    row.ranges().map(|range| Ok(range.map(text))).collect()
}
