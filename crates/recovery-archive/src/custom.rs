//! `pg_dump --format=custom`, read as a stream to its end; and the table of contents of `--format=directory`, whose data lies
//! in files beside it.
//!
//! The format has no mark at its end, so an archive that was cut between two tables looks whole to whoever reads only its
//! table of contents (`pg_restore --list` does). What tells is the comparison made here: every entry that says it has data
//! must have brought it, each text of a `COPY` must end in its own mark, and nothing may follow.
//!
//! The layout is that of `src/bin/pg_dump/pg_backup_archiver.c` and `pg_backup_custom.c`, versions 1.12 (PostgreSQL 9.0)
//! to 1.16 (17 and 18), seen on archives of PostgreSQL 15.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
};

use flate2::bufread::ZlibDecoder;

use crate::{Flaw, source::Source};

const MAGIC: &[u8; 5] = b"PGDMP";
/// `archCustom`; and `archTar` and `archDirectory`: a `toc.dat` calls itself the former and is written as the latter.
const CUSTOM: u8 = 1;
const IN_FILES: [u8; 2] = [3, 5];
const OLDEST: (u8, u8) = (1, 12);
const NEWEST: (u8, u8) = (1, 16);
/// `BLK_DATA` and `BLK_BLOBS`
const DATA: u8 = 1;
const BLOBS: u8 = 3;
/// `K_OFFSET_NO_DATA`
const NO_DATA: u8 = 3;
/// What ends the text of a `COPY`, with the empty lines that pg_dump writes behind it.
const END_OF_COPY: &[u8; 5] = b"\\.\n\n\n";
/// Lines of [`END_OF_COPY`].
const LINES_OF_THE_END: u64 = 3;
/// The longest name that is kept; PostgreSQL's own have at most 63 bytes.
const MAX_NAME: u64 = 16 * 1024;
/// The most entries in a table of contents that are believed.
const MAX_ENTRIES: i64 = 10_000_000;
/// How much of the text is looked at at once.
const WINDOW: usize = 64 * 1024;

/// What was in a dump that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// The database it was taken of.
    pub database: String,
    /// The server's version, as the server says it.
    pub server_version: String,
    /// The version of pg_dump.
    pub tool_version: String,
    /// How many entries its table of contents has.
    pub entries: u64,
    /// How many of them have data, all of which has been read.
    pub entries_with_data: u64,
    /// The tables whose data is in it.
    pub tables: Vec<Table>,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of the archive.
    pub bytes: u64,
}

/// The data of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Rows, if the data is the text of a `COPY`.
    pub rows: Option<u64>,
    /// Bytes of that text.
    pub bytes: u64,
}

/// How pg_dump itself compressed data.
#[derive(Clone, Copy)]
enum Compression {
    Zlib,
    Zstd,
}

/// The table of contents of a dump in the directory format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The database it was taken of.
    pub database: String,
    /// How many entries it has.
    pub entries: u64,
    /// The files that those of them have that have data.
    pub files: Vec<DataFile>,
}

/// A file with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Its name in the directory.
    pub file: String,
    /// The table, as `schema.table`, if it is the data of one.
    pub table: Option<String>,
}

/// An entry with data.
struct Entry {
    description: String,
    schema: String,
    name: String,
    is_copy: bool,
}

struct Reader<R> {
    source: Source<R>,
    version: (u8, u8),
    int_bytes: u8,
    offset_bytes: u8,
}

/// Reads a dump to its end.
///
/// # Errors
/// It ends early, is damaged, or is not a dump in the custom format.
pub fn read(stream: impl Read) -> Result<Dump, Flaw> {
    let source = Source::new(BufReader::with_capacity(WINDOW, stream));
    let mut reader = Reader { source, version: (0, 0), int_bytes: 4, offset_bytes: 8 };
    let (compression, mut dump) = reader.header()?;
    let mut pending = reader.contents(&mut dump)?;
    while let Some(kind) = reader.source.byte_or_end("a block of data")? {
        let at = reader.source.at() - 1;
        let id = reader.int("a block of data")?;
        let Some(entry) = pending.remove(&id) else {
            let what = format!("data of entry {id}, which the table of contents does not have or which came before");
            return Err(Flaw::Malformed { at, what });
        };
        match kind {
            DATA => dump.tables.extend(reader.table(&entry, compression)?),
            BLOBS => dump.large_objects += reader.blobs(&entry, compression)?,
            other => return Err(Flaw::Malformed { at, what: format!("a block of the unknown kind {other}") }),
        }
        dump.entries_with_data += 1;
    }
    dump.bytes = reader.source.at();
    if let Some(entry) = pending.values().next() {
        let inside =
            format!("the data: {} of {} is missing, and {} more", entry.description, entry.label(), pending.len() - 1);
        return Err(Flaw::Truncated { at: dump.bytes, inside });
    }
    Ok(dump)
}

