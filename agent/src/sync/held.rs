//! What the agent has accepted: in force, and kept on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::signing::ViewVerifier;

use super::age::ViewAge;
use super::apply::{Authentic, Content, Floors, Prepared, Recipient, Rejection, authenticate};
use super::disk::{Disk, Kind, Write};
use super::endpoints::{self, BadEndpoints};
use crate::credentials::Credentials;
use crate::mesh::{ClosedReason, Mesh, NodeView, Service};
use crate::state::{Mark, State, StateError};

/// What is accepted, and the way of anything new into force. Owned by the one task that runs sessions.
#[derive(Debug)]
pub struct Held {
    pub(super) mesh: Mesh,
    pub(super) disk: Disk,
    pub(super) recipient: Recipient,
    age: Arc<ViewAge>,
    pub(super) mark: Mark,
    node: Option<Arc<NodeView>>,
    /// The key that signed the view that is kept.
    pub(super) node_key: String,
    pub(super) services: BTreeMap<Name, HeldService>,
    /// Our virtual node is gone.
    is_dismissed: bool,
    are_services_unsaved: bool,
    are_endpoints_unsaved: bool,
}

#[derive(Debug, Clone)]
pub(super) struct HeldService {
    pub(super) signed: pb::SignedView,
    pub(super) mark: Mark,
    pub(super) digest: [u8; 32],
}

/// What became of a view that came.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is in force for new traffic; acknowledge it once it is for live traffic too.
    Node(Arc<NodeView>),
    /// It is in force.
    Service(pb::Acknowledge),
    /// It is not.
    Refused(pb::Refuse),
}

impl Held {
    /// Puts in force what is on disk, as far as it is good.
    ///
    /// Signatures, numbers and addressees are checked as if the views had just come. What is damaged is reported and
    /// left out; without a view of our own everything stays denied.
    pub fn load(
        state: Arc<State>,
        mesh: Mesh,
        recipient: Recipient,
        keys: &ViewVerifier,
        age: Arc<ViewAge>,
    ) -> Self {
        let mut held = Self {
            mesh,
            disk: Disk::new(Arc::clone(&state)),
            recipient,
            age,
            mark: Mark::default(),
            node: None,
            node_key: String::new(),
            services: BTreeMap::new(),
            is_dismissed: false,
            are_services_unsaved: false,
            are_endpoints_unsaved: false,
        };
        held.reload_denylist(keys);
        held.mark = or_report(state.mark()).flatten().unwrap_or_default();
        held.disk.has_mark(held.mark);
        if let Some(at) = or_report(state.view_confirmed_at()).flatten() {
            held.age.confirmed_until(UnixMillis(at));
        }
        for update in or_report(state.endpoints()).unwrap_or_default() {
            if let Err(error) = held.take_endpoints(&update, false) {
                tracing::error!(event = "state_damaged", %error);
            }
        }
        if let Some(signed) = or_report(state.node_view()).flatten() {
            held.reload(signed, keys);
        }
        for signed in or_report(state.service_views()).unwrap_or_default() {
            held.reload(signed, keys);
        }
        held.are_services_unsaved = false;
        held.are_endpoints_unsaved = false;
        held
    }

