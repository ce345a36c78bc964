//! The validation of answers with DNSSEC (RFC 4035): trust anchors, hickory's validator, and checks that hickory
//! lacks.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt, once};
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::FirstAnswer;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::{RData, Record, RecordType};

use super::LookupError;
use super::config::DnssecConfig;
use super::file_stamp::read_file;
use super::name_server::NameServer;

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
            let response = server.query(&request, None).await?;
            // An error code proves nothing, so it becomes an error.
            Ok(DnsError::from_response(response)?)
        })
        .boxed()
    }
}

/// Returns a validator for each nameserver. Reads the file of trust anchors.
pub fn validators(
    config: &DnssecConfig,
    servers: &[Arc<NameServer>],
) -> Result<Vec<Validator>, LookupError> {
    let anchors = match &config.trust_anchors {
        None => TrustAnchors::default(),
        Some(file) => load_trust_anchors(file)?,
    };
    let anchors = Arc::new(anchors);
    let handles = servers.iter().cloned().map(ValidatingHandle);
    Ok(handles
        .map(|handle| Validator::with_trust_anchor(handle, Arc::clone(&anchors)))
        .collect())
}

fn load_trust_anchors(file: &Path) -> Result<TrustAnchors, LookupError> {
    let text = read_file(file).map_err(|_| LookupError::BadFile)?;
    let text = String::from_utf8(text).map_err(|_| LookupError::BadFile)?;
    // hickory accepts a file without any key.
    if !text.to_ascii_uppercase().contains("DNSKEY") {
        return Err(LookupError::BadFile);
    }
    TrustAnchors::from_str(&text).map_err(|_| LookupError::BadFile)
}

/// Returns a response that DNSSEC proves, or of which it proves that the zone is unsigned.
pub async fn validate(
    validator: &Validator,
    query: &Query,
    options: DnsRequestOptions,
) -> Result<DnsResponse, LookupError> {
    let response = validator
        .lookup(query.clone(), options)
        .first_answer()
        .await;
    let response = response.map_err(|error: NetError| LookupError::from(error))?;
    // hickory marks only the signature that proved its records. Others, such as those of a second
    // algorithm, say nothing about the answer.
    let is_sound = |record: &Record| {
        record.record_type() == RecordType::RRSIG
            || matches!(record.proof, Proof::Secure | Proof::Insecure)
    };
    if response.answers.iter().all(is_sound) && has_required_proof(&response, query) {
        Ok(response)
    } else {
        Err(LookupError::Bogus)
    }
}

/// Returns whether a response has the proof that it needs if it has no such records, or if its records come from a
/// wildcard (RFC 4035, 5.4).
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
