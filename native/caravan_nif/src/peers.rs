//! The NIFs `peers_put/2`, `peers_delete/1`, `peers_rotate/1`, `peers_find/1` and `peers_list/0`: the table of
//! discovered nodes.
//!
//! All but `peers_find` run on a dirty scheduler. They take time in proportion to the number of names, or, as
//! `peers_rotate`, wait for such a call.
//!
//! It is one for I/O, because applications keep those for CPU busy, for example by the hashes of passwords. The strategy
//! would wait until all calls before its own have ended.

use std::num::NonZeroU16;

use caravan_core::peers::{Endpoint, PeerTable, TableFull};
use once_cell::sync::Lazy;
use rustler::{Atom, Binary, Decoder, Encoder, Env, Error, NewBinary, NifResult, Term};

use crate::ip::{Ip, number};

mod atoms {
    rustler::atoms! { ok, error, full, nil }
}

/// Topologies are atoms, which have the same value in all processes and never expire.
static TABLE: Lazy<PeerTable<Atom>> = Lazy::new(PeerTable::new);

/// Returns `:ok`, or `{:error, :full}` and leaves the table as it was. Raises `badarg` for an invalid entry.
#[rustler::nif(schedule = "DirtyIo")]
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

#[rustler::nif(schedule = "DirtyIo")]
fn peers_delete(topology: Atom) -> Atom {
    TABLE.delete(&topology);
    atoms::ok()
}

/// Moves the first address of a node to the end.
#[rustler::nif(schedule = "DirtyIo")]
fn peers_rotate(name: Binary) -> Atom {
    TABLE.rotate(&name);
    atoms::ok()
}

/// Returns `{port | nil, [ip]}`, or `nil` if the table does not have the node.
#[rustler::nif]
fn peers_find<'a>(env: Env<'a>, name: Binary<'a>) -> Term<'a> {
    match TABLE.find(&name) {
        Some(endpoint) => (Port(endpoint.port), addresses(endpoint)).encode(env),
        None => atoms::nil().encode(env),
    }
}

/// Returns `[{name, port | nil, [ip]}]`, sorted by name.
#[rustler::nif(schedule = "DirtyIo")]
fn peers_list(env: Env) -> Term {
    let entries: Vec<_> = TABLE
        .list()
        .iter()
        .map(|(name, entry)| {
            let endpoint = entry.endpoint();
            let mut text = NewBinary::new(env, name.len());
            text.copy_from_slice(name);
            (Binary::from(text), Port(endpoint.port), addresses(endpoint)).encode(env)
        })
        .collect();
    entries.encode(env)
}

fn addresses(endpoint: Endpoint) -> Vec<Ip> {
    endpoint.addresses.into_iter().map(Ip).collect()
}

/// A port from 1 to 65535, or `nil`.
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
