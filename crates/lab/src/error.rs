use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the lab could not be built, or could not do what a test asked of it.
///
/// Nothing here is retried: the lab stands on one machine, so a failure is either something missing, which a person
/// installs, or a defect. `Debug` is one line with every cause and the remedy, because that is what a test's `unwrap`
/// shows.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program that the lab starts is not on this machine.
    #[error("`{program}` is not on this machine: {purpose}")]
    Missing {
        /// What was looked for.
        program: String,
        /// What the lab needs it for.
        purpose: String,
        /// The sentence with the command that installs it.
        install: String,
    },
    /// The operating system refused a file, a process or a socket.
    #[error("cannot {action}")]
    System {
        /// What was tried, with names.
        action: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A program ended otherwise than it should have.
    #[error("`{program}` failed: {said}")]
    Program {
        /// The program.
        program: String,
        /// The end of what it printed.
        said: String,
    },
    /// A server did not become ready in time.
    #[error("{server} was not ready after {seconds} s; its log {log} ends: {said}", log = .log.display())]
    NotReady {
        /// The server, as the lab names it.
        server: String,
        /// How long we waited.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        said: String,
    },
    /// PostgreSQL refused a statement or a connection.
    #[error("{server} refused to {action}")]
    Postgres {
        /// The server, as the lab names it.
        server: String,
        /// What was tried.
        action: String,
        /// What the server or the driver said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {name}: {reason}")]
    Certificate {
        /// Who it is for.
        name: String,
        /// What rcgen or rustls said.
        reason: String,
    },
    /// The emulated AWS answered otherwise than it should have.
    #[error("the emulated {service} refused `{operation}`: {said}")]
    Aws {
        /// The service.
        service: String,
        /// The operation.
        operation: String,
        /// Its answer.
        said: String,
    },
    /// The test asks for something that the lab is in no state to do.
    #[error("{0}")]
    State(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        write!(f, "; {}", self.remedy())
    }
}

impl Error {
    /// What the person at the keyboard does next, in one sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::Missing { install, .. } => install.clone(),
            Self::System { .. } => "look at the path and at the free space of the disk it is on".into(),
            Self::Program { program, .. } => format!("run `{program}` by hand with the same arguments"),
            Self::NotReady { log, .. } => {
                format!("read {} (set SPARC_LAB_KEEP=1 to keep it)", log.display())
            }
            Self::Postgres { .. } => {
                "read the server's log in the lab's folder (set SPARC_LAB_KEEP=1 to keep it)".into()
            }
            Self::Certificate { .. } => "report this as a defect of the lab".into(),
            Self::Aws { .. } => "compare the pinned versions in lab/requirements.txt with what is installed".into(),
            Self::State(_) => "correct the order of the steps".into(),
        }
    }

    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}

/// The result of everything that the lab does.
pub type Result<T> = std::result::Result<T, Error>;

/// The last lines of a log, for an error message; empty when there is no log.
pub(crate) fn tail(path: &std::path::Path) -> String {
    let text = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_fails_shows_every_cause_and_what_to_do_on_one_line() {
        let error = Error::system("write /nowhere/lab.env")(io::Error::other("no space left on device"));
        let shown = "cannot write /nowhere/lab.env: no space left on device; look at the path and at the free space of the disk it is on";
        assert_eq!(format!("{error:?}"), shown);
        assert_eq!(format!("{error:#?}"), shown);
    }
}
