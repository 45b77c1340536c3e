//! Why it cannot be said what would be decided.

/// Why recorded calls cannot be decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undecidable {
    /// A policy reads something, such as a header field, that was not recorded, since no policy read it then; or it
    /// depends on users, of whom nothing is recorded, or on who vouches for them.
    FactsNotRecorded,
    /// A policy reads the time or the certificate's age, which are recorded of the latest call alone.
    DependsOnTime,
    /// Their paths, or where they came from, were too many to be recorded.
    TooMany,
    /// What was recorded is no call that this port would take.
    Unreadable,
    /// The service that they called is another node's: what that node decides is not found out here.
    CalledElsewhere,
    /// The service that they called is nobody's at this port any longer: callers may not come here at all.
    NotCalled,
    /// The listener speaks another protocol, or refuses requests that it passed on, before policies are asked.
    ListenerChanges,
    /// Who called would be somebody else, or nobody: what gave the identity is gone, or gives it to others.
    CallerChanges,
    /// The caller's trust domain is verified by another bundle, or by one that is still to be fetched.
    BundleChanges,
}

impl Undecidable {
    /// A stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FactsNotRecorded => "facts_not_recorded",
            Self::DependsOnTime => "depends_on_time",
            Self::TooMany => "too_many_to_record",
            Self::Unreadable => "unreadable_record",
            Self::CalledElsewhere => "called_elsewhere",
            Self::NotCalled => "no_longer_called",
            Self::ListenerChanges => "listener_changes",
            Self::CallerChanges => "caller_changes",
            Self::BundleChanges => "bundle_changes",
        }
    }
}
