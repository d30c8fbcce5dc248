//! Two container registries compared by content: a tag may move, a digest may not.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::holdings::RegistryError;

/// Images that are written out by name; the counts hold all.
const MOST_NAMED: usize = 100;

/// One image of a registry. Members of an image index are images too, and have no tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldImage {
    /// For example `sparc/auth`.
    pub repository: String,
    /// `sha256:…`.
    pub digest: String,
    /// Its tags now.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// When it was pushed, if the registry says so.
    pub pushed_at: Option<Timestamp>,
}

impl HeldImage {
    fn name(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// Everything that a registry holds.
#[async_trait]
pub trait RegistryContents: Send + Sync {
    /// Its region.
    fn region(&self) -> &str;
    /// All images of all repositories.
    async fn images(&self) -> Result<Vec<HeldImage>, RegistryError>;
}

/// What of one registry another one lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryComparison {
    /// Region of the registry that is replicated.
    pub source: String,
    /// Region of its copy.
    pub copy: String,
    /// When they were compared.
    pub observed_at: Timestamp,
    /// Repositories in the source.
    pub repositories: u64,
    /// Images in the source.
    pub checked: u64,
    /// Those of them that the copy has.
    pub valid: u64,
    /// Those that were pushed so recently that they may still be on their way.
    pub on_their_way: u64,
    /// How many the copy lacks.
    pub missing: u64,
    /// The first of those, as `repository@digest`.
    pub missing_images: Vec<String>,
    /// Tags that name another image in the copy, as `repository:tag`. Nothing of ours is deployed by a tag.
    pub moved_tags: Vec<String>,
}

/// What two registries hold, and what the copy lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDigests {
    /// What the copy lacks.
    pub comparison: RegistryComparison,
    /// Everything in the source.
    pub source: Vec<HeldImage>,
    /// Everything in the copy.
    pub copy: Vec<HeldImage>,
}

/// Compares a registry with its copy. `lag` is what replication is known to take.
pub fn compare(
    (source, held): (&str, &[HeldImage]),
    (copy, copied): (&str, &[HeldImage]),
    lag: Duration,
    now: Timestamp,
) -> RegistryComparison {
    let there: BTreeSet<(&str, &str)> =
        copied.iter().map(|image| (image.repository.as_str(), image.digest.as_str())).collect();
    let tags: BTreeMap<(&str, &str), &str> = copied
        .iter()
        .flat_map(|image| {
            image.tags.iter().map(|tag| ((image.repository.as_str(), tag.as_str()), image.digest.as_str()))
        })
        .collect();
    let (mut on_their_way, mut missing, mut moved_tags) = (0, Vec::new(), Vec::new());
    for image in held {
        let recent = image.pushed_at.is_some_and(|at| at.duration_until(now).unsigned_abs() <= lag);
        if !there.contains(&(image.repository.as_str(), image.digest.as_str())) {
            if recent {
                on_their_way += 1
            } else {
                missing.push(image.name())
            }
            continue;
        }
        for tag in &image.tags {
            let elsewhere = tags.get(&(image.repository.as_str(), tag.as_str()));
            if elsewhere.is_some_and(|digest| *digest != image.digest) {
                moved_tags.push(format!("{}:{tag}", image.repository));
            }
        }
    }
    let checked = held.len() as u64;
    let lacking = missing.len() as u64;
    missing.sort();
    missing.truncate(MOST_NAMED);
    moved_tags.sort();
    moved_tags.truncate(MOST_NAMED);
    RegistryComparison {
        source: source.to_owned(),
        copy: copy.to_owned(),
        observed_at: now,
        repositories: held.iter().map(|image| &image.repository).collect::<BTreeSet<_>>().len() as u64,
        checked,
        valid: checked - lacking - on_their_way,
        on_their_way,
        missing: lacking,
        missing_images: missing,
        moved_tags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(repository: &str, digest: &str, tags: &[&str], pushed_at: Option<&str>) -> HeldImage {
        HeldImage {
            repository: repository.to_owned(),
            digest: format!("sha256:{digest}"),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            pushed_at: pushed_at.map(|at| at.parse().unwrap()),
        }
    }

    #[test]
    fn what_the_copy_lacks_is_named_and_what_was_just_pushed_may_be_on_its_way() {
        let source = [
            image("sparc/auth", "00", &["v1"], Some("2026-01-01T00:00:00Z")),
            image("sparc/auth", "01", &["v2"], Some("2026-01-01T00:00:00Z")),
            image("sparc/auth", "02", &["v3"], Some("2026-01-02T03:00:00Z")),
            image("sparc/core", "00", &[], None),
        ];
        let copy = [
            image("sparc/auth", "00", &[], None),
            image("sparc/auth", "99", &["v1"], None),
            image("sparc/other", "01", &[], None),
        ];
        let now: Timestamp = "2026-01-02T03:10:00Z".parse().unwrap();
        let seen = compare(("us-east-1", &source), ("us-west-2", &copy), Duration::from_secs(1800), now);
        assert_eq!((seen.repositories, seen.checked, seen.valid, seen.on_their_way, seen.missing), (2, 4, 1, 1, 2));
        assert_eq!(seen.missing_images, ["sparc/auth@sha256:01", "sparc/core@sha256:00"]);
        assert_eq!(seen.moved_tags, ["sparc/auth:v1"]);
        let nothing = compare(("us-east-1", &[]), ("us-west-2", &copy), Duration::ZERO, now);
        assert_eq!((nothing.checked, nothing.valid), (0, 0));
    }
}
