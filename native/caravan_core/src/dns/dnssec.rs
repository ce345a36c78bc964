//! The validation of answers with DNSSEC (RFC 4035): trust anchors, hickory's validator, and checks that hickory
//! lacks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, once};
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::{RuntimeProvider, Time, TokioRuntimeProvider};
use hickory_resolver::net::xfer::FirstAnswer;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
pub use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof, PublicKey, Verifier};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::proto::serialize::txt::trust_anchor::{Entry, Parser};

use super::LookupError;
use super::name_server::{NameServer, Progress};

/// Maximum number of proofs that are kept for one nameserver. One more replaces the oldest.
const MAX_PROOFS: usize = 4_096;
/// Maximum time for which a proof is kept, whatever its TTL is. The keys of a zone may lose their own proof during this
/// time, because a signature expires.
const MAX_PROOF_AGE: Duration = Duration::from_secs(60);
/// Minimum and maximum time for which the result "these records have no proof" is kept. Lookups that follow each other
/// closely share it.
const MIN_FAILURE_AGE: Duration = Duration::from_secs(1);
const MAX_FAILURE_AGE: Duration = Duration::from_secs(5);

pub type Validator = DnssecDnsHandle<ValidatingHandle>;

/// A nameserver, as hickory's validator queries it.
#[derive(Clone)]
pub struct ValidatingHandle(pub Arc<NameServer>);

impl DnsHandle for ValidatingHandle {
    type Response = BoxStream<'static, Result<DnsResponse, NetError>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let server = Arc::clone(&self.0);
        once(async move {
            let response = server.query(&request, None, &Progress::default()).await?;
            // An error code proves nothing, so it becomes an error.
            Ok(DnsError::from_response(response)?)
        })
        .boxed()
    }
}

/// Returns a validator for each nameserver.
pub fn validators(anchors: &Arc<TrustAnchors>, servers: &[Arc<NameServer>]) -> Vec<Validator> {
    let handles = servers.iter().cloned().map(ValidatingHandle);
    handles
        .map(|handle| Validator::with_trust_anchor(handle, Arc::clone(anchors)))
        .map(without_proofs)
        .collect()
}

/// Returns the validator with an empty cache of proofs.
fn without_proofs(validator: Validator) -> Validator {
    validator
        .validation_cache_size(MAX_PROOFS)
        .positive_validation_ttl(Duration::ZERO..=MAX_PROOF_AGE)
        .negative_validation_ttl(MIN_FAILURE_AGE..=MAX_FAILURE_AGE)
}

/// Reads the keys in the text of a file. Keys of algorithms that cannot be checked are left out: a zone that changes
/// its algorithm has keys of both. At least one key has to be left.
pub fn parse_trust_anchors(text: Vec<u8>) -> Result<TrustAnchors, LookupError> {
    let text = String::from_utf8(text).map_err(|_| LookupError::BadFile)?;
    let entries = Parser::new(text)
        .parse()
        .map_err(|_| LookupError::BadFile)?;
    let (mut anchors, mut is_empty) = (TrustAnchors::empty(), true);
    for entry in &entries {
        let Entry::DNSKEY(record) = entry else {
            continue;
        };
        let key = record.data().public_key();
        if !key.algorithm().is_supported() {
            continue;
        }
        record.data().key().map_err(|_| LookupError::BadFile)?;
        anchors.insert_with_name(key, record.name().into());
        is_empty = false;
    }
    if is_empty {
        return Err(LookupError::BadFile);
    }
    Ok(anchors)
}

/// Returns a response that DNSSEC proves to be authentic, or whose zone it proves to be unsigned.
pub async fn validate(
    validator: &Validator,
    query: &Query,
    options: DnsRequestOptions,
) -> Result<DnsResponse, LookupError> {
    let mut response = lookup(validator, query, options).await?;
    if !has_current_signatures(&response) {
        // hickory may keep a proof for longer than its signature is valid. The zone may have a new signature by now.
        response = lookup(&without_proofs(validator.clone()), query, options).await?;
    }
    // hickory marks only the signature that proved its records. Others, such as those of a second
    // algorithm, say nothing about the answer.
    let is_sound = |record: &Record| {
        record.record_type() == RecordType::RRSIG
            || matches!(record.proof, Proof::Secure | Proof::Insecure)
    };
    if response.answers.iter().all(is_sound)
        && has_current_signatures(&response)
        && has_required_proof(&response, query)
    {
        Ok(response)
    } else {
        Err(LookupError::Bogus)
    }
}

/// Returns whether a record is proved to be authentic.
pub fn is_secure(record: &Record) -> bool {
    record.proof == Proof::Secure
}

async fn lookup(
    validator: &Validator,
    query: &Query,
    options: DnsRequestOptions,
) -> Result<DnsResponse, NetError> {
    validator
        .lookup(query.clone(), options)
        .first_answer()
        .await
}

/// Returns whether now is in the validity period of all signatures that prove a part of the answer (RFC 4035,
/// 5.3.1).
fn has_current_signatures(response: &DnsResponse) -> bool {
    let now = <TokioRuntimeProvider as RuntimeProvider>::Timer::current_time();
    // A signature has the lowest 32 bits of a time (RFC 4034, 3.1.5).
    let now = now as u32;
    let records = response.answers.iter().chain(&response.authorities);
    records.into_iter().all(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) if record.proof == Proof::Secure => {
            let input = signature.input();
            is_in_period(now, input.sig_inception.get(), input.sig_expiration.get())
        }
        _ => true,
    })
}

/// Compares times as serial numbers (RFC 4034, 3.1.5), which start again at zero in 2106.
fn is_in_period(now: u32, inception: u32, expiration: u32) -> bool {
    let is_from = |later: u32, earlier: u32| later.wrapping_sub(earlier) <= i32::MAX.unsigned_abs();
    is_from(now, inception) && is_from(expiration, now)
}

/// Returns whether a response has the proof that it needs (RFC 4035, 5.4). A response needs one if it has no records for
/// the query, or if its records come from a wildcard.
///
/// hickory does not require the proof if all records of the authority section are provably unsigned, whatever their
/// zones are. But only an unsigned zone that contains the name needs no proof.
fn has_required_proof(response: &DnsResponse, query: &Query) -> bool {
    let authorities = &response.authorities;
    let is_insecure = |record: &&Record| record.proof == Proof::Insecure;
    if authorities.is_empty() || !authorities.iter().all(|record| is_insecure(&record)) {
        return true;
    }
    let is_wildcard = |record: &Record| {
        matches!(
            &record.data,
            RData::DNSSEC(DNSSECRData::RRSIG(signature))
                if record.proof == Proof::Secure
                    && signature.input().num_labels < record.name.num_labels()
        )
    };
    if response.answers.iter().any(is_wildcard) {
        return false;
    }
    let is_answer = |record: &Record| {
        let record_type = record.record_type();
        record.name == *query.name()
            && (record_type == query.query_type() || record_type == RecordType::CNAME)
    };
    response.answers.iter().any(is_answer)
        || authorities
            .iter()
            .any(|record| record.name.zone_of(query.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_valid_from_inception_to_expiration() {
        for (now, is_valid) in [(9, false), (10, true), (20, true), (21, false)] {
            assert_eq!(is_in_period(now, 10, 20), is_valid, "{now}");
        }
        assert!(is_in_period(1, u32::MAX - 1, 5));
        assert!(!is_in_period(6, u32::MAX - 1, 5));
    }
}