/// Reads the `toc.dat` of a dump in the directory format to its end.
///
/// # Errors
/// It ends early, is damaged, or is of another format.
pub fn contents(stream: impl Read) -> Result<Contents, Flaw> {
    let source = Source::new(BufReader::with_capacity(WINDOW, stream));
    let mut reader = Reader { source, version: (0, 0), int_bytes: 4, offset_bytes: 8 };
    let (_, dump) = reader.header_of(&IN_FILES)?;
    let mut contents = Contents { database: dump.database, entries: 0, files: Vec::new() };
    let count = reader.count()?;
    for _ in 0..count {
        let (_, _, entry) = reader.entry()?;
        let file = reader.text("the name of a file")?.unwrap_or_default();
        contents.entries += 1;
        if !file.is_empty() {
            let table = (entry.description == "TABLE DATA").then(|| format!("{}.{}", entry.schema, entry.name));
            contents.files.push(DataFile { file, table });
        }
    }
    reader.source.end("the table of contents")?;
    Ok(contents)
}

/// Reads the file of a table in a dump in the directory format to its end, and counts its rows.
///
/// # Errors
/// It does not end as the text of a `COPY` ends.
pub fn rows(stream: impl Read) -> Result<u64, Flaw> {
    let mut text = CopyText::default();
    let mut source = Source::new(stream);
    let mut window = vec![0; WINDOW];
    loop {
        let count = source.fill(&mut window, "the text of a COPY")?;
        text.take(&window[..count]);
        if count < window.len() {
            break;
        }
    }
    text.rows().ok_or_else(|| Flaw::Truncated { at: source.at(), inside: "the text of a COPY".to_owned() })
}

/// The text of a `COPY`, of which the rows and the end are looked at.
#[derive(Default)]
struct CopyText {
    bytes: u64,
    lines: u64,
    tail: [u8; END_OF_COPY.len()],
}

impl CopyText {
    fn take(&mut self, text: &[u8]) {
        self.pass(text);
        self.lines += lines(text);
    }

    /// The same of a text whose lines are counted elsewhere.
    fn pass(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        match text.last_chunk() {
            Some(last) => self.tail = *last,
            None => {
                self.tail.rotate_left(text.len());
                self.tail[END_OF_COPY.len() - text.len()..].copy_from_slice(text);
            }
        }
    }

    /// How many rows it has, if it has its end.
    fn rows(&self) -> Option<u64> {
        (self.tail == *END_OF_COPY).then(|| self.lines - LINES_OF_THE_END)
    }
}

impl Entry {
    fn label(&self) -> String {
        if self.schema.is_empty() { format!("`{}`", self.name) } else { format!("`{}.{}`", self.schema, self.name) }
    }
}

impl<R: BufRead> Reader<R> {
    fn header(&mut self) -> Result<(Option<Compression>, Dump), Flaw> {
        self.header_of(&[CUSTOM])
    }

    fn header_of(&mut self, formats: &[u8]) -> Result<(Option<Compression>, Dump), Flaw> {
        let inside = "the header";
        if &self.source.array::<5>(inside)? != MAGIC {
            return Err(self.source.malformed("this is no dump in pg_dump's custom format"));
        }
        let [major, minor, _revision, int_bytes, offset_bytes, format] = self.source.array(inside)?;
        self.version = (major, minor);
        if self.version < OLDEST || self.version > NEWEST {
            return Err(Flaw::Unsupported(format!("version {major}.{minor} of pg_dump's format")));
        }
        if !(1..=8).contains(&int_bytes) || !(1..=8).contains(&offset_bytes) {
            return Err(self.source.malformed(format!("integers of {int_bytes} and offsets of {offset_bytes} bytes")));
        }
        (self.int_bytes, self.offset_bytes) = (int_bytes, offset_bytes);
        if !formats.contains(&format) {
            return Err(Flaw::Unsupported(format!(
                "pg_dump's format number {format}, which is not the one of its name,"
            )));
        }
        let compression = if self.version >= (1, 15) {
            match self.source.byte(inside)? {
                0 => None,
                1 => Some(Compression::Zlib),
                3 => Some(Compression::Zstd),
                2 => return Err(Flaw::Unsupported("a dump that pg_dump compressed by lz4".to_owned())),
                other => return Err(self.source.malformed(format!("the unknown compression {other}"))),
            }
        } else if self.int(inside)? == 0 {
            None
        } else {
            Some(Compression::Zlib)
        };
        for _ in 0..7 {
            self.int(inside)?; // The local time of the dump, without its zone.
        }
        let dump = Dump {
            database: self.text(inside)?.unwrap_or_default(),
            server_version: self.text(inside)?.unwrap_or_default(),
            tool_version: self.text(inside)?.unwrap_or_default(),
            entries: 0,
            entries_with_data: 0,
            tables: Vec::new(),
            large_objects: 0,
            bytes: 0,
        };
        Ok((compression, dump))
    }

