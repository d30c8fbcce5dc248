//! One cluster, and how it is reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::Mutex;

use crate::error::Error;

/// A bearer token and how long to use it.
pub struct Token {
    /// What goes after `Authorization: Bearer `.
    pub secret: String,
    /// From now on; `None` for a token that does not expire.
    pub valid_for: Option<Duration>,
}

/// Where tokens come from.
#[async_trait]
pub trait TokenProvider: Send + Sync {
    /// A fresh token.
    async fn token(&self) -> Result<Token, Box<dyn std::error::Error + Send + Sync>>;
}

#[async_trait]
impl<F> TokenProvider for F
where
    F: Fn() -> Result<Token, Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
{
    async fn token(&self) -> Result<Token, Box<dyn std::error::Error + Send + Sync>> {
        self()
    }
}

/// How long one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the connection stands.
    pub connect: Duration,
    /// From the question to the end of the answer.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connect: Duration::from_secs(3), request: Duration::from_secs(10) }
    }
}

/// What to do with a field that somebody else manages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Change nothing and say whose it is.
    #[default]
    Refuse,
    /// Take it: in a disaster the recovery overlay is the truth.
    Take,
}

/// Where a cluster is and what of it concerns us.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name, for messages.
    pub cluster: String,
    /// `https://…` of the API server.
    pub endpoint: String,
    /// Its certificate authority, PEM. EKS gives it as base64 of this.
    pub ca_pem: String,
    /// The platform's namespace.
    pub namespace: String,
    /// Label selector of the Deployments that write to the database.
    pub writers: String,
    /// Time limits.
    pub limits: Limits,
    /// What an apply does with fields of others.
    pub on_conflict: OnConflict,
}

/// One cluster.
pub struct Cluster {
    pub(crate) at: Connection,
    tokens: Arc<dyn TokenProvider>,
    session: Mutex<Option<Session>>,
}

struct Session {
    client: Client,
    until: Option<Instant>,
}

impl Cluster {
    /// Describes a cluster; nothing is asked of it yet.
    pub fn new(at: Connection, tokens: Arc<dyn TokenProvider>) -> Self {
        Cluster { at, tokens, session: Mutex::new(None) }
    }

    /// A client whose token is good for one more request. A token that runs out costs a new connection, no more.
    pub(crate) async fn client(&self) -> Result<Client, Error> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref()
            && session.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(session.client.clone());
        }
        let asked_at = Instant::now();
        let cluster = || self.at.cluster.clone();
        let token = self.tokens.token().await.map_err(|source| Error::Token { cluster: cluster(), source })?;
        let misconfigured = |why: String| Error::Misconfigured { cluster: cluster(), why };
        let uri =
            self.at.endpoint.parse().map_err(|_| misconfigured(format!("`{}` is not a URL", self.at.endpoint)))?;
        let mut config = Config::new(uri);
        let authorities = CertificateDer::pem_slice_iter(self.at.ca_pem.as_bytes())
            .map(|certificate| certificate.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| misconfigured(format!("its certificate authority is not PEM: {error}")))?;
        if authorities.is_empty() {
            return Err(misconfigured("its certificate authority has no certificate".to_owned()));
        }
        config.root_cert = Some(authorities);
        config.connect_timeout = Some(self.at.limits.connect);
        config.read_timeout = Some(self.at.limits.request);
        config.write_timeout = Some(self.at.limits.request);
        // Otherwise the time that a pooled connection was idle counts as time without an answer.
        config.reset_reader_on_write = true;
        // Trying again is the state machine's work, where an operator can see it.
        config.default_retry = false;
        config.default_namespace.clone_from(&self.at.namespace);
        config.auth_info.token = Some(token.secret.into());
        let client = Client::try_from(config).map_err(|error| misconfigured(error.to_string()))?;
        // A request may take its whole limit before the server looks at the token.
        let until = token.valid_for.map(|valid| asked_at + valid.saturating_sub(self.at.limits.request));
        *session = Some(Session { client: client.clone(), until });
        Ok(client)
    }

    /// Waits for one answer, at most as long as a request may take, and names what went wrong.
    pub(crate) async fn ask<T>(&self, doing: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        match tokio::time::timeout(self.at.limits.request, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::from_kube(&self.at.cluster, doing, error)),
            Err(_) => Err(Error::TimedOut {
                cluster: self.at.cluster.clone(),
                doing: doing.to_owned(),
                seconds: self.at.limits.request.as_secs_f32(),
            }),
        }
    }
}
