//! JWT-SVIDs from minting to those who accept them: with curl, with our own verifier, and with PyJWT.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_integration_tests::{MeshBox, dial, skip};
use hauberk_proto::agent::v1::{MintTokenRequest, MintTokenResponse, svid_tokens_client::SvidTokensClient};
use hauberk_tls::{
    Connector,
    jwt::{JwtBundle, verify_jwt_svid},
};
use rustls::pki_types::UnixTime;
use serde_json::Value;
use tonic::{Code, Status};

use crate::shop::SMALL_SHOP;

pub(crate) const ISSUER: &str = "https://oidc.box.test/mesh";

fn mesh(more: &[&str]) -> MeshBox {
    let arguments = ["--oidc-listen", "127.0.0.1:0", "--oidc-issuer", ISSUER];
    let mesh = MeshBox::start_with(&[&arguments[..], more].concat());
    mesh.apply(SMALL_SHOP);
    mesh
}

async fn mint(mesh: &MeshBox, connector: Connector, audience: &[&str]) -> Result<MintTokenResponse, Status> {
    let channel = dial::channel(mesh.agent_address(), connector);
    let audience = audience.iter().map(|&one| one.to_owned()).collect();
    let minted = SvidTokensClient::new(channel).mint_token(MintTokenRequest { audience }).await;
    minted.map(tonic::Response::into_inner)
}

async fn agent(mesh: &MeshBox) -> Connector {
    let (svid, key) = dial::join(mesh, "orders").await;
    dial::bearer(mesh, svid, &key)
}

