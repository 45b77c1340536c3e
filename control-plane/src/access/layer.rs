//! The layer before all services: no call reaches a service without standing in the table and passing it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hauberk_identity::{IdentityKind, InstanceId};
use hauberk_proto::refusal::NOT_ON_RECORD;
use hauberk_tls::{PeerIdentity, Usage};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::caller::{CallContext, Caller, ConnectionInfo};
use super::table::{Access, access_to};
use crate::admins::{AdminError, Admins, Role};
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
        let connection = request.extensions().get::<ConnectionInfo>().cloned();
        let under_way = connection.as_ref().and_then(ConnectionInfo::begin_call);
        Box::pin(async move {
            let _under_way = under_way;
            match checks.admit(request.uri().path(), connection).await {
                Ok(context) => {
                    request.extensions_mut().insert(context);
                    ready.call(request).await
                }
                Err(turned_away) => Ok(checks.answer(turned_away, request.uri().path()).await.into_http()),
            }
        })
    }
}

/// A call that reaches no service.
enum TurnedAway {
    /// The caller may not.
    Refused {
        /// Whom audit records name; `None` where there is nothing to record.
        actor: Option<Actor>,
        /// By a stable name, for metrics.
        reason: &'static str,
        /// For audit records.
        why: String,
        /// For the caller.
        status: Status,
    },
    /// It cannot be told whether the caller may.
    Failed(Status),
}

impl TurnedAway {
    /// The caller is told what is recorded.
    fn refused(code: Code, reason: &'static str, why: String, actor: Actor) -> Self {
        let status = status::refusal(code, reason, why.as_str());
        Self::Refused { actor: Some(actor), reason, why, status }
    }
}

impl Checks {
    async fn admit(&self, path: &str, connection: Option<ConnectionInfo>) -> Result<CallContext, TurnedAway> {
        let Some(access) = access_to(path) else {
            let why = "there is no such RPC here: does it need a newer control plane?".to_owned();
            let status = Status::unimplemented(why.as_str());
            return Err(TurnedAway::Refused { actor: None, reason: "NO_SUCH_RPC", why, status });
        };
        let (source, peer, channel, local) = match connection {
            Some(ConnectionInfo::Tls { address, peer, channel, .. }) => {
                (address.to_string(), peer, Some(channel), None)
            }
            Some(ConnectionInfo::Local { uid }) => ("unix".to_owned(), None, None, Some(uid)),
            None => return Err(TurnedAway::Failed(Status::permission_denied("the connection is unknown"))),
        };
        // Also of what anybody may call: who shows a certificate is the one it names. A stream is told why, and then ended.
        if let Some(peer) = &peer
            && access != Access::AgentStream
            && let Some(denial) = self.revocations.denylist().denial(peer.id(), peer.serial())
        {
            return Err(denied(peer, source, denial));
        }
        let caller = match access {
            Access::Public => Caller::Anybody,
            Access::Local => match local {
                Some(uid) => Caller::Local { uid },
                None => {
                    let why = "this RPC is served on the Unix socket only".to_owned();
                    let actor = Some(actor(peer.as_ref(), source));
                    let status = Status::unimplemented(why.as_str());
                    return Err(TurnedAway::Refused { actor, reason: "LOCAL_ONLY", why, status });
                }
            },
            Access::Agent | Access::AgentStream => {
                let peer = self.proven(peer, "an agent", &source)?;
                if !matches!(peer.id().kind(), IdentityKind::Node { .. } | IdentityKind::Gateway { .. }) {
                    let why = format!("{} is no agent", peer.id());
                    let actor = actor(Some(&peer), source);
                    return Err(TurnedAway::refused(Code::PermissionDenied, "NO_AGENT", why, actor));
                }
                let instance = self.instance_of(&peer, access == Access::AgentStream, &source).await?;
                Caller::Agent { peer, instance }
            }
            Access::AnyAdmin | Access::Roles(_) => {
                let peer = self.proven(peer, "an admin", &source)?;
                let admin = self.admins.authenticate(&peer).await;
                let admin = admin.map_err(|error| no_admin(error, &peer, &source))?;
                Caller::Admin { name: admin.name, roles: admin.record.roles, peer }
            }
        };
        let context = CallContext { caller, source, channel };
        if let Access::Roles(needed) = access {
            check_roles(&context, needed)?;
        }
        self.count_admin(access, "ok");
        Ok(context)
    }

