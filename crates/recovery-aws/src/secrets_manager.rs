//! Secrets Manager of the tertiary region, where secrets are replicated to beforehand.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use recovery::{
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

#[async_trait]
impl Secrets for SecretsManager {
    async fn credentials(&self, name: &str) -> Result<Credentials, SecretError> {
        let mut known = self.known.lock().await;
        if let Some((since, credentials)) = known.get(name)
            && since.elapsed() < BELIEVED_FOR
        {
            return Ok(credentials.clone());
        }
        let answer = self.client.get_secret_value().secret_id(name).send().await.map_err(|error| {
            let trouble = Trouble::from(error);
            let fault = match trouble.kind {
                Kind::Unavailable | Kind::Precondition | Kind::Busy => Fault::Transient,
                Kind::Denied | Kind::Limit => Fault::Refused,
                Kind::Missing | Kind::Invalid => Fault::Permanent,
            };
            SecretError { name: name.to_owned(), fault, source: trouble.boxed() }
        })?;
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
