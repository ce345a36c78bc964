//! The terms of lookups: decodes options, and encodes `Caravan.Dns.Answer`, `Service` and `Error`. Also the NIFs
//! `dns_nameserver?/1` and `dns_network?/1`, which check options.

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use caravan_core::dns::{
    Answer, BadName, DnssecConfig, LookupError, LookupOptions, MAX_KNOWN_TARGETS, MAX_NAMESERVERS,
    MAX_NETWORKS, NameServerConfig, Outcome, QueryType, Records, ResolverConfig, Service,
    TargetFamilies, Transport, network,
};
use rustler::{
    Binary, Encoder, Env, NifException, NifMap, NifStruct, NifTaggedEnum, NifUnitEnum, Term,
};

use crate::ip::Ip;

mod atoms {
    rustler::atoms! {
        bad_file, bad_name, bad_response, bogus, busy, changed, connection, dnssec, error, formerr, hosts, https,
        internal, no_descriptors, no_records, no_threads, not_allowed, nxdomain, ok, refused, servfail, tcp, timeout, tls,
        too_many_records, truncated, udp, unchanged, unreadable_file,
    }
}

/// Defines the atoms of an enum of `caravan_core`, and the conversions.
macro_rules! atoms_of {
    ($enum:ident, $atoms:ident { $($atom:ident = $variant:ident,)* }) => {
        #[derive(NifUnitEnum)]
        pub enum $atoms {
            $($atom,)*
        }

        impl From<$atoms> for $enum {
            fn from(atom: $atoms) -> Self {
                match atom {
                    $($atoms::$atom => Self::$variant,)*
                }
            }
        }

        impl From<$enum> for $atoms {
            fn from(value: $enum) -> Self {
                match value {
                    $($enum::$variant => Self::$atom,)*
                }
            }
        }
    };
}

atoms_of!(QueryType, QueryTypeAtom { Srv = Srv, A = A, Aaaa = Aaaa, });
// The values of the option `:addresses`.
atoms_of!(TargetFamilies, AddressesAtom { True = Both, False = None, Inet = Inet, Inet6 = Inet6, });

/// The options of `Caravan.Dns`, which has checked them.
#[derive(NifMap)]
pub struct OptionsTerm {
    nameservers: Vec<String>,
    timeout: u32,
    attempts: Option<u8>,
    addresses: AddressesAtom,
    known_targets: Vec<String>,
    randomize_case: bool,
    dnssec: bool,
    trust_anchors: Option<String>,
    ca_file: Option<String>,
    allow: Vec<String>,
}

impl TryFrom<OptionsTerm> for LookupOptions {
    type Error = rustler::Error;

    fn try_from(term: OptionsTerm) -> Result<Self, rustler::Error> {
        let bad = || rustler::Error::BadArg;
        if term.nameservers.len() > MAX_NAMESERVERS
            || term.allow.len() > MAX_NETWORKS
            || term.known_targets.len() > MAX_KNOWN_TARGETS
        {
            return Err(bad());
        }
        let servers = term.nameservers.iter().map(|text| text.parse());
        let networks = term.allow.iter().map(|text| network(text));
        let attempts = term
            .attempts
            .map(|number| NonZeroU8::new(number).ok_or_else(bad));
        Ok(Self {
            config: ResolverConfig {
                nameservers: servers.collect::<Result<_, _>>().map_err(|_| bad())?,
                ca_file: term.ca_file.map(Into::into),
                dnssec: term.dnssec.then(|| DnssecConfig {
                    trust_anchors: term.trust_anchors.map(Into::into),
                }),
                randomize_case: term.randomize_case,
            },
            timeout: Duration::from_millis(term.timeout.into()),
            attempts: attempts.transpose()?,
            addresses: term.addresses.into(),
            known_targets: term.known_targets.into_iter().collect(),
            allow: networks.collect::<Result<_, _>>().map_err(|_| bad())?,
        })
    }
}

