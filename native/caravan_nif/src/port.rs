//! `port/3`: the port rule.

use std::num::NonZeroU16;

use caravan_core::port::{PortError, Rule, port as port_of};
use rustler::{Atom, Binary, NifUnitEnum};

mod atoms {
    rustler::atoms! { empty_name, out_of_range, temporary }
}

#[derive(NifUnitEnum)]
enum RuleName {
    Name,
    Fixed,
}

/// `{:ok, port}` or `{:error, reason}`; `badarg` for a base port outside 1..65535.
#[rustler::nif]
fn port(name: Binary, rule: RuleName, base: u16) -> rustler::NifResult<Result<u16, Atom>> {
    let base = NonZeroU16::new(base).ok_or(rustler::Error::BadArg)?;
    let rule = match rule {
        RuleName::Name => Rule::Name(base),
        RuleName::Fixed => Rule::Fixed(base),
    };
    Ok(port_of(&name, rule).map_err(|error| match error {
        PortError::EmptyName => atoms::empty_name(),
        PortError::OutOfRange => atoms::out_of_range(),
        PortError::Temporary => atoms::temporary(),
    }))
}
