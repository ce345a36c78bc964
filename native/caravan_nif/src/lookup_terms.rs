//! The shapes in which lookups cross: `Caravan.Dns.Answer`, `Service` and `Error`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::Duration;

use caravan_core::dns::{
    Answer, BadName, Kind, LookupError, MAX_NAMESERVERS, Records, Service, Settings, nameserver,
};
use rustler::{Binary, Encoder, Env, NifException, NifStruct, NifTuple, NifUnitEnum, Term};

mod atoms {
    rustler::atoms! {
        bad_name, bad_response, busy, connection, error, formerr, internal,
        no_records, nxdomain, ok, refused, servfail, timeout, too_many_records, truncated,
    }
}

#[derive(NifUnitEnum)]
pub enum KindName {
    Srv,
    A,
    Aaaa,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Srv => Self::Srv,
            KindName::A => Self::A,
            KindName::Aaaa => Self::Aaaa,
        }
    }
}

impl From<Kind> for KindName {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Srv => Self::Srv,
            Kind::A => Self::A,
            Kind::Aaaa => Self::Aaaa,
        }
    }
}

/// `{nameservers, timeout_ms, attempts}`
#[derive(NifTuple)]
pub struct SettingsTerm {
    nameservers: Vec<String>,
    timeout_ms: u32,
    attempts: u8,
}

impl TryFrom<SettingsTerm> for Settings {
    type Error = rustler::Error;

    fn try_from(term: SettingsTerm) -> Result<Self, rustler::Error> {
        if term.nameservers.len() > MAX_NAMESERVERS {
            return Err(rustler::Error::BadArg);
        }
        let servers = term.nameservers.iter().map(|text| nameserver(text));
        Ok(Self {
            nameservers: servers
                .collect::<Result<Vec<SocketAddr>, _>>()
                .map_err(|_| rustler::Error::BadArg)?,
            timeout: Duration::from_millis(term.timeout_ms.into()),
            attempts: NonZeroU8::new(term.attempts).ok_or(rustler::Error::BadArg)?,
        })
    }
}

/// `dns_nameserver?/1`: would [`SettingsTerm`] take it?
#[rustler::nif(name = "dns_nameserver?")]
fn is_nameserver(text: Binary) -> bool {
    std::str::from_utf8(&text).is_ok_and(|text| nameserver(text).is_ok())
}

#[derive(NifStruct)]
#[module = "Caravan.Dns.Answer"]
struct AnswerTerm<'a> {
    name: Term<'a>,
    r#type: KindName,
    records: Term<'a>,
    ttl: u32,
}

#[derive(NifStruct)]
#[module = "Caravan.Dns.Service"]
struct ServiceTerm<'a> {
    priority: u16,
    weight: u16,
    port: u16,
    target: &'a str,
}

#[derive(NifException)]
#[module = "Caravan.Dns.Error"]
struct ErrorTerm<'a> {
    name: Term<'a>,
    r#type: KindName,
    reason: Term<'a>,
}

/// `{:ok, %Caravan.Dns.Answer{}}` or `{:error, %Caravan.Dns.Error{}}`.
pub fn result<'a>(
    env: Env<'a>,
    name: &[u8],
    kind: Kind,
    result: Result<Answer, LookupError>,
) -> Term<'a> {
    match result {
        Ok(answer) => {
            let answer = AnswerTerm {
                name: binary(env, name),
                r#type: kind.into(),
                records: records(env, &answer.records),
                ttl: answer.ttl,
            };
            (atoms::ok(), answer).encode(env)
        }
        Err(error) => failure(env, name, kind, reason(error).encode(env)),
    }
}

/// `{:error, %Caravan.Dns.Error{reason: {:bad_name, text}}}`
pub fn bad_name<'a>(env: Env<'a>, name: &[u8], kind: Kind, bad: BadName) -> Term<'a> {
    let text = match bad {
        BadName::Empty => "it is empty",
        BadName::TooLong => "it is longer than 253 octets",
        BadName::EmptyLabel => "it has an empty label",
        BadName::LongLabel => "it has a label of over 63 octets",
        BadName::BadCharacter => {
            "only ASCII letters, digits, \"-\", \"_\" and \".\" may stand in it"
        }
    };
    failure(env, name, kind, (atoms::bad_name(), text).encode(env))
}

fn failure<'a>(env: Env<'a>, name: &[u8], kind: Kind, reason: Term<'a>) -> Term<'a> {
    let error = ErrorTerm {
        name: binary(env, name),
        r#type: kind.into(),
        reason,
    };
    (atoms::error(), error).encode(env)
}

fn reason(error: LookupError) -> rustler::Atom {
    match error {
        LookupError::NxDomain => atoms::nxdomain(),
        LookupError::NoRecords => atoms::no_records(),
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
    }
}

fn records<'a>(env: Env<'a>, records: &Records) -> Term<'a> {
    match records {
        Records::Services(services) => {
            let terms: Vec<_> = services.iter().map(service).collect();
            terms.encode(env)
        }
        Records::Addresses(addresses) => {
            let terms: Vec<_> = addresses.iter().map(|ip| address(env, *ip)).collect();
            terms.encode(env)
        }
    }
}

fn service(service: &Service) -> ServiceTerm<'_> {
    ServiceTerm {
        priority: service.priority,
        weight: service.weight,
        port: service.port,
        target: &service.target,
    }
}

/// As `t::inet.ip_address/0` has it.
fn address(env: Env, ip: IpAddr) -> Term {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            (a, b, c, d).encode(env)
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            // rustler encodes tuples of up to seven.
            rustler::types::tuple::make_tuple(env, &[a, b, c, d, e, f, g, h].map(|s| s.encode(env)))
        }
    }
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut binary = rustler::NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    binary.into()
}
