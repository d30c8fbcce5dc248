//! The note in the evidence bucket of an attempt that is under way.

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, BackupManifest, Keeping, PartStore},
    fault::Failure,
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Without a sign of life for so long, an attempt is taken for dead. Signs come three times as often.
pub(crate) const SILENCE_SECONDS: i64 = 90;

/// What is known of a backup while it is being taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) backup: BackupId,
    /// The run whose attempt it is.
    pub(crate) by: String,
    /// How many attempts there were.
    pub(crate) attempt: u32,
    /// When the first one began.
    pub(crate) began_at: Timestamp,
    /// The last sign of life.
    pub(crate) seen_at: Timestamp,
    /// How what is under way is kept. S3 does not say it of an upload that was not completed, so who goes on with one must
    /// know it from here; without it, no upload is gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keeping: Option<Keeping>,
    /// Why the last attempt ended; absent while one is under way, and if it could not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Failure>,
    /// Everything is stored, and this is to be published: attempts after it change nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<BackupManifest>,
}

/// The note, held by this attempt: whoever writes it in between is noticed by the next write.
pub(crate) struct Held<'a> {
    evidence: &'a dyn ObjectStore,
    pub(crate) progress: Progress,
    etag: String,
}

impl<'a> Held<'a> {
    /// Takes the note over, unless another attempt is alive.
    pub(crate) async fn take(
        evidence: &'a dyn ObjectStore,
        backup: &BackupId,
        run: &str,
        now: Timestamp,
    ) -> Result<Held<'a>, Error> {
        let key = backup.progress_key();
        let (before, precondition) = match get_json::<Progress>(evidence, &key).await? {
            Some((progress, etag)) => (Some(progress), Precondition::Unchanged(etag)),
            None => (None, Precondition::Absent),
        };
        let progress = match before {
            Some(before) => {
                let seconds = now.as_second() - before.seen_at.as_second();
                // An attempt that only has to publish can be helped by any other.
                if seconds < SILENCE_SECONDS && before.ended.is_none() && before.manifest.is_none() {
                    return Err(Error::Taken { backup: backup.clone(), by: before.by, seconds });
                }
                Progress { by: run.to_owned(), attempt: before.attempt + 1, seen_at: now, ended: None, ..before }
            }
            None => Progress {
                backup: backup.clone(),
                by: run.to_owned(),
                attempt: 1,
                began_at: now,
                seen_at: now,
                keeping: None,
                ended: None,
                manifest: None,
            },
        };
        let mut held = Held { evidence, progress, etag: String::new() };
        held.write(precondition).await?;
        Ok(held)
    }

    /// A sign of life, or the manifest to be published.
    pub(crate) async fn renew(&mut self, now: Timestamp, manifest: Option<BackupManifest>) -> Result<(), Error> {
        self.progress.seen_at = now;
        self.progress.manifest = manifest;
        self.write(Precondition::Unchanged(self.etag.clone())).await
    }

    /// Notes how this attempt keeps what it writes. Uploads of an attempt that kept it otherwise, or of which nobody knows, are
    /// ended first: what is completed from them would be kept as it was begun.
    pub(crate) async fn keep(&mut self, parts: &dyn PartStore, keeping: &Keeping, now: Timestamp) -> Result<(), Error> {
        if self.progress.keeping.as_ref() == Some(keeping) {
            return Ok(());
        }
        for (key, upload) in parts.unfinished_below(&self.progress.backup.folder()).await? {
            tracing::info!(upload.key = key, upload.id = upload, "ends the upload of `{key}`, which is kept otherwise");
            parts.abort(&key, &upload).await?;
        }
        self.progress.keeping = Some(keeping.clone());
        self.renew(now, None).await
    }

    /// The attempt has ended without a backup, and says why: the next one need not wait for its silence.
    pub(crate) async fn let_go(&mut self, why: &Error, now: Timestamp) {
        self.progress.seen_at = now;
        self.progress.ended = Some(Failure::from(why));
        if let Err(error) = self.write(Precondition::Unchanged(self.etag.clone())).await {
            tracing::warn!("the next attempt waits {SILENCE_SECONDS} s: {}", recovery::fault::chain(&error));
        }
    }

    async fn write(&mut self, precondition: Precondition) -> Result<(), Error> {
        let key = self.progress.backup.progress_key();
        match put_json(self.evidence, &key, &self.progress, precondition).await {
            Ok(()) | Err(StoreError::PreconditionFailed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // Refused may mean that our own write arrived and its answer did not: what is there decides.
        match get_json::<Progress>(self.evidence, &key).await? {
            Some((there, etag)) if there == self.progress => {
                self.etag = etag;
                Ok(())
            }
            _ => Err(Error::TakenOver { backup: self.progress.backup.clone() }),
        }
    }
}