    /// Which instance an agent is. One that is refused is let in to its stream, where it is told why.
    async fn instance_of(
        &self,
        peer: &PeerIdentity,
        is_stream: bool,
        source: &str,
    ) -> Result<InstanceId, TurnedAway> {
        let recorded = self.ledger.instance_of(peer, self.clock.now()).await;
        let recorded = recorded.map_err(|error| TurnedAway::Failed(status::of_store(&error)))?;
        let denylist = self.revocations.denylist();
        let claimed = recorded.or_else(|| peer.serial().instance());
        let is_revoked = claimed.is_some_and(|instance| denylist.is_instance_revoked(instance));
        if is_revoked && !is_stream {
            return Err(denied(peer, source.to_owned(), Denial::Revoked));
        }
        let is_told = is_stream && (is_revoked || denylist.denial(peer.id(), peer.serial()).is_some());
        recorded.or(claimed.filter(|_| is_told)).ok_or_else(|| TurnedAway::Refused {
            actor: Some(actor(Some(peer), source.to_owned())),
            reason: NOT_ON_RECORD,
            why: format!(
                "serial {}: this certificate is not on record. If the registry was put back from a backup, stop the control \
                 plane and run `hauberk-control-plane restored`; if not, somebody else has signed it: look at `hauberk authority list`",
                peer.serial()
            ),
            status: status::refusal(
                Code::PermissionDenied,
                NOT_ON_RECORD,
                "the control plane has no record of this certificate: join anew, by evidence or a new token",
            ),
        })
    }

    /// The certificate that a caller has shown. A connection outlives the handshake in which it was verified: where an
    /// authority was revoked since, by whom the peer is vouched for is looked at again.
    fn proven(
        &self,
        peer: Option<PeerIdentity>,
        whose: &str,
        source: &str,
    ) -> Result<PeerIdentity, TurnedAway> {
        let refused = |reason, why| {
            let actor = Actor::unauthenticated(source);
            TurnedAway::refused(Code::Unauthenticated, reason, why, actor)
        };
        let Some(peer) = peer else {
            return Err(refused("NO_CERTIFICATE", format!("this needs the client certificate of {whose}")));
        };
        if self.authority.has_revoked() {
            // Nobody vouches for the name in it any longer, so it is told as what was said.
            peer.verify_again(&self.authority.bundle(), self.clock.now(), Usage::Client)
                .map_err(|error| refused("NOT_TRUSTED", format!("as {}: {error}", peer.id())))?;
        }
        Ok(peer)
    }

    /// Counts and records a refusal; what the caller is told.
    async fn answer(&self, turned_away: TurnedAway, path: &str) -> Status {
        let outcome = if matches!(turned_away, TurnedAway::Refused { .. }) { "refused" } else { "failed" };
        if let Some(access) = access_to(path) {
            self.count_admin(access, outcome);
        }
        match turned_away {
            TurnedAway::Refused { actor, reason, why, status } => {
                self.metrics.refused(reason);
                if let Some(actor) = actor {
                    self.audit.record_refusal(Act::refused(&actor, "access.check", path, why)).await;
                }
                status
            }
            TurnedAway::Failed(status) => status,
        }
    }

    fn count_admin(&self, access: Access, outcome: &'static str) {
        if matches!(access, Access::AnyAdmin | Access::Roles(_)) {
            self.metrics.admin_calls.get_or_create(&OutcomeLabel { outcome }).inc();
        }
    }
}

/// Who it is, as audit records name it.
fn actor(peer: Option<&PeerIdentity>, source: String) -> Actor {
    match peer {
        Some(peer) => Actor { name: peer.id().to_string(), source },
        None => Actor::unauthenticated(source),
    }
}

fn denied(peer: &PeerIdentity, source: String, denial: Denial) -> TurnedAway {
    TurnedAway::Refused {
        actor: Some(actor(Some(peer), source)),
        reason: denial.reason(),
        // Several instances may have this name.
        why: format!("serial {}: {denial}", peer.serial()),
        status: status::of_denial(denial),
    }
}

fn no_admin(error: AdminError, peer: &PeerIdentity, source: &str) -> TurnedAway {
    match error {
        AdminError::Issuance(error) => TurnedAway::Failed(status::of_issuance(&error)),
        error => {
            let actor = actor(Some(peer), source.to_owned());
            TurnedAway::refused(Code::Unauthenticated, "CREDENTIAL_REFUSED", error.to_string(), actor)
        }
    }
}

fn check_roles(context: &CallContext, needed: &[Role]) -> Result<(), TurnedAway> {
    if needed.iter().any(|role| context.has_role(*role)) {
        return Ok(());
    }
    let roles: Vec<_> = needed.iter().map(Role::as_str).collect();
    let why = format!("this needs the role {}", roles.join(" or "));
    Err(TurnedAway::refused(Code::PermissionDenied, "ROLE_MISSING", why, context.actor()))
}
