//! Streams what a program writes into a bucket.
//!
//! ```text
//! program ──► SHA-256, length ──► zstd or gzip ──► SHA-256, CRC64NVME, length ──► parts ──► bucket
//!             └───────────── one thread, one buffer ─────────────┘              └─ a few at a time
//! ```
//!
//! Nothing touches a disk, and memory is bounded by the parts in flight. The object comes into being with the last call
//! and not before: a program that failed, an end that is cut off, or a part that never arrived leaves no object and no
//! parts. A call whose answer was lost is settled by looking: parts are listed, the object is described.

mod encode;
mod error;
mod parts;
mod produce;
mod store;
mod taker;
pub mod wal;

pub use encode::{Ends, crc64nvme, sha256};
pub use error::DatapathError;
pub use parts::{Parts, SMALLEST_PART};
pub use produce::{Produced, ProducerError, last_words};
pub use store::{Options, Stored, store};
pub use taker::{Made, Sink, TakeError, Taker};
