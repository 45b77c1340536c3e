//! The agent API's `Workloads` service.

use std::sync::Arc;

use hauberk_proto::agent::v1::workloads_server::{Workloads, WorkloadsServer};
use hauberk_proto::agent::v1::{
    MintTokenResponse, MintWorkloadTokenRequest, SignWorkloadCertificateRequest,
    SignWorkloadCertificateResponse,
};
use tonic::{Request, Response, Status};

use super::{LARGEST_PUBLIC_REQUEST, message, status};
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> WorkloadsServer<WorkloadsService> {
    let service = WorkloadsService { control: Arc::clone(control) };
    WorkloadsServer::new(service).max_decoding_message_size(LARGEST_PUBLIC_REQUEST)
}

pub(super) struct WorkloadsService {
    control: Arc<ControlPlane>,
}

#[tonic::async_trait]
impl Workloads for WorkloadsService {
    async fn sign_certificate(
        &self,
        request: Request<SignWorkloadCertificateRequest>,
    ) -> Result<Response<SignWorkloadCertificateResponse>, Status> {
        let context = CallContext::of(&request)?.clone();
        let Caller::Agent { peer, instance } = &context.caller else {
            return Err(Status::permission_denied("only agents ask for workloads"));
        };
        let SignWorkloadCertificateRequest { enrollment, csr } = request.into_inner();
        let issued = self
            .control
            .enrollment
            .sign_workload(peer, *instance, &enrollment, &csr, &context.source)
            .await
            .map_err(|error| status::of_enrollment(&error))?;
        Ok(Response::new(SignWorkloadCertificateResponse {
            certificate: Some(message::certificate(&issued)),
        }))
    }

    async fn mint_token(
        &self,
        request: Request<MintWorkloadTokenRequest>,
    ) -> Result<Response<MintTokenResponse>, Status> {
        let context = CallContext::of(&request)?.clone();
        let Caller::Agent { peer, instance } = &context.caller else {
            return Err(Status::permission_denied("only agents ask for workloads"));
        };
        let MintWorkloadTokenRequest { enrollment, audience } = request.into_inner();
        let minted = self
            .control
            .minter
            .mint_for_workload(peer, *instance, &enrollment, &audience, &context.source)
            .await
            .map_err(|error| status::of_mint(&error))?;
        Ok(Response::new(message::token(&minted)))
    }
}
