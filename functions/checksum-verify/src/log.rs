//! The archive of the log behind a base backup: what lies between the backup and now can be reached only through it.
//!
//! A restore that meets a hole in it ends there and promotes, and says nothing (seen on PostgreSQL 15 with pgBackRest 2.45,
//! whose `verify` does not find the hole either). So the names are compared with those that the history of timelines asks
//! for, and the segments are followed record by record.

use std::collections::BTreeMap;

use recovery::{
    backup::{BackupManifest, BackupStorage, Encoding, Finding, Kind, Reason, Rung, Source},
    lsn::Lsn,
    plan::Plan,
    store::StoreError,
};
use recovery_archive::{
    Flaw,
    wal::{Expected, FileName, History, SegmentName, Walk, segments},
};

use crate::{
    findings::finding,
    stream::{Algorithm, Subject, pass},
};

/// Where the log of a system lies: `wal/<system identifier>/<timeline>/<file>.zst`.
const PREFIX: &str = "wal/";
const SUFFIX: &str = ".zst";
/// The most segments that one call follows: 8 GiB of log at the usual size. What lies behind is told as not looked at.
const MOST_SEGMENTS: usize = 512;
/// `wal_segment_size` of every cluster that was not made otherwise.
const SEGMENT: u64 = 16 << 20;

/// What is archived of one system.
#[derive(Default)]
struct Archive {
    keys: BTreeMap<SegmentName, (String, u64)>,
    histories: BTreeMap<u32, (String, u64)>,
}

/// What is wrong with the log behind a base backup. Nothing, if the plan archives none.
///
/// # Errors
/// Storage fails.
pub(crate) async fn behind(
    manifest: &BackupManifest,
    plan: &Plan,
    wal: &dyn BackupStorage,
    rung: Rung,
) -> Result<Vec<Finding>, StoreError> {
    let Source::PostgreSql { system_identifier: Some(system), timeline: Some(timeline), from_lsn: Some(from), .. } =
        &manifest.source
    else {
        return Ok(Vec::new());
    };
    if manifest.id.kind != Kind::Physical || plan.backups.policy(Kind::Wal).is_none() {
        return Ok(Vec::new());
    }
    let archive = list(wal, system).await?;
    let Some(newest) = archive.keys.keys().map(|name| name.timeline).max().map(|newest| newest.max(*timeline)) else {
        let says = format!("no log of system {system} is archived in `s3://{}`", wal.bucket());
        return Ok(vec![finding(Rung::Present, Reason::WalGap, None, says)]);
    };
    let history = match history(wal, &archive, newest).await? {
        Ok(history) => history,
        Err(found) => return Ok(vec![found]),
    };
    let last = archive.keys.keys().rfind(|name| name.timeline == newest);
    let end = last.map_or(*from, |name| Lsn(name.start(SEGMENT).0 + SEGMENT));
    let needed: Vec<SegmentName> = segments(&history, newest, *from, end, SEGMENT).collect();
    let missing: Vec<&SegmentName> = needed.iter().filter(|name| !archive.keys.contains_key(name)).collect();
    if let Some(first) = missing.first() {
        let more = missing.len() - 1;
        let key = key(system, **first);
        let says = format!("the segment `{first}` is not archived, and {more} more of {}", needed.len());
        return Ok(vec![finding(Rung::Present, Reason::WalGap, Some(&key), says)]);
    }
    if rung < Rung::Structure {
        return Ok(Vec::new());
    }
    follow(wal, &archive, &needed, system, history).await
}

fn key(system: &str, name: SegmentName) -> String {
    format!("{PREFIX}{system}/{:08X}/{name}{SUFFIX}", name.timeline)
}

async fn list(wal: &dyn BackupStorage, system: &str) -> Result<Archive, StoreError> {
    let (prefix, mut archive, mut next) = (format!("{PREFIX}{system}/"), Archive::default(), None);
    loop {
        let page = wal.list(&prefix, None, next.as_deref()).await?;
        for object in page.objects {
            let file = object.key.rsplit('/').next().and_then(|file| file.strip_suffix(SUFFIX));
            let place = (object.key.clone(), object.size_bytes);
            match file.and_then(|file| file.parse().ok()) {
                Some(FileName::Segment(name)) => drop(archive.keys.insert(name, place)),
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

/// How the newest timeline came to be; the first one has no history.
async fn history(
    wal: &dyn BackupStorage,
    archive: &Archive,
    newest: u32,
) -> Result<Result<History, Finding>, StoreError> {
    if newest == 1 {
        return Ok(Ok(History::default()));
    }
    let wrong = |reason, key: Option<&str>, says: String| Ok(Err(finding(Rung::Present, reason, key, says)));
    let Some((key, size)) = archive.histories.get(&newest) else {
        return wrong(Reason::WalGap, None, format!("the history of timeline {newest} is not archived"));
    };
    let read = |stream: &mut dyn std::io::Read| -> Result<String, Flaw> {
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|source| Flaw::Unreadable { at: 0, source })?;
        Ok(text)
    };
    match pass(wal, file(key, *size), read).await? {
        None => wrong(Reason::WalGap, Some(key), format!("the history of timeline {newest} has gone")),
        Some(passed) => match passed.structure.map(|text| History::parse(&text)) {
            Ok(Ok(history)) => Ok(Ok(history)),
            Ok(Err(error)) => wrong(Reason::Structure, Some(key), error.to_string()),
            Err(flaw) => wrong(Reason::Encoding, Some(key), recovery::fault::chain(&flaw)),
        },
    }
}

/// Follows the log from segment to segment.
async fn follow(
    wal: &dyn BackupStorage,
    archive: &Archive,
    needed: &[SegmentName],
    system: &str,
    history: History,
) -> Result<Vec<Finding>, StoreError> {
    let expected = Expected { system_identifier: system.parse().ok(), major: None, history: Some(history) };
    let mut walk = Walk::new(expected);
    for name in needed.iter().take(MOST_SEGMENTS).copied() {
        let Some((key, size)) = archive.keys.get(&name) else { break };
        let mut here = walk;
        let read = move |stream: &mut dyn std::io::Read| -> Result<(Walk, Result<(), Flaw>), Flaw> {
            let followed = here.segment(name, std::io::BufReader::with_capacity(64 * 1024, stream));
            Ok((here, followed))
        };
        let Some(passed) = pass(wal, file(key, *size), read).await? else {
            return Ok(vec![finding(Rung::Structure, Reason::WalGap, Some(key), "the segment has gone")]);
        };
        let (after, followed) = match passed.structure {
            Ok(walked) => walked,
            Err(flaw) => {
                return Ok(vec![finding(Rung::Structure, Reason::Encoding, Some(key), recovery::fault::chain(&flaw))]);
            }
        };
        walk = after;
        if let Err(flaw) = followed {
            let reason = if matches!(flaw, Flaw::Foreign { .. }) { Reason::WalForeign } else { Reason::Structure };
            return Ok(vec![finding(Rung::Structure, reason, Some(key), recovery::fault::chain(&flaw))]);
        }
    }
    if needed.len() > MOST_SEGMENTS {
        let says = format!("{} of {} segments were not followed", needed.len() - MOST_SEGMENTS, needed.len());
        return Ok(vec![finding(Rung::Structure, Reason::NotChecked, None, says)]);
    }
    Ok(Vec::new())
}

/// A file of the archive, whose digests nobody noted.
fn file(key: &str, size_bytes: u64) -> Subject<'_> {
    Subject { key, version_id: None, size_bytes, encoding: Encoding::Zstd, plain: Algorithm::Crc64Nvme }
}
