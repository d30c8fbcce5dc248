//! The copy of a run's journal in the evidence bucket, and the lease that goes with it.
//!
//! The journal on this disk is what the run goes by; it is synced before every side effect. The copy follows it without
//! anybody waiting: when the bucket is slow or away the run goes on and the copy says how far behind it is. From the copy
//! another machine takes the run up when this one is gone.
//!
//! `runs/<run>/head.json` says who writes and is the lease: it is only ever written under the condition that nobody else
//! has written it since it was read, and a writer that lives raises its `beat`. Whoever finds the beat standing still takes
//! the run over. Segments of the journal are written under the condition that they are not there yet. So a machine that
//! comes back learns at its first write that it has lost the run, and begins no further step.
//!
//! While the bucket is away from one of two machines both may be at work for that long. That is why every step looks
//! before it acts; the lease keeps people from being confused, the fence keeps two primaries from existing.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use recovery::{
    fault::chain,
    report,
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{
    deeds,
    problem::Problem,
    run_folder::{RunCard, RunFolder, RunStatus},
};

/// Time between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// A writer that gives no sign for this long is gone.
const SILENCE: Duration = Duration::from_secs(7);
/// Text of the journal that goes into one object; a single record may be longer.
const SEGMENT_BYTES: usize = 256 * 1024;
/// A process that looked at nothing for this long was asleep, and does not know who works on its run.
const ASLEEP: SignedDuration = SignedDuration::from_secs(30);

/// A process that writes the copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writer {
    /// The machine's name.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// Since when it works on the run.
    pub since: Timestamp,
    /// Tells it from every other one.
    pub nonce: String,
}

impl Writer {
    /// This process.
    pub fn this(nonce: u64) -> Writer {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "an unnamed machine".to_owned() } else { host.trim().to_owned() };
        Writer { host, pid: std::process::id(), since: Timestamp::now(), nonce: format!("{nonce:016x}") }
    }

    /// As people find it.
    pub fn in_words(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

/// Who works on a run and how far its copy is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The run.
    pub run: String,
    /// When it was started: another start under the same name has another journal.
    pub attempt: Timestamp,
    /// Who writes.
    pub writer: Writer,
    /// Rises as long as the writer lives.
    pub beat: u64,
    /// Objects of the journal.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Records that the writer has on its disk.
    pub records_there: u64,
    /// When this was written, by the writer's clock.
    pub written_at: Timestamp,
    /// How the run stands.
    pub card: RunCard,
    /// The token of the question that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

impl Head {
    /// Whether the run has ended, so that nobody works on it.
    pub fn has_ended(&self) -> bool {
        self.card.status != RunStatus::Running
    }
}

/// Where the copies of runs lie in the evidence bucket.
pub const RUNS_PREFIX: &str = "runs/";

/// Key of the head of a run.
pub fn head_key(run: &str) -> String {
    format!("runs/{run}/head.json")
}

/// Key of the record of a run as its runner last knew it.
pub fn record_key(run: &str) -> String {
    format!("runs/{run}/record.json")
}

fn segment_key(run: &str, attempt: Timestamp, number: u64) -> String {
    format!("runs/{run}/{}/{number:06}", attempt.as_millisecond())
}

/// The first line of a segment; the lines of the journal follow as they are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentHeader {
    writer: Writer,
    written_at: Timestamp,
}

/// What the copy holds.
pub struct Copied {
    /// Text of the journal.
    pub text: Vec<u8>,
    /// Objects it was read from.
    pub segments: u64,
    /// Who wrote the last of its records.
    last_writer: Option<Writer>,
}

