//! Scripted faults, in front of every endpoint of the lab.
//!
//! A proxy passes everything on until a script is laid on its desk. There are four scripts, because these are the four
//! ways in which a call can go wrong for the caller: it is *rejected*; the work is done and the *answer is lost*; it is
//! *held* until somebody releases it; it is *slow*. Answers that are large can also come in a trickle, or break off in the
//! middle. A script is chosen by service, operation, path and body, and by the
//! how manieth such call; everything that fired is written down, so that a test can say that its fault really happened,
//! and when.
//!
//! [`HttpProxy`] stands in front of AWS, Kubernetes and the services; [`PostgresProxy`] speaks PostgreSQL's protocol and
//! chooses by the text of the statement.

mod http;
mod postgres;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

pub use http::{HttpProxy, Upstream};
pub use postgres::PostgresProxy;

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Refused; nothing is done. For AWS the code is the error code (`ThrottlingException`), for Kubernetes the reason
    /// (`Conflict`), for PostgreSQL the SQLSTATE (`57P03`).
    Reject {
        /// HTTP status; of no meaning for PostgreSQL.
        status: u16,
        /// The error code in the service's own shape.
        code: String,
    },
    /// Done, but the connection breaks instead of an answer.
    LoseAnswer,
    /// Neither done nor answered until [`Desk::release`]; then done, even if the caller has gone meanwhile.
    Hold,
    /// Done at once, answered late.
    Slow(Duration),
    /// Done at once; the answer's body comes in pieces, with a pause before each. Of no meaning for PostgreSQL.
    Trickle {
        /// Bytes of one piece.
        piece_bytes: usize,
        /// Before each.
        pause: Duration,
    },
    /// Done at once; the connection breaks inside the answer's body. Of no meaning for PostgreSQL.
    BreakBody {
        /// After so many bytes.
        after_bytes: usize,
    },
}

/// Which calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// The service in the credential scope (`rds`, `s3`, `secretsmanager`, `route53`), `postgres`, or what an upstream
    /// without signatures is called ([`Upstream::unsigned`]).
    pub service: Option<String>,
    /// A part of the operation: `PromoteReadReplica`, `GetSecretValue`, an HTTP method for REST services, the text of an
    /// SQL statement, `connect` for a new connection to PostgreSQL.
    pub operation: Option<String>,
    /// A part of the path with its query; for PostgreSQL the server's name, `primary` or `standby`.
    pub path: Option<String>,
    /// A part of the body, decoded if it is a form; PostgreSQL has none.
    pub body: Option<String>,
}

impl Selector {
    /// Every call.
    pub fn any() -> Self {
        Self::default()
    }

    /// Calls of an operation.
    pub fn operation(operation: &str) -> Self {
        Self { operation: Some(operation.into()), ..Self::default() }
    }

    /// Calls with a method and a part of the path, for REST services.
    pub fn request(method: &str, path: &str) -> Self {
        Self { operation: Some(method.into()), path: Some(path.into()), ..Self::default() }
    }

    /// The call of S3 that makes one object of all parts.
    pub fn complete_upload() -> Self {
        Self::request("POST", "uploadId=").of("s3")
    }

    /// The calls of S3 that send this part.
    pub fn part(number: u32) -> Self {
        Self::request("PUT", &format!("partNumber={number}&")).of("s3")
    }

    /// Narrowed to a service.
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }

    /// Narrowed to a part of the path.
    pub fn at(mut self, path: &str) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Narrowed to a part of the body.
    pub fn saying(mut self, body: &str) -> Self {
        self.body = Some(body.into());
        self
    }

    fn fits(&self, call: &Call, body: &[u8]) -> bool {
        let contains =
            |part: &Option<String>, whole: &str| part.as_ref().is_none_or(|part| whole.contains(part.as_str()));
        let says = |part: &String| part.is_empty() || body.windows(part.len()).any(|window| window == part.as_bytes());
        self.service.as_ref().is_none_or(|service| *service == call.service)
            && contains(&self.operation, &call.operation)
            && contains(&self.path, &call.path)
            && self.body.as_ref().is_none_or(says)
    }
}

/// Which of the fitting calls, counted from one since the script was laid down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Only this one.
    Nth(u32),
    /// So many from the first.
    First(u32),
    /// All.
    Always,
}

impl Times {
    fn includes(self, number: u32) -> bool {
        match self {
            Self::Nth(nth) => number == nth,
            Self::First(count) => number <= count,
            Self::Always => true,
        }
    }
}

/// A call that went through a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it came.
    pub at: Timestamp,
    /// See [`Selector::service`].
    pub service: String,
    /// See [`Selector::operation`].
    pub operation: String,
    /// See [`Selector::path`].
    pub path: String,
    /// What was done to it; `None` when it was passed on.
    pub fired: Option<Script>,
    /// Which of the scripts that were laid down did it.
    pub fired_by: Option<Laid>,
}

/// A script that was laid down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Laid(u64);

#[derive(Debug)]
struct Waiting {
    laid: Laid,
    selector: Selector,
    times: Times,
    script: Script,
    seen: u32,
}

/// Where scripts are laid down, and where it is written what they did. Proxies may share one.
#[derive(Debug, Clone)]
pub struct Desk {
    state: Arc<Mutex<State>>,
    released: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    laid: u64,
    calls: Vec<Call>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { state: Arc::default(), released: watch::Sender::new(0) }
    }
}

impl Desk {
    /// An empty desk.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a script down. When several fit a call, the first laid down acts.
    pub fn lay(&self, selector: Selector, times: Times, script: Script) -> Laid {
        let mut state = self.state();
        state.laid += 1;
        let laid = Laid(state.laid);
        state.waiting.push(Waiting { laid, selector, times, script, seen: 0 });
        laid
    }

    /// Takes all scripts away and releases what is held.
    pub fn clear(&self) {
        self.state().waiting.clear();
        self.release();
    }

    /// Lets go of every call that is held at this moment.
    pub fn release(&self) {
        self.released.send_modify(|n| *n += 1);
    }

    /// Every call, in the order they came.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The calls that a script acted on.
    pub fn fired(&self) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.fired.is_some()).cloned().collect()
    }

    /// Waits until so many scripts have fired.
    pub async fn wait_for_fired(&self, count: usize) {
        while self.state().calls.iter().filter(|call| call.fired.is_some()).count() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn take(&self, service: &str, operation: &str, path: &str, body: &[u8]) -> Option<Script> {
        let mut call = Call {
            at: Timestamp::now(),
            service: service.into(),
            operation: operation.into(),
            path: path.into(),
            fired: None,
            fired_by: None,
        };
        let mut state = self.state();
        for waiting in &mut state.waiting {
            if !waiting.selector.fits(&call, body) {
                continue;
            }
            waiting.seen += 1;
            if call.fired.is_none() && waiting.times.includes(waiting.seen) {
                call.fired = Some(waiting.script.clone());
                call.fired_by = Some(waiting.laid);
            }
        }
        let fired = call.fired.clone();
        state.calls.push(call);
        fired
    }

    async fn held(&self) {
        let mut released = self.released.subscribe();
        released.mark_unchanged();
        let _ = released.changed().await;
    }
}
