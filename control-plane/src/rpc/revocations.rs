//! The admin API's `Revocations` service.

use std::sync::Arc;

use hauberk_identity::{InstanceId, Name, NodeName};
use hauberk_proto::admin::v1::revocations_server::{Revocations, RevocationsServer};
use hauberk_proto::admin::v1::revoke_request::Target as Asked;
use hauberk_proto::admin::v1::{
    NodeTarget, QuarantineRequest, QuarantineResponse, RevokeRequest, RevokeResponse,
};
use tonic::{Request, Response, Status};
use tracing::warn;

use super::{refused, status};
use crate::access::CallContext;
use crate::app::ControlPlane;
use crate::audit::Actor;
use crate::enrollment::{TokenError, TokenView};
use crate::revocation::{RevocationError, Revoked, Target};
use crate::secret::SecretId;

/// How many certificates, or tokens, are named in one answer.
const MOST_NAMED: usize = 100;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> RevocationsServer<RevocationsService> {
    let service = RevocationsService { control: Arc::clone(control) };
    RevocationsServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct RevocationsService {
    control: Arc<ControlPlane>,
}

#[tonic::async_trait]
impl Revocations for RevocationsService {
    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let RevokeRequest { target: asked, unrecorded } = request.into_inner();
        let (action, object) = describe(asked.as_ref());
        let revoked = match parse(asked, unrecorded) {
            Ok(target) => self.carry_out(&target, &actor).await,
            Err(status) => Err(Undone::Refused(status)),
        };
        match revoked {
            Ok((revoked, told)) => Ok(Response::new(RevokeResponse {
                token_deleted: told.token_deleted,
                tokens: told.tokens,
                unread: revoked.unread.into_iter().chain(told.unread).collect(),
                revision: revoked.revision,
                serials: revoked.serials.iter().map(ToString::to_string).collect(),
                left: u32::try_from(revoked.left.serials.len()).unwrap_or(u32::MAX),
                left_serials: revoked.left.serials.iter().take(MOST_NAMED).map(ToString::to_string).collect(),
                left_of_admin: revoked.left.admin.map(|name| name.to_string()).unwrap_or_default(),
                left_of_instance: revoked.left.instance.map(|id| id.to_string()).unwrap_or_default(),
            })),
            Err(undone) => Err(self.answer(undone, &actor, action, object).await),
        }
    }

    async fn quarantine(
        &self,
        request: Request<QuarantineRequest>,
    ) -> Result<Response<QuarantineResponse>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let QuarantineRequest { node, undo } = request.into_inner();
        let node = node.unwrap_or_default();
        let object = format!("{}/{}", node.mesh, node.name);
        let changed = match parse_node(&node) {
            Ok((mesh, name)) => {
                let changed = self.control.revocations.quarantine((&mesh, &name), undo, &actor).await;
                changed.map_err(Undone::from)
            }
            Err(status) => Err(Undone::Refused(status)),
        };
        match changed {
            Ok((revision, changed)) => Ok(Response::new(QuarantineResponse { revision, changed })),
            Err(undone) => {
                let action = if undo { "quarantine.undo" } else { "quarantine.node" };
                Err(self.answer(undone, &actor, action, object).await)
            }
        }
    }
}

/// What was not done, or not to its end.
#[derive(Debug)]
enum Undone {
    /// Nothing was, by this call.
    Refused(Status),
    /// It is recorded, and not yet in force.
    Recorded(Status),
}

impl From<RevocationError> for Undone {
    fn from(error: RevocationError) -> Self {
        let status = status::of_revocation(&error);
        if error.is_recorded() { Self::Recorded(status) } else { Self::Refused(status) }
    }
}

impl Undone {
    /// The same of those who joined by a token that this call has deleted before.
    fn of_deleted_token(error: RevocationError) -> Self {
        // It may have been recorded by an earlier call as well.
        let is_to_come = error.is_recorded() || matches!(error, RevocationError::NotInForce { .. });
        let whose =
            if is_to_come { "of those who joined by it" } else { "those who joined by it are not revoked" };
        let in_words = |status: &Status| {
            status::in_words(status, format!("the token is deleted; {whose}: {}", status.message()))
        };
        match error.into() {
            Self::Refused(status) => Self::Refused(in_words(&status)),
            Self::Recorded(status) => Self::Recorded(in_words(&status)),
        }
    }
}

