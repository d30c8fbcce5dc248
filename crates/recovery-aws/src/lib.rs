//! The recovery domain's traits on the AWS SDK.

pub mod eks_token;
