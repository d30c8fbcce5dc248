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

/// Until when each resolver keeps the answer that it has.
struct Caches(Vec<Instant>);

impl Caches {
    /// All have asked at some moment within the last time to live, equally far from each other.
    fn new(kept_for: Duration, now: Instant, count: usize) -> Self {
        Self((0..count).map(|i| now + kept_for.mul_f64((i + 1) as f64 / count as f64)).collect())
    }

    /// Whose answer has run out asks again, and keeps what it hears. Returns who asked.
    fn ask(&mut self, kept_for: Duration, now: Instant) -> impl Iterator<Item = usize> {
        self.0.iter_mut().enumerate().filter(move |(_, until)| **until <= now).map(move |(i, until)| {
            *until = now + kept_for;
            i
        })
    }
}

async fn ask(names: Names, name: String, count: usize, seen: Arc<Mutex<Seen>>) {
    let first = names.answer(&name);
    let mut caches = Caches::new(first.kept_for, Instant::now(), count);
    loop {
        let answer = names.answer(&name);
        let has_moved = answer.host != first.host;
        {
            let mut seen = lock(&seen);
            if has_moved {
                seen.without_cache_at.get_or_insert_with(Timestamp::now);
            }
            for resolver in caches.ask(answer.kept_for, Instant::now()) {
                if has_moved {
                    seen.with_cache_at[resolver].get_or_insert_with(Timestamp::now);
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_moves_for_the_last_one_nearly_a_time_to_live_later_and_for_nobody_before() {
        let (kept_for, moves_at) = (Duration::from_millis(600), Duration::from_millis(1_000));
        let begun = Instant::now();
        let mut caches = Caches::new(kept_for, begun, 12);
        let mut moved = vec![None; 12];
        for tick in (0..2_000).step_by(5).map(Duration::from_millis) {
            for resolver in caches.ask(kept_for, begun + tick) {
                if tick >= moves_at {
                    moved[resolver].get_or_insert(tick - moves_at);
                }
            }
        }
        let moved: Vec<Duration> = moved.into_iter().map(|waited| waited.unwrap()).collect();
        assert!(moved.iter().all(|waited| *waited < kept_for), "{moved:?}");
        assert!(
            moved.iter().max().unwrap() >= &kept_for.mul_f64(11.0 / 12.0),
            "somebody had asked just before: {moved:?}"
        );
        assert_eq!(moved.iter().collect::<std::collections::BTreeSet<_>>().len(), 12, "no two at once: {moved:?}");
    }
}
