//! What follows from the authorities for all who sign and verify: an immutable snapshot.

use std::sync::Arc;

use hauberk_identity::TrustDomain;
use hauberk_proto::agent::v1 as agent;
use hauberk_tls::{CertificateDer, Fingerprint, IssuingAuthority, Svid, SvidError, TrustBundle};

use super::book::{Book, Entry, Kind};
use super::{AuthorityError, KeyStore, ViewKey, ViewKeys, make};

/// The time over which agents spread the renewals of certificates whose authority signs no longer. 10,000 agents then ask
/// for 2,000 certificates a second, half of what a control plane issues.
const RENEW_WITHIN_MS: u32 = 5_000;

/// What stands beside our own certificate's chain, so that whoever knows one of the trusted roots, by its fingerprint alone even,
/// can verify it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerChain {
    /// The issuing authority's certificates by roots before its own.
    pub(super) crosses: Vec<CertificateDer<'static>>,
    /// Its own root, then those that vouch for it by a cross certificate.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl ServerChain {
    /// A certificate of our own as it is shown to clients.
    ///
    /// # Errors
    /// The chain would become too long.
    pub fn complete(&self, svid: &Svid) -> Result<Svid, SvidError> {
        let Self { crosses, roots } = self;
        svid.vouched_for_by(crosses.iter().cloned(), roots.iter().cloned())
    }
}

/// Who signs and who is trusted at one moment.
pub(super) struct InForce {
    pub(super) version: u64,
    pub(super) issuing: Arc<IssuingAuthority>,
    pub(super) bundle: Arc<TrustBundle>,
    pub(super) server_chain: ServerChain,
    pub(super) has_revoked: bool,
    pub(super) view_keys: ViewKeys,
    renew: Vec<String>,
    distrusted: Vec<Fingerprint>,
}

impl InForce {
    /// What a new installation begins with.
    pub(super) fn founded(issuing: IssuingAuthority, view_keys: ViewKeys, version: u64) -> Self {
        let bundle = issuing.root_bundle().clone();
        Self {
            version,
            server_chain: ServerChain {
                crosses: Vec::new(),
                roots: bundle.roots().iter().map(|root| root.der().clone()).collect(),
            },
            bundle: Arc::new(bundle),
            issuing: Arc::new(issuing),
            has_revoked: false,
            view_keys,
            renew: Vec::new(),
            distrusted: Vec::new(),
        }
    }

    /// What the book holds when the control plane starts: whoever signs has to be able to.
    pub(super) async fn at_start(
        book: &Book,
        trust_domain: &TrustDomain,
        keys: &KeyStore,
    ) -> Result<Self, AuthorityError> {
        let issuing = make::open_issuing(book, active(book)?, keys).await?;
        let view_keys = ViewKeys::of(book, keys, None)?;
        Self::of(book, trust_domain, None, Arc::new(issuing), view_keys)
    }

    /// What follows from the book after a step. It takes no token: revocations must not wait for one.
    pub(super) fn after(
        book: &Book,
        trust_domain: &TrustDomain,
        before: &Self,
        keys: &KeyStore,
    ) -> Result<Self, AuthorityError> {
        let active = active(book)?;
        let issuing = if before.issuing.serial().to_string() == active.serial {
            Arc::clone(&before.issuing)
        } else {
            Arc::new(make::load_issuing(book, active, keys)?)
        };
        let view_keys = ViewKeys::of(book, keys, Some(&before.view_keys))?;
        Self::of(book, trust_domain, Some(before), issuing, view_keys)
    }

    fn of(
        book: &Book,
        trust_domain: &TrustDomain,
        before: Option<&Self>,
        issuing: Arc<IssuingAuthority>,
        view_keys: ViewKeys,
    ) -> Result<Self, AuthorityError> {
        let active = active(book)?;
        let root = book.find(&active.record.root).ok_or(AuthorityError::Missing("root"))?;
        let distrusted: Vec<_> = book.distrusted().map(|entry| entry.certificate.key_fingerprint()).collect();
        let bundle = TrustBundle::new(trust_domain.clone(), book.trusted_roots().map(Entry::der))?
            .distrusting(distrusted.iter().copied());
        let trusted_before = |before: &Self| {
            let roots = before.bundle.roots();
            roots.iter().all(|root| bundle.root(root.fingerprint()).is_some())
                && distrusted.iter().all(|key| before.distrusted.contains(key))
        };
        let has_revoked = before.is_some_and(|before| before.has_revoked || !trusted_before(before));
        Ok(Self {
            version: book.trust.version,
            server_chain: server_chain(book, active, root),
            bundle: Arc::new(bundle),
            issuing,
            has_revoked,
            view_keys,
            renew: book.to_renew().map(|entry| entry.serial.clone()).collect(),
            distrusted,
        })
    }

    /// The same as agents are told it.
    pub(super) fn message(&self) -> agent::Trust {
        agent::Trust {
            trust_domain: self.bundle.trust_domain().to_string(),
            roots: self.bundle.roots().iter().map(|root| root.der().to_vec()).collect(),
            view_keys: self.view_keys.believed.iter().map(view_key).collect(),
            version: self.version,
            renew_issuers: self.renew.clone(),
            distrusted_keys: self.distrusted.iter().map(|key| key.as_bytes().to_vec()).collect(),
            renew_within_ms: RENEW_WITHIN_MS,
        }
    }
}

fn view_key(key: &ViewKey) -> agent::ViewKey {
    let ViewKey { key_id, public_key } = key.clone();
    agent::ViewKey { key_id, public_key }
}

fn active(book: &Book) -> Result<&Entry, AuthorityError> {
    book.active(Kind::Issuing).ok_or(AuthorityError::Missing("issuing authority"))
}

/// While roots before are still trusted, those who know one of them alone find a way from our certificate to it too: contexts of
/// admins who have not looked since, agents that begin with a fingerprint that was printed before, foreign clients with a
/// bundle file. The oldest first: whoever learnt of a later one while that was trusted knows it as well.
fn server_chain(book: &Book, active: &Entry, root: &Entry) -> ServerChain {
    let former =
        book.before(root).filter_map(|former| Some((active.cross_by(&former.serial)?, former.der())));
    let room = make::room_for_former(active.record.intermediates.len());
    let (crosses, former): (_, Vec<_>) = former.take(room).unzip();
    ServerChain { crosses, roots: std::iter::once(root.der()).chain(former).collect() }
}
