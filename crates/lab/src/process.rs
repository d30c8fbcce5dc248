//! Starting servers so that they end with us, and ending them.
//!
//! A server must not outlive the lab, also when the lab is killed with `kill -9`. The kernel has a signal for that
//! (`PR_SET_PDEATHSIG`), with a trap: it fires when the *thread* that started the child ends, and runtimes end idle
//! threads. So one thread that lives as long as the process starts every child, through `setpriv` (util-linux), which
//! also changes the user when we are root. `setsid` before it takes the server out of our terminal: a Ctrl-C is ours to
//! answer. Both replace themselves by the server, so the process id is the server's own.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User};

use crate::error::{Error, Result};

/// Whom the database server runs as, when that is not ourselves: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub uid: Uid,
    pub gid: Gid,
}

impl Account {
    /// The ordinary user for servers, or `None` when we are one already.
    pub fn ordinary() -> Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Ok(Some(user)) = User::from_name(name) {
                return Ok(Some(Self { uid: user.uid, gid: user.gid }));
            }
        }
        Ok(Some(Self { uid: Uid::from_raw(65534), gid: Gid::from_raw(65534) }))
    }
}

type Order = (Command, Sender<io::Result<Child>>);

fn spawn_from_the_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::Builder::new()
            .name("lab-spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(orders)
    });
    let (answer, answered) = channel();
    let gone = || io::Error::other("the lab's spawning thread is gone");
    spawner.lock().map_err(|_| gone())?.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// What to start.
pub(crate) struct Launch<'a> {
    pub program: &'a Path,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Must lie inside the lab's folder, see [`crate::folder`].
    pub working_directory: &'a Path,
    pub log: &'a Path,
    pub account: Option<Account>,
    /// What the kernel sends when we are gone: `KILL`, or `QUIT` for a server that has shared memory to give back.
    pub death_signal: &'static str,
}

/// A server that we started. Dropping it kills the whole tree.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub fn start(launch: Launch<'_>) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(launch.log)
            .map_err(Error::system(format!("write {}", launch.log.display())))?;
        let second = log.try_clone().map_err(Error::system("share a log"))?;
        let mut command = Command::new("setsid");
        command.args(["setpriv", "--pdeathsig", launch.death_signal]);
        if let Some(account) = launch.account {
            command.args([
                "--reuid".to_owned(),
                account.uid.to_string(),
                "--regid".to_owned(),
                account.gid.to_string(),
                "--clear-groups".to_owned(),
            ]);
        }
        command
            .arg("--")
            .arg(launch.program)
            .args(launch.args)
            .current_dir(launch.working_directory)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .envs(launch.env)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second);
        let child = spawn_from_the_lasting_thread(command).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                program: "setsid".into(),
                purpose: "servers of the lab end with us through it".into(),
                install: "install it with `apt-get install util-linux`".into(),
            },
            _ => Error::System { action: format!("start {}", launch.program.display()), source },
        })?;
        Ok(Self { child })
    }

    /// True while it runs; a zombie is reaped and does not count.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended: its exit code, or 128 and the signal that ended it; none while it runs.
    pub fn exit_code(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    }

    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Waits for the end, at most so long.
    pub fn wait_at_most(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if !self.is_running() {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Signals every process below this one and itself.
    pub fn signal_tree(&self, signal: Signal) {
        for pid in tree(self.child.id()) {
            send(pid, signal);
        }
    }

    /// `SIGKILL` for the whole tree at once, as when the host loses power.
    pub fn kill_tree(&mut self) {
        // Stop the parent first, so that it starts nobody while we look.
        self.signal(Signal::SIGSTOP);
        self.signal_tree(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill_tree();
        }
    }
}

fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A field of `/proc/PID/stat`, counted from the one after the name: 1 is the parent, 4 the terminal.
fn stat(pid: u32, field: usize) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; the fields after the last one are plain.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(field)?.parse().ok()
}

fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes() {
        if let Some(parent) = stat(pid, 1) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        if let Some(below) = children.get(&found[next]) {
            found.extend(below);
        }
        next += 1;
    }
    found
}

/// Kills every process that works inside `folder`; says how many there were. A process with a terminal is a person
/// looking around, not a server of ours.
pub(crate) fn kill_inside(folder: &Path) -> usize {
    let inside: Vec<u32> = processes()
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
                && stat(*pid, 4) == Some(0)
                && *pid != std::process::id()
        })
        .collect();
    for pid in &inside {
        send(*pid, Signal::SIGKILL);
    }
    inside.len()
}

/// Gives back the System V segments of killed postmasters: the kernel keeps 4,096 of them for everybody, and a killed
/// postmaster leaves one behind, named by line 7 of its pid file (PostgreSQL 13 to 18).
pub(crate) fn remove_shared_memory(folder: &Path) {
    for file in postmaster_pid_files(folder, 3) {
        let id = std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.lines().nth(6)?.split_whitespace().nth(1).map(str::to_owned));
        if let Some(id) = id {
            let _ = Command::new("ipcrm").args(["-m", &id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

fn postmaster_pid_files(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == "postmaster.pid" {
            found.push(path);
        } else if depth > 1 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(postmaster_pid_files(&path, depth - 1));
        }
    }
    found
}
