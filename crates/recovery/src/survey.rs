//! What was seen before a decision, by whom and when. Not seen is a value too.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{NodeGroupStatus, Writer},
    database::{PrimaryPosition, ServerStatus},
    fence::FenceRecord,
};

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sighting<T> {
    /// It answered.
    Seen(T),
    /// It did not, and why.
    Unknown(String),
}

impl<T> Sighting<T> {
    /// What was seen, if anything was.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Sighting::Seen(value) => Some(value),
            Sighting::Unknown(_) => None,
        }
    }
}

/// Everything that a decision may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// When the looking ended, by the clock of whoever looked.
    pub observed_at: Timestamp,
    /// The server that takes writes.
    pub primary: Sighting<ServerStatus>,
    /// The server that follows it.
    pub standby: Sighting<ServerStatus>,
    /// The last position that the primary is known to have had; `None` if none was ever kept.
    pub position: Sighting<Option<PrimaryPosition>>,
    /// The fence object; `None` if no run has ever taken it.
    pub fence: Sighting<Option<FenceRecord>>,
    /// Whether the switch object is there, which it must not be.
    pub switched: Sighting<bool>,
    /// The node group that carries the platform afterwards.
    pub node_group: Sighting<NodeGroupStatus>,
    /// The Deployments of the primary region that write.
    pub writers: Sighting<Vec<Writer>>,
}
