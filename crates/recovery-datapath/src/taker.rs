//! How one kind of backup is taken: what an adapter implements, and what it writes through.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use recovery::{
    backup::{Artifact, BackupId, Content, Encoding, Keeping, PartStore, Source, Tool},
    fault::{Classified, Fault},
};

use crate::{DatapathError, Ends, Options, Parts, Produced, Stored, store};

/// One kind of backup, of one subject.
#[async_trait]
pub trait Taker: Send + Sync {
    /// Plain bytes that a backup has to move, as the source says; zero if the source moves them itself.
    async fn size_bytes(&self) -> Result<u64, TakeError>;

    /// Takes it. Artifacts go through the sink, which notes them; a [`Fault::NotYet`] means that a service works on it and
    /// the same call looks again.
    async fn take(&self, backup: &BackupId, sink: &Sink) -> Result<Made, TakeError>;
}

/// What a backup was made by and from.
#[derive(Clone, Debug)]
pub struct Made {
    /// The program.
    pub tool: Tool,
    /// The source, as of the backup.
    pub source: Source,
}

/// Where the artifacts of one backup go.
pub struct Sink {
    backup: BackupId,
    bucket: Arc<dyn PartStore>,
    encoding: Encoding,
    keeping: Keeping,
    deadline: Instant,
    artifacts: Mutex<Vec<Artifact>>,
}

impl Sink {
    /// A sink into the backup's folder; `within` is for all artifacts together.
    pub fn new(
        backup: &BackupId,
        bucket: Arc<dyn PartStore>,
        encoding: Encoding,
        keeping: Keeping,
        within: Duration,
    ) -> Sink {
        Sink {
            backup: backup.clone(),
            bucket,
            encoding,
            keeping,
            deadline: Instant::now() + within,
            artifacts: Mutex::default(),
        }
    }

    /// Writes an artifact; `name` lies in the backup's folder and gets the encoding's suffix. `about_bytes` is what the
    /// plain bytes may come to, which chooses the length of parts; `whole` says what is wrong with the plain bytes.
    ///
    /// # Errors
    /// It is not written, and nothing of it is left.
    pub async fn artifact(
        &self,
        name: &str,
        content: Content,
        produced: Produced,
        about_bytes: u64,
        whole: fn(&Ends) -> Result<(), String>,
    ) -> Result<Stored, DatapathError> {
        let key = format!("{}{}", self.backup.artifact_key(name), self.encoding.suffix());
        let options = Options {
            encoding: self.encoding,
            keeping: self.keeping.clone(),
            parts: Parts::for_about(about_bytes),
            within: self.deadline.saturating_duration_since(Instant::now()),
            whole,
        };
        let stored = store(&self.bucket, &key, produced, &options).await?;
        self.artifacts.lock().unwrap_or_else(PoisonError::into_inner).push(Artifact {
            key,
            content,
            version_id: stored.version_id.clone(),
            plain_bytes: stored.ends.bytes,
            stored_bytes: stored.stored_bytes,
            plain_sha256: stored.plain_sha256.clone(),
            plain_crc64nvme: Some(stored.plain_crc64nvme.clone()),
            stored_sha256: stored.stored_sha256.clone(),
            crc64nvme: stored.crc64nvme.clone(),
            encoding: self.encoding,
        });
        Ok(stored)
    }

    /// Adds to what is said of artifacts what became known only after them.
    pub fn describe(&self, mut edit: impl FnMut(&mut Artifact)) {
        self.artifacts.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(&mut edit);
    }

    /// What was written, in the order in which it was complete.
    pub fn into_artifacts(self) -> Vec<Artifact> {
        self.artifacts.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backup was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// An artifact was not written.
    #[error(transparent)]
    Stored(#[from] DatapathError),
    /// The source did not do what it was asked.
    #[error("{doing} failed")]
    Source {
        /// What was tried.
        doing: String,
        /// Who acts next.
        fault: Fault,
        /// What to do.
        remedy: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The source works on it.
    #[error("{0}")]
    NotYet(String),
    /// A guard held.
    #[error("not taken: {says}")]
    Refused {
        /// What was seen.
        says: String,
        /// What to do.
        remedy: String,
    },
}

impl TakeError {
    /// An error of the source, which says itself who acts next.
    pub fn source<E: Classified + Send + Sync + 'static>(doing: &str, error: E) -> TakeError {
        TakeError::Source {
            doing: doing.to_owned(),
            fault: error.fault(),
            remedy: error.remedy(),
            source: Box::new(error),
        }
    }
}

impl Classified for TakeError {
    fn fault(&self) -> Fault {
        match self {
            TakeError::Stored(error) => error.fault(),
            TakeError::Source { fault, .. } => *fault,
            TakeError::NotYet(_) => Fault::NotYet,
            TakeError::Refused { .. } => Fault::Refused,
        }
    }

    fn remedy(&self) -> String {
        match self {
            TakeError::Stored(error) => error.remedy(),
            TakeError::Source { remedy, .. } | TakeError::Refused { remedy, .. } => remedy.clone(),
            TakeError::NotYet(_) => "wait; the next look tells".to_owned(),
        }
    }
}
