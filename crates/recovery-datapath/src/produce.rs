//! What writes the plain bytes: a program, or memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    pin::Pin,
    process::Stdio,
};

use bytes::{Buf, Bytes};
use futures::{
    Stream, StreamExt,
    future::{Either, select},
};
use nix::fcntl::{FcntlArg, fcntl};
use recovery::fault::{Classified, Fault};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    runtime::Handle,
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

/// Capacity asked of the pipe from a program: with the usual 64 KiB both sides wake each other all the time.
const PIPE_BYTES: i32 = 1024 * 1024;

/// One read from a program.
const READ_BYTES: usize = 256 * 1024;

/// How much of what a program says on standard error is kept: its end.
const SAID_BYTES: usize = 4096;

/// Plain bytes, and the word of whoever writes them on whether they are all.
pub struct Produced {
    pub(crate) what: String,
    pub(crate) bytes: Box<dyn BufRead + Send>,
    pub(crate) outcome: Outcome,
    /// Whether nothing at all may be all that there is.
    pub(crate) may_be_empty: bool,
}

/// Ends with the writer's own verdict; the writer ends when this is dropped.
pub(crate) struct Outcome(JoinHandle<Result<(), ProducerError>>);

impl Drop for Outcome {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Outcome {
    pub(crate) async fn verdict(&mut self) -> Result<(), ProducerError> {
        (&mut self.0).await.unwrap_or_else(|ended| Err(ProducerError::Other(Box::new(ended))))
    }
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// The writer of the plain bytes did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// It ended with another status than 0.
    #[error("{status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Status {
        /// As the system says it.
        status: String,
        /// The end of what it said, in one line.
        said: String,
    },
    /// It cannot be started.
    #[error("`{program}` cannot be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it writes cannot be read.
    #[error("its output cannot be read")]
    Read(#[source] io::Error),
    /// Something else than a program failed.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Classified for ProducerError {
    fn fault(&self) -> Fault {
        match self {
            ProducerError::Status { said, .. } if is_refusal(said) => Fault::Refused,
            ProducerError::Status { .. } | ProducerError::Read(_) | ProducerError::Other(_) => Fault::Transient,
            ProducerError::Start { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            ProducerError::Status { said, .. } if is_refusal(said) => {
                "give the backup role what the message names, or correct its secret".to_owned()
            }
            ProducerError::Status { .. } | ProducerError::Read(_) | ProducerError::Other(_) => {
                "look at the server's log; the next attempt begins anew".to_owned()
            }
            ProducerError::Start { .. } => {
                "add the layer with PostgreSQL's programs to the function, or install postgresql-client".to_owned()
            }
        }
    }
}

/// What another attempt will not change. PostgreSQL's programs run with `LC_ALL=C`.
fn is_refusal(said: &str) -> bool {
    [
        "permission denied",
        "authentication failed",
        "must be superuser",
        "no pg_hba.conf entry",
        "server version mismatch",
    ]
    .iter()
    .any(|words| said.contains(words))
}

impl Produced {
    /// Starts a program and takes its standard output. It succeeds if it ends with status 0.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn by_program(what: &str, mut command: Command) -> Result<Produced, ProducerError> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let start = |source| ProducerError::Start { program: program.clone(), source };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(start)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(start(io::Error::other("it has no output")));
        };
        let stdout = File::from(stdout.into_owned_fd().map_err(start)?);
        // More than an ordinary user may ask for is refused; then it is the usual size.
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let outcome = tokio::spawn(async move {
            let said = last_words(stderr).await;
            let status = child.wait().await.map_err(ProducerError::Read)?;
            if status.success() { Ok(()) } else { Err(ProducerError::Status { status: status.to_string(), said }) }
        });
        let bytes = Box::new(BufReader::with_capacity(READ_BYTES, stdout));
        Ok(Produced { what: what.to_owned(), bytes, outcome: Outcome(outcome), may_be_empty: false })
    }

