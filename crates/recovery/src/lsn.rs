//! A position in PostgreSQL's write-ahead log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log, written `16/B374D848` as PostgreSQL's `pg_lsn` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes of log lie between `earlier` and this position; zero if `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The text is no position in the write-ahead log.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a WAL position; write it as PostgreSQL does, for example `0/3000148`")]
pub struct NotAnLsn(String);

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let parsed = text.split_once('/').and_then(|(high, low)| {
            let half = |part: &str| {
                let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
                digits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
            };
            Some(Lsn((u64::from(half(high)?) << 32) | u64::from(half(low)?)))
        });
        parsed.ok_or_else(|| NotAnLsn(text.to_owned()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = NotAnLsn;

    fn try_from(text: String) -> Result<Self, NotAnLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse::<Lsn>().unwrap(), Lsn(position));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Lsn>();
        }
    }

    #[test]
    fn signs_and_long_halves_are_not_positions() {
        for text in ["", "/", "0/", "+1/0", "0/123456789", "0-1", "0/1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
