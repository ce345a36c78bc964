//! One set of nameservers, and how it is asked: names in the order of resolv.conf(5), and for each
//! name the nameservers in their order.
//!
//! hickory's own resolver would ask two nameservers at once, take the first error that one of them
//! gives for the answer, and report the last name's error for all of them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::xfer::FirstAnswer;
use hickory_resolver::net::{DnsHandle, NetError};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode,
};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::answer::{MAX_TARGET_ADDRESSES, Provenance, Service, Transport};
use super::config::ResolverConfig;
use super::file_stamp;
use super::inline_poll::EarlyPolls;
use super::name_server::{NameServer, ValidatingHandle};
use super::response::{self, Found};
use super::system_config::SystemConfig;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;
use super::udp;
use super::{Answer, LookupError, LookupOptions, QueryType, Question, Records};

/// Names that one lookup follows, one alias after the other.
const MAX_CNAME_QUERIES: usize = 8;
/// SRV targets looked up at once.
const MAX_TARGETS: usize = 32;
const ATTEMPTS: u8 = 2;

type Validator = DnssecDnsHandle<ValidatingHandle>;

/// See the module.
pub struct Resolver {
    servers: Vec<Arc<NameServer>>,
    /// One for each of `servers`, where DNSSEC is wanted.
    validators: Vec<Validator>,
    system: SystemConfig,
    /// How often a lookup began, where it is to begin with another server each time.
    turn: AtomicUsize,
    request_options: DnsRequestOptions,
}

/// How long one lookup may take, and each try in it.
#[derive(Clone, Copy)]
struct QueryBudget<'a> {
    deadline: Instant,
    attempts: u8,
    per_try: Duration,
    /// The server to begin with: the one that answered last, so that one that is silent costs a
    /// lookup its share of the time once, and not for each name.
    first_server: &'a AtomicUsize,
    early_polls: Option<&'a EarlyPolls>,
}

/// An answer that says something, and who gave it.
struct PoolResponse {
    found: Found,
    provenance: Provenance,
    additionals: Vec<Record>,
    nameserver: Arc<str>,
    transport: Transport,
}

impl Resolver {
    /// Reads the files that `config` needs: not for a scheduler's thread.
    pub fn new(config: &ResolverConfig) -> Result<Self, LookupError> {
        let system = if config.is_system() {
            SystemConfig::read()
        } else {
            SystemConfig::without(config.nameservers.clone())
        };
        #[cfg(feature = "tls")]
        let tls = TlsConfig::new(config.ca_file.as_deref())?;
        let servers: Vec<_> = system
            .nameservers
            .iter()
            .map(|nameserver| {
                Arc::new(NameServer::new(
                    nameserver,
                    #[cfg(feature = "tls")]
                    &tls,
                ))
            })
            .collect();
        let validators = match &config.dnssec {
            None => Vec::new(),
            Some(dnssec) => {
                let anchors = match &dnssec.trust_anchors {
                    None => TrustAnchors::default(),
                    Some(file) => load_trust_anchors(file)?,
                };
                let anchors = Arc::new(anchors);
                let handles = servers.iter().cloned().map(ValidatingHandle);
                handles
                    .map(|handle| Validator::with_trust_anchor(handle, Arc::clone(&anchors)))
                    .collect()
            }
        };
        let mut request_options = DnsRequestOptions::default();
        request_options.edns_payload_len = udp::EDNS_PAYLOAD;
        request_options.edns_set_dnssec_ok = config.dnssec.is_some();
        request_options.case_randomization = config.randomize_case;
        Ok(Self {
            servers,
            validators,
            system,
            turn: AtomicUsize::new(0),
            request_options,
        })
    }

