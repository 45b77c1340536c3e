//! What those who have proved nothing can make the control plane do.

use futures_util::FutureExt;
use hauberk_proto::admin::v1::LoginRequest;
use hauberk_proto::admin::v1::admins_client::AdminsClient;
use hauberk_tls::ClientAuth;
use tonic::codec::Streaming;

use super::*;
use crate::server_certificate::ServerCertificate;
use crate::testing::{Scratch, scratch};

async fn stranger_at(running: &Running, address: std::net::SocketAddr) -> Channel {
    channel(address, stranger(running)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_send_is_not_gathered_beyond_what_it_can_be() {
    let (running, token) = start().await;
    let (agents, admins) = (running.addresses.agent, running.addresses.admin);
    for address in [agents, admins] {
        let mut health = HealthClient::new(stranger_at(&running, address).await);
        let asked = HealthCheckRequest { service: "s".repeat(1_100) };
        assert_eq!(health.check(asked).await.unwrap_err().code(), Code::OutOfRange);
        assert!(health.check(HealthCheckRequest::default()).await.is_ok());
    }
    let csr = vec![0; 17 * 1024];
    let asked = LoginRequest { login_token: "none".into(), csr: csr.clone() };
    let mut login = AdminsClient::new(stranger_at(&running, admins).await);
    assert_eq!(login.login(asked).await.unwrap_err().code(), Code::OutOfRange);
    let evidence = Some(Evidence::JoinToken(token));
    let asked = AttestRequest { csr, evidence, agent: None, enrollment: None, former: None };
    let mut enrollment = EnrollmentClient::new(stranger_at(&running, agents).await);
    assert_eq!(enrollment.attest(asked).await.unwrap_err().code(), Code::OutOfRange);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_have_few_calls_at_a_time() {
    let (running, _) = start().await;
    let address = running.addresses.agent;
    let one = stranger_at(&running, address).await;
    let mut watches: Vec<Streaming<_>> = Vec::new();
    for _ in 0..4 {
        let watch = HealthClient::new(one.clone()).watch(HealthCheckRequest::default()).await;
        watches.push(watch.unwrap().into_inner());
    }
    let mut health = HealthClient::new(one);
    let mut fifth = Box::pin(health.check(HealthCheckRequest::default()));
    assert!(fifth.as_mut().now_or_never().is_none());
    let mut other = HealthClient::new(stranger_at(&running, address).await);
    tokio::select! {
        _ = &mut fifth => panic!("a fifth call was taken"),
        answer = other.check(HealthCheckRequest::default()) => { answer.unwrap(); }
    }
    watches.pop();
    tokio::time::timeout(DEADLINE, fifth).await.unwrap().unwrap();
    drop(watches);
    running.stop().await;
}

/// An agent listener with limits of the test's own, until the token is cancelled.
async fn listen(scratch: &Scratch, limits: Limits, deadlines: Deadlines) -> std::net::SocketAddr {
    let control = &scratch.control;
    ServerCertificate::obtain(control).await.unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listening = Listening {
        name: "agent",
        socket,
        acceptor: control.identity.acceptor(&[b"h2"], ClientAuth::Optional, DEADLINE).unwrap(),
        limits,
        deadlines,
        metrics: Arc::clone(&control.metrics),
        clock: control.clock.clone(),
        admins: Arc::clone(&control.admins),
        revocations: Arc::clone(&control.revocations),
        authority: Arc::clone(&control.authority),
        ledger: Arc::clone(&control.ledger),
    };
    let routes = Routes::new(agent::service(control)).add_service(health_service(AGENT_SERVICES).await);
    control.tasks.spawn(serve(listening, routes, control.access(), control.stop.clone()));
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_is_ended() {
    let scratch = scratch().await;
    let limits = Limits {
        connections: 8,
        connections_per_address: 8,
        connections_per_holder: 8,
        handshakes: 8,
        strangers: 8,
        grace: Duration::ZERO,
        calls: 8,
    };
    let soon = Duration::from_millis(50);
    let address = listen(&scratch, limits, Deadlines { call: soon, call_of_stranger: soon }).await;
    let pin = scratch.control.authority.root_fingerprint().parse().unwrap();
    let connector =
        bootstrap_connector(BootstrapTrust::Root { pin, trust_domain: None }, &[b"h2"], DEADLINE).unwrap();
    let mut client = tonic::client::Grpc::new(channel(address, connector).await.unwrap());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<AttestRequest, AttestResponse>::default();
    let path = "/hauberk.agent.v1.Enrollment/Attest".parse().unwrap();
    let never = tokio_stream::pending::<AttestRequest>();
    let call = client.client_streaming(Request::new(never), path, codec);
    let ended = tokio::time::timeout(DEADLINE, call).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Cancelled, "{ended}");
    scratch.control.stop.cancel();
}

/// All from one address, as behind a load balancer or on loopback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_who_never_ends_a_handshake_nor_who_never_calls_keeps_others_out() {
    let scratch = scratch().await;
    let limits = Limits {
        connections: 100,
        connections_per_address: 100,
        connections_per_holder: 8,
        handshakes: 4,
        strangers: 4,
        grace: Duration::ZERO,
        calls: 8,
    };
    let patient = Deadlines { call: DEADLINE, call_of_stranger: DEADLINE };
    let address = listen(&scratch, limits, patient).await;
    let pin = scratch.control.authority.root_fingerprint().parse().unwrap();
    let trust = BootstrapTrust::Root { pin, trust_domain: None };
    let connector = bootstrap_connector(trust, &[b"h2"], DEADLINE).unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut health = HealthClient::new(channel(address, connector.clone()).await.unwrap());
        health.check(HealthCheckRequest::default()).await.unwrap();
        idle.push(health);
    }
    scratch.control.stop.cancel();
}

/// Those that have a call under way are done sooner or later, however many come; those that come are told so, and come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_call_under_way_is_not_sent_away_for_a_newcomer() {
    let scratch = scratch().await;
    let limits = Limits {
        connections: 100,
        connections_per_address: 100,
        connections_per_holder: 8,
        handshakes: 8,
        strangers: 2,
        grace: Duration::ZERO,
        calls: 8,
    };
    let patient = Deadlines { call: DEADLINE, call_of_stranger: DEADLINE };
    let address = listen(&scratch, limits, patient).await;
    let pin = scratch.control.authority.root_fingerprint().parse().unwrap();
    let trust = BootstrapTrust::Root { pin, trust_domain: None };
    let connector = bootstrap_connector(trust, &[b"h2"], DEADLINE).unwrap();
    let (mut senders, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let channel = channel(address, connector.clone()).await.unwrap();
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let (sender, requests) = tokio::sync::mpsc::channel::<AttestRequest>(1);
        let codec = tonic_prost::ProstCodec::<AttestRequest, AttestResponse>::default();
        let path = "/hauberk.agent.v1.Enrollment/Attest".parse().unwrap();
        let requests = Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
        let mut call = Box::pin(async move { client.client_streaming(requests, path, codec).await });
        assert!(call.as_mut().now_or_never().is_none());
        // Taken after the call, on the same connection.
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
        senders.push(sender);
        calls.push(call);
    }
    let label = crate::metrics::ListenerLabel { listener: "agent" };
    let refused = || scratch.control.metrics.connections_refused.get_or_create(&label).get();
    assert_eq!(refused(), 0);
    for _ in 0..3 {
        if let Ok(newcomer) = channel(address, connector.clone()).await {
            let answer = HealthClient::new(newcomer).check(HealthCheckRequest::default()).await;
            assert!(answer.is_err(), "there is no room");
        }
    }
    assert!(refused() >= 3);
    for (sender, call) in senders.into_iter().zip(calls) {
        sender.send(AttestRequest::default()).await.unwrap();
        drop(sender);
        let answer: Result<tonic::Response<AttestResponse>, _> = call.await;
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    }
    scratch.control.stop.cancel();
}
