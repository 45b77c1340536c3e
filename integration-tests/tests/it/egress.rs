//! What leaves the mesh: to hosts that an ExternalService names, where a rule permits it, and nowhere else.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use hauberk_integration_tests::{
    Agent, AgentOptions, App, CommandOutput, MeshBox, Response, eventually, get, request,
};

use crate::{
    shop::{self, PATIENCE, get_until},
    tcp_app::TcpApp,
};

/// Applies an ExternalService and waits until agents know it.
fn set_external(mesh: &MeshBox, name: &str, hosts: &str, port: u16, protocol: &str, allowed: &str) {
    let yaml = format!(
        "kind: ExternalService\nmesh: shop\nname: {name}\nspec:\n  hosts: [{hosts}]\n  \
         ports: [{{port: {port}, protocol: {protocol}}}]\n  allowedAddresses: [{allowed}]\n"
    );
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &yaml).ok();
}

/// The answer to a request line and Host through an agent.
fn ask(agent: &Agent, line: &str, host: &str) -> Response {
    let bytes = format!("{line} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    request(agent.outbound(), &bytes).unwrap()
}

/// Asks for a tunnel, and gives the head of the answer and the connection.
fn tunnel(agent: &Agent, authority: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(agent.outbound()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    write!(stream, "CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n").unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), stream)
}

fn id_of(head: &str) -> &str {
    let line = head.lines().find_map(|line| line.strip_prefix("hauberk-decision: "));
    line.unwrap_or_else(|| panic!("no decision: {head}"))
}

/// What is told of a denial, once the control plane can ask the agent.
fn explained(mesh: &MeshBox, id: &str) -> String {
    eventually("the denial is explained", PATIENCE, || {
        let told = mesh.hauberk(&["explain", id]);
        (told.code == 0).then_some(told.stdout)
    })
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"!").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"!"
}

/// Whether the other side has ended the stream already.
fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let outcome = stream.read(&mut [0; 16]);
    let is_waiting = outcome.as_ref().is_err_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
    });
    !is_waiting && !matches!(outcome, Ok(1..))
}

const READS: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in External::\"outside\")\n\
     when { context.path like \"/public/*\" };";