impl RevocationsService {
    /// The answer about what was not done. What is recorded as done is not recorded as refused.
    async fn answer(&self, undone: Undone, actor: &Actor, action: &'static str, object: String) -> Status {
        match undone {
            Undone::Refused(status) => {
                refused::record(&self.control.audit, actor, action, object, status.message()).await;
                status
            }
            Undone::Recorded(status) => {
                warn!(event = "not_in_force", action, object, why = status.message());
                status
            }
        }
    }

    /// Revokes somebody. A token is deleted first, so that nobody joins by it while its instances are looked for. What cannot be read
    /// once that is recorded is left out of what is told, which says so.
    async fn carry_out(&self, target: &Target, actor: &Actor) -> Result<(Revoked, Told), Undone> {
        let token_deleted = match target {
            Target::Token(id) => match self.control.tokens.delete(id.as_str(), actor).await {
                Ok(()) => true,
                // Deleted or expired before: those who joined by it may be there all the same.
                Err(TokenError::NoSuchToken(_)) => false,
                Err(error) => return Err(Undone::Refused(status::of_token(&error))),
            },
            Target::Serial(_) | Target::Instance(_) | Target::UnrecordedInstance(_) | Target::Node(..) => {
                false
            }
        };
        let revoked = match self.control.revocations.revoke(target, actor).await {
            Ok(revoked) => revoked,
            Err(RevocationError::UnknownToken(_)) if token_deleted => {
                let revision = self.control.revocations.denylist().mark.revision;
                Revoked { revision, ..Revoked::default() }
            }
            Err(error) if token_deleted => return Err(Undone::of_deleted_token(error)),
            Err(error) => return Err(error.into()),
        };
        let mut told = Told { token_deleted, tokens: Vec::new(), unread: Vec::new() };
        if let Target::Node(mesh, node) = target {
            match self.tokens_for(mesh, node).await {
                Ok(tokens) => told.tokens = tokens,
                Err(error) => {
                    warn!(event = "tokens_unreadable", %error, "what was revoked is answered without them");
                    told.unread.push(
                        "the join tokens by which more instances may come could not be read: the control plane's log says why"
                            .to_owned(),
                    );
                }
            }
        }
        Ok((revoked, told))
    }

    /// The join tokens by which more instances of a node may come, be it by labels, and those of which that cannot be told; the
    /// first hundred.
    async fn tokens_for(&self, mesh: &Name, node: &NodeName) -> Result<Vec<String>, TokenError> {
        let ControlPlane { tokens, enrollment, clock, .. } = &*self.control;
        let listed = tokens.list(Some(mesh.as_str())).await?;
        let past = clock.likely_past();
        let mut named = Vec::new();
        for TokenView { id, record, .. } in listed.into_iter().filter(|token| token.record.lets_in(past)) {
            let may_let_in = match enrollment.node_by(&id, &record).await {
                Ok(becomes) => becomes.as_ref() == Some(node),
                // The revocation stands already. Somebody has to look at this token too.
                Err(error) => {
                    warn!(event = "token_not_judged", token = id, %error, "it is named among those that may let agents in");
                    true
                }
            };
            if may_let_in {
                named.push(id);
            }
            if named.len() >= MOST_NAMED {
                break;
            }
        }
        Ok(named)
    }
}

/// What else is told of a revocation.
struct Told {
    /// The token was there, and is no longer.
    token_deleted: bool,
    /// The node's join tokens by which more instances may come.
    tokens: Vec<String>,
    /// What of it could not be read, for a person.
    unread: Vec<String>,
}

