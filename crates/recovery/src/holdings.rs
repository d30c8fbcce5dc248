//! What the secondary region holds beside the database and the cluster: objects, images, and what fills itself again.
//!
//! It is evidence and no guard: a recovery does not wait for it, and what could not be looked at is unknown, with the
//! reason, in the report.
//!
//! Replication of objects says of itself only how it is doing, in metrics of the region that may be lost. So the watcher
//! writes each heartbeat as an object too, among those that are replicated, and keeps outside the region what it wrote;
//! what the copy holds of it after the loss bounds what is missing.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    database::Heartbeat,
    fault::{Classified, Fault},
    run::ServiceAnswer,
    survey::Sighting,
};

/// Key of the marker in the bucket that is replicated, and so in its copy.
pub const MARKER_KEY: &str = "recovery/marker.json";

/// Key in the evidence bucket of the last marker that was written.
pub fn written_key(platform: &str) -> String {
    format!("positions/{platform}-objects.json")
}

/// A heartbeat as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// The heartbeat of the primary that was written just before.
    pub heartbeat: Heartbeat,
}

/// What was found in the secondary region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holdings {
    /// Answers of components that the plan has a `check` for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ServiceAnswer>,
    /// The copy of the objects; absent if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Sighting<ObjectsHeld>>,
    /// Images that the workloads run from; absent if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Sighting<ImagesHeld>>,
}

/// What the copy of the objects holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectsHeld {
    /// The copy.
    pub bucket: String,
    /// The newest heartbeat that has arrived; `None` if none has.
    pub newest: Option<Heartbeat>,
    /// The last heartbeat that is known to have been written as an object.
    pub written: Option<Heartbeat>,
    /// When the copy had answered.
    pub observed_at: Timestamp,
}

/// Images that the workloads run from, looked for in the registry of their region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagesHeld {
    /// How many the bundle names.
    pub asked: usize,
    /// Those that are not there.
    pub missing: Vec<String>,
    /// When the registry had answered.
    pub observed_at: Timestamp,
}

/// A container registry of one region.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Which of these images it does not have. They are named as a manifest names them, by digest.
    async fn missing(&self, images: &[String]) -> Result<Vec<String>, RegistryError>;
}

/// The registry did not answer the question.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The image is named by a tag, by another registry, or not at all.
    #[error("`{image}` is not an image of a registry of AWS, named by its digest")]
    NotByDigest {
        /// As the manifest has it.
        image: String,
    },
    /// The role may not ask.
    #[error("the registry denies looking for `{repository}`")]
    Denied {
        /// Which repository.
        repository: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer.
    #[error("the registry cannot be asked for `{repository}`")]
    Unavailable {
        /// Which repository.
        repository: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classified for RegistryError {
    fn fault(&self) -> Fault {
        match self {
            RegistryError::NotByDigest { .. } => Fault::Permanent,
            RegistryError::Denied { .. } => Fault::Refused,
            RegistryError::Unavailable { .. } => Fault::Transient,
        }
    }

    fn remedy(&self) -> String {
        match self {
            RegistryError::NotByDigest { .. } => "render the bundle with digests: a tag may move".to_owned(),
            RegistryError::Denied { .. } => "give the function's role ecr:BatchGetImage".to_owned(),
            RegistryError::Unavailable { .. } => "ask again; images are pulled by the nodes in any case".to_owned(),
        }
    }
}
