//! A small generator of random numbers whose whole state is one word.
//!
//! Everything random in an execution (jitter, `$random`, identifiers, task tokens) comes from a seed that the execution
//! was started with, so that replaying its inputs gives the same execution. It is not fit for secrets; task tokens are
//! names here, they protect nothing.

use std::fmt::Write;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator that belongs to a seed.
    pub fn seeded(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// What `new java.util.Random(seed).nextDouble()` gives: `$random(42)` is 0.7275636800328681 on AWS, bit for bit.
    pub fn java_fraction(seed: i64) -> f64 {
        const MASK: u64 = (1 << 48) - 1;
        let mut state = (seed as u64 ^ 0x5_DEEC_E66D) & MASK;
        let mut next = |bits: u32| {
            state = state.wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & MASK;
            state >> (48 - bits)
        };
        let high = next(26) << 27;
        (high + next(27)) as f64 / (1u64 << 53) as f64
    }

    /// A UUID of version 4.
    pub fn uuid(&mut self) -> String {
        let bytes = ((u128::from(self.bits()) << 64) | u128::from(self.bits())).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// A token of 128 hexadecimal digits.
    pub fn token(&mut self) -> String {
        let mut token = String::with_capacity(128);
        for _ in 0..8 {
            // Writing to a string cannot fail.
            let _ = write!(token, "{:016x}", self.bits());
        }
        token
    }
}
