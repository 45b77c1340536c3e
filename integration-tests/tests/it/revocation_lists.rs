//! The revocation lists that the control plane publishes, read by programs that verify whole chains: each certificate
//! of one by the list of its own issuer.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use hauberk_integration_tests::{MeshBox, Process, eventually, eventually_async, free_port, get, skip};
use hauberk_tls::{KeyPair, Svid};
use tokio::time::timeout;

use crate::{
    authorities::issuing,
    shop::PATIENCE,
    third_party::{installed, wait_until_listening},
    workload_api::{begun, enrollment, shop, svids, uid},
};

/// An nginx that lets in whom the trust bundle vouches for and no list names, as they are published now.
struct Nginx<'a> {
    mesh: &'a MeshBox,
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl<'a> Nginx<'a> {
    fn install(mesh: &'a MeshBox) -> Option<Self> {
        let program = installed("nginx")?;
        for needed in ["openssl", "curl"] {
            if Command::new(needed).arg("--version").output().is_err() {
                skip(&format!("{needed} is not installed"));
                return None;
            }
        }
        let nginx = Self { mesh, program, folder: tempfile::tempdir().unwrap() };
        let own = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=nginx -keyout own.key -out own.pem";
        let (made, said) = nginx.run("openssl", &own.split(' ').collect::<Vec<_>>());
        assert!(made, "{said}");
        Some(nginx)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(program).args(arguments).current_dir(self.folder.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Keeps what a program has been given.
    fn keep(&self, name: &str, (svid, key): &(Svid, String)) {
        let chain = svid.to_pem();
        self.write(&format!("{name}.pem"), &chain);
        self.write(&format!("{name}.key"), key);
    }

    fn update(&self) {
        self.write("bundle.pem", &self.mesh.bundle_pem());
        self.write("crl.pem", &lists(self.mesh));
    }

    /// What nginx answers each of them, and what it says of it.
    fn serve(&self, names: &[&str]) -> Vec<(bool, String)> {
        let address = free_port();
        let process = self.start(address);
        let each = names.iter().map(|name| {
            let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
            let url = format!("https://{address}/");
            let asked = ["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--cert", &pem, "--key", &key, &url];
            let (_, status) = self.run("curl", &asked);
            assert!(["200", "400"].contains(&&*status), "{name}: {status}\n{}", process.log());
            (status == "200", process.log())
        });
        each.collect()
    }

    fn start(&self, address: SocketAddr) -> Process {
        let room = self.folder.path().display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        self.write("index.html", "in\n");
        self.write(
            "nginx.conf",
            &format!(
                "{user} daemon off; master_process off; pid {room}/nginx.pid; error_log stderr info;\nevents {{}}\n\
                 http {{\n  access_log off; client_body_temp_path {room}; proxy_temp_path {room};\n  \
                 fastcgi_temp_path {room}; uwsgi_temp_path {room}; scgi_temp_path {room};\n  \
                 server {{\n    listen {address} ssl; root {room}; ssl_certificate {room}/own.pem;\n    \
                 ssl_certificate_key {room}/own.key; ssl_client_certificate {room}/bundle.pem;\n    \
                 ssl_verify_client on; ssl_verify_depth 3; ssl_crl {room}/crl.pem;\n  }}\n}}\n"
            ),
        );
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("nginx.conf")).arg("-p").arg(self.folder.path());
        let process = Process::start(&format!("nginx-{}", address.port()), self.folder.path(), command);
        wait_until_listening(address);
        process
    }

    /// The same by the command line, with what OpenSSL says.
    fn verify(&self, name: &str) -> (bool, String) {
        let pem = format!("{name}.pem");
        let flags =
            ["verify", "-x509_strict", "-crl_check_all", "-CAfile", "bundle.pem", "-CRLfile", "crl.pem"];
        self.run("openssl", &[&flags[..], &["-untrusted", &pem, &pem]].concat())
    }
}

/// All lists, once the control plane that has just started has signed them.
fn lists(mesh: &MeshBox) -> String {
    let answer = eventually("the lists are signed", PATIENCE, || {
        let answer = get(mesh.health_address().parse().unwrap(), "crl", "/crl.pem").ok()?;
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.header("content-type"), Some("application/x-pem-file"));
    answer.body
}

/// The only list that names this serial number.
fn naming(lists: &str, folder: &Path, serial: &str) -> String {
    let end = "-----END X509 CRL-----\n";
    let naming: Vec<_> = lists
        .split_inclusive(end)
        .filter(|list| {
            fs::write(folder.join("one.pem"), list).unwrap();
            let told = ["crl", "-in", "one.pem", "-noout", "-text"];
            let output = Command::new("openssl").args(told).current_dir(folder).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains(&serial.to_uppercase())
        })
        .collect();
    let [only] = naming[..] else { panic!("{} lists name {serial}:\n{lists}", naming.len()) };
    only.to_owned()
}

/// What the program is given now: the first identity, and the second.
async fn given(socket: &Path) -> [(Svid, String); 2] {
    let answer = timeout(PATIENCE, svids(socket).await.message()).await.unwrap().unwrap().unwrap();
    let given = answer.svids.iter().map(|given| {
        let key = KeyPair::from_pkcs8_der(&given.x509_svid_key).unwrap();
        (Svid::from_concatenated_der(&given.x509_svid).unwrap(), key.to_pkcs8_pem().to_string())
    });
    given.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("two identities"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_verifies_whole_chains_finds_the_list_of_each_issuer() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("first", "web", &uid(), ""));
    mesh.apply(&enrollment("second", "web", &uid(), ""));
    let Some(nginx) = Nginx::install(&mesh) else { return };
    eventually_async("both identities are given", PATIENCE, async || {
        (begun(&socket).await.0.len() == 2).then_some(())
    })
    .await;
    let [good, stolen] = given(&socket).await;
    nginx.keep("good", &good);
    nginx.keep("stolen", &stolen);
    nginx.update();
    assert!(nginx.serve(&["good", "stolen"]).iter().all(|(is_in, _)| *is_in));
    for name in ["good", "stolen"] {
        let (is_good, said) = nginx.verify(name);
        assert!(is_good, "{name}: {said}");
    }

    mesh.hauberk(&["revoke", "serial", &stolen.0.serial().to_string()]).ok();
    eventually("it is on a list", PATIENCE, || {
        nginx.update();
        let (is_good, said) = nginx.verify("stolen");
        (!is_good && said.contains("certificate revoked")).then_some(())
    });
    let served = nginx.serve(&["good", "stolen"]);
    assert!(served[0].0 && !served[1].0 && served[1].1.contains("certificate revoked"), "{served:?}");

    // Who holds a certificate by an authority that signs no longer is as good as before, and as bad.
    let former = issuing(&mesh);
    for kind in ["issuing", "root"] {
        mesh.hauberk(&["authority", "rotate", kind, "--wait=60s"]).ok();
        let now = eventually_given(&socket, &mesh).await;
        nginx.keep(kind, &now);
        nginx.update();
        for (name, is_to_be_good) in [("good", true), ("stolen", false), ("issuing", true), (kind, true)] {
            let (is_good, said) = nginx.verify(name);
            assert_eq!(is_good, is_to_be_good, "after the {kind}, {name}: {said}");
        }
        let served: Vec<_> =
            nginx.serve(&["good", "stolen", "issuing", kind]).into_iter().map(|(is_in, _)| is_in).collect();
        assert_eq!(served, [true, false, true, true], "after the {kind}");
    }
    let revoked = naming(&lists(&mesh), nginx.folder.path(), &stolen.0.serial().to_string());

    // What nobody believes any longer is on its root's list: who has stolen its key may well show a list of its own.
    mesh.hauberk(&["authority", "taint", &former, "--wait=60s"]).ok();
    mesh.hauberk(&["authority", "revoke", &former, "--now"]).ok();
    eventually("its list is gone", PATIENCE, || {
        nginx.update();
        let (is_good, said) = nginx.verify("good");
        (!is_good && said.contains("unable to get certificate CRL")).then_some(())
    });
    let of_root = naming(&lists(&mesh), nginx.folder.path(), &former);
    let served = nginx.serve(&["good", "root"]);
    assert!(!served[0].0 && served[1].0, "{served:?}");
    nginx.write("crl.pem", &format!("{revoked}{of_root}"));
    let served = nginx.serve(&["good"]);
    assert!(!served[0].0 && served[0].1.contains("certificate revoked"), "{served:?}");
}

/// The first identity, once it is by the authority that signs now.
async fn eventually_given(socket: &Path, mesh: &MeshBox) -> (Svid, String) {
    let signs = issuing(mesh);
    eventually_async("it is by the authority that signs", PATIENCE, async || {
        let [first, _] = given(socket).await;
        Some(first).filter(|(svid, _)| svid.issuer_serial().is_some_and(|issuer| issuer.to_string() == signs))
    })
    .await
}