    /// The table of contents: entries that have data, by their number.
    fn contents(&mut self, dump: &mut Dump) -> Result<BTreeMap<i64, Entry>, Flaw> {
        let inside = "the table of contents";
        let count = self.count()?;
        let mut with_data = BTreeMap::new();
        for _ in 0..count {
            let (id, has_dumper, entry) = self.entry()?;
            let state = self.source.byte(inside)?;
            if !(1..=3).contains(&state) {
                return Err(self.source.malformed(format!("an offset of the unknown kind {state}")));
            }
            self.source.skip(self.offset_bytes.into(), inside)?;
            if has_dumper && state != NO_DATA && with_data.insert(id, entry).is_some() {
                return Err(self.source.malformed(format!("entry {id} is there twice")));
            }
            dump.entries += 1;
        }
        Ok(with_data)
    }

    /// How many entries the table of contents has.
    fn count(&mut self) -> Result<i64, Flaw> {
        let count = self.int("the table of contents")?;
        if (0..=MAX_ENTRIES).contains(&count) {
            Ok(count)
        } else {
            Err(self.source.malformed(format!("a table of contents with {count} entries")))
        }
    }

    /// An entry without what its format adds at its end: its number, whether pg_dump had data for it, and what is kept of it.
    fn entry(&mut self) -> Result<(i64, bool, Entry), Flaw> {
        let inside = "the table of contents";
        let id = self.int(inside)?;
        let has_dumper = self.int(inside)? != 0;
        self.pass_text(inside)?; // the catalogue it is from
        self.pass_text(inside)?; // its object identifier
        let name = self.text(inside)?.unwrap_or_default();
        let description = self.text(inside)?.unwrap_or_default();
        self.int(inside)?; // the section
        self.pass_text(inside)?; // its definition
        self.pass_text(inside)?; // how it is dropped
        let is_copy = self.pass_text(inside)? > 0;
        let schema = self.text(inside)?.unwrap_or_default();
        self.pass_text(inside)?; // the tablespace
        if self.version >= (1, 14) {
            self.pass_text(inside)?; // the access method
        }
        if self.version >= (1, 16) {
            self.int(inside)?; // the kind of relation
        }
        self.pass_text(inside)?; // the owner
        self.pass_text(inside)?; // whether it has object identifiers
        while self.pass_text(inside)? >= 0 {} // what it depends on
        Ok((id, has_dumper, Entry { description, schema, name, is_copy }))
    }

    fn table(&mut self, entry: &Entry, compression: Option<Compression>) -> Result<Option<Table>, Flaw> {
        let label = format!("{} of {}", entry.description, entry.label());
        let mut copied = CopyText::default();
        self.block(compression, &label, &mut copied)?;
        if entry.description != "TABLE DATA" {
            return Ok(None);
        }
        let rows = match entry.is_copy {
            true => match copied.rows() {
                None => return Err(self.source.malformed(format!("{label} does not end as the text of a COPY ends"))),
                rows => rows,
            },
            false => None,
        };
        let bytes = copied.bytes;
        Ok(Some(Table { schema: entry.schema.clone(), name: entry.name.clone(), rows, bytes }))
    }

    fn blobs(&mut self, entry: &Entry, compression: Option<Compression>) -> Result<u64, Flaw> {
        let mut count = 0;
        loop {
            match self.int("large objects")? {
                0 => return Ok(count),
                id => {
                    let label = format!("large object {id} of {}", entry.label());
                    self.block(compression, &label, &mut CopyText::default())?;
                }
            }
            count += 1;
        }
    }

    /// Reads the chunks of one block to their end, decoded.
    fn block(&mut self, compression: Option<Compression>, label: &str, text: &mut CopyText) -> Result<(), Flaw> {
        match compression {
            None => self.plain_block(label, text),
            Some(compression) => self.encoded_block(compression, label, text),
        }
    }

