//! The admin API's `Policies` service: who may do what, and why something was denied.

use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId, UnixMillis};
use hauberk_policy::{
    Action, Attempt, Caller, CanonicalPath, Effect, Engine, Explanation, Protocol, Question, Reason, Verb,
};
use hauberk_proto::admin::v1::policies_server::{Policies, PoliciesServer};
use hauberk_proto::admin::v1::{CheckRequest, CheckResponse, ExplainRequest, ExplainResponse};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::encode_policy_note;
use tonic::{Code, Request, Response, Status};

use super::check::{Circumstances, Users, gathered, on_behalf_of};
use super::{explain, status};
use crate::app::ControlPlane;
use crate::compile::view::MeshViews;
use crate::push::Push;
use crate::resources::{Kind, Listener, MeshCatalog, Resources, VirtualNode, did_you_mean};

/// The service, ready to be mounted.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
) -> PoliciesServer<PoliciesService> {
    PoliciesServer::new(PoliciesService {
        control: Arc::clone(control),
        resources: Arc::clone(resources),
        push: Arc::clone(push),
    })
    .max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct PoliciesService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Policies for PoliciesService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let catalog = self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))?;
        let mesh = Name::parse(&request.mesh).map_err(|error| status::bad_field("mesh", error))?;
        let resources = catalog.mesh(mesh.as_str()).filter(|resources| resources.spec().is_some());
        let resources = resources.ok_or_else(|| {
            let hint = did_you_mean(mesh.as_str(), catalog.meshes().keys().map(Name::as_str));
            missing(&format!("mesh {mesh} does not exist"), hint)
        })?;
        let check =
            Check { resources: self.resources.as_ref(), mesh: &mesh, catalog: resources, request: &request };
        let decision = check.decide(self.control.clock.now())?;
        Ok(Response::new(CheckResponse { decisions: vec![decision], revision: catalog.revision().0 }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        explain::explain(&self.push, request.into_inner()).await.map(Response::new)
    }
}

/// One question about a mesh as it is stored.
struct Check<'a> {
    resources: &'a Resources,
    mesh: &'a Name,
    catalog: &'a MeshCatalog,
    request: &'a CheckRequest,
}

/// What is called.
struct Called<'a> {
    /// The virtual service, where that was named.
    service: Option<&'a Name>,
    name: &'a Name,
    node: &'a VirtualNode,
    listener: &'a Listener,
}

