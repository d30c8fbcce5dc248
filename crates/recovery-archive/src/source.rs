//! A stream that knows how far it has been read.

use std::io::{self, BufRead, Read};

use crate::Flaw;

/// How much is passed over at once.
const SKIP_BYTES: usize = 16 * 1024;

/// A stream that knows how far it has been read.
pub(crate) struct Source<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, at: 0 }
    }

    /// How many bytes have been read.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn malformed(&self, what: impl Into<String>) -> Flaw {
        Flaw::Malformed { at: self.at, what: what.into() }
    }

    /// An error of the stream, as a flaw of what was being read.
    pub(crate) fn failed(&self, source: io::Error, inside: &str) -> Flaw {
        failed(self.at, source, inside)
    }

    /// Fills the buffer, or says in what the stream ended.
    pub(crate) fn exact(&mut self, buffer: &mut [u8], inside: &str) -> Result<(), Flaw> {
        let filled = self.fill(buffer, inside)?;
        if filled < buffer.len() {
            return Err(Flaw::Truncated { at: self.at, inside: inside.to_owned() });
        }
        Ok(())
    }

    /// Fills as much of the buffer as there is.
    pub(crate) fn fill(&mut self, buffer: &mut [u8], inside: &str) -> Result<usize, Flaw> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error, inside)),
            }
        }
        Ok(filled)
    }

    pub(crate) fn array<const N: usize>(&mut self, inside: &str) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        self.exact(&mut bytes, inside)?;
        Ok(bytes)
    }

    pub(crate) fn byte(&mut self, inside: &str) -> Result<u8, Flaw> {
        self.array::<1>(inside).map(|[byte]| byte)
    }

    /// One byte, or that there is no more.
    pub(crate) fn byte_or_end(&mut self, inside: &str) -> Result<Option<u8>, Flaw> {
        let mut byte = [0];
        Ok((self.fill(&mut byte, inside)? == 1).then_some(byte[0]))
    }

    pub(crate) fn skip(&mut self, mut count: u64, inside: &str) -> Result<(), Flaw> {
        let mut buffer = [0; SKIP_BYTES];
        while count > 0 {
            let now = usize::try_from(count).unwrap_or(usize::MAX).min(SKIP_BYTES);
            self.exact(&mut buffer[..now], inside)?;
            count -= now as u64;
        }
        Ok(())
    }

    /// Nothing may follow.
    pub(crate) fn end(&mut self, after: &str) -> Result<(), Flaw> {
        match self.byte_or_end(after)? {
            None => Ok(()),
            Some(_) => Err(Flaw::Malformed { at: self.at - 1, what: format!("more follows after {after}") }),
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> Source<R> {
    /// What is there and was not looked at yet; nothing at the end of the stream.
    pub(crate) fn window(&mut self, inside: &str) -> Result<&[u8], Flaw> {
        let at = self.at;
        self.inner.fill_buf().map_err(|source| failed(at, source, inside))
    }

    /// So much of the window has been looked at.
    pub(crate) fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.at += count as u64;
    }
}

fn failed(at: u64, source: io::Error, inside: &str) -> Flaw {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return Flaw::Truncated { at, inside: inside.to_owned() };
    }
    Flaw::Unreadable { at, source }
}
