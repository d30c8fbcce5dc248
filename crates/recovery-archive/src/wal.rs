//! Segments of the write-ahead log, page by page and record by record.
//!
//! A log is a chain: each page names its own address, each record names where the one before it began, and the first page
//! of each segment names the system. So a segment that is missing, that is of another cluster or of another branch of its
//! history, that was recycled and never filled, or in which one bit differs, is found without a server. What is missing is
//! what a plain restore does not notice: it ends there and promotes.
//!
//! The layout is that of `src/include/access/xlog_internal.h` and `xlogrecord.h`; the numbers of the page format are those
//! of PostgreSQL 13 to 18, seen on logs of 15.

mod first;
mod name;
mod records;

use std::io::Read;

use jiff::Timestamp;
use recovery::lsn::Lsn;

pub use first::FirstPage;
pub use name::{FileName, History, NotAHistory, SegmentName, Switch, segments};
use records::Records;

use crate::{Flaw, source::Source};

/// `XLOG_BLCKSZ` of every server that was not compiled otherwise.
pub const PAGE: usize = 8192;
/// The header of a page, and of the first page of a segment.
const SHORT: usize = 24;
const LONG: usize = 40;
/// Flags of a page: `XLP_FIRST_IS_CONTRECORD`, `XLP_LONG_HEADER`, `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
const CONTINUES: u16 = 0x0001;
const IS_LONG: u16 = 0x0002;
const OVERWRITES: u16 = 0x0008;

/// `XLOG_PAGE_MAGIC` by major version.
const MAGIC: [(u32, u16); 6] = [(13, 0xD106), (14, 0xD10D), (15, 0xD110), (16, 0xD113), (17, 0xD116), (18, 0xD118)];

/// What a log must be part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The system whose log it is; whatever the first segment says if it is not known.
    pub system_identifier: Option<u64>,
    /// The server's major version.
    pub major: Option<u32>,
    /// How the timeline of the last segment came to be; without it a page may be of any earlier timeline than its segment.
    pub history: Option<History>,
}

/// A log that is being followed, segment after segment.
#[derive(Debug)]
pub struct Walk {
    expected: Expected,
    magic: Option<u16>,
    segment_bytes: Option<u64>,
    /// Where the next segment begins.
    next: Option<Lsn>,
    timeline: u32,
    records: Records,
    segments: u64,
}

/// What was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Whose log it is.
    pub system_identifier: Option<u64>,
    /// How many segments.
    pub segments: u64,
    /// How many whole records, each with a checksum that fits.
    pub records: u64,
    /// Where the last whole record began. Whoever goes on from the segment that it is in reads it again, and so every
    /// record is seen behind the one before it.
    pub last: Option<Lsn>,
    /// The end of the last whole record.
    pub end: Option<Lsn>,
    /// The time of the newest commit: whatever was committed before it can be restored.
    pub committed_at: Option<Timestamp>,
    /// The timeline of the last page.
    pub timeline: u32,
    /// The bytes of one segment.
    pub segment_bytes: Option<u64>,
}

/// What a page's header says.
struct Header {
    magic: u16,
    flags: u16,
    timeline: u32,
    address: Lsn,
    /// What is left of a record that began on an earlier page.
    remaining: u32,
}

impl Walk {
    /// Follows a log from wherever its first segment begins.
    pub fn new(expected: Expected) -> Self {
        let magic = expected.major.and_then(|major| MAGIC.iter().find(|(known, _)| *known == major)).map(|(_, m)| *m);
        Self { expected, magic, segment_bytes: None, next: None, timeline: 0, records: Records::default(), segments: 0 }
    }

    /// Follows one segment to its end.
    ///
    /// # Errors
    /// It is not the next one, it is of another log, or it is damaged.
    pub fn segment(&mut self, name: SegmentName, stream: impl Read) -> Result<(), Flaw> {
        let mut source = Source::new(stream);
        let mut page = vec![0; PAGE];
        source.exact(&mut page, "the first page of the segment")?;
        let first = header(&page);
        let segment_bytes = self.first_page(&source, &page, &first)?;
        let base = name.start(segment_bytes);
        if let Some(next) = self.next.filter(|next| *next != base) {
            let missing = SegmentName::containing(name.timeline, next, segment_bytes);
            return Err(Flaw::Malformed { at: 0, what: format!("`{name}` came where `{missing}` was expected") });
        }
        let mut offset = 0;
        loop {
            let at = Lsn(base.0 + offset);
            self.page(&source, &page, name, at)?;
            offset += PAGE as u64;
            if offset == segment_bytes {
                break;
            }
            source.exact(&mut page, "the segment")?;
        }
        source.end("the segment")?;
        self.next = Some(Lsn(base.0 + segment_bytes));
        self.segments += 1;
        Ok(())
    }

