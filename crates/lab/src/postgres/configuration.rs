//! The files that make a data folder a server of the lab.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::template::{SLOT, give};
use super::{Passwords, Role};
use crate::error::{Error, Result};
use crate::process::Account;
use crate::tls::Authority;

pub(super) struct Server<'a> {
    pub data: &'a Path,
    pub sockets: &'a Path,
    pub port: u16,
    pub account: Option<Account>,
    pub authority: &'a Authority,
    /// The server to follow; with it the server is a standby.
    pub upstream: Option<Upstream<'a>>,
    /// `fsync`.
    pub flush: bool,
    pub extra: &'a [(String, String)],
}

pub(super) struct Upstream<'a> {
    pub port: u16,
    pub passwords: &'a Passwords,
}

pub(super) fn write(server: &Server<'_>) -> Result<()> {
    let data = server.data;
    let (certificate, key) = server.authority.sign(&["localhost", "127.0.0.1"])?;
    put(server, "server.crt", &certificate)?;
    put(server, "server.key", &key)?;
    put(server, "authority.crt", server.authority.pem())?;
    put(
        server,
        "pg_hba.conf",
        "# The socket's folder is closed to everybody but the server's user.\n\
         local all all trust\n\
         hostssl all all 127.0.0.1/32 scram-sha-256\n\
         hostssl replication replicator 127.0.0.1/32 scram-sha-256\n\
         hostssl replication sparc_backup 127.0.0.1/32 scram-sha-256\n",
    )?;

    let mut conf = String::new();
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(conf, "{name} = '{}'", value.replace('\'', "''"));
    };
    set("listen_addresses", "127.0.0.1");
    set("port", &server.port.to_string());
    set("unix_socket_directories", &server.sockets.display().to_string());
    set("ssl", "on");
    set("ssl_cert_file", "server.crt");
    set("ssl_key_file", "server.key");
    set("ssl_ca_file", "authority.crt");
    set("password_encryption", "scram-sha-256");
    set("wal_level", "replica");
    set("max_wal_senders", "10");
    set("max_replication_slots", "10");
    set("wal_keep_size", "64MB");
    set("hot_standby", "on");
    set("max_connections", "100");
    set("shared_buffers", "32MB");
    // Segments left by a killed server go with the data folder, not into /dev/shm for ever.
    set("dynamic_shared_memory_type", "mmap");
    // A standby that lost its stream sleeps this long before it notices a promotion request; the default is 5 s.
    set("wal_retrieve_retry_interval", "100ms");
    set("wal_receiver_status_interval", "1s");
    set("fsync", if server.flush { "on" } else { "off" });
    set("timezone", "UTC");
    set("log_timezone", "UTC");
    set("log_line_prefix", "%m [%p] %q%u@%d ");
    set("lc_messages", "C");
    for (name, value) in server.extra {
        set(name, value);
    }
    if let Some(upstream) = &server.upstream {
        put(
            server,
            "upstream.pgpass",
            &format!(
                "localhost:{}:*:{}:{}\n",
                upstream.port,
                Role::Replicator.name(),
                upstream.passwords.of(Role::Replicator)
            ),
        )?;
        // By its name: before 15, libpq compares an address with none of the addresses in a certificate.
        set(
            "primary_conninfo",
            &format!(
                "host=localhost hostaddr=127.0.0.1 port={} user={} application_name=standby sslmode=verify-full sslrootcert={} passfile={}",
                upstream.port,
                Role::Replicator.name(),
                data.join("authority.crt").display(),
                data.join("upstream.pgpass").display(),
            ),
        );
        set("primary_slot_name", SLOT);
        put(server, "standby.signal", "")?;
    }
    put(server, "postgresql.conf", &conf)
}

fn put(server: &Server<'_>, name: &str, text: &str) -> Result<()> {
    let path = server.data.join(name);
    let failed = || Error::system(format!("write {}", path.display()));
    std::fs::write(&path, text).map_err(failed())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed())?;
    give(&path, server.account)
}
