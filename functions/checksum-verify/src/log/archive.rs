//! What is archived of one system, as its bucket lists it.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
};

use jiff::Timestamp;
use recovery::{
    backup::{BackupStorage, Encoding, Finding, ObjectSummary, Reason, Rung},
    fault::chain,
    store::StoreError,
};
use recovery_archive::{
    Flaw,
    decode::Decoded,
    wal::{FileName, FirstPage, History, SegmentName, Walk},
};

use crate::{
    findings::finding,
    stream::{Algorithm, Subject, pass},
};

/// Where the log of a system lies: `wal/<system identifier>/<timeline>/<file>.zst`.
const PREFIX: &str = "wal/";
const SUFFIX: &str = ".zst";
/// Of a segment, what surely holds its first page in every encoding of zstd: a block has 128 KiB at most.
const HEAD_BYTES: u64 = 256 << 10;

/// A file of the archive.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    size_bytes: u64,
    pub(super) modified_at: Option<Timestamp>,
}

/// What is archived of one system.
#[derive(Default)]
pub(super) struct Archive {
    pub(super) system: String,
    pub(super) segments: BTreeMap<SegmentName, Place>,
    histories: BTreeMap<u32, Place>,
}

/// The systems that have log in the archive.
///
/// # Errors
/// It cannot be listed.
pub(super) async fn systems(wal: &dyn BackupStorage) -> Result<Vec<String>, StoreError> {
    let (mut systems, mut next) = (Vec::new(), None);
    loop {
        let page = wal.list(PREFIX, Some('/'), next.as_deref()).await?;
        let name = |folder: &String| folder.strip_prefix(PREFIX)?.strip_suffix('/').map(str::to_owned);
        systems.extend(page.folders.iter().filter_map(name));
        next = page.next;
        if next.is_none() {
            return Ok(systems);
        }
    }
}

