//! PostgreSQL's own manifest of a base backup, compared entry by entry with what came.

use std::{
    fmt,
    io::{self, BufReader, Read},
};

use recovery::lsn::Lsn;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest, Sha256};

use super::{Files, LOG, Range};
use crate::{Flaw, tar::Tar};

/// The longest line of a manifest that is believed.
const LONGEST_LINE: usize = 64 * 1024;

/// What a manifest said.
pub(super) struct Manifest {
    pub(super) system_identifier: Option<u64>,
    pub(super) ranges: Vec<Range>,
    pub(super) files: u64,
    pub(super) unchecked: u64,
}

/// Reads the manifest, which is the present member, and takes each of its files out of those that came.
pub(super) fn compare<R: Read>(tar: &mut Tar<R>, files: &mut Files) -> Result<Manifest, Flaw> {
    let mut hashed = BufReader::new(Hashed { inner: tar.body(), digest: Sha256::new(), held: Vec::new() });
    let mut json = serde_json::Deserializer::from_reader(&mut hashed);
    let read = Whole(files).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let (manifest, said) = match read {
        Ok(found) => found,
        Err(error) if error.is_io() => {
            return Err(Flaw::Unreadable { at: tar.at(), source: error.into() });
        }
        Err(error) => return Err(tar.malformed(format!("`{}`: {error}", super::MANIFEST))),
    };
    let digest: String = hashed.into_inner().digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if said != digest {
        return Err(tar.malformed(format!("`{}` was changed: its own digest does not fit", super::MANIFEST)));
    }
    Ok(manifest)
}

/// Digests all lines but the last, which holds the digest.
struct Hashed<R> {
    inner: R,
    digest: Sha256,
    held: Vec<u8>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.held.extend_from_slice(&buffer[..count]);
        let mut newlines = memchr::memrchr_iter(b'\n', &self.held);
        newlines.next();
        if let Some(place) = newlines.next() {
            self.digest.update(&self.held[..=place]);
            self.held.drain(..=place);
        }
        if self.held.len() > LONGEST_LINE + buffer.len() {
            return Err(io::Error::other("a line of the backup_manifest is too long"));
        }
        Ok(count)
    }
}

struct Whole<'a>(&'a mut Files);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = (Manifest, String);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WalRange {
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = (Manifest, String);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the manifest of a base backup")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut manifest = Manifest { system_identifier: None, ranges: Vec::new(), files: 0, unchecked: 0 };
        let mut checksum = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "System-Identifier" => manifest.system_identifier = Some(map.next_value()?),
                "Files" => (manifest.files, manifest.unchecked) = map.next_value_seed(Listed(self.0))?,
                "WAL-Ranges" => {
                    let ranges: Vec<WalRange> = map.next_value()?;
                    let range = |WalRange { timeline, start, end }| Range { timeline, start, end };
                    manifest.ranges = ranges.into_iter().map(range).collect();
                }
                "Manifest-Checksum" => checksum = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let checksum = checksum.ok_or_else(|| A::Error::missing_field("Manifest-Checksum"))?;
        Ok((manifest, checksum))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

/// The list of files.
struct Listed<'a>(&'a mut Files);

impl<'de> DeserializeSeed<'de> for Listed<'_> {
    type Value = (u64, u64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Listed<'_> {
    type Value = (u64, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut files, mut unchecked) = (0, 0);
        while let Some(entry) = entries.next_element::<Entry>()? {
            let path = match (entry.path, entry.encoded_path) {
                (Some(path), _) => path,
                (None, Some(encoded)) => String::from_utf8_lossy(&bytes(&encoded).unwrap_or_default()).into_owned(),
                (None, None) => return Err(A::Error::missing_field("Path")),
            };
            // What stands there is checked as a log.
            if path.starts_with(LOG) || super::NOT_LISTED.contains(&path.as_str()) {
                continue;
            }
            let Some(came) = self.0.0.remove(&Files::key(&path)) else {
                return Err(A::Error::custom(format!("the file `{path}` did not come")));
            };
            if came.size != entry.size {
                let (listed, came) = (entry.size, came.size);
                return Err(A::Error::custom(format!("`{path}` came with {came} bytes instead of {listed}")));
            }
            match (entry.algorithm.as_deref(), entry.checksum) {
                (Some("CRC32C"), Some(checksum)) => {
                    if bytes(&checksum).as_deref() != Some(&came.checksum.to_le_bytes()) {
                        return Err(A::Error::custom(format!("the checksum of `{path}` does not fit")));
                    }
                }
                _ => unchecked += 1,
            }
            files += 1;
        }
        Ok((files, unchecked))
    }
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(byte).collect() } else { None }
}
