//! The NIFs `port/1`, `port/3` and `port_settings/2`: the port rule.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};

use caravan_core::port::{PortError, Rule, port as port_of};
use rustler::{Atom, Binary, Encoder, Env, Error, NifResult, NifUnitEnum, Term};

mod atoms {
    rustler::atoms! { ok, empty_name, out_of_range, temporary, unset }
}

/// The settings with which distribution was started: the base port, plus [`FIXED`] for the rule `fixed`. 0 before that.
/// They are here so that `port/1` needs only the name.
static SETTINGS: AtomicU32 = AtomicU32::new(0);
const FIXED: u32 = 1 << 16;

#[derive(NifUnitEnum)]
enum PortRuleAtom {
    Name,
    Fixed,
}

/// Returns the port by the settings, or the reason why there is none, or `:unset` before `port_settings/2`.
#[rustler::nif]
fn port<'a>(env: Env<'a>, name: Binary<'a>) -> Term<'a> {
    match settings() {
        Some(rule) => answer(env, &name, rule),
        None => atoms::unset().encode(env),
    }
}

/// Returns the port by the given rule and base port, or the reason why there is none. Raises `badarg` for a base port
/// outside 1..65535.
#[rustler::nif(name = "port")]
fn port_by<'a>(
    env: Env<'a>,
    name: Binary<'a>,
    rule: PortRuleAtom,
    base: u32,
) -> NifResult<Term<'a>> {
    Ok(answer(env, &name, rule_of(rule, base)?))
}

/// Sets the rule and the base port of `port/1`.
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
    // Decoded as a u32, because rustler would truncate a number that is too large for a u16.
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
