//! A router behind TLS on a port of 127.0.0.1.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::ports;
use crate::tls::Authority;

/// Connections whose handshake is done. Handshakes run beside each other, so a silent client holds up nobody.
struct Shaken {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Listener for Shaken {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The lab has stopped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Serves until `stop`; gives the port.
pub(super) async fn serve(router: Router, authority: &Authority, stop: &CancellationToken) -> Result<u16> {
    let (certificate, key) = authority.sign(&["localhost", "127.0.0.1"])?;
    let failed = |reason: String| Error::Certificate { name: "127.0.0.1".into(), reason };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| failed(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(error.to_string()))?;

    // A cluster that is gone is still asked: nobody else may answer on its port.
    let port = ports::free()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(Error::system(format!("listen on 127.0.0.1:{port}")))?;
    let address = listener.local_addr().map_err(Error::system("read our own port"))?;
    let (shaken, ready) = mpsc::channel(64);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let stopped = stop.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            let Ok((stream, peer)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let (acceptor, shaken) = (acceptor.clone(), shaken.clone());
            tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = shaken.send((stream, peer)).await;
                }
            }));
        }
    }));
    let server = axum::serve(Shaken { ready, address }, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        let _ = server.await;
    }));
    Ok(address.port())
}
