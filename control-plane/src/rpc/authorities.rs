//! The admin API's `Authorities` service.

mod waiting;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use hauberk_proto::admin::v1::authorities_server::{Authorities, AuthoritiesServer};
use hauberk_proto::admin::v1::{
    ActivateAuthorityRequest, Authority, AuthorityKind, AuthorityResponse, InstallAuthorityRequest,
    ListAuthoritiesRequest, ListAuthoritiesResponse, PrepareAuthorityRequest, RequestAuthorityRequest,
    RequestAuthorityResponse, RevokeAuthorityRequest, RotateAuthorityRequest, SignAuthorityRequest,
    SignAuthorityResponse, TaintAuthorityRequest, WaitForAuthoritiesRequest, WaitForAuthoritiesResponse,
};
use hauberk_tls::CertificateDer;
use tonic::{Request, Response, Status};

use super::{message, refused, status};
use crate::access::CallContext;
use crate::app::ControlPlane;
use crate::audit::Actor;
use crate::authority::{AuthorityView, KeyNamed, Kind, LifecycleError, Need, Requested, State, ViewKeyView};
use crate::jwt_svid::JwtKeyView;
use crate::push::Push;
use crate::resources::{Catalogs, Resources};
use waiting::Waiting;

/// The service, ready to be mounted.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
) -> AuthoritiesServer<AuthoritiesService> {
    let service = AuthoritiesService {
        control: Arc::clone(control),
        catalogs: resources.catalogs().clone(),
        push: Arc::clone(push),
    };
    AuthoritiesServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct AuthoritiesService {
    control: Arc<ControlPlane>,
    catalogs: Catalogs,
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Authorities for AuthoritiesService {
    type WaitForAuthoritiesStream =
        Pin<Box<dyn Stream<Item = Result<WaitForAuthoritiesResponse, Status>> + Send>>;

    async fn list_authorities(
        &self,
        _request: Request<ListAuthoritiesRequest>,
    ) -> Result<Response<ListAuthoritiesResponse>, Status> {
        let listed = self.control.authorities.list().await;
        let (authorities, version) = listed.map_err(|error| status::of_authority(&error))?;
        let view_keys = self.control.authorities.view_keys().await;
        let view_keys = view_keys.map_err(|error| status::of_authority(&error))?.into_iter().map(view_key);
        let jwt_keys = self.control.authorities.jwt_keys().into_iter().map(jwt_key);
        let authorities = authorities.into_iter().map(authority).chain(view_keys).chain(jwt_keys).collect();
        let need = self.control.authorities.need().await.map_err(|error| status::of_authority(&error))?;
        let needed = need.map(|Need { what, fix, .. }| format!("{what}: {fix}")).unwrap_or_default();
        Ok(Response::new(ListAuthoritiesResponse { authorities, version, needed }))
    }

    async fn prepare_authority(
        &self,
        request: Request<PrepareAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let PrepareAuthorityRequest { kind, own } = request.into_inner();
        if kind == i32::from(AuthorityKind::ViewKey) {
            let instead = "a key that signs views follows another in one step: rotate it";
            return Err(status::bad_field("kind", instead));
        }
        if kind == i32::from(AuthorityKind::JwtKey) && !own {
            let prepared = self.control.authorities.prepare_jwt_key(false, &actor).await;
            return self.answer_with_jwt_key(&actor, "jwt-key.prepare", "jwt-key", prepared).await;
        }
        let kind = parse_kind(kind)?;
        let prepared = match (own, kind) {
            (false, _) => self.control.authorities.prepare(kind, false, &actor).await,
            (true, Kind::Root) => self.control.authorities.prepare_own_root(&actor).await,
            (true, Kind::Issuing) => return Err(status::bad_field("own", "only a root can be one's own")),
        };
        self.answer(&actor, "authority.prepare", kind.as_str(), prepared).await
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let RotateAuthorityRequest { kind } = request.into_inner();
        if kind == i32::from(AuthorityKind::ViewKey) {
            return match self.control.authorities.rotate_view_key(&actor).await {
                Ok(key_id) => self.answer_with_view_key(&key_id).await,
                Err(error) => Err(self.refuse(&actor, "view-key.rotate", "view-key", &error).await),
            };
        }
        if kind == i32::from(AuthorityKind::JwtKey) {
            let prepared = self.control.authorities.prepare_jwt_key(true, &actor).await;
            return self.answer_with_jwt_key(&actor, "jwt-key.rotate", "jwt-key", prepared).await;
        }
        let kind = parse_kind(kind)?;
        let prepared = self.control.authorities.prepare(kind, true, &actor).await;
        self.answer(&actor, "authority.rotate", kind.as_str(), prepared).await
    }

    async fn activate_authority(
        &self,
        request: Request<ActivateAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let ActivateAuthorityRequest { serial } = request.into_inner();
        let authorities = &self.control.authorities;
        match authorities.key_named(&serial) {
            KeyNamed::Authority => {
                let activated = authorities.activate(&serial, &actor).await.map(|()| serial.clone());
                self.answer(&actor, "authority.activate", &serial, activated).await
            }
            KeyNamed::JwtKey => {
                let activated = authorities.activate_jwt_key(&serial, &actor).await.map(|()| serial.clone());
                self.answer_with_jwt_key(&actor, "jwt-key.activate", &serial, activated).await
            }
            KeyNamed::ViewKey => {
                let error = LifecycleError::NotOfViewKeys { key_id: serial.clone(), step: "activated" };
                Err(self.refuse(&actor, "view-key.activate", &serial, &error).await)
            }
        }
    }

    async fn taint_authority(
        &self,
        request: Request<TaintAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let TaintAuthorityRequest { serial } = request.into_inner();
        let authorities = &self.control.authorities;
        match authorities.key_named(&serial) {
            KeyNamed::Authority => {
                let tainted = authorities.taint(&serial, &actor).await.map(|()| serial.clone());
                self.answer(&actor, "authority.taint", &serial, tainted).await
            }
            KeyNamed::JwtKey => {
                let tainted = authorities.taint_jwt_key(&serial, &actor).await.map(|()| serial.clone());
                self.answer_with_jwt_key(&actor, "jwt-key.taint", &serial, tainted).await
            }
            KeyNamed::ViewKey => {
                let error = LifecycleError::NotOfViewKeys { key_id: serial.clone(), step: "tainted" };
                Err(self.refuse(&actor, "view-key.taint", &serial, &error).await)
            }
        }
    }

    async fn revoke_authority(
        &self,
        request: Request<RevokeAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let RevokeAuthorityRequest { serial, now } = request.into_inner();
        let authorities = &self.control.authorities;
        match authorities.key_named(&serial) {
            KeyNamed::Authority => {
                let revoked = authorities.revoke(&serial, now, &actor).await.map(|()| serial.clone());
                self.answer(&actor, "authority.revoke", &serial, revoked).await
            }
            KeyNamed::JwtKey => match authorities.revoke_jwt_key(&serial, now, &actor).await {
                Ok(()) => Ok(gone(serial, AuthorityKind::JwtKey)),
                Err(error) => Err(self.refuse(&actor, "jwt-key.revoke", &serial, &error).await),
            },
            KeyNamed::ViewKey => match authorities.revoke_view_key(&serial, &actor).await {
                Ok(()) => Ok(gone(serial, AuthorityKind::ViewKey)),
                Err(error) => Err(self.refuse(&actor, "view-key.revoke", &serial, &error).await),
            },
        }
    }

    async fn request_authority(
        &self,
        request: Request<RequestAuthorityRequest>,
    ) -> Result<Response<RequestAuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let RequestAuthorityRequest { anew } = request.into_inner();
        match self.control.authorities.request(anew, &actor).await {
            Ok(Requested { csr, created_at }) => Ok(Response::new(RequestAuthorityResponse {
                csr,
                trust_domain: self.control.authority.trust_domain().to_string(),
                created_at: Some(message::timestamp(created_at)),
            })),
            Err(error) => Err(self.refuse(&actor, "authority.request", "issuing", &error).await),
        }
    }

    async fn install_authority(
        &self,
        request: Request<InstallAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let InstallAuthorityRequest { certificates, root, exclusive } = request.into_inner();
        let certificates = certificates.into_iter().map(CertificateDer::from).collect();
        let root = Some(root).filter(|root| !root.is_empty()).map(CertificateDer::from);
        let installed = self.control.authorities.install(certificates, root, exclusive, &actor).await;
        self.answer(&actor, "authority.install", "issuing", installed).await
    }

    async fn sign_authority(
        &self,
        request: Request<SignAuthorityRequest>,
    ) -> Result<Response<SignAuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let SignAuthorityRequest { csr } = request.into_inner();
        match self.control.authorities.sign(&csr, &actor).await {
            Ok(signed) => Ok(Response::new(SignAuthorityResponse {
                certificates: signed.iter().map(|der| der.to_vec()).collect(),
            })),
            Err(error) => Err(self.refuse(&actor, "authority.sign", "issuing", &error).await),
        }
    }

    async fn wait_for_authorities(
        &self,
        _request: Request<WaitForAuthoritiesRequest>,
    ) -> Result<Response<Self::WaitForAuthoritiesStream>, Status> {
        let (control, push) = (Arc::clone(&self.control), Arc::clone(&self.push));
        let waiting = Waiting { control, catalogs: self.catalogs.clone(), push, told: None };
        let progress = stream::unfold(Some(waiting), |waiting| async move {
            let mut waiting = waiting?;
            let progress = waiting.next().await;
            let is_over = progress.as_ref().map_or(true, |progress| progress.done);
            Some((progress, if is_over { None } else { Some(waiting) }))
        });
        Ok(Response::new(Box::pin(progress)))
    }
}

