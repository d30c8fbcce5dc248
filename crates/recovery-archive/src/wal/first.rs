//! What a segment says of itself on its first page, which is all that an archive has to know of it.

use recovery::lsn::Lsn;

use super::{IS_LONG, LONG, MAGIC, PAGE, SegmentName, eight, four, header};
use crate::Flaw;

/// The first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstPage {
    /// The server's major version.
    pub major: u32,
    /// The timeline of the page; older than the name's where a timeline began within the segment.
    pub timeline: u32,
    /// Where the segment begins.
    pub address: Lsn,
    /// The cluster.
    pub system_identifier: u64,
    /// The bytes of one segment.
    pub segment_bytes: u64,
}

impl FirstPage {
    /// Reads the first page of a segment.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8]) -> Result<FirstPage, Flaw> {
        let flaw = |what: String| Flaw::Malformed { at: 0, what };
        if bytes.len() < LONG {
            return Err(flaw(format!("it has {} bytes, which is no page of a log", bytes.len())));
        }
        let page = header(bytes);
        if page.flags & IS_LONG == 0 {
            return Err(flaw("its first page has no long header, so it is no segment of a log".to_owned()));
        }
        let Some((major, _)) = MAGIC.iter().find(|(_, magic)| *magic == page.magic) else {
            return Err(flaw(format!("its first page has the unknown format {:#06X}", page.magic)));
        };
        let (segment, block) = (u32::from_le_bytes(four(&bytes[32..36])), u32::from_le_bytes(four(&bytes[36..40])));
        if block as usize != PAGE {
            return Err(Flaw::Unsupported(format!("a log with pages of {block} bytes")));
        }
        if !segment.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment) {
            return Err(flaw(format!("segments of {segment} bytes")));
        }
        Ok(FirstPage {
            major: *major,
            timeline: page.timeline,
            address: page.address,
            system_identifier: u64::from_le_bytes(eight(&bytes[24..32])),
            segment_bytes: segment.into(),
        })
    }

    /// Whether it is the first page of the segment with this name and this length.
    ///
    /// # Errors
    /// It is another one's: recycled, cut off, or under a wrong name.
    pub fn check(&self, name: SegmentName, length: u64) -> Result<(), Flaw> {
        let flaw = |what: String| Flaw::Malformed { at: 0, what };
        if length != self.segment_bytes {
            return Err(flaw(format!("it has {length} bytes, and its first page says {}", self.segment_bytes)));
        }
        let due = name.start(self.segment_bytes);
        if self.address != due {
            return Err(flaw(format!("its first page is the one of {}, not of {due}", self.address)));
        }
        if self.timeline > name.timeline {
            return Err(flaw(format!("its first page is of timeline {}, later than {}", self.timeline, name.timeline)));
        }
        Ok(())
    }
}
