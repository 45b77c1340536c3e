//! Another trust domain, of which a mesh knows by its bundle alone: its authorities, in a test's hands.

use hauberk_identity::{Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_tls::{
    IssuingAuthority, KeyPair, RootAuthority, Svid, SvidTemplate, TrustBundle, bundle_document,
    jwt::JwtBundle,
};

use crate::{login::now, spiffe_clients::Foreigner};

/// An authority of `partner.test`.
pub(crate) struct Partner {
    issuing: IssuingAuthority,
}

impl Partner {
    /// Authorities with serial numbers that begin with this one.
    pub(crate) fn new(number: u8) -> Self {
        let domain = TrustDomain::parse("partner.test").unwrap();
        let serial = |more| Serial::from_random([number + more; 16]);
        let root = RootAuthority::create(&domain, hours(), serial(0)).unwrap();
        Self { issuing: IssuingAuthority::create(&root, hours(), serial(1)).unwrap() }
    }

    /// The resource by which its members are known.
    pub(crate) fn resource(&self) -> String {
        let roots = self.issuing.root_bundle();
        let tokens = JwtBundle::new(roots.trust_domain().clone(), Vec::new()).unwrap();
        let bundle = bundle_document(roots, &tokens, None, None);
        format!(
            "kind: FederatedTrustDomain\nmesh: shop\nname: partner.test\nspec: {{trustDomainBundle: '{bundle}'}}\n"
        )
    }

    /// What verifies its members.
    pub(crate) fn bundle(&self) -> TrustBundle {
        self.issuing.root_bundle().clone()
    }

    /// A workload of its, as a client.
    pub(crate) fn workload(&self, name: &str) -> Foreigner {
        let (svid, key) = self.identity(name);
        Foreigner::with(&svid, &key)
    }

    /// What proves a workload of its.
    pub(crate) fn identity(&self, name: &str) -> (Svid, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let template = SvidTemplate {
            id: SpiffeId::parse(&format!("spiffe://partner.test/workload/{name}")).unwrap(),
            public_key: key.public_key(),
            serial: Serial::from_random([9; 16]),
            validity: hours(),
            dns_names: vec![],
            ip_addresses: vec![],
        };
        (self.issuing.sign(&template).unwrap(), key)
    }
}

fn hours() -> Validity {
    let at = |seconds| UnixMillis::from_secs(seconds);
    Validity::new(at(now() - 3600), at(now() + 3600)).unwrap()
}
