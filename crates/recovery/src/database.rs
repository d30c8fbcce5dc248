//! A PostgreSQL server as the recovery sees it: what it is, whether it takes writes, how it is closed and opened.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    fault::{Classified, Fault},
    lsn::Lsn,
};

/// What one server said about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The server's own clock.
    pub observed_at: Timestamp,
    /// Identifies the cluster since `initdb`; a number, kept as text because JSON numbers end at 2^53.
    pub system_identifier: String,
    /// Timeline that the server writes or replays.
    pub timeline: u32,
    /// A standby, or still being promoted.
    pub in_recovery: bool,
    /// End of the log that the server holds: written on a primary, received on a standby.
    pub holds_to: Lsn,
    /// End of the log that queries can see. Frozen on a server that has left recovery: where its old timeline ended.
    pub replayed_to: Option<Lsn>,
    /// The newest heartbeat that the server can see.
    pub heartbeat: Option<Heartbeat>,
    /// New sessions start read-only.
    pub read_only: bool,
    /// `wal_retrieve_retry_interval`, milliseconds: how long a standby that lost its stream may sleep before it notices
    /// a promotion request (seen on 15.18).
    pub retrieve_retry_ms: u64,
    /// `synchronous_standby_names`: a promoted standby that inherits it hangs at every commit.
    pub synchronous_standby_names: String,
}

/// A row that the watcher writes on the primary at intervals; what is lost is counted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Rises by one with each.
    pub number: i64,
    /// The primary's clock when it was written.
    pub written_at: Timestamp,
}

/// The last position that the primary is known to have had, kept outside its region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrimaryPosition {
    /// The primary's clock.
    pub observed_at: Timestamp,
    /// Which cluster.
    pub system_identifier: String,
    /// Which timeline.
    pub timeline: u32,
    /// End of the log at `observed_at`.
    pub lsn: Lsn,
    /// The heartbeat just written.
    pub heartbeat: Heartbeat,
    /// How its archiver fares; absent if it archives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archiver: Option<Archiver>,
}

/// What a primary says of its `archive_command`: `pg_stat_archiver`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Archiver {
    /// When it last succeeded.
    pub last_archived_at: Option<Timestamp>,
    /// When it last failed; it is tried again until it succeeds.
    pub last_failed_at: Option<Timestamp>,
    /// The file that it failed with.
    pub last_failed: Option<String>,
    /// How often it failed since the statistics began.
    pub failures: i64,
}

impl Archiver {
    /// The file that cannot be archived now, and since when at the latest.
    pub fn stuck_on(&self) -> Option<(&str, Timestamp)> {
        let failed_at = self.last_failed_at.filter(|failed| self.last_archived_at.is_none_or(|done| *failed > done))?;
        Some((self.last_failed.as_deref().unwrap_or("a file"), failed_at))
    }
}

/// Key in the evidence bucket of the last position that the primary is known to have had.
pub fn position_key(platform: &str) -> String {
    format!("positions/{platform}.json")
}

/// How an attempted write ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum WriteAttempt {
    /// Committed and flushed.
    Accepted {
        /// The server's clock at the commit.
        at: Timestamp,
    },
    /// The server answered and refused it.
    Rejected {
        /// SQLSTATE and message, for example `25006: cannot execute INSERT in a read-only transaction`.
        why: String,
    },
}

/// What closing a server to writes did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Sessions that were ended.
    pub sessions_ended: u64,
    /// Sessions that have not gone yet; while there are any, the position may still move.
    pub sessions_left: u64,
    /// End of the log after that.
    pub lsn: Lsn,
}

/// One PostgreSQL server.
#[async_trait]
pub trait Database: Send + Sync {
    /// The name that people read in messages.
    fn name(&self) -> &str;

    /// Reads what the server is.
    async fn status(&self) -> Result<ServerStatus, DatabaseError>;

    /// Tries to commit a write as the role that services use, and waits for the flush.
    async fn attempt_write(&self, run: &str) -> Result<WriteAttempt, DatabaseError>;

    /// Makes new sessions read-only and ends those that could still write.
    async fn close(&self) -> Result<Closed, DatabaseError>;

    /// Takes back [`Database::close`].
    async fn open(&self) -> Result<(), DatabaseError>;

    /// Clears a `synchronous_standby_names` that came with the base backup.
    async fn stand_alone(&self) -> Result<(), DatabaseError>;

    /// Writes the next heartbeat and returns where the log ends.
    async fn beat(&self) -> Result<PrimaryPosition, DatabaseError>;
}

/// How a standby is made the primary; a driver each for PostgreSQL, RDS and Aurora.
#[async_trait]
pub trait Replica: Send + Sync {
    /// What the promoting API says of the replica.
    async fn role(&self) -> Result<ReplicaRole, DatabaseError>;

    /// Asks for the promotion. An error says nothing about whether it happened: look again.
    async fn promote(&self, manner: Manner) -> Result<(), DatabaseError>;
}

/// What the promoting API says of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaRole {
    /// It follows a source.
    Following,
    /// It is on its way.
    Changing(String),
    /// It follows nobody.
    Standalone,
}

/// Why a standby is promoted; Aurora has two different calls for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// The primary lives: nothing may be lost.
    Graceful,
    /// The primary is gone: what has not arrived is lost.
    Ungraceful,
}

/// A server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection, or it broke: nothing is known of what happened.
    #[error("cannot reach `{server}`")]
    Unreachable {
        /// Who was asked.
        server: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time: nothing is known of what happened.
    #[error("`{server}` did not answer within {seconds} s")]
    TimedOut {
        /// Who was asked.
        server: String,
        /// The time that it had.
        seconds: f64,
    },
    /// The role or its secret is wrong.
    #[error("`{server}` does not let us in")]
    Denied {
        /// Who was asked.
        server: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API refuses the request in this state.
    #[error("`{server}` refuses: {why}")]
    Refused {
        /// Who was asked.
        server: String,
        /// Its own words.
        why: String,
    },
    /// The server answered with an error.
    #[error("`{server}` failed while {doing}")]
    Failed {
        /// Who was asked.
        server: String,
        /// What was tried.
        doing: &'static str,
        /// Its own words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classified for DatabaseError {
    fn fault(&self) -> Fault {
        match self {
            DatabaseError::Unreachable { .. } | DatabaseError::TimedOut { .. } | DatabaseError::Failed { .. } => {
                Fault::Transient
            }
            DatabaseError::Denied { .. } | DatabaseError::Refused { .. } => Fault::Refused,
        }
    }

    fn remedy(&self) -> String {
        match self {
            DatabaseError::Unreachable { server, .. } | DatabaseError::TimedOut { server, .. } => {
                format!("check that `{server}` runs and that the function's subnets reach it")
            }
            DatabaseError::Denied { .. } => {
                "check the secrets of [postgresql] in the plan and the certificate authority".to_owned()
            }
            DatabaseError::Refused { server, .. } => format!("look at `{server}` in the RDS console and decide"),
            DatabaseError::Failed { server, .. } => format!("read the log of `{server}`"),
        }
    }
}
