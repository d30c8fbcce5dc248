//! Containers as the node of a cluster runs them: by podman and runc, as an ordinary user who may do nothing, with a file
//! system that cannot be written and a bound on memory.
//!
//! No image can be fetched here. What an image of ours is built upon is made of this machine's distribution: its C
//! library, a shell, the certificate authorities of the web, and nothing else.

use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;

use crate::error::{Error, Result};
use crate::folder::Folder;

const BASE: &str = "localhost/base";
const PACKAGES: [&str; 4] = ["libc6", "libgcc-s1", "dash", "ca-certificates"];
/// Where programs look for authorities. Debian's package puts them together when it is installed, which it is not here.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Images, and what runs them. Everything ends with it.
#[derive(Debug)]
pub struct Engine {
    folder: Folder,
}

/// A container that runs once, in the network of this machine.
#[derive(Debug)]
pub struct Container<'a> {
    /// The image.
    pub image: &'a str,
    /// What is given to its entrypoint.
    pub arguments: &'a [&'a str],
    /// Its environment beside the image's own.
    pub env: &'a [(String, String)],
    /// The most memory that it may have, in MiB; then the kernel ends it.
    pub memory_mib: u64,
    /// Folders of this machine, where they are in the container, and whether they can be written.
    pub mounts: &'a [(&'a Path, &'a str, bool)],
}

impl Engine {
    /// Makes the base. Takes some seconds.
    ///
    /// # Errors
    /// A program is missing, this is no Debian, or nobody may run containers here.
    pub async fn start() -> Result<Engine> {
        let engine = Engine { folder: Folder::on_disk()? };
        let (packages, root) = (engine.made("packages")?, engine.made("base")?);
        let mut download = Command::new("apt-get");
        ended(download.args(["download", "--quiet"]).args(PACKAGES).current_dir(&packages), "dpkg").await?;
        let listed = std::fs::read_dir(&packages).map_err(Error::system(format!("list {}", packages.display())))?;
        for package in listed.flatten() {
            ended(Command::new("dpkg-deb").arg("--extract").arg(package.path()).arg(&root), "dpkg").await?;
        }
        authorities(&root)?;
        let shell = root.join("bin/sh");
        if !shell.exists() {
            std::os::unix::fs::symlink("dash", &shell).map_err(Error::system(format!("make {}", shell.display())))?;
        }
        let archive = engine.folder.path().join("base.tar");
        ended(Command::new("tar").arg("--create").arg("--file").arg(&archive).arg("-C").arg(&root).arg("."), "tar")
            .await?;
        ended(engine.podman().args(["import", "--quiet"]).arg(&archive).arg(BASE), "podman").await?;
        Ok(engine)
    }

    /// Builds an image upon the base: what its description calls `BASE`.
    ///
    /// # Errors
    /// It cannot be built.
    pub async fn build(&self, description: &Path, context: &Path, image: &str) -> Result<()> {
        let mut build = self.podman();
        build.args(["build", "--quiet", "--pull-never", "--build-arg"]).arg(format!("BASE={BASE}"));
        ended(build.arg("--file").arg(description).arg("--tag").arg(image).arg(context), "podman").await.map(drop)
    }

    /// Runs a container to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn run(&self, container: &Container<'_>) -> Result<Output> {
        let mut run = self.podman();
        run.args(["run", "--rm", "--network=host", "--read-only", "--read-only-tmpfs=false", "--user=65532:65532"]);
        run.args(["--cap-drop=all", "--security-opt=no-new-privileges"]);
        // Whoever may not raise limits cannot ask for podman's own.
        run.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]);
        run.args([format!("--memory={0}m", container.memory_mib), format!("--memory-swap={0}m", container.memory_mib)]);
        run.args(container.env.iter().map(|(name, value)| format!("--env={name}={value}")));
        for (here, there, writable) in container.mounts {
            let mode = if *writable { "rw" } else { "ro" };
            run.arg(format!("--volume={}:{there}:{mode}", here.display()));
        }
        run.arg(container.image).args(container.arguments);
        started(&mut run, "podman").await
    }

    fn made(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).map_err(Error::system(format!("make {}", folder.display())))?;
        Ok(folder)
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.args(["--runtime=runc", "--cgroup-manager=cgroupfs", "--storage-driver=vfs", "--log-level=error"]);
        podman
            .arg("--root")
            .arg(self.folder.path().join("images"))
            .arg("--runroot")
            .arg(self.folder.path().join("run"));
        // Where a container was ended for its memory, a file tells so.
        podman.current_dir(self.folder.path());
        podman
    }
}

/// Puts the authorities of a base together.
fn authorities(root: &Path) -> Result<()> {
    let folder = root.join("usr/share/ca-certificates/mozilla");
    let system = || Error::system(format!("put the authorities of {} together", folder.display()));
    let mut bundle = Vec::new();
    for authority in std::fs::read_dir(&folder).map_err(system())?.flatten() {
        bundle.extend(std::fs::read(authority.path()).map_err(system())?);
    }
    let place = root.join(AUTHORITIES);
    std::fs::create_dir_all(place.with_file_name("")).map_err(system())?;
    std::fs::write(place, bundle).map_err(system())
}

async fn started(command: &mut Command, package: &str) -> Result<Output> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.kill_on_drop(true).output().await.map_err(|_| Error::Missing {
        program,
        purpose: "images of Jobs are built and run with it".into(),
        install: format!("install it with `apt-get install {package} runc`"),
    })
}

async fn ended(command: &mut Command, package: &str) -> Result<Output> {
    let ended = started(command, package).await?;
    if ended.status.success() {
        return Ok(ended);
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', " | ");
    Err(Error::Program { program: format!("{:?}", command.as_std()), said })
}
