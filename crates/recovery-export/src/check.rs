//! Reads an export to its end as its bytes come, and keeps nothing of it but one line.

use recovery::cluster_state::{ExportError, ExportHeader, ExportSummary};
use recovery::envelope::PlainKey;

use crate::ExportReader;

/// Longest line: an object of etcd's 1.5 MiB, sealed and as base64, with room for the escapes of JSON in JSON.
const MOST_LINE_BYTES: usize = 6 << 20;

/// Checks one export: every line of its form, in the order of a restore, and as many as its end counts.
#[derive(Default)]
pub struct ExportCheck {
    reader: Option<ExportReader>,
    plain: Option<PlainKey>,
    lines: u64,
    line: Vec<u8>,
}

impl ExportCheck {
    /// Checks the form alone: sealed objects stay closed.
    pub fn new() -> ExportCheck {
        ExportCheck::default()
    }

    /// Opens sealed objects too.
    pub fn with_key(plain: PlainKey) -> ExportCheck {
        ExportCheck { plain: Some(plain), ..ExportCheck::default() }
    }

    /// Takes some more bytes.
    ///
    /// # Errors
    /// The first line that is not as it was written.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ExportError> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (rest, next) = bytes.split_at(end);
            bytes = &next[1..];
            self.keep(rest)?;
            let line = std::mem::take(&mut self.line);
            self.take(&line)?;
            // The buffer is used again, so that its size is found once.
            self.line = line;
            self.line.clear();
        }
        self.keep(bytes)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        if self.line.len() + bytes.len() > MOST_LINE_BYTES {
            let why = format!("it is longer than {MOST_LINE_BYTES} bytes");
            return Err(ExportError::Damaged { line: self.lines + 1, why });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), ExportError> {
        self.lines += 1;
        match &mut self.reader {
            Some(reader) => reader.line(line).map(drop),
            none => {
                let mut reader = ExportReader::begin(line)?;
                if let Some(plain) = &self.plain {
                    reader.unlock(plain)?;
                }
                *none = Some(reader);
                Ok(())
            }
        }
    }

    /// Ends the check: what the export says of itself at its beginning and its end.
    ///
    /// # Errors
    /// It broke off, or holds something else than its end counts.
    pub fn finish(self) -> Result<(ExportHeader, ExportSummary), ExportError> {
        let damaged = |why: &str| ExportError::Damaged { line: self.lines + 1, why: why.to_owned() };
        if !self.line.is_empty() {
            return Err(damaged("it breaks off within a line"));
        }
        let Some(reader) = self.reader else { return Err(damaged("there is nothing in it")) };
        let header = reader.header().clone();
        Ok((header, reader.finish()?))
    }
}
