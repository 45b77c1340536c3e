//! The admin API's `Policies` service: who may do what, and why something was denied.

mod cells;
mod check;
mod circumstances;
mod diff;
mod mesh;
mod not_compared;
mod offline;
mod prospect;
mod turned_away;

use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_identity::{Name, TrustDomain, UnixMillis};
use hauberk_policy::PathPattern;
use hauberk_proto::admin::v1::policies_server::{self, PoliciesServer};
use hauberk_proto::admin::v1::{
    CheckRequest, CheckResponse, DiffRequest, DiffResponse, ExplainRequest, ExplainResponse, TestAnswer,
    TestRequest, TestResponse, WhatCanRequest, WhatCanResponse, WhoCanRequest, WhoCanResponse,
};
use tonic::{Code, Request, Response, Status};

use super::drafts::Proposal;
use super::{explain, status};
use crate::access::CallContext;
use crate::app::ControlPlane;
use crate::bulkhead::Bulkhead;
use crate::push::Push;
use crate::resources::{Catalog, Draft, Kind, MAX_BATCH_BYTES, MeshCatalog, Resources};
use cells::{Found, Position, Spoken, Wanted, survey};
use check::Check;
use diff::differences;
use mesh::{Mesh, Somebody};
use not_compared::not_compared;
pub use offline::answer_offline;
use turned_away::Known;

/// How many questions one call answers.
const MAX_QUESTIONS: usize = 1_000;

/// How many policies are told of each answer of a test: the nearest.
const TOLD_POLICIES: usize = 8;

/// The service, ready to be mounted. `drafts`: where questions about drafts wait, of whatever service.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
    drafts: &Arc<Bulkhead>,
) -> PoliciesServer<PoliciesService> {
    PoliciesServer::new(PoliciesService {
        control: Arc::clone(control),
        resources: Arc::clone(resources),
        push: Arc::clone(push),
        questions: Bulkhead::of_questions(),
        drafts: Arc::clone(drafts),
    })
    // Some more than a draft may have, so that one that is too large is told so in our words.
    .max_decoding_message_size(2 * MAX_BATCH_BYTES)
}

pub(super) struct PoliciesService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    push: Arc<Push>,
    questions: Bulkhead,
    drafts: Arc<Bulkhead>,
}

impl PoliciesService {
    /// Answers from all resources as they stand when it is asked for, on a thread of its own and when its turn has come. No change of
    /// resources waits for it.
    async fn answer<T: Send + 'static>(
        &self,
        (context, bulkhead): (&CallContext, &Bulkhead),
        work: impl FnOnce(&Catalog, &Resources) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        // Whoever waits for resources that cannot be read is counted, and holds no turn meanwhile.
        let place = bulkhead.place(&context.actor().name).map_err(status::of_busy)?;
        let catalog = self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))?;
        let turn = place.turn().await.map_err(status::of_busy)?;
        let resources = Arc::clone(&self.resources);
        let answered = turn.run(move || work(&catalog, &resources)).await;
        answered.map_err(|error| status::internal(&error))?.map(Response::new)
    }
}

