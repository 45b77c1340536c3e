//! Who we are and whom we trust: published to every handshake, and kept on disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{IdentityKind, InstanceId, Name, Serial, SpiffeId, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::{
    CertificateDer, KeyPair, LiveIdentity, LiveIdentityError, Svid, SvidError, Usage, VerifyError,
    verify_svid,
};
use thiserror::Error;
use tokio::sync::watch;

use crate::skew;
use crate::state::{State, StateError, StoredIdentity, StoredTrust};

/// Our certificate, the trust bundle and the keys that sign views. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Credentials {
    live: LiveIdentity,
    trust: watch::Sender<Arc<StoredTrust>>,
    /// Held by whoever changes that: a renewal and the stream may at once, and what every handshake uses is to be of
    /// the same version.
    changing_trust: Arc<Mutex<()>>,
    /// What the disk has of it.
    kept_trust: watch::Sender<Arc<StoredTrust>>,
    /// Held by whoever writes it, so that an older one is not written over a newer.
    writing_trust: Arc<Mutex<()>>,
    /// Our certificate and its key, where the disk does not have them. They are put here only while a
    /// [`Membership`](crate::state::Membership) is held, and written only while a [`Keeping`](crate::state::Keeping)
    /// is.
    unsaved: watch::Sender<Option<Arc<StoredIdentity>>>,
    /// Of the last certificate of which the control plane has said that it has no record.
    not_on_record: watch::Sender<Option<Serial>>,
    state: Arc<State>,
}

/// A certificate and what came with it, verified.
#[derive(Debug)]
pub struct Issued {
    /// Our certificate and its key.
    pub identity: StoredIdentity,
    /// What to trust.
    pub trust: StoredTrust,
}

