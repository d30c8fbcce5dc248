//! Objects that are replicated to another region, looked at one by one.
//!
//! S3 says of each object how its replication went (`x-amz-replication-status`), and of the whole only metrics. So a sample
//! is asked: some keys by chance, and the newest ones, because a lag shows there. What the source says is then compared with
//! what the copy holds, for the copy is what a failover uses. Objects that were there before the rule, and copies of copies,
//! have no status at all: nobody replicates them.
//!
//! Listing is bounded and goes on where the last look ended. The chance is a hash of the key, so a repeated look asks for
//! the same objects.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// Questions at a time.
const AT_ONCE: usize = 8;
/// Findings that are written out; the counts hold all.
const MOST_FINDINGS: usize = 50;

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// When its newest version was written.
    pub modified_at: Timestamp,
}

/// What S3 says of an object's replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicationStatus {
    /// On its way.
    Pending,
    /// It has arrived.
    Completed,
    /// It will not be tried again.
    Failed,
    /// It is itself a copy.
    Replica,
}

/// An object that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadObject {
    /// When its newest version was written.
    pub modified_at: Timestamp,
    /// Bytes.
    pub size_bytes: u64,
    /// Its ETag; another one in the copy where the copy has a key of its own.
    pub etag: String,
    /// Its version, which a copy keeps.
    pub version: Option<String>,
    /// What it says of its replication.
    pub replication: Option<ReplicationStatus>,
}

/// One bucket whose objects are listed and asked for.
#[async_trait]
pub trait Objects: Send + Sync {
    /// The bucket's name.
    fn bucket(&self) -> &str;
    /// Up to `most` objects whose keys come after `after`, in order of their keys.
    async fn list(&self, after: Option<&str>, most: u16) -> Result<Vec<ListedObject>, StoreError>;
    /// One object without its bytes; `None` if there is none.
    async fn head(&self, key: &str) -> Result<Option<HeadObject>, StoreError>;
}

/// What S3 measures of a rule with replication time control, minute by minute. A figure that S3 has not written is none: there
/// was nothing to be replicated.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/repl-metrics.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The longest that an object was behind.
    pub latency_seconds: Option<f64>,
    /// Bytes that are on their way, last.
    pub bytes_pending: Option<f64>,
    /// Objects that are on their way, last.
    pub operations_pending: Option<f64>,
    /// Objects that S3 has given up, all together.
    pub operations_failed: Option<f64>,
}

impl Measured {
    /// What is wrong with it, for an object may take so long.
    pub fn wrong(&self, within: Duration) -> Option<String> {
        if let Some(failed) = self.operations_failed.filter(|failed| *failed > 0.0) {
            return Some(format!("S3 gave {failed} objects up"));
        }
        let late = self.latency_seconds.filter(|latency| *latency > within.as_secs_f64());
        late.map(|latency| format!("S3 was {latency} s behind, it may be {} s", within.as_secs()))
    }
}

/// The metrics could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the metrics of replication cannot be read in {region}")]
pub struct MeterError {
    /// Where.
    pub region: String,
    /// The service's words.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The metrics of one replication rule.
#[async_trait]
pub trait ReplicationMeter: Send + Sync {
    /// What was measured from one moment to another.
    async fn measured(&self, from: Timestamp, to: Timestamp) -> Result<Measured, MeterError>;
}

/// What a look is bounded by.
#[derive(Clone, Debug)]
pub struct Look<'a> {
    /// Objects that are asked for by chance, and as many of the newest.
    pub sample: usize,
    /// Objects that are listed.
    pub most_listed: usize,
    /// The key that the last look ended at.
    pub after: Option<&'a str>,
    /// What the chance depends on: the backup.
    pub salt: &'a str,
    /// How long replication may take.
    pub within: Duration,
    /// The time.
    pub now: Timestamp,
}

/// What is wrong with one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectReason {
    /// Replication gave up.
    Failed,
    /// It is still on its way, for longer than it may take.
    Late,
    /// No rule covers it, or it was there before the rule.
    NeverReplicated,
    /// The source says that it has arrived; the copy does not have it.
    Missing,
    /// The copy has another content under its key.
    Different,
}

/// One object with something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectFinding {
    /// Its key.
    pub key: String,
    /// What is wrong.
    pub reason: ObjectReason,
    /// When it was written.
    pub modified_at: Timestamp,
}