#[tonic::async_trait]
impl policies_server::Policies for PoliciesService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let ((context, request), now) = (CallContext::with_message(request)?, self.control.clock.now());
        let denylist = self.control.revocations.denylist();
        self.answer((&context, &self.questions), move |catalog, resources| {
            let name = mesh_name(&request.mesh)?;
            let mesh = Mesh::of(catalog, resources.trust_domain(), &name)?;
            let answer = Check::new(&mesh, &request, now)?.answer_of(Known::Now(&denylist))?;
            Ok(CheckResponse { revision: catalog.revision().0, ..answer })
        })
        .await
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let (context, request) = CallContext::with_message(request)?;
        let asker = context.actor().name;
        explain::explain(&self.push, request, (&self.questions, &asker)).await.map(Response::new)
    }

    async fn who_can(&self, request: Request<WhoCanRequest>) -> Result<Response<WhoCanResponse>, Status> {
        let (context, request) = CallContext::with_message(request)?;
        let denylist = self.control.revocations.denylist();
        self.answer((&context, &self.questions), move |catalog, resources| {
            let WhoCanRequest { mesh, target, port, method, path, include_never, page_token, caller } =
                &request;
            let name = mesh_name(mesh)?;
            let mesh = Mesh::of(catalog, resources.trust_domain(), &name)?;
            let called = mesh.called(target, *port)?;
            let pattern = pattern(method, path)?;
            let wanted = Wanted {
                ports: Some(called.ports.iter().map(|(number, _)| *number).collect()),
                spoken: Spoken::of(method, path),
                method: Some(method.as_str()).filter(|method| !method.is_empty()),
                path: pattern.as_ref(),
                include_never: *include_never,
            };
            let revision = catalog.revision();
            let from = Position::read(page_token, revision)?;
            let callers = match caller.as_str() {
                "" => mesh.everybody(),
                named => vec![Somebody::called(&mesh, named)?],
            };
            let Found { found, next, .. } =
                survey(&mesh, &[called.place], &callers, Known::Now(&denylist), &wanted, from)?;
            let next_page_token = next.map(|next| next.token(revision)).unwrap_or_default();
            Ok(WhoCanResponse { prospects: found, revision: revision.0, next_page_token })
        })
        .await
    }

    async fn what_can(&self, request: Request<WhatCanRequest>) -> Result<Response<WhatCanResponse>, Status> {
        let (context, request) = CallContext::with_message(request)?;
        let denylist = self.control.revocations.denylist();
        self.answer((&context, &self.questions), move |catalog, resources| {
            let WhatCanRequest { mesh, caller, include_never, page_token } = &request;
            let name = mesh_name(mesh)?;
            let mesh = Mesh::of(catalog, resources.trust_domain(), &name)?;
            let callers = [Somebody::called(&mesh, caller)?];
            let (spoken, include_never) = (Spoken::Anything, *include_never);
            let wanted = Wanted { ports: None, spoken, method: None, path: None, include_never };
            let revision = catalog.revision();
            let from = Position::read(page_token, revision)?;
            let Found { found, next, .. } =
                survey(&mesh, &mesh.places(), &callers, Known::Now(&denylist), &wanted, from)?;
            let next_page_token = next.map(|next| next.token(revision)).unwrap_or_default();
            Ok(WhatCanResponse { prospects: found, revision: revision.0, next_page_token })
        })
        .await
    }

    async fn test(&self, request: Request<TestRequest>) -> Result<Response<TestResponse>, Status> {
        let ((context, request), now) = (CallContext::with_message(request)?, self.control.clock.now());
        let denylist = self.control.revocations.denylist();
        let TestRequest { resources, questions } = request;
        let proposal = Proposal::read(resources, &[])?;
        check_count(&questions)?;
        self.answer((&context, &self.drafts), move |catalog, resources| {
            let Draft { after, .. } = proposal.draft(resources, catalog)?;
            answer_all(&after, resources.trust_domain(), &questions, (Known::Now(&denylist), now))
        })
        .await
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (context, request) = CallContext::with_message(request)?;
        let DiffRequest { resources, mesh, page_token, removed } = request;
        let name = mesh_name(&mesh)?;
        let proposal = Proposal::read(resources, &removed)?;
        self.answer((&context, &self.drafts), move |catalog, resources| {
            let Draft { after, .. } = proposal.draft(resources, catalog)?;
            let trust_domain = resources.trust_domain();
            let nothing = MeshCatalog::default();
            let is_gone = proposal.removed.iter().any(|key| key.kind == Kind::Mesh && key.name == name);
            let after = match is_gone {
                true => Mesh::gone(&after, trust_domain, &name, &nothing),
                false => Mesh::of(&after, trust_domain, &name)?,
            };
            let is_known = catalog.mesh(name.as_str()).is_some_and(|mesh| mesh.spec().is_some());
            let before = is_known.then(|| Mesh::of(catalog, trust_domain, &name)).transpose()?;
            let revision = catalog.revision();
            let from = Position::read(&page_token, revision)?;
            let Found { found, compared, next } = differences(before.as_ref(), &after, from)?;
            let next_page_token = next.map(|next| next.token(revision)).unwrap_or_default();
            // It belongs to the whole, and is told once.
            let not_compared =
                if from.is_first() { not_compared(before.as_ref(), &after) } else { Vec::new() };
            let (revision, removed) = (revision.0, proposal.removed.len() as u64);
            Ok(DiffResponse {
                differences: found,
                compared,
                revision,
                next_page_token,
                not_compared,
                removed,
            })
        })
        .await
    }
}

