//! Digests of all images in both regions.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    backup::{BackupId, Content, Source},
    plan::Region,
    registry::{ImageDigests, RegistryContents, compare},
};
use recovery_datapath::{Made, Sink, TakeError, Taker};

pub(super) struct RegistryTaker {
    pub source: Arc<dyn RegistryContents>,
    pub copy: Arc<dyn RegistryContents>,
    pub regions: Vec<Region>,
    pub lag: Duration,
}

#[async_trait]
impl Taker for RegistryTaker {
    /// Images are replicated by the registry itself.
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        Ok(0)
    }

    async fn take(&self, _backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        let (source, copy) = tokio::join!(self.source.images(), self.copy.images());
        let failed = |error| TakeError::source("listing the images of both regions", error);
        let (source, copy) = (source.map_err(failed)?, copy.map_err(failed)?);
        let regions = (self.source.region(), self.copy.region());
        let comparison = compare((regions.0, &source), (regions.1, &copy), self.lag, Timestamp::now());
        super::write(sink, "digests.json", Content::ImageDigests, &ImageDigests { comparison, source, copy }).await?;
        let source = Source::Platform { regions: self.regions.clone() };
        Ok(Made { tool: super::tool("recovery-aws"), source })
    }
}
