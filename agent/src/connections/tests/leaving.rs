//! What leaves the mesh, under rules that change.

use std::net::SocketAddr;

use http::HeaderMap;

use super::passed_on::shown_by_web;
use super::*;
use crate::mesh::{External, Inbound};
use crate::testing::prepared;
use crate::users::ByHandle;

const PERMITS: &str = "permit(principal, action, resource);";

/// A view with one external service, whose ports are these, and with policies, one a line.
pub(super) fn view(revision: u64, ports: &[(u32, pb::ExternalProtocol)], cedar: &str) -> Arc<NodeView> {
    let mut view = node_view(revision);
    let Some(pb::view::Body::Node(node)) = &mut view.body else { panic!("no node") };
    node.egress = Some(outside(ports, cedar));
    prepared(&view)
}

fn outside(ports: &[(u32, pb::ExternalProtocol)], cedar: &str) -> pb::Egress {
    let ports = ports
        .iter()
        .map(|(number, protocol)| pb::ExternalPort { number: *number, protocol: (*protocol).into() });
    let external = pb::External {
        name: "outside".to_owned(),
        hosts: vec!["api.example".to_owned()],
        ports: ports.collect(),
        allowed_addresses: Vec::new(),
    };
    let policies = named(&cedar.lines().map(str::to_owned).collect::<Vec<_>>());
    pb::Egress { externals: vec![external], policies, ..pb::Egress::default() }
}

async fn put_in_force(connections: &Connections, view: Arc<NodeView>) {
    connections.apply(Arc::new(Inbound::Open(view))).await;
}

fn app() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

fn stream(connections: &Arc<Connections>, port: u16) -> Leave {
    let to = Destination { host: "api.example".into(), port, app: app() };
    let metrics = connections.context().metrics.unknown_service();
    let leave = connections.leave(to, |_, _| Subject::Stream, None, metrics, Instant::now());
    assert!(leave.is_allowed(), "{}", leave.reason());
    leave
}

/// A request out for whom the handle says.
fn call(connections: &Arc<Connections>, handle: Option<&http::HeaderValue>) -> Leave {
    let (none, context, rules) = (HeaderMap::new(), connections.context(), connections.rules());
    let user = handle.map_or_else(ByHandle::nobody, |handle| {
        ByHandle::look(handle, rules.view().ok(), connections.handles(), context)
    });
    let subject = |decided_by: Option<(&NodeView, &External)>, user| {
        let wanted = decided_by.unwrap().1.engine.wanted(80).unwrap();
        request(http::Method::GET, "/", Some(wanted.gather("api.example", []).made_for(user)))
    };
    let to = Destination { host: "api.example".into(), port: 80, app: app() };
    let head = Head { path: None, host: "api.example", fields: &none };
    let metrics = context.metrics.unknown_service();
    connections.leave(to, subject, Some((head, user)), metrics, Instant::now())
}

#[tokio::test]
async fn what_began_before_a_port_was_for_tls_does_not_go_on() {
    use pb::ExternalProtocol::{Tcp, Tls};
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let address = "1.1.1.1:5432".parse().unwrap();
    put_in_force(&connections, view(1, &[(5_432, Tcp), (443, Tls)], PERMITS)).await;
    let [plain, dialling] = [stream(&connections, 5_432), stream(&connections, 5_432)];
    let encrypted = stream(&connections, 443);
    plain.connected_to(address);
    encrypted.connected_to(address);
    put_in_force(&connections, view(2, &[(5_432, Tls), (443, Tls)], PERMITS)).await;
    assert!(plain.meter().is_cut(), "nobody knows what it began with");
    dialling.connected_to(address);
    assert!(dialling.meter().is_cut());
    assert!(!encrypted.meter().is_cut());
    let later = stream(&connections, 5_432);
    later.connected_to(address);
    // To a port for anything goes what goes to one for TLS.
    put_in_force(&connections, view(3, &[(5_432, Tcp), (443, Tcp)], PERMITS)).await;
    assert!(!later.meter().is_cut() && !encrypted.meter().is_cut());
}

