//! What is in an archive, against what the manifest says of it.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read},
};

use recovery::{
    backup::{Artifact, BackupManifest, Content, DatabaseFacts, DumpFormat, Reason, Source},
    lsn::Lsn,
};
use recovery_archive::{
    Flaw,
    base::{self, Base},
    custom::{self, Dump},
};
use serde::de::IgnoredAny;

/// What was in an archive.
#[derive(Debug)]
pub enum Facts {
    /// Nothing more than bytes was asked for.
    Bytes,
    /// `pg_dump` in its custom format.
    Dump(Box<Dump>),
    /// A base backup.
    Base(Box<Base>),
    /// SQL, complete to its last line.
    Sql,
    /// So many JSON documents.
    Documents(u64),
}

/// How the last lines of SQL must look. `gunzip -t` passes a dump whose pg_dump died: only these tell.
const END_OF_DUMP: &str = "-- PostgreSQL database dump complete";
const END_OF_GLOBALS: &str = "-- PostgreSQL database cluster dump complete";
/// How much of the end is kept.
const TAIL: usize = 4 * 1024;

/// Passes over everything.
///
/// # Errors
/// None of its own.
pub fn bytes(_: &mut dyn Read) -> Result<Facts, Flaw> {
    Ok(Facts::Bytes)
}

/// Reads an archive as what it should be.
///
/// # Errors
/// It is something else, or is not whole.
pub fn read(content: &Content, stream: &mut dyn Read) -> Result<Facts, Flaw> {
    match content {
        Content::Dump { format: DumpFormat::Custom, .. } => custom::read(stream).map(Box::new).map(Facts::Dump),
        Content::Dump { format: DumpFormat::Plain, .. } => sql(stream, END_OF_DUMP),
        Content::Globals => sql(stream, END_OF_GLOBALS),
        Content::BaseBackup => base::read(stream).map(Box::new).map(Facts::Base),
        Content::ClusterResources
        | Content::VolumeSnapshots
        | Content::ReplicationStatus
        | Content::ImageDigests
        | Content::RecoveryClosure => documents(stream),
    }
}

fn sql(stream: &mut dyn Read, end: &str) -> Result<Facts, Flaw> {
    let (mut tail, mut window, mut at) = (Vec::new(), vec![0; 64 * 1024], 0);
    loop {
        let count = match stream.read(&mut window) {
            Ok(0) => break,
            Ok(count) => count,
            Err(source) => return Err(Flaw::Unreadable { at, source }),
        };
        at += count as u64;
        tail.extend_from_slice(&window[..count]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
    if String::from_utf8_lossy(&tail).lines().any(|line| line == end) {
        return Ok(Facts::Sql);
    }
    Err(Flaw::Truncated { at, inside: format!("the SQL: its last line `{end}` is missing") })
}

fn documents(stream: &mut dyn Read) -> Result<Facts, Flaw> {
    let mut documents = serde_json::Deserializer::from_reader(BufReader::new(stream)).into_iter::<IgnoredAny>();
    let mut count = 0;
    while let Some(document) = documents.next() {
        let at = documents.byte_offset() as u64;
        match document {
            Ok(_) => count += 1,
            Err(error) if error.is_eof() => {
                return Err(Flaw::Truncated { at, inside: format!("document {}", count + 1) });
            }
            Err(error) if error.is_io() => return Err(Flaw::Unreadable { at, source: io::Error::from(error) }),
            Err(error) => return Err(Flaw::Malformed { at, what: error.to_string() }),
        }
    }
    if count == 0 {
        return Err(Flaw::Truncated { at: 0, inside: "the first document".to_owned() });
    }
    Ok(Facts::Documents(count))
}

/// What contradicts the manifest, and why it matters.
pub fn compare(artifact: &Artifact, manifest: &BackupManifest, facts: &Facts) -> Vec<(Reason, String)> {
    match (facts, &artifact.content, &manifest.source) {
        (Facts::Dump(dump), Content::Dump { database, .. }, Source::PostgreSql { databases, .. }) => {
            let said = databases.iter().find(|facts| facts.name == *database);
            said.map_or_else(Vec::new, |said| compare_dump(dump, said))
        }
        (Facts::Base(base), _, Source::PostgreSql { system_identifier, timeline, from_lsn, to_lsn, .. }) => {
            compare_base(base, system_identifier.as_deref(), *timeline, *from_lsn, *to_lsn)
        }
        _ => Vec::new(),
    }
}

fn compare_dump(dump: &Dump, said: &DatabaseFacts) -> Vec<(Reason, String)> {
    let mut found = Vec::new();
    if dump.database != said.name {
        let what = format!("it is the dump of `{}`, the manifest says of `{}`", dump.database, said.name);
        found.push((Reason::OtherContent, what));
        return found;
    }
    let rows: BTreeMap<String, Option<u64>> =
        dump.tables.iter().map(|table| (format!("{}.{}", table.schema, table.name), table.rows)).collect();
    for table in said.tables.iter().filter(|table| !said.excluded.contains(&table.name)) {
        match rows.get(&table.name) {
            None => found.push((Reason::NotCovered, format!("the data of `{}` is not in it", table.name))),
            Some(Some(rows)) if *rows != table.rows => {
                let what = format!("`{}` has {rows} rows in it and had {} in its snapshot", table.name, table.rows);
                found.push((Reason::Structure, what));
            }
            Some(_) => {}
        }
    }
    found
}

fn compare_base(
    base: &Base,
    system: Option<&str>,
    timeline: Option<u32>,
    from: Option<Lsn>,
    to: Option<Lsn>,
) -> Vec<(Reason, String)> {
    let mut found = Vec::new();
    if let Some(system) = system.filter(|system| **system != base.system_identifier.to_string()) {
        let what = format!("it is of system {}, the manifest says of {system}", base.system_identifier);
        found.push((Reason::OtherContent, what));
    }
    let (first, last) = (base.ranges.first(), base.ranges.last());
    let contradicts = |said: Option<Lsn>, is: Option<Lsn>| said.is_some_and(|said| is != Some(said));
    if contradicts(from, first.map(|range| range.start)) || contradicts(to, last.map(|range| range.end)) {
        found.push((Reason::OtherContent, "it begins or ends at another place of the log than the manifest says".to_owned()));
    }
    if timeline.is_some_and(|said| first.is_some_and(|range| range.timeline != said)) {
        found.push((Reason::OtherContent, "it is of another timeline than the manifest says".to_owned()));
    }
    if base.log.is_none() {
        let what = "the log that it needs is not in it, and the archive of the log was not looked at".to_owned();
        found.push((Reason::NotChecked, what));
    }
    if base.unchecked > 0 {
        let what = format!("{} files have checksums of another kind than CRC-32C, which were not compared", base.unchecked);
        found.push((Reason::NotChecked, what));
    }
    found
}
