//! The admin API's `Record` service: what was decided how often, and what other policies would make of it.

use std::sync::Arc;

use hauberk_identity::{Name, NodeName, SpiffeId, UnixMillis};
use hauberk_proto::admin::v1::record_server::{self, RecordServer};
use hauberk_proto::admin::v1::{
    Flip, ListWouldDenialsRequest, ListWouldDenialsResponse, SimulateRequest, SimulateResponse,
    SuggestRequest, SuggestResponse, WouldDenials,
};
use hauberk_proto::convert::timestamp;
use tonic::{Code, Request, Response, Status};

use super::drafts::Proposal;
use super::status;
use crate::access::CallContext;
use crate::app::ControlPlane;
use crate::bulkhead::{Bulkhead, Place};
use crate::flows::{Auditing, Tally};
use crate::push::Push;
use crate::resources::{Catalog, Draft, MAX_BATCH_BYTES, MeshCatalog, Resources, did_you_mean};
use crate::simulate::{self, SimulateError, Simulation, Suggestion};

/// How many changes one answer tells of.
const MAX_FLIPS: usize = 1_000;

/// The service, ready to be mounted. `drafts`: where questions about drafts wait, of whatever service.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
    drafts: &Arc<Bulkhead>,
) -> RecordServer<RecordService> {
    RecordServer::new(RecordService {
        control: Arc::clone(control),
        resources: Arc::clone(resources),
        push: Arc::clone(push),
        questions: Bulkhead::of_questions(),
        drafts: Arc::clone(drafts),
    })
    // Some more than a draft may have, so that one that is too large is told so in our words.
    .max_decoding_message_size(2 * MAX_BATCH_BYTES)
}

pub(super) struct RecordService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    push: Arc<Push>,
    questions: Bulkhead,
    drafts: Arc<Bulkhead>,
}

#[tonic::async_trait]
impl record_server::Record for RecordService {
    async fn simulate(
        &self,
        request: Request<SimulateRequest>,
    ) -> Result<Response<SimulateResponse>, Status> {
        let (context, request) = CallContext::with_message(request)?;
        let SimulateRequest { resources: batch, removed } = request;
        let count = removed.len() as u64;
        let proposal = Proposal::read(batch, &removed)?;
        let place = place_of(&context, &self.drafts)?;
        let before = self.catalog().await?;
        let turn = place.turn().await.map_err(status::of_busy)?;
        let revision = before.revision().0;
        let silent_instances = self.silent_instances(|mesh| before.mesh(mesh.as_str()).is_some());
        let (resources, push) = (Arc::clone(&self.resources), Arc::clone(&self.push));
        let simulated = turn.run(move || {
            let Draft { after, warnings } = proposal.draft(&resources, &before)?;
            let records = push.flows().recorded().of(|_| true);
            let simulation = simulate::simulate(resources.trust_domain(), &before, &after, &records);
            Ok::<_, Status>((simulation.map_err(|error| cannot_say(&error))?, warnings))
        });
        let (simulation, warnings) = simulated.await.map_err(|error| status::internal(&error))??;
        let answer =
            SimulateResponse { silent_instances, revision, warnings, removed: count, ..encode(simulation) };
        Ok(Response::new(answer))
    }

    async fn suggest(&self, request: Request<SuggestRequest>) -> Result<Response<SuggestResponse>, Status> {
        let (context, SuggestRequest { mesh, node }) = CallContext::with_message(request)?;
        let place = place_of(&context, &self.questions)?;
        let catalog = self.catalog().await?;
        let mesh = mesh_of(&catalog, &mesh)?;
        let resources = catalog.mesh(mesh.as_str()).cloned().unwrap_or_default();
        let wanted = wanted_node(&mesh, &resources, &node)?;
        let turn = place.turn().await.map_err(status::of_busy)?;
        let silent_instances = self.silent_instances(|own| *own == mesh);
        let (trust_domain, push) = (self.resources.trust_domain().clone(), Arc::clone(&self.push));
        let suggested = turn.run(move || {
            let is_meant =
                |(of, name): (Name, NodeName)| of == mesh && wanted.as_ref().is_none_or(|node| *node == name);
            let records = push.flows().recorded().of(|id| id.mesh_and_node().is_some_and(is_meant));
            simulate::suggest(&trust_domain, &mesh, &resources, &records)
        });
        let suggestion = suggested.await.map_err(|error| status::internal(&error))?;
        let Suggestion { policies, generalisations, seen, covered, uncovered, used, since, unrecorded } =
            suggestion.map_err(|error| cannot_say(&error))?;
        Ok(Response::new(SuggestResponse {
            policies,
            generalisations,
            seen,
            covered,
            uncovered,
            used,
            since: since.map(|since| timestamp(UnixMillis(since))),
            silent_instances,
            unrecorded,
        }))
    }

