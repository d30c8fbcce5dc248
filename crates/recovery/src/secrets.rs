//! Names of secrets become credentials only where they are used.

use std::fmt;

use async_trait::async_trait;
use serde::Deserialize;

use crate::fault::{Classified, Fault};

/// A database role and its password, as Secrets Manager keeps them for RDS: `{"username":…,"password":…}`.
#[derive(Clone, Deserialize)]
pub struct Credentials {
    /// The role.
    pub username: String,
    /// Its password; never logged.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where secrets are kept.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The credentials under a name.
    async fn credentials(&self, name: &str) -> Result<Credentials, SecretError>;
}

/// A secret could not be had.
#[derive(Debug, thiserror::Error)]
#[error("the secret `{name}` cannot be read")]
pub struct SecretError {
    /// Its name.
    pub name: String,
    /// Whether another attempt may help.
    pub fault: Fault,
    /// The service's words.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Classified for SecretError {
    fn fault(&self) -> Fault {
        self.fault
    }

    fn remedy(&self) -> String {
        format!("check that `{}` exists in the tertiary region and that the role may read it", self.name)
    }
}
