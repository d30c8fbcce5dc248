//! How long parts are, so that what is written fits whatever it turns out to be.

/// Smallest part that S3 takes, but for the last.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
pub const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// Most parts that an upload has.
const MOST_PARTS: u64 = 10_000;

/// Parts grow to twice their length after as many as this, so that a wrong estimate costs memory and not the backup.
const BEFORE_DOUBLING: u64 = 2_500;

/// Parts in memory at once.
pub(crate) const IN_MEMORY: u64 = 4;

/// Lengths of parts by number.
///
/// The length follows from the estimate and the number alone: an attempt that begins anew cuts the same bytes into the
/// same parts, and those that the bucket has already need not be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    first: u64,
}

impl Parts {
    /// For an object that may have about this length, before it is compressed: twice as much fits if it does not shrink at
    /// all, and what shrinks never reaches the longest parts.
    pub fn for_about(bytes: u64) -> Parts {
        let units: u64 = (0..MOST_PARTS / BEFORE_DOUBLING).map(|doubled| BEFORE_DOUBLING << doubled).sum();
        let wanted = bytes.div_ceil(units / 2).next_multiple_of(1024 * 1024);
        Parts { first: wanted.max(SMALLEST_PART) }
    }

    /// Length of the part with a number, from 1; `None` beyond what S3 takes.
    pub fn bytes(self, number: u32) -> Option<u64> {
        let number = u64::from(number);
        (1..=MOST_PARTS).contains(&number).then(|| self.first << ((number - 1) / BEFORE_DOUBLING))
    }

    /// Memory that the parts of one upload take at most while an object of this length is written: those on their way and
    /// one that is filled.
    pub fn memory_bytes(self, stored_bytes: u64) -> u64 {
        let mut longest = self.first;
        let mut fits = longest * BEFORE_DOUBLING;
        while fits < stored_bytes && longest < self.first << (MOST_PARTS / BEFORE_DOUBLING - 1) {
            longest *= 2;
            fits += longest * BEFORE_DOUBLING;
        }
        longest * IN_MEMORY
    }

    /// The most that fits.
    pub fn most_bytes(self) -> u64 {
        (0..MOST_PARTS / BEFORE_DOUBLING).map(|doubled| (self.first << doubled) * BEFORE_DOUBLING).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn memory_grows_with_what_is_stored_and_everything_fits() {
        // (about, first part in MiB, most that fits in GiB)
        let situations = [(0, 5, 183), (90 * GIB, 5, 183), (200 * GIB, 11, 402), (5 * 1024 * GIB, 280, 10_253)];
        for (about, mib, most) in situations {
            let parts = Parts::for_about(about);
            assert_eq!(parts.bytes(1), Some(mib * 1024 * 1024), "{about}");
            assert_eq!(parts.most_bytes() / GIB, most, "{about}");
            assert!(parts.most_bytes() >= 2 * about, "{about}");
        }
    }

    #[test]
    fn memory_follows_from_the_longest_part_that_is_reached() {
        // (about, stored, MiB)
        let situations = [(0, 0, 20), (0, 20 * GIB, 40), (200 * GIB, 20 * GIB, 44), (200 * GIB, 100 * GIB, 176)];
        for (about, stored, mib) in situations {
            assert_eq!(Parts::for_about(about).memory_bytes(stored), mib * 1024 * 1024, "{about} {stored}");
        }
        assert_eq!(Parts::for_about(0).memory_bytes(u64::MAX), 160 * 1024 * 1024, "parts do not grow without end");
    }

    #[test]
    fn every_number_that_s3_takes_has_a_length_and_no_other() {
        let parts = Parts::for_about(0);
        let sum: u64 = (1..=10_000).map(|number| parts.bytes(number).unwrap()).sum();
        assert_eq!(sum, parts.most_bytes());
        assert_eq!((parts.bytes(0), parts.bytes(10_001)), (None, None));
    }
}
