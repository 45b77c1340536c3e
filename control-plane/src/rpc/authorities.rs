//! The admin API's `Authorities` service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use hauberk_proto::admin::v1::authorities_server::{Authorities, AuthoritiesServer};
use hauberk_proto::admin::v1::{
    ActivateAuthorityRequest, Authority, AuthorityKind, AuthorityResponse, Laggard, ListAuthoritiesRequest,
    ListAuthoritiesResponse, PrepareAuthorityRequest, RevokeAuthorityRequest, RotateAuthorityRequest,
    TaintAuthorityRequest, WaitForAuthoritiesRequest, WaitForAuthoritiesResponse,
};
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::{message, refused, status};
use crate::access::CallContext;
use crate::app::ControlPlane;
use crate::audit::Actor;
use crate::authority::{AuthorityView, Kind, LifecycleError, Progress, Unsettled};

/// How often it is looked how far it has come.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> AuthoritiesServer<AuthoritiesService> {
    let service = AuthoritiesService { control: Arc::clone(control) };
    AuthoritiesServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct AuthoritiesService {
    control: Arc<ControlPlane>,
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
        let authorities = authorities.into_iter().map(authority).collect();
        Ok(Response::new(ListAuthoritiesResponse { authorities, version }))
    }

    async fn prepare_authority(
        &self,
        request: Request<PrepareAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let kind = parse_kind(request.into_inner().kind)?;
        let prepared = self.control.authorities.prepare(kind, false, &actor).await;
        self.answer(&actor, "authority.prepare", kind.as_str(), prepared).await
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let kind = parse_kind(request.into_inner().kind)?;
        let prepared = self.control.authorities.prepare(kind, true, &actor).await;
        self.answer(&actor, "authority.rotate", kind.as_str(), prepared).await
    }

    async fn activate_authority(
        &self,
        request: Request<ActivateAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let ActivateAuthorityRequest { serial } = request.into_inner();
        let activated = self.control.authorities.activate(&serial, &actor).await.map(|()| serial.clone());
        self.answer(&actor, "authority.activate", &serial, activated).await
    }

    async fn taint_authority(
        &self,
        request: Request<TaintAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let TaintAuthorityRequest { serial } = request.into_inner();
        let tainted = self.control.authorities.taint(&serial, &actor).await.map(|()| serial.clone());
        self.answer(&actor, "authority.taint", &serial, tainted).await
    }

    async fn revoke_authority(
        &self,
        request: Request<RevokeAuthorityRequest>,
    ) -> Result<Response<AuthorityResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let RevokeAuthorityRequest { serial, now } = request.into_inner();
        let revoked = self.control.authorities.revoke(&serial, now, &actor).await.map(|()| serial.clone());
        self.answer(&actor, "authority.revoke", &serial, revoked).await
    }

    async fn wait_for_authorities(
        &self,
        _request: Request<WaitForAuthoritiesRequest>,
    ) -> Result<Response<Self::WaitForAuthoritiesStream>, Status> {
        let waiting = Waiting { control: Arc::clone(&self.control), told: None };
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
            Err(error) => {
                refused::record(&self.control.audit, actor, action, object, &error).await;
                Err(error)
            }
        };
        let shown = shown.map_err(|error| status::of_authority(&error))?;
        Ok(Response::new(AuthorityResponse { authority: Some(authority(shown)) }))
    }
}

struct Waiting {
    control: Arc<ControlPlane>,
    told: Option<Progress>,
}

impl Waiting {
    /// The next state worth telling: any at first, then one that differs, then the end.
    async fn next(&mut self) -> Result<WaitForAuthoritiesResponse, Status> {
        loop {
            let progress = self.control.authorities.progress().await;
            let progress = progress.map_err(|error| status::of_authority(&error))?;
            if self.told.as_ref() != Some(&progress) {
                let response = describe(&progress);
                self.told = Some(progress);
                return Ok(response);
            }
            tokio::select! {
                () = self.control.stop.cancelled() => return Err(status::stopping()),
                () = sleep(LOOKED_AT_EVERY) => {}
            }
        }
    }
}

fn describe(progress: &Progress) -> WaitForAuthoritiesResponse {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    WaitForAuthoritiesResponse {
        concerned: count(progress.concerned),
        settled: count(progress.concerned.saturating_sub(progress.unsettled.len())),
        laggards: progress.unsettled.iter().map(laggard).collect(),
        waiting: progress.waiting.clone().unwrap_or_default(),
        done: progress.is_done(),
    }
}

fn laggard(unsettled: &Unsettled) -> Laggard {
    Laggard {
        instance_id: unsettled.instance.to_string(),
        spiffe_id: unsettled.spiffe_id.to_string(),
        reason: unsettled.reason.to_owned(),
        certificate_not_after: Some(message::timestamp(unsettled.not_after)),
        acknowledged_revision: 0,
        fix: unsettled.fix.clone(),
    }
}

fn parse_kind(number: i32) -> Result<Kind, Status> {
    match AuthorityKind::try_from(number) {
        Ok(AuthorityKind::Root) => Ok(Kind::Root),
        Ok(AuthorityKind::Issuing) => Ok(Kind::Issuing),
        Ok(AuthorityKind::Unspecified) | Err(_) => {
            Err(status::bad_field("kind", "root or issuing is needed"))
        }
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
        key: view.key,
    }
}
