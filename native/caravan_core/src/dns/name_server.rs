//! One nameserver, whatever it is spoken to over.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt, once};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query};
use parking_lot::Mutex;

use super::answer::Transport;
use super::config::{NameServerConfig, Protocol};
use super::connection::Stream;
use super::look::Look;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;
use super::udp::Sockets;

/// Questions remembered as too large for UDP; past that, all are forgotten.
const MAX_LARGE: usize = 1_024;

pub struct Server {
    /// As answers name it.
    pub text: Arc<str>,
    transport: Transport,
    udp: Option<Sockets>,
    stream: Stream,
    /// Questions whose answers were cut over UDP and came over TCP: asked over TCP from then on.
    large: Mutex<HashSet<Query>>,
}

impl Server {
    pub fn new(nameserver: &NameServerConfig, #[cfg(feature = "tls")] tls: &TlsConfig) -> Self {
        let address = nameserver.address;
        let (transport, udp) = match nameserver.protocol {
            Protocol::Udp => (Transport::Udp, Some(Sockets::new(address))),
            Protocol::Tcp => (Transport::Tcp, None),
            Protocol::Tls { .. } => (Transport::Tls, None),
            Protocol::Https { .. } => (Transport::Https, None),
        };
        Self {
            text: nameserver.to_string().into(),
            transport,
            udp,
            stream: Stream::new(
                address,
                nameserver.protocol.clone(),
                #[cfg(feature = "tls")]
                tls.clone(),
            ),
            large: Mutex::default(),
        }
    }

    /// The whole answer to `request`, and never a cut one.
    pub async fn ask(
        &self,
        request: &DnsRequest,
        look: Option<&Look>,
    ) -> Result<DnsResponse, NetError> {
        if let Some(udp) = &self.udp
            && !self.is_large(&request.queries)
        {
            let response = udp.ask(request, look).await?;
            if let Some(response) = response {
                return Ok(response);
            }
        }
        // Boxed, as other rare parts of a lookup are: most lookups do without the room they take.
        Box::pin(self.ask_whole(request)).await
    }

    async fn ask_whole(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        if self.udp.is_none() {
            let response = self.stream.ask(request).await?;
            return if response.truncation {
                Err(NetError::Truncated)
            } else {
                Ok(response)
            };
        }
        let question = request.queries.first().cloned().unwrap_or_default();
        // Asked over UDP next time, unless this has an answer: a caller's deadline may drop it.
        let doubt = Doubt {
            server: self,
            question: &question,
        };
        match self.stream.ask(request).await {
            Ok(response) if !response.truncation => {
                std::mem::forget(doubt);
                self.remember(question);
                Ok(response)
            }
            Err(NetError::Timeout) => Err(NetError::Timeout),
            // UDP works and had a part of the answer; TCP gives none.
            _ => Err(NetError::Truncated),
        }
    }

    /// What the last answer to `question` came over.
    pub fn transport_of(&self, question: &Query) -> Transport {
        if self.udp.is_some() && self.is_large(std::slice::from_ref(question)) {
            Transport::Tcp
        } else {
            self.transport
        }
    }

    fn is_large(&self, questions: &[Query]) -> bool {
        let large = self.large.lock();
        !large.is_empty() && questions.iter().any(|question| large.contains(question))
    }

    fn remember(&self, question: Query) {
        let mut large = self.large.lock();
        if large.len() == MAX_LARGE && !large.contains(&question) {
            large.clear();
        }
        large.insert(question);
    }
}

struct Doubt<'a> {
    server: &'a Server,
    question: &'a Query,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.server.large.lock().remove(self.question);
    }
}

/// A server, as hickory's validation of DNSSEC asks it.
#[derive(Clone)]
pub struct Handle(pub Arc<Server>);

impl DnsHandle for Handle {
    type Response = BoxStream<'static, Result<DnsResponse, NetError>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let server = Arc::clone(&self.0);
        once(async move {
            let response = server.ask(&request, None).await?;
            // Errors of the server are no proof of anything, so they stay errors.
            Ok(DnsError::from_response(response)?)
        })
        .boxed()
    }
}
