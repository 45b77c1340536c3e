//! Authorities under an operator's own root, made with OpenSSL, and under another Hauberk's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hauberk_identity::UnixMillis;
use hauberk_integration_tests::{Agent, AgentOptions, CommandOutput, MeshBox, binary, eventually, skip};
use hauberk_tls::{Svid, TrustBundle, Usage, verify_svid};
use serde_json::Value;

use crate::{
    authorities::{Trading, authorities, identity},
    shop::{self, PATIENCE, get_until},
    workload_api,
};

/// A certificate authority as people make them with OpenSSL.
pub(crate) struct Operator(PathBuf);

impl Operator {
    /// In a folder of its own, with a root; nothing where there is no OpenSSL.
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            skip("openssl is not installed");
            return None;
        }
        let folder = folder.join("operator");
        fs::create_dir(&folder).unwrap();
        let operator = Self(folder);
        operator.root("root", "ec -pkeyopt ec_paramgen_curve:P-384");
        Some(operator)
    }

    fn root(&self, name: &str, key: &str) {
        self.ok(&format!(
            "openssl req -x509 -newkey {key} -nodes -keyout {name}.key -out {name}.pem -days 3650 \
             -subj '/O=Corporate/CN=Corporate {name}' -addext basicConstraints=critical,CA:TRUE \
             -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
    }

    /// An authority between the root and what it signs.
    fn intermediate(&self, name: &str) {
        let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
                          subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n";
        fs::write(self.path("ca.ext"), extensions).unwrap();
        self.ok(&format!(
            "openssl req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj '/CN=Corporate {name}'"
        ));
        self.ok(&format!(
            "openssl x509 -req -in {name}.csr -CA root.pem -CAkey root.key -days 365 -extfile ca.ext -out {name}.pem"
        ));
    }

    /// Signs request.pem as `signer`, into `out`.
    pub(crate) fn sign(&self, signer: &str, more: &str, out: &str) {
        self.ok(&format!(
            "openssl x509 -req -in request.pem -CA {signer}.pem -CAkey {signer}.key {more} -out {out}"
        ));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn run(&self, command: &str) -> (bool, String) {
        let output = Command::new("sh").args(["-c", command]).current_dir(&self.0).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn ok(&self, command: &str) -> String {
        let (succeeded, said) = self.run(command);
        assert!(succeeded, "{command}: {said}");
        said
    }

    /// Asks the control plane for its request; what is said beside it.
    pub(crate) fn request(&self, mesh: &MeshBox) -> String {
        let out = self.path("request.pem");
        mesh.hauberk(&["authority", "csr", "--out", out.to_str().unwrap()]).ok().stderr
    }

    /// Installs files, and gives the serial number of what is to be activated.
    pub(crate) fn install(&self, mesh: &MeshBox, files: &[&str]) -> String {
        let paths: Vec<PathBuf> = files.iter().map(|name| self.path(name)).collect();
        let paths = paths.iter().map(|path| path.to_str().unwrap());
        let arguments: Vec<&str> = ["authority", "install"].into_iter().chain(paths).collect();
        let said = mesh.hauberk(&arguments).ok().stdout;
        let serial = said.strip_prefix("authority/").and_then(|rest| rest.split(' ').next());
        serial.unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// The admin's own certificate, which is by the authority that signs now, as stock OpenSSL judges it by the root.
    pub(crate) fn verifies_what_is_issued(&self, mesh: &MeshBox) {
        mesh.hauberk(&["get", "meshes"]).ok();
        let exported = self.path("exported");
        mesh.hauberk(&["context", "export", "--dir", exported.to_str().unwrap()]).ok();
        for purpose in ["sslclient", "sslserver"] {
            self.ok(&format!(
                "openssl verify -x509_strict -purpose {purpose} -CAfile root.pem -untrusted exported/cert.pem \
                 exported/cert.pem"
            ));
        }
    }
}

fn said_by(output: &CommandOutput) -> String {
    format!("{}{}", output.stdout, output.stderr)
}

#[test]
fn certificates_move_under_an_operators_root_and_are_replaced_there_without_one_failed_call() {
    let trading = Trading::start();
    let mesh = &trading.mesh;
    let Some(operator) = Operator::open(mesh.folder()) else { return };
    let own = mesh.root_fingerprint();
    let before = trading.agents().map(identity);

    // The command that is printed is the one that works.
    let advice = operator.request(mesh);
    let command = advice.lines().find(|line| line.trim().starts_with("openssl x509")).unwrap();
    operator.ok(command.trim());
    assert_eq!(operator.request(mesh), advice, "asked again, the same");
    let root = operator.install(mesh, &["issuing.pem", "root.pem"]);
    trading.load.wait_for(50);
    trading.authority(&["activate", &root, "--wait=60s"]);
    let between = trading.renewed(&before);
    assert_ne!(mesh.root_fingerprint(), own);
    operator.verifies_what_is_issued(mesh);
    trading.load.wait_for(100);
    let listed = mesh.hauberk(&["authority", "list"]).ok().stdout;
    assert!(listed.contains("upstream root"), "{listed}");

    // The next issuing authority, by an intermediate of the operator's; the root is known by now.
    let refused = mesh.hauberk(&["authority", "rotate", "issuing"]);
    assert!(
        refused.code != 0 && said_by(&refused).contains("hauberk authority csr"),
        "{}",
        said_by(&refused)
    );
    operator.request(mesh);
    operator.intermediate("between");
    operator.sign("between", "-days 60 -copy_extensions copy", "next.pem");
    let next = operator.install(mesh, &["next.pem", "between.pem"]);
    trading.authority(&["activate", &next, "--wait=60s"]);
    trading.renewed(&between);
    operator.verifies_what_is_issued(mesh);
    let chain = fs::read_to_string(operator.path("exported/cert.pem")).unwrap();
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 3, "the intermediate goes along");
    trading.load.wait_for(100);

    // Our former root goes, and nobody notices.
    let former = trading.serial("root", "retiring");
    trading.authority(&["taint", &former, "--wait=60s"]);
    trading.authority(&["revoke", &former, "--wait=60s"]);
    trading.load.wait_for(100);
    trading.load.finish();
    get_until(&trading.web, "orders", "/after", 200);
}

#[test]
fn whoever_begins_under_a_root_that_names_no_trust_domain_is_told_which_is_meant() {
    let mesh = shop::open();
    let Some(operator) = Operator::open(mesh.folder()) else { return };
    operator.request(&mesh);
    operator.sign("root", "-days 90 -copy_extensions copy", "issuing.pem");
    let root = operator.install(&mesh, &["issuing.pem", "root.pem"]);
    mesh.hauberk(&["authority", "activate", &root, "--wait=60s"]).ok();

    let token = mesh.hauberk_json(&["token", "create", "--node", "web", "-o", "json"]);
    assert!(token["command"].as_str().unwrap().contains(" --trust-domain box.test"), "{token}");
    let bundle_file = Some(operator.path("root.pem"));
    let options = AgentOptions { bundle_file, ..AgentOptions::default() };
    let mut unsaid = Agent::spawn(&mesh, "web", &mut options.clone());
    assert!(!unsaid.process.wait(Duration::from_secs(30)).success());
    assert!(unsaid.process.log().contains("--trust-domain"), "{}", unsaid.process.log());
    let mut elsewhere = options.clone().argument("--trust-domain").argument("other.test");
    let mut elsewhere = Agent::spawn(&mesh, "web", &mut elsewhere);
    assert!(!elsewhere.process.wait(Duration::from_secs(30)).success());
    let _web = mesh.agent("web", options.argument("--trust-domain").argument("box.test"));

    // An admin who logs in anew.
    let pin = mesh.root_fingerprint();
    let made = mesh.hauberk(&["admin", "create", "carol", "--role", "viewer"]).ok();
    assert!(made.stderr.contains("--trust-domain box.test"), "{}", made.stderr);
    let login = ["login", "--server", mesh.admin_address(), "--root-fingerprint", &pin, "--name", "carol"];
    let unsaid = mesh.hauberk_with_input(&login, &made.stdout);
    assert!(unsaid.code != 0 && said_by(&unsaid).contains("--trust-domain"), "{}", said_by(&unsaid));
    let told = [&login[..], &["--trust-domain", "box.test"]].concat();
    mesh.hauberk_with_input(&told, &made.stdout).ok();
    mesh.hauberk(&["get", "meshes", "--context", "carol"]).ok();
}

#[test]
fn what_was_signed_wrongly_is_refused_by_name() {
    let mesh = MeshBox::start();
    let Some(operator) = Operator::open(mesh.folder()) else { return };
    operator.request(&mesh);
    operator.root("stranger", "rsa:2048");
    let extensions = |name: &str, constraints: &str, usage: &str, uri: &str| {
        let text = format!(
            "basicConstraints=critical,{constraints}\nkeyUsage=critical,{usage}\nsubjectAltName=URI:{uri}\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n"
        );
        fs::write(operator.path(name), text).unwrap();
    };
    let (signs, own) = ("keyCertSign,cRLSign", "spiffe://box.test");
    extensions("leaf", "CA:FALSE", "digitalSignature", own);
    extensions("deep", "CA:TRUE,pathlen:3", signs, own);
    extensions("other", "CA:TRUE,pathlen:0", signs, "spiffe://other.test");
    extensions("good", "CA:TRUE,pathlen:0", signs, own);
    for (name, more, files, said) in [
        ("leaf", "-extfile leaf", &["x.pem", "root.pem"][..], "basicConstraints is absent, or CA:FALSE"),
        ("deep", "-extfile deep", &["x.pem", "root.pem"], "pathlen:3; what is needed is CA:TRUE, pathlen:0"),
        ("other", "-extfile other", &["x.pem", "root.pem"], "what is needed is URI:spiffe://box.test"),
        ("bare", "", &["x.pem", "root.pem"], "certificate 1 of those that were given is refused"),
        ("long", "-extfile good -days 9999", &["x.pem", "root.pem"], "validity is until"),
        ("foreign root", "-extfile good", &["x.pem", "stranger.pem"], "Corporate root"),
        ("no root", "-extfile good", &["x.pem"], "Corporate root"),
        ("weak", "-extfile good -sha1", &["x.pem", "root.pem"], "would be refused"),
    ] {
        operator.sign("root", more, "x.pem");
        let paths: Vec<PathBuf> = files.iter().map(|file| operator.path(file)).collect();
        let paths = paths.iter().map(|path| path.to_str().unwrap());
        let arguments: Vec<&str> = ["authority", "install"].into_iter().chain(paths).collect();
        let refused = mesh.hauberk(&arguments);
        assert!(refused.code != 0, "{name} was taken: {}", refused.stdout);
        assert!(said_by(&refused).contains(said), "{name}: {}", said_by(&refused));
    }
    // Signed for a request that is no longer the one.
    operator.sign("root", "-extfile good", "x.pem");
    let anew = ["authority", "csr", "--new", "--out", operator.path("request.pem").to_str().unwrap()]
        .map(str::to_owned);
    mesh.hauberk(&anew.each_ref().map(String::as_str)).ok();
    let (x, root) = (operator.path("x.pem"), operator.path("root.pem"));
    let refused = mesh.hauberk(&["authority", "install", x.to_str().unwrap(), root.to_str().unwrap()]);
    assert!(said_by(&refused).contains("none of the certificates is for the key"), "{}", said_by(&refused));
    assert_eq!(authorities(&mesh).len(), 2, "nothing came of it");
    let audit = mesh.hauberk(&["audit", "list", "--action", "authority.install", "--refused", "-o", "json"]);
    assert!(audit.ok().stdout.contains("none of the certificates"));
    operator.sign("root", "-extfile good", "x.pem");
    operator.install(&mesh, &["x.pem", "root.pem"]);
}

const CLIENT: &str = r#"
import sys
from spiffe import TrustDomain, WorkloadApiClient
with WorkloadApiClient(socket_path="unix://" + sys.argv[1]) as client:
    context = client.fetch_x509_context()
    print(context.default_svid.spiffe_id, len(context.default_svid.cert_chain))
    bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(TrustDomain("box.test"))
    print(len(bundle.x509_authorities))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_others_have_written_accept_an_intermediate_and_a_root_without_a_name() {
    let (mesh, _web, socket) = workload_api::shop();
    let Some(operator) = Operator::open(mesh.folder()) else { return };
    operator.intermediate("between");
    operator.request(&mesh);
    operator.sign("between", "-days 60 -copy_extensions copy", "issuing.pem");
    let serial = operator.install(&mesh, &["issuing.pem", "between.pem", "root.pem"]);
    mesh.hauberk(&["authority", "activate", &serial, "--wait=60s"]).ok();
    let own = authorities(&mesh).into_iter().find(|one| one["kind"] == "root" && one["state"] == "retiring");
    let own = own.unwrap()["serial"].as_str().unwrap().to_owned();
    mesh.hauberk(&["authority", "revoke", &own, "--wait=60s"]).ok();
    mesh.apply(&workload_api::enrollment("worker", "web", &workload_api::uid(), ""));
    workload_api::begun(&socket).await;

    let endpoint = format!("unix://{}", socket.display());
    let source = spiffe::X509Source::builder().endpoint(&endpoint).build().await.unwrap();
    assert_eq!(source.svid().unwrap().cert_chain().len(), 3);
    let worker = ["spiffe://box.test/workload/test/worker"];
    let client = spiffe_rustls::mtls_client(source.clone());
    let client = client.authorize(spiffe_rustls::authorizer::exact(worker).unwrap()).build().unwrap();
    let server = spiffe_rustls::mtls_server(source);
    let server = server.authorize(spiffe_rustls::authorizer::exact(worker).unwrap()).build().unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let (connected, accepted) = tokio::join!(
        tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, near),
        tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(far),
    );
    assert!(connected.is_ok() && accepted.is_ok(), "{connected:?} {accepted:?}");

    let Some(python) = std::env::var_os("HAUBERK_TEST_PYTHON") else {
        return skip("HAUBERK_TEST_PYTHON names no Python that has spiffe");
    };
    let output = Command::new(python).args(["-c", CLIENT, socket.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, format!("{} 3\n1\n", worker[0]), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The fingerprint of the one root in a state.
fn root(mesh: &MeshBox, state: &str) -> Option<String> {
    let found: Vec<Value> =
        authorities(mesh).into_iter().filter(|one| one["kind"] == "root" && one["state"] == state).collect();
    match found.as_slice() {
        [one] => Some(one["fingerprint"].as_str().unwrap().to_owned()),
        _ => None,
    }
}

#[test]
fn an_authority_in_files_signs_from_the_start() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(operator) = Operator::open(scratch.path()) else { return };
    operator.intermediate("between");
    let chain = [operator.path("between.pem"), operator.path("root.pem")]
        .map(|path| fs::read_to_string(path).unwrap());
    fs::write(operator.path("chain.pem"), chain.concat()).unwrap();
    operator.ok("chmod 600 between.key");
    let (certificate, key) = (operator.path("chain.pem"), operator.path("between.key"));
    let mesh = shop::open_with(&[
        "--upstream-certificate",
        certificate.to_str().unwrap(),
        "--upstream-key",
        key.to_str().unwrap(),
    ]);
    eventually("certificates stand under the operator's root", PATIENCE, || {
        authorities(&mesh).iter().any(|one| one["upstream"] == true && one["state"] == "active").then_some(())
    });
    operator.verifies_what_is_issued(&mesh);
    let web = shop::caller(&mesh, "web");
    mesh.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    operator.verifies_what_is_issued(&mesh);
    drop(web);
    let twice = mesh.refused_start(&[
        "--upstream-context",
        "x",
        "--upstream-certificate",
        "y",
        "--upstream-key",
        "z",
    ]);
    assert!(twice.stderr.contains("choose one of them"), "{}", twice.stderr);
}

/// What the current context of one control plane proves, verified by the roots that another trusts.
fn is_accepted_by(issued_by: &MeshBox, verifier: &MeshBox) -> bool {
    let chain = Svid::from_pem(&issued_by.context("certificate_pem")).unwrap();
    let bundle = TrustBundle::from_self_describing_pem(&verifier.bundle_pem(), None).unwrap();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = UnixMillis::from_secs(since_epoch.as_secs());
    verify_svid(chain.chain(), &bundle, now, Usage::Client).is_ok()
}

#[test]
fn another_hauberk_signs_by_hand_through_the_command_line() {
    let (parent, child) = (shop::open(), MeshBox::start());
    assert!(!is_accepted_by(&child, &parent), "strangers to each other, though of one name");
    let request = child.hauberk(&["authority", "csr"]).ok().stdout;
    let signed = parent.hauberk_with_input(&["authority", "sign"], &request).ok().stdout;
    let installed = child.hauberk_with_input(&["authority", "install", "-"], &signed).ok().stdout;
    let serial = installed.strip_prefix("authority/").unwrap().split(' ').next().unwrap();
    child.hauberk(&["authority", "activate", serial, "--wait=60s"]).ok();
    child.hauberk(&["get", "meshes"]).ok();
    assert!(is_accepted_by(&child, &parent) && is_accepted_by(&parent, &child));
    assert_eq!(root(&child, "active"), root(&parent, "active"));
    let delegated = authorities(&parent).into_iter().find(|one| one["state"] == "delegated").unwrap();
    assert!(delegated["delegate"].as_str().unwrap().ends_with("/admin/admin"), "{delegated}");

    // It takes its parent's next root by hand too, before the parent stands under it.
    parent.hauberk(&["authority", "prepare", "root", "--wait=60s"]).ok();
    let roots = parent.hauberk(&["bundle", "export", "--format", "pem"]).ok().stdout;
    let taken = child.hauberk_with_input(&["authority", "install", "-"], &roots).ok();
    assert!(taken.stderr.contains("nothing stands under it yet"), "{}", taken.stderr);
    let next = root(&parent, "prepared").unwrap();
    assert!(authorities(&child).iter().any(|one| one["fingerprint"] == next.as_str()));

    // A child has no key of the root's, and signs for nobody.
    let other = MeshBox::start();
    let request = other.hauberk(&["authority", "csr"]).ok().stdout;
    let refused = child.hauberk_with_input(&["authority", "sign"], &request);
    assert!(refused.code != 0 && said_by(&refused).contains("is not here"), "{}", said_by(&refused));
    // Signed for another trust domain, it is of no use there.
    let foreign = MeshBox::start_in("other.test", &[]);
    let request = foreign.hauberk(&["authority", "csr"]).ok().stdout;
    let signed = parent.hauberk_with_input(&["authority", "sign"], &request).ok().stdout;
    let refused = foreign.hauberk_with_input(&["authority", "install", "-"], &signed);
    assert!(said_by(&refused).contains("URI:spiffe://other.test"), "{}", said_by(&refused));
    // Only those whose part it is.
    let made = parent.hauberk(&["admin", "create", "eve", "--role", "policy-admin"]).ok().stdout;
    let pin = parent.root_fingerprint();
    let login = ["login", "--server", parent.admin_address(), "--root-fingerprint", &pin, "--name", "eve"];
    parent.hauberk_with_input(&login, &made).ok();
    let refused = parent.hauberk_with_input(&["authority", "sign", "--context", "eve"], &request);
    assert!(said_by(&refused).contains("this needs the role identity-admin"), "{}", said_by(&refused));
}

#[test]
fn a_child_has_its_authorities_signed_by_itself_and_follows_the_roots_of_its_parent() {
    let parent = shop::open();
    let made = parent.hauberk(&["admin", "create", "child", "--role", "identity-admin"]).ok().stdout;
    let home = parent.folder().join("child-home");
    let pin = parent.root_fingerprint();
    let token = parent.folder().join("login-token");
    fs::write(&token, made).unwrap();
    let login = Command::new(binary("hauberk"))
        .args(["login", "--server", parent.admin_address(), "--root-fingerprint", &pin])
        .args(["--token-file", token.to_str().unwrap()])
        .env("HAUBERK_HOME", &home)
        .output()
        .unwrap();
    assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    let context = home.join("contexts.toml");
    let mut child = MeshBox::start_with(&["--upstream-context", context.to_str().unwrap()]);
    eventually("the child stands under its parent's root", PATIENCE, || {
        (root(&child, "active") == root(&parent, "active")).then_some(())
    });
    child.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    child.hauberk(&["get", "meshes"]).ok();
    assert!(is_accepted_by(&child, &parent) && is_accepted_by(&parent, &child));

    // The next root of the parent's is trusted here before the parent stands under it.
    let prepared = parent.hauberk(&["authority", "prepare", "root"]).ok().stdout;
    let serial = prepared.strip_prefix("authority/").unwrap().split(' ').next().unwrap();
    let next = root(&parent, "prepared").unwrap();
    eventually("the child trusts its parent's next root", Duration::from_secs(60), || {
        authorities(&child).iter().any(|one| one["fingerprint"] == next.as_str()).then_some(())
    });
    parent.hauberk(&["authority", "activate", serial, "--wait=60s"]).ok();
    eventually("the child is about to move under it", Duration::from_secs(60), || {
        let all = authorities(&child);
        let moving = all.iter().find(|one| one["fingerprint"] == next.as_str())?;
        (moving["goesOn"] == true).then_some(())
    });
    child.hauberk(&["authority", "activate", serial, "--wait=60s"]).ok();
    assert_eq!(root(&child, "active").unwrap(), next);
    child.hauberk(&["get", "meshes"]).ok();
    parent.hauberk(&["get", "meshes"]).ok();
    assert!(is_accepted_by(&child, &parent) && is_accepted_by(&parent, &child));

    // Without its parent the child goes on, and says what it lacks.
    drop(parent);
    eventually("it is said", Duration::from_secs(60), || {
        child.control_plane().log().contains("upstream_not_followed").then_some(())
    });
    let check = child.hauberk(&["check"]);
    assert!(check.stdout.contains("is of no help since"), "{}", check.stdout);
}
