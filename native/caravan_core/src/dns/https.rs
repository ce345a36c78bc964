//! Questions over HTTPS (RFC 8484): one HTTP/2 connection to one nameserver.
//!
//! hickory's own connection never tells the server that a part of an answer was read. Its window for all
//! answers together is 65,535 octets, so several large answers at the same moment would wait for each
//! other forever.

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
/// Octets that the server may send before Caravan has read them, in all answers together.
const WINDOW: u32 = 1 << 20;
/// Octets of one answer. A longer answer is no DNS message.
const MAX_ANSWER: usize = 65_535;

/// An open connection. It is closed when it is dropped.
pub struct HttpsConnection {
    requests: SendRequest<Bytes>,
    uri: Uri,
    _driver: AbortOnDrop<()>,
}

impl HttpsConnection {
    /// Connects to the server at `address`, whose certificate has to be for `name`.
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
                // The requests get the error as well.
                let _ = driver.await;
            }),
        })
    }

    /// Returns the answer to `request`.
    pub async fn query(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let (mut message, _options) = request.into_parts();
        // Equal questions are equal HTTP requests, which servers may cache (RFC 8484, 4.1).
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

/// Whether the body is a DNS message, as it is if the server names no type.
fn is_message<T>(response: &Response<T>) -> bool {
    let content = response.headers().get(CONTENT_TYPE);
    response.status().is_success() && content.is_none_or(|content| content == CONTENT)
}

/// h2 itself finds that an answer breaks HTTP, as by a wrong length.
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