/// What a look has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationSample {
    /// The bucket that is replicated.
    pub source: String,
    /// Its copy.
    pub copy: String,
    /// When it was looked at.
    pub observed_at: Timestamp,
    /// Objects that were listed.
    pub listed: u64,
    /// Where the next look goes on; `None` if the listing came to the end.
    pub next: Option<String>,
    /// Objects that were asked for.
    pub checked: u64,
    /// Those of them that the copy holds as they are.
    pub valid: u64,
    /// Those that are on their way, no longer than they may be.
    pub on_their_way: u64,
    /// Those that have gone since they were listed.
    pub gone: u64,
    /// All others, by reason.
    pub reasons: BTreeMap<ObjectReason, u64>,
    /// Age of the oldest object that is on its way: the copy is at least this far behind.
    pub lag_at_least_seconds: Option<f64>,
    /// How much older the newest heartbeat among the copies is than that among the originals; unknown if the watcher writes
    /// none, or it cannot be read.
    pub marker_behind_seconds: Option<f64>,
    /// What S3 has measured; absent where the plan names no rule with time control, or nobody could ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// What is wrong with what S3 measures, or why nobody could ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The first of those with something wrong.
    pub findings: Vec<ObjectFinding>,
}

impl ReplicationSample {
    /// Objects with something wrong.
    pub fn wrong(&self) -> u64 {
        self.reasons.values().sum()
    }
}

/// Lists, samples and compares.
///
/// # Errors
/// Those of the two buckets.
pub async fn look(source: &dyn Objects, copy: &dyn Objects, look: &Look<'_>) -> Result<ReplicationSample, StoreError> {
    let mut sample = Sample::default();
    let (mut listed, mut after) = (0, look.after.map(str::to_owned));
    let next = loop {
        let most = u16::try_from((look.most_listed - listed).min(1000)).unwrap_or(1000);
        if most == 0 {
            break after;
        }
        let page = source.list(after.as_deref(), most).await?;
        listed += page.len();
        let Some(last) = page.last() else { break None };
        after = Some(last.key.clone());
        let is_last = page.len() < usize::from(most);
        page.into_iter().for_each(|object| sample.offer(object, look));
        if is_last {
            break None;
        }
    };
    let mut seen = ReplicationSample {
        source: source.bucket().to_owned(),
        copy: copy.bucket().to_owned(),
        observed_at: look.now,
        listed: listed as u64,
        next,
        checked: 0,
        valid: 0,
        on_their_way: 0,
        gone: 0,
        reasons: BTreeMap::new(),
        lag_at_least_seconds: None,
        marker_behind_seconds: None,
        measured: None,
        trouble: None,
        findings: Vec::new(),
    };
    let mut answers = stream::iter(sample.keys())
        .map(|key| async move {
            let (there, here) = (source.head(&key).await?, copy.head(&key).await?);
            Ok::<_, StoreError>((key, there, here))
        })
        .buffered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        let (key, there, here) = answer?;
        seen.checked += 1;
        let Some(there) = there else {
            seen.gone += 1;
            continue;
        };
        let age = there.modified_at.duration_until(look.now);
        match judge(&there, here.as_ref(), age.unsigned_abs() > look.within) {
            Verdict::Valid => seen.valid += 1,
            Verdict::OnItsWay => seen.on_their_way += 1,
            Verdict::Wrong(reason) => {
                *seen.reasons.entry(reason).or_default() += 1;
                if seen.findings.len() < MOST_FINDINGS {
                    seen.findings.push(ObjectFinding { key, reason, modified_at: there.modified_at });
                }
                if reason != ObjectReason::Late {
                    continue;
                }
            }
        }
        if there.replication == Some(ReplicationStatus::Pending) {
            let seconds = age.as_secs_f64();
            seen.lag_at_least_seconds = Some(seen.lag_at_least_seconds.map_or(seconds, |most| most.max(seconds)));
        }
    }
    Ok(seen)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Valid,
    OnItsWay,
    Wrong(ObjectReason),
}

fn judge(source: &HeadObject, copy: Option<&HeadObject>, overdue: bool) -> Verdict {
    let same = copy.is_some_and(|copy| {
        copy.size_bytes == source.size_bytes
            && (copy.etag == source.etag || (copy.version.is_some() && copy.version == source.version))
    });
    match (source.replication, copy) {
        (Some(ReplicationStatus::Failed), _) => Verdict::Wrong(ObjectReason::Failed),
        // It may have arrived although the source does not say so yet.
        (Some(ReplicationStatus::Pending), _) if same => Verdict::Valid,
        (Some(ReplicationStatus::Pending), _) if overdue => Verdict::Wrong(ObjectReason::Late),
        (Some(ReplicationStatus::Pending), _) => Verdict::OnItsWay,
        // A copy that somebody else makes is as good.
        (None | Some(ReplicationStatus::Replica), _) if same => Verdict::Valid,
        (None | Some(ReplicationStatus::Replica), None) => Verdict::Wrong(ObjectReason::NeverReplicated),
        (Some(ReplicationStatus::Completed), None) => Verdict::Wrong(ObjectReason::Missing),
        (_, Some(_)) if same => Verdict::Valid,
        // Overwritten between the two questions.
        (Some(ReplicationStatus::Completed), Some(copy)) if !overdue && copy.modified_at > source.modified_at => {
            Verdict::OnItsWay
        }
        (_, Some(_)) => Verdict::Wrong(ObjectReason::Different),
    }
}

