//! An agent's stream and what admins see of it.

use hauberk_proto::admin::v1::admins_client::AdminsClient;
use hauberk_proto::admin::v1::audit_client::AuditClient;
use hauberk_proto::admin::v1::flows_client::FlowsClient;
use hauberk_proto::admin::v1::identities_client::IdentitiesClient;
use hauberk_proto::admin::v1::policies_client::PoliciesClient;
use hauberk_proto::admin::v1::resources_client::ResourcesClient;
use hauberk_proto::admin::v1::rollout_client::RolloutClient;
use hauberk_proto::admin::v1::system_client::SystemClient;
use hauberk_proto::admin::v1::{
    ApplyRequest, CreateAdminRequest, CreateTokenRequest, DeleteRequest, DeleteTarget, ExplainRequest,
    GetStatusRequest, ListAuditRequest, ListInstancesRequest, ObserveRequest, Source, WaitRequest,
};
use hauberk_proto::agent::v1::mesh_client::MeshClient;
use hauberk_proto::agent::v1::{
    Acknowledge, Decision, DecisionDetail, Decisions, FromAgent, Hello, SignedView, Subscribe, ToAgent,
    Verdict, View, WorkloadDenied, from_agent, to_agent,
};
use hauberk_proto::mesh::v1::{Kind, ResourceRef};
use hauberk_tls::signing::ViewVerifier;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::*;

const NODE: &str = "spiffe://shop.local/mesh/shop/node/orders";

struct Agent {
    instance: String,
    up: mpsc::Sender<FromAgent>,
    down: Streaming<ToAgent>,
}

