//! What programs learn of revocations by the Workload API, and what becomes of their own certificates.

use hauberk_integration_tests::{AgentOptions, App, dial, eventually};
use hauberk_proto::refusal;
use hauberk_proto::workload::{X509BundlesRequest, X509svidResponse};
use hauberk_tls::Svid;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use x509_parser::{revocation_list::CertificateRevocationList, x509::ReasonCode};

use crate::{
    authorities::issuing,
    revocation,
    sds::Exchange,
    shop::PATIENCE,
    workload_api::{begun, client, enrollment, marked, shop, svids, uid},
};

const WAIT: &str = "--wait=20s";

/// Serial numbers on a list, and whether they are on hold.
fn listed(crl: &CertificateRevocationList<'_>) -> Vec<(String, bool)> {
    let mut listed: Vec<_> = crl
        .iter_revoked_certificates()
        .map(|entry| {
            let serial: String = entry.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
            let on_hold = entry.reason_code().is_some_and(|(_, code)| code == ReasonCode::CertificateHold);
            (serial, on_hold)
        })
        .collect();
    listed.sort();
    listed
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> Result<X509svidResponse, Status> {
    Ok(timeout(PATIENCE, stream.message()).await.expect("in time")?.expect("a stream ends with its status"))
}

fn svid(answer: &X509svidResponse) -> Option<Svid> {
    Some(Svid::from_concatenated_der(&answer.svids.first()?.x509_svid).unwrap())
}

/// The list that every answer must hold first: that of the issuing authority. The root's comes with it.
fn crl(lists: &[Vec<u8>]) -> CertificateRevocationList<'_> {
    let [of_issuing, of_root] = lists else { panic!("{} lists", lists.len()) };
    assert!(listed(&x509_parser::parse_x509_crl(of_root).unwrap().1).is_empty());
    x509_parser::parse_x509_crl(of_issuing).unwrap().1
}

/// Whether the lists are there, and somebody is on them.
fn names_somebody(lists: &[Vec<u8>]) -> bool {
    !lists.is_empty() && !listed(&crl(lists)).is_empty()
}

