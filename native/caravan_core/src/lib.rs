//! What Caravan computes, with no BEAM in sight: [`port`] turns a node name into its distribution
//! port, [`peers`] keeps what discovery learned of nodes, [`dns`] looks names up.
//!
//! This crate is *not* a DNS client. `hickory-resolver` speaks the protocol; what is here is
//! configuration, limits, a closed set of errors and records in the shape Caravan hands on.
//! `caravan_nif` translates these modules to Erlang terms.

pub mod dns;
pub mod peers;
pub mod port;

// The bodies of the fuzz targets, which name this crate as any other crate does, run as its tests too.
#[cfg(test)]
extern crate self as caravan_core;
#[cfg(test)]
mod fuzz_bodies;
