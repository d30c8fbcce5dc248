//! Names of files in an archive of the log, and which of them a restore needs.

use std::{fmt, str::FromStr};

use recovery::lsn::Lsn;

/// A segment by its name: three groups of eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The branch of the cluster's history.
    pub timeline: u32,
    log: u32,
    segment: u32,
}

/// A file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// A whole segment.
    Segment(SegmentName),
    /// What an old primary had of its last segment.
    Partial(SegmentName),
    /// How a timeline came to be.
    History(u32),
    /// The label of a base backup.
    Backup(SegmentName),
}

impl SegmentName {
    /// Where the segment begins.
    pub const fn start(self, segment_bytes: u64) -> Lsn {
        Lsn(((self.log as u64) << 32) + self.segment as u64 * segment_bytes)
    }

    /// The segment that a position is in.
    pub const fn containing(timeline: u32, position: Lsn, segment_bytes: u64) -> SegmentName {
        let (log, low) = ((position.0 >> 32) as u32, position.0 & 0xFFFF_FFFF);
        #[expect(clippy::cast_possible_truncation, reason = "smaller than a half")]
        SegmentName { timeline, log, segment: (low / segment_bytes) as u32 }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.segment)
    }
}

/// The text is no name of a file in an archive of the log.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no file of a write-ahead log archive")]
pub struct NotAName(String);

impl FromStr for SegmentName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        match text.parse()? {
            FileName::Segment(name) => Ok(name),
            _ => Err(NotAName(text.to_owned())),
        }
    }
}

impl FromStr for FileName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let number = |digits: &str| {
            let fits = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
            fits.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let segment = |name: &str| {
            let part = |from: usize| number(name.get(from..from + 8)?);
            let fits = name.len() == 24;
            Some(SegmentName { timeline: part(0)?, log: part(8)?, segment: part(16)? }).filter(|_| fits)
        };
        let parsed = match text.split_once('.') {
            None => segment(text).map(FileName::Segment),
            Some((name, "partial")) => segment(name).map(FileName::Partial),
            Some((name, "history")) => number(name).map(FileName::History),
            Some((name, rest)) => rest.strip_suffix(".backup").and(segment(name)).map(FileName::Backup),
        };
        parsed.ok_or_else(|| NotAName(text.to_owned()))
    }
}

/// The end of a timeline: where the next one branches off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: u32,
    /// Where.
    pub at: Lsn,
}

/// How a timeline came to be: the ends of its ancestors, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Vec<Switch>);

/// The text is no timeline history.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is no line of a timeline history: `{text}`")]
pub struct NotAHistory {
    line: usize,
    text: String,
}

impl History {
    /// Reads a `.history` file.
    ///
    /// # Errors
    /// A line is not what PostgreSQL writes there.
    pub fn parse(text: &str) -> Result<History, NotAHistory> {
        let mut switches: Vec<Switch> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || NotAHistory { line: number + 1, text: line.chars().take(80).collect() };
            let mut words = line.split_whitespace();
            let timeline = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            let at = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            // Timelines are numbered upwards and end later and later.
            if switches.last().is_some_and(|last| last.timeline >= timeline || last.at > at) {
                return Err(wrong());
            }
            switches.push(Switch { timeline, at });
        }
        Ok(History(switches))
    }

    /// Where a timeline that is an ancestor of the one that this is the history of was left.
    pub fn left_at(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.at)
    }

    /// Which timeline a page belongs to that begins at `page`, in a log that leads to timeline `newest`.
    pub(super) fn timeline_of(&self, newest: u32, page: Lsn) -> u32 {
        // The page in which a timeline begins is written anew, under the new number.
        let ended_later = |switch: &&Switch| {
            switch.timeline < newest && switch.at.0 / super::PAGE as u64 > page.0 / super::PAGE as u64
        };
        self.0.iter().find(ended_later).map_or(newest, |switch| switch.timeline)
    }

    /// Whether the page that begins at `page` may be of `timeline`: of the one that is due, or of the one that was left in the
    /// middle of it. A server that goes on in a page which another had begun leaves its header as it was (seen on 15.18).
    pub(super) fn admits(&self, newest: u32, page: Lsn, timeline: u32) -> bool {
        let block = |at: Lsn| at.0 / super::PAGE as u64;
        let left_here = |switch: &Switch| {
            switch.timeline == timeline && switch.timeline < newest && block(switch.at) == block(page)
        };
        self.timeline_of(newest, page) == timeline || self.0.iter().any(left_here)
    }

    /// Under which timeline's name a restore that leads to timeline `newest` finds the segment that begins at `start`: the
    /// newest that had begun by its end.
    fn name_of(&self, newest: u32, start: Lsn, segment_bytes: u64) -> u32 {
        let ended_later =
            |switch: &&Switch| switch.timeline < newest && switch.at.0 / segment_bytes > start.0 / segment_bytes;
        self.0.iter().find(ended_later).map_or(newest, |switch| switch.timeline)
    }
}

