//! What is in an archive, against what the manifest says of it.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read},
};

use recovery::{
    backup::{Artifact, BackupManifest, Content, DatabaseFacts, DumpFormat, FileListing, Reason, Source, TableFacts},
    closure::Closure,
    cluster_state::{ExportError, VolumeSnapshot},
    fault::chain,
    lsn::Lsn,
    registry::ImageDigests,
    replication::ReplicationSample,
};
use recovery_archive::{
    Flaw,
    base::{self, Base},
    custom::{self, Contents, Dump},
};
use recovery_export::ExportCheck;
use serde::de::DeserializeOwned;

/// What was in an archive.
#[derive(Debug)]
pub enum Facts {
    /// Nothing more than bytes was asked for.
    Bytes,
    /// `pg_dump` in its custom format.
    Dump(Box<Dump>),
    /// The table of contents of a dump in the directory format.
    Contents(Box<Contents>),
    /// Rows of one table.
    Rows(u64),
    /// Names of files with large objects.
    LargeObjects(Vec<String>),
    /// A base backup.
    Base(Box<Base>),
    /// Files of a tablespace.
    Tablespace(FileListing),
    /// SQL, complete to its last line.
    Sql,
    /// Resources of a cluster, by kind.
    Cluster(BTreeMap<String, u64>),
    /// A document of a known form, and what it says is wrong with the platform.
    Document(Option<String>),
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
        Content::Dump { format: DumpFormat::Directory, .. } => {
            custom::contents(stream).map(Box::new).map(Facts::Contents)
        }
        Content::DumpData { table: Some(_), .. } => custom::rows(stream).map(Facts::Rows),
        Content::DumpData { file, .. } if file.ends_with(".toc") => large_objects(stream).map(Facts::LargeObjects),
        Content::DumpData { .. } => bytes(stream),
        Content::Globals => sql(stream, END_OF_GLOBALS),
        Content::BaseBackup => base::read(stream).map(Box::new).map(Facts::Base),
        Content::Tablespace { oid, .. } => base::tablespace(stream, *oid).map(Facts::Tablespace),
        Content::ClusterResources => cluster(stream),
        Content::VolumeSnapshots => document(stream, unready),
        Content::ReplicationStatus => document(stream, unreplicated),
        Content::ImageDigests => document(stream, uncopied),
        Content::RecoveryClosure => document(stream, open),
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

/// The most bytes of a list of large objects that are read: some hundred thousand names.
const LARGE_OBJECTS_BYTES: u64 = 8 << 20;

/// A list of large objects: a line each with its number and the name of its file.
fn large_objects(stream: &mut dyn Read) -> Result<Vec<String>, Flaw> {
    let mut text = String::new();
    let read = stream.take(LARGE_OBJECTS_BYTES + 1).read_to_string(&mut text);
    read.map_err(|source| Flaw::Unreadable { at: 0, source })?;
    if text.len() as u64 > LARGE_OBJECTS_BYTES {
        return Err(Flaw::Unsupported(format!("a list of large objects of more than {LARGE_OBJECTS_BYTES} bytes")));
    }
    let wrong = |line: &str| Flaw::Malformed { at: 0, what: format!("`{line}` names no large object") };
    text.lines().map(|line| line.split_once(' ').map(|(_, file)| file.to_owned()).ok_or_else(|| wrong(line))).collect()
}

fn cluster(stream: &mut dyn Read) -> Result<Facts, Flaw> {
    let (mut check, mut window, mut at) = (ExportCheck::new(), vec![0; 64 * 1024], 0);
    let malformed = |at, error: &ExportError| Flaw::Malformed { at, what: chain(error) };
    loop {
        match stream.read(&mut window) {
            Ok(0) => break,
            Ok(count) => {
                check.feed(&window[..count]).map_err(|error| malformed(at, &error))?;
                at += count as u64;
            }
            Err(source) => return Err(Flaw::Unreadable { at, source }),
        }
    }
    let (_, summary) = check.finish().map_err(|error| malformed(at, &error))?;
    Ok(Facts::Cluster(summary.counts))
}

/// One JSON document of a known form, and what it says is wrong.
fn document<T: DeserializeOwned>(stream: &mut dyn Read, wrong: fn(&T) -> Option<String>) -> Result<Facts, Flaw> {
    let read = serde_json::from_reader::<_, T>(BufReader::new(stream));
    match read {
        Ok(document) => Ok(Facts::Document(wrong(&document))),
        Err(error) if error.is_eof() => Err(Flaw::Truncated { at: 0, inside: "the document".to_owned() }),
        Err(error) if error.is_io() => Err(Flaw::Unreadable { at: 0, source: io::Error::from(error) }),
        Err(error) => Err(Flaw::Malformed { at: 0, what: error.to_string() }),
    }
}

#[expect(clippy::ptr_arg, reason = "the form of the document")]
fn unready(snapshots: &Vec<VolumeSnapshot>) -> Option<String> {
    let unready: Vec<&str> =
        snapshots.iter().filter(|snapshot| !snapshot.ready).map(|snapshot| snapshot.claim.as_str()).collect();
    (!unready.is_empty()).then(|| format!("no volume can be made from the snapshots of {}", unready.join(", ")))
}

fn unreplicated(sample: &ReplicationSample) -> Option<String> {
    let wrong = sample.wrong();
    if wrong > 0 {
        let (checked, source, copy) = (sample.checked, &sample.source, &sample.copy);
        return Some(format!("{wrong} of {checked} objects of `{source}` are not in `{copy}` as they should be"));
    }
    sample.trouble.clone()
}

fn uncopied(digests: &ImageDigests) -> Option<String> {
    let (missing, first) = (digests.comparison.missing, digests.comparison.missing_images.first());
    (missing > 0)
        .then(|| format!("the copy lacks {missing} images, such as {}", first.map_or("none named", String::as_str)))
}

fn open(closure: &Closure) -> Option<String> {
    let Closure { checked, missing, unknown, .. } = closure;
    (!closure.is_closed())
        .then(|| format!("of {checked} things that a failover needs {missing} are missing and {unknown} unknown"))
}

/// What contradicts the manifest, and why it matters.
pub fn compare(artifact: &Artifact, manifest: &BackupManifest, facts: &Facts) -> Vec<(Reason, String)> {
    match (facts, &artifact.content, &manifest.source) {
        (Facts::Dump(dump), Content::Dump { database, .. }, Source::PostgreSql { databases, .. }) => {
            let said = databases.iter().find(|facts| facts.name == *database);
            said.map_or_else(Vec::new, |said| compare_dump(dump, said))
        }
        (Facts::Contents(contents), Content::Dump { database, .. }, Source::PostgreSql { databases, .. }) => {
            let said = databases.iter().find(|facts| facts.name == *database);
            compare_contents(contents, database, said, manifest)
        }
        (
            Facts::Rows(rows),
            Content::DumpData { database, table: Some(table), .. },
            Source::PostgreSql { databases, .. },
        ) => {
            let said = databases.iter().find(|facts| facts.name == *database);
            let said = said.and_then(|said| said.tables.iter().find(|one| one.name == *table));
            let differs = said.filter(|said| said.rows != *rows);
            let what =
                |said: &TableFacts| format!("`{table}` has {rows} rows in it and had {} in its snapshot", said.rows);
            differs.map(|said| (Reason::Structure, what(said))).into_iter().collect()
        }
        (Facts::LargeObjects(files), Content::DumpData { database, .. }, _) => lacks(files.iter(), database, manifest),
        (Facts::Base(base), _, Source::PostgreSql { system_identifier, timeline, from_lsn, to_lsn, .. }) => {
            let mut found = compare_base(base, system_identifier.as_deref(), *timeline, *from_lsn, *to_lsn);
            found.extend(compare_tablespaces(base, manifest));
            found
        }
        (Facts::Tablespace(_), Content::Tablespace { listing: None, .. }, _) => {
            vec![(Reason::NotChecked, "the manifest does not say what is in it".to_owned())]
        }
        (Facts::Tablespace(is), Content::Tablespace { listing: Some(said), .. }, _) if is != said => {
            let (is, said) = (is.files, said.files);
            vec![(Reason::Structure, format!("its {is} files are not the {said} that PostgreSQL's manifest lists"))]
        }
        (Facts::Cluster(counts), _, Source::Kubernetes { counts: said, .. }) if counts != said => {
            let (is, was): (u64, u64) = (counts.values().sum(), said.values().sum());
            vec![(Reason::Structure, format!("it holds {is} objects and was written with {was}, or others by kind"))]
        }
        (Facts::Document(Some(wrong)), ..) => vec![(Reason::NotCovered, wrong.clone())],
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

/// Files of a dump in the directory format that the manifest does not have.
fn lacks<'a>(
    files: impl Iterator<Item = &'a String>,
    database: &str,
    manifest: &BackupManifest,
) -> Vec<(Reason, String)> {
    let has = |wanted: &str| {
        let is = |content: &Content| matches!(content, Content::DumpData { database: of, file, .. } if of == database && file == wanted);
        manifest.artifacts.iter().any(|artifact| is(&artifact.content))
    };
    files
        .filter(|file| !has(file))
        .map(|file| (Reason::NotCovered, format!("the file `{file}`, which it names, is not in the backup")))
        .collect()
}

fn compare_contents(
    contents: &Contents,
    database: &str,
    said: Option<&DatabaseFacts>,
    manifest: &BackupManifest,
) -> Vec<(Reason, String)> {
    if contents.database != database {
        let what = format!("it is the dump of `{}`, the manifest says of `{database}`", contents.database);
        return vec![(Reason::OtherContent, what)];
    }
    let mut found = lacks(contents.files.iter().map(|file| &file.file), database, manifest);
    let tables =
        said.into_iter().flat_map(|said| said.tables.iter().filter(|table| !said.excluded.contains(&table.name)));
    for table in tables {
        if !contents.files.iter().any(|file| file.table.as_ref() == Some(&table.name)) {
            found.push((Reason::NotCovered, format!("the data of `{}` is not in it", table.name)));
        }
    }
    found
}

/// What PostgreSQL lists of tablespaces must be what their archives were written with.
fn compare_tablespaces(base: &Base, manifest: &BackupManifest) -> Vec<(Reason, String)> {
    let said = |wanted: u32| {
        manifest.artifacts.iter().find_map(|artifact| match &artifact.content {
            Content::Tablespace { oid, listing, .. } if *oid == wanted => Some(listing.as_ref()),
            _ => None,
        })
    };
    let differs = |(oid, listed): (&u32, &FileListing)| match said(*oid) {
        None => {
            let what = format!("the tablespace {oid}, of which it lists {} files, is not in the backup", listed.files);
            Some((Reason::NotCovered, what))
        }
        Some(said) if said != Some(listed) => {
            Some((Reason::OtherContent, format!("it lists other files of the tablespace {oid} than the manifest says")))
        }
        Some(_) => None,
    };
    base.tablespaces.iter().filter_map(differs).collect()
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
        found.push((
            Reason::OtherContent,
            "it begins or ends at another place of the log than the manifest says".to_owned(),
        ));
    }
    if timeline.is_some_and(|said| first.is_some_and(|range| range.timeline != said)) {
        found.push((Reason::OtherContent, "it is of another timeline than the manifest says".to_owned()));
    }
    if base.log.is_none() {
        let what = "the log that it needs is not in it, and the archive of the log was not looked at".to_owned();
        found.push((Reason::NotChecked, what));
    }
    if base.unchecked > 0 {
        let what =
            format!("{} files have checksums of another kind than CRC-32C, which were not compared", base.unchecked);
        found.push((Reason::NotChecked, what));
    }
    found
}