    /// pg_dump makes a chunk of each row, so those are taken where they lie; and of a whole window lines are counted sooner
    /// than of its rows, one by one.
    fn plain_block(&mut self, label: &str, text: &mut CopyText) -> Result<(), Flaw> {
        loop {
            let window = self.source.window(label)?;
            let (mut at, mut ended, mut in_lengths) = (0, false, 0);
            while !ended && let Some((length, chunk)) = whole_chunk(&window[at..], self.int_bytes) {
                let length_of_it = &window[at..at + length - chunk.len()];
                in_lengths += length_of_it.iter().filter(|byte| **byte == b'\n').count() as u64;
                at += length;
                ended = chunk.is_empty();
                text.pass(chunk);
            }
            text.lines += lines(&window[..at]) - in_lengths;
            self.source.consume(at);
            if ended {
                return Ok(());
            }
            // One that the window does not hold as a whole.
            let length = self.int(label)?;
            let Ok(mut left) = usize::try_from(length) else {
                return Err(self.source.malformed(format!("a chunk of {length} bytes in {label}")));
            };
            if left == 0 {
                return Ok(());
            }
            while left > 0 {
                let window = self.source.window(label)?;
                if window.is_empty() {
                    return Err(Flaw::Truncated { at: self.source.at(), inside: label.to_owned() });
                }
                let now = left.min(window.len());
                text.take(&window[..now]);
                self.source.consume(now);
                left -= now;
            }
        }
    }

    fn encoded_block(&mut self, compression: Compression, label: &str, text: &mut CopyText) -> Result<(), Flaw> {
        let int_bytes = self.int_bytes;
        let mut chunks = Chunks { source: &mut self.source, int_bytes, left: 0, ended: false };
        let read = match compression {
            // What has no bytes was never given to a compressor.
            _ if chunks.is_empty().map_err(|error| failed(&chunks, error, label))? => Ok(()),
            Compression::Zlib => {
                let mut encoded = BufReader::with_capacity(WINDOW, &mut chunks);
                let mut decoded = BufReader::with_capacity(WINDOW, ZlibDecoder::new(&mut encoded));
                drain(&mut decoded, text).and_then(|()| drop_rest(&mut encoded))
            }
            Compression::Zstd => {
                let encoded = BufReader::with_capacity(WINDOW, &mut chunks);
                zstd::stream::read::Decoder::with_buffer(encoded).and_then(|mut decoder| {
                    decoder.window_log_max(crate::decode::WINDOW_LOG)?;
                    drain(&mut BufReader::with_capacity(WINDOW, decoder), text)
                })
            }
        };
        read.map_err(|error| failed(&chunks, error, label))
    }

    fn int(&mut self, inside: &str) -> Result<i64, Flaw> {
        int(&mut self.source, self.int_bytes, inside)
    }

    /// A text that is kept.
    fn text(&mut self, inside: &str) -> Result<Option<String>, Flaw> {
        let Ok(length) = u64::try_from(self.int(inside)?) else { return Ok(None) };
        if length > MAX_NAME {
            return Err(self.source.malformed(format!("a name of {length} bytes in {inside}")));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.source.exact(&mut bytes, inside)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A text that is not kept: its length, or less than zero if there is none.
    fn pass_text(&mut self, inside: &str) -> Result<i64, Flaw> {
        let length = self.int(inside)?;
        self.source.skip(u64::try_from(length).unwrap_or(0), inside)?;
        Ok(length)
    }
}

fn lines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// The first chunk in a window that holds all of it: how much it takes with the length before it, and its bytes.
fn whole_chunk(window: &[u8], int_bytes: u8) -> Option<(usize, &[u8])> {
    let (negative, rest) = window.split_first()?;
    let (little, rest) = rest.split_at_checked(int_bytes.into())?;
    let length = little.iter().rev().fold(0, |high, low| high << 8 | u64::from(*low));
    let chunk = rest.get(..usize::try_from(length).ok()?)?;
    (*negative == 0).then(|| (window.len() - rest.len() + chunk.len(), chunk))
}

fn int<R: Read>(source: &mut Source<R>, bytes: u8, inside: &str) -> Result<i64, Flaw> {
    let negative = source.byte(inside)? != 0;
    let mut little = [0; 8];
    source.exact(&mut little[..bytes.into()], inside)?;
    let value = i64::try_from(u64::from_le_bytes(little))
        .map_err(|_| source.malformed(format!("a number that is too large in {inside}")))?;
    Ok(if negative { -value } else { value })
}

fn failed<R: Read>(chunks: &Chunks<'_, R>, error: std::io::Error, label: &str) -> Flaw {
    chunks.source.failed(error, label)
}

fn drain(stream: &mut impl BufRead, text: &mut CopyText) -> std::io::Result<()> {
    loop {
        let window = stream.fill_buf()?;
        if window.is_empty() {
            return Ok(());
        }
        text.take(window);
        let count = window.len();
        stream.consume(count);
    }
}

/// Behind the end of the compressed stream its block must end too.
fn drop_rest(stream: &mut impl BufRead) -> std::io::Result<()> {
    if stream.fill_buf()?.is_empty() {
        return Ok(());
    }
    Err(std::io::Error::other("a block goes on after its compressed data has ended"))
}

/// The chunks of a block as one stream.
struct Chunks<'a, R> {
    source: &'a mut Source<R>,
    int_bytes: u8,
    left: u64,
    ended: bool,
}

impl<R: Read> Chunks<'_, R> {
    fn is_empty(&mut self) -> std::io::Result<bool> {
        self.next_chunk()?;
        Ok(self.ended)
    }

