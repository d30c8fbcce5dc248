//! Records across pages: each names where the one before it began, and carries a checksum.

use crc_fast::{CrcAlgorithm, Digest};
use jiff::Timestamp;
use recovery::lsn::Lsn;

/// The header of a record; its last four bytes are its checksum.
const HEADER: usize = 24;
const CHECKSUM_AT: usize = 20;
/// `XLogRecordMaxSize` and what older versions allow.
const LARGEST: u32 = 1 << 30;
/// `RM_XLOG_ID`, `XLOG_SWITCH`
const RESOURCE_XLOG: u8 = 0;
const SWITCH: u8 = 0x40;
/// `RM_XACT_ID`; `XLOG_XACT_OPMASK`, and of it `XLOG_XACT_COMMIT` and `XLOG_XACT_COMMIT_PREPARED`.
const RESOURCE_TRANSACTION: u8 = 1;
const TRANSACTION_KIND: u8 = 0x70;
const COMMITS: [u8; 2] = [0x00, 0x30];
/// What may stand before the data of a commit, and the data's first field, its time: `xl_xact_commit`.
const LEAD: usize = 24;
/// `XLR_BLOCK_ID_DATA_SHORT` and its siblings.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_TRANSACTION: u8 = 252;
/// PostgreSQL's times begin with the year 2000.
const YEAR_2000: i64 = 946_684_800;

#[derive(Default)]
pub(super) struct Records {
    state: State,
    /// Where the last whole record began and ended.
    last: Option<Lsn>,
    end: Option<Lsn>,
    count: u64,
    /// The time of the newest commit.
    committed_at: Option<Timestamp>,
}

#[derive(Default)]
enum State {
    /// Nothing is known of what came before: what continues a record is passed over.
    #[default]
    Unknown,
    /// Passing over what is left of a record whose beginning was not seen.
    Passing(u32),
    /// At the boundary of a record.
    Between,
    /// Inside a record.
    Inside(Box<Partial>),
    /// Behind the end of the log in this segment: a switch, or nothing more was written.
    Ended,
}

struct Partial {
    start: Lsn,
    header: [u8; HEADER],
    /// How much of the record is there, header included.
    have: u32,
    /// How its body begins.
    lead: [u8; LEAD],
    digest: Digest,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("end", &self.end).field("count", &self.count).finish_non_exhaustive()
    }
}

impl Partial {
    fn new(start: Lsn) -> Self {
        Self { start, header: [0; HEADER], have: 0, lead: [0; LEAD], digest: Digest::new(CrcAlgorithm::Crc32Iscsi) }
    }

    /// The whole length; known once four bytes are there.
    fn length(&self) -> Option<u32> {
        (self.have >= 4).then(|| u32::from_le_bytes([self.header[0], self.header[1], self.header[2], self.header[3]]))
    }

    fn left(&self) -> Option<u32> {
        self.length().map(|length| length.saturating_sub(self.have))
    }

    fn previous(&self) -> Lsn {
        let mut eight = [0; 8];
        eight.copy_from_slice(&self.header[8..16]);
        Lsn(u64::from_le_bytes(eight))
    }

    fn is_switch(&self) -> bool {
        self.header[17] == RESOURCE_XLOG && self.header[16] & 0xF0 == SWITCH
    }

    /// When the transaction was committed that the record ends, if it does.
    fn committed_at(&self) -> Option<Timestamp> {
        let is_commit =
            self.header[17] == RESOURCE_TRANSACTION && COMMITS.contains(&(self.header[16] & TRANSACTION_KIND));
        let mut rest = self.lead.get(..(self.have as usize).checked_sub(HEADER)?.min(LEAD)).filter(|_| is_commit)?;
        let data = loop {
            let (id, after) = rest.split_first()?;
            match *id {
                ORIGIN => rest = after.get(2..)?,
                TOP_TRANSACTION => rest = after.get(4..)?,
                DATA_SHORT => break after.get(1..)?,
                DATA_LONG => break after.get(4..)?,
                _ => return None,
            }
        };
        let since_2000 = i64::from_le_bytes(data.get(..8)?.try_into().ok()?);
        Timestamp::from_microsecond(YEAR_2000.checked_mul(1_000_000)?.checked_add(since_2000)?).ok()
    }

    /// Takes what belongs to the record off the front of `bytes`.
    fn take(&mut self, bytes: &mut &[u8]) {
        while !bytes.is_empty() && self.left() != Some(0) {
            let have = self.have as usize;
            let wanted = match self.left() {
                _ if have < HEADER => HEADER - have,
                Some(left) => left as usize,
                None => return,
            };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            if have < HEADER {
                self.header[have..have + now.len()].copy_from_slice(now);
            } else {
                if let Some(lead) = self.lead.get_mut(have - HEADER..) {
                    let known = now.len().min(lead.len());
                    lead[..known].copy_from_slice(&now[..known]);
                }
                self.digest.update(now);
            }
            #[expect(clippy::cast_possible_truncation, reason = "never more than what is left of 32 bits")]
            let now = now.len() as u32;
            self.have += now;
            *bytes = rest;
        }
    }

