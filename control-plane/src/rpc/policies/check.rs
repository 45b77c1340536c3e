//! One question about a mesh.

use hauberk_identity::UnixMillis;
use hauberk_policy::{
    Action, Asked, Attempt, CanonicalPath, Engine, Explanation, Gathered, Paths, Protocol, Question, Reason,
};
use hauberk_proto::admin::v1::{CheckRequest, CheckResponse, Outlook, Prospect};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::encode_explanation;
use tonic::Status;

use super::circumstances::{Circumstances, gathered, on_behalf_of};
use super::mesh::{self, Called, Mesh, Somebody, numbers};
use super::prospect::{Place, encode_prospect};
use super::turned_away::TurnedAway;
use crate::revocation::Denylist;
use crate::rpc::status;

/// A question with what it is asked of.
pub(super) struct Check<'a, 'm> {
    mesh: &'a Mesh<'m>,
    request: &'a CheckRequest,
    caller: Somebody,
    called: Called<'a>,
    port: u16,
    protocol: Protocol,
    circumstances: Circumstances,
    engine: Engine,
    gathered: Gathered,
}

impl<'a, 'm> Check<'a, 'm> {
    /// Understands a question. Whatever the question leaves open is assumed for the decision: the time, for one, is `now`.
    pub(super) fn new(
        mesh: &'a Mesh<'m>,
        request: &'a CheckRequest,
        now: UnixMillis,
    ) -> Result<Self, Status> {
        let caller = Somebody::called(mesh, &request.caller)?;
        let called = mesh.called(&request.target, request.port)?;
        let [(port, protocol)] = called.ports[..] else {
            let several = numbers(&called.ports);
            let problem = format!("{} has several ports, {several}: name one", request.target);
            return Err(status::bad_field("port", problem));
        };
        let circumstances = Circumstances::of(request, &caller.asker.caller, now)?;
        let engine = mesh.engine(called.place)?;
        let made_for = on_behalf_of(request, mesh, &engine)?;
        let gathered = gathered(request, &engine, port).made_for(made_for);
        Ok(Self { mesh, request, caller, called, port, protocol, circumstances, engine, gathered })
    }

    /// The same where agents turn away whoever is on this list, and whom else they do not let in.
    pub(super) fn answer_of(&self, denylist: &Denylist) -> Result<CheckResponse, Status> {
        let mut answer = self.answer()?;
        let turned_away = TurnedAway::of(self.mesh, &self.caller.asker.caller, self.called.place, denylist);
        if let Some(turned_away) = turned_away {
            turned_away.settle(&mut answer);
        }
        Ok(answer)
    }

    /// Answers it by policies alone, the revision left out.
    pub(super) fn answer(&self) -> Result<CheckResponse, Status> {
        let CheckRequest { method, path, .. } = self.request;
        let refused = |field, problem: &str| Err(status::bad_field(field, problem));
        let parse = |method: &str, path: &'a str| {
            let escaped = self.engine.escaped_slashes(self.port);
            CanonicalPath::parse_with(method, path, escaped).map_err(|error| status::bad_field("path", error))
        };
        let gathered = &self.gathered;
        match self.protocol {
            Protocol::Tcp if !method.is_empty() => refused("method", "a tcp port has no methods"),
            Protocol::Tcp if !path.is_empty() => refused("path", "a tcp port has no paths"),
            Protocol::Tcp => {
                let prospects = self.prospects(&[None], Paths::All)?;
                Ok(self.respond(self.explain(Attempt::Stream), String::new(), prospects))
            }
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
                let attempt = Attempt::Request { method: "POST", path: &rpc, upgrade: false, gathered };
                let prospects = self.prospects(&[None], Paths::Exactly(&rpc))?;
                let shown = rpc.path().trim_start_matches('/').to_owned();
                Ok(self.respond(self.explain(attempt), shown, prospects))
            }
            Protocol::Http | Protocol::Http2 if method == "CONNECT" => {
                refused("method", "a port for requests takes no tunnels: agents answer CONNECT with 405")
            }
            Protocol::Http | Protocol::Http2 => {
                let upgrade = method == Action::Upgrade.as_str();
                let method = if method.is_empty() || upgrade { "GET" } else { method };
                let target = parse(method, if path.is_empty() { "/" } else { path })?;
                let attempt = Attempt::Request { method, path: &target, upgrade, gathered };
                let also = upgrade.then_some(Some(Action::Upgrade.as_str()));
                let methods: Vec<_> = [Some(method)].into_iter().chain(also).collect();
                let mut prospects = self.prospects(&methods, Paths::Exactly(&target))?;
                // Both readings must be let through.
                if let Some(other) = target.with_slashes() {
                    prospects.extend(self.prospects(&methods, Paths::Exactly(&other))?);
                }
                Ok(self.respond(self.explain(attempt), target.path().to_owned(), prospects))
            }
        }
    }

    fn explain(&self, attempt: Attempt<'_>) -> Explanation {
        let Circumstances { peer, moment, .. } = &self.circumstances;
        let port = self.port;
        self.engine.explain(&Question {
            caller: &self.caller.asker.caller,
            peer,
            port,
            attempt,
            moment: *moment,
        })
    }

    /// What would be decided if nothing is assumed: for each of these methods.
    fn prospects(&self, methods: &[Option<&str>], paths: Paths<'_>) -> Result<Vec<Prospect>, Status> {
        let given = self.circumstances.given(self.request, &self.gathered);
        let Somebody { label, asker } = &self.caller;
        let (node, external) = self.place();
        let services = self.engine.scope().ports.iter().find(|port| port.number == self.port);
        let services = services.map(|port| &port.services[..]).unwrap_or_default();
        let place = Place { node: &node, external, port: self.port, services };
        let mut prospects = Vec::new();
        for method in methods {
            let survey = self.engine.survey(self.port, Asked { method: *method, paths }, &given);
            let survey = survey.map_err(|reason| status::bad_field("port", reason.as_str()))?;
            let found = survey.of(asker).into_iter();
            prospects.extend(found.map(|prospect| encode_prospect(prospect, label, false, &place)));
        }
        Ok(prospects)
    }

    /// The node whose agents decide, and the external service that is called, if any.
    fn place(&self) -> (String, &str) {
        match self.called.place {
            mesh::Place::Node(name, _) => (self.mesh.id_of(name).to_string(), ""),
            mesh::Place::External(name) => (self.caller.label.clone(), name.as_str()),
        }
    }

    fn respond(
        &self,
        mut explanation: Explanation,
        path: String,
        mut prospects: Vec<Prospect>,
    ) -> CheckResponse {
        let settled = [Outlook::Always, Outlook::Never];
        if prospects.iter().all(|prospect| settled.contains(&prospect.outlook())) {
            // What was not told does not matter: let nobody think that it does.
            let lacking = Reason::FactsMissing.as_str();
            explanation.policies.retain(|note| note.error.as_deref() != Some(lacking));
        }
        if prospects.is_empty() {
            // Nothing that the port speaks: `/a` on a grpc port.
            let reason = explanation.decision.reason.as_str().to_owned();
            prospects.push(Prospect { reason, outlook: Outlook::Never.into(), ..Prospect::default() });
        }
        let service = self.called.service.map(ToString::to_string).unwrap_or_default();
        let known = agent::Decision {
            at_unix_ms: self.circumstances.moment.time.0,
            node: self.place().0,
            external: self.place().1.to_owned(),
            port: self.port.into(),
            service,
            path,
            ..agent::Decision::default()
        };
        CheckResponse { decisions: vec![encode_explanation(explanation, known)], revision: 0, prospects }
    }
}
