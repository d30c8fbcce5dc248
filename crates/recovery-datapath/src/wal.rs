//! The archive of the write-ahead log, as `archive_command` and `restore_command` need it.
//!
//! `archive_command` may be called twice for one file, after a crash or a lost answer, and after a failover two servers may
//! call it for files of one name. So a file that is there already is success if it is the same, byte by byte, and a refusal
//! if it differs. What a server hands over is held to what it says of itself: cluster, place in the log, timeline, length.
//! <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-ARCHIVING-WAL>

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use recovery::{
    backup::{Keeping, WalArchive, wal_key},
    fault::{Classified, Fault},
    store::StoreError,
};
use recovery_archive::{
    Flaw,
    wal::{FileName, FirstPage, History},
};

use crate::{crc64nvme, sha256};

/// Segments are 1 GiB at most; nothing in an archive is longer.
const MOST_BYTES: u64 = 1 << 30;

/// What became of a file that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the archive now.
    Written,
    /// The same file was there already.
    Already,
}

/// The log was not archived or not fetched.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The name is none that an archive has.
    #[error("`{0}` is no file of a write-ahead log")]
    Name(String),
    /// A file here cannot be read or written.
    #[error("`{}` cannot be {doing}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what its name says.
    #[error("`{name}` is not what its name says")]
    Flawed {
        /// Which file.
        name: String,
        /// What it is.
        #[source]
        source: Flaw,
    },
    /// It is of another cluster.
    #[error("`{name}` is of cluster {found}, and this archive is of cluster {expected}")]
    Foreign {
        /// Which file.
        name: String,
        /// The file's cluster.
        found: u64,
        /// The server's.
        expected: u64,
    },
    /// Another file of this name is in the archive.
    #[error("`s3://{bucket}/{key}` holds another file of this name; two servers write one timeline")]
    Different {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// What is in the archive cannot be used.
    #[error("`s3://{bucket}/{key}` is damaged: {says}")]
    Damaged {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// In which way.
        says: String,
    },
    /// The archive did not answer.
    #[error("the archive cannot be used")]
    Store(#[from] StoreError),
}

impl Classified for WalError {
    fn fault(&self) -> Fault {
        match self {
            WalError::Name(_) => Fault::Permanent,
            WalError::File { .. } => Fault::Transient,
            WalError::Flawed { .. }
            | WalError::Foreign { .. }
            | WalError::Different { .. }
            | WalError::Damaged { .. } => Fault::Refused,
            WalError::Store(error) => error.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            WalError::Name(_) => "give %p and %f as PostgreSQL fills them in".to_owned(),
            WalError::File { .. } => "run it in the server's data directory, as the server's user".to_owned(),
            WalError::Flawed { .. } => "look at the disk of the server; nothing was archived".to_owned(),
            WalError::Foreign { .. } => {
                "look which server runs with this archive_command; nothing was changed".to_owned()
            }
            WalError::Different { .. } => {
                "find the other server that archives this timeline and stop it; nothing was overwritten".to_owned()
            }
            WalError::Damaged { .. } => "take an earlier version of the object, or another copy".to_owned(),
            WalError::Store(error) => error.remedy(),
        }
    }
}

/// The cluster that a data directory belongs to: the first eight bytes of `global/pg_control`.
///
/// # Errors
/// There is no such file.
pub fn system_identifier(data: &Path) -> Result<u64, WalError> {
    let path = data.join("global/pg_control");
    let mut identifier = [0; 8];
    File::open(&path).and_then(|mut file| file.read_exact(&mut identifier)).map_err(|source| WalError::File {
        path,
        doing: "read",
        source,
    })?;
    Ok(u64::from_le_bytes(identifier))
}

/// Archives a file of the log.
///
/// # Errors
/// It is not archived; nothing is overwritten.
pub async fn push(
    archive: &dyn WalArchive,
    path: &Path,
    system_identifier: u64,
    keeping: &Keeping,
) -> Result<Pushed, WalError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let plain = read(path).map_err(|source| WalError::File { path: path.to_owned(), doing: "read", source })?;
    let timeline = check(&name, &plain, system_identifier)?;
    let key = wal_key(system_identifier, timeline, &name);
    let stored =
        compress(&plain).map_err(|source| WalError::File { path: path.to_owned(), doing: "compressed", source })?;
    let crc = crc64nvme(&stored);
    if archive.put_new(&key, stored, &crc, keeping).await? {
        return Ok(Pushed::Written);
    }
    match unpacked(archive, &key).await? {
        Some(there) if sha256(&there) == sha256(&plain) => Ok(Pushed::Already),
        _ => Err(WalError::Different { bucket: archive.bucket().to_owned(), key }),
    }
}