#[tokio::test]
async fn others_have_a_turn_while_what_leaves_is_decided_again() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let ports = [(5_432, pb::ExternalProtocol::Tcp)];
    put_in_force(&connections, view(1, &ports, PERMITS)).await;
    let open: Vec<_> = (0..1_000).map(|_| stream(&connections, 5_432)).collect();
    let inbound = Arc::new(Inbound::Open(view(2, &ports, "forbid(principal, action, resource);")));
    let (done, turns) = (std::cell::Cell::new(false), std::cell::Cell::new(0));
    let reviewed = async {
        connections.apply(inbound).await;
        done.set(true);
    };
    let others = async {
        while !done.get() {
            turns.set(turns.get() + 1);
            // What begins meanwhile begins by the new rules, and ends.
            let to = Destination { host: "api.example".into(), port: 5_432, app: app() };
            let metrics = connections.context().metrics.unknown_service();
            assert!(
                !connections.leave(to, |_, _| Subject::Stream, None, metrics, Instant::now()).is_allowed()
            );
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(reviewed, others);
    assert!(turns.get() > 3, "{}", turns.get());
    assert!(open.iter().all(|leave| leave.meter().is_cut()));
}

#[tokio::test]
async fn what_was_decided_of_an_external_service_is_remembered_with_the_rules() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let ports = [(5_432, pb::ExternalProtocol::Tcp)];
    put_in_force(&connections, view(1, &ports, PERMITS)).await;
    let memo = || {
        let (rules, current) = (connections.rules(), connections.context().identity.current());
        let caller = hauberk_policy::Caller::Peer(current.svid().unwrap().id().clone());
        let external = Arc::clone(rules.view().unwrap().external("outside").unwrap());
        let peer = |text: &str| hauberk_policy::Peer::new(Some(text.parse().unwrap()), None);
        // Nothing here reads where the app is.
        let [one, other] =
            ["127.0.0.1", "127.0.0.2"].map(|app| rules.memo_of(&external, &caller, &peer(app)));
        assert!(Arc::ptr_eq(&one, &other));
        one
    };
    let first = memo();
    stream(&connections, 5_432);
    assert!(Arc::ptr_eq(&first, &memo()));
    put_in_force(&connections, view(2, &ports, "forbid(principal, action, resource);")).await;
    assert!(!Arc::ptr_eq(&first, &memo()));
    let to = Destination { host: "api.example".into(), port: 5_432, app: app() };
    let metrics = connections.context().metrics.unknown_service();
    assert!(!connections.leave(to, |_, _| Subject::Stream, None, metrics, Instant::now()).is_allowed());
}

#[tokio::test]
async fn a_call_is_counted_once_as_what_became_of_it() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let ports = [(5_432, pb::ExternalProtocol::Tcp)];
    put_in_force(&connections, view(1, &ports, PERMITS)).await;
    connections.decisions().observe(&pb::Observe { flows: true, ..pb::Observe::default() });
    let counted = || -> u64 {
        let told = connections.decisions().flow_summaries();
        let flows = told.iter().flat_map(|told| &told.flows);
        flows.map(|flow| flow.others + flow.exemplars.iter().map(|one| one.count).sum::<u64>()).sum()
    };
    let mut refused = stream(&connections, 5_432);
    refused.refuse(ADDRESS_REFUSED);
    drop(refused);
    assert_eq!(counted(), 0, "policies let it out, and it was not");
    let mut open = stream(&connections, 5_432);
    assert_eq!(counted(), 0);
    open.let_out();
    assert_eq!(counted(), 1, "not only at its end, which may be days away");
    drop(open);
    assert_eq!(counted(), 0);
    drop(stream(&connections, 5_432));
    assert_eq!(counted(), 1, "nobody answered there, which is no refusal");
}

#[tokio::test]
async fn what_has_left_holds_on_to_no_rules() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let ports = [(5_432, pb::ExternalProtocol::Tcp)];
    let first = view(1, &ports, PERMITS);
    let former = (Arc::downgrade(&first), Arc::downgrade(&first.externals[0]));
    put_in_force(&connections, first).await;
    let mut open = stream(&connections, 5_432);
    drop(open.take_external().unwrap());
    put_in_force(&connections, view(2, &ports, PERMITS)).await;
    assert!(former.0.upgrade().is_none() && former.1.upgrade().is_none());
    assert!(!open.meter().is_cut() && open.take_external().is_none());
    assert_eq!(open.external_name().unwrap().as_str(), "outside");
}

