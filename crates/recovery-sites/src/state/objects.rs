//! What the replication of objects has reached: by a sample, and by S3's own measure where the plan has time control.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{BackupId, Content, EVIDENCE_PREFIX, Source},
    fault::chain,
    holdings::{MARKER_KEY, Marker},
    replication::{self, Look, Objects, ReplicationMeter},
    store::{ObjectStore, Precondition, get_json, put_json},
};
use recovery_datapath::{Made, Sink, TakeError, Taker};
use serde::{Deserialize, Serialize};

/// Objects by chance, and as many of the newest: two questions each.
const SAMPLE: usize = 100;
/// How far back S3's metrics are read: some looks, so that no minute is in none.
const MEASURED_OVER: SignedDuration = SignedDuration::from_hours(1);
/// Objects that are listed in one look: twenty pages.
const MOST_LISTED: usize = 20_000;

pub(super) struct ObjectsTaker {
    pub source: Arc<dyn Objects>,
    pub copy: Arc<dyn Objects>,
    /// The same two, to read the watcher's heartbeat from.
    pub markers: [Arc<dyn ObjectStore>; 2],
    pub evidence: Arc<dyn ObjectStore>,
    pub meter: Option<Arc<dyn ReplicationMeter>>,
    pub within: Duration,
}

/// Where the last look ended.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    after: Option<String>,
}

#[async_trait]
impl Taker for ObjectsTaker {
    /// Objects are replicated by S3 itself.
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        Ok(0)
    }

    async fn take(&self, backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        let key = format!("{EVIDENCE_PREFIX}{}/{}/cursor.json", backup.kind, backup.subject);
        let cursor = get_json::<Cursor>(&*self.evidence, &key).await;
        let cursor = cursor.map_err(|error| TakeError::source("reading where the last look ended", error))?;
        let cursor = cursor.map(|(cursor, _)| cursor).unwrap_or_default();
        let salt = backup.to_string();
        let look = Look {
            sample: SAMPLE,
            most_listed: MOST_LISTED,
            after: cursor.after.as_deref(),
            salt: &salt,
            within: self.within,
            now: Timestamp::now(),
        };
        let seen = replication::look(&*self.source, &*self.copy, &look).await;
        let mut seen = seen.map_err(|error| TakeError::source("looking at replicated objects", error))?;
        seen.marker_behind_seconds = self.marker_behind_seconds().await;
        if let Some(meter) = &self.meter {
            // The sample is worth as much without it, so that nobody could ask is noted and fails nothing.
            match meter.measured(look.now - MEASURED_OVER, look.now).await {
                Ok(measured) => {
                    (seen.measured, seen.trouble) = (Some(measured), measured.wrong(self.within));
                }
                Err(error) => seen.trouble = Some(chain(&error)),
            }
        }
        super::write(sink, "replication.json", Content::ReplicationStatus, &seen).await?;
        // Kept last: a look that was not written is taken again.
        let next = Cursor { after: seen.next.clone() };
        let kept = put_json(&*self.evidence, &key, &next, Precondition::None).await;
        kept.map_err(|error| TakeError::source("keeping where this look ended", error))?;
        let source = Source::Bucket { bucket: seen.source, replica: seen.copy };
        Ok(Made { tool: super::tool("recovery-aws"), source })
    }
}

impl ObjectsTaker {
    async fn marker_behind_seconds(&self) -> Option<f64> {
        let [source, copy] = &self.markers;
        let (source, copy) = tokio::join!(written_at(&**source), written_at(&**copy));
        Some(copy?.duration_until(source?).as_secs_f64())
    }
}

/// When the heartbeat in a bucket was written.
async fn written_at(bucket: &dyn ObjectStore) -> Option<Timestamp> {
    let (marker, _) = get_json::<Marker>(bucket, MARKER_KEY).await.ok()??;
    Some(marker.heartbeat.written_at)
}