    /// Ends the writer before its time: what it wrote is not stored, and of what was stored no part is left. To drop the whole
    /// instead would leave its upload behind.
    pub fn stopper(&self) -> AbortHandle {
        self.outcome.0.abort_handle()
    }

    /// Bytes that are there already.
    pub fn by_memory(what: &str, bytes: impl Into<Vec<u8>>) -> Produced {
        let outcome = Outcome(tokio::spawn(async { Ok(()) }));
        Produced { what: what.to_owned(), bytes: Box::new(Cursor::new(bytes.into())), outcome, may_be_empty: false }
    }

    /// Bytes that somebody writes where they can be read; reading fails if not all of them come. None may be all of them.
    pub fn by_reader(what: &str, bytes: Box<dyn Read + Send>) -> Produced {
        let outcome = Outcome(tokio::spawn(async { Ok(()) }));
        let bytes = Box::new(BufReader::with_capacity(READ_BYTES, bytes));
        Produced { what: what.to_owned(), bytes, outcome, may_be_empty: true }
    }

    /// Pieces that come from elsewhere, taken on the thread that encodes them: nothing is copied and nobody wakes anybody.
    /// They are all if the stream ends without an error.
    pub fn by_stream(what: &str, pieces: impl Stream<Item = Result<Bytes, Boxed>> + Send + 'static) -> Produced {
        let (verdict, said) = oneshot::channel();
        let outcome = Outcome(tokio::spawn(async move {
            said.await.unwrap_or_else(|gone| Err(Box::new(gone) as Boxed)).map_err(ProducerError::Other)
        }));
        let handle = Handle::current();
        let bytes = Pieces { handle, pieces: Box::pin(pieces), piece: Bytes::new(), verdict: Some(verdict) };
        Produced { what: what.to_owned(), bytes: Box::new(bytes), outcome, may_be_empty: false }
    }

    /// Bytes that a task writes into a pipe of bounded capacity; what the task returns decides.
    pub fn by_task<F, Fut>(what: &str, task: F) -> Produced
    where
        F: FnOnce(tokio::io::DuplexStream) -> Fut,
        Fut: Future<Output = Result<(), Boxed>> + Send + 'static,
    {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let writing = task(theirs);
        let outcome = Outcome(tokio::spawn(async move { writing.await.map_err(ProducerError::Other) }));
        let bytes = BufReader::with_capacity(READ_BYTES, Bridge { handle: Handle::current(), stream: ours });
        Produced { what: what.to_owned(), bytes: Box::new(bytes), outcome, may_be_empty: false }
    }
}

/// Reads an asynchronous stream on the encoder's own thread.
struct Bridge {
    handle: Handle,
    stream: tokio::io::DuplexStream,
}

impl Read for Bridge {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.handle.block_on(self.stream.read(buffer))
    }
}

/// Takes pieces on the encoder's own thread, until their stream or whoever waits for the verdict ends.
struct Pieces {
    handle: Handle,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Boxed>> + Send>>,
    piece: Bytes,
    verdict: Option<oneshot::Sender<Result<(), Boxed>>>,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            let Some(mut verdict) = self.verdict.take() else { break };
            // What has been taken is given back, so that its memory holds what comes next.
            self.piece = Bytes::new();
            let next = {
                let stopped = std::pin::pin!(verdict.closed());
                match self.handle.block_on(select(self.pieces.next(), stopped)) {
                    Either::Left((next, _)) => next,
                    Either::Right(_) => break,
                }
            };
            match next {
                Some(Ok(piece)) => (self.piece, self.verdict) = (piece, Some(verdict)),
                // Whoever has gone does not want to know.
                None => drop(verdict.send(Ok(()))),
                Some(Err(error)) => drop(verdict.send(Err(error))),
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, length: usize) {
        self.piece.advance(length);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The end of what a program says, in one line; for those whose output is not their standard output.
pub async fn last_words(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        kept.extend_from_slice(&piece[..length]);
        kept.drain(..kept.len().saturating_sub(SAID_BYTES));
    }
    let text = String::from_utf8_lossy(&kept);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
