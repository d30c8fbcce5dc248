//! Sends parts, and makes an object of them or leaves nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use recovery::{
    backup::{Encoding, Keeping, PartStore, Sha256Hex, Written},
    fault::chain,
    store::StoreError,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tracing::warn;

use crate::{
    encode::{Encoded, Ends, Outbox, Part, Stopped, encode},
    error::DatapathError,
    parts::{IN_MEMORY, Parts},
    produce::{Outcome, Produced, ProducerError},
};

/// Parts on their way at once; one is being filled beside them.
const IN_FLIGHT: usize = IN_MEMORY as usize - 1;

/// How often an upload that should be gone is looked at: a part that was on its way may arrive after the abort.
const ABORTS: u32 = 3;

/// How often a bucket that may or may not have made the object is asked.
const SETTLES: u32 = 3;

/// How one object is written.
pub struct Options {
    /// How it is encoded.
    pub encoding: Encoding,
    /// How it is kept.
    pub keeping: Keeping,
    /// How long its parts are.
    pub parts: Parts,
    /// How long it may take.
    pub within: Duration,
    /// What the plain bytes must look like to be whole; the text says what is wrong.
    pub whole: fn(&Ends) -> Result<(), String>,
}

/// An object that has come into being.
#[derive(Clone, Debug)]
pub struct Stored {
    /// How its plain bytes begin and end, and how many they are.
    pub ends: Ends,
    /// SHA-256 of the plain bytes.
    pub plain_sha256: Sha256Hex,
    /// CRC64NVME of the plain bytes.
    pub plain_crc64nvme: String,
    /// Length as stored.
    pub stored_bytes: u64,
    /// SHA-256 as stored.
    pub stored_sha256: Sha256Hex,
    /// CRC64NVME as stored, which S3 has compared.
    pub crc64nvme: String,
    /// Its version, where the bucket keeps versions.
    pub version_id: Option<String>,
}

/// Writes what is produced to a key.
///
/// Parts that an attempt before this one has left are taken over where their bytes are the same.
///
/// # Errors
/// It is not written. Its upload is aborted; if even that fails, a warning is logged, and the next attempt or the
/// bucket's lifecycle ends it.
pub async fn store(
    bucket: &Arc<dyn PartStore>,
    key: &str,
    produced: Produced,
    options: &Options,
) -> Result<Stored, DatapathError> {
    let what = produced.what.clone();
    let failed = |source| DatapathError::Bucket { what: what.clone(), key: key.to_owned(), source };
    let upload = match bucket.unfinished(key).await.map_err(failed)? {
        Some(upload) => upload,
        None => bucket.begin(key, &options.keeping).await.map_err(failed)?,
    };
    let sending = Sending { bucket, key, upload: &upload, what: &what, options };
    let outcome = tokio::time::timeout(options.within, sending.run(produced)).await;
    let outcome = outcome
        .unwrap_or_else(|_| Err(DatapathError::TooSlow { what: what.clone(), seconds: options.within.as_secs() }));
    if outcome.is_err() {
        sending.abort().await;
    }
    outcome
}

struct Sending<'a> {
    bucket: &'a Arc<dyn PartStore>,
    key: &'a str,
    upload: &'a str,
    what: &'a str,
    options: &'a Options,
}

