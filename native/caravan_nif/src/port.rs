//! `port/1`, `port/3`, `port_settings/2`: the port rule.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};

use caravan_core::port::{PortError, Rule, port as port_of};
use rustler::{Atom, Binary, Encoder, Env, Error, NifResult, NifUnitEnum, Term};

mod atoms {
    rustler::atoms! { ok, empty_name, out_of_range, temporary, unset }
}

/// What distribution was started with, so that `port/1` needs nothing but the name. The base port, and
/// [`FIXED`] above it; zero, which is no port: it was not started yet.
static SETTINGS: AtomicU32 = AtomicU32::new(0);
const FIXED: u32 = 1 << 16;

#[derive(NifUnitEnum)]
enum PortRuleAtom {
    Name,
    Fixed,
}

/// The port, or why there is none, or `:unset`: `port_settings/2` was not called yet.
#[rustler::nif]
fn port<'a>(env: Env<'a>, name: Binary<'a>) -> Term<'a> {
    match settings() {
        Some(rule) => answer(env, &name, rule),
        None => atoms::unset().encode(env),
    }
}

/// The same with settings of the caller's. `badarg` for a base port outside 1..65535.
#[rustler::nif(name = "port")]
fn port_by<'a>(
    env: Env<'a>,
    name: Binary<'a>,
    rule: PortRuleAtom,
    base: u32,
) -> NifResult<Term<'a>> {
    Ok(answer(env, &name, rule_of(rule, base)?))
}

/// What `port/1` goes by from now on.
#[rustler::nif]
fn port_settings(rule: PortRuleAtom, base: u32) -> NifResult<Atom> {
    let settings = match rule_of(rule, base)? {
        Rule::Name(base) => u32::from(base.get()),
        Rule::Fixed(base) => u32::from(base.get()) | FIXED,
    };
    SETTINGS.store(settings, Ordering::Relaxed);
    Ok(atoms::ok())
}

fn settings() -> Option<Rule> {
    let settings = SETTINGS.load(Ordering::Relaxed);
    let base = NonZeroU16::new((settings & 0xffff) as u16)?;
    let fixed = settings & FIXED != 0;
    Some(if fixed {
        Rule::Fixed(base)
    } else {
        Rule::Name(base)
    })
}

fn rule_of(name: PortRuleAtom, base: u32) -> NifResult<Rule> {
    // As a u16, rustler would cut a larger number.
    let base = u16::try_from(base).ok().and_then(NonZeroU16::new);
    let base = base.ok_or(Error::BadArg)?;
    Ok(match name {
        PortRuleAtom::Name => Rule::Name(base),
        PortRuleAtom::Fixed => Rule::Fixed(base),
    })
}

fn answer<'a>(env: Env<'a>, name: &[u8], rule: Rule) -> Term<'a> {
    match port_of(name, rule) {
        Ok(port) => port.encode(env),
        Err(PortError::EmptyName) => atoms::empty_name().encode(env),
        Err(PortError::OutOfRange) => atoms::out_of_range().encode(env),
        Err(PortError::Temporary) => atoms::temporary().encode(env),
    }
}
