//! Certificates of the lab: one authority for each lab, one certificate for each server.
//!
//! rustls has no mode without verification, and the recovery path must not get one: so the lab speaks real TLS with an
//! authority of its own, which clients get as a PEM file just as they get the RDS bundle.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Result};

/// The authority that signs the lab's servers.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    path: PathBuf,
}

impl Authority {
    /// Makes an authority and writes its certificate to `folder/ca.pem`, readable for everybody.
    pub fn new(folder: &Path) -> Result<Self> {
        let failed = |reason: rcgen::Error| Error::Certificate {
            name: "the lab's authority".into(),
            reason: reason.to_string(),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "SPARC lab authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let path = folder.join("ca.pem");
        std::fs::write(&path, certificate.pem()).map_err(Error::system(format!("write {}", path.display())))?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            path,
        })
    }

    /// The authority's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The file with the authority's certificate.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A certificate and its key, as PEM, for a server known by these names and addresses.
    pub fn sign(&self, names: &[&str]) -> Result<(String, String)> {
        let failed = |reason: rcgen::Error| Error::Certificate { name: names.join(", "), reason: reason.to_string() };
        let names_owned: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names_owned).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("lab"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Accepts TLS as a server known by these names.
    pub(crate) fn acceptor(&self, names: &[&str]) -> Result<TlsAcceptor> {
        let (certificate, key) = self.sign(names)?;
        acceptor(&certificate, &key)
    }

    /// Client settings that trust this authority and nobody else.
    pub fn client(&self) -> Result<rustls::ClientConfig> {
        let failed = |reason: rustls::Error| Error::Certificate { name: "a client".into(), reason: reason.to_string() };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(failed)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }

    /// The same for tokio-postgres.
    pub fn connector(&self) -> Result<MakeRustlsConnect> {
        Ok(MakeRustlsConnect::new(self.client()?))
    }
}

/// Accepts TLS with a certificate and its key, both PEM.
pub(crate) fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor> {
    let failed = |reason: String| Error::Certificate { name: "a proxy".into(), reason };
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|e| failed(e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