/// As an audit record of a refusal names it.
fn describe(asked: Option<&Asked>) -> (&'static str, String) {
    match asked {
        None => ("revoke", String::new()),
        Some(Asked::Serial(serial)) => ("revoke.serial", format!("serial {serial}")),
        Some(Asked::InstanceId(id)) => ("revoke.instance", format!("instance {id}")),
        Some(Asked::Node(node)) => ("revoke.node", format!("{}/{}", node.mesh, node.name)),
        Some(Asked::TokenId(id)) => ("revoke.token", format!("token {id}")),
    }
}

fn parse(asked: Option<Asked>, unrecorded: bool) -> Result<Target, Status> {
    match asked {
        Some(Asked::Serial(_) | Asked::Node(_) | Asked::TokenId(_)) if unrecorded => {
            Err(status::bad_field("unrecorded", "instances alone are revoked without a record"))
        }
        None => Err(status::bad_field("target", "name a certificate, an instance, a node or a token")),
        Some(Asked::Serial(serial)) => {
            serial.parse().map(Target::Serial).map_err(|error| status::bad_field("serial", error))
        }
        Some(Asked::InstanceId(id)) => InstanceId::parse(&id)
            .map(if unrecorded { Target::UnrecordedInstance } else { Target::Instance })
            .map_err(|error| status::bad_field("instanceId", error)),
        Some(Asked::Node(node)) => parse_node(&node).map(|(mesh, name)| Target::Node(mesh, name)),
        Some(Asked::TokenId(id)) => SecretId::parse(&id).map(Target::Token).ok_or_else(|| {
            status::bad_field("tokenId", "12 hexadecimal digits, as `hauberk get tokens` shows it")
        }),
    }
}

