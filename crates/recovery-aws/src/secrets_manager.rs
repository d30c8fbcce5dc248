//! Secrets Manager of one region, where secrets are replicated to beforehand.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use recovery::{
    closure::SecretShelf,
    fault::Fault,
    secrets::{Credentials, SecretError, Secrets},
};
use tokio::sync::Mutex;

use crate::trouble::{Kind, Trouble};

/// How long a secret is believed. Lambda keeps processes for hours, rotation does not wait for them.
const BELIEVED_FOR: Duration = Duration::from_secs(300);

/// Secrets by name, remembered for a few minutes: repeated looks of one run ask once.
#[derive(Debug)]
pub struct SecretsManager {
    client: Client,
    known: Mutex<HashMap<String, (Instant, Credentials)>>,
}

impl SecretsManager {
    /// Nothing is known yet.
    pub fn new(client: Client) -> SecretsManager {
        SecretsManager { client, known: Mutex::new(HashMap::new()) }
    }
}

/// What a region has, without what is in it: another right than to read them.
#[derive(Clone, Debug)]
pub struct SecretNames {
    client: Client,
    region: String,
}

impl SecretNames {
    /// Behind a client of its region.
    pub fn new(client: Client, region: &str) -> SecretNames {
        SecretNames { client, region: region.to_owned() }
    }
}

#[async_trait]
impl SecretShelf for SecretNames {
    fn region(&self) -> &str {
        &self.region
    }

    async fn holds(&self, name: &str) -> Result<bool, SecretError> {
        match self.client.describe_secret().secret_id(name).send().await {
            // Deleted secrets are kept for some days, and cannot be read any more.
            Ok(secret) => Ok(secret.deleted_date().is_none()),
            Err(error) => {
                let trouble = Trouble::from(error);
                if trouble.is_missing() { Ok(false) } else { Err(failed(name, trouble)) }
            }
        }
    }
}

fn failed(name: &str, trouble: Trouble) -> SecretError {
    let fault = match trouble.kind {
        Kind::Unavailable | Kind::Precondition | Kind::Busy => Fault::Transient,
        Kind::Denied | Kind::Limit => Fault::Refused,
        Kind::Missing | Kind::Invalid => Fault::Permanent,
    };
    SecretError { name: name.to_owned(), fault, source: trouble.boxed() }
}

#[async_trait]
impl Secrets for SecretsManager {
    async fn credentials(&self, name: &str) -> Result<Credentials, SecretError> {
        let mut known = self.known.lock().await;
        if let Some((since, credentials)) = known.get(name)
            && since.elapsed() < BELIEVED_FOR
        {
            return Ok(credentials.clone());
        }
        let answer = self.client.get_secret_value().secret_id(name).send().await;
        let answer = answer.map_err(|error| failed(name, error.into()))?;
        let credentials: Credentials =
            serde_json::from_str(answer.secret_string().unwrap_or_default()).map_err(|error| SecretError {
                name: name.to_owned(),
                fault: Fault::Permanent,
                // serde_json's own words may quote the secret.
                source: format!(
                    "it is not of the form {{\"username\":…,\"password\":…}} ({:?} error in column {})",
                    error.classify(),
                    error.column()
                )
                .into(),
            })?;
        known.insert(name.to_owned(), (Instant::now(), credentials.clone()));
        Ok(credentials)
    }
}
