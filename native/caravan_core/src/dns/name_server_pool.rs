//! One query to the nameservers of a configuration: their order, the number of attempts, and the time per try.
//!
//! hickory's own pool returns the first refusal, queries two nameservers at once, and can use up the whole timeout
//! for one silent nameserver.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode,
};
use hickory_resolver::proto::rr::{Name, Record};
use tokio::time::{Instant, timeout_at};

use super::answer::{Provenance, Transport};
use super::config::ResolverConfig;
use super::dnssec::{self, Validator, validate};
use super::inline_poll::EarlyPolls;
use super::name_server::{NameServer, Progress};
use super::resolver_files::ResolverFiles;
use super::response::{self, Found};
use super::system_config::SystemConfig;
use super::udp;
use super::{LookupError, LookupFailure, LookupOptions, QueryType};

/// Attempts per nameserver, unless the options of the lookup or resolv.conf say otherwise.
const ATTEMPTS: u8 = 2;

/// The nameservers of one configuration.
pub struct NameServerPool {
    servers: Vec<Arc<NameServer>>,
    /// If answers are validated, one for each of `servers`. Otherwise empty.
    validators: Vec<Validator>,
    /// From resolv.conf, like the next two fields.
    attempts: Option<NonZeroU8>,
    max_per_try: Option<Duration>,
    rotate: bool,
    /// With `rotate`, the number of lookups so far, so that each starts with the next nameserver. Otherwise 0.
    lookups: AtomicUsize,
    request_options: DnsRequestOptions,
}

/// What one lookup may spend on queries. All queries of the lookup share it.
#[derive(Clone, Copy)]
pub struct QueryBudget<'a> {
    pub deadline: Instant,
    /// Attempts per nameserver.
    pub attempts: u8,
    /// The maximum duration of one attempt.
    pub per_try: Duration,
    /// The index, modulo the number of nameservers, of the nameserver that the next query starts with: the one that
    /// responded last. So a silent nameserver costs a lookup one `per_try`, not one for each name.
    pub first_server: &'a AtomicUsize,
    pub early_polls: Option<&'a EarlyPolls>,
}

/// A response that has the records of a name, or a CNAME.
pub struct PoolResponse {
    pub found: Found,
    pub provenance: Provenance,
    pub additionals: Vec<Record>,
    pub nameserver: Arc<str>,
    pub transport: Transport,
}

impl NameServerPool {
    /// Returns a pool of the nameservers of `system`, which queries them as `config` and `files` say.
    pub fn new(config: &ResolverConfig, system: &SystemConfig, files: &ResolverFiles) -> Self {
        let servers: Vec<_> = system
            .nameservers
            .iter()
            .map(|nameserver| {
                Arc::new(NameServer::new(
                    nameserver,
                    #[cfg(feature = "tls")]
                    &files.tls,
                ))
            })
            .collect();
        let validators = match &config.dnssec {
            None => Vec::new(),
            Some(_) => dnssec::validators(&files.trust_anchors, &servers),
        };
        let mut request_options = DnsRequestOptions::default();
        request_options.edns_payload_len = udp::EDNS_PAYLOAD;
        request_options.edns_set_dnssec_ok = config.dnssec.is_some();
        request_options.case_randomization = config.randomize_case;
        Self {
            servers,
            validators,
            attempts: system.attempts,
            max_per_try: system.timeout,
            rotate: system.rotate,
            lookups: AtomicUsize::new(0),
            request_options,
        }
    }

    /// Returns whether answers are validated.
    pub fn validates(&self) -> bool {
        !self.validators.is_empty()
    }

    /// Returns the index of the nameserver that a new lookup starts with, modulo the number of nameservers.
    pub fn first_server(&self) -> usize {
        if self.rotate {
            self.lookups.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        }
    }

