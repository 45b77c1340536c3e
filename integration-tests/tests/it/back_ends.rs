//! Real servers of files behind an agent: whatever a path is spelled like, they hand out nothing that is not permitted.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use hauberk_integration_tests::{Agent, MeshBox, Process, eventually, free_port, request, skip};
use http_body_util::{BodyExt, Full};

use crate::{
    paths::{PUBLIC_ONLY, TRICKS, istio_paths},
    peer::Peer,
    shop::{self, PATIENCE, get_until},
    third_party::{installed, nginx, nginx_with, wait_until_listening},
};

/// What nobody may read.
const SECRET: &str = "only for those who may";

/// A server of files as people write them for Node.
const NODE: &str = r#"
const [http, fs, path] = [require("http"), require("fs"), require("path")];
const [root, port] = process.argv.slice(1);
http.createServer((question, answer) => {
    try {
        const wanted = decodeURIComponent(new URL(question.url, "http://orders").pathname);
        answer.end(fs.readFileSync(path.join(root, wanted.replaceAll("\\", "/"))));
    } catch {
        answer.writeHead(404).end();
    }
}).listen(Number(port), "127.0.0.1");
"#;

/// A folder with a page for everybody and one for nobody.
fn site(folder: &Path) -> PathBuf {
    let site = folder.join("files");
    fs::create_dir_all(site.join("public")).unwrap();
    fs::write(site.join("public/ready"), "for everybody").unwrap();
    fs::write(site.join("admin"), SECRET).unwrap();
    site
}

fn exchange(address: SocketAddr, target: &str) -> String {
    let text = format!("GET {target} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
    request(address, &text).map(|response| response.body).unwrap_or_default()
}

/// Tricks by slashes that are escaped, for listeners that let those stand.
const SLASHES: [&str; 9] = [
    "/public%2f..%2fadmin",
    "/public/%2e%2e%2fadmin",
    "/public/a%2f..%2f..%2fadmin",
    "/public%2Fready%2F..%2F..%2Fadmin",
    "/%2fadmin",
    "/.%2fadmin",
    "/public/..%2Fadmin",
    "/public/x%2f../../admin",
    "/public/%252e%252e%252fadmin",
];

/// Lets escaped slashes stand at the ports for HTTP of orders.
fn relax(mesh: &MeshBox, web: &Agent) {
    let relaxed = "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  \
        - {portMapping: {port: 8080, protocol: http}, pathWithEscapedSlashesAction: KEEP_UNCHANGED}\n  \
        - {portMapping: {port: 9090, protocol: http2}, pathWithEscapedSlashesAction: KEEP_UNCHANGED}\n  \
        - {portMapping: {port: 50051, protocol: grpc}}\n";
    mesh.apply(relaxed);
    // The peer that joined by hand acknowledges nothing.
    let text = "GET /public/a%2Fb HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    eventually("escaped slashes may stand", PATIENCE, || {
        request(web.outbound(), text).ok().filter(|response| response.status != 400)
    });
}

