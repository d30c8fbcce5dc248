//! The archive of the write-ahead log: one object per file that the server hands over, never written twice.

use async_trait::async_trait;

use super::Keeping;
use crate::store::StoreError;

/// Key in the archive's bucket of a file of the log: `wal/<system identifier>/<timeline>/<file>.zst`.
///
/// The system identifier comes first, so that the logs of two clusters can never meet, whatever their segments are called.
pub fn wal_key(system_identifier: u64, timeline: u32, file: &str) -> String {
    format!("wal/{system_identifier}/{timeline:08X}/{file}.zst")
}

/// A bucket that holds archived log.
#[async_trait]
pub trait WalArchive: Send + Sync {
    /// The bucket's name.
    fn bucket(&self) -> &str;

    /// Writes an object unless there is one of this key; says whether it was written by this call. The bucket compares
    /// the bytes with the checksum.
    async fn put_new(&self, key: &str, bytes: Vec<u8>, crc64nvme: &str, keeping: &Keeping) -> Result<bool, StoreError>;

    /// Reads an object of the archive; `None` if there is none.
    async fn get_whole(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
}
