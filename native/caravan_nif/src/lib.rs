//! The BEAM's door to `caravan_core`: decodes terms, calls the core, encodes what comes back.
//!
//! Loading it starts nothing. The runtime that lookups run on starts with the first lookup.

mod dns;
mod dns_terms;
mod ip;
mod peers;
mod port;
mod runtime;

rustler::init!("Elixir.Caravan.Native");
