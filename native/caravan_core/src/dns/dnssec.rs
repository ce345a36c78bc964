//! Validation of answers with DNSSEC (RFC 4035), by hickory.

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

/// A server, as hickory's validation of DNSSEC asks it.
#[derive(Clone)]
pub struct ValidatingHandle(pub Arc<NameServer>);

impl DnsHandle for ValidatingHandle {
    type Response = BoxStream<'static, Result<DnsResponse, NetError>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let server = Arc::clone(&self.0);
        once(async move {
            let response = server.query(&request, None).await?;
            // Errors of the server are no proof of anything, so they stay errors.
            Ok(DnsError::from_response(response)?)
        })
        .boxed()
    }
}

/// A validator for each of `servers`. Reads the file of trust anchors.
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
    // An empty file would do for hickory, which counts only the root's keys.
    if !text.to_ascii_uppercase().contains("DNSKEY") {
        return Err(LookupError::BadFile);
    }
    TrustAnchors::from_str(&text).map_err(|_| LookupError::BadFile)
}

/// An answer that DNSSEC proves, or proves to need no proof (an unsigned zone).
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
    let is_sound = |record: &Record| matches!(record.proof, Proof::Secure | Proof::Insecure);
    if response.answers.iter().all(is_sound) && has_required_proof(&response, query) {
        Ok(response)
    } else {
        Err(LookupError::Bogus)
    }
}

/// Whether what needs a proof of its own has one: that there are no such records, or that a wildcard
/// stands for the name (RFC 4035, 5.4).
///
/// hickory does not look for it where all of the authority section is provably unsigned, whatever zones
/// that is of. Only a zone that the name is in can do without.
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