    async fn list_would_denials(
        &self,
        request: Request<ListWouldDenialsRequest>,
    ) -> Result<Response<ListWouldDenialsResponse>, Status> {
        let (context, ListWouldDenialsRequest { mesh }) = CallContext::with_message(request)?;
        let place = place_of(&context, &self.questions)?;
        let mesh = mesh_of(&*self.catalog().await?, &mesh)?;
        let turn = place.turn().await.map_err(status::of_busy)?;
        let silent_instances = self.silent_instances(|own| *own == mesh);
        let push = Arc::clone(&self.push);
        let listed = turn.run(move || {
            let items = push.flows().would_denials().of(&mesh);
            let items = items.into_iter().map(|(auditing, tally)| encode_tally(auditing, &tally)).collect();
            let of_mesh = |id: &SpiffeId| id.mesh_and_node().is_some_and(|(own, _)| own == mesh);
            let records = push.flows().recorded().of(of_mesh);
            (items, records.iter().fold(0_u64, |all, record| all.saturating_add(record.unrecorded)))
        });
        let (items, unrecorded) = listed.await.map_err(|error| status::internal(&error))?;
        Ok(Response::new(ListWouldDenialsResponse { items, silent_instances, unrecorded }))
    }
}

impl RecordService {
    async fn catalog(&self) -> Result<Arc<Catalog>, Status> {
        self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))
    }

    /// Connected instances whose agents count nothing, for they are of a former release.
    fn silent_instances(&self, is_meant: impl Fn(&Name) -> bool) -> Vec<String> {
        let now = self.control.clock.now();
        let of_mesh = |id: &SpiffeId| id.mesh_and_node().is_some_and(|(mesh, _)| is_meant(&mesh));
        let reports = self.push.instances().reports(of_mesh);
        reports
            .into_iter()
            .filter(|report| report.certificate.not_after >= now && report.denial.is_none())
            .filter(|report| report.hello.as_ref().is_some_and(|hello| !hello.reports_flows))
            .map(|report| format!("{}/{}", report.node, report.id))
            .collect()
    }
}

/// Before anything is waited for, so that whoever waits is counted.
fn place_of(context: &CallContext, bulkhead: &Bulkhead) -> Result<Place, Status> {
    bulkhead.place(&context.actor().name).map_err(status::of_busy)
}

fn mesh_of(catalog: &Catalog, text: &str) -> Result<Name, Status> {
    let mesh = Name::parse(text).map_err(|error| status::bad_field("mesh", error))?;
    if catalog.mesh(mesh.as_str()).is_none() {
        let known = catalog.meshes().keys().map(Name::as_str);
        return Err(status::missing(
            &format!("mesh {mesh} does not exist"),
            did_you_mean(mesh.as_str(), known),
        ));
    }
    Ok(mesh)
}

/// The node or gateway that is named; `None`: all are meant.
fn wanted_node(mesh: &Name, resources: &MeshCatalog, node: &str) -> Result<Option<NodeName>, Status> {
    if node.is_empty() {
        return Ok(None);
    }
    let named = NodeName::parse(node).map_err(|error| status::bad_field("node", error))?;
    if resources.node_or_gateway(&named).is_some() {
        return Ok(Some(named));
    }
    let known: Vec<String> = resources.node_names().map(|name| name.to_string()).collect();
    let message = format!("{} does not exist in mesh {mesh}", named.in_words());
    Err(status::missing(&message, did_you_mean(node, known.iter().map(String::as_str))))
}

fn cannot_say(error: &SimulateError) -> Status {
    status::refusal(Code::FailedPrecondition, "CANNOT_REPLAY", error.to_string())
}

fn encode(simulation: Simulation) -> SimulateResponse {
    let Simulation { flips, looked_at, denied, allowed, undecidable, since, unrecorded } = simulation;
    let omitted = flips.len().saturating_sub(MAX_FLIPS);
    SimulateResponse {
        flips: flips.into_iter().take(MAX_FLIPS).map(encode_flip).collect(),
        omitted: omitted as u64,
        flows: looked_at.flows,
        decisions: looked_at.decisions,
        denied: denied.flows,
        denied_decisions: denied.decisions,
        allowed: allowed.flows,
        allowed_decisions: allowed.decisions,
        undecidable: undecidable.flows,
        undecidable_decisions: undecidable.decisions,
        since: since.map(|since| timestamp(UnixMillis(since))),
        unrecorded,
        ..SimulateResponse::default()
    }
}