impl AuthoritiesService {
    /// The authority as a step has left it, or the record of the step's refusal.
    async fn answer(
        &self,
        actor: &Actor,
        action: &'static str,
        object: &str,
        outcome: Result<String, LifecycleError>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let shown = match outcome {
            Ok(serial) => self.control.authorities.get(&serial).await,
            Err(error) => return Err(self.refuse(actor, action, object, &error).await),
        };
        let shown = shown.map_err(|error| status::of_authority(&error))?;
        Ok(Response::new(AuthorityResponse { authority: Some(authority(shown)) }))
    }

    async fn answer_with_view_key(&self, key_id: &str) -> Result<Response<AuthorityResponse>, Status> {
        let keys = self.control.authorities.view_keys().await;
        let keys = keys.map_err(|error| status::of_authority(&error))?;
        let shown = keys.into_iter().find(|key| key.key_id == key_id).map(view_key);
        Ok(Response::new(AuthorityResponse { authority: shown }))
    }

    async fn answer_with_jwt_key(
        &self,
        actor: &Actor,
        action: &'static str,
        object: &str,
        outcome: Result<String, LifecycleError>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let key_id = match outcome {
            Ok(key_id) => key_id,
            Err(error) => return Err(self.refuse(actor, action, object, &error).await),
        };
        let keys = self.control.authorities.jwt_keys();
        let shown = keys.into_iter().find(|key| key.key_id == key_id).map(jwt_key);
        Ok(Response::new(AuthorityResponse { authority: shown }))
    }

