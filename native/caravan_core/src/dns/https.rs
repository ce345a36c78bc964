//! Queries over HTTPS (RFC 8484): one HTTP/2 connection to one nameserver.
//!
//! hickory's own connection never tells the nameserver that a part of an answer was read. Its flow control window for all
//! answers together is 65,535 octets. So several large answers at the same time would wait for each other until the
//! timeout.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::abort_on_drop::AbortOnDrop;

const CONTENT: &str = "application/dns-message";
/// Maximum number of octets that the nameserver may send before Caravan has read them, over all answers together.
const WINDOW: u32 = 1 << 20;
/// Maximum number of octets of one answer. A longer answer is not a DNS message.
const MAX_ANSWER: usize = 65_535;

/// An open connection. It is closed when it is dropped.
pub struct HttpsConnection {
    requests: SendRequest<Bytes>,
    uri: Uri,
    _driver: AbortOnDrop<()>,
}

impl HttpsConnection {
    /// Connects to the nameserver at `address`. Its certificate must be for `name`.
    pub async fn connect(
        config: Arc<ClientConfig>,
        address: SocketAddr,
        name: &str,
        path: &str,
    ) -> Result<Self, NetError> {
        let uri = uri(name, path).map_err(|_| bad_response())?;
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| NetError::RustlsError(rustls::Error::UnsupportedNameType))?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(config).connect(server_name, tcp).await?;
        let (requests, driver) = client::Builder::new()
            .enable_push(false)
            .initial_connection_window_size(WINDOW)
            .handshake(tls)
            .await?;
        Ok(Self {
            requests,
            uri,
            _driver: AbortOnDrop::spawn(async {
                // Each request in flight gets the error too.
                let _ = driver.await;
            }),
        })
    }

    /// Returns the response to `request`.
    pub async fn query(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let (mut message, _options) = request.into_parts();
        // With id 0, equal questions are equal HTTP requests, which a nameserver can cache (RFC 8484, 4.1).
        message.metadata.id = 0;
        let octets = Bytes::from(message.to_vec()?);
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, CONTENT)
            .header(ACCEPT, CONTENT)
            .header(CONTENT_LENGTH, octets.len())
            .body(())
            .map_err(|_| bad_response())?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(request, false)?;
        body.send_data(octets, true)?;
        let response = response.await.map_err(read_error)?;
        if !is_message(&response) {
            return Err(bad_response());
        }
        let mut body = response.into_body();
        let mut octets = Vec::new();
        while let Some(part) = body.data().await {
            let part = part.map_err(read_error)?;
            if octets.len() + part.len() > MAX_ANSWER {
                return Err(bad_response());
            }
            octets.extend_from_slice(&part);
            body.flow_control().release_capacity(part.len())?;
        }
        Ok(DnsResponse::from_buffer(octets)?)
    }
}

fn uri(name: &str, path: &str) -> Result<Uri, http::Error> {
    let authority = if name.contains(':') {
        Authority::try_from(format!("[{name}]"))?
    } else {
        Authority::try_from(name)?
    };
    Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(authority)
        .path_and_query(PathAndQuery::try_from(path)?)
        .build()
}

/// Returns whether the body is a DNS message. A body without a content type counts as one. The type is compared without
/// case, and it may have parameters (RFC 9110, 8.3.1).
fn is_message<T>(response: &Response<T>) -> bool {
    let content = response.headers().get(CONTENT_TYPE);
    let is_dns = content.is_none_or(|content| {
        let media_type = content.as_bytes().split(|octet| *octet == b';').next();
        media_type
            .is_some_and(|octets| octets.trim_ascii().eq_ignore_ascii_case(CONTENT.as_bytes()))
    });
    response.status().is_success() && is_dns
}

/// Converts an error of reading. An error that h2 itself finds means that the response violates HTTP, for example by a
/// wrong length.
fn read_error(error: h2::Error) -> NetError {
    if error.is_reset() && error.is_library() {
        bad_response()
    } else {
        error.into()
    }
}

fn bad_response() -> NetError {
    ProtoError::NotAResponse.into()
}