    /// Checks a view that came and puts it in force, or says why not.
    pub(super) async fn take(&mut self, signed: pb::SignedView, keys: &ViewVerifier) -> Taken {
        let authentic = match authenticate(&signed, keys, &self.recipient, &self.floors()) {
            Ok(authentic) => authentic,
            Err(rejection) => return self.reject(None, &rejection),
        };
        let is_further = authentic.service.is_none() && authentic.mark > self.mark;
        if is_further {
            self.mark = authentic.mark;
        }
        if let Some(current) = self.in_force(&authentic) {
            if self.node_key != signed.key_id {
                // On a later day the former key is believed no longer, nor what it has signed at a start.
                self.keep_node_view(signed);
            }
            return Taken::Node(current);
        }
        // Compiling large views takes a while, which the data path's threads do not have.
        let former = self.node.clone();
        let (authentic, prepared) = match tokio::task::spawn_blocking(move || {
            let prepared = authentic.prepare(former.as_deref());
            (authentic, prepared)
        })
        .await
        {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match prepared {
            Ok(prepared) => self.put_in_force(prepared, signed),
            Err(rejection) => {
                if is_further {
                    self.disk.keep(Write::Mark(self.mark));
                }
                self.reject(Some(&authentic), &rejection)
            }
        }
    }

    /// Takes over what the control plane tells of endpoints.
    pub(super) fn take_endpoints(
        &mut self,
        update: &pb::EndpointsUpdate,
        is_fresh: bool,
    ) -> Result<(), BadEndpoints> {
        let (target, port, endpoints) = endpoints::read(update, is_fresh)?;
        self.mesh.endpoints.update(&target, port, endpoints);
        self.are_endpoints_unsaved = true;
        Ok(())
    }

    /// Takes note of services that do not exist.
    pub(super) fn take_gone(&mut self, gone: &pb::ServicesGone) {
        let names: Vec<Name> = gone.names.iter().filter_map(|name| Name::parse(name).ok()).collect();
        self.mesh.services.remove(&names);
        self.forget(&names);
    }

    /// Takes note that our virtual node is gone: nothing is let in or sent out, nor is anything put in force that is
    /// issued for it. The disk is to forget what we kept of it, so that a restart finds nobody to be. False where an
    /// older control plane says it than the one we have heard: nothing changes.
    pub(super) fn take_node_gone(&mut self, at: Mark) -> bool {
        if at < self.mark {
            tracing::error!(event = "node_gone_refused", said_at = ?at, held = ?self.mark,
                "a control plane that is older than our view knows nothing of our node: was it restored from a backup?");
            return false;
        }
        self.mesh.gate.close(ClosedReason::NodeDeleted);
        self.mesh.services.clear();
        self.disk.state().node_is_gone();
        self.disk.keep(Write::NodeGone(self.mark));
        if self.is_dismissed {
            return true;
        }
        tracing::error!(event = "node_deleted", spiffe_id = %self.recipient.spiffe_id,
            "our virtual node or gateway was deleted: everything is denied; to join another, start again with a new token");
        self.is_dismissed = true;
        self.node = None;
        self.services.clear();
        (self.are_services_unsaved, self.are_endpoints_unsaved) = (false, false);
        true
    }

    /// Forgets the views of services that are followed no longer.
    pub(super) fn forget(&mut self, names: &[Name]) {
        let before = self.services.len();
        self.services.retain(|name, _| !names.contains(name));
        self.are_services_unsaved |= self.services.len() != before;
    }

    /// Notes that the control plane has nothing newer.
    pub(super) fn confirmed(&self) {
        self.age.confirmed_for_now();
    }

    /// Has services and endpoints written, if they have changed. They change often and are of use only after a restart,
    /// so that they are not written at each change.
    pub(super) fn save(&mut self, now: UnixMillis) {
        if std::mem::take(&mut self.are_services_unsaved) {
            let views = self.services.values().map(|held| held.signed.clone());
            self.disk.keep(Write::ServiceViews(views.collect()));
        }
        if std::mem::take(&mut self.are_endpoints_unsaved) {
            self.disk.keep(Write::Endpoints(endpoints::to_keep(&self.mesh.endpoints)));
        }
        if self.age.is_limited() && self.age.is_confirmed_for_now() {
            self.disk.keep(Write::ConfirmedAt(now));
        }
    }

    /// Has what is trusted written, unless the disk has it, or that waits for its turn already.
    pub(super) fn save_trust(&self, credentials: &Credentials) {
        if !credentials.is_trust_kept() && self.disk.has(Kind::Trust) {
            self.disk.keep(Write::Trust(credentials.clone()));
        }
    }

    /// Has what is unsaved written; the view's age counts from now, whatever the disk does.
    pub(super) fn session_ended(&mut self, now: UnixMillis) {
        self.save(now);
        if self.age.is_confirmed_for_now() {
            self.age.confirmed_until(now);
        }
    }

    fn floors(&self) -> Floors {
        let services = self.services.iter().map(|(name, held)| (name.clone(), held.mark)).collect();
        Floors { node: self.mark, services }
    }

    /// The view in force, if it is this very one.
    fn in_force(&self, authentic: &Authentic) -> Option<Arc<NodeView>> {
        let node = self.node.as_ref()?;
        let is_same = authentic.service.is_none()
            && authentic.digest == node.digest
            && authentic.mark == Mark { epoch: node.epoch, revision: node.revision };
        is_same.then(|| {
            self.mesh.gate.open(Arc::clone(node));
            Arc::clone(node)
        })
    }

    fn put_in_force(&mut self, prepared: Prepared, signed: pb::SignedView) -> Taken {
        let taken = self.publish(prepared, &signed);
        if let Taken::Node(_) = &taken {
            // Live traffic is brought in line meanwhile.
            self.keep_node_view(signed);
        }
        taken
    }

    fn keep_node_view(&mut self, signed: pb::SignedView) {
        self.node_key.clone_from(&signed.key_id);
        self.disk.keep(Write::NodeView(signed, self.mark));
    }

    fn publish(&mut self, prepared: Prepared, signed: &pb::SignedView) -> Taken {
        let Prepared { mark, digest, content } = prepared;
        match content {
            Content::Node { view, backends, max_view_age } => {
                self.is_dismissed = false;
                self.disk.state().node_is_back();
                if self.node.is_none() {
                    // What came while our node was gone was not written.
                    (self.are_services_unsaved, self.are_endpoints_unsaved) = (true, true);
                }
                self.mesh.services.set_backends(backends);
                self.age.set_limit(max_view_age);
                self.mesh.gate.open(Arc::clone(&view));
                self.node = Some(Arc::clone(&view));
                self.node_key.clone_from(&signed.key_id);
                tracing::info!(event = "view_accepted", epoch = mark.epoch, revision = mark.revision);
                Taken::Node(view)
            }
            Content::Service(service) => {
                let name = service.name.clone();
                let service = Service::new(mark.epoch, mark.revision, digest, service, &self.mesh.endpoints);
                self.mesh.services.install(vec![Arc::new(service)]);
                tracing::debug!(event = "service_view_accepted", service = %name, revision = mark.revision);
                let acknowledge =
                    pb::Acknowledge { epoch: mark.epoch, revision: mark.revision, service: name.to_string() };
                self.services.insert(name, HeldService { signed: signed.clone(), mark, digest });
                self.are_services_unsaved = true;
                Taken::Service(acknowledge)
            }
        }
    }

    fn reject(&self, authentic: Option<&Authentic>, rejection: &Rejection) -> Taken {
        let reason = rejection.reason();
        let service = authentic.and_then(|authentic| authentic.service.as_ref());
        tracing::error!(event = "view_refused", reason, service = service.map(Name::as_str), detail = %rejection);
        // A view of a service that cannot be applied leaves our own rules as they are.
        if let (Some(closed), None) = (rejection.closes(), service) {
            self.mesh.gate.close(closed);
        }
        let mark = match rejection {
            Rejection::Older { offered, .. } => *offered,
            _ => authentic.map(|authentic| authentic.mark).unwrap_or_default(),
        };
        Taken::Refused(pb::Refuse {
            epoch: mark.epoch,
            revision: mark.revision,
            service: service.map(ToString::to_string).unwrap_or_default(),
            reason: reason.to_owned(),
            detail: rejection.to_string(),
        })
    }

    fn reload(&mut self, signed: pb::SignedView, keys: &ViewVerifier) {
        let ready = authenticate(&signed, keys, &self.recipient, &self.floors())
            .and_then(|authentic| authentic.prepare(None));
        match ready {
            Ok(prepared) => {
                let mark = prepared.mark;
                if let Taken::Node(_) = self.publish(prepared, &signed)
                    && mark > self.mark
                {
                    // It was killed between the two. Until the mark is there, an older view could be put back.
                    self.mark = mark;
                    self.disk.keep(Write::Mark(mark));
                }
            }
            Err(rejection) => {
                tracing::error!(event = "stored_view_discarded", reason = rejection.reason(), detail = %rejection);
            }
        }
    }
}

fn or_report<T>(read: Result<T, StateError>) -> Option<T> {
    read.map_err(|error| tracing::error!(event = "state_damaged", %error)).ok()
}