    /// What was followed so far.
    pub fn followed(&self) -> Followed {
        Followed {
            system_identifier: self.expected.system_identifier,
            segments: self.segments,
            records: self.records.count(),
            last: self.records.last(),
            end: self.records.end(),
            committed_at: self.records.committed_at(),
            timeline: self.timeline,
            segment_bytes: self.segment_bytes,
        }
    }

    fn first_page<R: Read>(&mut self, source: &Source<R>, page: &[u8], first: &Header) -> Result<u64, Flaw> {
        let flaw = |what: String| Flaw::Malformed { at: 0, what };
        if first.flags & IS_LONG == 0 {
            return Err(source.malformed("this is no segment of a write-ahead log: its first page has no long header"));
        }
        let system = u64::from_le_bytes(eight(&page[24..32]));
        let (segment, block) = (u32::from_le_bytes(four(&page[32..36])), u32::from_le_bytes(four(&page[36..40])));
        match self.expected.system_identifier {
            Some(expected) if expected != system => {
                let what = format!("it is the log of system {system}, not of {expected}");
                return Err(Flaw::Foreign { at: 0, what });
            }
            _ => self.expected.system_identifier = Some(system),
        }
        if block as usize != PAGE {
            return Err(Flaw::Unsupported(format!("a log with pages of {block} bytes")));
        }
        if !segment.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment) {
            return Err(flaw(format!("segments of {segment} bytes")));
        }
        match self.segment_bytes {
            Some(known) if known != u64::from(segment) => {
                return Err(flaw(format!("segments of {segment} bytes where those before it had {known}")));
            }
            _ => self.segment_bytes = Some(segment.into()),
        }
        Ok(segment.into())
    }

    fn page<R: Read>(&mut self, source: &Source<R>, page: &[u8], name: SegmentName, at: Lsn) -> Result<(), Flaw> {
        let place = source.at() - PAGE as u64;
        let flaw = |what: String| Flaw::Malformed { at: place, what };
        if page.iter().all(|byte| *byte == 0) {
            // What comes behind a switch of segments may never have been written.
            return if self.records.is_idle() {
                Ok(())
            } else {
                Err(flaw(format!("the page of {at} is empty in the middle of a record")))
            };
        }
        let header = header(page);
        if header.address != at {
            let what =
                format!("the page of {at} is the one of {}: the segment was recycled or is another's", header.address);
            return Err(flaw(what));
        }
        match self.magic {
            Some(magic) if magic != header.magic => {
                let written = MAGIC.iter().find(|(_, known)| *known == header.magic);
                let by = written.map_or("an unknown version".to_owned(), |(major, _)| format!("PostgreSQL {major}"));
                return Err(flaw(format!("the page of {at} was written by {by} ({:#06X})", header.magic)));
            }
            None if !MAGIC.iter().any(|(_, known)| *known == header.magic) => {
                return Err(flaw(format!("the page of {at} has the unknown format {:#06X}", header.magic)));
            }
            _ => self.magic = Some(header.magic),
        }
        let history = self.expected.history.as_ref();
        if header.timeline < self.timeline
            || header.timeline > name.timeline
            || history.is_some_and(|history| !history.admits(name.timeline, at, header.timeline))
        {
            let due = history.map_or(name.timeline, |history| history.timeline_of(name.timeline, at));
            let what = format!("the page of {at} is of timeline {}, not of {due}", header.timeline);
            return Err(Flaw::Foreign { at: place, what });
        }
        self.timeline = header.timeline;
        let start = if header.flags & IS_LONG == 0 { SHORT } else { LONG };
        if header.flags & OVERWRITES != 0 {
            self.records.overwritten();
        }
        let remaining = (header.flags & CONTINUES != 0).then_some(header.remaining);
        self.records.page(Lsn(at.0 + start as u64), &page[start..], remaining).map_err(flaw)
    }
}

fn header(page: &[u8]) -> Header {
    Header {
        magic: u16::from_le_bytes([page[0], page[1]]),
        flags: u16::from_le_bytes([page[2], page[3]]),
        timeline: u32::from_le_bytes(four(&page[4..8])),
        address: Lsn(u64::from_le_bytes(eight(&page[8..16]))),
        remaining: u32::from_le_bytes(four(&page[16..20])),
    }
}

fn four(bytes: &[u8]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

fn eight(bytes: &[u8]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(bytes);
    eight
}