/// Fetches a file of the log to where the server wants it; says whether the archive has it.
///
/// # Errors
/// It is not there, neither whole nor in part, and whether the archive has it is not known, or what it has is not usable.
pub async fn fetch(archive: &dyn WalArchive, name: &str, to: &Path, system_identifier: u64) -> Result<bool, WalError> {
    let timeline = timeline_of(name)?;
    let key = wal_key(system_identifier, timeline, name);
    let Some(plain) = unpacked(archive, &key).await? else { return Ok(false) };
    check(name, &plain, system_identifier)?;
    write(to, &plain).map_err(|source| WalError::File { path: to.to_owned(), doing: "written", source })?;
    Ok(true)
}

fn timeline_of(name: &str) -> Result<u32, WalError> {
    match name.parse::<FileName>().map_err(|_| WalError::Name(name.to_owned()))? {
        FileName::Segment(segment) | FileName::Partial(segment) | FileName::Backup(segment) => Ok(segment.timeline),
        FileName::History(timeline) => Ok(timeline),
    }
}

/// Holds a file to its name and to the cluster; says its timeline.
fn check(name: &str, plain: &[u8], system_identifier: u64) -> Result<u32, WalError> {
    let flawed = |source| WalError::Flawed { name: name.to_owned(), source };
    let text = |what: &str| flawed(Flaw::Malformed { at: 0, what: what.to_owned() });
    match name.parse::<FileName>().map_err(|_| WalError::Name(name.to_owned()))? {
        FileName::Segment(segment) | FileName::Partial(segment) => {
            let page = FirstPage::read(plain).map_err(flawed)?;
            if page.system_identifier != system_identifier {
                let (found, expected) = (page.system_identifier, system_identifier);
                return Err(WalError::Foreign { name: name.to_owned(), found, expected });
            }
            page.check(segment, plain.len() as u64).map_err(flawed)?;
        }
        FileName::History(_) => {
            let history = std::str::from_utf8(plain).map_err(|_| text("it is no text"))?;
            History::parse(history).map_err(|error| text(&error.to_string()))?;
        }
        FileName::Backup(_) => {
            if !plain.starts_with(b"START WAL LOCATION:") {
                return Err(text("it does not begin with the location of the log"));
            }
        }
    }
    timeline_of(name)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// What reaches the name is whole and on the disk, or is not there.
fn write(to: &Path, plain: &[u8]) -> io::Result<()> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".fetching");
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(plain)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| std::fs::rename(&partial, to));
    if placed.is_err() {
        // What is left of it would only take room.
        let _ = std::fs::remove_file(&partial);
    }
    placed
}

fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1)?;
    encoder.include_checksum(true)?;
    encoder.write_all(plain)?;
    encoder.finish()
}

async fn unpacked(archive: &dyn WalArchive, key: &str) -> Result<Option<Vec<u8>>, WalError> {
    let Some(stored) = archive.get_whole(key).await? else { return Ok(None) };
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(&*stored);
    match decoder.and_then(|decoder| decoder.take(MOST_BYTES).read_to_end(&mut plain)) {
        Ok(_) => Ok(Some(plain)),
        Err(error) => {
            Err(WalError::Damaged { bucket: archive.bucket().to_owned(), key: key.to_owned(), says: error.to_string() })
        }
    }
}
