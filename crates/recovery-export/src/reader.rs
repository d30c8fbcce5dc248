//! Reads an export line by line, and knows at its end whether it was whole.

use std::collections::BTreeMap;

use recovery::cluster_state::{ExportError, ExportHeader, ExportSummary, FORM};
use recovery::envelope::PlainKey;
use serde_json::Value;

use crate::Line;
use crate::order::rank;
use crate::seal::{ObjectName, Seal};

/// One object of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Which object.
    pub name: ObjectName,
    /// What is applied; `None` for a sealed object in an export that was not unlocked.
    pub object: Option<Value>,
    /// Whether it was sealed.
    pub sealed: bool,
}

/// Reads one export. Nothing of it is kept but counts.
pub struct ExportReader {
    header: ExportHeader,
    seal: Option<Seal>,
    line: u64,
    sealed: u64,
    counts: BTreeMap<String, u64>,
    rank: u8,
    end: Option<ExportSummary>,
}

impl ExportReader {
    /// Begins with the first line.
    ///
    /// # Errors
    /// It is not the first line of an export, or of a form that is not known here.
    pub fn begin(first: &[u8]) -> Result<ExportReader, ExportError> {
        let damaged = |why: String| ExportError::Damaged { line: 1, why };
        let header = match serde_json::from_slice(first) {
            Ok(Line::Export(header)) => header,
            Ok(_) => return Err(damaged("it is not the first line of an export".to_owned())),
            Err(error) => return Err(damaged(position(&error))),
        };
        if header.form != FORM {
            return Err(damaged(format!("its form is {}, known is {FORM}", header.form)));
        }
        let counts = BTreeMap::new();
        Ok(ExportReader { header, seal: None, line: 1, sealed: 0, counts, rank: 0, end: None })
    }

    /// What the export says of itself.
    pub fn header(&self) -> &ExportHeader {
        &self.header
    }

    /// Lets sealed objects be opened.
    ///
    /// # Errors
    /// The key is of another size.
    pub fn unlock(&mut self, plain: &PlainKey) -> Result<(), ExportError> {
        let seal = Seal::new(plain, &self.header.identity, &self.header.cluster);
        self.seal = Some(seal.map_err(|why| ExportError::Damaged { line: 1, why })?);
        Ok(())
    }

    /// Takes the next line; `None` for the one that ends the export.
    ///
    /// # Errors
    /// It is not a line of an export, stands where a restore could not use it, or a sealed object does not open.
    pub fn line(&mut self, text: &[u8]) -> Result<Option<Entry>, ExportError> {
        self.line += 1;
        let line = self.line;
        let damaged = |why: String| ExportError::Damaged { line, why };
        if self.end.is_some() {
            return Err(damaged("it stands after the end".to_owned()));
        }
        let entry = match serde_json::from_slice(text).map_err(|error| damaged(position(&error)))? {
            Line::Export(_) => return Err(damaged("a second export begins".to_owned())),
            Line::End(summary) => {
                self.end = Some(summary);
                return Ok(None);
            }
            Line::Object(object) => {
                let name = ObjectName::of(&object).ok_or_else(|| damaged("it is no Kubernetes object".to_owned()))?;
                Entry { name, object: Some(object), sealed: false }
            }
            Line::Sealed(sealed) => {
                self.sealed += 1;
                let object = self.seal.as_ref().map(|seal| seal.open(&sealed)).transpose().map_err(damaged)?;
                Entry { name: sealed.of, object, sealed: true }
            }
        };
        let rank = rank(&entry.name.kind);
        if rank < self.rank {
            return Err(damaged(format!("{} stands after what needs it", entry.name.label())));
        }
        self.rank = rank;
        *self.counts.entry(entry.name.full_kind()).or_default() += 1;
        Ok(Some(entry))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The export broke off, or holds more or fewer objects than it counted.
    pub fn finish(self) -> Result<ExportSummary, ExportError> {
        let damaged = |why: String| ExportError::Damaged { line: self.line, why };
        let Some(summary) = self.end else { return Err(damaged("it breaks off: there is no end".to_owned())) };
        let objects: u64 = self.counts.values().sum();
        let (told, held) = ((summary.exported, summary.sealed), (objects, self.sealed));
        if told != held {
            return Err(damaged(format!(
                "its end counts {} objects, {} of them sealed; it holds {}, {} of them sealed",
                told.0, told.1, held.0, held.1
            )));
        }
        if summary.counts != self.counts {
            return Err(damaged("its end counts other numbers of each kind than it holds".to_owned()));
        }
        Ok(summary)
    }
}

/// Where a line goes wrong. serde_json's own words may quote it.
fn position(error: &serde_json::Error) -> String {
    format!("it is not of the form ({:?} error in column {})", error.classify(), error.column())
}
