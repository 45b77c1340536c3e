//! The admin API's `Identities` service.

mod life;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NodeName, UnixMillis};
use hauberk_proto::admin::v1::identities_server::{Identities, IdentitiesServer};
use hauberk_proto::admin::v1::{
    CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, DeleteTokenResponse,
    DescribeInstanceRequest, DescribeInstanceResponse, Evidence, FetchBundleRequest, FetchBundleResponse,
    Instance, InstancePort, IssuedCertificate, ListCertificatesRequest, ListCertificatesResponse,
    ListInstancesRequest, ListInstancesResponse, ListTokensRequest, ListTokensResponse, Token,
};
use hauberk_proto::refusal::BY_EVERYBODY;
use tonic::{Request, Response, Status};

use super::{message, page, refused, status};
use crate::access::CallContext;
use crate::app::ControlPlane;
use crate::enrollment::{TokenFor, TokenRequest, TokenView, Uses};
use crate::instances::wanted::{self, Standing};
use crate::instances::{Lag, Report};
use crate::issuance::{EvidenceRecord, Holder, IssuedRecord};
use crate::push::Push;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>, push: &Arc<Push>) -> IdentitiesServer<IdentitiesService> {
    let service = IdentitiesService { control: Arc::clone(control), push: Arc::clone(push) };
    IdentitiesServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct IdentitiesService {
    control: Arc<ControlPlane>,
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Identities for IdentitiesService {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let request = request.into_inner();
        let object = match request.enrollment.as_str() {
            "" => format!("{}/{}", request.mesh, request.node),
            name => format!("enrollment {}/{name}", request.mesh),
        };
        let request = match parse_token_request(request) {
            Ok(request) => request,
            Err(status) => {
                refused::record(&self.control.audit, &actor, "token.create", object, status.message()).await;
                return Err(status);
            }
        };
        match self.control.tokens.create(request, &actor).await {
            Ok(issued) => Ok(Response::new(CreateTokenResponse {
                token: issued.secret.reveal().to_owned(),
                record: Some(token(&issued.view, 0)),
                root_fingerprint: self.control.authority.root_fingerprint(),
                trust_domain: message::unnamed_trust_domain(&self.control.authority),
                node: issued.node.to_string(),
            })),
            Err(error) => {
                refused::record(&self.control.audit, &actor, "token.create", object, &error).await;
                Err(status::of_token(&error))
            }
        }
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let ListTokensRequest { mesh } = request.into_inner();
        let mesh = Some(mesh.as_str()).filter(|mesh| !mesh.is_empty());
        let tokens = self.control.tokens.list(mesh).await.map_err(|error| status::of_token(&error))?;
        let joined = self.control.instances.live_by_token(self.control.clock.now());
        let tokens = tokens.iter().map(|view| {
            let live = joined.get(&view.id).copied().unwrap_or_default();
            token(view, live)
        });
        Ok(Response::new(ListTokensResponse { tokens: tokens.collect() }))
    }

    async fn delete_token(
        &self,
        request: Request<DeleteTokenRequest>,
    ) -> Result<Response<DeleteTokenResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let DeleteTokenRequest { id } = request.into_inner();
        match self.control.tokens.delete(&id, &actor).await {
            Ok(()) => Ok(Response::new(DeleteTokenResponse {})),
            Err(error) => {
                refused::record(&self.control.audit, &actor, "token.delete", id, &error).await;
                Err(status::of_token(&error))
            }
        }
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let ListInstancesRequest { mesh, node } = request.into_inner();
        let revision = self.control.store.revision().await.map_err(|error| status::of_store(&error))?.0;
        let compilation = Arc::clone(&self.push.compilation().borrow());
        let instances = self.push.instances();
        let rollout = instances.rollout(&compilation, compilation.revision, None, self.control.clock.now());
        let lags: HashMap<_, _> =
            rollout.laggards.into_iter().map(|laggard| (laggard.instance, laggard.lag)).collect();
        let is_wanted = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        let reports = instances.reports(|spiffe_id| {
            spiffe_id.mesh_and_node().is_some_and(|(of, name)| {
                is_wanted(&mesh, of.as_str()) && is_wanted(&node, &name.to_string())
            })
        });
        let instances = reports.iter().map(|report| {
            let lag = match report.denial {
                Some(denial) => Some(format!("{}{BY_EVERYBODY}", denial.as_str())),
                None => lags.get(&report.id).map(Lag::to_string),
            };
            match wanted::standing(&compilation, &report.spiffe_id, report.node_uid.as_deref()) {
                Standing::Here(view) => self.instance(report, view.revision, lag.unwrap_or_default()),
                Standing::NotMade | Standing::Unknown => self.instance(report, 0, lag.unwrap_or_default()),
                Standing::Deleted | Standing::MadeAnew => {
                    // Nothing is rolled out to it any longer, and until then others believe what it proves.
                    let of = report.node.in_words();
                    let believed =
                        || format!("its {of} was deleted; it is believed until its certificate expires");
                    self.instance(report, 0, lag.unwrap_or_else(believed))
                }
            }
        });
        Ok(Response::new(ListInstancesResponse { instances: instances.collect(), revision }))
    }

    async fn describe_instance(
        &self,
        request: Request<DescribeInstanceRequest>,
    ) -> Result<Response<DescribeInstanceResponse>, Status> {
        let DescribeInstanceRequest { id } = request.into_inner();
        let id = InstanceId::parse(&id).map_err(|error| status::bad_field("id", error))?;
        let record = self.control.ledger.instance(&id).await.map_err(|error| status::of_store(&error))?;
        let of_node = record.as_ref().map_or_else(ListInstancesRequest::default, |record| {
            ListInstancesRequest { mesh: record.mesh.clone(), node: record.node.clone() }
        });
        let listed = self.list_instances(Request::new(of_node)).await?.into_inner().instances;
        let instance = listed.into_iter().find(|instance| instance.id == id.to_string());
        let life = life::of(&self.control, id, instance, record).await;
        let life = life.map_err(|error| status::of_store(&error))?;
        life.map(Response::new).ok_or_else(|| status::no_such_instance(&id))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let ListCertificatesRequest { spiffe_id, page_size, page_token } = request.into_inner();
        let limit = page::size(page_size, 100, 1_000)?;
        let spiffe_id = Some(spiffe_id.as_str()).filter(|id| !id.is_empty());
        let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
        let page = self.control.ledger.certificates(spiffe_id, after, limit).await;
        let page = page.map_err(|error| status::of_store(&error))?;
        Ok(Response::new(ListCertificatesResponse {
            certificates: page.certificates.into_iter().map(certificate).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn fetch_bundle(
        &self,
        _request: Request<FetchBundleRequest>,
    ) -> Result<Response<FetchBundleResponse>, Status> {
        let authority = &self.control.authority;
        let bundle = authority.bundle();
        Ok(Response::new(FetchBundleResponse {
            trust_domain: authority.trust_domain().to_string(),
            pem: bundle.to_pem(),
            fingerprints: bundle.roots().iter().map(|root| root.fingerprint().to_string()).collect(),
            renew_issuers: authority.trust().borrow().renew_issuers.clone(),
            active_root: authority.root_fingerprint(),
        }))
    }
}

impl IdentitiesService {
    fn instance(&self, report: &Report, latest_revision: u64, lag_reason: String) -> Instance {
        let hello = report.hello.as_ref();
        let registration = self.push.endpoints().registration(&report.spiffe_id, report.id);
        let ports = registration.iter().flat_map(|registration| registration.ports());
        Instance {
            id: report.id.to_string(),
            spiffe_id: report.spiffe_id.to_string(),
            mesh: report.mesh.to_string(),
            node: report.node.to_string(),
            connected: report.connected_since.is_some(),
            connected_since: report.connected_since.map(message::timestamp),
            last_seen: report.last_seen.map(message::timestamp),
            peer_address: report.address.map(|address| address.to_string()).unwrap_or_default(),
            version: hello.map(|hello| hello.version.clone()).unwrap_or_default(),
            hostname: hello.map(|hello| hello.hostname.clone()).unwrap_or_default(),
            serial: report.certificate.serial.to_string(),
            certificate_not_after: Some(message::timestamp(report.certificate.not_after)),
            latest_revision,
            enforced_revision: report.in_force.map(|mark| mark.revision).unwrap_or_default(),
            lag_reason,
            ports: ports
                .map(|port| InstancePort {
                    listener_port: port.listener_port.into(),
                    address: port.address.to_string(),
                    healthy: port.healthy,
                })
                .collect(),
            draining: registration.as_ref().is_some_and(|registration| registration.draining),
            clock_skew_ms: hello.map(|hello| hello.clock_skew_ms).unwrap_or_default(),
            token_id: report.token.clone().unwrap_or_default(),
            evidence: None,
        }
    }
}

fn parse_token_request(request: CreateTokenRequest) -> Result<TokenRequest, Status> {
    let CreateTokenRequest { mesh, node, ttl_seconds, uses, unlimited, enrollment, labels } = request;
    let ttl = Some(ttl_seconds).filter(|seconds| *seconds != 0);
    let uses = match (unlimited, uses) {
        (true, 0) => Uses::Unlimited,
        (true, _) => return Err(status::bad_field("uses", "give a number of uses, or unlimited, not both")),
        (false, 0) => Uses::Limited(1),
        (false, uses) => Uses::Limited(uses),
    };
    let name = |field: &str, text: &str| Name::parse(text).map_err(|error| status::bad_field(field, error));
    let of = match (node.is_empty(), enrollment.is_empty()) {
        (false, false) => {
            let problem = "a token is of a virtual node or gateway, or of an enrollment, not of both";
            return Err(status::bad_field("enrollment", problem));
        }
        (true, false) => TokenFor::Enrollment {
            name: name("enrollment", &enrollment)?,
            labels: labels.into_iter().collect(),
        },
        (_, true) if !labels.is_empty() => {
            let problem = "they are an enrollment's to judge: name that, and no node";
            return Err(status::bad_field("labels", problem));
        }
        (_, true) => {
            let node = NodeName::parse(&node).map_err(|error| status::bad_field("node", error))?;
            TokenFor::Node(node)
        }
    };
    Ok(TokenRequest {
        mesh: name("mesh", &mesh)?,
        of,
        ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())),
        uses,
    })
}

fn token(view: &TokenView, live: usize) -> Token {
    let TokenView { id, record, used_by } = view;
    Token {
        id: id.clone(),
        mesh: record.mesh.clone(),
        node: record.node.clone(),
        created_at: Some(message::timestamp(UnixMillis(record.created_at))),
        expires_at: Some(message::timestamp(UnixMillis(record.expires_at))),
        created_by: record.created_by.clone(),
        uses: match record.uses {
            Uses::Limited(uses) => uses,
            Uses::Unlimited => 0,
        },
        used_by: used_by.iter().map(|used| used.instance.clone()).collect(),
        used: match record.uses {
            Uses::Limited(_) => record.used,
            Uses::Unlimited => u32::try_from(live).unwrap_or(u32::MAX),
        },
        enrollment: record.enrollment.as_ref().map(|of| of.name.clone()).unwrap_or_default(),
        labels: record.enrollment.iter().flat_map(|of| of.labels.clone()).collect(),
    }
}

fn evidence(record: EvidenceRecord) -> Evidence {
    let EvidenceRecord { attestor, subject: _, enrollment, selectors, voucher: _, at, source } = record;
    let verified_at = Some(message::timestamp(UnixMillis(at)));
    Evidence { attestor, enrollment, selectors, verified_at, source }
}

fn certificate((serial, record): (String, IssuedRecord)) -> IssuedCertificate {
    let IssuedRecord { spiffe_id, holder, issued_at, not_before, not_after, dns_names, .. } = record;
    IssuedCertificate {
        serial,
        spiffe_id,
        instance_id: match holder {
            Holder::Instance(id) | Holder::Workload { instance: id, .. } => id,
            Holder::Admin(_) | Holder::ControlPlane => String::new(),
        },
        not_before: Some(message::timestamp(UnixMillis(not_before))),
        not_after: Some(message::timestamp(UnixMillis(not_after))),
        issued_at: Some(message::timestamp(UnixMillis(issued_at))),
        dns_names,
    }
}