fn oidc_address(mesh: &MeshBox) -> String {
    let text = fs::read_to_string(mesh.data_dir().join("addresses.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["oidc"].as_str().unwrap().to_owned()
}

/// Head and body of what curl gets of the issuer, trusting this certificate.
pub(crate) fn curl(mesh: &MeshBox, trusted: &Path, path: &str, more: &[&str]) -> Option<(String, String)> {
    curl_url(&format!("https://{}{path}", oidc_address(mesh)), trusted, more)
}

/// Head, in lower case, and body of what curl gets over HTTPS.
pub(crate) fn curl_url(url: &str, trusted: &Path, more: &[&str]) -> Option<(String, String)> {
    let trusted = trusted.to_str().unwrap();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--include", "--noproxy", "*"])
        .args(["--cacert", trusted])
        .args(more)
        .arg(url)
        .output();
    let Ok(output) = output else {
        skip("curl is not installed");
        return None;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    Some((head.to_lowercase(), body.to_owned()))
}

pub(crate) fn now() -> UnixMillis {
    UnixMillis::from_secs(UnixTime::now().as_secs())
}

pub(crate) fn keys(jwks: &str) -> JwtBundle {
    JwtBundle::from_jwks(TrustDomain::parse("box.test").unwrap(), jwks.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fetches_the_keys_verifies_a_token() {
    let mut mesh = mesh(&[]);
    let minted = mint(&mesh, agent(&mesh).await, &["db", "cache"]).await.unwrap();
    assert_eq!(minted.spiffe_id, "spiffe://box.test/mesh/shop/node/orders");
    assert_eq!(minted.expires_at_unix_ms / 1_000 - minted.issued_at_unix_ms / 1_000, 300);

    let root = mesh.bundle_file();
    let Some((head, body)) = curl(&mesh, &root, "/mesh/.well-known/openid-configuration", &[]) else {
        return;
    };
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/json"), "{head}");
    let configuration: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(configuration["issuer"], ISSUER);
    assert_eq!(configuration["jwks_uri"], format!("{ISSUER}/keys"));
    let (head, jwks) = curl(&mesh, &root, "/mesh/keys", &[]).unwrap();
    assert!(head.contains("cache-control: public, max-age=300"), "{head}");
    let listed: Value = serde_json::from_str(&jwks).unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    for (name, value) in [("kty", "EC"), ("crv", "P-256"), ("alg", "ES256"), ("use", "sig")] {
        assert_eq!(listed["keys"][0][name], value, "{jwks}");
    }
    assert!(listed["keys"][0].get("d").is_none(), "{jwks}");

    for audience in ["db", "cache"] {
        let svid = verify_jwt_svid(&minted.token, audience, &keys(&jwks), now()).unwrap();
        assert_eq!(svid.id().as_str(), minted.spiffe_id);
        assert_eq!(svid.claims()["iss"], ISSUER);
    }
    assert!(verify_jwt_svid(&minted.token, "web", &keys(&jwks), now()).is_err());

    // The key is the same after a restart, however it ended.
    mesh.restart_control_plane();
    let (_, again) = curl(&mesh, &root, "/mesh/keys", &[]).unwrap();
    assert_eq!(again, jwks);
    let log = mesh.control_plane().log();
    assert!(!log.contains(&minted.token), "a token stands in the log");

    for (path, more, status) in [
        ("/keys", &[][..], "404"),
        ("/mesh/keys/", &[], "404"),
        ("/metrics", &[], "404"),
        ("/mesh/keys", &["--request", "POST"], "405"),
        ("/mesh/keys", &["--head"], "200"),
    ] {
        let (head, _) = curl(&mesh, &root, path, more).unwrap();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path} {more:?}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_for_agents_and_for_somebody() {
    let mesh = mesh(&[]);
    let code = |minted: Result<MintTokenResponse, Status>| minted.unwrap_err().code();
    assert_eq!(code(mint(&mesh, dial::stranger(&mesh), &["db"]).await), Code::Unauthenticated);
    assert_eq!(code(mint(&mesh, dial::admin(&mesh), &["db"]).await), Code::PermissionDenied);
    let agent = agent(&mesh).await;
    assert_eq!(code(mint(&mesh, agent.clone(), &[]).await), Code::InvalidArgument);
    assert_eq!(code(mint(&mesh, agent.clone(), &["db", ""]).await), Code::InvalidArgument);
    mint(&mesh, agent, &["db"]).await.unwrap();
    let audit = mesh.hauberk(&["audit", "list"]).ok().stdout;
    assert!(audit.contains("jwt-svid.mint") && audit.contains("jwt-key.prepare"), "{audit}");
}

/// Files with a certificate that vouches for itself, good for ever, and its key.
pub(crate) fn self_signed(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1", "localhost"].map(str::to_owned)).unwrap();
    let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    fs::write(&chain, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (chain, key)
}

#[test]
fn an_operators_certificate_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = self_signed(folder.path(), "one");
    let (_, other_key) = self_signed(folder.path(), "two");
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let mut mesh = mesh(&["--oidc-certificate", &text(&chain), "--oidc-key", &text(&key)]);
    let Some((head, _)) = curl(&mesh, &chain, "/mesh/keys", &[]) else { return };
    assert!(head.starts_with("http/1.1 200"), "{head}");

    mesh.kill_control_plane();
    let arguments = ["--oidc-listen", "127.0.0.1:0", "--oidc-issuer", ISSUER];
    let files = ["--oidc-certificate", &text(&chain), "--oidc-key", &text(&other_key)];
    let refused = mesh.refused_start(&[&arguments[..], &files[..]].concat());
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("does not belong to the first certificate"), "{}", refused.stderr);
}

const STRANGER: &str = r#"
import json, ssl, sys, urllib.request, jwt
base, trusted, token, issuer = sys.argv[1:]
context = ssl.create_default_context(cafile=trusted)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
configuration = json.load(opener.open(base + "/.well-known/openid-configuration", timeout=10))
keys = jwt.PyJWKSet.from_dict(json.load(opener.open(base + "/keys", timeout=10)))
key = keys[jwt.get_unverified_header(token)["kid"]]
algorithms = configuration["id_token_signing_alg_values_supported"]
claims = jwt.decode(token, key, algorithms=algorithms, audience="db", issuer=configuration["issuer"],
                    options={"require": ["exp", "iat", "sub", "aud", "jti", "iss"]})
assert jwt.get_unverified_header(token)["typ"] == "JWT"
assert claims["iss"] == issuer, claims
for wrong in [{"audience": "web"}, {"audience": "db", "issuer": "https://other.test"}]:
    try:
        jwt.decode(token, key, algorithms=algorithms, **wrong)
        sys.exit("it was accepted: %s" % wrong)
    except jwt.InvalidTokenError:
        pass
print(claims["sub"])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_verifies_a_token() {
    let Some(python) = std::env::var_os("HAUBERK_TEST_PYTHON") else {
        skip("HAUBERK_TEST_PYTHON names no Python that has pyjwt and cryptography");
        return;
    };
    let mesh = mesh(&[]);
    let minted = mint(&mesh, agent(&mesh).await, &["db"]).await.unwrap();
    let base = format!("https://{}/mesh", oidc_address(&mesh));
    let root = mesh.bundle_file();
    let output = Command::new(python)
        .args(["-c", STRANGER, &base, root.to_str().unwrap(), &minted.token, ISSUER])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.trim(), minted.spiffe_id);
}
