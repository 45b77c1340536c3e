//! The agent API's `Enrollment` service.

use std::sync::Arc;

use hauberk_identity::{InstanceId, Serial, SpiffeId};
use hauberk_proto::agent::v1::enrollment_server::{Enrollment, EnrollmentServer};
use hauberk_proto::agent::v1::{
    AttestRequest, AttestResponse, EnrollmentName, FormerInstance, SignCertificateRequest,
    SignCertificateResponse, X509PopProof, attest_request as wire,
};
use tonic::{Request, Response, Status};

use super::{LARGEST_PUBLIC_REQUEST, message, status};
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;
use crate::attestation::Evidence;
use crate::enrollment::{AgentInfo, Former, Shown};

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
        let AttestRequest { csr, evidence, agent, enrollment, former } = request.into_inner();
        let info = agent.map_or_else(AgentInfo::default, |agent| AgentInfo {
            version: agent.version,
            hostname: agent.hostname,
        });
        let former = former.map(read_former).transpose()?;
        let former = former.as_ref();
        let service = &self.control.enrollment;
        let enrolled = match evidence {
            None => {
                let problem = "a join token is needed, or evidence that this release knows";
                return Err(status::bad_field("evidence", problem));
            }
            Some(wire::Evidence::JoinToken(token)) => {
                service.attest(&token, &csr, info, former, &source).await
            }
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
                let shown = Shown { mesh: &mesh, enrollment: &name, evidence, channel: &channel, former };
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

fn read_former(former: FormerInstance) -> Result<Former, Status> {
    let FormerInstance { instance_id, spiffe_id, serial } = former;
    let bad = |field: &str, problem: &dyn std::fmt::Display| status::bad_field(field, problem);
    let instance = InstanceId::parse(&instance_id).map_err(|error| bad("former.instanceId", &error))?;
    let spiffe_id = SpiffeId::parse(&spiffe_id).map_err(|error| bad("former.spiffeId", &error))?;
    let certificate = Some(serial).filter(|serial| !serial.is_empty()).map(|serial| serial.parse::<Serial>());
    let certificate = certificate.transpose().map_err(|error| bad("former.serial", &error))?;
    Ok(Former { instance, spiffe_id, certificate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nobody_is_refused_with_its_place() {
        let named = |instance_id: &str, spiffe_id: &str, serial: &str| {
            let [instance_id, spiffe_id, serial] = [instance_id, spiffe_id, serial].map(str::to_owned);
            read_former(FormerInstance { instance_id, spiffe_id, serial })
        };
        let (id, orders) = ("0123456789", "spiffe://shop.local/mesh/shop/node/orders");
        assert_eq!(named(id, orders, "").unwrap().certificate, None);
        assert_eq!(named(id, orders, "51").unwrap().certificate, Some("51".parse().unwrap()));
        for (refused, place) in [
            (named("", orders, ""), "former.instanceId"),
            (named(id, "orders", ""), "former.spiffeId"),
            (named(id, orders, "x"), "former.serial"),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().starts_with(place), "{refused}");
        }
    }
}
