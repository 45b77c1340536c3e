//! Callers whom agents turn away before they ask policies: the reasons that answers about what would be decided name.

use hauberk_policy::Reason;

/// Each with its name, so that none can be made that is not found by it.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident: $name:expr;)*) => {
        /// Why agents turn somebody away, whatever it asks for and policies say.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum OfCaller {
            $($(#[$doc])* $variant,)*
        }

        impl OfCaller {
            /// A stable name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The one of this name; none where a reason is of another sort.
            pub fn named(name: &str) -> Option<Self> {
                [$(Self::$variant),*].into_iter().find(|own| own.as_str() == name)
            }
        }
    };
}

reasons! {
    /// It shows no certificate, and no listener takes such callers.
    Anonymous: "anonymous_not_taken";
    /// The mesh has no bundle of its trust domain.
    Unfederated: Reason::TrustDomainNotFederated.as_str();
    /// Its node is in quarantine, or of a workload each that vouches for it.
    Quarantined: "quarantined";
    /// The node that is called is in quarantine: its agents let nobody in, and others do not call it.
    CalledQuarantined: "called_quarantined";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_its_name() {
        for name in ["anonymous_not_taken", "trust_domain_not_federated", "quarantined", "called_quarantined"]
        {
            assert_eq!(OfCaller::named(name).map(OfCaller::as_str), Some(name));
        }
        assert_eq!(OfCaller::named("forbidden"), None);
    }
}
