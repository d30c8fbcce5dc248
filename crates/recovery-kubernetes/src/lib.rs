//! The recovery domain's [`Workloads`](recovery::cluster::Workloads) on the Kubernetes API.
//!
//! Everything here speaks to one API server, over TLS, with a bearer token that is asked for when the last one runs out.
//! There is no kubectl, no kubeconfig and no watch: each call reads, decides, does at most what it was asked, and returns.
//! Waiting is the state machine's work.
//!
//! Three things are worth knowing before changing anything:
//!
//! - A bundle is applied on the server's side, twice: first as a dry run of the whole, so that a conflict or an invalid
//!   object in the middle leaves nothing half applied, then for good, in order of dependency.
//! - `replicas` never stands in an applied manifest. A field that an apply once owned and later leaves out is *removed* by
//!   the server, which for replicas means 1; and the autoscaler, the fence and people own it. Counts go through the scale
//!   subresource.
//! - A stopped writer carries its former count in an annotation that is written in the same request as the zero, so there
//!   is no moment in which one is there without the other.

mod apply;
mod bundle;
mod connection;
mod error;
mod export;
mod jobs;
mod objects;
mod resources;
mod rollout;
mod volumes;
mod workloads;
mod writers;

pub use bundle::BundleError;
pub use connection::{Cluster, Connection, Limits, OnConflict, Token, TokenProvider};
pub use error::{Error, ObjectConflict, Owner};
pub use jobs::JobError;
pub use writers::{REPLICAS_BEFORE, WriterStatus};

/// The field manager of everything that is applied or patched here.
pub const FIELD_MANAGER: &str = "sparc-recovery";
