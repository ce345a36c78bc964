//! IP addresses and numbers as terms.

use std::net::IpAddr;

use rustler::types::tuple::{get_tuple, make_tuple};
use rustler::{Decoder, Encoder, Env, Error, NifResult, Term};

/// An address in the form of `t::inet.ip_address/0`.
pub struct Ip(pub IpAddr);

impl Decoder<'_> for Ip {
    fn decode(term: Term) -> NifResult<Self> {
        let numbers = get_tuple(term)?;
        if let [a, b, c, d] = numbers[..] {
            return Ok(Self(
                [number(a)?, number(b)?, number(c)?, number(d)?].into(),
            ));
        }
        let segments: Vec<u16> = numbers.into_iter().map(number).collect::<NifResult<_>>()?;
        let segments: [u16; 8] = segments.try_into().map_err(|_| Error::BadArg)?;
        Ok(Self(segments.into()))
    }
}

impl Encoder for Ip {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self.0 {
            IpAddr::V4(ip) => make_tuple(env, &ip.octets().map(|octet| octet.encode(env))),
            IpAddr::V6(ip) => make_tuple(env, &ip.segments().map(|segment| segment.encode(env))),
        }
    }
}

/// Decodes a number. rustler itself would truncate one that is too large for a `u8` or `u16`.
pub fn number<T: TryFrom<u32>>(term: Term) -> NifResult<T> {
    let number: u32 = term.decode()?;
    T::try_from(number).map_err(|_| Error::BadArg)
}
