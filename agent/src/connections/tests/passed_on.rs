//! Streams for users whom other services have passed on.

use hauberk_identity::Validity;
use hauberk_tls::LiveIdentity;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// What `web` shows, with a certificate of a minute that begins at `from`.
pub(super) fn shown_by_web(authorities: &Authorities, from: UnixMillis) -> (PeerIdentity, LiveIdentity) {
    let validity = Validity::new(from.minus(MINUTE), from.plus(MINUTE)).unwrap();
    let stored = authorities.identity("mesh/shop/node/web", validity);
    let bundle = authorities.issuing.root_bundle();
    let peer = verify_svid(stored.svid.chain(), bundle, from, Usage::Client).unwrap();
    let live = LiveIdentity::new(bundle.clone());
    live.publish(stored.svid, &stored.key).unwrap();
    (peer, live)
}

#[tokio::test(start_paused = true)]
async fn a_stream_for_a_user_goes_on_for_as_long_as_its_peer_proves_who_it_is_and_the_token_lasts() {
    let authorities = Authorities::new();
    let policies = ["permit(principal, action, resource) when { context has user };".to_owned()];
    let (login, view) = believing(&authorities, &policies);
    let (connections, _enforcing) = enforcing(&authorities, Arc::clone(&view)).await;
    let clock = connections.context.clock;
    let begun = clock.now();
    for renews in [true, false] {
        let (peer, live) = shown_by_web(&authorities, clock.now());
        // What web's own agent makes of the token that came to it.
        let of_web = Context { identity: live, ..connections.context().clone() };
        let token = token_of(&login, peer.id(), clock.now(), HOUR * 8);
        let arrival = Arrival { port: 8080, peer: peer.id(), identity: None, context: &of_web };
        let handles = Handles::default();
        let handle = MadeFor::look(&view, arrival, &mut with_token(&token)).handle(&handles).unwrap();
        let passed_on = handles.pass_on(&handle, &view.spiffe_id, &of_web).unwrap();

        let address = "127.0.0.1:9".parse().unwrap();
        let registered = connections.register(INBOUND, peer.clone(), address, None, [1; 32]).unwrap();
        let connection = registered.connection();
        let arrives = || {
            let (peer, context) = (connection.peer_id(), connections.context());
            let arrival = Arrival { port: 8080, peer, identity: Some(&passed_on), context };
            MadeFor::look(&view, arrival, &mut http::HeaderMap::new())
        };
        let begin = |made_for: MadeFor| {
            let (method, target) = (http::Method::GET, "/".parse().unwrap());
            let gathered = Gathered::nothing().clone().made_for(made_for.on_behalf_of());
            let gathered = Some(Arc::new(gathered));
            let subject = Subject::Request { method, target, is_upgrade: true, gathered, made_for };
            connection.admit(&connections, |_| subject, None, None, Instant::now())
        };
        let stream = begin(arrives());
        assert!(stream.is_allowed(), "{:?}", stream.ruling);
        if renews {
            let mut lived = Duration::ZERO;
            while lived < HOUR * 7 {
                assert_eq!(cut_after(&stream, MINUTE * 3 / 4).await, None, "after {lived:?}");
                lived += MINUTE * 3 / 4;
                let (newer, _) = shown_by_web(&authorities, clock.now());
                assert!(connection.extend(&newer, &connections));
            }
            // What is new is asked for a hop of its own.
            assert_eq!(arrives().refusal(clock.now()), Some("identity_expired"));
            let far = Validity::new(begun, begun.plus(HOUR * 9)).unwrap();
            let svid = authorities.identity("mesh/shop/node/web", far).svid;
            let bundle = authorities.issuing.root_bundle();
            let last = verify_svid(svid.chain(), bundle, clock.now(), Usage::Client).unwrap();
            assert!(connection.extend(&last, &connections));
            let ended = cut_after(&stream, HOUR * 2).await.expect("the token ends");
            assert!((HOUR - MINUTE..=HOUR + MINUTE).contains(&ended), "{ended:?}");
        } else {
            let ended = cut_after(&stream, HOUR).await.expect("its peer has proved nothing since");
            assert!((MINUTE..=MINUTE + Duration::from_secs(2)).contains(&ended), "{ended:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_for_a_user_is_cut_when_who_passed_the_user_on_is_revoked() {
    let authorities = Authorities::new();
    let policies = ["permit(principal, action, resource) when { context has user };".to_owned()];
    let (login, view) = believing(&authorities, &policies);
    let (connections, _enforcing) = enforcing(&authorities, Arc::clone(&view)).await;
    let (peer, live) = shown_by_web(&authorities, connections.context.clock.now());
    let of_web = Context { identity: live, ..connections.context().clone() };
    let token = token_of(&login, peer.id(), connections.context.clock.now(), HOUR);
    let arrival = Arrival { port: 8080, peer: peer.id(), identity: None, context: &of_web };
    let handles = Handles::default();
    let handle = MadeFor::look(&view, arrival, &mut with_token(&token)).handle(&handles).unwrap();
    let passed_on = handles.pass_on(&handle, &view.spiffe_id, &of_web).unwrap();
    // The connection has another certificate by now.
    let newer = web(&authorities, HOUR);
    let registered =
        connections.register(INBOUND, newer, "127.0.0.1:9".parse().unwrap(), None, [1; 32]).unwrap();
    let connection = registered.connection();
    let (method, target) = (http::Method::GET, "/".parse().unwrap());
    let arrival =
        Arrival { port: 8080, peer: peer.id(), identity: Some(&passed_on), context: connections.context() };
    let made_for = MadeFor::look(&view, arrival, &mut http::HeaderMap::new());
    let gathered = Some(Arc::new(Gathered::nothing().clone().made_for(made_for.on_behalf_of())));
    let subject = Subject::Request { method, target, is_upgrade: true, gathered, made_for };
    let stream = connection.admit(&connections, |_| subject, None, None, Instant::now());
    assert!(stream.is_allowed());
    assert_eq!(cut_after(&stream, MINUTE * 2).await, None);
    refuse(&connections, 7, &[&peer]);
    connections.apply_denylist().await;
    assert!(stream.meter().is_cut() && !connection.cut_signal().is_cancelled());
}
