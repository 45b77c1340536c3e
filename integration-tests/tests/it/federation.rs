//! Two installations of different trust domains that know each other's members, and no more than they are told to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hauberk_integration_tests::{
    Agent, AgentOptions, App, CommandOutput, MeshBox, dial, eventually, eventually_async, get,
};
use hauberk_proto::workload::X509svidResponse;
use hauberk_tls::{KeyPair, Svid};
use serde_json::Value;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, time::timeout};

use crate::{
    jwt_svids::curl_url,
    sds,
    shop::{self, PATIENCE, SMALL_SHOP, WEB_MAY_ALL},
    spiffe_clients::Foreigner,
    workload_api::{svids, uid},
    workload_tokens::{tokens, validate},
};

const HTTP1: &[&[u8]] = &[b"http/1.1"];
const PAYMENTS: &str = "spiffe://partner.test/workload/payments";

/// A control plane of partner.test that serves its bundle, and an agent that vouches for a workload of it.
struct Partner {
    mesh: MeshBox,
    _web: Agent,
    socket: PathBuf,
}

impl Partner {
    fn start(more: &[&str]) -> Self {
        let mesh = MeshBox::start_in("partner.test", &[&["--bundle-listen", "127.0.0.1:0"], more].concat());
        mesh.apply(SMALL_SHOP);
        mesh.apply(&format!(
            "kind: Enrollment\nmesh: shop\nname: payments\nspec:\n  parent: {{virtualNode: web}}\n  workload: {{path: \
             payments, selectors: [\"{}\"]}}\n",
            uid()
        ));
        let (web, socket) = with_workload_api(&mesh);
        Self { mesh, _web: web, socket }
    }

    /// The resource by which others follow it.
    fn resource(&self, profile: &str, host: &str, bundle: &str) -> String {
        let port = bundle_address(&self.mesh).rsplit(':').next().unwrap().to_owned();
        let bundle =
            if bundle.is_empty() { String::new() } else { format!("\n  trustDomainBundle: '{bundle}'") };
        format!(
            "kind: FederatedTrustDomain\nmesh: shop\nname: partner.test\nspec:\n  bundleEndpointUrl: \
             https://{host}:{port}/\n  bundleEndpointProfile: {profile}\n  allowPrivateAddresses: true{bundle}\n"
        )
    }

    fn spiffe_resource(&self) -> String {
        let id = "{type: https_spiffe, endpointSpiffeId: \"spiffe://partner.test/control-plane/0\"}";
        self.resource(id, "127.0.0.1", &export(&self.mesh))
    }

    /// The workload, by a certificate that it is given now.
    async fn payments(&self) -> Foreigner {
        let answer = given(&self.socket).await;
        let svid = Svid::from_concatenated_der(&answer.svids[0].x509_svid).unwrap();
        assert_eq!(svid.id().as_str(), PAYMENTS);
        let key = KeyPair::from_pkcs8_der(&answer.svids[0].x509_svid_key).unwrap();
        Foreigner::with(&svid, &key)
    }
}

fn with_workload_api(mesh: &MeshBox) -> (Agent, PathBuf) {
    let socket = mesh.folder().join("run").join("api.sock");
    let options =
        AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
    (mesh.agent("web", options), socket)
}

/// The first answer that has an identity.
async fn given(socket: &Path) -> X509svidResponse {
    eventually_async("an identity is given", PATIENCE, async || {
        let mut stream = svids(socket).await;
        timeout(PATIENCE, stream.message()).await.expect("in time").ok()?
    })
    .await
}