impl Check<'_> {
    fn decide(&self, now: UnixMillis) -> Result<agent::DecisionDetail, Status> {
        let caller = self.caller()?;
        let called = self.called()?;
        let circumstances = Circumstances::of(self.request, now)?;
        let views = MeshViews::new(self.resources.trust_domain(), self.mesh, self.catalog);
        let view = views.node(called.name, called.node);
        let node = view.scope.node.to_string();
        let engine =
            Engine::compile(view.scope, &view.policies, None).map_err(|error| status::internal(&error))?;
        let CheckRequest { method, path, .. } = self.request;
        let port = called.listener.port();
        let Circumstances { peer, moment } = &circumstances;
        let made_for = on_behalf_of(self.request, &self.named(), &engine)?;
        let gathered = gathered(self.request, &engine, port).made_for(made_for);
        let explain =
            |attempt| engine.explain(&Question { caller: &caller, peer, port, attempt, moment: *moment });
        let refused = |field, problem: &str| Err(status::bad_field(field, problem));
        let (explanation, path) = match called.listener.protocol() {
            Protocol::Tcp if !method.is_empty() => return refused("method", "a tcp port has no methods"),
            Protocol::Tcp if !path.is_empty() => return refused("path", "a tcp port has no paths"),
            Protocol::Tcp => (explain(Attempt::Stream), String::new()),
            Protocol::Grpc => {
                if !method.is_empty() && method != "POST" {
                    return refused(
                        "method",
                        "a grpc port has no HTTP methods: name package.Service/Method as path",
                    );
                }
                let rooted = format!("/{}", path.trim_start_matches('/'));
                let rpc = CanonicalPath::parse("POST", &rooted)
                    .map_err(|error| status::bad_field("path", error))?;
                let attempt =
                    Attempt::Request { method: "POST", path: &rpc, upgrade: false, gathered: &gathered };
                (explain(attempt), rpc.path().trim_start_matches('/').to_owned())
            }
            Protocol::Http | Protocol::Http2 => {
                let upgrade = method == Action::Upgrade.as_str();
                let method = if method.is_empty() || upgrade { "GET" } else { method };
                let target = if path.is_empty() { "/" } else { path };
                let target =
                    CanonicalPath::parse(method, target).map_err(|error| status::bad_field("path", error))?;
                let attempt = Attempt::Request { method, path: &target, upgrade, gathered: &gathered };
                (explain(attempt), target.path().to_owned())
            }
        };
        let service = called.service.map(ToString::to_string).unwrap_or_default();
        let known = agent::Decision {
            at_unix_ms: moment.time.0,
            node,
            port: port.into(),
            service,
            path,
            ..agent::Decision::default()
        };
        Ok(describe(explanation, known))
    }

    fn named(&self) -> Users<'_> {
        Users { mesh: self.mesh, catalog: self.catalog, trust_domain: self.resources.trust_domain() }
    }

    /// A SPIFFE id, or the name of a virtual node of this mesh.
    fn caller(&self) -> Result<Caller, Status> {
        let text = &self.request.caller;
        if text.starts_with("spiffe:") {
            let id = SpiffeId::parse(text).map_err(|error| status::bad_field("caller", error))?;
            return Ok(Caller::Peer(id));
        }
        let name = Name::parse(text).map_err(|error| status::bad_field("caller", error))?;
        if self.catalog.node(name.as_str()).is_none() {
            let known = self.catalog.of_kind(Kind::VirtualNode).keys().map(Name::as_str);
            let message = format!("virtual node {name} does not exist in mesh {}", self.mesh);
            return Err(missing(&message, did_you_mean(name.as_str(), known)));
        }
        Ok(Caller::Peer(SpiffeId::node(self.resources.trust_domain(), self.mesh, &name)))
    }

    /// The node and listener that serve the target: a virtual service's, else a virtual node's.
    fn called(&self) -> Result<Called<'_>, Status> {
        let target = &self.request.target;
        let service = self.catalog.services().find(|(name, _)| **name == **target);
        let (service, name, provided) = match service {
            Some((name, service)) => {
                let provider = service.provider().ok_or_else(|| {
                    let message = format!("virtual service {name} has no provider: calls to it fail");
                    status::refusal(Code::FailedPrecondition, "NO_PROVIDER", message)
                })?;
                (Some(name), provider.node().as_str(), Some(provider))
            }
            None => (None, target.as_str(), None),
        };
        let node = self.catalog.nodes().find(|(own, _)| **own == *name);
        let (name, node) = node.ok_or_else(|| {
            let kinds = [Kind::VirtualService, Kind::VirtualNode];
            let known =
                kinds.into_iter().flat_map(|kind| self.catalog.of_kind(kind).keys()).map(Name::as_str);
            let message =
                format!("mesh {} has neither a virtual service nor a virtual node {target:?}", self.mesh);
            missing(&message, did_you_mean(target, known))
        })?;
        let is_offered =
            |listener: &&Listener| provided.is_none_or(|provider| provider.takes(listener.port()));
        let offered: Vec<&Listener> = node.listeners().iter().filter(is_offered).collect();
        let wanted = self.request.port;
        let listener = match &offered[..] {
            _ if wanted != 0 => offered.iter().find(|listener| u32::from(listener.port()) == wanted).copied(),
            [only] => Some(*only),
            _ => None,
        };
        let listener = listener.ok_or_else(|| {
            let ports =
                offered.iter().map(|listener| listener.port().to_string()).collect::<Vec<_>>().join(", ");
            let problem = match offered.len() {
                0 => format!("{target} has no ports"),
                _ if wanted != 0 => format!("{target} has no port {wanted}; it has {ports}"),
                _ => format!("{target} has several ports, {ports}: name one"),
            };
            status::bad_field("port", problem)
        })?;
        Ok(Called { service, name, node, listener })
    }
}

fn missing(message: &str, hint: Option<String>) -> Status {
    let message = hint.map_or(message.to_owned(), |hint| format!("{message}; {hint}"));
    status::refusal(Code::NotFound, "NOT_FOUND", message)
}

/// Completes what is known of a decision with what the policies said.
fn describe(explanation: Explanation, known: agent::Decision) -> agent::DecisionDetail {
    let Explanation { caller, attempt: _, decision, policies, suggestion } = explanation;
    let verdict = match (decision.effect, decision.reason) {
        (Effect::Allow, Reason::AuditDefaultAllow) => agent::Verdict::AuditAllow,
        (Effect::Allow, _) => agent::Verdict::Allow,
        (Effect::Deny, _) => agent::Verdict::Deny,
    };
    let audit_verdict = match decision.audit.as_ref().map(|audit| audit.effect) {
        Some(effect) if effect != decision.effect => match effect {
            Effect::Allow => agent::Verdict::Allow,
            Effect::Deny => agent::Verdict::Deny,
        },
        _ => agent::Verdict::Unspecified,
    };
    // A route is named by its port and its template.
    let resource = decision.resource.as_deref().unwrap_or_default();
    let route = resource.split_once(' ').map_or("", |(_port, template)| template);
    let decided = agent::Decision {
        caller,
        action: decision.action.map(|action| action.as_str().to_owned()).unwrap_or_default(),
        route: route.to_owned(),
        verdict: verdict.into(),
        reason: decision.reason.as_str().to_owned(),
        policies: decision.policies.iter().map(ToString::to_string).collect(),
        audit_verdict: audit_verdict.into(),
        ..known
    };
    agent::DecisionDetail {
        decision: Some(decided),
        policies: policies.iter().map(encode_policy_note).collect(),
        suggestion: suggestion.map(|grant| grant.command(Verb::Allow)).unwrap_or_default(),
    }
}
