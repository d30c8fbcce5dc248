//! Trust in servers: certificates are always verified, against the authorities that the plan names.

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};

/// The plan's certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("the certificate authorities are not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// PEM, but no certificate in it.
    #[error("there is no certificate in the certificate authorities' file")]
    Empty,
    /// A certificate that cannot be trusted, or a provider without the protocol versions.
    #[error("a certificate authority cannot be used")]
    Certificate(#[source] rustls::Error),
}

/// A TLS configuration that trusts these authorities and no others.
///
/// # Errors
/// The text is not PEM, holds no certificate, or holds one that cannot be used.
pub fn trust(authorities_pem: &[u8]) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities_pem) {
        roots.add(certificate.map_err(TlsError::Pem)?).map_err(TlsError::Certificate)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Empty);
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
