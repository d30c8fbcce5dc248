//! A base backup of the whole cluster, as a stream for each of its tar archives.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use recovery::{
    backup::{BackupId, Content, Source, Tool},
    lsn::Lsn,
};
use recovery_archive::base;
use recovery_datapath::{Ends, Made, Produced, Sink, TakeError, Taker};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    BackupSource,
    base_backup::{self, BaseBackup, Shared, Tablespace},
};
use crate::replication::Replication;

/// What `pg_basebackup --format=tar --wal-method=fetch` asks for, asked for by ourselves: without its process, its pipe and
/// the small reads of its TLS, in four fifths of the processor's time, and of a server of any version.
///
/// The archive of the cluster has `backup_manifest` as its last file and the log from the beginning to the end of the
/// backup in `pg_wal/`, so it starts without an archive of the log. Each tablespace has an archive of its own, named as
/// `pg_basebackup` names it; `tablespace_map` in that of the cluster says where each belongs.
pub struct Physical {
    source: BackupSource,
}

impl Physical {
    /// Of the server that the plan reads backups from.
    pub fn new(source: BackupSource) -> Physical {
        Physical { source }
    }

    async fn tablespace(
        &self,
        tablespace: &Tablespace,
        begun: &Shared,
        about_bytes: u64,
        sink: &Sink,
    ) -> Result<(), TakeError> {
        let Tablespace { oid, location } = tablespace.clone();
        let content = Content::Tablespace { oid, location, listing: None };
        let produced =
            Produced::by_stream(&content.to_string(), base_backup::tablespace(Arc::clone(begun), tablespace));
        sink.artifact(&tablespace.archive(), content, produced, about_bytes, ended).await?;
        Ok(())
    }
}

#[async_trait]
impl Taker for Physical {
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        let failed = |error| TakeError::source("measuring the cluster", error);
        let credentials = self.source.credentials().await.map_err(failed)?;
        let session = self.source.session(&credentials, &self.source.plan.postgresql.probe_database).await;
        session.map_err(failed)?.cluster_bytes().await.map_err(failed)
    }

    async fn take(&self, backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        let failed = |error| TakeError::source("asking the server", error);
        let source = &self.source;
        let credentials = source.credentials().await.map_err(failed)?;
        let session = source.session(&credentials, &source.plan.postgresql.probe_database).await.map_err(failed)?;
        let cluster = session.cluster().await.map_err(failed)?;
        let about_bytes = session.cluster_bytes().await.map_err(failed)?;
        let begin = |error| TakeError::source("beginning a base backup", error);
        let connecting = Replication::connect(&source.instance, &source.host, source.port, &source.tls, &credentials);
        let begun = BaseBackup::begin(connecting.await.map_err(begin)?, backup).await.map_err(begin)?;
        let (version, tablespaces) = (begun.server_version().to_owned(), begun.tablespaces().to_vec());
        let begun = Arc::new(Mutex::new(begun));
        for tablespace in &tablespaces {
            self.tablespace(tablespace, &begun, about_bytes, sink).await?;
        }
        let manifest = Arc::new(Mutex::new(Bytes::new()));
        let pieces = base_backup::cluster(Arc::clone(&begun), Arc::clone(&manifest));
        let produced = Produced::by_stream(&Content::BaseBackup.to_string(), pieces);
        let stored = sink.artifact("base.tar", Content::BaseBackup, produced, about_bytes, whole).await?;
        if let Some(begun) = Arc::into_inner(begun) {
            begun.into_inner().end().await;
        }
        let defect = |says| TakeError::Refused {
            says,
            remedy: "report this as a defect; the form of backup_manifest has changed".to_owned(),
        };
        let range = wal_range(&stored.ends.tail).map_err(defect)?;
        let manifest = manifest.lock().await;
        let mut unreadable = None;
        sink.describe(|artifact| {
            if let Content::Tablespace { oid, listing, .. } = &mut artifact.content {
                match base::listing(&manifest, *oid) {
                    Ok(listed) => *listing = Some(listed),
                    Err(flaw) => unreadable = Some(flaw.to_string()),
                }
            }
        });
        if let Some(says) = unreadable {
            return Err(defect(says));
        }
        Ok(Made {
            tool: Tool { name: "BASE_BACKUP".to_owned(), version },
            source: Source::PostgreSql {
                instance: source.instance.clone(),
                system_identifier: cluster.system_identifier,
                timeline: Some(range.timeline),
                server_version: cluster.server_version,
                from_lsn: Some(range.from),
                to_lsn: Some(range.to),
                in_recovery: cluster.in_recovery,
                databases: Vec::new(),
                snapshots: Vec::new(),
            },
        })
    }
}

/// Log that a base backup needs, as its manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct WalRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    from: Lsn,
    #[serde(rename = "End-LSN")]
    to: Lsn,
}

/// A tar file ends with two blocks of zeros.
fn ended(ends: &Ends) -> Result<(), String> {
    const BLOCKS: usize = 1024;
    let padded = ends.tail.len() > BLOCKS && ends.tail[ends.tail.len() - BLOCKS..].iter().all(|byte| *byte == 0);
    if padded { Ok(()) } else { Err("its tar file has no end".to_owned()) }
}

/// Before its end the archive of the cluster has the manifest, with its own checksum.
fn whole(ends: &Ends) -> Result<(), String> {
    ended(ends)?;
    wal_range(&ends.tail).map(|_| ())
}

/// The range stands at the end of the manifest, behind the files.
/// <https://www.postgresql.org/docs/current/backup-manifest-wal-ranges.html>
fn wal_range(tail: &[u8]) -> Result<WalRange, String> {
    let text = String::from_utf8_lossy(tail);
    let missing = || "its manifest does not end with the range of the log".to_owned();
    let (_, rest) = text.rsplit_once("\"WAL-Ranges\":").ok_or_else(missing)?;
    let (ranges, after) = rest.split_once(']').ok_or_else(missing)?;
    if !after.contains("\"Manifest-Checksum\"") {
        return Err("its manifest has no checksum".to_owned());
    }
    let ranges: Vec<WalRange> = serde_json::from_str(&format!("{ranges}]")).map_err(|error| error.to_string())?;
    match ranges.as_slice() {
        [range] => Ok(*range),
        _ => Err(format!("its manifest names {} ranges of the log instead of one", ranges.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read_from_the_end_and_a_cut_manifest_is_not_whole() {
        let manifest = "…\"Checksum\": \"e3b0\" }\n],\n\"WAL-Ranges\": [\n\
                        { \"Timeline\": 3, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n\
                        \"Manifest-Checksum\": \"ab\"}\n";
        let tail = [manifest.as_bytes(), &[0; 1024]].concat();
        let range = wal_range(&tail).unwrap();
        assert_eq!(
            (range.timeline, range.from.to_string(), range.to.to_string()),
            (3, "0/2000028".into(), "0/2000100".into())
        );
        let ends = |tail: &[u8]| Ends { tail: tail.to_vec(), ..Ends::default() };
        assert_eq!(whole(&ends(&tail)), Ok(()));
        assert!(whole(&ends(&tail[..tail.len() - 1])).is_err());
        assert!(whole(&ends(manifest.as_bytes())).is_err());
        assert!(whole(&ends(&[&manifest.as_bytes()[..60], &[0; 1024]].concat())).is_err());
    }
}
