//! Names that customers use: the switch that health checks watch, records, the CDN, and questions from outside.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    fault::{Classified, Fault},
    plan::Record,
};

/// An answer to a health question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// When it was asked.
    pub observed_at: Timestamp,
    /// HTTP status, absent if nothing answered.
    pub status: Option<u16>,
    /// Seconds until the answer.
    pub took_seconds: f64,
    /// The region that says it served, from the header `x-served-by-region`.
    pub region: Option<String>,
    /// Why there is no answer.
    pub error: Option<String>,
}

impl Answer {
    /// A status of 200 to 299.
    pub fn is_healthy(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Asks services as a customer would.
#[async_trait]
pub trait Prober: Send + Sync {
    /// Asks once. No answer is an [`Answer`] too.
    async fn ask(&self, url: &Url, within: Duration) -> Answer;
}

/// Route 53 records. Their control plane lives in us-east-1: never waited for.
#[async_trait]
pub trait Records: Send + Sync {
    /// Upserts one record and returns the change's identifier.
    async fn upsert(&self, record: &Record, comment: &str) -> Result<String, NamesError>;
    /// Whether the change has reached all servers (`INSYNC`).
    async fn is_in_sync(&self, change: &str) -> Result<bool, NamesError>;
}

/// A CloudFront distribution. Its control plane lives in us-east-1: never waited for.
#[async_trait]
pub trait Distribution: Send + Sync {
    /// Points one origin at a domain under the ETag that was read with it; `false` if it already was.
    async fn point_origin(&self, origin: &str, domain: &str) -> Result<bool, NamesError>;
}

/// A name could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// No answer, throttled, a server error, or somebody else changed it in between.
    #[error("{what} cannot be changed now")]
    Unavailable {
        /// The record or distribution.
        what: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request is wrong.
    #[error("{what} cannot be changed this way")]
    Invalid {
        /// The record or distribution.
        what: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classified for NamesError {
    fn fault(&self) -> Fault {
        match self {
            NamesError::Unavailable { .. } => Fault::Transient,
            NamesError::Invalid { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            NamesError::Unavailable { .. } => {
                "nothing: traffic has moved by health checks; edit it when the control plane is back".to_owned()
            }
            NamesError::Invalid { .. } => "correct [names] in the plan".to_owned(),
        }
    }
}
