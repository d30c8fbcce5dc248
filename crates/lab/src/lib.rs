//! A real PostgreSQL pair, emulated AWS and scripted faults on one machine.
//!
//! The lab is what `drctl drill --lab` and the tests run against: a platform small enough for a laptop and real where it
//! matters. [`Lab::start`] assembles all of it; each part also stands alone.
//!
//! - [`postgres`]: a primary and a streaming standby, real processes behind TLS; kill, freeze, fill, compare positions
//! - [`load`]: clients that know which commits were promised to them
//! - [`aws`]: ministack and moto in three regions, seeded as `plans/sparc.toml` describes the platform
//! - [`rds`]: the RDS API acting on the real servers
//! - [`backups`]: the pair or the clusters with the account that their backups go to, and nothing else
//! - [`container`]: images of ours, run as the node of a cluster would
//! - [`stack`]: `template.yaml` on that AWS, deployed by SAM with the functions' programs
//! - [`services`], [`edge`], [`resolvers`]: health checks, Route 53's data plane as far as it answers, and resolvers that
//!   keep its answers
//! - [`kubernetes`], [`nodes`]: an API server, real where it can be had, rollouts on it, and nodes that follow their EKS
//!   node group
//! - [`faults`]: the four scripts, in front of any endpoint
//!
//! Everything listens on 127.0.0.1 and ends with its owner, also when that is killed: see [`Folder`].

mod assembly;
mod error;
mod folder;
mod ports;
mod process;
mod python;
mod workloads;
mod xml;

pub mod aws;
pub mod backups;
pub mod cache;
pub mod container;
pub mod edge;
pub mod faults;
pub mod kubernetes;
pub mod lambda;
pub mod load;
pub mod nodes;
pub mod platform;
pub mod postgres;
pub mod rds;
pub mod resolvers;
pub mod services;
pub mod stack;
pub mod tls;

pub use assembly::{Addresses, ClusterAddress, Lab, Options, Progress};
pub use error::{Error, Result};
pub use folder::Folder;
