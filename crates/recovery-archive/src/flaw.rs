//! What is wrong with an archive.

use std::io;

/// What is wrong with an archive, and where.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The stream ends before the archive does.
    #[error("it ends after {at} bytes, inside {inside}")]
    Truncated {
        /// How many bytes came.
        at: u64,
        /// What was being read.
        inside: String,
    },
    /// Something is not as the format has it, or contradicts another part of the same archive.
    #[error("at byte {at}: {what}")]
    Malformed {
        /// Where, in the decoded stream.
        at: u64,
        /// What is wrong, in words.
        what: String,
    },
    /// It is whole, and of something else: another cluster, or a branch of its history that is not the one.
    #[error("at byte {at}: {what}")]
    Foreign {
        /// Where.
        at: u64,
        /// Of what it is, and of what it should be.
        what: String,
    },
    /// A form that exists and is not read here.
    #[error("{0} is not read here")]
    Unsupported(String),
    /// The stream itself fails: the compression is damaged, or whoever delivers it gave up.
    #[error("it cannot be read further than {at} bytes")]
    Unreadable {
        /// How many bytes came.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}
