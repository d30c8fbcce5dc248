//! How long parts are, so that what is written fits whatever it turns out to be.

/// Smallest part that S3 takes, but for the last.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
pub const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// Most parts that an upload has.
const MOST_PARTS: u64 = 10_000;

/// Parts grow to twice their length after as many as this, so that a wrong estimate costs memory and not the backup.
const BEFORE_DOUBLING: u64 = 2_500;

/// Lengths of parts by number.
///
/// The length follows from the estimate and the number alone: an attempt that begins anew cuts the same bytes into the
/// same parts, and those that the bucket has already need not be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    first: u64,
}

impl Parts {
    /// For an object that has about this length when stored; whatever it is, sixteen times the smallest bound fits.
    pub fn for_about(stored_bytes: u64) -> Parts {
        // The estimate fits into the parts before the first doubling twice over.
        let wanted = stored_bytes.div_ceil(BEFORE_DOUBLING).next_multiple_of(1024 * 1024);
        Parts { first: wanted.max(SMALLEST_PART) }
    }

    /// Length of the part with a number, from 1; `None` beyond what S3 takes.
    pub fn bytes(self, number: u32) -> Option<u64> {
        let number = u64::from(number);
        (1..=MOST_PARTS).contains(&number).then(|| self.first << ((number - 1) / BEFORE_DOUBLING))
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
        // (stored, first part in MiB, most that fits in GiB)
        let situations = [(0, 5, 183), (10 * GIB, 5, 183), (33 * GIB, 14, 512), (100 * GIB, 41, 1501)];
        for (stored, mib, most) in situations {
            let parts = Parts::for_about(stored);
            assert_eq!(parts.bytes(1), Some(mib * 1024 * 1024), "{stored}");
            assert_eq!(parts.most_bytes() / GIB, most, "{stored}");
            assert!(parts.most_bytes() >= 15 * stored, "{stored}");
        }
    }

    #[test]
    fn every_number_that_s3_takes_has_a_length_and_no_other() {
        let parts = Parts::for_about(0);
        let sum: u64 = (1..=10_000).map(|number| parts.bytes(number).unwrap()).sum();
        assert_eq!(sum, parts.most_bytes());
        assert_eq!((parts.bytes(0), parts.bytes(10_001)), (None, None));
    }
}
