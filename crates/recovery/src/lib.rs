//! The domain of recovery: what a plan says, what was seen, what is decided, what a run did, what a report claims.
//!
//! There is no network and no clock here. Adapters implement the traits; functions put them together.

pub mod approval;
pub mod backup;
pub mod closure;
pub mod cluster;
pub mod cluster_state;
pub mod contradictions;
pub mod database;
pub mod envelope;
pub mod failover;
pub mod fault;
pub mod fence;
pub mod holdings;
pub mod incident;
pub mod intervention;
pub mod lsn;
pub mod names;
pub mod notice;
pub mod objective;
pub mod permit;
pub mod plan;
pub mod postgres_settings;
pub mod registry;
pub mod replication;
pub mod report;
pub mod run;
pub mod secrets;
pub mod spelling;
pub mod store;
pub mod survey;
