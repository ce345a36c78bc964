//! The TLS client configuration, and connections with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tls::{client_config, default_provider, tls_exchange};
use hickory_resolver::net::xfer::DnsExchange;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::LookupError;
use super::https::HttpsConnection;

type Exchange = DnsExchange<TokioRuntimeProvider>;

/// The configuration of TLS connections to nameservers, with the CA certificates to trust.
#[derive(Clone)]
pub struct TlsConfig(Arc<ClientConfig>);

impl TlsConfig {
    /// Trusts the CA certificates of Mozilla, which are built in.
    pub fn built_in() -> Result<Self, LookupError> {
        let config = client_config().map_err(|_| LookupError::Tls)?;
        Ok(Self(Arc::new(config)))
    }

    /// Trusts the CA certificates in `pem`.
    pub fn parse(pem: &[u8]) -> Result<Self, LookupError> {
        Ok(Self(Arc::new(with_roots(parse_roots(pem)?)?)))
    }

    /// Opens a TLS connection (RFC 7858).
    pub async fn tls(
        &self,
        address: SocketAddr,
        name: &str,
        timeout: Duration,
        max_active: usize,
        provider: TokioRuntimeProvider,
    ) -> Result<Exchange, NetError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| bad_name())?;
        let config = ClientConfig::clone(&self.0);
        tls_exchange(address, name, config, timeout, Some(max_active), provider).await
    }

    /// Opens an HTTPS connection (RFC 8484).
    pub async fn https(
        &self,
        address: SocketAddr,
        name: &str,
        path: &str,
    ) -> Result<HttpsConnection, NetError> {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = vec![b"h2".to_vec()];
        HttpsConnection::connect(Arc::new(config), address, name, path).await
    }
}

fn bad_name() -> NetError {
    NetError::RustlsError(rustls::Error::UnsupportedNameType)
}

fn parse_roots(pem: &[u8]) -> Result<RootCertStore, LookupError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| LookupError::BadFile)?;
        roots.add(certificate).map_err(|_| LookupError::BadFile)?;
    }
    if roots.is_empty() {
        return Err(LookupError::BadFile);
    }
    Ok(roots)
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, LookupError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| LookupError::Tls)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
