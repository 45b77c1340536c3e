//! The agent API's `Enrollment` service.

use std::sync::Arc;

use hauberk_proto::agent::v1::attest_request::Evidence;
use hauberk_proto::agent::v1::enrollment_server::{Enrollment, EnrollmentServer};
use hauberk_proto::agent::v1::{
    AttestRequest, AttestResponse, SignCertificateRequest, SignCertificateResponse,
};
use tonic::{Request, Response, Status};

use super::{LARGEST_PUBLIC_REQUEST, message, status};
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;
use crate::enrollment::AgentInfo;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> EnrollmentServer<EnrollmentService> {
    let service = EnrollmentService { control: Arc::clone(control) };
    EnrollmentServer::new(service).max_decoding_message_size(LARGEST_PUBLIC_REQUEST)
}

pub(super) struct EnrollmentService {
    control: Arc<ControlPlane>,
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestResponse>, Status> {
        let source = CallContext::of(&request)?.source.clone();
        let AttestRequest { csr, evidence, agent } = request.into_inner();
        let Some(Evidence::JoinToken(token)) = evidence else {
            return Err(status::bad_field("evidence", "a join token is needed"));
        };
        let info = agent.map_or_else(AgentInfo::default, |agent| AgentInfo {
            version: agent.version,
            hostname: agent.hostname,
        });
        let enrolled = self
            .control
            .enrollment
            .attest(&token, &csr, info, &source)
            .await
            .map_err(|error| status::of_enrollment(&error))?;
        Ok(Response::new(AttestResponse {
            certificate: Some(message::certificate(&enrolled.issued)),
            trust: Some(message::trust(&self.control.authority)),
            instance_id: enrolled.instance.to_string(),
        }))
    }

    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let context = CallContext::of(&request)?.clone();
        let Caller::Agent { peer, .. } = &context.caller else {
            return Err(Status::permission_denied("only agents renew here"));
        };
        let SignCertificateRequest { csr } = request.into_inner();
        let enrolled = self
            .control
            .enrollment
            .renew(peer, &csr, &context.source)
            .await
            .map_err(|error| status::of_enrollment(&error))?;
        Ok(Response::new(SignCertificateResponse {
            certificate: Some(message::certificate(&enrolled.issued)),
            trust: Some(message::trust(&self.control.authority)),
        }))
    }
}
