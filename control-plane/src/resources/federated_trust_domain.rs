//! A trust domain that is followed, as it is accepted.

mod vouching;

use std::sync::Arc;

use aws_lc_rs::digest;
use hauberk_identity::{SpiffeId, TrustDomain};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::SpiffeBundle;
use prost::Message;

use super::choice;
use super::key::ResourceKey;
use super::passed_over::passed_over;
use super::problem::Problems;
use super::web_endpoint::WebEndpoint;

pub(crate) use vouching::vouching;
pub use vouching::{Unvouched, Vouching};

/// A trust domain that is followed: where its bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedTrustDomain {
    trust_domain: TrustDomain,
    initial: Option<Arc<SpiffeBundle>>,
    passed_over: Vec<String>,
    endpoint: Option<BundleEndpoint>,
    digest: [u8; 32],
}

/// Where a trust domain serves its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEndpoint {
    at: WebEndpoint,
    profile: EndpointProfile,
}

/// How who answers at an endpoint is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By the web's authorities and the host of the URL.
    Web,
    /// By this SPIFFE id: of the trust domain itself, of our own, or of another one that is followed.
    Spiffe(SpiffeId),
}

impl FederatedTrustDomain {
    /// Reads a spec, and reports everything that is wrong with it. The resource's name is the trust domain.
    pub(crate) fn parse(
        spec: &wire::FederatedTrustDomainSpec,
        key: &ResourceKey,
        own: &TrustDomain,
        problems: &mut Problems,
    ) -> Option<Self> {
        let before = problems.count();
        let wire::FederatedTrustDomainSpec {
            trust_domain_bundle,
            bundle_endpoint_url,
            bundle_endpoint_profile,
            allow_private_addresses,
        } = spec;
        let trust_domain = match TrustDomain::parse(key.name.as_str()) {
            Ok(trust_domain) if trust_domain == *own => {
                problems.invalid("name", "this is our own trust domain: its members need no federation");
                None
            }
            Ok(trust_domain) => Some(trust_domain),
            Err(error) => {
                problems.invalid_but("name", error, "the name is the trust domain, such as partner.example");
                None
            }
        };
        let trust_domain = trust_domain?;
        let (initial, passed_over) = read_bundle(trust_domain_bundle, &trust_domain, problems);
        let url = match &bundle_endpoint_url[..] {
            "" => None,
            url => WebEndpoint::parse(url, allow_private_addresses.unwrap_or_default())
                .map_err(|reason| problems.invalid("spec.bundleEndpointUrl", reason))
                .ok(),
        };
        let profile = bundle_endpoint_profile
            .as_ref()
            .and_then(|profile| read_profile(profile, &trust_domain, initial.as_deref(), problems));
        if bundle_endpoint_url.is_empty() != bundle_endpoint_profile.is_none() {
            let (field, message) = if bundle_endpoint_url.is_empty() {
                ("spec.bundleEndpointUrl", "a profile is of no use without a URL")
            } else {
                ("spec.bundleEndpointProfile", "how who answers at the URL is known is missing")
            };
            problems.invalid_but(field, message, "write type: https_spiffe with its id, or type: https_web");
        }
        if trust_domain_bundle.is_empty() && bundle_endpoint_url.is_empty() {
            let help = "write trustDomainBundle:, or bundleEndpointUrl: and its profile, or both";
            problems.invalid_but("spec", "it says nowhere what its members are verified by", help);
        }
        let endpoint = url.zip(profile).map(|(at, profile)| BundleEndpoint { at, profile });
        // All of it decides where bundles come from, or whether they are believed.
        let source = wire::FederatedTrustDomainSpec {
            trust_domain_bundle: trust_domain_bundle.clone(),
            bundle_endpoint_url: bundle_endpoint_url.clone(),
            bundle_endpoint_profile: bundle_endpoint_profile.clone(),
            allow_private_addresses: allow_private_addresses.filter(|allows| *allows),
        };
        let mut spec_digest = [0; 32];
        spec_digest.copy_from_slice(digest::digest(&digest::SHA256, &source.encode_to_vec()).as_ref());
        let read = Self { trust_domain, initial, passed_over, endpoint, digest: spec_digest };
        (problems.count() == before).then_some(read)
    }

