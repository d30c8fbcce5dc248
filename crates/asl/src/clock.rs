//! Where the time comes from: the machine's clock, or one that only tests move.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use async_trait::async_trait;
use jiff::Timestamp;

/// A source of time that can be waited for.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// Returns when the time has come, at once if it has passed.
    async fn sleep_until(&self, at: Timestamp);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep_until(&self, at: Timestamp) {
        // tokio's timer does not run while the machine sleeps, and the wall clock may be set: look again at least
        // every half minute.
        loop {
            let left = at.duration_since(Timestamp::now());
            if !left.is_positive() {
                return;
            }
            let left = left.unsigned_abs().min(std::time::Duration::from_secs(30));
            tokio::time::sleep(left).await;
        }
    }
}

/// A clock that jumps to the next moment somebody waits for as soon as nobody has anything else to do.
///
/// It suits handlers that answer at once, sleep on the same clock, or never answer. A handler that does real work would
/// find its deadline passed before it has begun.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    now: Timestamp,
    /// The moments that are waited for, with a number for each sleeper.
    sleepers: Vec<(Timestamp, u64)>,
    next: u64,
}

/// How often a sleeper lets everybody else have a turn before it moves the clock.
const PATIENCE: u32 = 4;

impl VirtualClock {
    /// A clock that stands at this moment.
    pub fn at(now: Timestamp) -> VirtualClock {
        VirtualClock { shared: Arc::new(Mutex::new(Shared { now, sleepers: Vec::new(), next: 0 })) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a sleeper off the list also when its future is dropped.
struct Sleeper<'a> {
    clock: &'a VirtualClock,
    id: u64,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.clock.lock().sleepers.retain(|(_, id)| *id != self.id);
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    async fn sleep_until(&self, at: Timestamp) {
        let sleeper = {
            let mut shared = self.lock();
            shared.next += 1;
            let id = shared.next;
            shared.sleepers.push((at, id));
            Sleeper { clock: self, id }
        };
        let mut turns = 0;
        std::future::poll_fn(|context| {
            let mut shared = self.lock();
            if shared.now >= at {
                return Poll::Ready(());
            }
            let first = shared.sleepers.iter().map(|(moment, _)| *moment).min();
            if first == Some(at) {
                turns += 1;
                if turns > PATIENCE {
                    shared.now = at;
                    return Poll::Ready(());
                }
            } else {
                turns = 0;
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        drop(sleeper);
    }
}