impl Archive {
    /// Lists what is there of a system.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(super) async fn list(wal: &dyn BackupStorage, system: &str) -> Result<Archive, StoreError> {
        let (prefix, mut next) = (format!("{PREFIX}{system}/"), None);
        let mut archive = Archive { system: system.to_owned(), ..Archive::default() };
        loop {
            let page = wal.list(&prefix, None, next.as_deref()).await?;
            for ObjectSummary { key, size_bytes, modified_at } in page.objects {
                let file = key.rsplit('/').next().and_then(|file| file.strip_suffix(SUFFIX));
                let file = file.and_then(|file| file.parse().ok());
                let place = Place { key, size_bytes, modified_at };
                match file {
                    Some(FileName::Segment(name)) => drop(archive.segments.insert(name, place)),
                    Some(FileName::History(timeline)) => drop(archive.histories.insert(timeline, place)),
                    // What an old primary had left, and labels of base backups, no restore needs.
                    Some(FileName::Partial(_) | FileName::Backup(_)) | None => {}
                }
            }
            next = page.next;
            if next.is_none() {
                return Ok(archive);
            }
        }
    }

    /// The newest timeline that has a segment.
    pub(super) fn newest_timeline(&self) -> Option<u32> {
        self.segments.keys().map(|name| name.timeline).max()
    }

    /// The newest segment of a timeline.
    pub(super) fn newest_of(&self, timeline: u32) -> Option<SegmentName> {
        self.segments.keys().rfind(|name| name.timeline == timeline).copied()
    }

    /// Where a file should lie.
    pub(super) fn key(&self, name: SegmentName) -> String {
        format!("{PREFIX}{}/{:08X}/{name}{SUFFIX}", self.system, name.timeline)
    }

    /// The bytes of one segment, as a segment says it of itself; what is wrong if it does not.
    ///
    /// # Errors
    /// Storage fails.
    pub(super) async fn segment_bytes(
        &self,
        wal: &dyn BackupStorage,
        name: SegmentName,
    ) -> Result<Result<u64, Finding>, StoreError> {
        let Some(place) = self.segments.get(&name) else { return Ok(Err(self.gone(name))) };
        let head = place.size_bytes.min(HEAD_BYTES);
        let Some(mut body) = wal.open(&place.key, None, Some(0..head)).await? else { return Ok(Err(self.gone(name))) };
        let mut stored = Vec::new();
        while let Some(piece) = body.chunk().await? {
            stored.extend_from_slice(&piece);
        }
        let wrong = |reason, says: String| Ok(Err(finding(Rung::Structure, reason, Some(&place.key), says)));
        match first_page(&stored) {
            Err(error) => wrong(Reason::Encoding, format!("its first page does not decode: {error}")),
            Ok(page) => match FirstPage::read(&page) {
                Ok(page) => Ok(Ok(page.segment_bytes)),
                Err(flaw) => wrong(reason(&flaw), chain(&flaw)),
            },
        }
    }

    fn gone(&self, name: SegmentName) -> Finding {
        finding(Rung::Structure, Reason::WalGap, Some(&self.key(name)), "the segment has gone")
    }

    /// How a timeline came to be; the first one has no history.
    ///
    /// # Errors
    /// Storage fails.
    pub(super) async fn history(
        &self,
        wal: &dyn BackupStorage,
        timeline: u32,
    ) -> Result<Result<History, Finding>, StoreError> {
        if timeline == 1 {
            return Ok(Ok(History::default()));
        }
        let wrong = |reason, key: Option<&str>, says: String| Ok(Err(finding(Rung::Present, reason, key, says)));
        let Some(Place { key, size_bytes, .. }) = self.histories.get(&timeline) else {
            return wrong(Reason::WalGap, None, format!("the history of timeline {timeline} is not archived"));
        };
        let read = |stream: &mut dyn Read| -> Result<String, Flaw> {
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(|source| Flaw::Unreadable { at: 0, source })?;
            Ok(text)
        };
        match pass(wal, file(key, *size_bytes), read).await? {
            None => wrong(Reason::WalGap, Some(key), format!("the history of timeline {timeline} has gone")),
            Some(passed) => match passed.structure.map(|text| History::parse(&text)) {
                Ok(Ok(history)) => Ok(Ok(history)),
                Ok(Err(error)) => wrong(Reason::Structure, Some(key), error.to_string()),
                Err(flaw) => wrong(Reason::Encoding, Some(key), chain(&flaw)),
            },
        }
    }

    /// Follows one segment. The walk comes back with what is wrong with it; a walk that met something wrong must not go on.
    ///
    /// # Errors
    /// Storage fails.
    pub(super) async fn walk(
        &self,
        wal: &dyn BackupStorage,
        name: SegmentName,
        walk: Walk,
    ) -> Result<(Option<Walk>, Option<Finding>), StoreError> {
        let Some(Place { key, size_bytes, .. }) = self.segments.get(&name) else {
            return Ok((None, Some(self.gone(name))));
        };
        let mut here = walk;
        let read = move |stream: &mut dyn Read| -> Result<(Walk, Result<(), Flaw>), Flaw> {
            let followed = here.segment(name, io::BufReader::with_capacity(64 * 1024, stream));
            Ok((here, followed))
        };
        let at = |reason, says: String| Some(finding(Rung::Structure, reason, Some(key), says));
        let Some(passed) = pass(wal, file(key, *size_bytes), read).await? else {
            return Ok((None, Some(self.gone(name))));
        };
        let wrong = match (passed.structure, passed.plain) {
            (Ok((walk, Ok(()))), Ok(_)) => return Ok((Some(walk), None)),
            (Ok((_, Err(flaw))), _) => at(reason(&flaw), chain(&flaw)),
            (Err(flaw), _) => at(Reason::Encoding, chain(&flaw)),
            (Ok((_, Ok(()))), Err(error)) => at(Reason::Encoding, format!("it does not decode to its end: {error}")),
        };
        Ok((None, wrong))
    }
}

/// A file of the archive, whose digests nobody noted.
fn file(key: &str, size_bytes: u64) -> Subject<'_> {
    Subject { key, version_id: None, size_bytes, encoding: Encoding::Zstd, plain: Algorithm::Crc64Nvme }
}

/// The first page of what is stored of a segment; the stream may be cut behind it.
fn first_page(stored: &[u8]) -> io::Result<Vec<u8>> {
    let mut page = vec![0; recovery_archive::wal::PAGE];
    Decoded::zstd(Cursor::new(stored))?.read_exact(&mut page)?;
    Ok(page)
}

fn reason(flaw: &Flaw) -> Reason {
    match flaw {
        Flaw::Foreign { .. } => Reason::WalForeign,
        Flaw::Truncated { .. } => Reason::Truncated,
        Flaw::Unsupported(_) => Reason::NotChecked,
        Flaw::Malformed { .. } | Flaw::Unreadable { .. } => Reason::Structure,
    }
}