    async fn refuse(
        &self,
        actor: &Actor,
        action: &'static str,
        object: &str,
        error: &LifecycleError,
    ) -> Status {
        refused::record(&self.control.audit, actor, action, object, error).await;
        status::of_authority(error)
    }
}

fn parse_kind(number: i32) -> Result<Kind, Status> {
    match AuthorityKind::try_from(number) {
        Ok(AuthorityKind::Root) => Ok(Kind::Root),
        Ok(AuthorityKind::Issuing) => Ok(Kind::Issuing),
        Ok(AuthorityKind::Unspecified | AuthorityKind::ViewKey | AuthorityKind::JwtKey) | Err(_) => {
            Err(status::bad_field("kind", "root or issuing is needed"))
        }
    }
}

/// One of which nothing is left.
fn gone(serial: String, kind: AuthorityKind) -> Response<AuthorityResponse> {
    let state = State::Retired.as_str().to_owned();
    let gone = Authority { serial, kind: kind.into(), state, ..Authority::default() };
    Response::new(AuthorityResponse { authority: Some(gone) })
}

fn jwt_key(key: JwtKeyView) -> Authority {
    Authority {
        serial: key.key_id,
        kind: AuthorityKind::JwtKey.into(),
        state: key.state.as_str().to_owned(),
        created_at: Some(message::timestamp(key.created_at)),
        changed_at: Some(message::timestamp(key.changed_at)),
        not_after: Some(message::timestamp(key.not_after)),
        holders: u32::try_from(key.holders).unwrap_or(u32::MAX),
        goes_on: key.goes_on,
        key: "sealed".to_owned(),
        ..Authority::default()
    }
}

fn view_key(key: ViewKeyView) -> Authority {
    Authority {
        // It is what tells one key from another.
        fingerprint: key.key_id.clone(),
        holders: u32::try_from(key.holders).unwrap_or(u32::MAX),
        serial: key.key_id,
        kind: AuthorityKind::ViewKey.into(),
        state: if key.signs { State::Active } else { State::Retiring }.as_str().to_owned(),
        created_at: Some(message::timestamp(key.created_at)),
        changed_at: Some(message::timestamp(key.changed_at)),
        not_after: Some(message::timestamp(key.until)),
        key: "sealed".to_owned(),
        ..Authority::default()
    }
}

fn authority(view: AuthorityView) -> Authority {
    let kind = match view.kind {
        Kind::Root => AuthorityKind::Root,
        Kind::Issuing => AuthorityKind::Issuing,
    };
    Authority {
        serial: view.serial,
        kind: kind.into(),
        state: view.state.as_str().to_owned(),
        fingerprint: view.fingerprint,
        root: view.root.unwrap_or_default(),
        created_at: Some(message::timestamp(view.created_at)),
        changed_at: Some(message::timestamp(view.changed_at)),
        not_after: Some(message::timestamp(view.not_after)),
        holders: u32::try_from(view.holders).unwrap_or(u32::MAX),
        goes_on: view.goes_on,
        upstream: view.is_upstream,
        exclusive: view.is_exclusive,
        delegate: view.delegate,
        key: view.key,
    }
}