    /// Asks until a name has an answer. That a name does not exist, or has no such records, leaves
    /// the next one to be tried, and so does SERVFAIL, as it does for the C library; any other error
    /// ends it: the answer could have been there.
    pub async fn lookup(
        &self,
        question: &Question,
        options: &LookupOptions,
        start: Instant,
        early_polls: &EarlyPolls,
    ) -> Result<Answer, LookupError> {
        let Question { name, query_type } = question;
        let mut answer = match self.system.lookup_hosts(name, *query_type) {
            Some(answer) => answer,
            None => {
                self.query_search_list(name, *query_type, options, start, early_polls)
                    .await?
            }
        };
        let has_addresses = match &mut answer.records {
            Records::Addresses(ips) => {
                answer.provenance.dropped = options.retain_allowed(ips);
                !ips.is_empty()
            }
            Records::Services(services) => services.iter().any(|s| !s.addresses.is_empty()),
        };
        if answer.provenance.dropped > 0 && !has_addresses {
            return Err(LookupError::NotAllowed);
        }
        answer.time = start.elapsed();
        Ok(answer)
    }

    async fn query_search_list(
        &self,
        name: &Name,
        query_type: QueryType,
        options: &LookupOptions,
        start: Instant,
        early_polls: &EarlyPolls,
    ) -> Result<Answer, LookupError> {
        let first = AtomicUsize::new(self.first());
        let budget = self.budget(options, start, &first, early_polls);
        let mut nothing = LookupError::NxDomain;
        for candidate in self.system.search_names(name) {
            match self.follow_cnames(candidate, query_type, budget).await {
                Err(LookupError::NxDomain) => {}
                Err(LookupError::NoRecords) if nothing != LookupError::NxDomain => {}
                Err(error @ (LookupError::NoRecords | LookupError::ServFail)) => nothing = error,
                Err(error) => return Err(error),
                Ok((mut answer, additionals)) => {
                    if let Records::Services(services) = &mut answer.records
                        && options.addresses
                    {
                        let targets = self.resolve_targets(services, &additionals, options, budget);
                        let targets = Box::pin(targets).await?;
                        answer.provenance = answer.provenance.merge(targets);
                    }
                    return Ok(answer);
                }
            }
        }
        Err(nothing)
    }

    /// The server to begin with.
    fn first(&self) -> usize {
        if self.system.rotate {
            self.turn.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        }
    }

