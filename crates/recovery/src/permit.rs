//! Permission to promote, as a value that is checked again at the moment of use.

use serde::{Deserialize, Serialize};

use crate::{database::ServerStatus, lsn::Lsn};

/// Names the one standby state that may become the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// The cluster that the standby must belong to.
    pub system_identifier: String,
    /// The timeline that it must follow.
    pub timeline: u32,
    /// It must hold the log at least to here.
    pub replay_to: Lsn,
}

/// Why a standby must not be promoted under a permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermitViolation {
    /// Another cluster altogether.
    #[error("`{standby}` belongs to system {found}, the permit is for {permitted}")]
    OtherSystem {
        /// The standby.
        standby: String,
        /// Its system identifier.
        found: String,
        /// The permit's.
        permitted: String,
    },
    /// Another branch of history.
    #[error("`{standby}` is on timeline {found}, the permit is for timeline {permitted}")]
    OtherTimeline {
        /// The standby.
        standby: String,
        /// Its timeline.
        found: u32,
        /// The permit's.
        permitted: u32,
    },
    /// Not enough of the log.
    #[error("`{standby}` holds the log to {found}, the permit asks for {permitted}, {} bytes more", permitted.bytes_since(*found))]
    Behind {
        /// The standby.
        standby: String,
        /// What it holds.
        found: Lsn,
        /// What it must hold.
        permitted: Lsn,
    },
}

impl Permit {
    /// Whether a standby in this state may be promoted.
    ///
    /// # Errors
    /// The first way in which it differs.
    pub fn check(&self, standby: &str, status: &ServerStatus) -> Result<(), PermitViolation> {
        self.check_history(standby, status)?;
        if status.timeline != self.timeline {
            return Err(PermitViolation::OtherTimeline {
                standby: standby.to_owned(),
                found: status.timeline,
                permitted: self.timeline,
            });
        }
        if status.holds_to < self.replay_to {
            return Err(PermitViolation::Behind {
                standby: standby.to_owned(),
                found: status.holds_to,
                permitted: self.replay_to,
            });
        }
        Ok(())
    }

    /// Whether a server that has left recovery is what this permit produces: the same system on a later timeline.
    ///
    /// # Errors
    /// It is another system, or it never was a standby under this permit.
    pub fn check_promoted(&self, server: &str, status: &ServerStatus) -> Result<(), PermitViolation> {
        self.check_history(server, status)?;
        if status.timeline <= self.timeline {
            return Err(PermitViolation::OtherTimeline {
                standby: server.to_owned(),
                found: status.timeline,
                permitted: self.timeline + 1,
            });
        }
        Ok(())
    }

    fn check_history(&self, server: &str, status: &ServerStatus) -> Result<(), PermitViolation> {
        if status.system_identifier == self.system_identifier {
            return Ok(());
        }
        Err(PermitViolation::OtherSystem {
            standby: server.to_owned(),
            found: status.system_identifier.clone(),
            permitted: self.system_identifier.clone(),
        })
    }
}
