//! Folders that outlive a lab: Python environments and initialised database clusters, made once, keyed by what they are
//! made from.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::error::{Error, Result};

/// `$XDG_CACHE_HOME/sparc-recovery`, or `~/.cache/sparc-recovery`.
pub fn folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or_else(|| {
            Error::State("neither XDG_CACHE_HOME nor HOME is set, so there is no place for caches".into())
        })?;
    make(base.join("sparc-recovery"))
}

/// The same for programs that another user must be able to run. Root's home is closed to others, so root's is
/// `/var/cache/sparc-recovery` unless `XDG_CACHE_HOME` says otherwise.
pub fn folder_for_everybody() -> Result<PathBuf> {
    if Uid::effective().is_root() && std::env::var_os("XDG_CACHE_HOME").is_none() {
        return make(PathBuf::from("/var/cache/sparc-recovery"));
    }
    folder()
}

fn make(path: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&path).map_err(Error::system(format!("make {}", path.display())))?;
    Ok(path)
}

/// Makes `folder/name` once: `build` fills it, others wait. An interrupted build is thrown away and begun again.
///
/// Returns the folder; it is complete when this returns, and nobody writes to it afterwards.
pub(crate) fn once(folder: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let made = folder.join(name);
    let complete = folder.join(format!("{name}.complete"));
    if complete.exists() {
        return Ok(made);
    }
    let lock = folder.join(format!("{name}.lock"));
    let lock = File::create(&lock).map_err(Error::system(format!("make {}", lock.display())))?;
    lock.lock().map_err(Error::system(format!("lock {}", made.display())))?;
    if complete.exists() {
        return Ok(made);
    }
    if made.exists() {
        std::fs::remove_dir_all(&made).map_err(Error::system(format!("remove the unfinished {}", made.display())))?;
    }
    build(&made)?;
    std::fs::write(&complete, "").map_err(Error::system(format!("write {}", complete.display())))?;
    Ok(made)
}
