//! A trust domain that is followed, as it is accepted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest;
use hauberk_identity::{SpiffeId, TrustDomain};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::{SpiffeBundle, is_dns_name};
use prost::Message;

use super::choice;
use super::key::ResourceKey;
use super::problem::Problems;

/// The port of `https` URLs that name none.
const HTTPS: u16 = 443;

/// The lowest other port: below it other protocols live, which are nothing to speak TLS to.
const LOWEST_OTHER_PORT: u16 = 1024;

/// The longest URL, in bytes.
const LONGEST_URL: usize = 2_048;

/// A trust domain that is followed: where its bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedTrustDomain {
    trust_domain: TrustDomain,
    initial: Option<Arc<SpiffeBundle>>,
    endpoint: Option<BundleEndpoint>,
    digest: [u8; 32],
}

/// Where a trust domain serves its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEndpoint {
    url: EndpointUrl,
    profile: EndpointProfile,
    allows_private: bool,
}

/// How who answers at an endpoint is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By the web's authorities and the host of the URL.
    Web,
    /// By this SPIFFE id, which is of the trust domain itself.
    Spiffe(SpiffeId),
}

/// An `https` URL without user, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    host: String,
    port: u16,
    path: String,
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
        let initial = read_bundle(trust_domain_bundle, &trust_domain, problems);
        let url = match &bundle_endpoint_url[..] {
            "" => None,
            url => EndpointUrl::parse(url)
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
        let allows_private = allow_private_addresses.unwrap_or_default();
        let endpoint = url.zip(profile).map(|(url, profile)| BundleEndpoint { url, profile, allows_private });
        let mut spec_digest = [0; 32];
        spec_digest.copy_from_slice(digest::digest(&digest::SHA256, &spec.encode_to_vec()).as_ref());
        (problems.count() == before).then_some(Self { trust_domain, initial, endpoint, digest: spec_digest })
    }

    /// Whose members are meant.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle that is written in the resource.
    pub fn initial(&self) -> Option<&Arc<SpiffeBundle>> {
        self.initial.as_ref()
    }

    /// Where later ones come from; `None`: from nowhere.
    pub fn endpoint(&self) -> Option<&BundleEndpoint> {
        self.endpoint.as_ref()
    }

    /// SHA-256 of the spec: what was fetched for another one no longer counts.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl BundleEndpoint {
    /// Its URL.
    pub fn url(&self) -> &EndpointUrl {
        &self.url
    }

    /// How who answers is known.
    pub fn profile(&self) -> &EndpointProfile {
        &self.profile
    }

    /// Whether it may be asked at this address. The names in URLs are resolved by servers of others, who could name any
    /// address in our own network. Never link-local ones: there clouds serve their machines' secrets.
    pub fn may_be_at(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.may_be_at_v4(address),
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(mapped) => self.may_be_at_v4(mapped),
                None => self.may_be_at_v6(address),
            },
        }
    }

    fn may_be_at_v4(&self, address: Ipv4Addr) -> bool {
        let [first, second, third, _] = address.octets();
        let is_shared = first == 100 && (64..128).contains(&second);
        let is_for_tests = (first == 198 && matches!(second, 18 | 19)) || address.is_documentation();
        let is_for_protocols = (first, second, third) == (192, 0, 0);
        if address.is_link_local() || first == 0 || first >= 224 || is_for_protocols {
            return false;
        }
        let is_inside = address.is_private() || address.is_loopback() || is_shared || is_for_tests;
        self.allows_private || !is_inside
    }

    fn may_be_at_v6(&self, address: Ipv6Addr) -> bool {
        let is_global = address.segments().first().is_some_and(|first| (0x2000..0x4000).contains(first));
        // What is translated to IPv4 on its way, or tunnelled, could be any address of IPv4.
        let is_translated = matches!(address.segments(), [0x2002, ..] | [0x2001, 0, ..]);
        let is_inside = address.is_loopback() || address.is_unique_local();
        (is_global && !is_translated) || (self.allows_private && is_inside)
    }
}

impl EndpointUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |what: &str| Err(format!("{what}: a URL such as https://bundles.partner.example/ is needed"));
        if text.len() > LONGEST_URL {
            return wrong("it is longer than 2048 bytes");
        }
        let Ok(uri) = text.parse::<http::Uri>() else { return wrong("it is no URL") };
        let Some(authority) = uri.authority() else { return wrong("it has no host") };
        if uri.scheme_str() != Some("https") {
            return wrong("it is not https");
        }
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return wrong("it has a user, a query or a fragment");
        }
        // An address of IPv6 stands in brackets.
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.parse::<IpAddr>().is_err() && !is_dns_name(bare) {
            return wrong("its host is neither a DNS name nor an IP address");
        }
        let port = match authority.port() {
            None if authority.as_str() == host => HTTPS,
            Some(port) if port.as_u16() == HTTPS || port.as_u16() >= LOWEST_OTHER_PORT => port.as_u16(),
            _ => return wrong("its port is neither 443 nor one from 1024 to 65535"),
        };
        Ok(Self { host: bare.to_ascii_lowercase(), port, path: uri.path().to_owned() })
    }

    /// The DNS name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path, which begins with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What stands between the scheme and the path.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

fn read_bundle(text: &str, trust_domain: &TrustDomain, problems: &mut Problems) -> Option<Arc<SpiffeBundle>> {
    if text.is_empty() {
        return None;
    }
    let field = "spec.trustDomainBundle";
    match SpiffeBundle::parse(trust_domain, text.as_bytes()) {
        Ok(bundle) if bundle.is_empty() => {
            let help =
                "keys for SVIDs have `use` x509-svid or jwt-svid: is this a key set of OpenID Connect?";
            problems.invalid_but(field, "it has no key of SPIFFE's: nobody could be verified by it", help);
            None
        }
        Ok(bundle) => Some(Arc::new(bundle)),
        Err(error) => {
            problems.invalid(field, error);
            None
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
    if initial.is_none_or(|bundle| bundle.x509().roots().is_empty()) {
        let message = "with https_spiffe the first connection is verified by this bundle: it is missing, or has no root";
        problems.invalid("spec.trustDomainBundle", message);
    }
    match SpiffeId::parse(endpoint_spiffe_id) {
        Ok(id) if id.is_member_of(trust_domain) => Some(EndpointProfile::Spiffe(id)),
        Ok(id) => {
            problems.invalid(
                field,
                format!("{id} is not of {trust_domain}, which must vouch for its own endpoint"),
            );
            None
        }
        Err(error) => {
            problems.invalid(field, error);
            None
        }
    }
}

#[cfg(test)]
mod tests;