    fn checksum_fits(&mut self) -> bool {
        self.digest.update(&self.header[..CHECKSUM_AT]);
        let stored = u32::from_le_bytes([self.header[20], self.header[21], self.header[22], self.header[23]]);
        self.digest.finalize() == u64::from(stored)
    }
}

impl Records {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn end(&self) -> Option<Lsn> {
        self.end
    }

    /// Where the last whole record began.
    pub(super) fn last(&self) -> Option<Lsn> {
        self.last
    }

    /// The time of the newest commit.
    pub(super) fn committed_at(&self) -> Option<Timestamp> {
        self.committed_at
    }

    /// Whether an empty page may come now.
    pub(super) fn is_idle(&self) -> bool {
        !matches!(self.state, State::Inside(_) | State::Passing(_))
    }

    /// The record that began on an earlier page was never finished; the server says so on the page where it goes on.
    pub(super) fn overwritten(&mut self) {
        if !self.is_idle() {
            self.state = State::Between;
        }
    }

    /// Follows the contents of a page. `continued` is how much of a record of an earlier page its header announces.
    pub(super) fn page(&mut self, start: Lsn, contents: &[u8], continued: Option<u32>) -> Result<(), String> {
        let mut rest = contents;
        match (&self.state, continued) {
            (State::Inside(partial), announced) => {
                // With less than its first four bytes a record's length is not known; records are aligned, so it is.
                let left = partial.left().unwrap_or_default();
                if announced != Some(left) {
                    let announced = announced.unwrap_or_default();
                    return Err(format!(
                        "{left} bytes of the record of {} are due, the page has {announced}",
                        partial.start
                    ));
                }
            }
            (State::Passing(left), announced) if announced != Some(*left) => {
                return Err(format!(
                    "{left} bytes of a record are due, the page has {}",
                    announced.unwrap_or_default()
                ));
            }
            (State::Unknown, Some(announced)) => self.state = State::Passing(announced),
            (State::Unknown, None) => self.state = State::Between,
            (State::Between | State::Ended, Some(_)) => {
                return Err("the page continues a record that had ended before it".to_owned());
            }
            (State::Ended, None) => {
                if rest.iter().all(|byte| *byte == 0) {
                    return Ok(());
                }
                self.state = State::Between;
            }
            _ => {}
        }
        loop {
            let here = Lsn(start.0 + (contents.len() - rest.len()) as u64);
            match &mut self.state {
                State::Passing(left) => {
                    let now = rest.len().min(*left as usize);
                    rest = &rest[now..];
                    #[expect(clippy::cast_possible_truncation, reason = "at most what is left")]
                    let now = now as u32;
                    *left -= now;
                    if *left > 0 {
                        return Ok(());
                    }
                    self.state = State::Between;
                    rest = aligned(rest, start, contents.len());
                }
                State::Between => {
                    if rest.is_empty() {
                        return Ok(());
                    }
                    if rest.len() >= 4 && rest[..4] == [0; 4] {
                        if let Some(stray) = rest.iter().position(|byte| *byte != 0) {
                            let at = Lsn(here.0 + stray as u64);
                            return Err(format!(
                                "the log ends at {here}, and something that is no record stands at {at}"
                            ));
                        }
                        self.state = State::Ended;
                        return Ok(());
                    }
                    self.state = State::Inside(Box::new(Partial::new(here)));
                }
                State::Inside(partial) => {
                    partial.take(&mut rest);
                    if let Some(length) = partial.length().filter(|length| !(24..=LARGEST).contains(length)) {
                        return Err(format!("the record of {} says that it has {length} bytes", partial.start));
                    }
                    if partial.left() != Some(0) {
                        return Ok(());
                    }
                    let end = Lsn(start.0 + (contents.len() - rest.len()) as u64);
                    let is_switch = partial.is_switch();
                    self.whole(end)?;
                    if is_switch {
                        self.state = State::Ended;
                        if rest.iter().any(|byte| *byte != 0) {
                            return Err(format!("the log ends with a switch at {end}, and something stands behind it"));
                        }
                        return Ok(());
                    }
                    self.state = State::Between;
                    rest = aligned(rest, start, contents.len());
                }
                State::Unknown | State::Ended => return Ok(()),
            }
        }
    }

    fn whole(&mut self, end: Lsn) -> Result<(), String> {
        let State::Inside(partial) = &mut self.state else { return Ok(()) };
        let start = partial.start;
        if !partial.checksum_fits() {
            return Err(format!("the checksum of the record of {start} does not fit"));
        }
        let previous = partial.previous();
        if let Some(last) = self.last.filter(|last| *last != previous) {
            return Err(format!("the record of {start} follows one of {previous}, and the one before it is of {last}"));
        }
        // Commits are not written in the order of their times, so the newest is not always the last.
        self.committed_at = self.committed_at.max(partial.committed_at());
        self.last = Some(start);
        self.end = Some(end);
        self.count += 1;
        Ok(())
    }
}

/// Records begin at multiples of eight.
fn aligned(rest: &[u8], start: Lsn, length: usize) -> &[u8] {
    let at = start.0 + (length - rest.len()) as u64;
    let padding = usize::try_from(at.next_multiple_of(8) - at).unwrap_or_default();
    &rest[padding.min(rest.len())..]
}