fn bundle_address(mesh: &MeshBox) -> String {
    let text = fs::read_to_string(mesh.data_dir().join("addresses.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["bundle"].as_str().unwrap().to_owned()
}

/// The bundle that a control plane tells others, once it has the keys that it signs tokens with.
fn export(mesh: &MeshBox) -> String {
    eventually("the bundle is whole", PATIENCE, || {
        let text = mesh.hauberk(&["bundle", "export"]).ok().stdout.trim().to_owned();
        text.contains("jwt-svid").then_some(text)
    })
}

fn follow(mesh: &MeshBox, resource: &str) {
    mesh.apply(resource);
    let refreshed = mesh.hauberk(&["bundle", "refresh", "partner.test"]).ok();
    assert!(refreshed.stdout.contains("partner.test"), "{}", refreshed.stdout);
    mesh.wait_enforced();
}

/// How a request ends: its status, or `refused` where the handshake does not come about.
async fn status(client: &Foreigner, orders: &Agent) -> String {
    let connected = async {
        let mut stream = client.connect(orders.inbound(8080), HTTP1).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end")?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    match connected.await {
        Ok(answer) => answer.split(' ').nth(1).unwrap_or("refused").to_owned(),
        Err(_) => "refused".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_of_another_trust_domain_does_what_a_rule_permits_and_nothing_else() {
    let partner = Partner::start(&[]);
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let payments = partner.payments().await;
    assert_eq!(status(&payments, &orders).await, "refused", "nobody is followed yet");

    follow(&mesh, &partner.spiffe_resource());
    assert_eq!(status(&payments, &orders).await, "403", "without a rule as everybody");
    assert_eq!(app.requests(), 0);

    // By the domain as a whole, and by no other domain.
    for (domain, answered) in [("other.test", "403"), ("box.test", "403"), ("partner.test", "200")] {
        let rule = format!(
            "permit(principal is Workload in TrustDomain::\"{domain}\", action in Action::\"http\", resource in Service::\"orders\");"
        );
        shop::set_policy(&mesh, "members", &rule);
        assert_eq!(status(&payments, &orders).await, answered, "members of {domain}");
    }
    shop::remove_policy(&mesh, "members");
    assert_eq!(status(&payments, &orders).await, "403");
    let seen = app.requests();

    mesh.hauberk(&["allow", PAYMENTS, "orders", "--wait"]).ok();
    assert_eq!(status(&payments, &orders).await, "200");
    assert_eq!((seen, app.requests()), (1, 2));

    // Agents have it on disk.
    let mut orders = orders;
    orders.restart(mesh.folder());
    assert_eq!(status(&payments, &orders).await, "200");

    // People see it.
    let listed = mesh.hauberk(&["get", "federatedtrustdomains"]).ok().stdout;
    assert!(listed.contains("partner.test") && listed.contains("https_spiffe"), "{listed}");
    let described = mesh.hauberk(&["describe", "ftd", "partner.test"]).ok().stdout;
    assert!(described.contains(PAYMENTS) && described.contains("Root:"), "{described}");
    let bundles = mesh.hauberk(&["bundle", "show"]).ok().stdout;
    assert!(bundles.contains("box.test") && bundles.contains("partner.test"), "{bundles}");

    // Another root of theirs is followed, and those certified by it are let in.
    partner.mesh.hauberk(&["authority", "rotate", "root", "--wait=60s"]).ok();
    mesh.hauberk(&["bundle", "refresh", "partner.test"]).ok();
    mesh.wait_enforced();
    let exported = |mesh: &MeshBox, domain: &str| {
        let text = mesh.hauberk(&["bundle", "export", domain]).ok().stdout;
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let told = exported(&partner.mesh, "partner.test");
    assert_eq!(exported(&mesh, "partner.test")["keys"], told["keys"]);
    assert_eq!(exported(&mesh, "partner.test")["spiffe_sequence"], told["spiffe_sequence"]);
    let renewed = partner.payments().await;
    assert_eq!(status(&renewed, &orders).await, "200");

    // A node of theirs is not the one of ours that a rule permits.
    let (svid, key) = dial::join(&partner.mesh, "web").await;
    assert_eq!(svid.id().as_str(), "spiffe://partner.test/mesh/shop/node/web");
    assert_eq!(status(&Foreigner::with(&svid, &key), &orders).await, "403");
    let (svid, key) = dial::join(&mesh, "web").await;
    assert_eq!(status(&Foreigner::with(&svid, &key), &orders).await, "200");

    // That they are followed no longer is told as sure before it is done.
    for (command, why) in [
        (&["delete", "federatedtrustdomain", "partner.test", "--dry-run"][..], "followed no longer"),
        (&["simulate", "--delete", "federatedtrustdomain/partner.test"], "followed no longer"),
        (&["policy", "diff", "--delete", "federatedtrustdomain/partner.test"], "no keys of its trust domain"),
    ] {
        let told = eventually("what they have called is recorded", PATIENCE, || {
            let told = mesh.hauberk(command);
            told.stdout.contains(PAYMENTS).then_some(told)
        });
        assert!(told.code == 1 && told.stdout.contains(why), "{told:?}");
    }

    // What is open is cut when they are followed no longer.
    let mut open = renewed.connect(orders.inbound(8080), HTTP1).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    timeout(PATIENCE, open.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    mesh.hauberk(&["delete", "federatedtrustdomain", "partner.test"]).ok();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, open.read_to_end(&mut rest)).await.expect("it is cut");
    assert_eq!(status(&renewed, &orders).await, "refused");
    orders.restart(mesh.folder());
    // It may begin with the view before, where the last one had not come to its disk.
    eventually_async("nobody of theirs is let in", PATIENCE, async || {
        (status(&renewed, &orders).await == "refused").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_fetched_by_the_roots_of_the_web_and_given_to_workloads() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(file("web.pem"), made.cert.pem()).unwrap();
    fs::write(file("web.key"), made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (file("web.pem"), file("web.key"));
    let mut partner = Partner::start(&["--bundle-certificate", &certificate, "--bundle-key", &key]);
    let mesh = MeshBox::start_with(&["--web-roots", &certificate]);
    mesh.apply(SMALL_SHOP);
    let web = "{type: https_web}";
    let resource = partner.resource(web, "localhost", "");
    follow(&mesh, &resource);
    let keys = |text: &str| serde_json::from_str::<Value>(text).unwrap()["keys"].clone();
    let theirs = export(&partner.mesh);
    let held = mesh.hauberk(&["bundle", "export", "partner.test"]).ok().stdout;
    assert_eq!(keys(&held), keys(&theirs));

    // As it is told, and who has not its certificate is told nothing.
    let url = format!("https://localhost:{}/", bundle_address(&partner.mesh).rsplit(':').next().unwrap());
    if let Some((head, body)) = curl_url(&url, Path::new(&certificate), &[]) {
        assert!(head.starts_with("http/1.1 200 ") || head.starts_with("http/2 200"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(told["keys"], keys(&theirs));
        assert_eq!(told["spiffe_refresh_hint"], 300);
        assert!(told["spiffe_sequence"].as_u64().unwrap() > 0, "{told}");
        let listed = told["keys"].as_array().unwrap();
        let of_use = |wanted: &str| listed.iter().filter(|key| key["use"] == wanted).collect::<Vec<_>>();
        let (roots, signing) = (of_use("x509-svid"), of_use("jwt-svid"));
        assert!(
            roots.len() == 1 && !signing.is_empty() && roots.len() + signing.len() == listed.len(),
            "{told}"
        );
        assert!(roots[0]["x5c"].as_array().unwrap().len() == 1 && roots[0].get("kid").is_none(), "{told}");
        assert!(signing.iter().all(|key| key["kid"].is_string() && key["crv"] == "P-256"), "{told}");
        assert!(listed.iter().all(|key| key.get("d").is_none()), "no private key");
        // What is taken back is told beside it; the figures of the health listener are not.
        let lists = eventually("the lists are signed", PATIENCE, || {
            let (head, body) = curl_url(&format!("{url}crl.pem"), Path::new(&certificate), &[])?;
            head.contains("\r\ncontent-type: application/x-pem-file").then_some(body)
        });
        assert!(lists.contains("-----BEGIN X509 CRL-----"), "{lists}");
        // The root's is among them: whoever verifies a chain by some of them refuses everybody.
        eventually("they are all that there are", PATIENCE, || {
            let health = partner.mesh.health_address().parse().unwrap();
            let all = get(health, "crl", "/crl.pem").unwrap().body;
            let (_, here) = curl_url(&format!("{url}crl.pem"), Path::new(&certificate), &[])?;
            (here == all && all.matches("BEGIN X509 CRL").count() > 1).then_some(())
        });
        for (method, path, wanted) in
            [("GET", "/metrics", " 404"), ("GET", "/other", " 404"), ("POST", "/", " 405")]
        {
            let url = format!("{url}{}", path.trim_start_matches('/'));
            let (head, _) = curl_url(&url, Path::new(&certificate), &["--request", method]).unwrap();
            assert!(head.lines().next().unwrap().contains(wanted), "{method} {path}: {head}");
        }
    }

    mesh.apply(&format!(
        "kind: Enrollment\nmesh: shop\nname: worker\nspec:\n  parent: {{virtualNode: web}}\n  workload: {{path: worker, \
         selectors: [\"{}\"], federatesWith: [partner.test]}}\n",
        uid()
    ));
    let (_web, socket) = with_workload_api(&mesh);
    let answer = eventually_async("their bundle is given too", PATIENCE, async || {
        let answer = given(&socket).await;
        (!answer.federated_bundles.is_empty()).then_some(answer)
    })
    .await;
    let root = dial::bundle(&partner.mesh).roots()[0].der().to_vec();
    assert_eq!(answer.federated_bundles, [("spiffe://partner.test".to_owned(), root)].into());
    assert_eq!(sds::roots(&socket, "spiffe://partner.test").await, dial::bundle(&partner.mesh).to_pem());
    let nobody = sds::roots(&partner.socket, "spiffe://box.test").await;
    assert!(
        nobody.contains("BEGIN CERTIFICATE") && nobody != mesh.bundle_pem(),
        "they follow nobody: {nobody}"
    );
    let token = eventually_async("a token of theirs", PATIENCE, async || {
        tokens(&partner.socket, &["db"], PAYMENTS).await.ok()?.pop()
    });
    let token = token.await.svid;
    assert_eq!(validate(&socket, "db", &token).await.unwrap().spiffe_id, PAYMENTS);
    let ours = tokens(&socket, &["db"], "").await.unwrap().remove(0).svid;
    let unknown = validate(&partner.socket, "db", &ours).await.unwrap_err();
    assert!(unknown.message().contains("trust domain box.test"), "they follow nobody: {unknown}");
    let refused = mesh.hauberk(&["delete", "federatedtrustdomain", "partner.test"]);
    assert!(refused.code != 0 && refused.stderr.contains("enrollment \"worker\""), "{refused:?}");

    // The name is for this certificate alone, and inner addresses take a word of the admin's.
    let fails = |resource: &str, wanted: &str| {
        mesh.apply(resource);
        let refused = mesh.hauberk(&["bundle", "refresh", "partner.test"]);
        assert!(refused.code != 0 && refused.stderr.contains(wanted), "{wanted}: {refused:?}");
    };
    fails(&partner.resource(web, "127.0.0.1", &theirs), "who answers is not believed");
    let inner = resource.replace("  allowPrivateAddresses: true\n", "");
    fails(&inner, "allowPrivateAddresses");

    // While nobody answers the last good bundle stays, and the check is loud.
    follow(&mesh, &resource);
    let checked = |mesh: &MeshBox| -> CommandOutput { mesh.hauberk(&["check"]) };
    let said = checked(&mesh);
    assert!(!said.stdout.contains("partner.test"), "{said:?}");
    partner.mesh.kill_control_plane();
    assert_ne!(mesh.hauberk(&["bundle", "refresh", "partner.test"]).code, 0);
    let said = checked(&mesh);
    let text = format!("{}{}", said.stdout, said.stderr);
    assert!(text.contains("cannot be fetched since") && text.contains("hauberk bundle refresh"), "{text}");
    let still = mesh.hauberk(&["bundle", "export", "partner.test"]).ok().stdout;
    assert_eq!(keys(&still), keys(&theirs));
    assert!(!given(&socket).await.federated_bundles.is_empty());
}