#[test]
fn requests_leave_where_a_rule_permits_them() {
    let mesh = shop::open();
    let app = App::start("outside");
    let port = app.address().port();
    set_external(&mesh, "outside", "localhost", port, "http", "127.0.0.0/8");
    let web = shop::caller(&mesh, "web");
    let host = format!("localhost:{port}");

    let denied = get_until(&web, &host, "/public/a", 403);
    let id = denied.header("hauberk-decision").unwrap().to_owned();
    let told = explained(&mesh, &id);
    for part in ["no policy permits it", "external/outside:", "(localhost), outside of the mesh"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let command = told.lines().find(|line| line.contains("hauberk allow")).unwrap().trim().to_owned();
    assert_eq!(command, "hauberk allow web external/outside --methods GET --path /public/a --mesh shop");
    assert_eq!(app.requests(), 0);
    let mut words: Vec<&str> = command.split(' ').skip(1).collect();
    words.push("--wait=20s");
    mesh.hauberk(&words).ok();
    assert_eq!(get(web.outbound(), &host, "/public/a").unwrap().status, 200);
    assert_eq!(get(web.outbound(), &host, "/public/b").unwrap().status, 403);

    shop::set_policy(&mesh, "reads", READS);
    let before = app.requests();
    assert_eq!(get(web.outbound(), &host, "/public//b?q=1").unwrap().status, 200);
    let absolute = ask(&web, &format!("GET http://{host}/public/c"), &host);
    assert_eq!(absolute.status, 200);
    let spelled = ask(&web, "GET /public/d", &format!("LOCALHOST.:{port}"));
    assert_eq!(spelled.status, 200);
    let beyond_ascii = ask(&web, "GET /public/e", &format!("{host}\r\nx-name: é"));
    assert_eq!((beyond_ascii.status, beyond_ascii.header("hauberk-error")), (400, Some("obs_text")));
    let in_query = ask(&web, "GET /public/e?name=é", &host);
    assert_eq!((in_query.status, in_query.header("hauberk-error")), (400, Some("obs_text")));
    let heads = app.heads();
    let lines: Vec<&str> = heads[before as usize..].iter().map(|head| head[0].as_str()).collect();
    let sent = ["GET /public/b?q=1 HTTP/1.1", "GET /public/c HTTP/1.1", "GET /public/d HTTP/1.1"];
    assert_eq!(lines, sent);
    let named = format!("host: {host}");
    let is_named = |head: &Vec<String>| {
        head.iter().any(|line| line.eq_ignore_ascii_case(&named) && line.ends_with(&host))
    };
    assert!(heads[before as usize..].iter().all(is_named), "{heads:?}");
    // Nobody reads on there for what the content of a request may hold.
    let is_last = |head: &Vec<String>| head.iter().any(|line| line.eq_ignore_ascii_case("connection: close"));
    assert!(heads.iter().all(is_last), "{heads:?}");
    for (line, host, status) in [
        ("POST /public/a".to_owned(), host.clone(), 403),
        ("GET /admin".to_owned(), host.clone(), 403),
        ("GET /public/../admin".to_owned(), host.clone(), 400),
        ("GET /public/..%2fadmin".to_owned(), host.clone(), 400),
        ("GET /public;/../admin".to_owned(), host.clone(), 400),
        (format!("GET http://{host}/public/a"), "orders".to_owned(), 400),
        (format!("GET https://{host}/public/a"), host.clone(), 400),
        ("GET /public/a".to_owned(), "localhost:1".to_owned(), 403),
        ("GET /public/a".to_owned(), format!("127.0.0.1:{port}"), 403),
    ] {
        assert_eq!(ask(&web, &line, &host).status, status, "{line} {host}");
    }
    // What decides on requests is not gone around by a tunnel, and what agents say to one another stays among them.
    assert!(tunnel(&web, &host).0.starts_with("HTTP/1.1 403 "));
    let more = "hauberk-service: orders\r\nx-forwarded-client-cert: By=x\r\nproxy-authorization: x\r\n";
    let bytes =
        format!("GET /public/e HTTP/1.1\r\nhost: {host}\r\n{more}x-app: kept\r\nconnection: close\r\n\r\n");
    let answer = request(web.outbound(), &bytes).unwrap();
    assert!(answer.status == 200 && answer.body.contains("x-app: kept"), "{answer:?}");
    for gone in ["hauberk-", "x-forwarded-client-cert", "proxy-authorization"] {
        assert!(!answer.body.contains(gone), "{gone}: {}", answer.body);
    }
    let figures = get(web.health(), "health", "/metrics").unwrap().body;
    let counted = |result: &str| {
        let sample =
            format!("hauberk_outbound_requests_total{{service=\"external/outside\",result=\"{result}\"}} ");
        figures.lines().find_map(|line| line.strip_prefix(&sample)?.parse::<u64>().ok()).unwrap_or(0)
    };
    assert!(counted("2xx") >= 5 && counted("denied") >= 3, "{figures}");
}

#[test]
fn questions_know_what_may_leave() {
    let mesh = shop::open();
    set_external(&mesh, "outside", "api.partner.example", 80, "http", "");
    shop::set_policy(&mesh, "reads", READS);
    let can = |caller: &str, method: &str, path: &str| {
        mesh.hauberk(&["can", caller, "external/outside", method, path])
    };
    let yes = can("web", "GET", "/public/a");
    assert!(yes.code == 0 && yes.stdout.contains("yes: web → external/outside:80 GET /public/a"), "{yes:?}");
    assert_eq!(can("web", "POST", "/public/a").code, 1);
    assert_eq!(can("intruder", "GET", "/public/a").code, 1);
    assert_eq!(can("anonymous", "GET", "/public/a").code, 1);
    let who = mesh.hauberk(&["who-can", "external/outside", "GET", "/public/*"]).ok().stdout;
    assert!(who.contains("web") && !who.contains("intruder"), "{who}");
    let what = mesh.hauberk(&["what-can", "web"]).ok().stdout;
    assert!(
        what.lines().any(|line| line.starts_with("external/outside:80  ") && line.contains("GET")),
        "{what}"
    );
    let unknown = mesh.hauberk(&["can", "web", "external/outsid", "GET", "/"]);
    assert!(unknown.stderr.contains("did you mean \"outside\"?"), "{unknown:?}");
    let draft = READS.replace("/public/*", "/open/*");
    let body: String = draft.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!("kind: Policy\nmesh: shop\nname: reads\nspec:\n  cedar: |\n{body}");
    let diff = mesh.hauberk_with_input(&["policy", "diff", "-f", "-"], &yaml);
    assert!(diff.code == 1 && diff.stdout.contains("external/outside:80"), "{diff:?}");
    let listed = mesh.hauberk(&["get", "externalservices"]).ok().stdout;
    assert!(listed.contains("api.partner.example") && listed.contains("80/http"), "{listed}");
    let described = mesh.hauberk(&["describe", "externalservice", "outside"]).ok().stdout;
    assert!(described.contains("reads"), "{described}");
}

#[test]
fn mistakes_about_hosts_outside_are_refused() {
    let mesh = shop::open();
    let apply = |yaml: &str| mesh.hauberk_with_input(&["apply", "-f", "-"], yaml);
    let refused = |output: CommandOutput, told: &str| {
        assert!(output.code != 0 && output.stderr.contains(told), "{told}: {output:?}");
    };
    let external = |name: &str, hosts: &str| {
        format!(
            "kind: ExternalService\nmesh: shop\nname: {name}\nspec: {{hosts: [{hosts}], ports: [{{port: 443, protocol: tls}}]}}\n"
        )
    };
    let policy = |cedar: &str| format!("kind: Policy\nmesh: shop\nname: p\nspec: {{cedar: '{cedar}'}}\n");
    refused(apply(&external("a", "'*.example.com'")), "stands for many hosts");
    refused(apply(&external("a", "'2130706433'")), "neither a name in DNS nor an IP address");
    refused(apply(&external("a", "orders")), "is the name of virtual service");
    refused(
        apply(&policy("permit(principal is Node, action, resource in External::\"a\");")),
        "does not exist",
    );
    apply(&external("a", "api.example")).ok();
    refused(apply(&external("b", "api.example")), "is already a host of external service");
    refused(
        apply("kind: VirtualService\nmesh: shop\nname: api.example\nspec: {}\n"),
        "is a host of external service",
    );
    refused(apply(&policy("permit(principal is Node, action, resource == External::\"a\");")), "spec.cedar");
    apply(&policy("permit(principal is Node, action, resource in External::\"a\");")).ok();
    refused(mesh.hauberk(&["delete", "externalservice", "a"]), "is still used by policy");
    refused(
        apply("kind: Mesh\nname: shop\nspec: {egressFilter: {type: ALLOW_ALL}}\n"),
        "name the hosts that apps call in an ExternalService",
    );
    let wide = "permit(principal == Node::\"web\", action, resource in Mesh::\"shop\");";
    apply(&policy(wide)).ok();
    let told = apply(&external("c", "other.example")).ok();
    assert!(told.stderr.contains("calls of it are permitted at once, as far as p say"), "{told:?}");
}

#[test]
fn hosts_that_nobody_named_are_not_called_however_they_are_spelled() {
    let mesh = shop::open();
    let (app, streams) = (App::start("inside"), TcpApp::echo());
    let (port, stream_port) = (app.address().port(), streams.address().port());
    // Names that lead inside, which no range allows: whoever answers for a name decides where it leads.
    set_external(&mesh, "rebound", "localhost", port, "http", "");
    set_external(&mesh, "metadata", "169.254.169.254", 80, "http", "127.0.0.0/8");
    shop::set_policy(&mesh, "all", shop::WEB_MAY_ALL);
    let web = shop::caller(&mesh, "web");
    let inside = get_until(&web, &format!("localhost:{port}"), "/", 403);
    let told = explained(&mesh, inside.header("hauberk-decision").unwrap());
    assert!(told.contains("leads to no public address"), "{told}");
    let metadata = get(web.outbound(), "169.254.169.254", "/latest/meta-data/").unwrap();
    assert_eq!(metadata.status, 403);
    assert!(metadata.header("hauberk-decision").is_some());

    for host in [
        "evil.example",
        "127.0.0.1",
        "0177.0.0.1",
        "127.1",
        "0x7f.0x0.0x0.0x1",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ] {
        let answer = get(web.outbound(), &format!("{host}:{port}"), "/").unwrap();
        assert_eq!(answer.status, 403, "{host}: {answer:?}");
        let id = answer.header("hauberk-decision").unwrap_or_else(|| panic!("{host}: {answer:?}"));
        assert!(explained(&mesh, id).contains("no ExternalService has this host"), "{host}");
        let (head, _) = tunnel(&web, &format!("{host}:{stream_port}"));
        assert!(head.starts_with("HTTP/1.1 403 "), "{host}: {head}");
        assert!(explained(&mesh, id_of(&head)).contains("no ExternalService has this host"), "{host}");
    }
    // Without a dot they might be services, of which there are none either.
    for host in ["2130706433", "0x7f000001", "localhos"] {
        assert_eq!(get(web.outbound(), &format!("{host}:{port}"), "/").unwrap().status, 502, "{host}");
        assert!(tunnel(&web, &format!("{host}:{stream_port}")).0.starts_with("HTTP/1.1 502 "), "{host}");
    }
    for (line, host) in [
        (format!("GET http://127.0.0.1:{port}@evil.example/"), "evil.example".to_owned()),
        (format!("GET http://localhost:{port}/"), format!("127.0.0.1:{port}")),
        ("GET /".to_owned(), format!("user@localhost:{port}")),
        ("GET /".to_owned(), format!("localhost:{port}#@evil.example")),
    ] {
        assert_eq!(ask(&web, &line, &host).status, 400, "{line} {host}");
    }
    assert_eq!((app.requests(), streams.connections()), (0, 0));
}

#[test]
fn agents_are_not_reached_from_behind() {
    let mesh = shop::open();
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    shop::set_policy(&mesh, "all", shop::WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let targets: [(&str, SocketAddr); 4] = [
        ("admin", web.admin()),
        ("health", web.health()),
        ("outbound", web.outbound()),
        ("mesh", orders.inbound(8080)),
    ];
    let ports: Vec<String> =
        targets.iter().map(|(_, target)| format!("{{port: {}, protocol: tcp}}", target.port())).collect();
    let yaml = format!(
        "kind: ExternalService\nmesh: shop\nname: all\nspec: {{hosts: [127.0.0.1], ports: [{}], allowedAddresses: [127.0.0.0/8]}}\n",
        ports.join(", ")
    );
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &yaml).ok();
    for (name, target) in targets {
        let (head, _) = tunnel(&web, &format!("127.0.0.1:{}", target.port()));
        assert!(head.starts_with("HTTP/1.1 403 "), "{name}: {head}");
        assert!(explained(&mesh, id_of(&head)).contains("leads to no public address"), "{name}");
    }
}

#[test]
fn a_change_of_rules_or_hosts_cuts_what_is_open() {
    let mesh = shop::open();
    let app = TcpApp::echo();
    let port = app.address().port();
    let authority = format!("127.0.0.1:{port}");
    set_external(&mesh, "db", "127.0.0.1", port, "tcp", "127.0.0.0/8");
    let web = mesh.agent("web", AgentOptions::default().tcp("external/db"));
    let intruder = shop::caller(&mesh, "intruder");
    let (head, _) = tunnel(&web, &authority);
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(explained(&mesh, id_of(&head)).contains("hauberk allow web external/db"), "{head}");
    let mut closed = TcpStream::connect(web.tcp("external/db")).unwrap();
    eventually("it is ended", PATIENCE, || has_ended(&mut closed).then_some(()));
    assert_eq!(app.connections(), 0);

    let both =
        "permit(principal in Mesh::\"shop\", action == Action::\"connect\", resource in External::\"db\");";
    shop::set_policy(&mesh, "both", both);
    let mut bound = TcpStream::connect(web.tcp("external/db")).unwrap();
    let (head, mut asked) = tunnel(&web, &authority);
    let (_, mut twin) = tunnel(&intruder, &authority);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(echoes(&mut bound) && echoes(&mut asked) && echoes(&mut twin));

    // It returns when they are cut, and not before.
    shop::set_policy(
        &mesh,
        "not-web",
        "forbid(principal == Node::\"web\", action, resource in External::\"db\");",
    );
    assert!(has_ended(&mut bound) && has_ended(&mut asked));
    assert!(echoes(&mut twin), "what is still permitted goes on");
    shop::remove_policy(&mesh, "not-web");
    let (_, mut again) = tunnel(&web, &authority);
    assert!(echoes(&mut again));
    // A range that is gone takes those with it that are connected there.
    set_external(&mesh, "db", "127.0.0.1", port, "tcp", "10.0.0.0/8");
    assert!(has_ended(&mut again) && has_ended(&mut twin));
    assert!(tunnel(&web, &authority).0.starts_with("HTTP/1.1 403 "));
    set_external(&mesh, "db", "127.0.0.1", port, "tcp", "127.0.0.0/8");
    let (_, mut last) = tunnel(&web, &authority);
    assert!(echoes(&mut last));
    shop::remove_policy(&mesh, "both");
    assert!(has_ended(&mut last));

    // What is permitted until an instant ends then by itself.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let until = hauberk_identity::UnixMillis(now + 15_000);
    let for_a_while = both.replace(";", &format!(" when {{ context.time < datetime(\"{until:.3}\") }};"));
    shop::set_policy(&mesh, "both", &for_a_while);
    let (head, mut brief) = tunnel(&web, &authority);
    assert!(head.starts_with("HTTP/1.1 200 ") && echoes(&mut brief), "{head}");
    eventually("its time is over", PATIENCE, || has_ended(&mut brief).then_some(()));
    shop::remove_policy(&mesh, "both");
    mesh.hauberk(&["delete", "externalservice", "db"]).ok();
    mesh.wait_enforced();
    let (head, _) = tunnel(&web, &authority);
    assert!(explained(&mesh, id_of(&head)).contains("no ExternalService has this host"), "{head}");
}

#[test]
fn a_request_that_is_cut_before_it_is_answered_is_told_the_decision() {
    let mesh = shop::open();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    set_external(&mesh, "outside", "127.0.0.1", address.port(), "http", "127.0.0.0/8");
    shop::set_policy(&mesh, "reads", READS);
    let web = shop::caller(&mesh, "web");
    let mut asking = TcpStream::connect(web.outbound()).unwrap();
    asking.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(asking, "GET http://{address}/public/a HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
        .unwrap();
    let (mut asked, _) = silent.accept().unwrap();
    assert!(asked.read(&mut [0; 16]).unwrap() > 0);
    shop::remove_policy(&mesh, "reads");
    let mut answer = String::new();
    asking.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("hauberk-error: cut\r\n"), "{answer}");
    assert!(explained(&mesh, id_of(&answer)).contains("outside"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_is_cut_while_it_is_being_connected_is_told_the_decision() {
    let mesh = shop::open();
    // It takes one connection, and leaves others without an answer.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    set_external(&mesh, "db", "127.0.0.1", address.port(), "tcp", "127.0.0.0/8");
    let connects =
        "permit(principal == Node::\"web\", action == Action::\"connect\", resource in External::\"db\");";
    shop::set_policy(&mesh, "connects", connects);
    let web = shop::caller(&mesh, "web");
    let mut asking = TcpStream::connect(web.outbound()).unwrap();
    asking.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(asking, "CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    // SYN_SENT, to that port.
    let connecting = format!("0100007F:{:04X} 02 ", address.port());
    eventually("it is being connected", PATIENCE, || {
        std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&connecting).then_some(())
    });
    shop::remove_policy(&mesh, "connects");
    let mut answer = String::new();
    let _ = asking.shutdown(std::net::Shutdown::Write);
    asking.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(explained(&mesh, id_of(&answer)).contains("external/db"), "{answer}");
    assert!(web.process.log().contains("egress_cut"), "{}", web.process.log());
}

/// What a client of TLS sends first for this host.
fn hello(host: &str) -> Vec<u8> {
    hauberk_tls::install_provider();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same with the extension `encrypted_client_hello` at its end, which is all that an agent can see of another hello
/// inside.
fn hides_another(mut hello: Vec<u8>) -> Vec<u8> {
    let extension = [&[0xfe, 0x0d, 0, 16][..], &[7; 16]].concat();
    // Behind the heads of record and message: version, random, session id, cipher suites, compression methods.
    let number = |hello: &[u8], at: usize| u16::from_be_bytes([hello[at], hello[at + 1]]);
    let suites = 44 + usize::from(hello[43]);
    let methods = suites + 2 + usize::from(number(&hello, suites));
    let extensions = methods + 1 + usize::from(hello[methods]);
    for at in [3, 7, extensions] {
        let longer = number(&hello, at) + extension.len() as u16;
        hello[at..at + 2].copy_from_slice(&longer.to_be_bytes());
    }
    hello.extend(extension);
    hello
}

#[test]
fn a_port_for_tls_takes_tls_for_the_very_host() {
    let mesh = shop::open();
    let app = TcpApp::echo();
    let port = app.address().port();
    set_external(&mesh, "secure", "localhost", port, "tls", "127.0.0.0/8");
    shop::set_policy(&mesh, "all", shop::WEB_MAY_ALL);
    let web = shop::caller(&mesh, "web");
    let authority = format!("localhost:{port}");
    let through = |first: &[u8]| {
        let (head, mut stream) = tunnel(&web, &authority);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        // In two pieces, as networks do it.
        let (one, two) = first.split_at(first.len() / 2);
        stream.write_all(one).unwrap();
        let _ = stream.write_all(two);
        let mut back = vec![0; first.len()];
        stream.read_exact(&mut back).is_ok_and(|()| back == first)
    };
    assert!(through(&hello("localhost")));
    let refused = [
        &hello("evil.example")[..],
        &hello("127.0.0.1"),
        &hides_another(hello("localhost")),
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ];
    for first in refused {
        assert!(!through(first), "{first:?}");
    }
    let denials = eventually("the denials are told", PATIENCE, || {
        let log = web.process.log();
        (log.matches("egress_denied").count() >= refused.len()).then_some(log)
    });
    for reason in ["server_name_mismatch", "encrypted_client_hello", "not_tls"] {
        assert!(denials.contains(reason), "{reason}: {denials}");
    }
}

#[test]
fn a_draft_is_held_against_what_has_left() {
    let mesh = shop::open();
    let app = App::start("outside");
    let port = app.address().port();
    set_external(&mesh, "outside", "localhost", port, "http", "127.0.0.0/8");
    shop::set_policy(&mesh, "reads", READS);
    let web = shop::caller(&mesh, "web");
    for _ in 0..3 {
        assert_eq!(get_until(&web, &format!("localhost:{port}"), "/public/a", 200).status, 200);
    }
    let forbid = "kind: Policy\nmesh: shop\nname: none\nspec: {cedar: 'forbid(principal, action, resource in External::\"outside\");'}\n";
    let told = eventually("the calls are recorded", PATIENCE, || {
        let told = mesh.hauberk_with_input(&["simulate", "-f", "-"], forbid);
        (told.code == 1).then_some(told.stdout)
    });
    assert!(
        told.contains(&format!("external/outside:{port}")) && told.contains("policy none forbids it"),
        "{told}"
    );
}

#[test]
fn what_has_left_is_what_is_suggested_to_be_let_out() {
    let mesh = shop::open();
    let app = App::start("outside");
    let port = app.address().port();
    set_external(&mesh, "outside", "localhost, other.example", port, "http", "127.0.0.0/8");
    shop::set_policy(&mesh, "all", "permit(principal is Node, action, resource in External::\"outside\");");
    let web = shop::caller(&mesh, "web");
    let host = format!("localhost:{port}");
    let _ = get_until(&web, &host, "/public/a", 200);
    assert_eq!(ask(&web, "POST /public/b", &host).status, 200);
    let told = eventually("all of it is covered", PATIENCE, || {
        let told = mesh.hauberk(&["suggest"]).ok();
        (told.stdout.contains("POST") && told.stderr.contains("100.0 %")).then_some(told)
    });
    assert!(told.stderr.contains("external/outside: each of its 2 hosts"), "{told:?}");
    assert!(told.stderr.contains("  all let "), "{told:?}");
    shop::remove_policy(&mesh, "all");
    assert_eq!(ask(&web, "GET /public/a", &host).status, 403);
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &told.stdout).ok();
    for (line, status) in [
        ("GET /public/a", 200),
        ("POST /public/b", 200),
        ("POST /public/a", 403),
        ("GET /public/b", 403),
        ("GET /", 403),
    ] {
        assert_eq!(ask(&web, line, &host).status, status, "{line}");
    }
}