/// The keys with the smallest hashes, and those of the newest objects.
#[derive(Default)]
struct Sample {
    by_chance: BTreeSet<(u64, String)>,
    newest: BTreeSet<(Timestamp, String)>,
}

impl Sample {
    fn offer(&mut self, object: ListedObject, look: &Look<'_>) {
        let mut hasher = DefaultHasher::new();
        (look.salt, &object.key).hash(&mut hasher);
        self.by_chance.insert((hasher.finish(), object.key.clone()));
        if self.by_chance.len() > look.sample {
            self.by_chance.pop_last();
        }
        self.newest.insert((object.modified_at, object.key));
        if self.newest.len() > look.sample {
            self.newest.pop_first();
        }
    }

    fn keys(self) -> BTreeSet<String> {
        let by_chance = self.by_chance.into_iter().map(|(_, key)| key);
        by_chance.chain(self.newest.into_iter().map(|(_, key)| key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(minute: i8, etag: &str, replication: Option<ReplicationStatus>) -> HeadObject {
        HeadObject {
            modified_at: format!("2026-01-02T03:{minute:02}:00Z").parse().unwrap(),
            size_bytes: 3,
            etag: etag.to_owned(),
            version: None,
            replication,
        }
    }

    #[test]
    fn the_copy_is_what_counts_and_the_status_says_why_it_is_not_there() {
        use ObjectReason::{Different, Failed, Late, Missing, NeverReplicated};
        use ReplicationStatus::{Completed, Pending, Replica};
        let copy = head(5, "a", Some(Replica));
        let encrypted = HeadObject { etag: "b".to_owned(), version: Some("v1".to_owned()), ..copy.clone() };
        let versioned = HeadObject { version: Some("v1".to_owned()), ..head(5, "a", Some(Completed)) };
        let longer = HeadObject { size_bytes: 4, ..copy.clone() };
        let situations = [
            ("arrived", head(5, "a", Some(Completed)), Some(&copy), false, Verdict::Valid),
            ("arrived under a key of its own", versioned.clone(), Some(&encrypted), false, Verdict::Valid),
            ("arrived, not yet said", head(5, "a", Some(Pending)), Some(&copy), false, Verdict::Valid),
            ("on its way", head(5, "a", Some(Pending)), None, false, Verdict::OnItsWay),
            ("an older content still there", head(5, "c", Some(Pending)), Some(&copy), false, Verdict::OnItsWay),
            ("on its way for too long", head(5, "a", Some(Pending)), None, true, Verdict::Wrong(Late)),
            ("given up", head(5, "a", Some(ReplicationStatus::Failed)), None, false, Verdict::Wrong(Failed)),
            ("deleted in the copy", head(5, "a", Some(Completed)), None, true, Verdict::Wrong(Missing)),
            ("changed in the copy", head(5, "c", Some(Completed)), Some(&copy), true, Verdict::Wrong(Different)),
            ("of another size", versioned, Some(&longer), true, Verdict::Wrong(Different)),
            ("there before the rule", head(5, "a", None), None, true, Verdict::Wrong(NeverReplicated)),
            ("copied by hand", head(5, "a", None), Some(&copy), true, Verdict::Valid),
            ("a copy of a copy", head(5, "a", Some(Replica)), None, true, Verdict::Wrong(NeverReplicated)),
        ];
        for (situation, source, copy, overdue, expected) in situations {
            assert_eq!(judge(&source, copy, overdue), expected, "{situation}");
        }
    }

    #[test]
    fn a_sample_is_the_same_for_a_repeated_look_and_holds_the_newest() {
        let now: Timestamp = "2026-01-02T04:00:00Z".parse().unwrap();
        let keys = |salt: &str| {
            let look = Look { sample: 10, most_listed: 1000, after: None, salt, within: Duration::ZERO, now };
            let mut sample = Sample::default();
            for n in 0..600 {
                let modified_at = now - jiff::SignedDuration::from_secs(if n == 300 { 1 } else { 1000 + n });
                sample.offer(ListedObject { key: format!("{n:04}"), modified_at }, &look);
            }
            sample.keys()
        };
        assert_eq!(keys("b1"), keys("b1"));
        assert_ne!(keys("b1"), keys("b2"));
        assert!(keys("b1").contains("0300"));
        assert!((10..=20).contains(&keys("b1").len()));
    }
}
