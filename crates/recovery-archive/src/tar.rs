//! A tar archive as a stream: POSIX ustar, with the large sizes and long names that PostgreSQL and GNU tar write.
//! <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06>

use std::io::Read;

use crate::{Flaw, source::Source};

const BLOCK: usize = 512;
/// The longest name that is kept.
const MAX_NAME: u64 = 64 * 1024;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with a body.
    File,
    /// A folder.
    Folder,
    /// A link.
    Link,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, with slashes.
    pub path: String,
    /// The bytes of its body.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// A tar archive that is being read.
pub struct Tar<R> {
    source: Source<R>,
    /// What is left of the body of the present member, and of the padding behind it.
    body: u64,
    padding: u64,
    path: String,
}

impl<R: Read> Tar<R> {
    /// Reads from the beginning of an archive.
    pub fn new(stream: R) -> Self {
        Self { source: Source::new(stream), body: 0, padding: 0, path: String::new() }
    }

    /// How many bytes of the archive have been read.
    pub fn at(&self) -> u64 {
        self.source.at()
    }

    /// A flaw at this place of the archive.
    pub fn malformed(&self, what: impl Into<String>) -> Flaw {
        self.source.malformed(what)
    }

    /// The next member; what is left of the one before is passed over. `None` after the mark at the end of the archive,
    /// behind which nothing may follow but zeros.
    ///
    /// # Errors
    /// The archive ends without its mark, or is none.
    pub fn next_member(&mut self) -> Result<Option<Member>, Flaw> {
        let mut long_name = None;
        loop {
            let inside = if self.path.is_empty() { "the archive".to_owned() } else { format!("`{}`", self.path) };
            self.source.skip(std::mem::take(&mut self.body) + std::mem::take(&mut self.padding), &inside)?;
            let header: [u8; BLOCK] = self.source.array("the archive: the mark at its end is missing")?;
            if header.iter().all(|byte| *byte == 0) {
                self.rest_is_zero()?;
                return Ok(None);
            }
            let size = self.checked(&header)?;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            match header[156] {
                // GNU's long name: the body is the name of the next member.
                b'L' => long_name = Some(self.name_in_body(size)?),
                // Attributes of the next member, or of all. PostgreSQL writes none; what it means by its names is in them.
                b'x' | b'g' => self.body = size,
                kind => {
                    let kind = match kind {
                        b'0' | 0 | b'7' => Kind::File,
                        b'5' => Kind::Folder,
                        b'1' | b'2' => Kind::Link,
                        other => {
                            return Err(Flaw::Unsupported(format!("a tar member of type {:?}", char::from(other))));
                        }
                    };
                    let path = long_name.take().unwrap_or_else(|| name(&header));
                    self.body = if kind == Kind::File { size } else { 0 };
                    if kind != Kind::File {
                        self.padding = 0;
                    }
                    self.path.clone_from(&path);
                    return Ok(Some(Member { path, size: self.body, kind }));
                }
            }
        }
    }

    /// More of the body of the present member; zero at its end.
    ///
    /// # Errors
    /// The archive ends inside it.
    pub fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, Flaw> {
        let now = usize::try_from(self.body).unwrap_or(usize::MAX).min(buffer.len());
        let inside = if now == 0 { return Ok(0) } else { format!("`{}`", self.path) };
        self.source.exact(&mut buffer[..now], &inside)?;
        self.body -= now as u64;
        Ok(now)
    }

