//! The admin API's `Federation` service.

use std::sync::Arc;

use hauberk_identity::Name;
use hauberk_proto::admin::v1::federation_server::{Federation as Service, FederationServer};
use hauberk_proto::admin::v1::{
    Bundle, ListBundlesRequest, ListBundlesResponse, RefreshBundleRequest, RefreshBundleResponse,
};
use hauberk_tls::TrustBundle;
use tonic::{Code, Request, Response, Status};

use super::{message, refused, status};
use crate::access::CallContext;
use crate::admins::Role;
use crate::app::ControlPlane;
use crate::audit::Act;
use crate::federation::{Federation, Followed};
use crate::resources::{Kind, ResourceKey, Resources};

/// The service, ready to be mounted.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    federation: &Arc<Federation>,
) -> FederationServer<FederationService> {
    let service = FederationService {
        control: Arc::clone(control),
        resources: Arc::clone(resources),
        federation: Arc::clone(federation),
    };
    FederationServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct FederationService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    federation: Arc<Federation>,
}

#[tonic::async_trait]
impl Service for FederationService {
    async fn list_bundles(
        &self,
        request: Request<ListBundlesRequest>,
    ) -> Result<Response<ListBundlesResponse>, Status> {
        let ListBundlesRequest { mesh } = request.into_inner();
        let followed = self.followed().await?.into_iter();
        let followed = followed.filter(|followed| mesh.is_empty() || followed.key.mesh.as_str() == mesh);
        let bundles = [self.own()].into_iter().chain(followed.map(|followed| described(&followed)));
        Ok(Response::new(ListBundlesResponse { bundles: bundles.collect() }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<RefreshBundleRequest>,
    ) -> Result<Response<RefreshBundleResponse>, Status> {
        const ACTION: &str = "federation.refresh";
        let context = CallContext::of(&request)?;
        let (actor, may_follow) = (context.actor(), context.has_role(Role::IdentityAdmin));
        let RefreshBundleRequest { mesh, trust_domain, issuer } = request.into_inner();
        let name = |field, text: &str| Name::parse(text).map_err(|error| status::bad_field(field, error));
        let mesh = name("mesh", &mesh)?;
        let key = if issuer.is_empty() {
            ResourceKey::federated_trust_domain(mesh, name("trust_domain", &trust_domain)?)
        } else {
            ResourceKey { kind: Kind::JwtIssuer, mesh, name: name("issuer", &issuer)? }
        };
        let audit = &self.control.audit;
        if key.kind == Kind::FederatedTrustDomain && !may_follow {
            let why =
                "to refresh a bundle takes the role identity-admin; the keys of an issuer, policy-admin";
            refused::record(audit, &actor, ACTION, key.to_string(), why).await;
            return Err(status::refusal(Code::PermissionDenied, "ROLE_NEEDED", why));
        }
        if let Err(error) = self.federation.refresh(&key).await {
            refused::record(audit, &actor, ACTION, key.to_string(), &error).await;
            return Err(status::of_refresh(&error));
        }
        let act = Act::done(&actor, ACTION, key.to_string());
        audit.record(act).await.map_err(|error| status::of_store(&error))?;
        let followed = self.followed().await?;
        let bundle = followed.iter().find(|followed| followed.key == key).map(described);
        Ok(Response::new(RefreshBundleResponse { bundle }))
    }
}

impl FederationService {
    async fn followed(&self) -> Result<Vec<Followed>, Status> {
        let catalog = self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))?;
        Ok(self.federation.followed(&catalog))
    }

    fn own(&self) -> Bundle {
        let own = self.federation.own();
        let roots = self.control.authority.bundle();
        Bundle {
            document: own.document.clone(),
            jwt_keys: u32::try_from(own.jwt_keys).unwrap_or(u32::MAX),
            sequence: own.sequence,
            ..of_roots(&roots)
        }
    }
}

fn described(followed: &Followed) -> Bundle {
    let Followed {
        key,
        trust_domain,
        bundle,
        endpoint,
        fetched_at,
        failing,
        vouches_for_itself: _,
        passed_over: _,
        reused: _,
    } = followed;
    let known = bundle.as_ref().map(|bundle| Bundle {
        document: bundle.to_document(),
        jwt_keys: u32::try_from(bundle.jwt().keys().count()).unwrap_or(u32::MAX),
        sequence: bundle.sequence().unwrap_or_default(),
        ..of_roots(bundle.x509())
    });
    let (problem, since) = failing.clone().map(|failing| (failing.problem, failing.since)).unzip();
    Bundle {
        trust_domain: trust_domain.to_string(),
        mesh: key.mesh.to_string(),
        endpoint_url: endpoint.clone().unwrap_or_default(),
        fetched_at: fetched_at.map(message::timestamp),
        problem: problem.unwrap_or_default(),
        failing_since: since.map(message::timestamp),
        ..known.unwrap_or_default()
    }
}

fn of_roots(roots: &TrustBundle) -> Bundle {
    Bundle {
        trust_domain: roots.trust_domain().to_string(),
        pem: roots.to_pem(),
        fingerprints: roots.roots().iter().map(|root| root.fingerprint().to_string()).collect(),
        ..Bundle::default()
    }
}
