//! PostgreSQL's own manifest of a base backup, compared entry by entry with what came.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufReader, Read},
};

use recovery::{backup::FileListing, lsn::Lsn};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest, Sha256};

use super::{Came, Files, LOG, Listing, Range};
use crate::{Flaw, tar::Tar};

/// The longest line of a manifest that is believed.
const LONGEST_LINE: usize = 64 * 1024;

/// What a manifest said.
pub(super) struct Manifest {
    pub(super) system_identifier: Option<u64>,
    pub(super) ranges: Vec<Range>,
    pub(super) files: u64,
    pub(super) unchecked: u64,
    /// Files of tablespaces, which have archives of their own.
    pub(super) tablespaces: BTreeMap<u32, FileListing>,
}

/// What a manifest lists of tablespaces.
pub(super) fn listings(manifest: &[u8]) -> Result<BTreeMap<u32, FileListing>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(manifest);
    Whole(None).deserialize(&mut json).map(|(manifest, _)| manifest.tablespaces)
}

/// Reads the manifest, which is the present member, and takes each of its files out of those that came.
pub(super) fn compare<R: Read>(tar: &mut Tar<R>, files: &mut Files) -> Result<Manifest, Flaw> {
    let mut hashed = BufReader::new(Hashed { inner: tar.body(), digest: Sha256::new(), held: Vec::new() });
    let mut json = serde_json::Deserializer::from_reader(&mut hashed);
    let read = Whole(Some(files)).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
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

/// The whole manifest, compared with the files that came if they are known.
struct Whole<'a>(Option<&'a mut Files>);

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

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut manifest = Manifest {
            system_identifier: None,
            ranges: Vec::new(),
            files: 0,
            unchecked: 0,
            tablespaces: BTreeMap::new(),
        };
        let mut checksum = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "System-Identifier" => manifest.system_identifier = Some(map.next_value()?),
                "Files" => {
                    let listed = map.next_value_seed(Listed(self.0.as_deref_mut()))?;
                    (manifest.files, manifest.unchecked, manifest.tablespaces) = listed;
                }
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
struct Listed<'a>(Option<&'a mut Files>);

impl<'de> DeserializeSeed<'de> for Listed<'_> {
    type Value = (u64, u64, BTreeMap<u32, FileListing>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Listed<'_> {
    type Value = (u64, u64, BTreeMap<u32, FileListing>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut files, mut unchecked, mut tablespaces) = (0, 0, BTreeMap::<u32, Listing>::new());
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
            // Of another kind, or of this one and not to be read.
            let checksum = match (entry.algorithm.as_deref(), &entry.checksum) {
                (Some("CRC32C"), Some(checksum)) => {
                    Some(bytes(checksum).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes))
                }
                _ => None,
            };
            let came = match &mut self.0 {
                None => None,
                Some(came) => came.0.remove(&Files::key(&path)),
            };
            match (came, super::tablespace_of(&path)) {
                (Some(came), _) => differs(&path, entry.size, checksum, came).map_err(A::Error::custom)?,
                (None, Some(oid)) => {
                    let checksum = checksum.flatten().unwrap_or_default();
                    tablespaces.entry(oid).or_default().add(&path, Came { size: entry.size, checksum });
                }
                (None, None) if self.0.is_some() => {
                    return Err(A::Error::custom(format!("the file `{path}` did not come")));
                }
                (None, None) => {}
            }
            unchecked += u64::from(checksum.is_none());
            files += 1;
        }
        let tablespaces = tablespaces.into_iter().map(|(oid, listing)| (oid, listing.end())).collect();
        Ok((files, unchecked, tablespaces))
    }
}

/// How a file that came is not the listed one.
fn differs(path: &str, size: u64, checksum: Option<Option<u32>>, came: Came) -> Result<(), String> {
    if came.size != size {
        return Err(format!("`{path}` came with {} bytes instead of {size}", came.size));
    }
    match checksum {
        Some(listed) if listed != Some(came.checksum) => Err(format!("the checksum of `{path}` does not fit")),
        _ => Ok(()),
    }
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(byte).collect() } else { None }
}