/// Refuses more questions than one call answers.
fn check_count(questions: &[CheckRequest]) -> Result<(), Status> {
    let count = questions.len();
    if count <= MAX_QUESTIONS {
        return Ok(());
    }
    let message = format!("{count} questions are too many for one call: at most {MAX_QUESTIONS}");
    Err(status::refusal(Code::InvalidArgument, "TOO_MANY", message))
}

/// Answers many questions about resources as they would be, by what else is known at this moment.
fn answer_all(
    catalog: &Catalog,
    trust_domain: &TrustDomain,
    questions: &[CheckRequest],
    (known, now): (Known<'_>, UnixMillis),
) -> Result<TestResponse, Status> {
    let mut names = BTreeMap::new();
    for question in questions {
        names.entry(question.mesh.as_str()).or_insert_with(|| mesh_name(&question.mesh));
    }
    let meshes: BTreeMap<&str, Result<Mesh<'_>, Status>> = names
        .iter()
        .map(|(text, name)| {
            let mesh = name.as_ref().map_err(Status::clone);
            (*text, mesh.and_then(|name| Mesh::of(catalog, trust_domain, name)))
        })
        .collect();
    let answer = |question: &CheckRequest| -> Result<CheckResponse, Status> {
        let mesh = match meshes.get(question.mesh.as_str()) {
            Some(Ok(mesh)) => mesh,
            Some(Err(status)) => return Err(status.clone()),
            None => return Err(status::missing(&format!("mesh {} does not exist", question.mesh), None)),
        };
        let mut answer = Check::new(mesh, question, now)?.answer_of(known)?;
        answer.decisions.iter_mut().for_each(|detail| detail.policies.truncate(TOLD_POLICIES));
        Ok(answer)
    };
    let answers = questions.iter().map(|question| match answer(question) {
        Ok(answer) => TestAnswer { answer: Some(answer), problem: String::new() },
        Err(status) => TestAnswer { answer: None, problem: status.message().to_owned() },
    });
    Ok(TestResponse { answers: answers.collect() })
}

fn mesh_name(mesh: &str) -> Result<Name, Status> {
    Name::parse(mesh).map_err(|error| status::bad_field("mesh", error))
}

/// The paths that are asked about: of gRPC methods too, `package.Service/Method`, where no method of HTTP is named beside it.
fn pattern(method: &str, path: &str) -> Result<Option<PathPattern>, Status> {
    let rooted = match path {
        "" => return Ok(None),
        path if path.starts_with(['/', '*']) || !matches!(method, "" | "call") => path.to_owned(),
        path => format!("/{path}"),
    };
    PathPattern::parse(&rooted).map(Some).map_err(|error| status::bad_field("path", error))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use hauberk_identity::InstanceId;
    use hauberk_proto::admin::v1::policies_server::Policies;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::access::Caller;
    use crate::app::start_push;
    use crate::resources::testing::{listener, mesh, node, routes};
    use crate::resources::{MAX_BATCH, ResourcesParts};
    use crate::testing::scratch;

    #[tokio::test]
    async fn what_is_too_much_waits_for_no_turn_and_a_draft_for_none_of_those_without() {
        let scratch = scratch().await;
        let control = Arc::clone(&scratch.control);
        let (lists, (wanted, _nobody_fetches)) = (watch::Sender::default(), mpsc::channel(1));
        let (resources, push) = start_push(&control, lists.subscribe(), wanted).await.unwrap();
        let (questions, drafts) = (Bulkhead::of_questions(), Arc::new(Bulkhead::of_drafts()));
        let policies = PoliciesService { control, resources, push, questions, drafts };
        let context =
            CallContext { caller: Caller::Local { uid: Some(0) }, source: "unix".to_owned(), channel: None };
        let turn = policies.drafts.turn(&context.actor().name).await.unwrap();
        let large = || vec![mesh("shop"); MAX_BATCH + 1];
        let diff = DiffRequest { mesh: "shop".into(), resources: large(), ..DiffRequest::default() };
        let many = TestRequest {
            questions: vec![CheckRequest::default(); MAX_QUESTIONS + 1],
            resources: Vec::new(),
        };
        let tested =
            policies.test(asked(&context, TestRequest { resources: large(), questions: Vec::new() }));
        let many = policies.test(asked(&context, many));
        let removed = vec![hauberk_proto::mesh::v1::ResourceRef::default(); MAX_BATCH + 1];
        let without = DiffRequest { mesh: "shop".into(), removed, ..DiffRequest::default() };
        let refused = [
            policies.diff(asked(&context, diff)).now_or_never().unwrap().unwrap_err(),
            policies.diff(asked(&context, without)).now_or_never().unwrap().unwrap_err(),
            tested.now_or_never().unwrap().unwrap_err(),
            many.now_or_never().unwrap().unwrap_err(),
        ];
        for refused in refused {
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains("at most"), "{refused}");
        }
        let mut waiting = policies.test(asked(&context, TestRequest::default()));
        for _ in 0..100 {
            assert!(waiting.as_mut().now_or_never().is_none(), "it has no turn");
            tokio::task::yield_now().await;
        }
        let check =
            policies.check(asked(&context, CheckRequest { mesh: "shop".into(), ..CheckRequest::default() }));
        check.await.unwrap_err();
        drop(turn);
        waiting.await.unwrap();
        scratch.control.stop.cancel();
    }

    #[tokio::test]
    async fn what_could_not_be_applied_is_neither_compared_nor_tested() {
        let scratch = scratch().await;
        let control = Arc::clone(&scratch.control);
        let (lists, (wanted, _nobody_fetches)) = (watch::Sender::default(), mpsc::channel(1));
        let (resources, push) = start_push(&control, lists.subscribe(), wanted).await.unwrap();
        let resources = Arc::new(Resources::new(ResourcesParts {
            catalogs: resources.catalogs().clone(),
            audit: Arc::clone(&control.audit),
            clock: control.clock.clone(),
            trust_domain: resources.trust_domain().clone(),
            server_names: Arc::clone(&control.server_names),
            missing_feature: Box::new(|_, _| Some(InstanceId::from_random([7; 8]))),
        }));
        let (questions, drafts) = (Bulkhead::of_questions(), Arc::new(Bulkhead::of_drafts()));
        let policies = PoliciesService { control, resources, push, questions, drafts };
        let context =
            CallContext { caller: Caller::Local { uid: Some(0) }, source: "unix".to_owned(), channel: None };
        let draft = || vec![mesh("shop"), node("orders", [routes(listener(8080, "http"), &["/a"])])];
        let diff = DiffRequest { mesh: "shop".into(), resources: draft(), ..DiffRequest::default() };
        let test = TestRequest { resources: draft(), questions: Vec::new() };
        let refused = [
            policies.diff(asked(&context, diff)).await.unwrap_err(),
            policies.test(asked(&context, test)).await.unwrap_err(),
        ];
        for refused in refused {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        }
        scratch.control.stop.cancel();
    }

    fn asked<T>(context: &CallContext, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(context.clone());
        request
    }
}
