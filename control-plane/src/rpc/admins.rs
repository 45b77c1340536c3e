//! The admin API's `Admins` service.

use std::sync::Arc;

use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::admin::v1::admins_server::{Admins, AdminsServer};
use hauberk_proto::admin::v1::{
    Admin, CreateAdminRequest, CreateAdminResponse, Credential, DeleteAdminRequest, DeleteAdminResponse,
    ListAdminsRequest, ListAdminsResponse, LoginRequest, RenewCredentialRequest,
};
use tonic::{Request, Response, Status};

use super::{LARGEST_PUBLIC_REQUEST, message, refused, status};
use crate::access::{CallContext, Caller};
use crate::admins::AdminView;
use crate::app::ControlPlane;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> AdminsServer<AdminsService> {
    // Anybody may call Login, and no other RPC here carries more.
    let service = AdminsService { control: Arc::clone(control) };
    AdminsServer::new(service).max_decoding_message_size(LARGEST_PUBLIC_REQUEST)
}

pub(super) struct AdminsService {
    control: Arc<ControlPlane>,
}

#[tonic::async_trait]
impl Admins for AdminsService {
    async fn create_admin(
        &self,
        request: Request<CreateAdminRequest>,
    ) -> Result<Response<CreateAdminResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let CreateAdminRequest { name: asked, roles } = request.into_inner();
        let parsed = Name::parse(&asked).map_err(|error| status::bad_field("name", error)).and_then(|name| {
            let roles = message::parse_roles(&roles)
                .map_err(|number| status::bad_field("roles", format!("{number} is no role")))?;
            Ok((name, roles))
        });
        let (name, roles) = match parsed {
            Ok(parsed) => parsed,
            Err(status) => {
                refused::record(&self.control.audit, &actor, "admin.create", asked, status.message()).await;
                return Err(status);
            }
        };
        match self.control.admins.create(&name, &roles, &actor).await {
            Ok(login) => Ok(Response::new(CreateAdminResponse {
                admin: Some(admin(&login.admin)),
                login_token: login.secret.reveal().to_owned(),
                expires_at: Some(message::timestamp(login.expires_at)),
                root_fingerprint: self.control.authority.root_fingerprint(),
                trust_domain: message::unnamed_trust_domain(&self.control.authority),
            })),
            Err(error) => {
                refused::record(&self.control.audit, &actor, "admin.create", asked, &error).await;
                Err(status::of_admin(&error))
            }
        }
    }

    async fn list_admins(
        &self,
        _request: Request<ListAdminsRequest>,
    ) -> Result<Response<ListAdminsResponse>, Status> {
        let admins = self.control.admins.list().await.map_err(|error| status::of_admin(&error))?;
        Ok(Response::new(ListAdminsResponse { admins: admins.iter().map(admin).collect() }))
    }

    async fn delete_admin(
        &self,
        request: Request<DeleteAdminRequest>,
    ) -> Result<Response<DeleteAdminResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let DeleteAdminRequest { name } = request.into_inner();
        match self.control.admins.delete(&name, &actor).await {
            Ok(()) => Ok(Response::new(DeleteAdminResponse {})),
            Err(error) => {
                refused::record(&self.control.audit, &actor, "admin.delete", name, &error).await;
                Err(status::of_admin(&error))
            }
        }
    }

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<Credential>, Status> {
        let source = CallContext::of(&request)?.source.clone();
        let LoginRequest { login_token, csr } = request.into_inner();
        let control = &self.control;
        let credential = control.admins.login(&login_token, &csr, &source).await;
        let credential = credential.map_err(|error| status::of_admin(&error))?;
        Ok(Response::new(message::credential(&credential, &control.authority, control.admin_server())))
    }

    async fn renew_credential(
        &self,
        request: Request<RenewCredentialRequest>,
    ) -> Result<Response<Credential>, Status> {
        let context = CallContext::of(&request)?.clone();
        let Caller::Admin { name, peer, .. } = &context.caller else {
            return Err(Status::permission_denied("only admins renew here"));
        };
        let (actor, control) = (context.actor(), &self.control);
        let RenewCredentialRequest { csr } = request.into_inner();
        match control.admins.renew(name, peer.serial(), &csr, &actor).await {
            Ok(credential) => {
                let server = control.admin_server();
                Ok(Response::new(message::credential(&credential, &control.authority, server)))
            }
            Err(error) => {
                refused::record(&control.audit, &actor, "admin.renew", name.as_str(), &error).await;
                Err(status::of_admin(&error))
            }
        }
    }
}

fn admin(view: &AdminView) -> Admin {
    let AdminView { name, record } = view;
    Admin {
        name: name.to_string(),
        roles: message::roles(&record.roles),
        created_at: Some(message::timestamp(UnixMillis(record.created_at))),
        created_by: record.created_by.clone(),
        credential_not_after: record.credential_not_after.map(|at| message::timestamp(UnixMillis(at))),
    }
}