/// Answers until one is as it should be.
async fn until(
    stream: &mut Streaming<X509svidResponse>,
    is_it: impl Fn(&X509svidResponse) -> bool,
) -> X509svidResponse {
    loop {
        let answer = next(stream).await.unwrap();
        if is_it(&answer) {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_holds_the_revocation_list_as_it_is() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    begun(&socket).await;
    let mut stream = svids(&socket).await;
    // The lists are signed once the control plane has started.
    let first = until(&mut stream, |answer| answer.crl.len() == 2).await;
    let own = svid(&first).unwrap();
    assert!(listed(&crl(&first.crl)).is_empty());
    let issuer = x509_parser::parse_x509_certificate(&own.chain()[1]).unwrap().1;
    assert_eq!(crl(&first.crl).issuer().to_string(), issuer.subject().to_string());

    let (other, _) = dial::join(&mesh, "orders").await;
    let serial = other.serial().to_string();
    mesh.hauberk(&["revoke", "serial", &serial]).ok();
    let told = until(&mut stream, |answer| names_somebody(&answer.crl)).await;
    assert_eq!(listed(&crl(&told.crl)), [(serial.clone(), false)], "at once");
    assert_eq!(svid(&told).unwrap().serial(), own.serial(), "nothing else has changed");
    let answers = client(&socket).await.fetch_x509_bundles(marked(X509BundlesRequest {})).await.unwrap();
    let bundles = timeout(PATIENCE, answers.into_inner().message()).await.unwrap().unwrap().unwrap();
    assert_eq!(listed(&crl(&bundles.crl)), [(serial, false)]);

    // Its own: the program has another before anybody could ask for it.
    mesh.hauberk(&["revoke", "serial", &own.serial().to_string(), WAIT]).ok();
    let renewed =
        until(&mut stream, |answer| svid(answer).is_some_and(|now| now.serial() != own.serial())).await;
    assert_ne!(svid(&renewed).unwrap().key_fingerprint(), own.key_fingerprint());
    // The list is signed beside that.
    let own = (own.serial().to_string(), false);
    until(&mut svids(&socket).await, |answer| listed(&crl(&answer.crl)).contains(&own)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_workloads_are_held_while_their_node_is_in_quarantine() {
    let (mesh, _web, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let (own, mut stream) = begun(&socket).await;
    let serial = own[0].serial().to_string();
    let orders_socket = mesh.folder().join("orders.sock");
    let app = App::start("orders");
    let serving = AgentOptions::default().app(8080, app.address()).argument("--workload-api-socket");
    let _orders = mesh.agent("orders", serving.argument(orders_socket.to_str().unwrap()));
    mesh.apply(&enrollment("clerk", "orders", &uid(), ""));
    let (_, mut others) = begun(&orders_socket).await;

    mesh.hauberk(&["quarantine", "node", "web", WAIT]).ok();
    let ended = loop {
        // The list may come first.
        if let Err(status) = next(&mut stream).await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "who vouched for it is refused: {ended}");
    let on_hold = (serial.clone(), true);
    let told = until(&mut others, |answer| names_somebody(&answer.crl)).await;
    assert!(listed(&crl(&told.crl)).contains(&on_hold), "{:?}", listed(&crl(&told.crl)));
    let fetched = revocation::crl(&mesh);
    assert!(listed(&x509_parser::parse_x509_crl(&fetched).unwrap().1).contains(&on_hold));

    mesh.hauberk(&["quarantine", "node", "web", "--undo", WAIT]).ok();
    until(&mut others, |answer| !names_somebody(&answer.crl)).await;
    begun(&socket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_where_the_agent_that_vouches_is_revoked() {
    for target in ["instance", "node"] {
        let (mesh, _web, socket) = shop();
        mesh.apply(&enrollment("worker", "web", &uid(), ""));
        let (own, mut stream) = begun(&socket).await;
        let mut secrets = Exchange::begin(&socket, &["default"]).await;
        secrets.next().await.unwrap();
        let whom = match target {
            "instance" => own[0].serial().instance().expect("a serial number says whose it is").to_string(),
            _ => "web".to_owned(),
        };
        mesh.hauberk(&["revoke", target, &whom, WAIT]).ok();
        let ended = loop {
            // The list may come first.
            if let Err(status) = next(&mut stream).await {
                break status;
            }
        };
        assert_eq!(ended.code(), Code::PermissionDenied, "{target}: {ended}");
        assert_eq!(refusal::reason(&ended).as_deref(), Some(refusal::AGENT_REFUSED), "{target}: {ended}");
        let ended = loop {
            if let Err(status) = secrets.next().await {
                break status;
            }
        };
        assert_eq!(ended.code(), Code::PermissionDenied, "SDS, {target}: {ended}");
        // Nor does anybody get anything who asks anew.
        let again = next(&mut svids(&socket).await).await.unwrap_err();
        assert_eq!(again.code(), Code::PermissionDenied, "{target}: {again}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tainted_authority_has_signed_is_replaced_in_programs_too() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let (first, mut stream) = begun(&socket).await;
    let tainted = issuing(&mesh);
    mesh.hauberk(&["authority", "taint", &tainted, "--wait=60s"]).ok();
    // Once that is said nobody is given another by it.
    let given = next(&mut svids(&socket).await).await.unwrap();
    assert_ne!(svid(&given).unwrap().issuer_serial(), first[0].issuer_serial());
    let renewed =
        until(&mut stream, |answer| svid(answer).is_some_and(|now| now.serial() != first[0].serial())).await;
    assert_ne!(svid(&renewed).unwrap().issuer_serial(), first[0].issuer_serial());
    eventually("nobody who is live holds a certificate by it", PATIENCE, || {
        let output = mesh.hauberk(&["authority", "revoke", &tainted, "--wait=60s"]);
        (output.code == 0).then_some(())
    });
    let now = next(&mut svids(&socket).await).await.unwrap();
    assert_eq!(svid(&now).unwrap().serial(), svid(&renewed).unwrap().serial(), "what is good stays");
}