/// What a lookup returns if it has an answer.
#[derive(Clone, Copy, NifTaggedEnum)]
pub enum Wanted {
    /// `{:ok, answer}`
    Answer,
    /// `{:unchanged, answer}` if the records have this fingerprint. That answer comes without records, because it would
    /// cost more to encode and to read many records than to look them up. Otherwise `{:changed, answer, fingerprint}`.
    Changes(Option<u64>),
}

/// Returns whether the text is a valid element of the option `:nameservers`.
#[rustler::nif(name = "dns_nameserver?")]
fn is_nameserver(text: Binary) -> bool {
    std::str::from_utf8(&text).is_ok_and(|text| text.parse::<NameServerConfig>().is_ok())
}

/// Returns whether the text is a valid element of the option `:allow`.
#[rustler::nif(name = "dns_network?")]
fn is_network(text: Binary) -> bool {
    std::str::from_utf8(&text).is_ok_and(|text| network(text).is_ok())
}

/// Returns the cargo features of the library that options of `Caravan.Dns` need.
#[rustler::nif]
fn dns_features() -> Vec<rustler::Atom> {
    let features = [
        cfg!(feature = "tls").then(atoms::tls),
        cfg!(feature = "dnssec").then(atoms::dnssec),
    ];
    features.into_iter().flatten().collect()
}

#[derive(NifStruct)]
#[module = "Caravan.Dns.Answer"]
struct AnswerTerm<'a> {
    name: Term<'a>,
    r#type: QueryTypeAtom,
    records: Term<'a>,
    ttl: u32,
    nameserver: Option<Term<'a>>,
    transport: rustler::Atom,
    /// In microseconds.
    time: u64,
    dropped: usize,
    secure: bool,
}

#[derive(NifStruct)]
#[module = "Caravan.Dns.Service"]
struct ServiceTerm<'a> {
    priority: u16,
    weight: u16,
    port: u16,
    target: Term<'a>,
    addresses: Term<'a>,
    addresses_ttl: Option<u32>,
}

#[derive(NifException)]
#[module = "Caravan.Dns.Error"]
struct ErrorTerm<'a> {
    name: Term<'a>,
    r#type: QueryTypeAtom,
    reason: Term<'a>,
    nameserver: Option<Term<'a>>,
    transport: Option<rustler::Atom>,
}

/// Returns the tuple with the answer that `wanted` selects, or `{:error, %Caravan.Dns.Error{}}`.
pub fn result<'a>(
    env: Env<'a>,
    name: &[u8],
    query_type: QueryType,
    wanted: Wanted,
    outcome: &Outcome,
) -> Term<'a> {
    match outcome {
        Ok(answer) => success(env, name, query_type, wanted, answer),
        Err(failure) => {
            let reason = reason(env, &failure.error);
            let nameserver = failure.nameserver.as_deref();
            let transport = failure.transport.map(transport);
            error_term(env, name, query_type, reason, nameserver, transport)
        }
    }
}

fn success<'a>(
    env: Env<'a>,
    name: &[u8],
    query_type: QueryType,
    wanted: Wanted,
    answer: &Answer,
) -> Term<'a> {
    let with = |records| answer_term(env, name, query_type, answer, records);
    match wanted {
        Wanted::Answer => (atoms::ok(), with(records(env, &answer.records))).encode(env),
        Wanted::Changes(last) => {
            let fingerprint = answer.records.fingerprint();
            if last == Some(fingerprint) {
                (atoms::unchanged(), with(Term::list_new_empty(env))).encode(env)
            } else {
                let answer = with(records(env, &answer.records));
                (atoms::changed(), answer, fingerprint).encode(env)
            }
        }
    }
}

fn answer_term<'a>(
    env: Env<'a>,
    name: &[u8],
    query_type: QueryType,
    answer: &Answer,
    records: Term<'a>,
) -> AnswerTerm<'a> {
    AnswerTerm {
        name: binary(env, name),
        r#type: query_type.into(),
        records,
        ttl: answer.provenance.ttl,
        nameserver: answer.nameserver.as_deref().map(|text| text.encode(env)),
        transport: transport(answer.transport),
        time: u64::try_from(answer.time.as_micros()).unwrap_or(u64::MAX),
        dropped: answer.provenance.dropped,
        secure: answer.provenance.secure,
    }
}