    fn budget<'a>(
        &self,
        options: &LookupOptions,
        start: Instant,
        first_server: &'a AtomicUsize,
        early_polls: &'a EarlyPolls,
    ) -> QueryBudget<'a> {
        let attempts = options.attempts.or(self.system.attempts);
        let attempts = attempts.map_or(ATTEMPTS, u8::from);
        let tries = u32::from(attempts) * u32::try_from(self.servers.len()).unwrap_or(1);
        let share = options.timeout / tries.max(1);
        QueryBudget {
            deadline: start + options.timeout,
            attempts,
            per_try: self.system.timeout.map_or(share, |own| own.min(share)),
            first_server,
            early_polls: Some(early_polls),
        }
    }

    /// The records of `name`, or of the name it is an alias for; and what came beside them.
    async fn follow_cnames(
        &self,
        name: Name,
        query_type: QueryType,
        budget: QueryBudget<'_>,
    ) -> Result<(Answer, Vec<Record>), LookupError> {
        let (mut name, mut provenance) = (name, Provenance::default());
        for _ in 0..=MAX_CNAME_QUERIES {
            let response = self.query(&name, query_type, budget).await?;
            provenance = provenance.merge(response.provenance);
            match response.found {
                Found::Records(records) => {
                    let answer = Answer {
                        records,
                        provenance,
                        nameserver: Some(response.nameserver),
                        transport: response.transport,
                        time: Duration::ZERO,
                    };
                    return Ok((answer, response.additionals));
                }
                Found::Cname(other) => name = other,
            }
        }
        Err(LookupError::BadResponse)
    }

    async fn query(
        &self,
        name: &Name,
        query_type: QueryType,
        budget: QueryBudget<'_>,
    ) -> Result<PoolResponse, LookupError> {
        let query = Query::query(name.clone(), query_type.into());
        let count = self.servers.len();
        let first = budget.first_server.load(Ordering::Relaxed);
        let mut failure = LookupError::Timeout;
        for number in 0..usize::from(budget.attempts) * count {
            let now = Instant::now();
            if now >= budget.deadline {
                break;
            }
            let until = budget.deadline.min(now + budget.per_try);
            let place = first.wrapping_add(number) % count;
            let outcome =
                match timeout_at(until, self.query_server(place, &query, query_type, budget)).await
                {
                    Ok(outcome) => outcome,
                    Err(_elapsed) => Err(LookupError::Timeout),
                };
            match outcome {
                // Another nameserver may know better. What one of them said tells more than silence.
                Err(LookupError::Timeout) => {}
                Err(error) if !error.is_final() => failure = error,
                outcome => {
                    budget.first_server.store(place, Ordering::Relaxed);
                    return outcome;
                }
            }
        }
        Err(failure)
    }

    async fn query_server(
        &self,
        place: usize,
        query: &Query,
        query_type: QueryType,
        budget: QueryBudget<'_>,
    ) -> Result<PoolResponse, LookupError> {
        let server = self.servers.get(place).ok_or(LookupError::Internal)?;
        let response = match self.validators.get(place) {
            None => self.query_with_edns_fallback(server, query, budget).await?,
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

    /// Asks again without EDNS where a server does not understand it (RFC 6891, 6.2.2).
    async fn query_with_edns_fallback(
        &self,
        server: &NameServer,
        query: &Query,
        budget: QueryBudget<'_>,
    ) -> Result<DnsResponse, LookupError> {
        let request = DnsRequest::from_query(query.clone(), self.request_options);
        let response = server.query(&request, budget.early_polls).await?;
        if response.response_code != ResponseCode::FormErr {
            return Ok(response);
        }
        let mut options = self.request_options;
        options.use_edns = false;
        let request = DnsRequest::from_query(query.clone(), options);
        Ok(Box::pin(server.query(&request, None)).await?)
    }

    /// Gives each service the addresses of its target: what came with the answer, or what its own
    /// lookup finds before the deadline.
    async fn resolve_targets(
        &self,
        services: &mut [Service],
        additionals: &[Record],
        options: &LookupOptions,
        budget: QueryBudget<'_>,
    ) -> Result<Provenance, LookupError> {
        let mut known: HashMap<String, TargetAddresses> = HashMap::new();
        // Not validated with the answer, so not of use where validation is wanted.
        if self.validators.is_empty() {
            for (record, ip) in response::additional_addresses(additionals) {
                let target = known.entry(response::host_text(&record.name)).or_default();
                target.add([ip], response::provenance_of(record), options);
            }
        }
        // They may all be silent, and the services are an answer without them.
        let rest = budget.deadline - options.timeout / 10;
        let budget = QueryBudget {
            deadline: rest,
            early_polls: None,
            ..budget
        };
        let targets = services.iter().map(|service| service.target.clone());
        let missing: HashSet<_> = targets
            .filter(|target| !known.contains_key(target))
            .collect();
        if !missing.is_empty() {
            // On to the runtime: these are too many system calls for a scheduler's thread.
            yield_now().await;
        }
        let mut asked = futures_util::stream::iter(missing)
            .map(|target| async move {
                let hosted = self.resolve_target(&target, options, budget).await?;
                Ok::<_, LookupError>((target, hosted))
            })
            .buffer_unordered(MAX_TARGETS);
        while let Some(answered) = asked.next().await {
            let (target, hosted) = answered?;
            known.insert(target, hosted);
        }
        drop(asked);
        let mut provenance = Provenance::default();
        for service in services {
            if let Some(target) = known.get(&service.target) {
                service.addresses.clone_from(&target.ips);
                provenance = provenance.merge(target.provenance);
            }
        }
        Ok(provenance)
    }

    /// An answer that DNSSEC cannot prove is an error; a target that cannot be found has no addresses.
    async fn resolve_target(
        &self,
        target: &str,
        options: &LookupOptions,
        budget: QueryBudget<'_>,
    ) -> Result<TargetAddresses, LookupError> {
        let mut addresses = TargetAddresses::default();
        let Ok(Question { mut name, .. }) = Question::new(target.as_bytes(), QueryType::A) else {
            return Ok(addresses);
        };
        name.set_fqdn(true);
        let of = |query_type| {
            let name = name.clone();
            async move {
                match self.system.lookup_hosts(&name, query_type) {
                    Some(answer) => Ok(answer),
                    None => Ok(self.follow_cnames(name, query_type, budget).await?.0),
                }
            }
        };
        let (v4, v6) = join(of(QueryType::A), of(QueryType::Aaaa)).await;
        for answer in [v4, v6] {
            match answer {
                Ok(Answer {
                    records: Records::Addresses(ips),
                    provenance,
                    ..
                }) => addresses.add(ips, provenance, options),
                Err(LookupError::Bogus) => return Err(LookupError::Bogus),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(addresses)
    }
}

/// The addresses of a target.
#[derive(Default)]
struct TargetAddresses {
    ips: Vec<IpAddr>,
    provenance: Provenance,
}

impl TargetAddresses {
    fn add(
        &mut self,
        ips: impl IntoIterator<Item = IpAddr>,
        provenance: Provenance,
        options: &LookupOptions,
    ) {
        self.provenance = self.provenance.merge(provenance);
        for ip in ips {
            if !options.allows(ip) {
                self.provenance.dropped += 1;
            } else if self.ips.len() < MAX_TARGET_ADDRESSES && !self.ips.contains(&ip) {
                self.ips.push(ip);
            }
        }
    }
}

fn load_trust_anchors(file: &Path) -> Result<TrustAnchors, LookupError> {
    let text = file_stamp::read_file(file).map_err(|_| LookupError::BadFile)?;
    let text = String::from_utf8(text).map_err(|_| LookupError::BadFile)?;
    // An empty file would do for hickory, which counts only the root's keys.
    if !text.to_ascii_uppercase().contains("DNSKEY") {
        return Err(LookupError::BadFile);
    }
    TrustAnchors::from_str(&text).map_err(|_| LookupError::BadFile)
}

/// An answer that DNSSEC proves, or proves to need no proof (an unsigned zone).
async fn validate(
    validator: &Validator,
    query: &Query,
    options: DnsRequestOptions,
) -> Result<DnsResponse, LookupError> {
    let response = validator
        .lookup(query.clone(), options)
        .first_answer()
        .await;
    let response = response.map_err(|error: NetError| LookupError::from(error))?;
    let is_sound = |record: &Record| matches!(record.proof, Proof::Secure | Proof::Insecure);
    if response.answers.iter().all(is_sound) && has_required_proof(&response, query) {
        Ok(response)
    } else {
        Err(LookupError::Bogus)
    }
}

/// Whether what needs a proof of its own has one: that there are no such records, or that a wildcard
/// stands for the name (RFC 4035, 5.4).
///
/// hickory does not look for it where all of the authority section is provably unsigned, whatever zones
/// that is of. Only a zone that the name is in can do without.
fn has_required_proof(response: &DnsResponse, query: &Query) -> bool {
    let authorities = &response.authorities;
    let is_insecure = |record: &&Record| record.proof == Proof::Insecure;
    if authorities.is_empty() || !authorities.iter().all(|record| is_insecure(&record)) {
        return true;
    }
    let is_wildcard = |record: &Record| {
        matches!(
            &record.data,
            RData::DNSSEC(DNSSECRData::RRSIG(signature))
                if record.proof == Proof::Secure
                    && signature.input().num_labels < record.name.num_labels()
        )
    };
    if response.answers.iter().any(is_wildcard) {
        return false;
    }
    let is_answer = |record: &Record| {
        let record_type = record.record_type();
        record.name == *query.name()
            && (record_type == query.query_type() || record_type == RecordType::CNAME)
    };
    response.answers.iter().any(is_answer)
        || authorities
            .iter()
            .any(|record| record.name.zone_of(query.name()))
}
