//! The NIFs of `Caravan.Native`: decode terms, call `caravan_core`, encode the results.
//!
//! Loading the library starts no thread. The first lookup starts the runtime.

mod dns;
mod dns_terms;
mod ip;
mod peers;
mod port;
mod runtime;

rustler::init!("Elixir.Caravan.Native");