impl Agent {
    async fn join(running: &Running, token: &str) -> (Self, ViewVerifier) {
        let (key, joined) = attest(running, token).await;
        let trust = joined.trust.unwrap();
        let connector = somebody(&key, &joined.certificate.unwrap().chain, &trust.roots);
        let channel = channel(running.addresses.agent, connector).await.unwrap();
        let (up, messages) = mpsc::channel(8);
        let down = MeshClient::new(channel).sync(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let verifier =
            ViewVerifier::from_public_keys(trust.view_keys.iter().map(|key| &key.public_key[..])).unwrap();
        (Self { instance: joined.instance_id, up, down }, verifier)
    }

    async fn say(&self, message: from_agent::Message) {
        self.up.send(FromAgent { message: Some(message) }).await.unwrap();
    }

    async fn hear(&mut self) -> Result<to_agent::Message, Status> {
        let message = tokio::time::timeout(DEADLINE, self.down.message()).await.unwrap()?;
        Ok(message.unwrap().message.unwrap())
    }

    async fn view(&mut self) -> SignedView {
        loop {
            if let to_agent::Message::View(view) = self.hear().await.unwrap() {
                return view;
            }
        }
    }
}

async fn owner(running: &Running) -> Channel {
    let (key, csr) = request();
    let asked = IssueCredentialRequest { name: "olga".into(), roles: Vec::new(), csr };
    let credential = issue_through_socket(&running.data_dir().join("admin.sock"), asked).await.unwrap();
    let connector = somebody(&key, &credential.chain, &credential.roots);
    channel(running.addresses.admin, connector).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_pushed_acknowledged_and_waited_for() {
    let (running, token) = start().await;
    let admin = owner(&running).await;
    let (mut agent, verifier) = Agent::join(&running, &token).await;
    let now_unix_ms = Clock::system().now().0;
    agent.say(from_agent::Message::Hello(Hello { now_unix_ms, ..Hello::default() })).await;
    let signed = agent.view().await;
    verifier
        .verify(hauberk_tls::signing::Purpose::View, &signed.key_id, &signed.view, &signed.signature)
        .unwrap();
    let view = View::decode(signed.view).unwrap();

    let mut rollout = RolloutClient::new(admin.clone());
    let mut waiting = rollout.wait(WaitRequest::default()).await.unwrap().into_inner();
    let begun = waiting.message().await.unwrap().unwrap();
    assert_eq!((begun.enforced, begun.concerned, begun.done), (0, 1, false));
    assert_eq!(begun.laggards[0].reason, "pushed, not acknowledged");
    assert_eq!(begun.laggards[0].instance_id, agent.instance);
    let View { epoch, revision, .. } = view;
    agent
        .say(from_agent::Message::Acknowledge(Acknowledge { epoch, revision, service: String::new() }))
        .await;
    let done = tokio::time::timeout(DEADLINE, waiting.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((done.enforced, done.concerned, done.done), (1, 1, true));
    assert!(waiting.message().await.unwrap().is_none());

    let mut future = WaitRequest { revision: begun.revision + 1, ..WaitRequest::default() };
    assert_eq!(rollout.wait(future.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    future = WaitRequest { mesh: "no name".into(), ..WaitRequest::default() };
    assert_eq!(rollout.wait(future).await.unwrap_err().code(), Code::InvalidArgument);

    let mut identities = IdentitiesClient::new(admin.clone());
    let listed = identities.list_instances(ListInstancesRequest::default()).await.unwrap().into_inner();
    let [instance] = &listed.instances[..] else { panic!("{listed:?}") };
    assert_eq!((instance.spiffe_id.as_str(), instance.connected), (NODE, true));
    assert_eq!((instance.latest_revision, instance.enforced_revision), (revision, revision));
    assert_eq!(instance.lag_reason, "");
    let status = SystemClient::new(admin).get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.admin, "olga");
    let [finding] = &status.findings[..] else { panic!("{:?}", status.findings) };
    assert!(finding.summary.contains("any number of agents"), "of the token that it joined by: {finding:?}");
    assert!(status.root_not_after.is_some() && status.server_certificate_not_after.is_some());

    let stopping = running.stop.clone();
    stopping.cancel();
    let end = loop {
        if let Err(status) = agent.hear().await {
            break status;
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_see_decisions_and_refused_acts_are_recorded() {
    let (running, token) = start().await;
    let admin = owner(&running).await;
    let (mut agent, _) = Agent::join(&running, &token).await;
    agent.say(from_agent::Message::Hello(Hello::default())).await;
    agent.view().await;
    let mut seen =
        FlowsClient::new(admin.clone()).observe(ObserveRequest::default()).await.unwrap().into_inner();
    loop {
        if let to_agent::Message::Observe(observe) = agent.hear().await.unwrap() {
            assert!(observe.all && observe.limit_per_second > 0);
            break;
        }
    }
    let decision = Decision { node: NODE.into(), action: "GET".into(), ..Decision::default() };
    let foreign = Decision { node: "spiffe://shop.local/mesh/shop/node/web".into(), ..decision.clone() };
    let decisions = vec![foreign, decision.clone()];
    agent.say(from_agent::Message::Decisions(Decisions { decisions, dropped: 0 })).await;
    let batch = tokio::time::timeout(DEADLINE, seen.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(batch.decisions, [decision]);

    let asked = CreateTokenRequest { mesh: "shop".into(), node: "nobody".into(), ..Default::default() };
    let refused = IdentitiesClient::new(admin.clone()).create_token(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let asked = ListAuditRequest { refused_only: true, action: "token.".into(), ..Default::default() };
    let mut audit = AuditClient::new(admin.clone());
    let records = audit.list(asked).await.unwrap().into_inner().records;
    assert_eq!((records.len(), records[0].object.as_str()), (1, "shop/nobody"));
    assert_eq!(records[0].actor, "spiffe://shop.local/admin/olga");
    let malformed = CreateTokenRequest { mesh: "no mesh".into(), node: "web".into(), ..Default::default() };
    let refused = IdentitiesClient::new(admin.clone()).create_token(malformed).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let malformed = CreateAdminRequest { name: "no/name".into(), roles: vec![1] };
    let refused = AdminsClient::new(admin.clone()).create_admin(malformed).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let asked = ListAuditRequest { refused_only: true, ..Default::default() };
    let records = audit.list(asked).await.unwrap().into_inner().records;
    let objects: Vec<_> = records.iter().map(|record| record.object.as_str()).collect();
    assert_eq!(objects, ["no/name", "no mesh/web", "shop/nobody"]);
    let negative = ListAuditRequest { page_size: -1, ..Default::default() };
    assert_eq!(audit.list(negative).await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_explained_in_full_after_its_agent_has_gone() {
    let (running, token) = start().await;
    let mut policies = PoliciesClient::new(owner(&running).await);
    let (mut agent, _) = Agent::join(&running, &token).await;
    let features = hauberk_proto::convert::features::ALL.map(str::to_owned).to_vec();
    agent.say(from_agent::Message::Hello(Hello { features, ..Hello::default() })).await;
    let View { epoch, revision, .. } = View::decode(agent.view().await.view).unwrap();
    let denial = Decision {
        id: format!("{}-0001", agent.instance),
        caller: "spiffe://shop.local/mesh/shop/node/intruder".into(),
        node: NODE.into(),
        port: 8080,
        action: "GET".into(),
        path: "/orders/1".into(),
        verdict: Verdict::Deny.into(),
        reason: "no_policy_matched".into(),
        first_of_kind: true,
        epoch,
        revision,
        ..Decision::default()
    };
    // As no agent decides: it cannot be made again with this outcome, and so cannot be explained.
    let odd = Decision {
        id: format!("{}-0002", agent.instance),
        path: "/orders/2".into(),
        reason: "forbidden".into(),
        ..denial.clone()
    };
    let decisions = vec![denial.clone(), odd.clone()];
    agent.say(from_agent::Message::Decisions(Decisions { decisions, dropped: 0 })).await;
    let Agent { up, mut down, .. } = agent;
    drop(up);
    while tokio::time::timeout(DEADLINE, down.message()).await.unwrap().is_ok_and(|message| message.is_some())
    {
    }
    let asked_of = |decision: &Decision| ExplainRequest { decision_id: decision.id.clone() };
    let explained = policies.explain(asked_of(&denial)).await.unwrap().into_inner();
    assert_eq!(explained.source(), Source::Kept);
    let detail = explained.decision.unwrap();
    assert_eq!(detail.decision, Some(denial.clone()));
    assert!(detail.suggestion.starts_with("hauberk allow intruder orders"), "{}", detail.suggestion);
    assert!(detail.suggestion.ends_with(" --mesh shop"), "{}", detail.suggestion);
    let detail = policies.explain(asked_of(&odd)).await.unwrap().into_inner().decision.unwrap();
    let no_policies = hauberk_proto::agent::v1::NoPolicies::Differs.into();
    assert_eq!(detail, DecisionDetail { decision: Some(odd), no_policies, ..DecisionDetail::default() });

    // Also when the rules are others, and when there is no such node: by the rules by which it was decided.
    let before = policies.explain(asked_of(&denial)).await.unwrap().into_inner();
    let admin = owner(&running).await;
    let (mut changes, mut rollout) = (ResourcesClient::new(admin.clone()), RolloutClient::new(admin));
    let mut compiled = async |revision| {
        let asked = WaitRequest { revision, mesh: String::new() };
        let mut progress = rollout.wait(asked).await.unwrap().into_inner();
        while !progress.message().await.unwrap().unwrap().lacking.is_empty() {}
    };
    let open = resources::policy("open", "permit(principal is Node, action in Action::\"http\", resource);");
    let applied = changes.apply(ApplyRequest { resources: vec![open], ..ApplyRequest::default() });
    compiled(applied.await.unwrap().into_inner().revision).await;
    let changed = policies.explain(asked_of(&denial)).await.unwrap().into_inner();
    let now = changed.rules_since.as_ref().and_then(|since| since.now.as_ref()).unwrap();
    assert_eq!(now.decision.as_ref().unwrap().reason, "permitted");
    assert_eq!(changed.decision, before.decision);
    let orders = ResourceRef { kind: Kind::VirtualNode.into(), mesh: "shop".into(), name: "orders".into() };
    let deleted = DeleteTarget { r#ref: Some(orders), ..DeleteTarget::default() };
    let deleted = changes.delete(DeleteRequest { targets: vec![deleted], ..DeleteRequest::default() });
    compiled(deleted.await.unwrap().into_inner().revision).await;
    let gone = policies.explain(asked_of(&denial)).await.unwrap().into_inner();
    assert_eq!((gone.rules_since.unwrap().revision, gone.decision), (0, before.decision));

    for (id, code) in [("nonsense", Code::InvalidArgument), ("0000000000-1", Code::NotFound)] {
        let asked = ExplainRequest { decision_id: id.into() };
        assert_eq!(policies.explain(asked).await.unwrap_err().code(), code);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_without_an_identity_are_recorded_and_a_flood_of_them_is_not() {
    let (running, token) = start().await;
    let admin = owner(&running).await;
    let (mut agent, _) = Agent::join(&running, &token).await;
    let now_unix_ms = Clock::system().now().0;
    agent.say(from_agent::Message::Hello(Hello { now_unix_ms, ..Hello::default() })).await;
    agent.view().await;
    for _ in 0..100 {
        let denied = WorkloadDenied {
            nearest: "worker".to_owned(),
            missing: vec!["unix:path:/usr/bin/worker".to_owned(), "docker:env:KEY=s3cret".to_owned()],
            holds: vec!["unix:uid:1000\u{1b}[2J".to_owned(); 1_000],
            ..WorkloadDenied::default()
        };
        agent.say(from_agent::Message::WorkloadDenied(denied)).await;
    }
    // What is answered shows that all before it was heard.
    let impossible = Subscribe { add: vec!["a/b".to_owned()], remove: Vec::new() };
    agent.say(from_agent::Message::Subscribe(impossible)).await;
    while !matches!(agent.hear().await.unwrap(), to_agent::Message::ServicesGone(_)) {}

    let mut audit = AuditClient::new(admin);
    let asked =
        ListAuditRequest { action: "workload.deny".to_owned(), page_size: 1_000, ..Default::default() };
    let records = tokio::time::timeout(DEADLINE, async {
        loop {
            let records = audit.list(asked.clone()).await.unwrap().into_inner().records;
            if records.len() >= 16 {
                return records;
            }
        }
    });
    let records = records.await.unwrap();
    assert_eq!(records.len(), 16, "as many at once");
    for record in records {
        assert_eq!((record.actor.as_str(), record.outcome), (NODE, 2), "{record:?}");
        assert_eq!(record.object, format!("enrollment worker, instance {}", agent.instance));
        let starts = "missing unix:path:/usr/bin/worker, docker:env:KEY=…; it has unix:uid:1000[2J, ";
        assert!(record.reason.starts_with(starts), "{record:?}");
        assert!(record.reason.chars().count() <= 513 && !record.reason.contains("s3cret"), "{record:?}");
    }
    running.stop().await;
}