/// The segments that hold the log from `start` up to `end`, in order, for a restore to `timeline`.
pub fn segments(
    history: &History,
    timeline: u32,
    start: Lsn,
    end: Lsn,
    segment_bytes: u64,
) -> impl Iterator<Item = SegmentName> {
    let first = start.0 / segment_bytes;
    let last = end.0.max(start.0 + 1).div_ceil(segment_bytes);
    (first..last).map(move |number| {
        let at = Lsn(number * segment_bytes);
        SegmentName::containing(history.name_of(timeline, at, segment_bytes), at, segment_bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIXTEEN: u64 = 16 << 20;

    #[test]
    fn names_are_read_and_written_as_postgresql_does() {
        let name: SegmentName = "000000010000000A000000FF".parse().unwrap();
        assert_eq!((name.timeline, name.start(SIXTEEN)), (1, Lsn(0xA_FF00_0000)));
        assert_eq!(name.to_string(), "000000010000000A000000FF");
        assert_eq!(SegmentName::containing(1, Lsn(0xA_FFFF_FFFF), SIXTEEN), name);
        assert_eq!("00000003.history".parse::<FileName>().unwrap(), FileName::History(3));
        assert_eq!("000000010000000A000000FF.partial".parse::<FileName>().unwrap(), FileName::Partial(name));
        assert_eq!("000000010000000A000000FF.00000028.backup".parse::<FileName>().unwrap(), FileName::Backup(name));
        for wrong in ["", "000000010000000A000000ff", "000000010000000A000000FF0", "3.history", "../x", "é0000001"] {
            assert!(wrong.parse::<FileName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_restore_takes_each_segment_from_the_newest_timeline_that_has_it() {
        let history = History::parse("1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore x\n").unwrap();
        let names: Vec<String> =
            segments(&history, 3, Lsn(0x200_0028), Lsn(0x600_0100), SIXTEEN).map(|name| name.to_string()).collect();
        let expected = [
            "000000010000000000000002",
            "000000020000000000000003",
            "000000020000000000000004",
            "000000030000000000000005",
            "000000030000000000000006",
        ];
        assert_eq!(names, expected);
        // Nothing is needed of a segment that the end does not reach into.
        assert_eq!(segments(&history, 3, Lsn(0x600_0000), Lsn(0x700_0000), SIXTEEN).count(), 1);
    }

    #[test]
    fn the_page_in_which_a_timeline_was_left_may_be_of_either() {
        let history = History::parse("1\t0/3000148\tno recovery target specified\n").unwrap();
        let admits = |page: u64, timeline| history.admits(2, Lsn(page), timeline);
        assert!(admits(0x300_0000, 1) && admits(0x300_0000, 2));
        assert!(admits(0x2FF_E000, 1) && !admits(0x2FF_E000, 2));
        assert!(!admits(0x300_2000, 1) && admits(0x300_2000, 2));
    }

    #[test]
    fn a_history_that_goes_backwards_is_none() {
        for wrong in ["2\t0/5\tx\n1\t0/6\ty", "1\t0/5\tx\n2\t0/4\ty", "one 0/1", "1"] {
            assert!(History::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(History::parse("# a remark\n\n").unwrap(), History::default());
    }
}
