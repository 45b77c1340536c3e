//! What the control plane says of workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hauberk_identity::{
    Name, NameError, Selector, SelectorError, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError,
};
use hauberk_proto::agent::v1 as pb;
use thiserror::Error;

/// The workloads that this agent vouches for, by their enrollments' names.
pub type Entries = BTreeMap<Name, Entry>;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What must hold of a program, all of it; never empty.
    pub selectors: Vec<Selector>,
    /// How a program with several identities tells them apart.
    pub hint: String,
    /// Other trust domains whose bundles it is given, where they are followed.
    pub federates_with: BTreeSet<TrustDomain>,
    /// The longest life of its tokens; `None`: an older control plane has not said.
    pub token_life: Option<Duration>,
    /// What its certificates say. Other than before: a new certificate is needed.
    pub certificate: Certified,
}

/// What a workload's certificates say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Whom they name.
    pub id: SpiffeId,
    /// DNS names beside the id.
    pub dns_names: Vec<String>,
    /// How long they live; `None`: as the control plane likes.
    pub ttl: Option<Duration>,
}

/// An entry that cannot be. The fault is the control plane's, or it is newer than this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum EntryError {
    /// Its name.
    #[error("its name: {0}")]
    Name(#[from] NameError),
    /// Its id.
    #[error("its id: {0}")]
    Id(#[from] SpiffeIdError),
    /// One of the trust domains that it federates with.
    #[error("a trust domain that it federates with: {0}")]
    TrustDomain(#[from] TrustDomainError),
    /// A selector that this agent cannot tell to be true.
    #[error("a selector that this agent does not know: {0}")]
    Selector(#[from] SelectorError),
    /// None at all: everybody would get it.
    #[error("it has no selectors")]
    NoSelectors,
}

/// Reads all entries. One that cannot be read is nobody's, and told.
pub(crate) fn read(message: pb::WorkloadEntries) -> Entries {
    let mut entries = Entries::new();
    for entry in message.entries {
        let enrollment = entry.enrollment.clone();
        match read_one(entry) {
            Ok((name, entry)) => {
                entries.insert(name, entry);
            }
            Err(error) => {
                tracing::error!(event = "workload_entry_refused", enrollment, %error, "nobody gets this identity here");
            }
        }
    }
    entries
}

fn read_one(message: pb::WorkloadEntry) -> Result<(Name, Entry), EntryError> {
    let pb::WorkloadEntry {
        enrollment,
        spiffe_id,
        selectors,
        hint,
        ttl_ms,
        dns_names,
        federates_with,
        jwt_ttl_ms,
    } = message;
    let selectors = selectors.iter().map(|text| Selector::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if selectors.is_empty() {
        return Err(EntryError::NoSelectors);
    }
    let of_millis = |millis| (millis > 0).then(|| Duration::from_millis(millis));
    let (ttl, token_life) = (of_millis(ttl_ms), of_millis(jwt_ttl_ms));
    let certificate = Certified { id: SpiffeId::parse(&spiffe_id)?, dns_names, ttl };
    let federates_with =
        federates_with.iter().map(|name| TrustDomain::parse(name)).collect::<Result<_, _>>()?;
    Ok((Name::parse(&enrollment)?, Entry { selectors, hint, federates_with, token_life, certificate }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_nobodys() {
        let entry = |enrollment: &str, spiffe_id: &str, selectors: &[&str]| pb::WorkloadEntry {
            enrollment: enrollment.to_owned(),
            spiffe_id: spiffe_id.to_owned(),
            selectors: selectors.iter().map(|text| (*text).to_owned()).collect(),
            ..pb::WorkloadEntry::default()
        };
        let id = "spiffe://shop.local/workload/worker";
        let entries = read(pb::WorkloadEntries {
            entries: vec![
                entry("good", id, &["unix:uid:1", "unix:gid:2"]),
                entry("everybody", id, &[]),
                entry("half-known", id, &["unix:uid:1", "moon:phase:full"]),
                entry("a/b", id, &["unix:uid:1"]),
                entry("nobody", "spiffe://shop.local", &["unix:uid:1"]),
            ],
        });
        assert_eq!(entries.keys().map(Name::as_str).collect::<Vec<_>>(), ["good"]);
    }
}
