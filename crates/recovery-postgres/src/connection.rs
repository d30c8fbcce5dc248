//! One door to one server: a connection that is opened when needed, kept while it works, and bounded in time.

use std::{future::Future, sync::Arc, time::Duration};

use recovery::{database::DatabaseError, secrets::Secrets};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, config::SslMode, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How to get through one door.
pub(crate) struct Door {
    /// The name that people read in messages.
    pub(crate) server: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) secret: String,
    /// Settings for every session, as in `options`.
    pub(crate) options: Option<&'static str>,
    pub(crate) timeout: Duration,
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) kept: Mutex<Option<Arc<Client>>>,
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

impl Door {
    /// Runs queries on the kept connection, or on a new one, within the time that one look may take.
    pub(crate) async fn with<T, F, Fut>(&self, doing: &'static str, queries: F) -> Result<T, DatabaseError>
    where
        F: Fn(Arc<Client>) -> Fut,
        Fut: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        self.with_timeout(doing, self.timeout, queries).await
    }

    /// As [`Door::with`], for what the server itself takes longer to do.
    pub(crate) async fn with_timeout<T, F, Fut>(
        &self,
        doing: &'static str,
        timeout: Duration,
        queries: F,
    ) -> Result<T, DatabaseError>
    where
        F: Fn(Arc<Client>) -> Fut,
        Fut: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let outcome = tokio::time::timeout(timeout, async {
            let client = self.client().await?;
            queries(client).await.map_err(|error| self.classify(doing, error))
        })
        .await;
        let result = outcome.unwrap_or_else(|_| {
            Err(DatabaseError::TimedOut { server: self.server.clone(), seconds: timeout.as_secs_f64() })
        });
        if matches!(result, Err(DatabaseError::Unreachable { .. } | DatabaseError::TimedOut { .. })) {
            *self.kept.lock().await = None;
        }
        result
    }

    async fn client(&self) -> Result<Arc<Client>, DatabaseError> {
        let mut kept = self.kept.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let credentials = self.secrets.credentials(&self.secret).await.map_err(|error| DatabaseError::Failed {
            server: self.server.clone(),
            doing: "reading its secret",
            source: Box::new(error),
        })?;
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .dbname(&self.database)
            .user(&credentials.username)
            .password(&credentials.password)
            .ssl_mode(SslMode::Require)
            .application_name("sparc-recovery")
            .connect_timeout(self.timeout);
        if let Some(options) = self.options {
            config.options(options);
        }
        let connector = MakeRustlsConnect::new(self.tls.clone());
        let (client, connection) =
            config.connect(connector).await.map_err(|error| self.classify("connecting", error))?;
        // The connection ends with the client; what broke it is seen by whoever uses the client.
        tokio::spawn(async move { drop(connection.await) });
        let client = Arc::new(client);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    pub(crate) fn classify(&self, doing: &'static str, error: tokio_postgres::Error) -> DatabaseError {
        classify(&self.server, doing, error)
    }
}

/// What an error of PostgreSQL means to whoever asked `server`.
pub(crate) fn classify(server: &str, doing: &'static str, error: tokio_postgres::Error) -> DatabaseError {
    match error.code().cloned() {
        Some(code) => classify_code(server, doing, &code, innermost(error)),
        // No SQLSTATE: the socket, TLS, or the protocol under them.
        None => DatabaseError::Unreachable { server: server.to_owned(), source: innermost(error) },
    }
}

/// What a SQLSTATE means to whoever asked `server`.
pub(crate) fn classify_code(server: &str, doing: &'static str, code: &SqlState, source: Boxed) -> DatabaseError {
    let server = server.to_owned();
    let denied =
        [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION, SqlState::INSUFFICIENT_PRIVILEGE];
    let away = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::CONNECTION_FAILURE,
    ];
    if denied.contains(code) {
        DatabaseError::Denied { server, source }
    } else if away.contains(code) {
        DatabaseError::Unreachable { server, source }
    } else {
        DatabaseError::Failed { server, doing, source }
    }
}

/// The text that a person can use: `tokio_postgres` says "db error" and hides the rest in its source.
fn innermost(error: tokio_postgres::Error) -> Boxed {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", db.code().code(), db.message()).into(),
        None => Box::new(error),
    }
}
