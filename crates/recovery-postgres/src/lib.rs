//! The recovery domain's traits on PostgreSQL 13 and later, over TLS.
//!
//! [`Server`] is one server with two doors: the role that fences and promotes, and the role that services write with. What
//! it needs in the probe database is in `schema.sql`.

mod backup;
mod connection;
mod replication;
mod server;
mod tls;

pub use backup::{BackupSource, Logical, Physical, Programs, ProgramsError};
pub use server::{SelfManaged, Server};
pub use tls::{TlsError, trust};

/// Tables, in the probe database, that hold the heartbeat and attempted writes, and the grants on them.
///
/// Run it once as the owner of the probe database; `sparc_app` stands for the role that services write with.
pub const SCHEMA: &str = include_str!("schema.sql");
