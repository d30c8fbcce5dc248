//! TCP ports on 127.0.0.1 that stay ours.
//!
//! A server of the lab gets its port as an argument, so the port must be known before anybody listens on it, and it must
//! still be the server's after a crash. Three things could take it in between, and each is shut out: outgoing connections
//! get their ports from the kernel's ephemeral range, so ours lie outside of it; another lab would have to hold the same
//! claim, which is a name in the kernel that ends with its process; and whoever else listens is found by listening first.
//! What is left is a stranger in the moment until the server listens: then it is started [`anew`] on another port.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use rand::Rng;

use crate::error::{Error, Result};

/// Below live the well-known services of a machine.
const LOWEST: u16 = 15_000;
/// A machine on which so many ports in a row are taken has another trouble.
const TRIES: u32 = 2_000;
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Held until the process ends: a server that is down is still expected on its port.
static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port that nobody listens on and that no other lab on this machine is given.
pub(crate) fn free() -> Result<u16> {
    let ephemeral = std::fs::read_to_string(EPHEMERAL).ok().and_then(|text| range(&text));
    let candidates = candidates(ephemeral);
    for _ in 0..TRIES {
        let port = candidates[rand::rng().random_range(0..candidates.len())];
        let Some(claim) = claim(port) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            return Ok(port);
        }
    }
    Err(Error::State(format!("{TRIES} ports of 127.0.0.1 from {LOWEST} on are all taken; see `ss -ltn`")))
}

/// Starts something that listens, on other ports each time, while it dies because somebody was there first.
pub(crate) async fn anew<T, F: Future<Output = Result<T>>>(mut start: impl FnMut() -> F) -> Result<T> {
    for _ in 0..2 {
        match start().await {
            Err(error) if is_taken(&error) => tracing::info!(%error, "a port was taken meanwhile"),
            ended => return ended,
        }
    }
    start().await
}

/// PostgreSQL, etcd, kube-apiserver and the emulators all say it in the C library's words, with a small or a capital A.
fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Program { said, .. } if said.contains("ddress already in use"))
}

/// An abstract socket: the kernel gives the name to one process of this network, and takes it back at its end.
fn claim(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("sparc-lab-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = text.split_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Some(first..=last),
        _ => None,
    }
}

/// The ports outside of the ephemeral range; all of them where that range leaves none.
fn candidates(ephemeral: Option<RangeInclusive<u16>>) -> Vec<u16> {
    let all = LOWEST..=u16::MAX;
    let outside: Vec<u16> =
        all.clone().filter(|port| ephemeral.as_ref().is_none_or(|range| !range.contains(port))).collect();
    if outside.len() < usize::from(u8::MAX) { all.collect() } else { outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_given_out_is_nobody_elses() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        for port in &ports {
            assert!(claim(*port).is_none(), "another lab could have {port}");
            assert!(*port >= LOWEST && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        }
        let mut different = ports.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), ports.len());
    }

    #[test]
    fn outgoing_connections_cannot_have_our_ports() {
        let usual = candidates(range("32768\t60999\n"));
        assert!(usual.contains(&15_000) && usual.contains(&61_000) && !usual.contains(&32_768));
        assert_eq!(candidates(range("1024 65535")).len(), usize::from(u16::MAX - LOWEST) + 1, "there is no outside");
        assert_eq!(range("nonsense"), None);
    }

    #[tokio::test]
    async fn a_server_whose_port_was_taken_is_started_again() {
        let taken = || Error::Program { program: "etcd".into(), said: "bind: address already in use".into() };
        let mut starts = 0;
        let started = anew(|| {
            starts += 1;
            let ended = if starts < 3 { Err(taken()) } else { Ok(starts) };
            async move { ended }
        });
        assert_eq!(started.await.unwrap(), 3);
        let mut starts = 0;
        let failed = anew(|| {
            starts += 1;
            async { Err::<(), _>(Error::Program { program: "etcd".into(), said: "no space left".into() }) }
        });
        assert!(failed.await.is_err());
        assert_eq!(starts, 1);
    }
}
