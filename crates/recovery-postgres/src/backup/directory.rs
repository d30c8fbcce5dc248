//! `pg_dump --format=directory --jobs`, streamed while it is being written.
//!
//! The format is a folder, and only `pg_dump` can write it by several processes over one snapshot. So there is a scratch
//! folder, but it never holds the dump: each file is read behind the process that writes it, and what was read is given back
//! to the file system at once, so that a table of 100 GB occupies a few MiB. When reading falls behind, the processes are
//! held until it has caught up; the folder may be a small volume in memory. A file is whole when the process that wrote it
//! has closed it, and the dump when `pg_dump` has ended with status 0.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};
use recovery::{
    backup::{Content, DirectoryFormat, DumpFormat},
    fault::{Fault, chain},
};
use recovery_datapath::{Ends, Produced, ProducerError, Sink, TakeError};
use tokio::process::Command;

/// Time between two looks at the folder.
const TICK: Duration = Duration::from_millis(10);
/// How long a reader waits for more of a file that is being written.
const WAIT: Duration = Duration::from_millis(5);
/// What was read is given back in pieces of this length, a multiple of every file system's blocks.
const GIVEN_BACK: u64 = 1 << 20;
/// The table of contents, which `pg_dump` writes last.
const CONTENTS: &str = "toc.dat";
/// What ends the data of a table.
const END_OF_COPY: &[u8] = b"\\.\n\n\n";

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Scratch {
    fn make(database: &str) -> io::Result<Scratch> {
        let name = format!("sparc-dump-{}-{database}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // What a killed attempt has left is of no use to anybody.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `pg_dump` and its workers, as one group of processes.
struct Group {
    id: Pid,
    held: bool,
}

impl Group {
    /// Holds the processes while more than three quarters of the scratch are occupied, and lets them go on below a half.
    fn mind(&mut self, occupied: u64, most: u64) {
        let (signal, held) = match self.held {
            false if occupied > most / 4 * 3 => (Signal::SIGSTOP, true),
            true if occupied < most / 2 => (Signal::SIGCONT, false),
            _ => return,
        };
        if killpg(self.id, signal).is_ok() {
            self.held = held;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Without it the workers of a dump that was given up would write on. A group that has ended is none.
        let _ = killpg(self.id, Signal::SIGKILL);
    }
}

/// A file that is read behind whoever writes it.
struct Following {
    file: File,
    path: PathBuf,
    at: u64,
    shared: Arc<Shared>,
    /// The dump was given up, so nobody closes it any more.
    dead: Arc<AtomicBool>,
}

/// What the loop and the reader of a file know of each other.
#[derive(Default)]
struct Shared {
    /// Its writer has closed it.
    closed: AtomicBool,
    /// How much of its beginning occupies nothing any more.
    given_back: AtomicU64,
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // In this order: what was written before it was closed is seen.
            let closed = self.shared.closed.load(Ordering::SeqCst);
            let count = self.file.read_at(buffer, self.at)?;
            if count > 0 {
                self.at += count as u64;
                self.give_back()?;
                return Ok(count);
            }
            if closed {
                // Its room is needed by the others.
                let _ = fs::remove_file(&self.path);
                return Ok(0);
            }
            if self.dead.load(Ordering::SeqCst) {
                return Err(io::Error::other("pg_dump ended before it had closed the file"));
            }
            std::thread::sleep(WAIT);
        }
    }
}

impl Following {
    fn give_back(&mut self) -> io::Result<()> {
        let (from, until) = (self.shared.given_back.load(Ordering::SeqCst), self.at / GIVEN_BACK * GIVEN_BACK);
        if until == from {
            return Ok(());
        }
        let (Ok(start), Ok(length)) = (i64::try_from(from), i64::try_from(until - from)) else { return Ok(()) };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, start, length).map_err(|error| {
            let what =
                format!("its file system gives nothing back of a file ({error}); use ext4, xfs or tmpfs for TMPDIR");
            io::Error::other(what)
        })?;
        self.shared.given_back.store(until, Ordering::SeqCst);
        Ok(())
    }
}

/// Tells the readers that nobody writes any more, whichever way the dump ends.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What one file is taken as.
type Whole = fn(&Ends) -> Result<(), String>;

fn whole_of(file: &str) -> Whole {
    let of_a_table = file.strip_suffix(".dat").is_some_and(|stem| stem.bytes().all(|byte| byte.is_ascii_digit()));
    if of_a_table { whole_table } else { |_| Ok(()) }
}

fn whole_table(ends: &Ends) -> Result<(), String> {
    if ends.tail.ends_with(END_OF_COPY) {
        Ok(())
    } else {
        Err("it does not end as the data of a table ends".to_owned())
    }
}

/// Dumps a database into a sink; `command` is `pg_dump` with everything but the format.
///
/// # Errors
/// It failed; files that had arrived stay without a manifest and count for nothing.
pub(crate) async fn dump(
    database: &str,
    mut command: Command,
    format: DirectoryFormat,
    sink: &Sink,
) -> Result<(), TakeError> {
    let failed = |doing: &str, error: io::Error| TakeError::Source {
        doing: doing.to_owned(),
        fault: Fault::Transient,
        remedy: "look at the room and the rights of the scratch folder, TMPDIR".to_owned(),
        source: Box::new(error),
    };
    let scratch = Scratch::make(database).map_err(|error| failed("making the scratch folder", error))?;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).and_then(|watch| {
        watch.add_watch(&scratch.0, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE)?;
        Ok(watch)
    });
    let watch = watch.map_err(|error| failed("watching the scratch folder", error.into()))?;
    command
        .args(["--format=directory", "--compress=0", "--no-sync"])
        .arg(format!("--jobs={}", format.jobs))
        .arg(format!("--file={}", scratch.0.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let start = |source| ProducerError::Start { program: "pg_dump".to_owned(), source };
    let starting = |error| TakeError::source("starting pg_dump", start(error));
    let mut child = command.spawn().map_err(starting)?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok());
    let leader = leader.ok_or_else(|| starting(io::Error::other("it ended at once")))?;
    // A process has at most two files open; as many more may be on their way.
    let at_once = 4 * usize::try_from(format.jobs).unwrap_or(1);
    let mut group = Group { id: Pid::from_raw(leader), held: false };
    let stderr = child.stderr.take().ok_or_else(|| starting(io::Error::other("it has no output")))?;
    let said = tokio::spawn(recovery_datapath::last_words(stderr));

    let given_up = GivenUp::default();
    let dead = Arc::clone(&given_up.0);
    let mut folder = Folder { scratch: &scratch, database, watch, dead, begun: BTreeMap::new() };
    let (mut waiting, mut sending, mut ended) = (VecDeque::new(), FuturesUnordered::new(), false);
    loop {
        let reading = |error| failed("reading the scratch folder", error);
        waiting.extend(folder.look().map_err(reading)?);
        while sending.len() < at_once
            && let Some((file, produced)) = waiting.pop_front()
        {
            let content = Content::DumpData { database: database.to_owned(), file: file.clone(), table: None };
            let name = format!("databases/{database}/{file}");
            sending.push(async move { sink.artifact(&name, content, produced, 0, whole_of(&file)).await });
        }
        let (left, bytes) = folder.left().map_err(reading)?;
        if ended && sending.is_empty() && left.iter().all(|file| file == CONTENTS) {
            break;
        }
        group.mind(bytes, format.scratch_bytes);
        tokio::select! {
            Some(sent) = sending.next() => drop(sent?),
            status = child.wait(), if !ended => {
                let status = status.map_err(|error| failed("waiting for pg_dump", error))?;
                if !status.success() {
                    let said = said.await.unwrap_or_default();
                    let error = ProducerError::Status { status: status.to_string(), said };
                    return Err(TakeError::source(&format!("the dump of `{database}`"), error));
                }
                ended = true;
            }
            () = tokio::time::sleep(TICK) => {}
        }
    }
    let toc = fs::read(scratch.0.join(CONTENTS)).map_err(|error| failed("reading the table of contents", error))?;
    let contents = recovery_archive::custom::contents(&*toc).map_err(|flaw| TakeError::Refused {
        says: format!("the table of contents of `{database}` cannot be read: {}", chain(&flaw)),
        remedy: "report this as a defect; the format of pg_dump has changed".to_owned(),
    })?;
    let missing = contents.files.iter().find(|file| !folder.begun.contains_key(&file.file));
    if let Some(missing) = missing {
        return Err(TakeError::Refused {
            says: format!("`{}` of the dump of `{database}` was never seen", missing.file),
            remedy: "report this as a defect; the next attempt begins anew".to_owned(),
        });
    }
    let tables: BTreeMap<&str, &String> =
        contents.files.iter().filter_map(|file| Some((file.file.as_str(), file.table.as_ref()?))).collect();
    sink.describe(|artifact| {
        if let Content::DumpData { database: of, file, table } = &mut artifact.content
            && of == database
        {
            *table = tables.get(file.as_str()).map(|table| (*table).clone());
        }
    });
    let content = Content::Dump { database: database.to_owned(), format: DumpFormat::Directory };
    let about = toc.len() as u64;
    let produced = Produced::by_memory(&format!("the table of contents of `{database}`"), toc);
    // Last: a dump that has it has everything that it names.
    sink.artifact(&format!("databases/{database}/{CONTENTS}"), content, produced, about, super::logical::whole_dump)
        .await?;
    let files = folder.begun.len();
    tracing::info!(database, dump.files = files, "the dump of `{database}` is stored in {files} files");
    Ok(())
}

/// The scratch folder, as its events tell of it.
struct Folder<'a> {
    scratch: &'a Scratch,
    database: &'a str,
    watch: Inotify,
    dead: Arc<AtomicBool>,
    begun: BTreeMap<String, Arc<Shared>>,
}