/// Why what the control plane sent cannot be used. The fault is the control plane's, or a disk's.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A part of the message is missing.
    #[error("the control plane's answer lacks {0}")]
    Missing(&'static str),
    /// The trust cannot be read.
    #[error("what the control plane says to trust cannot be: {0}")]
    Trust(String),
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(#[from] SvidError),
    /// The certificate is not what peers would accept.
    #[error("the certificate does not verify: {0}")]
    Unverified(#[from] VerifyError),
    /// By this host's clock the certificate is not valid when it is issued. The fault is a clock's.
    #[error("{0}")]
    Clock(String),
    /// The certificate is for another key than ours.
    #[error("the certificate is not for our key")]
    OtherKey,
    /// The certificate is of no node or gateway.
    #[error("the certificate names {0}, which is no node of a mesh")]
    NoNode(SpiffeId),
    /// The certificate names somebody else than the one that is renewed.
    #[error("the certificate names {now}, but we are {before}")]
    OtherId {
        /// Whom the new one names.
        now: SpiffeId,
        /// Who we are.
        before: SpiffeId,
    },
    /// It cannot be published.
    #[error(transparent)]
    Live(#[from] LiveIdentityError),
    /// It is not to be kept.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Issued {
    /// Reads and verifies what the control plane issued for `key`.
    ///
    /// # Errors
    /// It is not a certificate that peers would accept as a node's.
    pub fn check(
        certificate: Option<pb::Certificate>,
        trust: Option<pb::Trust>,
        instance: InstanceId,
        key: KeyPair,
        now: UnixMillis,
    ) -> Result<Self, CredentialsError> {
        let certificate = certificate.ok_or(CredentialsError::Missing("the certificate"))?;
        let trust = StoredTrust::new(trust.ok_or(CredentialsError::Missing("what to trust"))?)
            .map_err(CredentialsError::Trust)?;
        let svid = Svid::from_der(certificate.chain.into_iter().map(CertificateDer::from))?;
        let issued_at = UnixMillis(certificate.issued_at_unix_ms);
        let issued =
            Self { identity: StoredIdentity { instance, issued_at, used_token: None, svid, key }, trust };
        match issued.verify(now) {
            Ok(()) => Ok(issued),
            Err(CredentialsError::Unverified(fault)) if fault.is_about_time() => {
                Err(match skew::of_issued(issued_at, now) {
                    Some(skew) => {
                        CredentialsError::Clock(format!("{skew} (the certificate does not verify: {fault})"))
                    }
                    None => CredentialsError::Unverified(fault),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Verifies as a peer would.
    ///
    /// # Errors
    /// A peer would refuse the certificate now.
    pub fn verify(&self, now: UnixMillis) -> Result<(), CredentialsError> {
        let StoredIdentity { svid, key, .. } = &self.identity;
        if key.public_key().fingerprint() != svid.key_fingerprint() {
            return Err(CredentialsError::OtherKey);
        }
        verify_svid(svid.chain(), &self.trust.bundle, now, Usage::Client)?;
        mesh_of(svid.id()).map(drop)
    }
}

impl Credentials {
    /// Publishes what was issued or found on disk, and what to trust, which the disk has.
    ///
    /// # Errors
    /// Certificate, key and bundle do not belong together.
    pub fn new(issued: Issued, state: Arc<State>) -> Result<Self, CredentialsError> {
        let Issued { identity, trust } = issued;
        let live = LiveIdentity::new(trust.bundle.clone());
        live.publish(identity.svid, &identity.key)?;
        let trust = Arc::new(trust);
        Ok(Self {
            live,
            kept_trust: watch::Sender::new(Arc::clone(&trust)),
            trust: watch::Sender::new(trust),
            changing_trust: Arc::default(),
            writing_trust: Arc::default(),
            unsaved: watch::Sender::new(None),
            not_on_record: watch::Sender::new(None),
            state,
        })
    }

    /// The identity that every handshake uses.
    pub fn live(&self) -> &LiveIdentity {
        &self.live
    }

    /// What to trust: the roots, and the keys whose signatures on views are good.
    pub fn trust(&self) -> Arc<StoredTrust> {
        Arc::clone(&self.trust.borrow())
    }

    /// What to trust, now and at each change.
    pub fn trust_changes(&self) -> watch::Receiver<Arc<StoredTrust>> {
        self.trust.subscribe()
    }

    /// Over which time to renew our certificate, where the authority that signed it signs no longer.
    pub fn renewal_within(&self) -> Option<Duration> {
        self.trust.borrow().renewal_within(self.live.current().svid()?)
    }

    /// The control plane has no record of the certificate with this serial number.
    pub(crate) fn tell_not_on_record(&self, serial: Option<Serial>) {
        self.not_on_record.send_replace(serial);
    }

    /// Whether that is said of our present certificate.
    pub(crate) fn is_not_on_record(&self) -> bool {
        let serial = self.live.current().svid().map(Svid::serial);
        serial.is_some() && *self.not_on_record.borrow() == serial
    }

    /// Each time that it is said.
    pub(crate) fn not_on_record(&self) -> watch::Receiver<Option<Serial>> {
        self.not_on_record.subscribe()
    }

    /// Where they are kept.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Who we are.
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        self.live.current().svid().map(|svid| svid.id().clone())
    }

    /// Until when our certificate is valid.
    pub fn not_after(&self) -> UnixMillis {
        self.live.current().svid().map_or(UnixMillis(0), |svid| svid.validity().not_after())
    }

    /// Publishes a renewed certificate, which must be for the id that we are. Waits for no disk.
    ///
    /// [`Self::save`] brings it there: a restart before that finds the former certificate, which is good until it ends.
    ///
    /// # Errors
    /// It names somebody else, or comes when our virtual node is gone.
    pub fn replace(&self, issued: Issued) -> Result<(), CredentialsError> {
        // What the stream has told meanwhile is newer than what came with the certificate.
        self.put_in_force(issued, |own, told| own.version() >= told.version())
    }

    /// The same for a certificate of an instance that has joined anew: the control plane may have been restored and
    /// count what to trust anew too.
    ///
    /// # Errors
    /// As above.
    pub fn begin_anew(&self, issued: Issued) -> Result<(), CredentialsError> {
        self.put_in_force(issued, |_, _| true)
    }

    fn put_in_force(
        &self,
        issued: Issued,
        is_news: impl FnOnce(&StoredTrust, &StoredTrust) -> bool,
    ) -> Result<(), CredentialsError> {
        let Issued { identity, trust } = issued;
        if let Some(before) = self.spiffe_id()
            && before != *identity.svid.id()
        {
            return Err(CredentialsError::OtherId { now: identity.svid.id().clone(), before });
        }
        // First the bundle: the new certificate may come from an authority that only it vouches for.
        self.put_trust_in_force(trust, is_news)?;
        // Held until it is in force: if our node goes meanwhile, that is known only afterwards.
        let membership = self.state.membership()?;
        self.live.publish(identity.svid.clone(), &identity.key)?;
        self.unsaved.send_replace(Some(Arc::new(identity)));
        drop(membership);
        Ok(())
    }

    /// Brings to the disk what is in force and not there, which takes as long as the disk does.
    ///
    /// # Errors
    /// The disk refuses. What is in force stays so, and may be written later.
    pub fn save(&self) -> Result<(), StateError> {
        // Whatever becomes of the trust.
        self.forget_if_gone()?;
        // A restart would not believe the certificate without it.
        self.save_trust()?;
        let keeping = self.state.keeping()?;
        // Looked at only now: what was issued for a node that went before is not there any longer.
        let unsaved = self.unsaved.borrow().clone();
        if let Some(identity) = unsaved {
            keeping.save_identity(&identity)?;
            // Another may have come into force meanwhile.
            self.unsaved.send_if_modified(|unsaved| {
                unsaved.take_if(|unsaved| Arc::ptr_eq(unsaved, &identity)).is_some()
            });
        }
        Ok(())
    }

    /// Writes nothing later of what was issued for a virtual node that is gone: whoever joins next is somebody else.
    ///
    /// # Errors
    /// It is gone.
    pub fn forget_if_gone(&self) -> Result<(), StateError> {
        self.state.membership().map(drop).inspect_err(|_| _ = self.unsaved.send_replace(None))
    }

    /// Whether something is in force that a restart would not find.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved.borrow().is_some()
    }

    /// Our key, where the disk does not have it.
    pub(crate) fn unsaved_key(&self) -> Option<KeyPair> {
        let unsaved = self.unsaved.borrow().clone()?;
        // What was made of a key is one.
        KeyPair::from_pkcs8_der(&unsaved.key.to_pkcs8_der()).ok()
    }

    /// Waits until something is in force that a restart would not find.
    pub async fn unsaved(&self) {
        // The sender is ours.
        let _ = self.unsaved.subscribe().wait_for(Option::is_some).await;
    }

    /// Publishes what to trust from now on, which [`Self::save_trust`] keeps: whom to believe no longer does not wait
    /// for a disk. Gives what is in force by that.
    ///
    /// # Errors
    /// It cannot be read, or is of another trust domain.
    pub fn replace_trust(&self, trust: pb::Trust) -> Result<Arc<StoredTrust>, CredentialsError> {
        let trust = StoredTrust::new(trust).map_err(CredentialsError::Trust)?;
        self.put_trust_in_force(trust, |_, _| true)
    }

    /// `is_news` is asked about it and what is in force, of which nobody else makes something else meanwhile.
    fn put_trust_in_force(
        &self,
        trust: StoredTrust,
        is_news: impl FnOnce(&StoredTrust, &StoredTrust) -> bool,
    ) -> Result<Arc<StoredTrust>, CredentialsError> {
        let _alone = self.changing_trust.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.trust();
        if trust.message() == before.message() || !is_news(&trust, &before) {
            return Ok(before);
        }
        if trust.bundle.trust_domain() != before.bundle.trust_domain() {
            return Err(LiveIdentityError::TrustDomain.into());
        }
        let trust = Arc::new(trust);
        self.live.publish_bundle(trust.bundle.clone())?;
        self.trust.send_replace(Arc::clone(&trust));
        tracing::info!(event = "trust_replaced", version = trust.version());
        Ok(trust)
    }

    /// Brings what is trusted to the disk, if it is not there.
    ///
    /// # Errors
    /// The disk refuses. What is in force stays so, and may be written later.
    pub fn save_trust(&self) -> Result<(), StateError> {
        let _alone = self.writing_trust.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = self.trust();
        if !Arc::ptr_eq(&trust, &self.kept_trust.borrow()) {
            self.state.save_trust(&trust)?;
            self.kept_trust.send_replace(trust);
        }
        Ok(())
    }

    /// Whether a restart would trust what is trusted now.
    pub fn is_trust_kept(&self) -> bool {
        Arc::ptr_eq(&self.trust.borrow(), &self.kept_trust.borrow())
    }
}

/// The mesh that a node or gateway belongs to.
///
/// # Errors
/// The id is no node's or gateway's.
pub fn mesh_of(id: &SpiffeId) -> Result<Name, CredentialsError> {
    match id.kind() {
        IdentityKind::Node { mesh, .. } | IdentityKind::Gateway { mesh, .. } => Name::parse(mesh).ok(),
        _ => None,
    }
    .ok_or_else(|| CredentialsError::NoNode(id.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::testing::{Authorities, HOUR, around};

    /// A renewal brings what was to be trusted when it was asked for, and the stream what is by now.
    #[test]
    fn what_is_told_while_something_older_is_put_in_force_comes_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(folder.path()).unwrap());
        let authorities = Authorities::new();
        let identity = authorities.identity("mesh/shop/node/orders", around(HOUR));
        let former = |version| pb::Trust { version, ..authorities.trust() };
        let stored = |version| StoredTrust::new(former(version)).unwrap();
        let mut latest = former(3);
        latest.roots.push(Authorities::new().root.certificate().to_vec());
        let credentials = Credentials::new(Issued { identity, trust: stored(1) }, state).unwrap();
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel();
            let renewed = credentials.put_trust_in_force(stored(2), |_, _| {
                let credentials = &credentials;
                scope.spawn(move || {
                    credentials.replace_trust(latest).unwrap();
                    let _ = done.send(());
                });
                // Whoever is not kept out is done long before.
                let _ = is_done.recv_timeout(Duration::from_millis(100));
                true
            });
            renewed.unwrap();
        });
        let trust = credentials.trust();
        assert_eq!(trust.version(), 3);
        assert_eq!(**credentials.live().current().bundle(), trust.bundle);
    }
}
