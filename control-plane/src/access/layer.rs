//! The layer before all services: no call reaches a service without standing in the table and passing it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hauberk_identity::IdentityKind;
use hauberk_tls::{PeerIdentity, Usage};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::caller::{CallContext, Caller, ConnectionInfo};
use super::table::{Access, access_to};
use crate::admins::{AdminError, Admins};
use crate::audit::{Act, Actor, Audit};
use crate::authority::Authority;
use crate::clock::Clock;
use crate::issuance::Ledger;
use crate::metrics::{Metrics, OutcomeLabel};
use crate::revocation::{Denial, Revocations};
use crate::rpc::status;

/// Puts [`AccessService`] before a service.
#[derive(Clone)]
pub struct AccessLayer {
    checks: Arc<Checks>,
}

struct Checks {
    admins: Arc<Admins>,
    ledger: Arc<Ledger>,
    revocations: Arc<Revocations>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    authority: Arc<Authority>,
    clock: Clock,
}

impl AccessLayer {
    /// Puts the parts together.
    pub fn new(
        admins: Arc<Admins>,
        ledger: Arc<Ledger>,
        revocations: Arc<Revocations>,
        audit: Arc<Audit>,
        metrics: Arc<Metrics>,
        authority: Arc<Authority>,
        clock: Clock,
    ) -> Self {
        Self { checks: Arc::new(Checks { admins, ledger, revocations, audit, metrics, authority, clock }) }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService { inner, checks: Arc::clone(&self.checks) }
    }
}

/// Refuses calls, or lets them through with a [`CallContext`] in their extensions.
#[derive(Clone)]
pub struct AccessService<S> {
    inner: S,
    checks: Arc<Checks>,
}

impl<S> Service<http::Request<Body>> for AccessService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let checks = Arc::clone(&self.checks);
        // The instance that was polled ready serves this call; a clone waits for the next.
        let waiting = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, waiting);
        Box::pin(async move {
            let connection = request.extensions().get::<ConnectionInfo>().cloned();
            match checks.admit(request.uri().path(), connection).await {
                Ok(context) => {
                    request.extensions_mut().insert(context);
                    ready.call(request).await
                }
                Err(refusal) => Ok(refusal.into_http()),
            }
        })
    }
}

impl Checks {
    async fn admit(&self, path: &str, connection: Option<ConnectionInfo>) -> Result<CallContext, Status> {
        let access = access_to(path).ok_or_else(|| {
            Status::unimplemented("there is no such RPC here: does it need a newer control plane?")
        })?;
        let (source, peer, channel, local) = match connection {
            Some(ConnectionInfo::Tls { address, peer, channel }) => {
                (address.to_string(), peer, Some(channel), None)
            }
            Some(ConnectionInfo::Local { uid }) => ("unix".to_owned(), None, None, Some(uid)),
            None => return Err(Status::permission_denied("the connection is unknown")),
        };
        // Also of what anybody may call: who shows a certificate is the one it names. A stream is told why, and then ended.
        if let Some(peer) = &peer
            && access != Access::AgentStream
            && let Some(denial) = self.revocations.denylist().denial(peer.id(), peer.serial())
        {
            return Err(self.deny(peer, source, path, denial).await);
        }
        let caller = match access {
            Access::Public => Caller::Anybody,
            Access::Local => match local {
                Some(uid) => Caller::Local { uid },
                None => return Err(Status::unimplemented("this RPC is served on the Unix socket only")),
            },
            Access::Agent | Access::AgentStream => {
                let peer = peer.ok_or_else(|| no_certificate("an agent"))?;
                self.check_trust(&peer)?;
                if !matches!(peer.id().kind(), IdentityKind::Node { .. } | IdentityKind::Gateway { .. }) {
                    return Err(Status::permission_denied(format!("{} is no agent", peer.id())));
                }
                let instance =
                    self.ledger.instance_of(&peer).await.map_err(|error| status::of_store(&error))?;
                if access != Access::AgentStream && self.revocations.denylist().is_instance_revoked(instance)
                {
                    return Err(self.deny(&peer, source, path, Denial::Revoked).await);
                }
                Caller::Agent { peer, instance }
            }
            Access::AnyAdmin | Access::Roles(_) => {
                let peer = peer.ok_or_else(|| no_certificate("an admin"))?;
                self.check_trust(&peer)?;
                let admin = match self.admins.authenticate(&peer).await {
                    Ok(admin) => admin,
                    Err(error) => {
                        let actor = Actor { name: peer.id().to_string(), source };
                        return Err(self.refuse(&actor, path, error).await);
                    }
                };
                Caller::Admin { name: admin.name, roles: admin.record.roles, peer }
            }
        };
        let context = CallContext { caller, source, channel };
        if let Access::Roles(needed) = access {
            self.check_roles(&context, path, needed).await?;
        }
        if matches!(access, Access::AnyAdmin | Access::Roles(_)) {
            self.count("ok");
        }
        Ok(context)
    }

    /// A connection outlives the handshake in which its peer was verified: where an authority was revoked since, by whom
    /// the peer is vouched for is looked at again.
    fn check_trust(&self, peer: &PeerIdentity) -> Result<(), Status> {
        if !self.authority.has_revoked() {
            return Ok(());
        }
        peer.verify_again(&self.authority.bundle(), self.clock.now(), Usage::Client)
            .map_err(|error| status::refusal(Code::Unauthenticated, "NOT_TRUSTED", error.to_string()))
    }

    async fn check_roles(
        &self,
        context: &CallContext,
        path: &str,
        needed: &[crate::admins::Role],
    ) -> Result<(), Status> {
        if needed.iter().any(|role| context.has_role(*role)) {
            return Ok(());
        }
        let roles: Vec<_> = needed.iter().map(crate::admins::Role::as_str).collect();
        let reason = format!("this needs the role {}", roles.join(" or "));
        self.count("refused");
        self.audit.record_refusal(Act::refused(&context.actor(), "access.check", path, &reason)).await;
        Err(status::refusal(Code::PermissionDenied, "ROLE_MISSING", reason))
    }

    async fn deny(&self, peer: &PeerIdentity, source: String, path: &str, denial: Denial) -> Status {
        let actor = Actor { name: peer.id().to_string(), source };
        // Several instances may have this name.
        let why = format!("serial {}: {denial}", peer.serial());
        self.audit.record_refusal(Act::refused(&actor, "access.check", path, why)).await;
        status::of_denial(denial)
    }

    async fn refuse(&self, actor: &Actor, path: &str, error: AdminError) -> Status {
        self.count("refused");
        if error.is_refusal() {
            self.audit.record_refusal(Act::refused(actor, "access.check", path, &error)).await;
        }
        match error {
            AdminError::Issuance(error) => status::of_issuance(&error),
            error => status::refusal(Code::Unauthenticated, "CREDENTIAL_REFUSED", error.to_string()),
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.admin_calls.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

fn no_certificate(whose: &str) -> Status {
    let reason = format!("this needs the client certificate of {whose}");
    status::refusal(Code::Unauthenticated, "NO_CERTIFICATE", reason)
}
