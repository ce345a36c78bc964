//! `peers_put/2`, `peers_delete/1`, `peers_find/1`, `peers_list/0`: the table of what discovery learned.
//!
//! All but `peers_find` take time with the number of names, and run on a dirty scheduler.

use std::num::NonZeroU16;

use caravan_core::peers::{Endpoint, PeerTable, TableFull};
use once_cell::sync::Lazy;
use rustler::{Atom, Binary, Decoder, Encoder, Env, Error, NewBinary, NifResult, Term};

use crate::ip::{Ip, number};

mod atoms {
    rustler::atoms! { ok, error, full, nil }
}

/// A topology is an atom: the same in every process, for as long as the VM lives.
static TABLE: Lazy<PeerTable<Atom>> = Lazy::new(PeerTable::new);

/// `:ok`, or `{:error, :full}` and nothing has changed. `badarg` for what is no entry.
#[rustler::nif(schedule = "DirtyCpu")]
fn peers_put<'a>(
    env: Env<'a>,
    topology: Atom,
    entries: Vec<(Binary<'a>, Port, Vec<Ip>)>,
) -> Term<'a> {
    let endpoints = entries.iter().map(|(name, port, addresses)| {
        let endpoint = Endpoint {
            port: port.0,
            addresses: addresses.iter().map(|ip| ip.0).collect(),
        };
        (name.as_slice(), endpoint)
    });
    match TABLE.put(topology, endpoints) {
        Ok(()) => atoms::ok().encode(env),
        Err(TableFull) => (atoms::error(), atoms::full()).encode(env),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn peers_delete(topology: Atom) -> Atom {
    TABLE.delete(&topology);
    atoms::ok()
}

/// `{port | nil, [ip]}`, or nil for a node that is not there.
#[rustler::nif]
fn peers_find<'a>(env: Env<'a>, name: Binary<'a>) -> Term<'a> {
    match TABLE.find(&name) {
        Some(endpoint) => (Port(endpoint.port), addresses(&endpoint)).encode(env),
        None => atoms::nil().encode(env),
    }
}

/// `[{name, port | nil, [ip]}]`, sorted by name.
#[rustler::nif(schedule = "DirtyCpu")]
fn peers_list(env: Env) -> Term {
    let entries: Vec<_> = TABLE
        .list()
        .iter()
        .map(|(name, endpoint)| {
            let mut text = NewBinary::new(env, name.len());
            text.copy_from_slice(name);
            (Binary::from(text), Port(endpoint.port), addresses(endpoint)).encode(env)
        })
        .collect();
    entries.encode(env)
}

fn addresses(endpoint: &Endpoint) -> Vec<Ip> {
    endpoint.addresses.iter().copied().map(Ip).collect()
}

/// 1..65535 or nil.
struct Port(Option<NonZeroU16>);

impl Decoder<'_> for Port {
    fn decode(term: Term) -> NifResult<Self> {
        if term.decode().is_ok_and(|atom: Atom| atom == atoms::nil()) {
            return Ok(Self(None));
        }
        let port = NonZeroU16::new(number(term)?).ok_or(Error::BadArg)?;
        Ok(Self(Some(port)))
    }
}

impl Encoder for Port {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.0.map(NonZeroU16::get).encode(env)
    }
}
