//! `pg_basebackup --format=tar`, streamed with its `backup_manifest` at the end, and the archives of its tablespaces.
//!
//! What PostgreSQL says of each file in its manifest is compared with what came: name, size, CRC-32C. The log that the
//! backup cannot start without is followed record by record, if it is in the archive (`--wal-method=fetch`); if it is not,
//! [`Base::log`] is empty and the archive of the log has to have it. Of each file sixteen bytes of a digest of its name are
//! kept beside size and checksum, so that a cluster of 200,000 files needs about 10 MiB. Files of tablespaces come in archives of
//! their own: what the manifest lists of one, and what is in its archive, have the same [`FileListing`] or differ.
//! <https://www.postgresql.org/docs/current/backup-manifest-format.html>

mod manifest;

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufReader, Read},
};

use crc_fast::CrcAlgorithm;
use recovery::{
    backup::{FileListing, Sha256Hex},
    lsn::Lsn,
};
use sha2::{Digest as _, Sha256};

use crate::{
    Flaw,
    tar::{Kind, Tar},
    wal::{Expected, FileName, Followed, Walk},
};

/// The file that PostgreSQL writes last.
const MANIFEST: &str = "backup_manifest";
/// Files that are there without standing in the manifest, or that are changed after it was written.
/// <https://www.postgresql.org/docs/current/app-pgverifybackup.html>
const NOT_LISTED: [&str; 4] = [MANIFEST, "postgresql.auto.conf", "recovery.signal", "standby.signal"];
const LOG: &str = "pg_wal/";
const TABLESPACES: &str = "pg_tblspc/";
/// How much is read at once.
const WINDOW: usize = 64 * 1024;
/// The most that is kept of `backup_label`.
const LABEL_BYTES: u64 = 8 * 1024;

/// What was in a base backup that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The system it is a copy of, from its control file.
    pub system_identifier: u64,
    /// The log that it needs, as PostgreSQL's manifest has it.
    pub ranges: Vec<Range>,
    /// Files of the manifest; those outside of tablespaces came with the size that it gives.
    pub files: u64,
    /// Those of them whose checksum is of another kind than CRC-32C and was not compared.
    pub unchecked: u64,
    /// Files of the manifest that are in the archives of tablespaces.
    pub tablespaces: BTreeMap<u32, FileListing>,
    /// The log in the archive; `None` if there is none.
    pub log: Option<Followed>,
    /// Bytes of the archive.
    pub bytes: u64,
}

/// A stretch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// On which branch of the history.
    pub timeline: u32,
    /// From here.
    pub start: Lsn,
    /// To here.
    pub end: Lsn,
}

/// What is kept of a file.
#[derive(Clone, Copy)]
struct Came {
    size: u64,
    checksum: u32,
}

/// Files by sixteen bytes of the SHA-256 of their name.
#[derive(Default)]
struct Files(HashMap<[u8; 16], Came>);

impl Files {
    fn key(path: &str) -> [u8; 16] {
        let mut key = [0; 16];
        key.copy_from_slice(&Sha256::digest(path.as_bytes())[..16]);
        key
    }
}

/// A [`FileListing`] that is being taken.
#[derive(Default)]
struct Listing {
    files: u64,
    digest: Sha256,
}

impl Listing {
    fn add(&mut self, path: &str, came: Came) {
        self.files += 1;
        self.digest.update(format!("{path}\0{}\0{:08x}\n", came.size, came.checksum));
    }

    fn end(self) -> FileListing {
        FileListing { files: self.files, sha256: Sha256Hex::of(&self.digest.finalize().into()) }
    }
}

/// Which tablespace a file of the cluster lies in.
fn tablespace_of(path: &str) -> Option<u32> {
    path.strip_prefix(TABLESPACES)?.split_once('/')?.0.parse().ok()
}

/// What a `backup_manifest` lists of a tablespace; of one that was made and not used, nothing.
///
/// # Errors
/// It is none.
pub fn listing(manifest: &[u8], oid: u32) -> Result<FileListing, Flaw> {
    let malformed = |error| Flaw::Malformed { at: 0, what: format!("`{MANIFEST}`: {error}") };
    let mut listings = manifest::listings(manifest).map_err(malformed)?;
    Ok(listings.remove(&oid).unwrap_or_else(|| Listing::default().end()))
}

/// Reads the archive of a tablespace to its end.
///
/// # Errors
/// It ends early, or is none.
pub fn tablespace(stream: impl Read, oid: u32) -> Result<FileListing, Flaw> {
    let (mut tar, mut listing) = (Tar::new(stream), Listing::default());
    while let Some(member) = tar.next_member()? {
        if member.kind == Kind::File {
            let came = came(&mut tar, member.size, 0, &mut Vec::new())?;
            listing.add(&format!("{TABLESPACES}{oid}/{}", member.path), came);
        }
    }
    Ok(listing.end())
}

