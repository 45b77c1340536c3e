//! One question about a mesh.

use hauberk_identity::UnixMillis;
use hauberk_policy::{
    Action, Asked, Attempt, CanonicalPath, Engine, Explanation, Gathered, Paths, PolicyNote, Protocol,
    Question, Reason,
};
use hauberk_proto::admin::v1::{CheckRequest, CheckResponse, Outlook, Prospect};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::encode_explanation;
use tonic::Status;

use super::cells::Spoken;
use super::circumstances::{Circumstances, check_host, gathered, on_behalf_of};
use super::mesh::{self, Called, Mesh, Somebody, numbers};
use super::prospect::{Place, encode_prospect};
use super::turned_away::{Known, TurnedAway};
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
    /// Of the user's token.
    untold_claims: Vec<Box<str>>,
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
        // Of several ports those are meant that take what is asked.
        let spoken = Spoken::of(&request.method, &request.path);
        let takes: Vec<_> =
            called.ports.iter().copied().filter(|(_, protocol)| spoken.has(*protocol)).collect();
        let meant = if takes.is_empty() { &called.ports } else { &takes };
        let [(port, protocol)] = meant[..] else {
            let problem = format!("{} has several ports, {}: name one", request.target, numbers(meant));
            return Err(status::bad_field("port", problem));
        };
        let circumstances = Circumstances::of(request, &caller.asker.caller, now)?;
        let engine = mesh.engine(called.place)?;
        if let mesh::Place::External(name) = called.place {
            check_host(&request.host, name, mesh)?;
        }
        let (made_for, untold_claims) = on_behalf_of(request, mesh, &engine)?;
        let gathered = gathered(request, &engine, port).made_for(made_for);
        Ok(Self {
            mesh,
            request,
            caller,
            called,
            port,
            protocol,
            circumstances,
            engine,
            gathered,
            untold_claims,
        })
    }

    /// Answers it as agents would that turn away whoever is known to be.
    pub(super) fn answer_of(&self, known: Known<'_>) -> Result<CheckResponse, Status> {
        let mut answer = self.answer()?;
        let caller = &self.caller.asker.caller;
        let turned_away = TurnedAway::of(self.mesh, caller, self.called.place, known);
        if let Some(turned_away) = turned_away.or_else(|| self.refused_user(known)) {
            turned_away.settle(&mut answer);
        }
        Ok(answer)
    }

    /// Why agents refuse whom it is made for, if they do.
    fn refused_user(&self, known: Known<'_>) -> Option<TurnedAway> {
        let origin = self.gathered.on_behalf_of().origin()?;
        let port = self.engine.scope().ports.iter().find(|port| port.number == self.port);
        if self.protocol == Protocol::Tcp {
            // A stream is made for no user.
            return None;
        }
        // Of what leaves the mesh the caller's agent verified it, or whoever passed it on.
        let leaves = matches!(self.called.place, mesh::Place::External(_));
        let is_looked_at = leaves || port.is_some_and(|port| port.users.is_some());
        TurnedAway::of_user(self.mesh, origin, is_looked_at, known)
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
        let given = self.circumstances.given(self.request, &self.gathered, &self.untold_claims);
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
        let settled = settled(&prospects);
        let lacks = |note: &PolicyNote| note.error.as_deref() == Some(Reason::FactsMissing.as_str());
        if settled.is_some() {
            // What was not told does not matter: let nobody think that it does.
            explanation.policies.retain(|note| !lacks(note));
        }
        for note in explanation.policies.iter_mut().filter(|note| lacks(note)) {
            note.error = Some("what it reads was not told".to_owned());
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
        let mut detail = encode_explanation(explanation, known);
        if let (Some(outlook), Some(decision)) = (settled, &mut detail.decision) {
            settle(decision, outlook, &prospects);
        }
        CheckResponse { decisions: vec![detail], revision: 0, prospects }
    }
}

/// What holds for all that a request is, where nothing is open.
fn settled(prospects: &[Prospect]) -> Option<Outlook> {
    if prospects.iter().any(|prospect| prospect.outlook() == Outlook::Never) {
        return Some(Outlook::Never);
    }
    let is_always = |prospect: &Prospect| prospect.outlook() == Outlook::Always;
    (!prospects.is_empty() && prospects.iter().all(is_always)).then_some(Outlook::Always)
}

