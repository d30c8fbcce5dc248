//! The state of the cluster that the platform runs in: its resources, and snapshots of its volumes.

use std::{io, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    backup::{BackupId, Content, Source},
    cluster_state::{
        ClusterState, ExportError, ExportIdentity, ExportSummary, Selection, Sink as Lines, VolumeSnapshot,
    },
    envelope::DataKeys,
    fault::chain,
};
use recovery_datapath::{Ends, Made, Produced, Sink, TakeError, Taker};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::oneshot,
};

/// What the resources of a platform come to, roughly: it chooses the length of parts and nothing else.
const ABOUT_BYTES: u64 = 64 << 20;

pub(super) struct ClusterTaker {
    pub platform: String,
    pub cluster: Arc<dyn ClusterState>,
    pub keys: Arc<dyn DataKeys>,
    pub selection: Selection,
}

#[async_trait]
impl Taker for ClusterTaker {
    /// Not known before it is listed, and small beside any database.
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        Ok(0)
    }

    async fn take(&self, backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        // First, so that waiting for the storage repeats nothing else.
        let volumes = self.volumes(backup).await?;
        let summary = self.resources(backup, sink).await?;
        if !volumes.is_empty() {
            super::write(sink, "volumes.json", Content::VolumeSnapshots, &volumes).await?;
        }
        let ExportSummary { server, counts, .. } = summary;
        let source = Source::Kubernetes { cluster: self.cluster.cluster().to_owned(), server_version: server, counts };
        Ok(Made { tool: super::tool("recovery-kubernetes"), source })
    }
}

impl ClusterTaker {
    /// Snapshots of all volumes of the plan, when all of them can be used.
    async fn volumes(&self, backup: &BackupId) -> Result<Vec<VolumeSnapshot>, TakeError> {
        let mut snapshots = Vec::new();
        for volume in &self.selection.volumes {
            let snapshot = self.cluster.snapshot_volume(volume, backup).await;
            snapshots.push(snapshot.map_err(|error| TakeError::source("snapshotting a volume", error))?);
        }
        let waiting: Vec<String> = snapshots
            .iter()
            .filter(|snapshot| !snapshot.ready)
            .map(|snapshot| match &snapshot.trouble {
                Some(trouble) => format!("`{}` ({trouble})", snapshot.snapshot),
                None => format!("`{}`", snapshot.snapshot),
            })
            .collect();
        if waiting.is_empty() {
            return Ok(snapshots);
        }
        let (ready, all) = (snapshots.len() - waiting.len(), snapshots.len());
        Err(TakeError::NotYet(format!(
            "{ready} of {all} volume snapshots can be used; waiting for {}",
            waiting.join(", ")
        )))
    }

    async fn resources(&self, backup: &BackupId, sink: &Sink) -> Result<ExportSummary, TakeError> {
        let doing = format!("exporting cluster `{}`", self.cluster.cluster());
        let identity =
            ExportIdentity { platform: self.platform.clone(), backup: backup.clone(), began_at: Timestamp::now() };
        let (tell, told) = oneshot::channel();
        let (cluster, keys, selection) = (Arc::clone(&self.cluster), Arc::clone(&self.keys), self.selection.clone());
        let produced = Produced::by_task(&doing, |pipe| async move {
            let mut lines = Pipe(pipe);
            let outcome = cluster.export(&identity, &selection, &*keys, &mut lines).await;
            let failed = outcome.as_ref().err().map(chain_of);
            // Who asked may have gone: then nobody wants to know.
            let _ = tell.send(outcome);
            match failed {
                Some(failed) => Err(failed.into()),
                None => Ok(()),
            }
        });
        let stored = sink.artifact("resources.jsonl", Content::ClusterResources, produced, ABOUT_BYTES, is_whole).await;
        // The cluster's own error says who acts next; the bucket's is only that the export broke off.
        match (told.await, stored) {
            (Ok(Err(error)), _) if !matches!(error, ExportError::Write(_)) => Err(TakeError::source(&doing, error)),
            (_, Err(error)) => Err(error.into()),
            (Ok(Ok(summary)), Ok(_)) => Ok(summary),
            (Ok(Err(error)), Ok(_)) => Err(TakeError::source(&doing, error)),
            (Err(_), Ok(_)) => Err(TakeError::NotYet(format!("{doing} ended without a word"))),
        }
    }
}

fn chain_of(error: &ExportError) -> String {
    chain(error)
}

/// An export begins with its header and ends with its count.
fn is_whole(ends: &Ends) -> Result<(), String> {
    if !ends.head.starts_with(b"{\"export\":") {
        return Err("it does not begin as an export".to_owned());
    }
    let last = ends.tail.strip_suffix(b"\n").and_then(|tail| tail.rsplit(|byte| *byte == b'\n').next());
    match last {
        Some(last) if last.starts_with(b"{\"end\":") => Ok(()),
        // The last line may be longer than what is kept of the end.
        Some(last) if last.len() + 1 == ends.tail.len() && ends.bytes > ends.tail.len() as u64 => Ok(()),
        _ => Err("it breaks off: there is no end".to_owned()),
    }
}

/// The datapath's pipe as the export writes into it.
struct Pipe(DuplexStream);

#[async_trait]
impl Lines for Pipe {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_both_ends_is_whole() {
        let ends = |text: &str| Ends {
            head: text.as_bytes()[..text.len().min(64)].to_vec(),
            tail: text.as_bytes()[text.len().saturating_sub(64 * 1024)..].to_vec(),
            bytes: text.len() as u64,
        };
        assert!(is_whole(&ends("{\"export\":{}}\n{\"end\":{}}\n")).is_ok());
        let many = format!("{{\"export\":{{}}}}\n{{\"end\":{{\"x\":\"{}\"}}}}\n", "y".repeat(70_000));
        assert!(is_whole(&ends(&many)).is_ok(), "an end longer than what is kept of it");
        for broken in [
            "",
            "{\"export\":{}}\n",
            "{\"export\":{}}\n{\"end\":{}}",
            "{\"end\":{}}\n",
            "{\"export\":{}}\n{\"object\":{}}\n",
        ] {
            assert!(is_whole(&ends(broken)).is_err(), "{broken}");
        }
    }
}
