//! The CDN's origin. CloudFront's control plane lives in us-east-1, so this follows a failover and is never waited for;
//! what makes customers arrive is the origin's own name, which health checks move.
//!
//! `UpdateDistribution` replaces the whole configuration under the ETag that was read with it, so everything but one
//! domain name goes back as it came.
//! <https://docs.aws.amazon.com/cloudfront/latest/APIReference/API_UpdateDistribution.html>

use async_trait::async_trait;
use aws_sdk_cloudfront::Client;
use recovery::names::{Distribution, NamesError};

use crate::{
    route53::names_error,
    trouble::{Kind, Trouble},
};

/// One distribution.
#[derive(Clone, Debug)]
pub struct CloudFrontDistribution {
    client: Client,
    id: String,
}

impl CloudFrontDistribution {
    /// A distribution behind a client of us-east-1.
    pub fn new(client: Client, id: &str) -> CloudFrontDistribution {
        CloudFrontDistribution { client, id: id.to_owned() }
    }

    fn error(&self, trouble: Trouble) -> NamesError {
        names_error(format!("the distribution `{}`", self.id), trouble)
    }
}

#[async_trait]
impl Distribution for CloudFrontDistribution {
    async fn point_origin(&self, origin: &str, domain: &str) -> Result<bool, NamesError> {
        let answer = self.client.get_distribution_config().id(&self.id).send().await;
        let answer = answer.map_err(|error| self.error(error.into()))?;
        let etag = answer.e_tag().unwrap_or_default().to_owned();
        let mut config = answer
            .distribution_config
            .ok_or_else(|| self.error(Trouble::unexpected("CloudFront answered without a configuration")))?;
        let origins = config.origins.as_mut().map(|origins| origins.items.as_mut_slice()).unwrap_or_default();
        let known: Vec<String> = origins.iter().map(|item| format!("`{}`", item.id)).collect();
        let Some(item) = origins.iter_mut().find(|item| item.id == origin) else {
            let text = format!("it has no origin `{origin}`, only {}", known.join(", "));
            return Err(self.error(Trouble { kind: Kind::Invalid, ..Trouble::unexpected(text) }));
        };
        if item.domain_name == domain {
            return Ok(false);
        }
        item.domain_name = domain.to_owned();
        let request = self.client.update_distribution().id(&self.id).if_match(etag).distribution_config(config);
        request.send().await.map(|_| true).map_err(|error| self.error(error.into()))
    }
}
