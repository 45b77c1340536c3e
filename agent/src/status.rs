//! How the agent is at this moment: what probes, metrics and `/config` tell.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::addresses::Addresses;
use crate::connections::Connections;
use crate::credentials::Credentials;
use crate::decisions::Decisions;
use crate::mesh::{Inbound, Mesh};
use crate::metrics::Page;

/// Everything that tells how the agent is. Made before there is a certificate, completed when there is one.
#[derive(Debug)]
pub(crate) struct Status {
    mesh: Mesh,
    control_plane: String,
    /// What is bound where; none while a listener is missing.
    pub(crate) addresses: watch::Sender<Addresses>,
    /// Whether there is a stream to the control plane.
    pub(crate) connected: watch::Sender<bool>,
    /// Whether what is known is as new as it can be for now: from the control plane, or from disk where that is away.
    pub(crate) settled: watch::Sender<bool>,
    /// Whether new traffic is asked to go elsewhere.
    pub(crate) draining: watch::Sender<bool>,
    joined: OnceLock<Joined>,
}

/// What there is once the agent has joined.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) credentials: Credentials,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) connections: Arc<Connections>,
}

impl Status {
    pub(crate) fn new(mesh: Mesh, control_plane: String, addresses: Addresses) -> Self {
        Self {
            mesh,
            control_plane,
            addresses: watch::Sender::new(addresses),
            connected: watch::Sender::new(false),
            settled: watch::Sender::new(false),
            draining: watch::Sender::new(false),
            joined: OnceLock::new(),
        }
    }

    /// Tells that the agent has joined. Once is enough.
    pub(crate) fn joined(&self, joined: Joined) {
        let _ = self.joined.set(joined);
    }

    /// Why traffic is not served, or nothing where it is.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.joined.get().is_none() {
            return Some("not_joined");
        }
        if !*self.settled.borrow() {
            return Some("not_settled");
        }
        if *self.draining.borrow() {
            return Some("draining");
        }
        if let Inbound::Closed { reason } = &**self.mesh.inbound().borrow() {
            return Some(reason.as_str());
        }
        if self.mesh.applied.view().is_none() {
            return Some("view_not_applied");
        }
        if !self.addresses.borrow().is_complete { Some("listener_not_bound") } else { None }
    }

    /// Waits until traffic is served.
    pub(crate) async fn ready(&self) {
        let mut inbound = self.mesh.inbound();
        let mut applied = self.mesh.applied.subscribe();
        let mut addresses = self.addresses.subscribe();
        let mut settled = self.settled.subscribe();
        while self.unready().is_some() {
            // None of the senders goes away while `self` is there.
            tokio::select! {
                _ = inbound.changed() => {}
                _ = applied.changed() => {}
                _ = addresses.changed() => {}
                _ = settled.changed() => {}
            }
        }
    }

    /// In the text format of Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let mut page = Page::default();
        page.gauge("hauberk_agent_ready", "Whether traffic is served.", self.unready().is_none().into());
        page.gauge(
            "hauberk_agent_control_plane_connected",
            "Whether there is a stream to the control plane.",
            (*self.connected.borrow()).into(),
        );
        page.gauge(
            "hauberk_view_revision",
            "The revision of the view in force, 0 for none.",
            self.mesh.applied.view().map_or(0, |view| view.revision),
        );
        page.gauge(
            "hauberk_agent_services",
            "Services that this agent follows.",
            self.mesh.services.all().len() as u64,
        );
        if let Some(Joined { credentials, decisions, connections, .. }) = self.joined.get() {
            page.gauge(
                "hauberk_certificate_not_after_seconds",
                "When our certificate expires, Unix time.",
                credentials.not_after().as_secs(),
            );
            page.counter(
                "hauberk_agent_decisions_recorded_total",
                "Decisions with an id: denials, and what audit let through.",
                decisions.recorded(),
            );
            page.counter(
                "hauberk_agent_access_lines_dropped_total",
                "Access lines that could not be written as fast.",
                decisions.dropped_lines(),
            );
            connections.context().metrics.write(&mut page);
        }
        page.into_text()
    }

    /// For local administrators. Holds nothing secret.
    pub(crate) fn config(&self) -> Value {
        json!({
            "ready": self.unready().is_none(),
            "unready": self.unready(),
            "control_plane": { "address": self.control_plane, "connected": *self.connected.borrow() },
            "identity": self.joined.get().map(identity),
            "addresses": *self.addresses.borrow(),
            "inbound": self.inbound(),
            "services": self.services(),
        })
    }

    fn inbound(&self) -> Value {
        let inbound = self.mesh.inbound();
        let inbound = inbound.borrow();
        match &**inbound {
            Inbound::Closed { reason } => json!({ "closed": reason.as_str() }),
            Inbound::Open(view) => json!({
                "epoch": view.epoch,
                "revision": view.revision,
                "applied": self.mesh.applied.view().is_some_and(|applied| Arc::ptr_eq(&applied, view)),
                "ports": view.ports.iter().map(|port| json!({
                    "port": port.number,
                    "protocol": port.protocol.as_str(),
                    "services": port.services.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            }),
        }
    }

    fn services(&self) -> Vec<Value> {
        let endpoints = |target: &crate::mesh::Target| -> Vec<Value> {
            let snapshot = target.endpoints.snapshot();
            let one = |endpoint: &crate::mesh::Endpoint| {
                json!({
                    "address": endpoint.address.to_string(),
                    "instance": endpoint.instance,
                    "confirmed": endpoint.confirmed,
                })
            };
            snapshot.iter().map(one).collect()
        };
        let ports = |service: &crate::mesh::Service| -> Vec<Value> {
            let targets = |port: &crate::mesh::ServicePort| -> Vec<Value> {
                let one = |target: &crate::mesh::Target| json!({ "spiffe_id": target.spiffe_id.as_str(), "endpoints": endpoints(target) });
                port.targets.iter().map(one).collect()
            };
            let one = |port: &crate::mesh::ServicePort| json!({ "port": port.number, "protocol": port.protocol.as_str(), "targets": targets(port) });
            service.ports.iter().map(one).collect()
        };
        let one = |service: &Arc<crate::mesh::Service>| json!({ "name": service.name.as_str(), "revision": service.revision, "ports": ports(service) });
        self.mesh.services.all().iter().map(one).collect()
    }
}

fn identity(joined: &Joined) -> Value {
    let current = joined.credentials.live().current();
    json!({
        "spiffe_id": current.svid().map(|svid| svid.id().to_string()),
        "instance": joined.decisions.instance().as_str(),
        "serial": current.svid().map(|svid| svid.serial().to_string()),
        "not_after": current.svid().map(|svid| svid.validity().not_after().to_string()),
        "roots": current.bundle().roots().iter().map(|root| root.fingerprint().to_string()).collect::<Vec<_>>(),
    })
}
