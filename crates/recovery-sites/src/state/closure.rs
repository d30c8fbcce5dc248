//! Whether a failover would find what it needs.

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::backup::{BackupId, Content, Source};
use recovery_aws::Aws;
use recovery_datapath::{Made, Sink, TakeError, Taker};
use recovery_kubernetes::Cluster;
use recovery_lambda::Settings;

pub(super) struct ClosureTaker {
    pub settings: Settings,
    pub aws: Aws,
    pub secondary: Cluster,
}

#[async_trait]
impl Taker for ClosureTaker {
    /// A list.
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        Ok(0)
    }

    async fn take(&self, _backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        let closure = crate::closure(&self.settings, &self.aws, &self.secondary, Timestamp::now()).await;
        super::write(sink, "closure.json", Content::RecoveryClosure, &closure).await?;
        let regions = &self.settings.plan.regions;
        let source = Source::Platform { regions: vec![regions.secondary.clone(), regions.tertiary.clone()] };
        Ok(Made { tool: super::tool("recovery-sites"), source })
    }
}