fn encode_flip(flip: simulate::Flip) -> Flip {
    let simulate::Flip { flow, paths, verdicts, reason, policies, count, last_seen } = flip;
    let (now, draft) = verdicts.map_or((0, 0), |(now, draft)| (now.into(), draft.into()));
    Flip {
        caller: flow.caller.clone(),
        node: flow.node.clone(),
        external: flow.external.clone(),
        port: flow.port,
        action: flow.action.clone(),
        route: flow.route.clone(),
        more_paths: paths.len().saturating_sub(1) as u64,
        path: paths.into_iter().next().unwrap_or_default(),
        now,
        draft,
        reason: reason.to_owned(),
        policies: policies.iter().map(ToString::to_string).collect(),
        count,
        last_seen: Some(timestamp(UnixMillis(last_seen))),
    }
}

fn encode_tally(auditing: Auditing, tally: &Tally) -> WouldDenials {
    let seen = |at: u64| (tally.count > 0).then(|| timestamp(UnixMillis(at)));
    let (policy, node, port) = match auditing {
        Auditing::Policy { mesh: _, name } => (name.to_string(), String::new(), 0),
        Auditing::Listener { node, port } => (String::new(), node.to_string(), port.into()),
    };
    WouldDenials {
        policy,
        node,
        port,
        count: tally.count,
        first_seen: seen(tally.first_seen_unix_ms),
        last_seen: seen(tally.last_seen_unix_ms),
        since: Some(timestamp(UnixMillis(tally.since_unix_ms))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use hauberk_proto::admin::v1::record_server::Record;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::access::Caller;
    use crate::app::start_push;
    use crate::resources::testing::{listener, mesh, node, routes};
    use crate::resources::{MAX_BATCH, ResourcesParts};
    use crate::revocation::crl::RevocationLists;
    use crate::testing::scratch;

    #[tokio::test(start_paused = true)]
    async fn a_draft_is_judged_when_its_turn_has_come() {
        let scratch = scratch().await;
        let lists = watch::Sender::<Arc<RevocationLists>>::default();
        let (wanted, _nobody_fetches) = mpsc::channel(1);
        let (resources, push) = start_push(&scratch.control, lists.subscribe(), wanted).await.unwrap();
        let control = Arc::clone(&scratch.control);
        let (judges, mut judged) = mpsc::unbounded_channel();
        let resources = Arc::new(Resources::new(ResourcesParts {
            catalogs: resources.catalogs().clone(),
            audit: Arc::clone(&control.audit),
            clock: control.clock.clone(),
            trust_domain: resources.trust_domain().clone(),
            server_names: Arc::clone(&control.server_names),
            missing_feature: Box::new(move |_, _| {
                judges.send(()).unwrap();
                None
            }),
        }));
        let (questions, drafts) = (Bulkhead::of_questions(), Arc::new(Bulkhead::of_drafts()));
        let record = RecordService { control, resources, push, questions, drafts };
        let context =
            CallContext { caller: Caller::Local { uid: Some(0) }, source: "unix".to_owned(), channel: None };
        let asked = |resources| {
            let mut request = Request::new(SimulateRequest { resources, ..SimulateRequest::default() });
            request.extensions_mut().insert(context.clone());
            request
        };
        let turn = record.drafts.turn(&context.actor().name).await.unwrap();
        let large = record.simulate(asked(vec![mesh("shop"); MAX_BATCH + 1]));
        let large = large.now_or_never().expect("it waits for no turn").unwrap_err();
        assert_eq!(large.code(), Code::InvalidArgument, "{large}");
        let removed = vec![hauberk_proto::mesh::v1::ResourceRef::default(); MAX_BATCH + 1];
        let mut without = asked(Vec::new());
        without.get_mut().removed = removed;
        let without = record.simulate(without).now_or_never().expect("it waits for no turn").unwrap_err();
        assert!(without.message().contains("at most"), "{without}");
        let with_routes = node("orders", [routes(listener(8080, "http"), &["/a"])]);
        let mut simulated = Box::pin(record.simulate(asked(vec![mesh("shop"), with_routes])));
        // Paused time goes on once no thread is busy: one that judged it would have told by then.
        let too_early = tokio::time::timeout(Duration::from_secs(1), async {
            tokio::select! {
                simulated = &mut simulated => panic!("it has no turn: {simulated:?}"),
                judged = judged.recv() => judged,
            }
        });
        assert!(too_early.await.is_err(), "it was judged before its turn");
        drop(turn);
        simulated.await.unwrap();
        judged.try_recv().unwrap();
        scratch.control.stop.cancel();
    }
}
