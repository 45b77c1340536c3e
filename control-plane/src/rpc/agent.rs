//! The agent API's `Enrollment` service.

use std::sync::Arc;

use hauberk_proto::agent::v1::enrollment_server::{Enrollment, EnrollmentServer};
use hauberk_proto::agent::v1::{
    AttestRequest, AttestResponse, EnrollmentName, SignCertificateRequest, SignCertificateResponse,
    X509PopProof, attest_request as wire,
};
use tonic::{Request, Response, Status};

use super::{LARGEST_PUBLIC_REQUEST, message, status};
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;
use crate::attestation::Evidence;
use crate::enrollment::{AgentInfo, Shown};

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
        let CallContext { caller: _, source, channel } = CallContext::of(&request)?.clone();
        let AttestRequest { csr, evidence, agent, enrollment } = request.into_inner();
        let info = agent.map_or_else(AgentInfo::default, |agent| AgentInfo {
            version: agent.version,
            hostname: agent.hostname,
        });
        let service = &self.control.enrollment;
        let enrolled = match evidence {
            None => {
                let problem = "a join token is needed, or evidence that this release knows";
                return Err(status::bad_field("evidence", problem));
            }
            Some(wire::Evidence::JoinToken(token)) => service.attest(&token, &csr, info, &source).await,
            Some(machine) => {
                let EnrollmentName { mesh, name } = enrollment.unwrap_or_default();
                let channel =
                    channel.ok_or_else(|| Status::permission_denied("the connection has no name"))?;
                let evidence = match machine {
                    wire::Evidence::X509pop(X509PopProof { chain, signature }) => {
                        Evidence::X509Pop { chain, signature }
                    }
                    wire::Evidence::KubernetesToken(token) => Evidence::Kubernetes(token.into()),
                    wire::Evidence::AwsIdentityDocument(document) => Evidence::Aws(document),
                    wire::Evidence::JoinToken(_) => {
                        return Err(status::bad_field("evidence", "a token belongs to no enrollment"));
                    }
                };
                let shown = Shown { mesh: &mesh, enrollment: &name, evidence, channel: &channel };
                service.attest_evidence(shown, &csr, info, &source).await
            }
        };
        let enrolled = enrolled.map_err(|error| status::of_enrollment(&error))?;
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
