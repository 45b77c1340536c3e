//! Names.

use hauberk_identity::{EvidenceSelector, NodeName, Selector, SpiffeId, TrustDomain};

use crate::Target;

/// An id is spelt in one way, and is a member of the trust domain that it names alone.
pub(crate) fn spiffe_id() -> Target {
    let seeds =
        ["spiffe://shop.local/mesh/shop/node/orders", "spiffe://shop.local/workload/batch", "shop.local"];
    Target::of_text("spiffe_id", seeds, |text| {
        let (id, domain) = (SpiffeId::parse(text), TrustDomain::parse(text));
        if let Ok(id) = &id {
            assert_eq!(id.as_str(), text);
            assert!(text.is_ascii() && text.len() <= 2048);
            let domain = id.trust_domain();
            assert!(id.is_member_of(&domain));
            assert_eq!(TrustDomain::parse(domain.as_str()).as_ref(), Ok(&domain));
            assert!(text.starts_with(&domain.id_string()));
            let _ = id.kind();
        }
        if let Ok(domain) = &domain {
            assert_eq!(domain.as_str(), text);
            assert!(domain.as_str().len() <= 255);
        }
        id.is_ok() || domain.is_ok()
    })
}

/// Selectors are compared as text: each is spelt in one way.
pub(crate) fn selector() -> Target {
    let seeds = [
        "unix:uid:1000",
        "unix:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "docker:label:com.docker.compose.service:orders",
        "docker:image_id:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "systemd:id:orders.service",
        "k8s:ns:shop",
        "aws:account:123456789012",
        "x509pop:san:dns:machine.shop.example",
        "gateway/edge",
    ];
    Target::of_text("selector", seeds, |text| {
        let (program, evidence, node) =
            (Selector::parse(text), EvidenceSelector::parse(text), NodeName::parse(text));
        for selector in program.iter() {
            assert_eq!(Selector::parse(&selector.to_string()).as_ref(), Ok(selector));
        }
        for selector in evidence.iter() {
            assert_eq!(EvidenceSelector::parse(&selector.to_string()).as_ref(), Ok(selector));
        }
        for name in node.iter() {
            assert_eq!(NodeName::parse(&name.to_string()).as_ref(), Ok(name));
        }
        program.is_ok() || evidence.is_ok() || node.is_ok()
    })
}
