//! Free TCP ports on 127.0.0.1.
//!
//! The kernel picks a port for a listener that is closed at once. Another process could take the port in between, so the
//! kernel's rotation is trusted only for the moment until the server starts, and within this process no port is given
//! out twice.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use crate::error::{Error, Result};

/// A port that nobody listens on, given out once in this process.
pub(crate) fn free() -> Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    for _ in 0..100 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(Error::system("find a free port on 127.0.0.1"))?
            .port();
        let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if given.get_or_insert_default().insert(port) {
            return Ok(port);
        }
    }
    Err(Error::State("the kernel offers the same port a hundred times".into()))
}