    fn next_chunk(&mut self) -> std::io::Result<()> {
        use std::io::{Error, ErrorKind};
        if self.left > 0 || self.ended {
            return Ok(());
        }
        let length = int(self.source, self.int_bytes, "the length of a chunk").map_err(|flaw| match flaw {
            Flaw::Unreadable { source, .. } => source,
            Flaw::Truncated { .. } => Error::new(ErrorKind::UnexpectedEof, flaw.to_string()),
            flaw => Error::other(flaw.to_string()),
        })?;
        self.left = u64::try_from(length).map_err(|_| Error::other("a chunk of negative length"))?;
        self.ended = self.left == 0;
        Ok(())
    }
}

impl<R: Read> Read for Chunks<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.next_chunk()?;
        let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if now == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..now])?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block as pg_dump writes it without compression: a chunk of each piece, and one of no bytes at the end.
    fn block(pieces: &[&[u8]]) -> Vec<u8> {
        let mut block = Vec::new();
        for piece in pieces.iter().chain([&&b""[..]]) {
            block.push(0);
            block.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_le_bytes());
            block.extend_from_slice(piece);
        }
        block
    }

    fn reader(bytes: &[u8], window: usize) -> Reader<BufReader<&[u8]>> {
        let source = Source::new(BufReader::with_capacity(window, bytes));
        Reader { source, version: (1, 14), int_bytes: 4, offset_bytes: 8 }
    }

    #[test]
    fn chunks_are_the_same_however_they_fall_into_the_window() {
        // Lengths of 10 and of 266 bytes look like ends of lines.
        let long = vec![b'x'; 266];
        let pieces: [&[u8]; 7] = [b"1\tone\n", b"2\ttwo\n", b"3\t1234567\n", &long, b"\n", b"\\.\n", b"\n\n"];
        let (block, text) = (block(&pieces), pieces.concat());
        for window in [1, 2, 5, 6, 7, 11, 64, 271, 272, 4096] {
            let more = [&block[..], b"more"].concat();
            let mut reader = reader(&more, window);
            let mut copied = CopyText::default();
            reader.block(None, "a table", &mut copied).unwrap();
            assert_eq!((copied.bytes, copied.rows()), (text.len() as u64, Some(4)), "window {window}");
            assert_eq!(reader.source.at(), block.len() as u64, "window {window}");
        }
        for cut in 0..block.len() {
            let flaw = reader(&block[..cut], 64).block(None, "a table", &mut CopyText::default()).unwrap_err();
            assert!(matches!(&flaw, Flaw::Truncated { at, .. } if *at == cut as u64), "cut to {cut}: {flaw}");
        }
    }

    #[test]
    fn a_chunk_of_negative_length_is_named_and_a_text_without_its_end_has_no_rows() {
        let mut negative = block(&[b"1\n"]);
        negative[0] = 1;
        let flaw = reader(&negative, 64).block(None, "a table", &mut CopyText::default()).unwrap_err();
        assert!(flaw.to_string().contains("a chunk of -2 bytes in a table"), "{flaw}");
        let mut text = CopyText::default();
        b"1\n\\.\n\n".chunks(1).for_each(|piece| text.take(piece));
        assert_eq!(text.rows(), None);
    }
}