fn parse_node(node: &NodeTarget) -> Result<(Name, NodeName), Status> {
    let NodeTarget { mesh, name } = node;
    let mesh = Name::parse(mesh).map_err(|error| status::bad_field("node.mesh", error))?;
    let name = NodeName::parse(name).map_err(|error| status::bad_field("node.name", error))?;
    Ok((mesh, name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hauberk_proto::mesh::v1 as wire;
    use hauberk_proto::mesh::v1::attest_enrollment::Evidence;
    use prost::Message;

    use super::*;
    use crate::access::Caller;
    use crate::audit::Filter;
    use crate::enrollment::{AgentInfo, EnrollmentError, TokenFor, TokenRequest, Uses};
    use crate::registry::{Commit, keys};
    use crate::resources::testing::attest_rule;
    use crate::secret::SecretHash;
    use crate::testing::{Busy, NODE, actor, request, scratch_over};

    #[tokio::test]
    async fn a_token_is_revoked_on_a_full_disk() {
        let mut store = None;
        let scratch = scratch_over(|made| Arc::clone(store.insert(Arc::new(made)))).await;
        let control = &scratch.control;
        let (mesh, node) = (Name::parse(NODE.0).unwrap(), NodeName::parse(NODE.1).unwrap());
        let asked = TokenRequest { mesh, of: TokenFor::Node(node), ttl: None, uses: Uses::Unlimited };
        let token = control.tokens.create(asked, &actor()).await.unwrap();
        let token = token.secret.reveal();
        let join = async || {
            let info = AgentInfo::default();
            control.enrollment.attest(token, &request().1, info, None, "10.0.0.7:4").await
        };
        let joined = scratch.peer(&join().await.unwrap().issued.svid);
        store.unwrap().pretend_room(7);
        let target = Target::Token(SecretId::parse(SecretHash::of(token).short()).unwrap());
        let service = RevocationsService { control: Arc::clone(control) };
        let (revoked, told) = service.carry_out(&target, &actor()).await.unwrap();
        assert_eq!((revoked.serials, told.token_deleted), (vec![joined.serial()], true));
        assert!(matches!(join().await, Err(EnrollmentError::UnknownToken)));
    }

    #[tokio::test]
    async fn a_token_that_is_deleted_is_said_to_be_whatever_becomes_of_the_rest() {
        let mut store = None;
        let scratch = scratch_over(|made| Arc::clone(store.insert(Busy::new(made)))).await;
        let (control, store) = (&scratch.control, store.unwrap());
        let (mesh, node) = (Name::parse(NODE.0).unwrap(), NodeName::parse(NODE.1).unwrap());
        let of_node = TokenRequest { mesh, of: TokenFor::Node(node), ttl: None, uses: Uses::Unlimited };
        let token = control.tokens.create(of_node, &actor()).await.unwrap();
        let service = RevocationsService { control: Arc::clone(control) };
        store.damage(Some(keys::INSTANCES));
        let target = Some(Asked::TokenId(SecretHash::of(token.secret.reveal()).short().to_owned()));
        let request = RevokeRequest { target, unrecorded: false };
        let undone = service.revoke(asked(request.clone())).await.unwrap_err();
        assert!(undone.message().starts_with("the token is deleted; "), "{undone}");
        let again = service.revoke(asked(request)).await.unwrap_err();
        assert_eq!(again.code(), undone.code());
        assert!(!again.message().contains("deleted"), "{again}");
    }

    #[tokio::test]
    async fn a_token_is_said_to_be_deleted_where_the_rest_is_recorded_and_not_in_force() {
        let mut store = None;
        let scratch = scratch_over(|made| Arc::clone(store.insert(Busy::new(made)))).await;
        let (control, store) = (&scratch.control, store.unwrap());
        let (mesh, node) = (Name::parse(NODE.0).unwrap(), NodeName::parse(NODE.1).unwrap());
        let of_node = TokenRequest { mesh, of: TokenFor::Node(node), ttl: None, uses: Uses::Unlimited };
        let token = control.tokens.create(of_node, &actor()).await.unwrap();
        let token = token.secret.reveal();
        let info = AgentInfo::default();
        control.enrollment.attest(token, &request().1, info, None, "10.0.0.7:4").await.unwrap();
        let service = RevocationsService { control: Arc::clone(control) };
        store.damage(Some(keys::REVOCATIONS));
        let target = Some(Asked::TokenId(SecretHash::of(token).short().to_owned()));
        let late = service.revoke(asked(RevokeRequest { target, unrecorded: false })).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::Unavailable);
        let said = "the token is deleted; of those who joined by it: it is recorded, and will be in force";
        assert!(late.message().starts_with(said), "{late}");
        let filter = Filter { refused_only: true, ..Filter::default() };
        assert_eq!(control.audit.list(&filter, None, 10).await.unwrap().records, []);
    }

    fn asked<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let caller = Caller::Local { uid: Some(0) };
        let context = CallContext { caller, source: "unix".to_owned(), channel: None };
        request.extensions_mut().insert(context);
        request
    }

    #[tokio::test]
    async fn what_is_done_is_not_answered_as_refused_for_what_cannot_be_read_afterwards() {
        let mut store = None;
        let scratch = scratch_over(|made| Arc::clone(store.insert(Busy::new(made)))).await;
        let (control, store) = (&scratch.control, store.unwrap());
        let peer = crate::testing::joined(&scratch).await;
        let service = RevocationsService { control: Arc::clone(control) };
        let node = Some(NodeTarget { mesh: NODE.0.to_owned(), name: NODE.1.to_owned() });

        store.damage(Some(keys::REVOCATIONS));
        let quarantine = QuarantineRequest { node: node.clone(), undo: false };
        let late = service.quarantine(asked(quarantine)).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::Unavailable);
        assert!(late.message().starts_with("it is recorded, and will be in force as soon as"), "{late}");
        let serial =
            RevokeRequest { target: Some(Asked::Serial(peer.serial().to_string())), unrecorded: false };
        let late = service.revoke(asked(serial)).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::Unavailable);

        // Whoever asks once more has recorded nothing: that they asked is.
        let again = QuarantineRequest { node: node.clone(), undo: false };
        let late = service.quarantine(asked(again)).await.unwrap_err();
        assert!(late.message().starts_with("it is recorded already, and will be in force"), "{late}");

        store.damage(Some(keys::TOKENS));
        let revoke = RevokeRequest { target: node.map(Asked::Node), unrecorded: false };
        let revoked = service.revoke(asked(revoke)).await.unwrap().into_inner();
        assert_eq!((revoked.tokens.len(), revoked.unread.len()), (0, 1), "{revoked:?}");

        store.damage(None);
        let filter = Filter { refused_only: true, ..Filter::default() };
        let refused = control.audit.list(&filter, None, 10).await.unwrap().records;
        assert_eq!(refused.iter().map(|one| &*one.action).collect::<Vec<_>>(), ["quarantine.node"]);
        let none =
            RevokeRequest { target: Some(Asked::TokenId("0123456789ab".to_owned())), unrecorded: false };
        service.revoke(asked(none)).await.unwrap_err();
        assert_eq!(control.audit.list(&filter, None, 10).await.unwrap().records.len(), 2);
    }

    #[tokio::test]
    async fn of_a_node_the_tokens_are_named_that_still_let_agents_in() {
        let scratch = crate::testing::scratch().await;
        let control = &scratch.control;
        // By a token that is used up.
        let peer = crate::testing::joined(&scratch).await;
        let (mesh, node) = (Name::parse(NODE.0).unwrap(), NodeName::parse(NODE.1).unwrap());
        let of = TokenFor::Node(node.clone());
        let asked = TokenRequest { mesh: mesh.clone(), of, ttl: None, uses: Uses::Unlimited };
        let open = control.tokens.create(asked, &actor()).await.unwrap();
        let service = RevocationsService { control: Arc::clone(control) };
        let (revoked, told) = service.carry_out(&Target::Node(mesh, node), &actor()).await.unwrap();
        assert_eq!((revoked.serials, told.tokens), (vec![peer.serial()], vec![open.view.id]));
    }

    #[tokio::test]
    async fn so_are_those_with_labels_of_which_an_enrollment_makes_the_node() {
        let scratch = crate::testing::scratch().await;
        let control = &scratch.control;
        crate::testing::joined(&scratch).await;
        let selectors = vec!["join_token:label:env:prod".to_owned()];
        let rules = vec![wire::AttestRule { selectors, ..attest_rule(NODE.1, &[]) }];
        let evidence = Some(Evidence::JoinToken(wire::JoinTokenEvidence {}));
        let attest = Some(wire::AttestEnrollment { rules, evidence });
        let enroll = async |uid: &str| {
            let spec = wire::EnrollmentSpec { attest: attest.clone(), ..wire::EnrollmentSpec::default() };
            let metadata = Some(wire::Metadata { uid: uid.to_owned(), ..wire::Metadata::default() });
            let spec = Some(wire::resource::Spec::Enrollment(spec));
            let bytes = wire::Resource { spec, metadata, ..wire::Resource::default() }.encode_to_vec();
            let commit = Commit::new().put(keys::resource("Enrollment", NODE.0, "fleet"), bytes);
            control.store.commit(commit).await.unwrap();
        };
        enroll("first").await;
        let mesh = Name::parse(NODE.0).unwrap();
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let of = TokenFor::Enrollment { name: Name::parse("fleet").unwrap(), labels };
        let asked = TokenRequest { mesh: mesh.clone(), of, ttl: None, uses: Uses::Unlimited };
        let open = control.tokens.create(asked, &actor()).await.unwrap();
        let service = RevocationsService { control: Arc::clone(control) };
        let named =
            async |node: &str| service.tokens_for(&mesh, &NodeName::parse(node).unwrap()).await.unwrap();
        let target = Target::Node(mesh.clone(), NodeName::parse(NODE.1).unwrap());
        let (_, told) = service.carry_out(&target, &actor()).await.unwrap();
        assert_eq!(told.tokens, std::slice::from_ref(&open.view.id));
        assert!(named("other").await.is_empty());
        // By the tokens of one that was made anew nobody joins.
        enroll("second").await;
        assert!(named(NODE.1).await.is_empty());
        // Of what nobody can read it cannot be told, and what is revoked is revoked.
        let damaged = Commit::new().put(keys::resource("Enrollment", NODE.0, "fleet"), vec![0xff]);
        control.store.commit(damaged).await.unwrap();
        let (_, told) = service.carry_out(&target, &actor()).await.unwrap();
        assert_eq!(told.tokens, [open.view.id]);
    }
}