impl Folder<'_> {
    /// Files that were begun since the last look, ready to be followed; notes those that were closed.
    fn look(&mut self) -> io::Result<Vec<(String, Produced)>> {
        let events = match self.watch.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut begun = Vec::new();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                return Err(io::Error::other("the system has forgotten which files were written"));
            }
            let Some(file) = event.name.as_deref().and_then(OsStr::to_str).filter(|file| *file != CONTENTS) else {
                continue;
            };
            match self.begun.get(file) {
                // Closed by the one that wrote it, or by us when it was read; the latter says nothing new.
                Some(shared) if event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE) => {
                    shared.closed.store(true, Ordering::SeqCst);
                }
                Some(_) => {}
                None => begun.push((file.to_owned(), self.follow(file)?)),
            }
        }
        Ok(begun)
    }

    fn follow(&mut self, file: &str) -> io::Result<Produced> {
        let (path, shared) = (self.scratch.0.join(file), Arc::new(Shared::default()));
        let following =
            Following { file: open(&path)?, path, at: 0, shared: Arc::clone(&shared), dead: Arc::clone(&self.dead) };
        self.begun.insert(file.to_owned(), shared);
        Ok(Produced::by_reader(&format!("the file `{file}` of the dump of `{}`", self.database), Box::new(following)))
    }

    /// The files that are there, and what of them nobody has read.
    fn left(&self) -> io::Result<(BTreeSet<String>, u64)> {
        let (mut left, mut bytes) = (BTreeSet::new(), 0);
        for entry in fs::read_dir(&self.scratch.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let given_back = self.begun.get(&name).map_or(0, |shared| shared.given_back.load(Ordering::SeqCst));
            // It may have been read and removed in between.
            bytes += entry.metadata().map_or(0, |file| file.len().saturating_sub(given_back));
            left.insert(name);
        }
        Ok((left, bytes))
    }
}

/// For reading, and for giving back what was read.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}
