//! Whether, and by which rules, traffic is let in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::{Engine, ObsText, Protocol, UserTokens};
use hauberk_tls::FederatedBundles;
use tokio::sync::watch;

use super::denylist::Denial;
use super::external::External;
use crate::users::{TokenFields, Users};

/// What decides inbound traffic.
#[derive(Debug, Clone)]
pub enum Inbound {
    /// Everything is denied.
    Closed {
        /// Why.
        reason: ClosedReason,
    },
    /// The view's engine decides.
    Open(Arc<NodeView>),
}

/// Why everything is denied. [`ClosedReason::as_str`] is the name in logs and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedReason {
    /// No view has come yet.
    NoView,
    /// An authentic view came that needs a feature which this agent lacks.
    MissingFeature,
    /// An authentic view came that cannot be applied.
    InvalidView,
    /// The view has not been confirmed for longer than its `maxViewAge`.
    ViewTooOld,
    /// Our own certificate has expired.
    CertificateExpired,
    /// Our virtual node was deleted.
    NodeDeleted,
    /// Our own certificate was revoked.
    Revoked,
    /// Our node is in quarantine.
    Quarantined,
    /// What is kept of the denylist cannot be read, so that it is not known who is to be refused.
    NoDenylist,
}

impl ClosedReason {
    /// Whether nothing is sent out either: we are nobody any longer, or do not know who is not to be called.
    fn ends_outbound(self) -> bool {
        match self {
            Self::CertificateExpired
            | Self::NodeDeleted
            | Self::Revoked
            | Self::Quarantined
            | Self::NoDenylist => true,
            Self::NoView | Self::MissingFeature | Self::InvalidView | Self::ViewTooOld => false,
        }
    }

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoView => "no_view",
            Self::MissingFeature => "missing_feature",
            Self::InvalidView => "invalid_view",
            Self::ViewTooOld => "view_too_old",
            Self::CertificateExpired => "certificate_expired",
            Self::NodeDeleted => "node_deleted",
            Self::Revoked => "revoked",
            Self::Quarantined => "quarantined",
            Self::NoDenylist => "no_denylist",
        }
    }
}

/// The node's own view, ready to decide by.
#[derive(Debug)]
pub struct NodeView {
    /// The control plane's epoch.
    pub epoch: u64,
    /// The revision at which the view's content last changed.
    pub revision: u64,
    /// The SHA-256 of the view as it was signed.
    pub digest: [u8; 32],
    /// Our own id.
    pub spiffe_id: SpiffeId,
    /// Our listeners.
    pub ports: Vec<Port>,
    /// What decides.
    pub engine: Engine,
    /// What clients of other trust domains are verified by.
    pub federated: FederatedBundles,
    /// Who says who users are; none where nobody does.
    pub users: Option<Arc<Users>>,
    /// What may leave the mesh from here.
    pub externals: Vec<Arc<External>>,
}

/// One listener, as the view describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number in the mesh; where we really listen is configured.
    pub number: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The virtual services that this port is.
    pub services: Vec<Name>,
    /// How tokens of users are taken; none where nobody looks at them.
    pub users: Option<UserTokens>,
    /// What becomes of header fields with bytes beyond ASCII.
    pub obs_text: ObsText,
}

impl NodeView {
    /// Whether a header field holds tokens of users, however it is spelled; `authorization` aside.
    pub fn is_token_field(&self, name: &str) -> bool {
        self.users.as_ref().is_some_and(|users| users.token_fields().hold(name))
    }

    /// All of these fields.
    pub fn token_fields(&self) -> TokenFields {
        self.users.as_ref().map(|users| users.token_fields().clone()).unwrap_or_default()
    }