/// Reads the journal of an attempt from the bucket, as far as it is there.
pub async fn read(store: &dyn ObjectStore, run: &str, attempt: Timestamp) -> Result<Copied, StoreError> {
    let mut copied = Copied { text: Vec::new(), segments: 0, last_writer: None };
    loop {
        let key = segment_key(run, attempt, copied.segments + 1);
        let Some(object) = store.get(&key).await? else { return Ok(copied) };
        // A segment that is left out would be a shorter journal, and a step that was done would be unknown.
        let (header, text) = segment(&object.body).map_err(|source| StoreError::Malformed {
            bucket: store.bucket().to_owned(),
            key,
            source,
        })?;
        copied.segments += 1;
        if !text.is_empty() {
            copied.text.extend_from_slice(text);
            copied.last_writer = Some(header.writer);
        }
    }
}

/// How two journals of one attempt stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The second one begins with the whole first one.
    SecondIsAhead,
    /// They are the same.
    Same,
    /// The first one begins with the whole second one.
    FirstIsAhead,
    /// They went different ways after this many records.
    Apart(usize),
}

/// Compares the journal on disk with its copy. A torn last line is no record.
pub fn compare(disk: &[u8], copy: &[u8]) -> Compared {
    let (disk, copy) = (whole(disk), whole(copy));
    let common = disk.iter().zip(copy).take_while(|(a, b)| a == b).count();
    match (common == disk.len(), common == copy.len()) {
        (true, true) => Compared::Same,
        (true, false) => Compared::SecondIsAhead,
        (false, true) => Compared::FirstIsAhead,
        (false, false) => Compared::Apart(records_in(&disk[..common])),
    }
}

/// The lines that have an end.
fn whole(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    &text[..end]
}

