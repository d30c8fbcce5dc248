//! One pass over an object: digests of what is stored and of what it decodes to, and its structure, at once.
//!
//! The network fills a few pieces ahead while one thread digests, decodes and reads; nothing is kept but those pieces and
//! what a decoder needs, so the size of the object does not matter.

use std::io::{self, Read};

use base64::prelude::*;
use bytes::{Buf, Bytes};
use crc_fast::CrcAlgorithm;
use recovery::{
    backup::{BackupStorage, Encoding, PlainDigest, Sha256Hex},
    store::StoreError,
};
use recovery_archive::{Flaw, decode::Decoded};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Pieces that may wait to be read. S3 sends them in some tens of KiB.
const AHEAD: usize = 8;
/// How often in a row a body may break off without a byte more before it is given up. Each attempt goes on where the last
/// one ended: an object of 80 GB is not read again for one lost connection.
const ATTEMPTS: u32 = 4;
/// How much is passed over at once.
const WINDOW: usize = 64 * 1024;

/// What one pass found.
#[derive(Debug)]
pub struct Pass<T> {
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// Their digest.
    pub stored_sha256: Sha256Hex,
    /// Bytes after decoding and the digest that was asked for, or why they do not decode.
    pub plain: Result<(u64, PlainDigest), io::Error>,
    /// What the archive is.
    pub structure: Result<T, Flaw>,
}

/// An object, and what a pass over it takes of the decoded bytes.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Where it lies.
    pub key: &'a str,
    /// In which version, where the bucket keeps versions.
    pub version_id: Option<&'a str>,
    /// Bytes as stored.
    pub size_bytes: u64,
    /// How they are encoded.
    pub encoding: Encoding,
    /// The digest of the decoded bytes.
    pub plain: Algorithm,
}

/// A digest of decoded bytes.
#[derive(Clone, Copy, Debug)]
pub enum Algorithm {
    /// What is taken where only accidents are to be found: of what is stored the SHA-256 is proven.
    Crc64Nvme,
    /// For manifests that have no other.
    Sha256,
}

impl From<&PlainDigest> for Algorithm {
    fn from(digest: &PlainDigest) -> Algorithm {
        match digest {
            PlainDigest::Crc64Nvme(_) => Algorithm::Crc64Nvme,
            PlainDigest::Sha256(_) => Algorithm::Sha256,
        }
    }
}

/// Reads an object once. `None` if there is none.
///
/// # Errors
/// The storage fails: nothing is known of the object then.
pub async fn pass<T, F>(
    storage: &dyn BackupStorage,
    subject: Subject<'_>,
    read: F,
) -> Result<Option<Pass<T>>, StoreError>
where
    T: Send + 'static,
    F: FnOnce(&mut dyn Read) -> Result<T, Flaw> + Send + 'static,
{
    let (sender, receiver) = channel(AHEAD);
    let (encoding, plain) = (subject.encoding, subject.plain);
    let reader = tokio::task::spawn_blocking(move || digest(receiver, encoding, plain, read));
    let sent = send(storage, subject, sender).await;
    let passed = reader.await;
    if !sent? {
        return Ok(None);
    }
    match passed {
        Ok(passed) => Ok(Some(passed)),
        // A panic of the reader is a defect of ours, and the border of the function says so.
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Sends the bytes of an object, going on where it broke off.
async fn send(storage: &dyn BackupStorage, subject: Subject<'_>, to: Sender<Bytes>) -> Result<bool, StoreError> {
    let Subject { key, version_id, size_bytes, .. } = subject;
    let (mut at, mut attempts) = (0, 0);
    loop {
        let range = (at > 0).then_some(at..size_bytes);
        let broke_off = match storage.open(key, version_id, range).await {
            Ok(None) => return Ok(false),
            Ok(Some(mut body)) => loop {
                match body.chunk().await {
                    Ok(Some(piece)) => {
                        at += piece.len() as u64;
                        attempts = 0;
                        if to.send(piece).await.is_err() {
                            return Ok(true); // The reader has gone, and says why.
                        }
                    }
                    Ok(None) => return Ok(true),
                    Err(error) => break error,
                }
            },
            // The answer was lost before its first byte.
            Err(error @ StoreError::Unavailable { .. }) => error,
            Err(error) => return Err(error),
        };
        attempts += 1;
        if attempts >= ATTEMPTS || at >= size_bytes {
            return Err(broke_off);
        }
        tracing::debug!(error = %recovery::fault::chain(&broke_off), "`{key}` broke off after {at} bytes, going on there");
    }
}

fn digest<T>(
    receiver: Receiver<Bytes>,
    encoding: Encoding,
    algorithm: Algorithm,
    read: impl FnOnce(&mut dyn Read) -> Result<T, Flaw>,
) -> Pass<T> {
    let mut stored = Tap::new(Pieces { receiver, piece: Bytes::new() }, Sha256::new());
    let (plain, structure) = {
        let decoded = match encoding {
            Encoding::Identity => Ok(Decoded::plain(&mut stored)),
            Encoding::Gzip => Ok(Decoded::gzip(&mut stored)),
            Encoding::Zstd => Decoded::zstd(&mut stored),
        };
        match decoded {
            Err(error) => {
                (Err(io::Error::new(error.kind(), error.to_string())), Err(Flaw::Unreadable { at: 0, source: error }))
            }
            Ok(decoded) => {
                let mut plain = Tap::new(decoded, Plain::new(algorithm));
                let structure = read(&mut plain);
                // Also what a reader left, because it was content or because it gave up.
                let rest = io::copy(&mut plain, &mut io::sink());
                (rest.map(|_| (plain.bytes, plain.digest.end())), structure)
            }
        }
    };
    // A decoder that gave up has not seen the rest of what is stored.
    let mut window = vec![0; WINDOW];
    while matches!(stored.read(&mut window), Ok(1..)) {}
    let stored_sha256 = Sha256Hex::of(&stored.digest.finalize().into());
    Pass { stored_bytes: stored.bytes, stored_sha256, plain, structure }
}

/// Pieces from the network as one stream.
struct Pieces {
    receiver: Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// A stream whose bytes are counted and digested as they pass.
struct Tap<R, D> {
    inner: R,
    digest: D,
    bytes: u64,
}

impl<R, D> Tap<R, D> {
    fn new(inner: R, digest: D) -> Self {
        Self { inner, digest, bytes: 0 }
    }
}

/// A digest that is being taken.
trait Running {
    fn see(&mut self, bytes: &[u8]);
}

impl Running for Sha256 {
    fn see(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// The digest of decoded bytes that is being taken.
enum Plain {
    Crc64Nvme(crc_fast::Digest),
    Sha256(Sha256),
}

impl Plain {
    fn new(algorithm: Algorithm) -> Plain {
        match algorithm {
            Algorithm::Crc64Nvme => Plain::Crc64Nvme(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme)),
            Algorithm::Sha256 => Plain::Sha256(Sha256::new()),
        }
    }

    fn end(self) -> PlainDigest {
        match self {
            Plain::Crc64Nvme(crc) => PlainDigest::Crc64Nvme(BASE64_STANDARD.encode(crc.finalize().to_be_bytes())),
            Plain::Sha256(digest) => PlainDigest::Sha256(Sha256Hex::of(&digest.finalize().into())),
        }
    }
}

impl Running for Plain {
    fn see(&mut self, bytes: &[u8]) {
        match self {
            Plain::Crc64Nvme(crc) => crc.update(bytes),
            Plain::Sha256(digest) => digest.update(bytes),
        }
    }
}

impl<R: Read, D: Running> Read for Tap<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.see(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}
