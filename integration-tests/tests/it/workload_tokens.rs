//! JWT-SVIDs by the SPIFFE Workload API: for whom an enrollment says so, verified for whoever asks, and kept from
//! hostile programs and agents.

use std::{os::unix::net::UnixStream, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_integration_tests::{dial, eventually, eventually_async};
use hauberk_proto::{
    admin::v1::{AuditOutcome, ListAuditRequest, audit_client::AuditClient},
    agent::v1::{MintWorkloadTokenRequest, workloads_client::WorkloadsClient},
    workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse,
    },
};
use hauberk_tls::jwt::{Claims, JwtBundle, JwtSigner};
use prost_types::value::Kind;
use rustls::pki_types::UnixTime;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::{
    shop::PATIENCE,
    workload_api::{begun, client, enrollment, fetch, marked, shop, uid},
};

const WORKER: &str = "spiffe://box.test/workload/test/worker";

pub(crate) async fn tokens(
    socket: &Path,
    audience: &[&str],
    spiffe_id: &str,
) -> Result<Vec<Jwtsvid>, Status> {
    let audience = audience.iter().map(|name| (*name).to_owned()).collect();
    let request = JwtsvidRequest { audience, spiffe_id: spiffe_id.to_owned() };
    let answer = client(socket).await.fetch_jwtsvid(marked(request)).await?;
    Ok(answer.into_inner().svids)
}

pub(crate) async fn validate(
    socket: &Path,
    audience: &str,
    token: &str,
) -> Result<ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.to_owned() };
    client(socket).await.validate_jwtsvid(marked(request)).await.map(tonic::Response::into_inner)
}

async fn bundles(socket: &Path) -> Result<JwtBundlesResponse, Status> {
    let stream = client(socket).await.fetch_jwt_bundles(marked(JwtBundlesRequest {})).await?;
    next(&mut stream.into_inner()).await
}

