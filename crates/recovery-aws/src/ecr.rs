//! The container registry of one region: whether the images that workloads run from are there, and all that it holds.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_ecr::{Client, types::ImageIdentifier};
use jiff::Timestamp;
use recovery::{
    holdings::{Registry, RegistryError},
    registry::{HeldImage, RegistryContents},
};

use crate::trouble::{Kind, Trouble};

/// Most images of one `BatchGetImage`.
/// <https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_BatchGetImage.html>
const BATCH: usize = 100;
/// Most repositories or images of one page.
const PAGE: i32 = 1000;

/// The private registry of the account in one region.
#[derive(Clone, Debug)]
pub struct Ecr {
    client: Client,
    region: String,
}

impl Ecr {
    /// A registry behind a client of its region.
    pub fn new(client: Client, region: &str) -> Ecr {
        Ecr { client, region: region.to_owned() }
    }

    async fn repositories(&self) -> Result<Vec<String>, RegistryError> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request = self.client.describe_repositories().max_results(PAGE).set_next_token(next);
            let answer = request.send().await.map_err(|error| failed("all repositories", error.into()))?;
            let names = answer.repositories().iter().filter_map(|repository| repository.repository_name());
            found.extend(names.map(str::to_owned));
            next = answer.next_token;
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    async fn images_of(&self, repository: &str, found: &mut Vec<HeldImage>) -> Result<(), RegistryError> {
        let mut next = None;
        loop {
            let request =
                self.client.describe_images().repository_name(repository).max_results(PAGE).set_next_token(next);
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) => {
                    let trouble = Trouble::from(error);
                    // Removed since it was listed.
                    return if trouble.is_missing() { Ok(()) } else { Err(failed(repository, trouble)) };
                }
            };
            found.extend(answer.image_details().iter().filter_map(|image| {
                Some(HeldImage {
                    repository: repository.to_owned(),
                    digest: image.image_digest()?.to_owned(),
                    tags: image.image_tags().iter().cloned().collect(),
                    pushed_at: image.image_pushed_at().and_then(|at| Timestamp::from_second(at.secs()).ok()),
                })
            }));
            next = answer.next_token;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Those of one repository that it does not have.
    async fn missing_of(&self, repository: &str, digests: &[&str]) -> Result<Vec<String>, RegistryError> {
        let ids = digests.iter().map(|digest| ImageIdentifier::builder().image_digest(*digest).build()).collect();
        let request = self.client.batch_get_image().repository_name(repository).set_image_ids(Some(ids));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let trouble = Trouble::from(error);
                if trouble.is_missing() {
                    return Ok(digests.iter().map(|digest| (*digest).to_owned()).collect());
                }
                return Err(failed(repository, trouble));
            }
        };
        let held = |digest: &&&str| {
            let ids = answer.images().iter().filter_map(|image| image.image_id());
            ids.filter_map(ImageIdentifier::image_digest).any(|held| held == **digest)
        };
        Ok(digests.iter().filter(|digest| !held(digest)).map(|digest| (*digest).to_owned()).collect())
    }
}

fn failed(repository: &str, trouble: Trouble) -> RegistryError {
    let repository = repository.to_owned();
    match trouble.kind {
        Kind::Denied => RegistryError::Denied { repository, source: trouble.boxed() },
        _ => RegistryError::Unavailable { repository, source: trouble.boxed() },
    }
}

/// `111122223333.dkr.ecr.us-west-2.amazonaws.com/sparc/auth@sha256:…` in its parts: registry, repository, digest.
fn parts(image: &str) -> Option<(&str, &str, &str)> {
    let (named, digest) = image.split_once('@')?;
    let (registry, repository) = named.split_once('/')?;
    (registry.contains(".dkr.ecr.") && digest.starts_with("sha256:")).then_some((registry, repository, digest))
}

#[async_trait]
impl Registry for Ecr {
    async fn missing(&self, images: &[String]) -> Result<Vec<String>, RegistryError> {
        let mut by_repository: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for image in images {
            let not_by_digest = || RegistryError::NotByDigest { image: image.clone() };
            let (registry, repository, digest) = parts(image).ok_or_else(not_by_digest)?;
            by_repository.entry((registry, repository)).or_default().push(digest);
        }
        let mut missing = Vec::new();
        for ((registry, repository), digests) in by_repository {
            for some in digests.chunks(BATCH) {
                let lacks = self.missing_of(repository, some).await?;
                missing.extend(lacks.into_iter().map(|digest| format!("{registry}/{repository}@{digest}")));
            }
        }
        Ok(missing)
    }
}

#[async_trait]
impl RegistryContents for Ecr {
    fn region(&self) -> &str {
        &self.region
    }

    async fn images(&self) -> Result<Vec<HeldImage>, RegistryError> {
        let mut found = Vec::new();
        for repository in self.repositories().await? {
            self.images_of(&repository, &mut found).await?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_registry_repository_and_digest() {
        let ours = "111122223333.dkr.ecr.us-west-2.amazonaws.com/sparc/auth@sha256:00ff";
        let expected = ("111122223333.dkr.ecr.us-west-2.amazonaws.com", "sparc/auth", "sha256:00ff");
        assert_eq!(parts(ours), Some(expected));
        for other in ["docker.io/library/redis@sha256:00", "1.dkr.ecr.x.amazonaws.com/a:latest", "a", ""] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