    /// Returns the budget of a lookup that started at `start`.
    pub fn budget<'a>(
        &self,
        options: &LookupOptions,
        start: Instant,
        first_server: &'a AtomicUsize,
        early_polls: &'a EarlyPolls,
    ) -> QueryBudget<'a> {
        let attempts = options.attempts.or(self.attempts);
        let attempts = attempts.map_or(ATTEMPTS, u8::from);
        let tries = u32::from(attempts) * u32::try_from(self.servers.len()).unwrap_or(1);
        let share = options.timeout / tries.max(1);
        QueryBudget {
            deadline: start + options.timeout,
            attempts,
            per_try: self.max_per_try.map_or(share, |own| own.min(share)),
            first_server,
            early_polls: Some(early_polls),
        }
    }

    /// Queries one nameserver after the other until one has an answer, or an error that is about the name.
    pub async fn query(
        &self,
        name: &Name,
        query_type: QueryType,
        budget: QueryBudget<'_>,
    ) -> Result<PoolResponse, LookupFailure> {
        let query = Query::query(name.clone(), query_type.into());
        let count = self.servers.len();
        let first = budget.first_server.load(Ordering::Relaxed);
        let mut failure = LookupFailure::from(LookupError::Timeout);
        for attempt in 0..usize::from(budget.attempts) * count {
            let now = Instant::now();
            if now >= budget.deadline {
                break;
            }
            let until = budget.deadline.min(now + budget.per_try);
            let index = first.wrapping_add(attempt) % count;
            let server = self.servers.get(index).ok_or(LookupError::Internal)?;
            let validator = self.validators.get(index);
            let progress = Progress::default();
            let response =
                self.query_server(server, validator, &query, query_type, budget, &progress);
            let error = match timeout_at(until, response).await {
                Ok(Ok(response)) => {
                    budget.first_server.store(index, Ordering::Relaxed);
                    return Ok(response);
                }
                Ok(Err(error)) => error,
                // The nameserver responds over UDP. So a firewall may drop TCP.
                Err(_elapsed) if progress.truncated.load(Ordering::Relaxed) => {
                    LookupError::Truncated
                }
                Err(_elapsed) => LookupError::Timeout,
            };
            let is_final = error.is_final();
            // An error is a better reason than a timeout.
            if error != LookupError::Timeout || failure.error == LookupError::Timeout {
                let transport = server.queried_over(&progress);
                // A validator queries a nameserver several times, without this progress.
                let is_known = validator.is_none() || transport != Transport::Udp;
                failure = LookupFailure {
                    error,
                    nameserver: Some(Arc::clone(&server.text)),
                    transport: is_known.then_some(transport),
                };
            }
            if is_final {
                budget.first_server.store(index, Ordering::Relaxed);
                return Err(failure);
            }
            // Another nameserver may have an answer.
        }
        Err(failure)
    }

    async fn query_server(
        &self,
        server: &NameServer,
        validator: Option<&Validator>,
        query: &Query,
        query_type: QueryType,
        budget: QueryBudget<'_>,
        progress: &Progress,
    ) -> Result<PoolResponse, LookupError> {
        let response = match validator {
            None => {
                self.query_with_edns_fallback(server, query, budget, progress)
                    .await?
            }
            Some(validator) => Box::pin(validate(validator, query, self.request_options)).await?,
        };
        match response.response_code {
            ResponseCode::NoError => {}
            code => return Err(LookupError::from_code(code)),
        }
        let (found, provenance) =
            response::read_answer_section(&response.answers, query.name(), query_type)?;
        let mut message = response.into_message();
        Ok(PoolResponse {
            found,
            provenance,
            additionals: std::mem::take(&mut message.additionals),
            nameserver: Arc::clone(&server.text),
            transport: server.transport_of(query),
        })
    }

    /// Repeats the query without EDNS if the nameserver does not support it (RFC 6891, 6.2.2).
    async fn query_with_edns_fallback(
        &self,
        server: &NameServer,
        query: &Query,
        budget: QueryBudget<'_>,
        progress: &Progress,
    ) -> Result<DnsResponse, LookupError> {
        let request = DnsRequest::from_query(query.clone(), self.request_options);
        let response = server.query(&request, budget.early_polls, progress).await?;
        if response.response_code != ResponseCode::FormErr {
            return Ok(response);
        }
        let mut options = self.request_options;
        options.use_edns = false;
        let request = DnsRequest::from_query(query.clone(), options);
        Ok(Box::pin(server.query(&request, None, progress)).await?)
    }
}