#[tokio::test(start_paused = true)]
async fn a_call_out_for_a_user_ends_with_all_that_vouched_for_the_user() {
    let authorities = Authorities::new();
    let connections = connections_at(&authorities, Clock::starting_at(now()));
    let (login, other) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let rule = "permit(principal, action, resource) when { context has user && \
                context.actors == [Node::\"spiffe://shop.local/mesh/shop/node/web\"] };";
    let believing = |revision, login: &JwtSigner| {
        view_changed(&authorities, revision, |node| {
            node.egress = Some(outside(&[(80, pb::ExternalProtocol::Http)], rule));
            node.ports[0].users = Some(pb::UserTokens::default());
            node.issuers = vec![issuer(login)];
        })
    };
    let view = believing(1, &login);
    put_in_force(&connections, Arc::clone(&view)).await;
    let context = connections.context();
    // What web's agent passes on of the token that came to it, and what our app is given of that.
    let (peer, live) = shown_by_web(&authorities, context.clock.now());
    let of_web = Context { identity: live, ..context.clone() };
    let token = token_of(&login, peer.id(), context.clock.now(), HOUR);
    let arrival = Arrival { port: 8080, peer: peer.id(), identity: None, context: &of_web };
    let handles = Handles::default();
    let handle = MadeFor::look(&view, arrival, &mut with_token(&token)).handle(&handles).unwrap();
    let passed_on = handles.pass_on(&handle, &view.spiffe_id, &of_web).unwrap();
    let arrival = Arrival { port: 8080, peer: peer.id(), identity: Some(&passed_on), context };
    let handle = MadeFor::look(&view, arrival, &mut HeaderMap::new()).handle(connections.handles()).unwrap();

    let begin = |handle: Option<&http::HeaderValue>| call(&connections, handle);
    assert_eq!(begin(None).reason(), "no_policy_matched");
    assert_eq!(begin(Some(&passed_on)).reason(), "identity_handle_forged");
    let stream = begin(Some(&handle));
    assert!(stream.is_allowed(), "{}", stream.reason());
    put_in_force(&connections, believing(2, &login)).await;
    connections.review_changing_leaving().await;
    assert!(!stream.meter().is_cut(), "the same key vouches for the user");
    put_in_force(&connections, believing(3, &other)).await;
    assert!(stream.meter().is_cut(), "its key is gone");
    assert_eq!(begin(Some(&handle)).reason(), "user_token_unknown_key");

    put_in_force(&connections, believing(4, &login)).await;
    let stream = begin(Some(&handle));
    refuse(&connections, 7, &[&peer]);
    connections.apply_denylist().await;
    assert!(stream.meter().is_cut(), "who passed the user on is revoked");
    assert_eq!(begin(Some(&handle)).reason(), "identity_revoked");
    refuse(&connections, 8, &[]);

    let stream = begin(Some(&handle));
    assert_eq!(stream.reason(), "permitted");
    tokio::time::advance(Duration::from_secs(61)).await;
    connections.review_changing_leaving().await;
    assert!(stream.meter().is_cut(), "the certificate has ended by which the user came");
    assert_eq!(begin(Some(&handle)).reason(), "identity_handle_expired");
}

#[tokio::test(start_paused = true)]
async fn a_call_out_for_a_user_ends_with_the_instance_that_the_token_was_minted_for() {
    let authorities = Authorities::new();
    let connections = connections_at(&authorities, Clock::starting_at(now()));
    let login = JwtSigner::generate().unwrap();
    let rule = "permit(principal, action, resource) when { context has user };";
    let view = view_changed(&authorities, 1, |node| {
        node.egress = Some(outside(&[(80, pb::ExternalProtocol::Http)], rule));
        node.ports[0].users = Some(pb::UserTokens::default());
        node.issuers = vec![pb::JwtIssuer { is_ours: true, ..issuer(&login) }];
    });
    put_in_force(&connections, Arc::clone(&view)).await;
    let (context, peer) = (connections.context(), web(&authorities, HOUR));
    let [revoked, another] = ["0123456789", "vj85pstwk8"].map(|instance| {
        let instance = instance.parse().unwrap();
        let token = login.sign(&Claims {
            id: peer.id(),
            audience: &["shop".to_owned()],
            issued_at: context.clock.now(),
            expires_at: context.clock.now().plus(HOUR),
            token_id: &Serial::of_instance(instance, [7; 16]).to_string(),
            issuer: Some("https://login.example"),
        });
        let arrival = Arrival { port: 8080, peer: peer.id(), identity: None, context };
        let mut made_for = MadeFor::look(&view, arrival, &mut with_token(&token.unwrap()));
        let handle = made_for.handle(connections.handles()).unwrap();
        let leave = call(&connections, Some(&handle));
        assert!(leave.is_allowed(), "{}", leave.reason());
        (handle, leave)
    });
    let denylist = Denylist { instances: ["0123456789".parse().unwrap()].into(), ..Denylist::default() };
    context.mesh.denied.replace(denylist);
    connections.apply_denylist().await;
    assert!(revoked.1.meter().is_cut() && !another.1.meter().is_cut());
    assert_eq!(call(&connections, Some(&revoked.0)).reason(), "user_token_revoked");
}