    /// The listener with this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// The one writer of [`Inbound`]: several reasons may close at once, and inbound opens when none is left.
#[derive(Debug)]
pub struct InboundGate {
    causes: Mutex<Causes>,
    current: watch::Sender<Arc<Inbound>>,
    has_valid_certificate: AtomicBool,
    /// What [`Inbound::ends_outbound`] says, for whoever asks for each request.
    ends_outbound: ArcSwap<Option<ClosedReason>>,
}

#[derive(Debug)]
struct Causes {
    view: Option<Arc<NodeView>>,
    /// An authentic newer view that could not be applied.
    unusable: Option<ClosedReason>,
    too_old: bool,
    expired: bool,
    /// Everybody refuses us.
    denied: Option<ClosedReason>,
    /// What is kept of the denylist cannot be read.
    no_denylist: bool,
}

impl InboundGate {
    /// Closed, since there is no view and no certificate.
    pub fn new() -> Self {
        let closed = Inbound::Closed { reason: ClosedReason::NoView };
        Self {
            causes: Mutex::new(Causes {
                view: None,
                unusable: None,
                too_old: false,
                expired: true,
                denied: None,
                no_denylist: false,
            }),
            current: watch::Sender::new(Arc::new(closed)),
            has_valid_certificate: AtomicBool::new(false),
            ends_outbound: ArcSwap::from_pointee(Some(ClosedReason::CertificateExpired)),
        }
    }

    /// What decides, now and at each change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Inbound>> {
        self.current.subscribe()
    }

    /// Whether our own certificate is valid.
    pub fn has_valid_certificate(&self) -> bool {
        self.has_valid_certificate.load(Ordering::Relaxed)
    }

    /// Why nothing may be sent out, where that is so. Takes no lock.
    pub fn ends_outbound(&self) -> Option<ClosedReason> {
        **self.ends_outbound.load()
    }

    /// Decides by this view from now on.
    pub fn open(&self, view: Arc<NodeView>) {
        self.change(|causes| {
            causes.view = Some(view);
            causes.unusable = None;
            causes.too_old = false;
        });
    }

    /// Denies everything until a view comes that can be applied.
    pub fn close(&self, reason: ClosedReason) {
        self.change(|causes| causes.unusable = Some(reason));
    }

    /// Tells whether the view in force is older than it may be.
    pub fn set_too_old(&self, too_old: bool) {
        self.change(|causes| causes.too_old = too_old);
    }

    /// Tells whether our own certificate is valid.
    pub fn set_certificate_valid(&self, valid: bool) {
        self.has_valid_certificate.store(valid, Ordering::Relaxed);
        self.change(|causes| causes.expired = !valid);
    }

    /// Tells whether everybody refuses us, and why.
    pub fn set_denied(&self, denial: Option<Denial>) {
        self.change(|causes| {
            causes.denied = denial.map(|denial| match denial {
                Denial::Revoked => ClosedReason::Revoked,
                Denial::Quarantined => ClosedReason::Quarantined,
            });
        });
    }

    /// Tells whether it is known who is to be refused.
    pub fn set_denylist_known(&self, known: bool) {
        self.change(|causes| causes.no_denylist = !known);
    }

    fn change(&self, change: impl FnOnce(&mut Causes)) {
        // Held while sending, so that two changes are published in their order. Nothing under it blocks.
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut causes);
        let next = causes.outcome();
        self.ends_outbound.store(Arc::new(next.ends_outbound()));
        self.current.send_if_modified(|current| {
            let differs = !current.is_same(&next);
            if differs {
                *current = Arc::new(next);
            }
            differs
        });
    }
}

impl Default for InboundGate {
    fn default() -> Self {
        Self::new()
    }
}

impl Causes {
    fn outcome(&self) -> Inbound {
        let closed = |reason| Inbound::Closed { reason };
        let deleted = self.unusable.filter(|reason| *reason == ClosedReason::NodeDeleted);
        if self.expired {
            return closed(ClosedReason::CertificateExpired);
        }
        if let Some(reason) = deleted.or(self.denied) {
            return closed(reason);
        }
        match (&self.view, self.unusable) {
            _ if self.no_denylist => closed(ClosedReason::NoDenylist),
            (_, Some(reason)) => closed(reason),
            (None, None) => closed(ClosedReason::NoView),
            (Some(_), None) if self.too_old => closed(ClosedReason::ViewTooOld),
            (Some(view), None) => Inbound::Open(Arc::clone(view)),
        }
    }
}

impl Inbound {
    /// Why nothing may be sent out either, where that is so.
    pub fn ends_outbound(&self) -> Option<ClosedReason> {
        match self {
            Self::Closed { reason } if reason.ends_outbound() => Some(*reason),
            Self::Closed { .. } | Self::Open(_) => None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Closed { reason }, Self::Closed { reason: other }) => reason == other,
            (Self::Open(view), Self::Open(other)) => Arc::ptr_eq(view, other),
            _ => false,
        }
    }
}
