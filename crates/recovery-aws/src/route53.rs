//! Records of a hosted zone. Route 53 answers queries from everywhere, but its records are changed in us-east-1 only: what
//! stands here follows a failover where it can and is never waited for.
//! <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/appendix-b---edge-network-global-service-guidance.html>

use async_trait::async_trait;
use aws_sdk_route53::{
    Client,
    error::BuildError,
    types::{Change, ChangeAction, ChangeBatch, ChangeStatus, ResourceRecord, ResourceRecordSet, RrType},
};
use recovery::{
    names::{NamesError, Records},
    plan::Record,
};

use crate::trouble::{Kind, Trouble};

/// One hosted zone.
#[derive(Clone, Debug)]
pub struct HostedZone {
    client: Client,
    zone: String,
}

impl HostedZone {
    /// A zone behind a client of us-east-1.
    pub fn new(client: Client, zone: &str) -> HostedZone {
        HostedZone { client, zone: zone.to_owned() }
    }
}

fn change_batch(record: &Record, comment: &str) -> Result<ChangeBatch, BuildError> {
    let set = ResourceRecordSet::builder()
        .name(&record.name)
        .r#type(RrType::from(record.kind.as_str()))
        .ttl(i64::from(record.ttl_seconds))
        .resource_records(ResourceRecord::builder().value(&record.secondary_value).build()?)
        .build()?;
    let change = Change::builder().action(ChangeAction::Upsert).resource_record_set(set).build()?;
    // Route 53 takes 256 characters of comment.
    ChangeBatch::builder().comment(comment.chars().take(256).collect::<String>()).changes(change).build()
}

pub(crate) fn names_error(what: String, trouble: Trouble) -> NamesError {
    match trouble.kind {
        Kind::Unavailable | Kind::Precondition | Kind::Busy | Kind::Denied | Kind::Limit => {
            NamesError::Unavailable { what, source: trouble.boxed() }
        }
        Kind::Missing | Kind::Invalid => NamesError::Invalid { what, source: trouble.boxed() },
    }
}

#[async_trait]
impl Records for HostedZone {
    async fn upsert(&self, record: &Record, comment: &str) -> Result<String, NamesError> {
        let what = || format!("the record `{} {}`", record.name, record.kind);
        let batch = change_batch(record, comment)
            .map_err(|source| NamesError::Invalid { what: what(), source: Box::new(source) })?;
        let request = self.client.change_resource_record_sets().hosted_zone_id(&self.zone).change_batch(batch);
        let answer = request.send().await.map_err(|error| names_error(what(), error.into()))?;
        let change = answer
            .change_info()
            .ok_or_else(|| names_error(what(), Trouble::unexpected("Route 53 answered without a change")))?;
        Ok(change.id().to_owned())
    }

    async fn is_in_sync(&self, change: &str) -> Result<bool, NamesError> {
        let what = || format!("the change `{change}`");
        let answer = self.client.get_change().id(change).send().await;
        let answer = answer.map_err(|error| names_error(what(), error.into()))?;
        Ok(answer.change_info().is_some_and(|info| *info.status() == ChangeStatus::Insync))
    }
}
