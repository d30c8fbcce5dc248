//! Python environments of the lab: exact versions with hashes, made once, keyed by the requirements file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

use crate::cache;
use crate::error::{Error, Result};

/// pip asks again when a connection fails, but gives up when one breaks off in the middle of a wheel. What it has fetched
/// it keeps, so that the next attempt goes on from there.
const ATTEMPTS: u32 = 3;

/// The virtual environment for a requirements file, made below `folder` when it is not there yet.
///
/// The name is the hash of the file's text, so a changed pin makes a new environment and an old checkout keeps its own.
pub(crate) fn environment(folder: &Path, name: &str, requirements: &str) -> Result<PathBuf> {
    let digest: String = Sha256::digest(requirements).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    cache::once(folder, &format!("python-{name}-{digest}"), |path| build(path, requirements))
}

fn build(path: &Path, requirements: &str) -> Result<()> {
    build_with(Path::new("python3"), path, requirements)
}

fn build_with(python: &Path, path: &Path, requirements: &str) -> Result<()> {
    let missing = || Error::Missing {
        program: "python3 with venv".into(),
        purpose: "the emulated AWS runs in a virtual environment of the lab".into(),
        install: "install it with `apt-get install python3 python3-venv` (Python 3.11 or newer)".into(),
    };
    let made = Command::new(python).args(["-m", "venv"]).arg(path).output().map_err(|_| missing())?;
    if !made.status.success() {
        // Debian's python3 without python3-venv fails here, in many words.
        return Err(missing());
    }
    let file = path.join("requirements.txt");
    std::fs::write(&file, requirements).map_err(Error::system(format!("write {}", file.display())))?;
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let installed = Command::new(path.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            // Wheels only, exactly these, each with its hash: no package's build script runs here.
            .args(["--only-binary", ":all:", "--no-deps", "--require-hashes", "--requirement"])
            .arg(&file)
            .output()
            .map_err(Error::system("start pip"))?;
        if installed.status.success() {
            return Ok(());
        }
        said = ending(&installed);
    }
    Err(Error::Program { program: format!("pip install -r {}", file.display()), said })
}

fn ending(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_python_is_named_with_the_command_that_installs_it() {
        let folder = tempfile::tempdir().unwrap();
        let refused = build_with(Path::new("/nowhere/python3"), &folder.path().join("environment"), "").unwrap_err();
        assert!(refused.to_string().contains("python3 with venv"), "{refused}");
        assert!(refused.remedy().contains("apt-get install python3 python3-venv"), "{}", refused.remedy());
    }

    #[test]
    fn an_environment_is_made_once_and_an_unfinished_one_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        let mut make = |fails: bool| {
            cache::once(folder.path(), "thing", |path| {
                made += 1;
                std::fs::create_dir(path).unwrap();
                if fails { Err(Error::State("interrupted".into())) } else { Ok(()) }
            })
        };
        assert!(make(true).is_err());
        assert!(make(false).is_ok() && make(false).is_ok());
        assert_eq!(made, 2);
    }
}
