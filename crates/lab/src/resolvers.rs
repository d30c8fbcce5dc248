//! Customers' resolvers: they keep an answer for its time to live, so a name moves for them later than at the source.
//!
//! The edge answers every question anew, which is what a measurement from outside wants to see first, and is not what
//! customers see. Several resolvers ask here for one name, each when its answer has run out; the moments are spread over
//! the time to live, so the last of them shows nearly the longest that anybody waits. Programs that keep an address for
//! longer than its time to live, as some do, are not shown by anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::edge::{Edge, Names};
use crate::error::{Error, Result};

/// How closely moments are told apart.
const TICK: Duration = Duration::from_millis(5);
/// Longest wait for names that have moved to move for everybody.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a name led elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// For a resolver that keeps nothing.
    pub without_cache_at: Timestamp,
    /// For the last of those that keep answers.
    pub with_cache_at: Timestamp,
}

#[derive(Debug, Default)]
struct Seen {
    without_cache_at: Option<Timestamp>,
    with_cache_at: Vec<Option<Timestamp>>,
}

/// Resolvers at work. Dropping them ends them.
#[derive(Debug)]
pub struct Resolvers {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

struct Kept {
    answer: Option<String>,
    until: Instant,
}

impl Resolvers {
    /// Starts so many resolvers that ask for a name.
    pub fn start(edge: &Edge, name: &str, count: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen { without_cache_at: None, with_cache_at: vec![None; count] }));
        let task = tokio::spawn(ask(edge.names(), name.to_owned(), count, seen.clone()));
        Self { seen, task }
    }

    /// Waits until the name leads elsewhere for everybody, and says since when.
    pub async fn moved(&self) -> Result<Moved> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let seen = lock(&self.seen);
                let last = seen.with_cache_at.iter().copied().collect::<Option<Vec<_>>>();
                if let (Some(without_cache_at), Some(last)) = (seen.without_cache_at, last) {
                    let with_cache_at = last.into_iter().max().unwrap_or(without_cache_at);
                    return Ok(Moved { without_cache_at, with_cache_at });
                }
            }
            if Instant::now() > deadline {
                return Err(Error::State(format!("the name does not move for every resolver: {:?}", lock(&self.seen))));
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(names: Names, name: String, count: usize, seen: Arc<Mutex<Seen>>) {
    let first = names.answer(&name);
    let begun = Instant::now();
    let share = |i: usize| (i + 1) as f64 / count as f64;
    let mut kept: Vec<Kept> = (0..count)
        .map(|i| Kept { answer: first.host.clone(), until: begun + first.kept_for.mul_f64(share(i)) })
        .collect();
    loop {
        let answer = names.answer(&name);
        let now = Instant::now();
        {
            let mut seen = lock(&seen);
            if answer.host != first.host && seen.without_cache_at.is_none() {
                seen.without_cache_at = Some(Timestamp::now());
            }
            for (i, kept) in kept.iter_mut().enumerate().filter(|(_, kept)| kept.until <= now) {
                *kept = Kept { answer: answer.host.clone(), until: now + answer.kept_for };
                if kept.answer != first.host && seen.with_cache_at[i].is_none() {
                    seen.with_cache_at[i] = Some(Timestamp::now());
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}
