//! SPIFFE ids of our own trust domain, as tables show them.

/// The text with each id of our trust domain as its path alone: `mesh/shop/node/web`, `admin/anna`. Those of others stay
/// whole, so that a partner's is never taken for one of ours.
pub(super) fn short(text: &str, trust_domain: &str) -> String {
    text.replace(&full("", trust_domain), "")
}

/// The id that such a path is short for.
pub(super) fn full(path: &str, trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_ids_are_shortened() {
        let short = |text: &str| short(text, "shop.example");
        assert_eq!(short("spiffe://shop.example/mesh/shop/node/web"), "mesh/shop/node/web");
        assert_eq!(short("x of spiffe://shop.example/admin/anna: no"), "x of admin/anna: no");
        for whole in ["spiffe://partner.example/admin/anna", "spiffe://shop.example", "admin"] {
            assert_eq!(short(whole), whole);
        }
        assert_eq!(full("admin/anna", "shop.example"), "spiffe://shop.example/admin/anna");
    }
}
