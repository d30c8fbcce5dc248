//! A password for PostgreSQL's tools that is on no disk.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    stat::{Mode, fchmod},
};
use recovery::secrets::Credentials;

/// What `PGPASSFILE` names: a file in memory, which children inherit and which ends with the last of them.
pub(crate) struct PassFile(OwnedFd);

impl PassFile {
    pub(crate) fn new(credentials: &Credentials) -> io::Result<PassFile> {
        // Without `MFD_CLOEXEC`: the tools inherit it.
        let file = memfd_create(c"pgpass", MFdFlags::empty())?;
        // libpq ignores a file that others could read.
        fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut file = File::from(file);
        file.write_all(line(credentials).as_bytes())?;
        Ok(PassFile(file.into()))
    }

    /// The path as a child sees it; each that opens it reads from the beginning.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// One line for every host, port and database.
/// <https://www.postgresql.org/docs/current/libpq-pgpass.html>
fn line(credentials: &Credentials) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{}:{}\n", escaped(&credentials.username), escaped(&credentials.password))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_reads_it_and_others_may_not() {
        let credentials = Credentials { username: "a:b".to_owned(), password: "p\\w:d".to_owned() };
        let file = PassFile::new(&credentials).unwrap();
        for _ in 0..2 {
            let read = Command::new("cat").arg(file.path()).output().unwrap();
            assert_eq!(String::from_utf8(read.stdout).unwrap(), "*:*:*:a\\:b:p\\\\w\\:d\n");
        }
        let mode = Command::new("stat").args(["-L", "-c", "%a %F"]).arg(file.path()).output().unwrap();
        assert_eq!(String::from_utf8(mode.stdout).unwrap(), "600 regular file\n");
    }
}