/// Reads a base backup to its end.
///
/// # Errors
/// It ends early, a file is not the one of the manifest, or the log in it has a hole.
pub fn read(stream: impl Read) -> Result<Base, Flaw> {
    let mut tar = Tar::new(stream);
    let mut files = Files::default();
    let (mut control, mut label, mut manifest) = (None, None, None);
    let mut walk: Option<(Walk, Lsn)> = None;
    while let Some(member) = tar.next_member()? {
        let path = member.path.trim_start_matches("./").to_owned();
        if member.kind != Kind::File {
            continue;
        }
        if path == MANIFEST {
            manifest = Some(manifest::compare(&mut tar, &mut files)?);
            continue;
        }
        if let Some(Ok(FileName::Segment(name))) = path.strip_prefix(LOG).map(str::parse) {
            let (walk, _) =
                walk.get_or_insert_with(|| (Walk::new(Expected::default()), name.start(member.size.max(1))));
            let read = walk.segment(name, BufReader::with_capacity(WINDOW, tar.body()));
            read.map_err(|flaw| within(&tar, &path, flaw))?;
            continue;
        }
        let mut kept = Vec::new();
        let keep = match path.as_str() {
            "global/pg_control" => 8,
            "backup_label" => LABEL_BYTES,
            _ => 0,
        };
        let came = came(&mut tar, member.size, keep, &mut kept)?;
        match path.as_str() {
            "global/pg_control" => control = <[u8; 8]>::try_from(kept).ok().map(u64::from_le_bytes),
            "backup_label" => label = label_start(&String::from_utf8_lossy(&kept)),
            _ => {}
        }
        if !NOT_LISTED.contains(&path.as_str())
            && !path.starts_with(LOG)
            && files.0.insert(Files::key(&path), came).is_some()
        {
            return Err(tar.malformed(format!("`{path}` is there twice")));
        }
    }
    let Some(manifest) = manifest else {
        return Err(tar.malformed("the archive has no backup_manifest at its end"));
    };
    let Some(system_identifier) = control else {
        return Err(tar.malformed("the archive has no global/pg_control"));
    };
    if !files.0.is_empty() {
        return Err(tar.malformed(format!("{} files came that the backup_manifest does not list", files.0.len())));
    }
    if let Some(said) = manifest.system_identifier.filter(|said| *said != system_identifier) {
        return Err(tar.malformed(format!("its control file is of system {system_identifier}, its manifest of {said}")));
    }
    let first = manifest.ranges.first().map(|range| range.start);
    if label.is_none() || first.is_none() || first > label {
        return Err(tar.malformed("its backup_label and its manifest do not begin at the same place of the log"));
    }
    let log = walk.map(|(walk, start)| (walk.followed(), start));
    if let Some((followed, start)) = &log {
        covers(&tar, &manifest.ranges, followed, *start, system_identifier)?;
    }
    Ok(Base {
        system_identifier,
        ranges: manifest.ranges,
        files: manifest.files,
        unchecked: manifest.unchecked,
        tablespaces: manifest.tablespaces,
        log: log.map(|(followed, _)| followed),
        bytes: tar.at(),
    })
}

/// Reads the body of a member, and keeps its beginning.
fn came<R: Read>(tar: &mut Tar<R>, size: u64, keep: u64, kept: &mut Vec<u8>) -> Result<Came, Flaw> {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut window = vec![0; WINDOW];
    loop {
        let count = tar.read_body(&mut window)?;
        if count == 0 {
            break;
        }
        digest.update(&window[..count]);
        let room = usize::try_from(keep).unwrap_or_default().saturating_sub(kept.len());
        kept.extend_from_slice(&window[..count.min(room)]);
    }
    let checksum = u32::try_from(digest.finalize()).unwrap_or_default();
    Ok(Came { size, checksum })
}

/// `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`
fn label_start(label: &str) -> Option<Lsn> {
    let line = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A flaw of a member, as one of the archive.
fn within<R: Read>(tar: &Tar<R>, path: &str, flaw: Flaw) -> Flaw {
    match flaw {
        Flaw::Malformed { at, what } | Flaw::Foreign { at, what } => {
            tar.malformed(format!("`{path}`, byte {at}: {what}"))
        }
        Flaw::Truncated { at, .. } => tar.malformed(format!("`{path}` ends after {at} bytes")),
        flaw => flaw,
    }
}

/// The log in the archive must reach over all that the backup needs.
fn covers<R: Read>(tar: &Tar<R>, ranges: &[Range], log: &Followed, start: Lsn, system: u64) -> Result<(), Flaw> {
    if log.system_identifier != Some(system) {
        let of = log.system_identifier.unwrap_or_default();
        return Err(tar.malformed(format!("the log in the archive is of system {of}, the backup of {system}")));
    }
    for range in ranges {
        let end = log.end.unwrap_or_default();
        if range.start < start || range.end > end {
            let (from, to) = (range.start, range.end);
            return Err(tar
                .malformed(format!("it needs the log from {from} to {to}, the archive has it from {start} to {end}")));
        }
    }
    Ok(())
}
