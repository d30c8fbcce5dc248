//! The recovery domain's traits on the AWS SDK, a file per service.
//!
//! Everything starts at [`Aws`]: it knows which region each client belongs to, so no caller ever leaves a region to the
//! environment, and nothing in the path of a failover asks a region that may be the one that was lost. Every call that is
//! made here stands in the table of [`calls`] with its plane and its home; a test compares the two.

pub mod acm;
mod aws;
pub mod calls;
pub mod cloudformation;
pub mod cloudfront;
pub mod cloudwatch;
pub mod ec2;
pub mod ecr;
pub mod eks;
pub mod eks_token;
pub mod kms;
pub mod rds;
pub mod rds_shelf;
pub mod rds_snapshots;
pub mod route53;
pub mod s3;
mod s3_backups;
mod s3_parts;
mod s3_replication;
pub mod secrets_manager;
pub mod service_quotas;
mod signed;
pub mod sns;
pub mod step_functions;
mod trouble;

pub use aws::Aws;
pub use trouble::{Kind, Trouble};
