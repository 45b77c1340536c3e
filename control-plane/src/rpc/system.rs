//! The admin API's `System` service.

mod looked_at;

use std::sync::Arc;

use hauberk_proto::admin::v1::system_server::{System, SystemServer};
use hauberk_proto::admin::v1::{
    GetStatusRequest, GetStatusResponse, SetLogFilterRequest, SetLogFilterResponse,
};
use tonic::{Request, Response, Status};

use super::{findings, message, refused, status};
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;
use crate::audit::Act;
use crate::federation::Federation;
use crate::push::Push;
use crate::registry::Condition;
use crate::resources::Resources;
use crate::server_certificate::host_from_elsewhere;
use looked_at::Looker;

/// The service, ready to be mounted.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
    federation: &Arc<Federation>,
) -> SystemServer<SystemService> {
    let service = SystemService {
        control: Arc::clone(control),
        resources: Arc::clone(resources),
        push: Arc::clone(push),
        federation: Arc::clone(federation),
        looker: Looker::new(),
    };
    SystemServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct SystemService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    push: Arc<Push>,
    federation: Arc<Federation>,
    looker: Looker,
}

#[tonic::async_trait]
impl System for SystemService {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let context = CallContext::of(&request)?;
        let (admin, roles) = match &context.caller {
            Caller::Admin { name, roles, .. } => {
                (name.to_string(), roles.iter().map(|role| role.as_str().to_owned()).collect())
            }
            _ => return Err(Status::permission_denied("only admins ask this")),
        };
        let control = &self.control;
        let authority = &control.authority;
        let now = control.clock.now();
        let revision = control.store.revision().await.map_err(|error| status::of_store(&error))?.0;
        let compilation = Arc::clone(&self.push.compilation().borrow());
        let condition = control.store.condition();
        let certificates = findings::Certificates {
            root: authority.root().map(|root| root.validity()),
            issuing: Some(authority.issuing().validity()),
            server: control.identity.current().svid().map(|svid| svid.validity()),
        };
        let catalog = self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))?;
        let found = self.looker.of(&catalog, authority.trust_domain(), &context.actor().name).await?;
        let need = control.authorities.need().await.map_err(|error| status::of_authority(&error))?;
        let findings = findings::collect(&findings::Facts {
            now,
            condition: &condition,
            cannot_sign: authority.cannot_sign(now).as_deref(),
            is_denylist_unreadable: control.revocations.is_unreadable(),
            clock_ahead: control.clock.ahead(),
            certificates: &certificates,
            need: need.as_ref(),
            lists: &self.push.revocation_lists().trouble,
            compilation: &compilation,
            catalog: &catalog,
            heavy: &found.heavy,
            detours: &found.detours,
            idle: &found.idle,
            rollout: &self.push.instances().rollout(&compilation, compilation.revision, None, now),
            reports: &self.push.instances().reports(|_| true),
            followed: &self.federation.followed(&catalog),
            issuers: &self.federation.issuers(&catalog),
            own_keys: control.signing_keys.current().bundle(),
            tokens: &control.tokens.list(None).await.map_err(|error| status::of_token(&error))?,
        });
        let agent = control.agent_address();
        // A name of `init` that is none any longer has stopped the control plane at its start.
        let agent_host = host_from_elsewhere(control, agent.ip()).ok().flatten();
        let not_after = |validity: Option<hauberk_identity::Validity>| {
            validity.map(|validity| message::timestamp(validity.not_after()))
        };
        Ok(Response::new(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: authority.trust_domain().to_string(),
            epoch: authority.epoch(),
            revision,
            now: Some(message::timestamp(now)),
            root_fingerprint: authority.root_fingerprint(),
            root_not_after: not_after(certificates.root),
            issuing_not_after: not_after(certificates.issuing),
            server_certificate_not_after: not_after(certificates.server),
            store_read_only_reason: match condition {
                Condition::Writable => String::new(),
                Condition::Full(reason) | Condition::Broken(reason) => reason,
            },
            admin,
            roles,
            findings,
            agent_host: agent_host.map(|host| host.to_string()).unwrap_or_default(),
            agent_port: agent.port().into(),
        }))
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let SetLogFilterRequest { filter } = request.into_inner();
        let audit = &self.control.audit;
        match self.control.log.set_filter(&filter) {
            Ok(previous) => {
                let act = Act::done(&actor, "log-filter.set", filter).because(format!("was {previous}"));
                if let Err(error) = audit.record(act).await {
                    // No act without its record.
                    let _restored = self.control.log.set_filter(&previous);
                    return Err(status::of_store(&error));
                }
                Ok(Response::new(SetLogFilterResponse { previous }))
            }
            Err(error) => {
                refused::record(audit, &actor, "log-filter.set", filter, &error).await;
                Err(status::of_telemetry(&error))
            }
        }
    }
}