async fn next(stream: &mut Streaming<JwtBundlesResponse>) -> Result<JwtBundlesResponse, Status> {
    Ok(timeout(PATIENCE, stream.message()).await.expect("in time")?.expect("a stream ends with its status"))
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map(drop).unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_gets_tokens_of_its_identities_and_no_others() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", hint: internal, jwtTtl: {value: 120, unit: s}"));
    mesh.apply(&enrollment("other", "orders", &uid(), ""));
    begun(&socket).await;
    mesh.apply(&enrollment("another", "web", &uid(), ", hint: internal"));
    let both = eventually_async("both identities are known", PATIENCE, async || {
        tokens(&socket, &["db", "cache"], "").await.ok().filter(|both| both.len() == 2)
    })
    .await;
    assert_eq!(both[0].spiffe_id, "spiffe://box.test/workload/test/another");
    assert_eq!((&*both[1].spiffe_id, &*both[0].hint, &*both[1].hint), (WORKER, "internal", ""));

    let one = tokens(&socket, &["cache", "db", "db"], WORKER).await.unwrap();
    assert_eq!(one, [Jwtsvid { hint: String::new(), ..both[1].clone() }], "kept: the audience is the same");
    assert_ne!(tokens(&socket, &["db"], WORKER).await.unwrap()[0].svid, one[0].svid, "another audience");

    for id in
        ["spiffe://box.test/workload/test/other", "spiffe://box.test/mesh/shop/node/web", "spiffe://x/y"]
    {
        assert_eq!(code(tokens(&socket, &["db"], id).await), Code::PermissionDenied, "{id}");
    }
    let long = "x".repeat(4_097);
    for audience in [&[][..], &[""], &["db", ""], &["db"; 33], &[long.as_str()]] {
        assert_eq!(code(tokens(&socket, audience, "").await), Code::InvalidArgument, "{audience:?}");
    }
    assert_eq!(code(tokens(&socket, &["db"], "worker").await), Code::InvalidArgument);
    let huge = "x".repeat(100_000);
    assert!(tokens(&socket, &[huge.as_str()], "").await.is_err());
    let bare = JwtsvidRequest { audience: vec!["db".to_owned()], spiffe_id: String::new() };
    assert_eq!(code(client(&socket).await.fetch_jwtsvid(bare).await), Code::InvalidArgument, "no metadata");

    // Each verifies, for whom it is and nobody else.
    let valid = validate(&socket, "cache", &one[0].svid).await.unwrap();
    assert_eq!(valid.spiffe_id, WORKER);
    let claim = |name: &str| match &valid.claims.as_ref().unwrap().fields[name].kind {
        Some(Kind::NumberValue(number)) => *number,
        other => panic!("{name}: {other:?}"),
    };
    assert!((claim("exp") - claim("iat") - 120.0).abs() < 1.5, "its enrollment says so");
    assert_eq!(code(validate(&socket, "web", &one[0].svid).await), Code::InvalidArgument);

    // What is vouched for no longer has no token, though one was kept.
    mesh.hauberk(&["delete", "enrollment", "worker"]).ok();
    let denied = eventually_async("it is gone", PATIENCE, async || {
        tokens(&socket, &["db", "cache"], WORKER).await.err()
    });
    assert_eq!(denied.await.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_tampered_with_is_refused_with_a_reason() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    begun(&socket).await;
    let token = tokens(&socket, &["db"], "").await.unwrap().remove(0).svid;
    assert_eq!(validate(&socket, "db", &token).await.unwrap().spiffe_id, WORKER);

    let parts: Vec<&str> = token.split('.').collect();
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let none = URL_SAFE_NO_PAD.encode(header.replace("ES256", "none"));
    // Another's key, under the name of the one that is trusted.
    let stranger = JwtSigner::generate().unwrap();
    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    let id = WORKER.parse().unwrap();
    let audience = ["db".to_owned()];
    let expires_at = UnixMillis(now.0 + 300_000);
    let claims =
        Claims { id: &id, audience: &audience, issued_at: now, expires_at, token_id: "1", issuer: None };
    let foreign = stranger.sign(&claims).unwrap();
    let rest = foreign.split_once('.').unwrap().1;
    for forged in [
        foreign.to_string(),
        format!("{}.{rest}", parts[0]),
        format!("{none}.{}.", parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40]),
        format!("{token}="),
        String::new(),
        "x".repeat(20_000),
    ] {
        let refused = validate(&socket, "db", &forged).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{forged:.40}: {refused}");
        assert!(!refused.message().is_empty());
    }
    for audience in ["", &*"x".repeat(5_000)] {
        assert_eq!(code(validate(&socket, audience, &token).await), Code::InvalidArgument);
    }
    let bare = ValidateJwtsvidRequest { audience: "db".to_owned(), svid: token };
    assert_eq!(
        code(client(&socket).await.validate_jwtsvid(bare).await),
        Code::InvalidArgument,
        "no metadata"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_go_on_without_a_control_plane_as_far_as_they_can() {
    let (mut mesh, mut agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    begun(&socket).await;
    let token = tokens(&socket, &["db"], "").await.unwrap().remove(0).svid;
    let told = bundles(&socket).await.unwrap().bundles;
    let jwks = &told["spiffe://box.test"];
    let keys = JwtBundle::from_jwks(TrustDomain::parse("box.test").unwrap(), jwks).unwrap();
    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    assert_eq!(hauberk_tls::jwt::verify_jwt_svid(&token, "db", &keys, now).unwrap().id().as_str(), WORKER);

    let log = mesh.control_plane().log();
    mesh.kill_control_plane();
    assert_eq!(tokens(&socket, &["db"], "").await.unwrap()[0].svid, token, "kept until half of its life");
    assert_eq!(code(tokens(&socket, &["new"], "").await), Code::Unavailable);
    agent.relaunch(mesh.folder());
    eventually("the socket is there", PATIENCE, || UnixStream::connect(&socket).ok());
    // Whoever asks is told what is true: who it is is known to the control plane alone, and the keys are on disk.
    assert_eq!(validate(&socket, "db", &token).await.unwrap().spiffe_id, WORKER);
    assert_eq!(code(tokens(&socket, &["db"], "").await), Code::Unavailable);
    assert_eq!(code(bundles(&socket).await), Code::Unavailable);

    for log in [agent.process.log(), log] {
        assert!(!log.contains(&token), "a token stands in a log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_life_holds_for_tokens_that_are_kept() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", jwtTtl: {value: 3600, unit: s}"));
    begun(&socket).await;
    let life = async || {
        let token = tokens(&socket, &["db"], WORKER).await.ok()?.pop()?.svid;
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
        Some(claims["exp"].as_u64()? - claims["iat"].as_u64()?)
    };
    let long = eventually_async("a token is given", PATIENCE, &life).await;
    assert!((3_599..=3_600).contains(&long), "{long}");
    mesh.apply(&enrollment("worker", "web", &uid(), ", jwtTtl: {value: 60, unit: s}"));
    eventually_async("another is minted", PATIENCE, async || life().await.filter(|life| *life <= 60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_no_token_by_another_nodes_enrollment() {
    let (mesh, _agent, _socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let agent = async |node: &str| {
        let (svid, key) = dial::join(&mesh, node).await;
        WorkloadsClient::new(dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key)))
    };
    let ask = |enrollment: &str| MintWorkloadTokenRequest {
        enrollment: enrollment.to_owned(),
        audience: vec!["db".to_owned()],
    };
    let mut web = agent("web").await;
    let minted = web.mint_token(ask("worker")).await.unwrap().into_inner();
    assert_eq!(minted.spiffe_id, WORKER);
    let mut orders = agent("orders").await;
    let names = ["worker", "none", "../VirtualNode/shop/orders", ""];
    for name in names {
        let refused = orders.mint_token(ask(name)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}: {refused}");
        assert!(!refused.message().contains("web"), "{refused}");
    }
    let mut stranger = WorkloadsClient::new(dial::channel(mesh.agent_address(), dial::stranger(&mesh)));
    assert_eq!(code(stranger.mint_token(ask("worker")).await), Code::Unauthenticated);
    let mut admin = WorkloadsClient::new(dial::channel(mesh.agent_address(), dial::admin(&mesh)));
    assert_eq!(code(admin.mint_token(ask("worker")).await), Code::PermissionDenied);
    mesh.hauberk(&["quarantine", "node", "web"]).ok();
    assert!(web.mint_token(ask("worker")).await.is_err(), "nothing for a node in quarantine");

    let admin = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    let asked = ListAuditRequest { action: "workload.mint".to_owned(), ..Default::default() };
    let records = AuditClient::new(admin).list(asked).await.unwrap().into_inner().records;
    let of_orders = records.iter().filter(|record| record.actor.ends_with("/node/orders"));
    assert_eq!(of_orders.count(), names.len(), "{records:#?}");
    assert!(records.iter().all(|record| record.outcome() == AuditOutcome::Refused), "{records:#?}");
}

#[test]
fn people_get_tokens() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let said = eventually("a token is there", PATIENCE, || {
        let (ok, said) = fetch(&socket, &["jwt", "--audience", "db", "--spiffe-id", WORKER]);
        ok.then_some(said)
    });
    let (token, remark) = said.split_once('\n').unwrap();
    assert_eq!(token.split('.').count(), 3, "{said}");
    assert!(remark.starts_with(&format!("{WORKER} until ")), "{said}");
    let (ok, said) = fetch(&socket, &["jwt"]);
    assert!(!ok && said.contains("--audience"), "{said}");
    let (ok, said) = fetch(&socket, &["x509", "--audience", "db"]);
    assert!(!ok && said.contains("go with jwt"), "{said}");
}
