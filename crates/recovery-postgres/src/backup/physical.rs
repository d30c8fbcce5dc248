//! `pg_basebackup` of the whole cluster, as one stream with its manifest at the end.

use async_trait::async_trait;
use recovery::{
    backup::{BackupId, Content, Source, Tool},
    lsn::Lsn,
};
use recovery_datapath::{Ends, Made, Produced, ProducerError, Sink, TakeError, Taker};
use serde::Deserialize;

use super::{BackupSource, Programs, passfile::PassFile, session::Session};

/// `pg_basebackup` of the whole cluster.
///
/// Written to standard output, the tar file has `backup_manifest` as its last file and the log from the beginning to the
/// end of the backup in `pg_wal/`, so it starts without an archive. A cluster with tablespaces of its own has more than
/// one tar file, which one stream cannot hold: `pg_basebackup` refuses, and so does this.
pub struct Physical {
    source: BackupSource,
}

impl Physical {
    /// Of the server that the plan reads backups from.
    pub fn new(source: BackupSource) -> Physical {
        Physical { source }
    }

    async fn session(&self) -> Result<(Session, PassFile, String), TakeError> {
        let failed = |error| TakeError::source("opening the server", error);
        let credentials = self.source.credentials().await.map_err(failed)?;
        let database = &self.source.plan.postgresql.probe_database;
        let session = self.source.session(&credentials, database).await.map_err(failed)?;
        let passfile = PassFile::new(&credentials)
            .map_err(|error| TakeError::source("handing over the password", ProducerError::Other(Box::new(error))))?;
        Ok((session, passfile, credentials.username))
    }
}

#[async_trait]
impl Taker for Physical {
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        let (session, ..) = self.session().await?;
        session.cluster_bytes().await.map_err(|error| TakeError::source("measuring the cluster", error))
    }

    async fn take(&self, backup: &BackupId, sink: &Sink) -> Result<Made, TakeError> {
        let failed = |error| TakeError::source("asking the server", error);
        let (session, passfile, user) = self.session().await?;
        let cluster = session.cluster().await.map_err(failed)?;
        // Asked before anything begins: pg_basebackup would find out after its checkpoint, in words of its own.
        if let Some((name, location)) = session.tablespaces().await.map_err(failed)?.first() {
            return Err(TakeError::Refused {
                says: format!(
                    "the cluster has the tablespace `{name}` in `{location}`; a base backup of it is a tar file for each \
                     tablespace, and one stream can hold one"
                ),
                remedy: "take logical backups, or move what is in it: `alter table … set tablespace pg_default`, then drop it"
                    .to_owned(),
            });
        }
        let about_bytes = session.cluster_bytes().await.map_err(failed)?;
        let programs = Programs::for_server(cluster.major()).await;
        let programs = programs.map_err(|error| TakeError::source("looking for pg_basebackup", error))?;
        let mut command = programs.command("pg_basebackup", &self.source, &user, &passfile, "");
        command
            .args(["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-estimate-size"])
            .arg(format!("--label={backup}"));
        let produced = Produced::by_program("the base backup", command)
            .map_err(|error| TakeError::source("starting pg_basebackup", error))?;
        let stored = sink.artifact("base.tar", Content::BaseBackup, produced, about_bytes, whole).await?;
        let range = wal_range(&stored.ends.tail).map_err(|says| TakeError::Refused {
            says,
            remedy: "report this as a defect; the form of backup_manifest has changed".to_owned(),
        })?;
        Ok(Made {
            tool: Tool { name: "pg_basebackup".to_owned(), version: programs.version().to_owned() },
            source: Source::PostgreSql {
                instance: self.source.instance.clone(),
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

/// A tar file ends with two blocks of zeros, and the manifest before them with its own checksum.
fn whole(ends: &Ends) -> Result<(), String> {
    const BLOCKS: usize = 1024;
    let padded = ends.tail.len() > BLOCKS && ends.tail[ends.tail.len() - BLOCKS..].iter().all(|byte| *byte == 0);
    if !padded {
        return Err("its tar file has no end".to_owned());
    }
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
