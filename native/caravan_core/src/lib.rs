//! The parts of Caravan that do not need the BEAM: [`port`] maps a node name to its distribution port,
//! [`peers`] stores the ports and addresses of discovered nodes, [`dns`] looks up names.
//!
//! This crate is *not* a DNS client. `hickory-resolver` implements the protocol. This crate adds
//! configuration, limits, a closed set of errors, and records in the shape that Caravan uses.
//! `caravan_nif` makes NIFs of the three modules: it translates Erlang terms to arguments, and results to Erlang terms.

pub mod dns;
pub mod peers;
pub mod port;

// The bodies of the fuzz targets also run as tests of this crate. They call this crate `caravan_core`, not `crate`.
#[cfg(test)]
extern crate self as caravan_core;
#[cfg(test)]
mod fuzz_bodies;
