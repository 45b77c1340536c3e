//! Keys that sign JWT-SVIDs are replaced and taken back by hand, and whoever verifies tokens is told.

use std::path::{Path, PathBuf};

use hauberk_identity::TrustDomain;
use hauberk_integration_tests::{
    Agent, AgentOptions, App, MeshBox, eventually, eventually_async, free_port, request,
};
use hauberk_proto::workload::{JwtBundlesRequest, JwtBundlesResponse};
use hauberk_tls::jwt::{JwtBundle, unverified_key_id};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::{
    authorities::listed,
    jwt_svids::{ISSUER, curl_url, keys, self_signed},
    shop::{self, PATIENCE, SMALL_SHOP, WEB_MAY_ALL},
    workload_api::{client, enrollment, marked, uid},
    workload_tokens::{tokens, validate},
};

/// A shop in which programs beside web get tokens, and orders takes them for users'.
pub(crate) struct Issuing {
    pub(crate) mesh: MeshBox,
    pub(crate) web: Agent,
    _orders: Agent,
    _app: App,
    socket: PathBuf,
    /// Where the keys are served, and by what the server is known.
    keys_url: String,
    certificate: PathBuf,
}

impl Issuing {
    pub(crate) fn start(folder: &Path) -> Self {
        let (certificate, key) = self_signed(folder, "oidc");
        let [shown, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
        let address = free_port();
        let keys_url = format!("https://localhost:{}/mesh/keys", address.port());
        let listen = address.to_string();
        let oidc = ["--oidc-listen", &listen, "--oidc-issuer", ISSUER, "--oidc-certificate", shown];
        let mesh = MeshBox::start_with(&[&oidc[..], &["--oidc-key", key, "--web-roots", shown]].concat());
        mesh.apply(SMALL_SHOP);
        mesh.apply(&format!(
            "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - portMapping: {{port: 8080, protocol: http}}\n    \
             users: {{mode: REQUIRED}}\n---\nkind: JwtIssuer\nmesh: shop\nname: own\nspec:\n  issuer: {ISSUER}\n  audiences: [orders]\n  \
             jwksUrl: https://127.0.0.1:65535/keys\n  allowPrivateAddresses: true\n"
        ));
        shop::set_policy(&mesh, "all", WEB_MAY_ALL);
        mesh.apply(&enrollment("worker", "web", &uid(), ""));
        let socket = mesh.folder().join("run").join("api.sock");
        let app = App::start("orders");
        let orders = shop::orders(&mesh, app.address());
        let web = serving(&mesh, "web", &socket);
        Self { mesh, web, _orders: orders, _app: app, socket, keys_url, certificate }
    }

    /// A token for orders, and the key that it names.
    pub(crate) async fn token(&self) -> (String, String) {
        let token = token(&self.socket).await;
        let key_id = unverified_key_id(&token).unwrap();
        (token, key_id)
    }

    /// The ids of the keys in a state.
    fn keys(&self, state: &str) -> Vec<String> {
        let found = listed(&self.mesh);
        let found = found.iter().filter(|one| one["kind"] == "jwt_key" && one["state"] == state);
        found.map(|one| one["serial"].as_str().unwrap().to_owned()).collect()
    }

    /// The one key that signs.
    fn signs(&self) -> String {
        let [key] = &self.keys("active")[..] else { panic!("{:?}", listed(&self.mesh)) };
        key.clone()
    }

    async fn bundles(&self) -> Streaming<JwtBundlesResponse> {
        client(&self.socket).await.fetch_jwt_bundles(marked(JwtBundlesRequest {})).await.unwrap().into_inner()
    }

    /// Waits until orders answers a request for this token's user so.
    fn calls(&self, token: &str, status: u16) {
        shop::eventually_status(&self.web, "orders", &asking(token), status);
    }

    /// How it answers now.
    fn answers(&self, token: &str) -> u16 {
        request(self.web.outbound(), &asking(token)).unwrap().status
    }
}

/// An agent that serves the Workload API.
pub(crate) fn serving(mesh: &MeshBox, node: &str, socket: &Path) -> Agent {
    let options =
        AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
    mesh.agent(node, options)
}

/// A token for orders.
pub(crate) async fn token(socket: &Path) -> String {
    eventually_async("a token is given", PATIENCE, async || {
        tokens(socket, &["orders"], "").await.ok()?.pop().map(|token| token.svid)
    })
    .await
}

pub(crate) fn asking(token: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
}

fn bundle(jwks: &[u8]) -> JwtBundle {
    JwtBundle::from_jwks(TrustDomain::parse("box.test").unwrap(), jwks).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_revoked_key_has_signed_is_refused_everywhere_and_a_new_token_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let mut issuing = Issuing::start(folder.path());
    let (old, first) = issuing.token().await;
    assert_eq!(first, issuing.signs());
    validate(&issuing.socket, "orders", &old).await.unwrap();
    issuing.calls(&old, 200);
    let refused = issuing.mesh.hauberk(&["authority", "revoke", &first, "--now"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("hauberk authority rotate jwt-key"), "{}", refused.stderr);

    // Another signs once everybody knows it. What the first has signed is good, and kept.
    issuing.mesh.hauberk(&["authority", "rotate", "jwt-key", "--wait=60s"]).ok();
    let second = issuing.signs();
    assert_ne!(second, first);
    assert_eq!(issuing.keys("retiring"), [&*first]);
    assert_eq!(issuing.token().await.0, old);
    validate(&issuing.socket, "orders", &old).await.unwrap();
    let refused = issuing.mesh.hauberk(&["authority", "revoke", &first]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("hauberk authority taint"), "{}", refused.stderr);

    // Once it is tainted agents hand out others.
    issuing.mesh.hauberk(&["authority", "taint", &first, "--wait=60s"]).ok();
    let (new, by) = issuing.token().await;
    assert_eq!(by, second);
    for token in [&old, &new] {
        validate(&issuing.socket, "orders", token).await.unwrap();
        issuing.calls(token, 200);
    }

    let mut told = issuing.bundles().await;
    let mut next = async || {
        let answer = timeout(PATIENCE, told.message()).await.expect("in time").unwrap().unwrap();
        bundle(&answer.bundles["spiffe://box.test"])
    };
    assert!(next().await.key(&first).is_some());
    let done = issuing.mesh.hauberk(&["authority", "revoke", &first, "--wait=60s"]).ok();
    assert!(done.stderr.contains("2 instances trust and hold what they should"), "{}", done.stderr);
    assert_eq!(
        [issuing.answers(&old), issuing.answers(&new)],
        [403, 200],
        "the issuer that is ourselves is waited for"
    );
    let refused = validate(&issuing.socket, "orders", &old).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("not in the bundle"), "{refused}");
    validate(&issuing.socket, "orders", &new).await.unwrap();
    let now = next().await;
    assert!(now.key(&first).is_none() && now.key(&second).is_some(), "programs that wait are told");
    let exported = issuing.mesh.hauberk(&["bundle", "export"]).ok().stdout;
    eventually("others who ask are told", PATIENCE, || {
        let exported = issuing.mesh.hauberk(&["bundle", "export"]).ok().stdout;
        (!exported.contains(&first) && exported.contains(&second)).then_some(())
    });
    assert!(exported.contains(&second));
    if let Some((_, jwks)) = curl_url(&issuing.keys_url, &issuing.certificate, &[]) {
        let published = keys(&jwks);
        assert!(published.key(&first).is_none() && published.key(&second).is_some());
    }

    // And after a restart of everybody, whatever was on disks.
    issuing.mesh.restart_control_plane();
    issuing.web.restart(issuing.mesh.folder());
    assert_eq!(issuing.signs(), second);
    assert_eq!(validate(&issuing.socket, "orders", &old).await.unwrap_err().code(), Code::InvalidArgument);
    validate(&issuing.socket, "orders", &new).await.unwrap();
    let audited = issuing.mesh.hauberk(&["audit", "list", "-o", "json"]).ok().stdout;
    for step in ["prepare", "rotate", "activate", "taint", "revoke"] {
        assert!(audited.contains(&format!("jwt-key.{step}")), "{step}: {audited}");
    }
}