/// Has a decision say what holds whatever is assumed: by what it assumed itself it may have come out for another reason, or
/// even otherwise.
fn settle(decision: &mut agent::Decision, outlook: Outlook, prospects: &[Prospect]) {
    let by_default = Reason::AuditDefaultAllow.as_str();
    let deciding = || prospects.iter().filter(|prospect| prospect.outlook() == outlook);
    let with_reason = |reason: &str| deciding().find(|prospect| prospect.reason == reason);
    let ground = with_reason(&decision.reason).or_else(|| with_reason(by_default));
    let Some(ground) = ground.or_else(|| deciding().next()) else { return };
    let verdict = match outlook {
        Outlook::Always if ground.reason == by_default => agent::Verdict::AuditAllow,
        Outlook::Always => agent::Verdict::Allow,
        _ => agent::Verdict::Deny,
    };
    decision.verdict = verdict.into();
    decision.reason.clone_from(&ground.reason);
    decision.policies = deciding()
        .filter(|prospect| prospect.reason == ground.reason)
        .flat_map(|prospect| prospect.policies.iter().cloned())
        .collect();
    decision.policies.sort();
    decision.policies.dedup();
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;

    use super::*;
    use crate::resources::Catalog;
    use crate::resources::testing::{catalog_of, policy, shop, trust_domain};

    fn answer(catalog: &Catalog, request: CheckRequest) -> CheckResponse {
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let mesh = Mesh::of(catalog, &domain, &shop).unwrap();
        let (mesh_name, target, method) = ("shop".to_owned(), "orders".to_owned(), "GET".to_owned());
        let request = CheckRequest { mesh: mesh_name, target, method, ..request };
        Check::new(&mesh, &request, UnixMillis(2)).unwrap().answer().unwrap()
    }

    #[test]
    fn a_decision_says_what_holds_whatever_is_assumed() {
        let scope = "principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\"";
        let mut resources = shop();
        resources[4] =
            policy("reads", &format!("permit({scope}) when {{ context.path like \"/orders/*\" }};"));
        resources.push(policy(
            "admins",
            &format!(
                "permit({scope}) when {{ context.path == \"/admin\" && context.peer.address.isInRange(ip(\"10.0.0.0/8\")) }};"
            ),
        ));
        let catalog = catalog_of(&resources);
        for (path, outlook, verdict, reason, policies) in [
            ("/orders/1", Outlook::Always, agent::Verdict::Allow, "permitted", &["reads"][..]),
            ("/else", Outlook::Never, agent::Verdict::Deny, "no_policy_matched", &[]),
            // What is open is told as it is assumed: nothing is known of the address.
            ("/admin", Outlook::Conditional, agent::Verdict::Deny, "facts_missing", &["admins"]),
        ] {
            let (caller, path) = ("web".to_owned(), path.to_owned());
            let answer =
                answer(&catalog, CheckRequest { caller, path: path.clone(), ..CheckRequest::default() });
            assert_eq!(answer.prospects[0].outlook(), outlook, "{path}");
            let decided = answer.decisions[0].decision.clone().unwrap();
            let told = (decided.verdict(), decided.reason.as_str());
            assert_eq!(
                (told, decided.policies),
                ((verdict, reason), policies.iter().map(ToString::to_string).collect()),
                "{path}"
            );
        }
    }

    #[test]
    fn of_two_reasons_the_one_is_told_by_which_it_was_decided() {
        let prospect = |outlook: Outlook, reason: &str, policy: &str| Prospect {
            outlook: outlook.into(),
            reason: reason.to_owned(),
            policies: vec![policy.to_owned()],
            ..Prospect::default()
        };
        let told = |was: &str, prospects: &[Prospect]| {
            let mut decision = agent::Decision { reason: was.to_owned(), ..agent::Decision::default() };
            settle(&mut decision, settled(prospects).unwrap(), prospects);
            (decision.verdict(), decision.reason, decision.policies)
        };
        let never = [
            prospect(Outlook::Never, "forbidden", "b"),
            prospect(Outlook::Conditional, "permitted", ""),
            prospect(Outlook::Never, "no_policy_matched", "a"),
        ];
        let is = |verdict, reason: &str, policy: &str| (verdict, reason.to_owned(), vec![policy.to_owned()]);
        assert_eq!(told("facts_missing", &never), is(agent::Verdict::Deny, "forbidden", "b"));
        assert_eq!(told("no_policy_matched", &never), is(agent::Verdict::Deny, "no_policy_matched", "a"));
        let always = [
            prospect(Outlook::Always, "permitted", "a"),
            prospect(Outlook::Always, "audit_default_allow", ""),
        ];
        assert_eq!(told("facts_missing", &always), is(agent::Verdict::AuditAllow, "audit_default_allow", ""));
        assert_eq!(settled(&[prospect(Outlook::Conditional, "permitted", "")]), None);
        assert_eq!(settled(&[]), None);
    }

    #[test]
    fn who_proves_nothing_has_no_certificate_in_any_answer() {
        let permit = |path: &str, condition: &str| {
            format!(
                "permit(principal is Anonymous, action == Action::\"GET\", resource in Service::\"orders\") when {{ \
                 context.path == \"{path}\" && {condition} }};\n"
            )
        };
        let nothing = "!(context.peer has spiffeId) && !(context.peer has trustDomain) && !context.peer.federated && \
                       !(context.peer has certificateAge)";
        let rules = [
            permit("/nobody", nothing),
            permit("/somebody", "(context.peer has spiffeId || context.peer.federated)"),
            permit("/aged", "context.peer has certificateAge"),
            permit("/encrypted", "context.peer has tlsVersion"),
        ];
        let mut resources = shop();
        resources.push(policy("strangers", &rules.concat()));
        let catalog = catalog_of(&resources);
        // Of what policies say, since no listener takes such callers yet. What is assumed where nothing was told is told apart
        // from what holds whatever it is.
        for (path, tls_group, outlook) in [
            ("/nobody", "", Outlook::Always),
            ("/nobody", "X25519", Outlook::Always),
            ("/somebody", "", Outlook::Never),
            ("/aged", "", Outlook::Never),
            ("/encrypted", "", Outlook::Conditional),
            ("/encrypted", "X25519", Outlook::Always),
        ] {
            let request = CheckRequest {
                caller: "anonymous".to_owned(),
                path: path.to_owned(),
                tls_group: tls_group.to_owned(),
                ..CheckRequest::default()
            };
            let told = answer(&catalog, request);
            assert_eq!(told.prospects[0].outlook(), outlook, "{path} {tls_group}");
        }
    }
}