/// No trick opens what a server behind an agent would hand out if it were asked for it without one.
async fn keeps_its_secret(start: impl FnOnce(&Path, &Path, SocketAddr) -> Process) {
    let mesh = shop::open();
    let (address, site) = (free_port(), site(mesh.folder()));
    let _server = start(mesh.folder(), &site, address);
    wait_until_listening(address);
    let from_outside = istio_paths();
    let tricks: Vec<&str> = TRICKS.into_iter().chain(from_outside.iter().map(String::as_str)).collect();
    let open: Vec<_> = tricks.iter().filter(|trick| exchange(address, trick).contains(SECRET)).collect();
    assert!(open.len() > 3, "without an agent some tricks work: {open:?}");

    shop::set_policy(&mesh, "public", PUBLIC_ONLY);
    let orders = shop::orders(&mesh, address);
    let web = shop::caller(&mesh, "web");
    assert_eq!(get_until(&web, "orders", "/public/ready", 200).body, "for everybody");
    let peer = Peer::join(&mesh, "web").await;
    // As paths are taken by default, and where escaped slashes may stand.
    for is_relaxed in [false, true] {
        if is_relaxed {
            relax(&mesh, &web);
        }
        for trick in tricks.iter().chain(&SLASHES).copied() {
            let through_agents = exchange(web.outbound(), trick);
            assert!(!through_agents.contains(SECRET), "{trick} by way of an agent: {through_agents}");
            let text = format!("GET {trick} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
            let directly = peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
            assert!(!directly.contains(SECRET), "{trick} directly: {directly}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_keeps_its_secret() {
    let Some(program) = installed("nginx") else { return };
    keeps_its_secret(|folder, site, address| nginx(&program, folder, address, site)).await;
}

/// Spellings of the host `public.shop`, which policies see as that one.
const HOSTS: [&str; 8] = [
    "public.shop",
    "PUBLIC.shop",
    "public.shop.",
    "public.shop:8080",
    "public.shop:9999",
    "public.shop:08080",
    "Public.Shop.:80",
    "public.shop:0",
];

/// Two hosts at one nginx, which are chosen by its own reading of the host, and by the field as it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_takes_a_host_for_the_one_that_was_permitted() {
    let Some(program) = installed("nginx") else { return };
    let mesh = shop::open();
    let address = free_port();
    let servers = format!(
        "map $http_host $page {{ default \"{SECRET}\"; public.shop public; }}\n\
         server {{ listen {address} default_server; location / {{ return 200 \"{SECRET}\"; }} }}\n\
         server {{ listen {address}; server_name public.shop; location / {{ return 200 \"$page|$http_host|\"; }} }}"
    );
    let _server = nginx_with(&program, mesh.folder(), &servers);
    wait_until_listening(address);
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let open = HOSTS.iter().filter(|host| request(address, &ask(host)).unwrap().body.contains(SECRET));
    assert!(open.count() > 3, "without an agent most spellings lead to the other host");

    let permit = |when: &str| {
        format!(
            "permit(principal == Node::\"web\", action in Action::\"http\", resource in Mesh::\"shop\"){when};"
        )
    };
    shop::set_policy(&mesh, "hosts", &permit(" when { context.host == \"public.shop\" }"));
    let orders = shop::orders(&mesh, address);
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 403);
    let peer = Peer::join(&mesh, "web").await;
    let asked = async |host: &str| peer.exchange("orders", orders.inbound(8080), ask(host).as_bytes()).await;
    for host in HOSTS {
        let answer = asked(host).await;
        assert!(answer.contains("public|public.shop|"), "{host}: {answer}");
    }
    let target = ask("public.shop:9999").replace("GET /", "GET http://Public.shop:9999/");
    let answer = peer.exchange("orders", orders.inbound(8080), target.as_bytes()).await;
    assert!(answer.contains("public|public.shop|"), "{answer}");
    for host in ["private.shop", "public.shop.elsewhere", "10.0.0.1"] {
        let answer = asked(host).await;
        assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains(SECRET), "{host}: {answer}");
    }

    // Where no policy tells hosts apart, the field is the app's alone, which may make addresses of it.
    // The peer that joined by hand acknowledges nothing.
    mesh.apply(&format!("kind: Policy\nmesh: shop\nname: hosts\nspec:\n  cedar: '{}'\n", permit("")));
    eventually("the host comes as it is", PATIENCE, || {
        request(web.outbound(), &ask("orders")).ok().filter(|response| response.status == 200)
    });
    let answer = asked("Public.shop:8080").await;
    assert!(answer.contains("|Public.shop:8080|"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_keeps_its_secret() {
    let Some(program) = found("python3") else { return };
    keeps_its_secret(|folder, site, address| python(program, folder, site, address)).await;
}

/// Python's own server of files, which keeps connections, and reads the content of no request.
fn python(program: &str, folder: &Path, site: &Path, address: SocketAddr) -> Process {
    const SERVE: &str = "import http.server as server, sys\n\
         handler = server.SimpleHTTPRequestHandler\n\
         handler.protocol_version = 'HTTP/1.1'\n\
         server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), handler).serve_forever()";
    let mut command = Command::new(program);
    command.args(["-u", "-c", SERVE, &address.port().to_string()]).current_dir(site);
    Process::start("python", folder, command)
}

/// Requests in the content of those that are permitted, which a server takes for the next ones on the connection if it
/// can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_finds_no_request_in_the_content_of_another() {
    let Some(program) = found("python3") else { return };
    let mesh = shop::open();
    let (address, site) = (free_port(), site(mesh.folder()));
    let server = python(program, mesh.folder(), &site, address);
    wait_until_listening(address);
    let hidden = |mark: &str| format!("GET /admin?{mark} HTTP/1.1\r\nhost: orders\r\n\r\n");
    let asked = |method: &str, mark: &str| {
        let (content, line) = (hidden(mark), format!("{method} /public/ready HTTP/1.1\r\nhost: orders"));
        format!("{line}\r\ncontent-length: {}\r\n\r\n{content}", content.len())
    };
    request(address, &asked("GET", "without")).unwrap();
    eventually("it finds one without an agent", PATIENCE, || server.log().contains("?without").then_some(()));

    let any_method = "permit(principal == Node::\"web\", action in Action::\"http\", resource in Node::\"orders\")\n\
         when { context.path like \"/public/*\" };";
    shop::set_policy(&mesh, "public", any_method);
    let orders = shop::orders(&mesh, address);
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/public/ready", 200);
    let peer = Peer::join(&mesh, "web").await;
    let stream = peer.connect("orders", orders.inbound(8080), &[b"h2"]).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let (mut http2, connection) = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"] {
        // Whoever reads the answer there would wait for content.
        if method != "HEAD" {
            request(web.outbound(), &asked(method, "within")).unwrap();
        }
        peer.exchange("orders", orders.inbound(8080), asked(method, "within").as_bytes()).await;
        let request = http::Request::builder().method(method).uri("http://orders/public/ready");
        let request = request.body(Full::new(Bytes::from(hidden("within")))).unwrap();
        http2.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        // Whoever asks next on a connection that was kept gets his own answer.
        assert_eq!(exchange(web.outbound(), "/public/ready"), "for everybody", "after {method}");
    }
    let log = server.log();
    assert!(log.contains("\"PURGE /public/ready") && !log.contains("?within"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_keeps_its_secret() {
    let Some(program) = found("node") else { return };
    keeps_its_secret(|folder, site, address| {
        let mut command = Command::new(program);
        command.args(["-e", NODE, "--"]).arg(site).arg(address.port().to_string());
        Process::start("node", folder, command)
    })
    .await;
}

/// A program wherever the path has it; says so and gives nothing if it is nowhere.
fn found(name: &'static str) -> Option<&'static str> {
    if Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Some(name);
    }
    skip(&format!("{name} is not installed"));
    None
}