fn transport(transport: Transport) -> rustler::Atom {
    match transport {
        Transport::Udp => atoms::udp(),
        Transport::Tcp => atoms::tcp(),
        Transport::Tls => atoms::tls(),
        Transport::Https => atoms::https(),
        Transport::Hosts => atoms::hosts(),
    }
}

/// Returns `{:error, %Caravan.Dns.Error{reason: {:bad_name, text}}}`.
pub fn bad_name<'a>(env: Env<'a>, name: &[u8], query_type: QueryType, bad: BadName) -> Term<'a> {
    let text = match bad {
        BadName::Empty => "it is empty",
        BadName::TooLong => "it has more than 253 octets",
        BadName::EmptyLabel => "it has an empty label",
        BadName::LongLabel => "it has a label of more than 63 octets",
        BadName::BadCharacter => {
            "it has characters other than ASCII letters, digits, \"-\", \"_\" and \".\""
        }
    };
    let reason = (atoms::bad_name(), text).encode(env);
    error_term(env, name, query_type, reason, None, None)
}

fn error_term<'a>(
    env: Env<'a>,
    name: &[u8],
    query_type: QueryType,
    reason: Term<'a>,
    nameserver: Option<&str>,
    transport: Option<rustler::Atom>,
) -> Term<'a> {
    let error = ErrorTerm {
        name: binary(env, name),
        r#type: query_type.into(),
        reason,
        nameserver: nameserver.map(|text| text.encode(env)),
        transport,
    };
    (atoms::error(), error).encode(env)
}

fn reason<'a>(env: Env<'a>, error: &LookupError) -> Term<'a> {
    let atom = match error {
        LookupError::UnreadableFile(text) => {
            return (atoms::unreadable_file(), &**text).encode(env);
        }
        LookupError::NoDescriptors(text) => return (atoms::no_descriptors(), &**text).encode(env),
        LookupError::NoThreads(text) => return (atoms::no_threads(), &**text).encode(env),
        LookupError::NxDomain => atoms::nxdomain(),
        LookupError::NoRecords => atoms::no_records(),
        LookupError::NotAllowed => atoms::not_allowed(),
        LookupError::Tls => atoms::tls(),
        LookupError::Bogus => atoms::bogus(),
        LookupError::BadFile => atoms::bad_file(),
        LookupError::Timeout => atoms::timeout(),
        LookupError::ServFail => atoms::servfail(),
        LookupError::Refused => atoms::refused(),
        LookupError::FormErr => atoms::formerr(),
        LookupError::BadResponse => atoms::bad_response(),
        LookupError::Truncated => atoms::truncated(),
        LookupError::TooManyRecords => atoms::too_many_records(),
        LookupError::Connection => atoms::connection(),
        LookupError::Busy => atoms::busy(),
        LookupError::Internal => atoms::internal(),
    };
    atom.encode(env)
}

fn records<'a>(env: Env<'a>, records: &Records) -> Term<'a> {
    match records {
        Records::Services(services) => {
            let terms: Vec<_> = services.iter().map(|s| service(env, s)).collect();
            terms.encode(env)
        }
        Records::Addresses(ips) => addresses(env, ips),
    }
}

fn service<'a>(env: Env<'a>, service: &Service) -> ServiceTerm<'a> {
    ServiceTerm {
        priority: service.priority,
        weight: service.weight,
        port: service.port,
        target: service.target.encode(env),
        addresses: addresses(env, &service.addresses),
        addresses_ttl: service.addresses_ttl,
    }
}

fn addresses<'a>(env: Env<'a>, ips: &[IpAddr]) -> Term<'a> {
    let terms: Vec<_> = ips.iter().copied().map(Ip).collect();
    terms.encode(env)
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut binary = rustler::NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    binary.into()
}