impl Sending<'_> {
    async fn run(&self, produced: Produced) -> Result<Stored, DatapathError> {
        let Produced { bytes, mut outcome, may_be_empty, .. } = produced;
        let there = self.bucket.parts(self.key, self.upload).await.map_err(|source| self.failed(source))?;
        let (to, from) = mpsc::channel(IN_FLIGHT);
        let outbox = Outbox { to, permits: Arc::new(Semaphore::new(IN_FLIGHT)), runtime: Handle::current() };
        let (encoding, parts) = (self.options.encoding, self.options.parts);
        let encoder = tokio::task::spawn_blocking(move || encode(bytes, encoding, parts, outbox));
        let sent = self.send(from, there.unwrap_or_default()).await?;
        let encoded = encoder.await.unwrap_or(Err(Stopped::Closed));
        let encoded = self.judge(encoded, &mut outcome, may_be_empty).await?;
        let version_id = self.complete(&sent, &encoded).await?;
        let Encoded { ends, plain_sha256, plain_crc64nvme, stored_bytes, stored_sha256, crc64nvme } = encoded;
        Ok(Stored { ends, plain_sha256, plain_crc64nvme, stored_bytes, stored_sha256, crc64nvme, version_id })
    }

    /// Takes parts until there are no more, and sends those that the bucket does not have.
    async fn send(
        &self,
        from: mpsc::Receiver<Part>,
        there: BTreeMap<u32, Written>,
    ) -> Result<BTreeMap<u32, Written>, DatapathError> {
        let mut on_their_way = JoinSet::new();
        let sent = self.send_all(from, there, &mut on_their_way).await;
        // A part that arrives after the abort would be an orphan.
        on_their_way.shutdown().await;
        sent
    }

    async fn send_all(
        &self,
        mut from: mpsc::Receiver<Part>,
        there: BTreeMap<u32, Written>,
        on_their_way: &mut JoinSet<(u32, Result<Option<Written>, StoreError>)>,
    ) -> Result<BTreeMap<u32, Written>, DatapathError> {
        let mut sent = BTreeMap::new();
        loop {
            let part: Part = tokio::select! {
                part = from.recv() => match part {
                    Some(part) => part,
                    None => break,
                },
                // A failure is not kept waiting behind a slow program.
                Some(arrived) = on_their_way.join_next() => {
                    self.arrived(Some(arrived), &mut sent)?;
                    continue;
                }
            };
            let same = there.get(&part.number).filter(|other| {
                other.size_bytes == part.bytes.len() as u64 && other.crc64nvme.as_deref() == Some(&part.crc64nvme)
            });
            if let Some(same) = same {
                sent.insert(part.number, same.clone());
                continue;
            }
            let (bucket, key, upload) = (Arc::clone(self.bucket), self.key.to_owned(), self.upload.to_owned());
            on_their_way.spawn(async move {
                let Part { number, bytes, crc64nvme, permit } = part;
                let put = bucket.put_part(&key, &upload, number, bytes, &crc64nvme).await;
                drop(permit);
                (number, put)
            });
        }
        while let Some(arrived) = on_their_way.join_next().await {
            self.arrived(Some(arrived), &mut sent)?;
        }
        Ok(sent)
    }

    fn arrived(&self, arrived: Option<Arrived>, sent: &mut BTreeMap<u32, Written>) -> Result<(), DatapathError> {
        match arrived {
            None => Ok(()),
            Some(Ok((number, Ok(Some(written))))) => {
                sent.insert(number, written);
                Ok(())
            }
            Some(Ok((number, Ok(None)))) => {
                let found = format!("part {number} was refused because the upload has ended");
                Err(DatapathError::Gone { key: self.key.to_owned(), found })
            }
            Some(Ok((_, Err(source)))) => Err(self.failed(source)),
            Some(Err(panicked)) => Err(DatapathError::Producer {
                what: self.what.to_owned(),
                key: self.key.to_owned(),
                source: ProducerError::Other(Box::new(panicked)),
            }),
        }
    }

    /// Whether what was read is all that there was to read.
    async fn judge(
        &self,
        encoded: Result<Encoded, Stopped>,
        outcome: &mut Outcome,
        may_be_empty: bool,
    ) -> Result<Encoded, DatapathError> {
        let (what, key) = (self.what.to_owned(), self.key.to_owned());
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(Stopped::TooLarge) => {
                return Err(DatapathError::TooLarge { what, most_bytes: self.options.parts.most_bytes() });
            }
            Err(Stopped::Read(error)) => {
                return Err(DatapathError::Producer { what, key, source: ProducerError::Read(error) });
            }
            Err(Stopped::Closed) => {
                let problem = "what it wrote could not be taken".to_owned();
                return Err(DatapathError::NotWhole { what, key, problem });
            }
        };
        // Its own word first: what failed is seldom whole, and it says why.
        if let Err(source) = outcome.verdict().await {
            return Err(DatapathError::Producer { what, key, source });
        }
        if encoded.ends.bytes == 0 && !may_be_empty {
            return Err(DatapathError::NotWhole { what, key, problem: "it wrote nothing".to_owned() });
        }
        match (self.options.whole)(&encoded.ends) {
            Ok(()) => Ok(encoded),
            Err(problem) => Err(DatapathError::NotWhole { what, key, problem }),
        }
    }

    /// Makes the object; where the answer is lost, looks whether it is there.
    async fn complete(
        &self,
        sent: &BTreeMap<u32, Written>,
        encoded: &Encoded,
    ) -> Result<Option<String>, DatapathError> {
        let whole = Written {
            etag: String::new(),
            size_bytes: encoded.stored_bytes,
            crc64nvme: Some(encoded.crc64nvme.clone()),
            version_id: None,
        };
        let mut last = None;
        for _ in 0..SETTLES {
            match self.bucket.complete(self.key, self.upload, sent, &whole).await {
                Ok(Some(written)) => return Ok(written.version_id),
                Ok(None) => last = None,
                Err(error @ StoreError::Unavailable { .. }) => last = Some(error),
                Err(source) => return Err(self.failed(source)),
            }
            // No answer, or the upload has gone: it may have been completed by a call whose answer was lost.
            match self.bucket.written(self.key).await {
                Ok(Some(found)) if found.size_bytes == whole.size_bytes && found.crc64nvme == whole.crc64nvme => {
                    return Ok(found.version_id);
                }
                Ok(found) if last.is_none() => {
                    let found = found.map_or_else(
                        || "there is none".to_owned(),
                        |found| format!("{} bytes, CRC64NVME {:?}", found.size_bytes, found.crc64nvme),
                    );
                    return Err(DatapathError::Gone { key: self.key.to_owned(), found });
                }
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(source) => Err(self.failed(source)),
            None => Err(DatapathError::Gone { key: self.key.to_owned(), found: "nothing is known of it".to_owned() }),
        }
    }

    /// Ends the upload, and looks whether it has ended.
    async fn abort(&self) {
        for _ in 0..ABORTS {
            let left = async {
                self.bucket.abort(self.key, self.upload).await?;
                self.bucket.parts(self.key, self.upload).await
            };
            match left.await {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(error) => warn!(
                    upload.key = self.key,
                    upload.id = self.upload,
                    "the upload of `{}` could not be aborted: {}",
                    self.key,
                    chain(&error)
                ),
            }
        }
        warn!(
            upload.key = self.key,
            upload.id = self.upload,
            "the upload of `{}` is still there; the next attempt goes on with it, or the lifecycle of the bucket ends it",
            self.key
        );
    }

    fn failed(&self, source: StoreError) -> DatapathError {
        DatapathError::Bucket { what: self.what.to_owned(), key: self.key.to_owned(), source }
    }
}

type Arrived = Result<(u32, Result<Option<Written>, StoreError>), tokio::task::JoinError>;