    /// Whose members are meant.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle that is written in the resource.
    pub fn initial(&self) -> Option<&Arc<SpiffeBundle>> {
        self.initial.as_ref()
    }

    /// Which of the keys of that are of no use, and why.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// Where later ones come from; `None`: from nowhere.
    pub fn endpoint(&self) -> Option<&BundleEndpoint> {
        self.endpoint.as_ref()
    }

    /// The other trust domain of which its endpoint is, if it is.
    pub(crate) fn vouched_by(&self) -> Option<TrustDomain> {
        match self.endpoint()?.profile() {
            EndpointProfile::Spiffe(id) if !id.is_member_of(&self.trust_domain) => Some(id.trust_domain()),
            EndpointProfile::Spiffe(_) | EndpointProfile::Web => None,
        }
    }

    /// Whether who answers at its endpoint is known by the bundle that is in force of itself.
    pub(crate) fn vouches_for_itself(&self) -> bool {
        let is_spiffe = |endpoint: &BundleEndpoint| matches!(endpoint.profile(), EndpointProfile::Spiffe(_));
        self.endpoint().is_some_and(is_spiffe) && self.vouched_by().is_none()
    }

    /// SHA-256 of the spec: what was fetched for another one no longer counts.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl BundleEndpoint {
    /// Where it is.
    pub fn at(&self) -> &WebEndpoint {
        &self.at
    }

    /// How who answers is known.
    pub fn profile(&self) -> &EndpointProfile {
        &self.profile
    }
}

/// The bundle that is written in a resource, and which keys of it are of no use.
fn read_bundle(
    text: &str,
    trust_domain: &TrustDomain,
    problems: &mut Problems,
) -> (Option<Arc<SpiffeBundle>>, Vec<String>) {
    if text.is_empty() {
        return (None, Vec::new());
    }
    let field = "spec.trustDomainBundle";
    match SpiffeBundle::parse_and_tell(trust_domain, text.as_bytes()) {
        Ok((bundle, errors)) if bundle.is_empty() => {
            match errors.first() {
                Some(first) => problems.invalid(field, format!("none of its keys is of use: {first}")),
                None => {
                    let message = "it has no key of SPIFFE's: nobody could be verified by it";
                    let help = "keys for SVIDs have `use` x509-svid or jwt-svid: is this a key set of OpenID Connect?";
                    problems.invalid_but(field, message, help);
                }
            }
            (None, Vec::new())
        }
        Ok((bundle, errors)) => (Some(Arc::new(bundle)), passed_over(&errors)),
        Err(error) => {
            problems.invalid(field, error);
            (None, Vec::new())
        }
    }
}

fn read_profile(
    profile: &wire::BundleEndpointProfile,
    trust_domain: &TrustDomain,
    initial: Option<&SpiffeBundle>,
    problems: &mut Problems,
) -> Option<EndpointProfile> {
    let wire::BundleEndpointProfile { r#type, endpoint_spiffe_id } = profile;
    let known = [("https_web", false), ("https_spiffe", true)];
    let is_spiffe = choice::choose(problems, "spec.bundleEndpointProfile.type", r#type, &known)?;
    let field = "spec.bundleEndpointProfile.endpointSpiffeId";
    if !is_spiffe {
        if !endpoint_spiffe_id.is_empty() {
            problems.invalid(field, "it is of no use with https_web");
        }
        return Some(EndpointProfile::Web);
    }
    let id = SpiffeId::parse(endpoint_spiffe_id).map_err(|error| problems.invalid(field, error)).ok();
    // Where another trust domain vouches for it, that one's bundle says who answers.
    let is_own = id.as_ref().is_none_or(|id| id.is_member_of(trust_domain));
    if is_own && initial.is_none_or(|bundle| bundle.x509().roots().is_empty()) {
        let message = "with https_spiffe the first connection is verified by this bundle: it is missing, or has no root";
        problems.invalid("spec.trustDomainBundle", message);
    }
    id.map(EndpointProfile::Spiffe)
}

#[cfg(test)]
pub(crate) mod tests;