    /// The body of the present member as a stream.
    pub fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    fn name_in_body(&mut self, size: u64) -> Result<String, Flaw> {
        if size > MAX_NAME {
            return Err(self.source.malformed(format!("a name of {size} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.source.exact(&mut bytes, "a long name")?;
        Ok(until_zero(&bytes))
    }

    /// The size in a header whose checksum fits.
    fn checked(&self, header: &[u8; BLOCK]) -> Result<u64, Flaw> {
        let summed = |(place, byte): (usize, &u8)| {
            // The checksum counts itself as blanks.
            u64::from(if (148..156).contains(&place) { b' ' } else { *byte })
        };
        let sum: u64 = header.iter().enumerate().map(summed).sum();
        let at = self.source.at() - BLOCK as u64;
        if number(&header[148..156]) != Some(sum) {
            return Err(Flaw::Malformed { at, what: "this is no tar header: its checksum does not fit".to_owned() });
        }
        number(&header[124..136]).ok_or_else(|| Flaw::Malformed { at, what: "a size that is no number".to_owned() })
    }

    fn rest_is_zero(&mut self) -> Result<(), Flaw> {
        let second: [u8; BLOCK] = self.source.array("the mark at the end of the archive")?;
        let mut block = second;
        loop {
            if let Some(place) = block.iter().position(|byte| *byte != 0) {
                let at = self.source.at() - (BLOCK - place) as u64;
                return Err(Flaw::Malformed {
                    at,
                    what: "something follows the mark at the end of the archive".into(),
                });
            }
            // Writers fill up their last record.
            block = [0; BLOCK];
            if self.source.fill(&mut block, "the end of the archive")? == 0 {
                return Ok(());
            }
        }
    }
}

/// The body of a member as a stream; made by [`Tar::body`].
pub struct Body<'a, R>(&'a mut Tar<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use std::io::{Error, ErrorKind};
        self.0.read_body(buffer).map_err(|flaw| match flaw {
            Flaw::Unreadable { source, .. } => source,
            flaw => Error::new(ErrorKind::UnexpectedEof, flaw.to_string()),
        })
    }
}

/// An octal number with blanks or zeros around it, or a binary one for what octal digits cannot hold.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let high = field.len() - 8;
        if field[0] != 0x80 || field[1..high].iter().any(|byte| *byte != 0) {
            return None;
        }
        return Some(u64::from_be_bytes(field[high..].try_into().ok()?));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn name(header: &[u8; BLOCK]) -> String {
    let (name, prefix) = (until_zero(&header[..100]), until_zero(&header[345..500]));
    let is_ustar = &header[257..262] == b"ustar";
    if prefix.is_empty() || !is_ustar { name } else { format!("{prefix}/{name}") }
}

fn until_zero(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive made by the system's tar.
    fn archive(long: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/empty"), "").unwrap();
        std::fs::write(folder.path().join("sub/full"), "x".repeat(1000)).unwrap();
        std::fs::write(folder.path().join(long), "long").unwrap();
        let made = std::process::Command::new("tar")
            .args(["--format=gnu", "-cf", "-", "-C"])
            .arg(folder.path())
            .args(["sub", long])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        made.stdout
    }

    fn members(bytes: &[u8]) -> Result<Vec<(Member, usize)>, Flaw> {
        let mut tar = Tar::new(bytes);
        let mut found = Vec::new();
        while let Some(member) = tar.next_member()? {
            let mut size = 0;
            let mut buffer = [0; 700];
            loop {
                match tar.read_body(&mut buffer)? {
                    0 => break,
                    count => size += count,
                }
            }
            found.push((member, size));
        }
        Ok(found)
    }

    #[test]
    fn what_the_systems_tar_wrote_is_read() {
        let long = "n".repeat(150);
        let mut found = members(&archive(&long)).unwrap();
        found.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        let seen: Vec<(&str, usize, Kind)> =
            found.iter().map(|(member, size)| (member.path.as_str(), *size, member.kind)).collect();
        let file = Kind::File;
        assert_eq!(
            seen,
            [(&*long, 4, file), ("sub/", 0, Kind::Folder), ("sub/empty", 0, file), ("sub/full", 1000, file)]
        );
    }

    #[test]
    fn every_cut_before_the_mark_is_found() {
        let bytes = archive("short");
        let mark = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let end = mark.next_multiple_of(BLOCK);
        for cut in (0..end).step_by(129) {
            assert!(matches!(members(&bytes[..cut]), Err(Flaw::Truncated { .. })), "{cut}");
        }
        members(&bytes).unwrap();
    }

    #[test]
    fn sizes_beyond_eight_gigabytes_are_binary() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        assert_eq!(number(&field), Some(1 << 40));
        assert_eq!(number(b"00000000144\0"), Some(100));
        assert_eq!(number(b"zz"), None);
    }
}
