//! A folder that ends with its owner, together with everything that runs in it.
//!
//! Every server of the lab has its working directory inside the lab's folder, which makes "what belongs to this lab?" a
//! question to `/proc` that needs no list and cannot forget a grandchild. Three things end a lab: dropping the folder;
//! the janitor, a small process beside the lab that wakes when our end of its pipe closes, so also after `kill -9`; and
//! for each server the kernel's parent-death signal (see [`process`](crate::process)), which is faster than both.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process;

const JANITOR: &str = include_str!("janitor.sh");

/// A temporary folder with its janitor. Dropping it kills what runs inside and removes it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    janitor: Option<Child>,
    keep: bool,
}

impl Folder {
    /// Makes a new folder and starts its janitor: in `TMPDIR` if that is set, else in memory (`/dev/shm`) if four
    /// gigabytes are free there, else in `/tmp`.
    ///
    /// A pair is five thousand small files: made in memory in 0.3 s, on a busy disk in ten (seen here, ext4).
    /// `SPARC_LAB_KEEP=1` keeps the folder for a look at the logs; processes end all the same.
    pub fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let roomy = nix::sys::statvfs::statvfs(memory)
            .is_ok_and(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()) >= 4 << 30);
        if roomy && std::env::var_os("TMPDIR").is_none() { Self::new_in(memory) } else { Self::on_disk() }
    }

    /// The same in `TMPDIR` or `/tmp`, for what must be flushed to a disk or must hold programs.
    pub fn on_disk() -> Result<Self> {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(base: &Path) -> Result<Self> {
        let keep = std::env::var_os("SPARC_LAB_KEEP").is_some_and(|v| v == "1");
        let path = tempfile::Builder::new()
            .prefix("sparc-lab-")
            .tempdir_in(base)
            .map_err(Error::system("make a temporary folder"))?
            .keep();
        // Others may pass through, not list: the database server runs as another user when we are root.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711))
            .map_err(Error::system(format!("open {} to the server's user", path.display())))?;
        let path = path.canonicalize().map_err(Error::system(format!("resolve {}", path.display())))?;
        let mut folder = Self { path, janitor: None, keep };
        if !keep {
            // A file rather than `-c`, so that a list of processes stays readable.
            let script = folder.path.join("janitor.sh");
            std::fs::write(&script, JANITOR).map_err(Error::system(format!("write {}", script.display())))?;
            let janitor = Command::new("/bin/sh")
                .arg(script)
                .arg(&folder.path)
                .current_dir("/")
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Its own group: a Ctrl-C in the terminal is ours to answer, and the janitor must outlive us.
                .process_group(0)
                .spawn()
                .map_err(Error::system("start the lab's janitor with /bin/sh"))?;
            folder.janitor = Some(janitor);
        }
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder inside, with the given permission bits.
    pub fn make(&self, name: &str, mode: u32) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).map_err(Error::system(format!("make {}", path.display())))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(Error::system(format!("set the mode of {}", path.display())))?;
        Ok(path)
    }
}

impl Folder {
    /// Kills what runs inside and removes the folder, now. Dropping it does the same and costs nothing afterwards.
    pub(crate) fn clear(&self) {
        for _ in 0..50 {
            if process::kill_inside(&self.path) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        process::remove_shared_memory(&self.path);
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.clear();
        if let Some(mut janitor) = self.janitor.take() {
            if let Some(mut pipe) = janitor.stdin.take() {
                let _ = pipe.write_all(b"done\n");
            }
            let _ = janitor.wait();
        }
    }
}
