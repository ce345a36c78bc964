//! One nameserver, whatever it is spoken to over.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt, once};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query};
use parking_lot::Mutex;

use super::answer::Transport;
use super::look::Look;
use super::settings::{Nameserver, Protocol};
use super::stream::Stream;
#[cfg(feature = "tls")]
use super::tls::Roots;
use super::udp::Sockets;

/// Questions remembered as too large for UDP; past that, all are forgotten.
const MAX_LARGE: usize = 1_024;

pub struct Server {
    /// As answers name it.
    pub text: Arc<str>,
    transport: Transport,
    udp: Option<Sockets>,
    stream: Stream,
    /// Questions whose answers were cut over UDP: asked over TCP from then on.
    large: Mutex<HashSet<Query>>,
}

impl Server {
    pub fn new(nameserver: &Nameserver, #[cfg(feature = "tls")] roots: &Roots) -> Self {
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
                roots.clone(),
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
            if !response.truncation {
                return Ok(response);
            }
        }
        // Boxed, as other rare parts of a lookup are: most lookups do without the room they take.
        Box::pin(self.ask_whole(request)).await
    }

    async fn ask_whole(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        let question = request.queries.first().cloned().unwrap_or_default();
        if self.udp.is_some() {
            self.remember(question.clone());
        }
        let response = self.stream.ask(request).await;
        match response {
            Ok(response) if response.truncation => Err(NetError::Truncated),
            Err(NetError::Timeout) | Ok(_) => response,
            // UDP works and had a part of the answer; TCP gives none.
            Err(_) if self.udp.is_some() => {
                self.large.lock().remove(&question);
                Err(NetError::Truncated)
            }
            Err(error) => Err(error),
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
        if large.len() == MAX_LARGE {
            large.clear();
        }
        large.insert(question);
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