fn records_in(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// How an attempt to take the lease ended.
pub enum Claim {
    /// It is ours; what the head said before.
    Taken(Option<Box<Head>>),
    /// Somebody else is at work.
    Held(Box<Head>),
}

/// Takes the lease of a run: at once where nobody holds it or the holder is known to be gone, else only from a holder that
/// gives no sign of life.
pub async fn claim(store: &dyn ObjectStore, ours: &Head, gone: Option<&str>) -> Result<Claim, StoreError> {
    let key = head_key(&ours.run);
    let mut seen: Option<(String, u64, Instant)> = None;
    loop {
        let found = get_json::<Head>(store, &key).await?;
        let precondition = match &found {
            None => Precondition::Absent,
            Some((head, etag)) => {
                let nonce = &head.writer.nonce;
                let is_free = head.has_ended() || *nonce == ours.writer.nonce || Some(nonce.as_str()) == gone;
                match &seen {
                    _ if is_free => {}
                    Some((writer, beat, since)) if writer == nonce && *beat == head.beat => {
                        if since.elapsed() < SILENCE {
                            tokio::time::sleep(BEAT / 4).await;
                            continue;
                        }
                    }
                    Some(_) => return Ok(Claim::Held(Box::new(head.clone()))),
                    None => {
                        seen = Some((nonce.clone(), head.beat, Instant::now()));
                        continue;
                    }
                }
                Precondition::Unchanged(etag.clone())
            }
        };
        match put_json(store, &key, ours, precondition).await {
            Ok(()) => return Ok(Claim::Taken(found.map(|(head, _)| Box::new(head)))),
            // Somebody was first, or our own answer was lost: the next look tells.
            Err(StoreError::PreconditionFailed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads what the copy has and closes it against whoever wrote it before: its next write fails.
pub async fn close_against_others(
    store: &dyn ObjectStore,
    run: &str,
    attempt: Timestamp,
    writer: &Writer,
) -> Result<Copied, StoreError> {
    loop {
        let mut copied = read(store, run, attempt).await?;
        let body = segment_body(writer, &[]);
        let key = segment_key(run, attempt, copied.segments + 1);
        match store.put(&key, "text/plain; charset=utf-8", body, Precondition::Absent).await {
            Ok(()) => {
                copied.segments += 1;
                return Ok(copied);
            }
            Err(StoreError::PreconditionFailed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The two parts of a segment.
fn segment(body: &[u8]) -> Result<(SegmentHeader, &[u8]), serde_json::Error> {
    let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
    let text = body.get(end + 1..).unwrap_or_default();
    Ok((serde_json::from_slice(&body[..end])?, text))
}

fn segment_body(writer: &Writer, text: &[u8]) -> Vec<u8> {
    let header = SegmentHeader { writer: writer.clone(), written_at: Timestamp::now() };
    let mut body = serde_json::to_vec(&header).unwrap_or_default();
    body.push(b'\n');
    body.extend_from_slice(text);
    body
}

/// How the copy stands, for whoever wants to say so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The bucket.
    pub bucket: String,
    /// Records on this disk.
    pub records: u64,
    /// Records in the bucket.
    pub copied: u64,
    /// Since when it lacks some.
    pub behind_since: Option<Timestamp>,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
    /// Who has taken the run over.
    pub taken_over_by: Option<Writer>,
    /// When the bucket last said that the run is ours.
    pub confirmed_at: Option<Timestamp>,
}

/// What the copier is given.
pub struct Work {
    /// Where the copy goes.
    pub store: Arc<dyn ObjectStore>,
    /// The run's folder, with the journal.
    pub folder: RunFolder,
    /// The journal's name in it.
    pub journal: &'static str,
    /// How the run stands; changes while it runs.
    pub card: Arc<Mutex<RunCard>>,
    /// This process.
    pub writer: Writer,
    /// A writer that is known to be gone.
    pub gone: Option<String>,
    /// The lease is ours already, and the copy has this much of the journal, in objects and bytes.
    pub claimed: Option<(u64, u64)>,
}

/// Follows the journal of a run with its copy until the run ends.
pub struct Copying {
    nudge: Arc<Notify>,
    closing: Arc<AtomicBool>,
    looked_at: Arc<Mutex<Timestamp>>,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

impl Copying {
    /// Begins.
    pub fn start(work: Work) -> Copying {
        let (nudge, closing) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let looked_at = Arc::new(Mutex::new(Timestamp::now()));
        let (sender, standing) = watch::channel(Standing {
            bucket: work.store.bucket().to_owned(),
            records: 0,
            copied: 0,
            behind_since: None,
            trouble: None,
            taken_over_by: None,
            confirmed_at: work.claimed.map(|_| Timestamp::now()),
        });
        let card = lock(&work.card).clone();
        let copier = Copier {
            journal: work.folder.path().join(work.journal),
            attempt: card.started_at,
            run: card.run,
            is_claimed: work.claimed.is_some(),
            segments: work.claimed.map_or(0, |(segments, _)| segments),
            bytes: work.claimed.map_or(0, |(_, bytes)| bytes),
            is_aligned: work.claimed.is_some(),
            beat: 0,
            told: None,
            deeds_kept: 0,
            standing: sender,
            work,
        };
        let task = tokio::spawn(copier.run(Arc::clone(&nudge), Arc::clone(&closing), Arc::clone(&looked_at)));
        Copying { nudge, closing, looked_at, standing, task }
    }

    /// The journal has grown.
    pub fn nudge(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    /// How it stands, as it changes.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Returns when another machine has taken the run over; never if none does.
    pub async fn taken_over(&self) -> Writer {
        let mut standing = self.standing.clone();
        loop {
            if let Some(writer) = &standing.borrow_and_update().taken_over_by {
                return writer.clone();
            }
            if standing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A process that was asleep asks whether the run is still its own before it acts; it does not wait long, because the
    /// bucket may be away.
    pub async fn is_ours_after_sleep(&self, patience: Duration) {
        let asked_at = Timestamp::now();
        if asked_at.duration_since(*lock(&self.looked_at)) < ASLEEP {
            return;
        }
        self.nudge.notify_one();
        let mut standing = self.standing.clone();
        let confirmed = async {
            loop {
                {
                    let now = standing.borrow_and_update();
                    if now.taken_over_by.is_some() || now.confirmed_at.is_some_and(|at| at > asked_at) {
                        return;
                    }
                }
                if standing.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, confirmed).await;
    }

    /// Copies what is left, for at most this long, and says how it stands.
    pub async fn finish(self, patience: Duration) -> Standing {
        self.closing.store(true, Ordering::SeqCst);
        self.nudge.notify_one();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(patience, self.task).await.is_err() {
            abort.abort();
        }
        self.standing.borrow().clone()
    }
}

/// A lock whose holder cannot panic.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Copier {
    work: Work,
    journal: PathBuf,
    run: String,
    attempt: Timestamp,
    is_claimed: bool,
    /// What the copy has is known.
    is_aligned: bool,
    segments: u64,
    bytes: u64,
    beat: u64,
    /// When the head was last written, and for which status.
    told: Option<(Instant, RunStatus)>,
    deeds_kept: usize,
    standing: watch::Sender<Standing>,
}

enum Hindrance {
    Away(String),
    TakenOver(Writer),
}

impl From<StoreError> for Hindrance {
    fn from(error: StoreError) -> Hindrance {
        Hindrance::Away(chain(&error))
    }
}

impl Copier {
    async fn run(mut self, nudge: Arc<Notify>, closing: Arc<AtomicBool>, looked_at: Arc<Mutex<Timestamp>>) {
        loop {
            let is_last = closing.load(Ordering::SeqCst);
            let outcome = self.step(is_last).await;
            *lock(&looked_at) = Timestamp::now();
            let is_lost = matches!(outcome, Err(Hindrance::TakenOver(_)));
            self.standing.send_modify(|standing| match outcome {
                Ok(()) => standing.trouble = None,
                Err(Hindrance::Away(why)) => {
                    standing.trouble = Some(why);
                    standing.behind_since.get_or_insert_with(Timestamp::now);
                }
                Err(Hindrance::TakenOver(writer)) => standing.taken_over_by = Some(writer),
            });
            self.note();
            if is_lost || is_last {
                return;
            }
            // A nudge that came meanwhile is kept.
            let _ = tokio::time::timeout(BEAT, nudge.notified()).await;
        }
    }

    /// Keeps how the copy stands where `drctl status` finds it.
    fn note(&self) {
        let standing = self.standing.borrow().clone();
        let _ = self.work.folder.write_json("copy.json", &standing);
    }

    async fn step(&mut self, is_last: bool) -> Result<(), Hindrance> {
        let records = self.records_on_disk();
        self.standing.send_modify(|standing| {
            standing.records = records;
            if standing.copied < records {
                standing.behind_since.get_or_insert_with(Timestamp::now);
            }
        });
        if !self.is_claimed {
            let ours = self.head();
            match claim(self.work.store.as_ref(), &ours, self.work.gone.as_deref()).await? {
                Claim::Held(head) => return Err(Hindrance::TakenOver(head.writer)),
                Claim::Taken(_) => self.is_claimed = true,
            }
        }
        self.align().await?;
        while self.copy_a_segment().await? {}
        let status = lock(&self.work.card).status;
        let is_due = self.told.is_none_or(|(at, told)| at.elapsed() >= BEAT / 2 || told != status);
        if is_due || is_last {
            self.tell(status).await?;
        }
        Ok(())
    }

    /// Finds out how much of the journal the copy has, when the bucket was away at the start.
    async fn align(&mut self) -> Result<(), Hindrance> {
        if self.is_aligned {
            return Ok(());
        }
        let store = self.work.store.as_ref();
        let copied = close_against_others(store, &self.run, self.attempt, &self.work.writer).await?;
        let disk = std::fs::read(&self.journal).unwrap_or_default();
        match compare(&disk, &copied.text) {
            Compared::Same | Compared::FirstIsAhead => {
                (self.segments, self.bytes) = (copied.segments, copied.text.len() as u64);
                self.is_aligned = true;
                Ok(())
            }
            // Somebody went on with it while the bucket was away from here; that journal is the one that others see.
            Compared::SecondIsAhead | Compared::Apart(_) => {
                Err(Hindrance::TakenOver(copied.last_writer.unwrap_or_else(|| self.work.writer.clone())))
            }
        }
    }

    fn records_on_disk(&self) -> u64 {
        std::fs::read(&self.journal).map(|text| records_in(&text) as u64).unwrap_or_default()
    }

    async fn copy_a_segment(&mut self) -> Result<bool, Hindrance> {
        let text = std::fs::read(&self.journal).map_err(|error| Hindrance::Away(error.to_string()))?;
        let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(text.len());
        let left = whole(&text[bytes..]);
        if left.is_empty() {
            self.standing.send_modify(|standing| {
                standing.copied = records_in(&text[..bytes]) as u64;
                standing.behind_since = None;
            });
            return Ok(false);
        }
        // As many whole records as fit, and at least one.
        let fitting = left[..left.len().min(SEGMENT_BYTES)].iter().rposition(|byte| *byte == b'\n');
        let end = fitting.or_else(|| left.iter().position(|byte| *byte == b'\n')).map_or(left.len(), |at| at + 1);
        let (store, key) = (self.work.store.as_ref(), segment_key(&self.run, self.attempt, self.segments + 1));
        let body = segment_body(&self.work.writer, &left[..end]);
        let there = match store.put(&key, "text/plain; charset=utf-8", body, Precondition::Absent).await {
            Ok(()) => end,
            Err(StoreError::PreconditionFailed { .. }) => self.what_is_there(&key, left).await?,
            Err(error) => return Err(error.into()),
        };
        self.segments += 1;
        self.bytes += there as u64;
        self.standing.send_modify(|standing| standing.copied = records_in(&text[..bytes + there]) as u64);
        Ok(true)
    }

    /// A segment that is there already is ours if the answer to its writing was lost; the journal may have grown since.
    async fn what_is_there(&self, key: &str, left: &[u8]) -> Result<usize, Hindrance> {
        let object = self.work.store.get(key).await?;
        let body = object.map(|object| object.body).unwrap_or_default();
        match segment(&body) {
            Ok((header, text)) if header.writer.nonce == self.work.writer.nonce && left.starts_with(text) => {
                Ok(text.len())
            }
            Ok((header, _)) => Err(Hindrance::TakenOver(header.writer)),
            Err(error) => Err(Hindrance::Away(format!("`{key}` is no segment of a journal: {error}"))),
        }
    }

    fn head(&self) -> Head {
        let standing = self.standing.borrow();
        Head {
            run: self.run.clone(),
            attempt: self.attempt,
            writer: self.work.writer.clone(),
            beat: self.beat,
            segments: self.segments,
            records: standing.copied,
            records_there: standing.records,
            written_at: Timestamp::now(),
            card: lock(&self.work.card).clone(),
            question: self.work.folder.approval_request().ok().map(|request| request.task_token),
        }
    }

    /// Gives a sign of life, and learns whether the run is still ours.
    async fn tell(&mut self, status: RunStatus) -> Result<(), Hindrance> {
        let store = self.work.store.as_ref();
        let key = head_key(&self.run);
        for _ in 0..3 {
            let found = get_json::<Head>(store, &key).await?;
            let precondition = match &found {
                Some((head, _)) if head.writer.nonce != self.work.writer.nonce => {
                    return Err(Hindrance::TakenOver(head.writer.clone()));
                }
                Some((_, etag)) => Precondition::Unchanged(etag.clone()),
                None => Precondition::Absent,
            };
            self.beat += 1;
            match put_json(store, &key, &self.head(), precondition).await {
                Ok(()) => {
                    self.told = Some((Instant::now(), status));
                    self.standing.send_modify(|standing| standing.confirmed_at = Some(Timestamp::now()));
                    return self.tell_more().await;
                }
                Err(StoreError::PreconditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Hindrance::Away(format!("`{key}` changes faster than it can be written")))
    }

    /// What other machines read of the run beside its journal.
    async fn tell_more(&mut self) -> Result<(), Hindrance> {
        let store = self.work.store.as_ref();
        let done = deeds::of(&self.work.folder);
        if done.len() > self.deeds_kept {
            deeds::keep(store, &self.run, &done).await?;
            self.deeds_kept = done.len();
        }
        if let Ok(record) = std::fs::read(self.work.folder.path().join("record.json")) {
            store.put(&record_key(&self.run), "application/json", record, Precondition::None).await?;
        }
        // A run that was ended by a person or by its deadline never came to the state that keeps its report.
        if matches!(lock(&self.work.card).status, RunStatus::Aborted | RunStatus::TimedOut) {
            let forms = [
                ("json", "application/json"),
                ("md", "text/markdown; charset=utf-8"),
                ("html", "text/html; charset=utf-8"),
            ];
            for (form, content_type) in forms {
                if let Ok(body) = std::fs::read(self.work.folder.path().join(format!("report.{form}"))) {
                    store.put(&report::key(&self.run, form), content_type, body, Precondition::None).await?;
                }
            }
        }
        Ok(())
    }
}

/// What to say when another machine works on a run.
pub fn held_elsewhere(head: &Head) -> Problem {
    Problem::input(format!(
        "{} works on run `{}` since {} and gave a sign of life just now; end it there with `drctl abort {1}`, or stop that process and resume again",
        head.writer.in_words(),
        head.run,
        recovery::notice::utc(head.writer.since)
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, io::Write, path::Path};

    use async_trait::async_trait;
    use recovery::store::StoredObject;

    use super::*;

    /// A bucket in memory that can do what it is asked and lose the answer.
    #[derive(Default)]
    struct Shelf {
        objects: Mutex<BTreeMap<String, (Vec<u8>, u64)>>,
        loses_answers: AtomicBool,
    }

    impl Shelf {
        fn lost(&self, key: &str) -> StoreError {
            let source = "the answer was lost".into();
            StoreError::Unavailable { bucket: "shelf".to_owned(), key: key.to_owned(), source }
        }
    }

    #[async_trait]
    impl ObjectStore for Shelf {
        fn bucket(&self) -> &str {
            "shelf"
        }

        async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
            let object = lock(&self.objects).get(key).cloned();
            Ok(object.map(|(body, version)| StoredObject { body, etag: version.to_string() }))
        }

        async fn put(&self, key: &str, _: &str, body: Vec<u8>, condition: Precondition) -> Result<(), StoreError> {
            let mut objects = lock(&self.objects);
            let version = objects.get(key).map(|(_, version)| *version);
            let holds = match condition {
                Precondition::None => true,
                Precondition::Absent => version.is_none(),
                Precondition::Unchanged(etag) => version.is_some_and(|version| version.to_string() == etag),
            };
            if !holds {
                return Err(StoreError::PreconditionFailed { bucket: "shelf".to_owned(), key: key.to_owned() });
            }
            objects.insert(key.to_owned(), (body, version.unwrap_or_default() + 1));
            if self.loses_answers.load(Ordering::SeqCst) { Err(self.lost(key)) } else { Ok(()) }
        }

        async fn delete(&self, key: &str) -> Result<(), StoreError> {
            lock(&self.objects).remove(key);
            Ok(())
        }
    }

    fn card() -> RunCard {
        RunCard {
            run: "a".to_owned(),
            machine: "m".to_owned(),
            plan: "p".into(),
            event: "e".into(),
            status: RunStatus::Running,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            pid: 1,
            state: None,
            paused: None,
        }
    }

    fn copying(shelf: &Arc<Shelf>, runs: &Path, nonce: u64) -> Copying {
        let folder = RunFolder::new(runs, "a").unwrap();
        std::fs::create_dir_all(folder.path()).unwrap();
        let writer = Writer::this(nonce);
        let (store, card) = (Arc::clone(shelf) as Arc<dyn ObjectStore>, Arc::new(Mutex::new(card())));
        Copying::start(Work { store, folder, journal: "journal", card, writer, gone: None, claimed: None })
    }

    fn append(runs: &Path, text: &str) {
        let journal = runs.join("a/journal");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(journal).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn until(copying: &Copying, what: impl Fn(&Standing) -> bool) -> Standing {
        let mut standing = copying.watch();
        copying.nudge().notify_one();
        let seen = tokio::time::timeout(Duration::from_secs(30), standing.wait_for(|now| what(now))).await;
        seen.unwrap().unwrap().clone()
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_is_ours_although_the_journal_has_grown() {
        let (shelf, runs) = (Arc::new(Shelf::default()), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(runs.path().join("a")).unwrap();
        append(runs.path(), "one\ntwo\nhal");
        let copying = copying(&shelf, runs.path(), 1);
        until(&copying, |now| now.copied == 2).await;
        shelf.loses_answers.store(true, Ordering::SeqCst);
        append(runs.path(), "f\n");
        let behind = until(&copying, |now| now.trouble.is_some()).await;
        assert!(behind.behind_since.is_some(), "{behind:?}");
        append(runs.path(), "four\n");
        shelf.loses_answers.store(false, Ordering::SeqCst);
        let caught_up = until(&copying, |now| now.copied == 4 && now.trouble.is_none()).await;
        assert_eq!((caught_up.taken_over_by, caught_up.behind_since), (None, None));
        assert_eq!(read(shelf.as_ref(), "a", Timestamp::UNIX_EPOCH).await.unwrap().text, b"one\ntwo\nhalf\nfour\n");
        copying.finish(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn whoever_has_lost_the_run_learns_it_at_the_next_write() {
        let (shelf, runs) = (Arc::new(Shelf::default()), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(runs.path().join("a")).unwrap();
        append(runs.path(), "one\n");
        let copying = copying(&shelf, runs.path(), 1);
        until(&copying, |now| now.confirmed_at.is_some()).await;
        let taker = Writer::this(2);
        let ours = crate::run::head(&card(), &taker);
        let gone = Writer::this(1).nonce;
        let claimed = claim(shelf.as_ref(), &ours, Some(&gone)).await.unwrap();
        assert!(matches!(claimed, Claim::Taken(Some(_))));
        let copied = close_against_others(shelf.as_ref(), "a", Timestamp::UNIX_EPOCH, &taker).await.unwrap();
        assert_eq!(copied.text, b"one\n");
        append(runs.path(), "two\n");
        let lost = until(&copying, |now| now.taken_over_by.is_some()).await;
        assert_eq!(lost.taken_over_by.unwrap().nonce, taker.nonce);
        assert_eq!(read(shelf.as_ref(), "a", Timestamp::UNIX_EPOCH).await.unwrap().text, b"one\n", "nothing was added");
        // A third one finds the taker at work, or waits for its silence: it does not take the run at once.
        let third = crate::run::head(&card(), &Writer::this(3));
        let waiting = tokio::time::timeout(Duration::from_secs(1), claim(shelf.as_ref(), &third, None)).await;
        assert!(waiting.is_err(), "a run was taken from somebody who may live");
    }

    #[test]
    fn a_journal_and_its_copy_are_told_apart() {
        let situations = [
            ("", "", Compared::Same),
            ("a\nb\n", "a\nb\n", Compared::Same),
            ("a\nb\n", "a\n", Compared::FirstIsAhead),
            ("a\n", "", Compared::FirstIsAhead),
            ("a\n", "a\nb\n", Compared::SecondIsAhead),
            ("a\nto", "a\nb\n", Compared::SecondIsAhead),
            ("a\nb\nx\n", "a\nb\ny\n", Compared::Apart(2)),
            ("a\nbb\n", "a\nbc\nd\n", Compared::Apart(1)),
        ];
        for (disk, copy, expected) in situations {
            assert_eq!(compare(disk.as_bytes(), copy.as_bytes()), expected, "{disk:?} and {copy:?}");
        }
    }
}
