//! Why an object did not come into being.

use recovery::{
    fault::{Classified, Fault},
    store::StoreError,
};

use crate::produce::ProducerError;

/// Why an object did not come into being. Nothing of it is left, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The program that writes it failed.
    #[error("{what} failed, so `{key}` is not published")]
    Producer {
        /// What was being read.
        what: String,
        /// Key that it would have had.
        key: String,
        /// What it said.
        #[source]
        source: ProducerError,
    },
    /// The program says that it succeeded, and what it wrote is not whole.
    #[error("{what} ended well, but {problem}, so `{key}` is not published")]
    NotWhole {
        /// What was being read.
        what: String,
        /// Key that it would have had.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The bucket did not do what it was asked.
    #[error("{what} cannot be written to `{key}`")]
    Bucket {
        /// What was being read.
        what: String,
        /// Key that it would have had.
        key: String,
        /// What the bucket said.
        #[source]
        source: StoreError,
    },
    /// The upload went away, and the object that is there is another one.
    #[error("the upload of `{key}` has gone and the object is not the one that was sent: {found}")]
    Gone {
        /// Key that it would have had.
        key: String,
        /// What is there instead.
        found: String,
    },
    /// More parts than S3 takes.
    #[error("{what} is larger than {most_bytes} bytes, which is what its parts can hold")]
    TooLarge {
        /// What was being read.
        what: String,
        /// The most that fits.
        most_bytes: u64,
    },
    /// It took longer than it may.
    #[error("{what} was not written within {seconds} s")]
    TooSlow {
        /// What was being read.
        what: String,
        /// The bound.
        seconds: u64,
    },
}

impl Classified for DatapathError {
    fn fault(&self) -> Fault {
        match self {
            DatapathError::Producer { source, .. } => source.fault(),
            DatapathError::Bucket { source, .. } => source.fault(),
            DatapathError::NotWhole { .. } | DatapathError::Gone { .. } => Fault::Transient,
            DatapathError::TooLarge { .. } | DatapathError::TooSlow { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            DatapathError::Producer { source, .. } => source.remedy(),
            DatapathError::Bucket { source, .. } => source.remedy(),
            DatapathError::NotWhole { .. } => "look at the server's log for what ended the program early".to_owned(),
            DatapathError::Gone { .. } => {
                "see whether another attempt of the same backup runs; the next one begins anew".to_owned()
            }
            DatapathError::TooLarge { .. } => {
                "look at what `pg_database_size` says; the estimate that chose the parts was wrong".to_owned()
            }
            DatapathError::TooSlow { .. } => {
                "correct `backups.bytes_per_second` in the plan to what is measured, so that a Job takes it".to_owned()
            }
        }
    }
}
