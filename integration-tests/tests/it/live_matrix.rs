//! Whatever changes who may do what (a rule, a boundary, a role, a label, a template, a route, a data class, where a
//! service is, whether a listener asks for users, an issuer or its key, another domain's bundle, a host outside, a
//! quarantine, a revocation), against whatever can be under way when it does: `--wait` returns once all that is
//! forbidden now is cut, and what is allowed still goes on.

use std::{any::Any, io};

use bytes::Bytes;
use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, eventually_async};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use crate::{
    identity_tokens::stolen,
    login::Login,
    marked_app::{MarkedApp, message},
    partner::Partner,
    shop::{self, PATIENCE},
    spiffe_clients::Foreigner,
    streaming_app::{Frames, empty},
};

/// What can be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A request whose content and answer both go on.
    Http1,
    Http2,
    Grpc,
    Upgrade,
    Tcp,
    /// A tunnel to a host outside, and a request to one.
    Outside,
    OutsideHttp,
    OutsideUpgrade,
}

use Kind::{Grpc, Http1, Http2, Outside, OutsideHttp, OutsideUpgrade, Tcp, Upgrade};

const REQUESTS: &[Kind] = &[Http1, Http2, Grpc, Upgrade];
const IN_THE_MESH: &[Kind] = &[Http1, Http2, Grpc, Upgrade, Tcp];
const ALL: &[Kind] = &[Http1, Http2, Grpc, Upgrade, Tcp, Outside, OutsideHttp, OutsideUpgrade];
const WITH_FIELDS: &[Kind] = &[Http1, Http2, Grpc, Upgrade, OutsideHttp, OutsideUpgrade];

/// Who has it under way.
#[derive(Debug, Clone)]
enum Who {
    Web,
    Intruder,
    /// Web, for a user with this token.
    WebFor(String),
    /// Web, with a header field that says so.
    WebOn(&'static str),
    /// A workload of another trust domain, which has no agent.
    Partner,
}

/// A change, and how it is taken back.
struct Cell {
    what: &'static str,
    kinds: &'static [Kind],
    /// Who is cut off.
    cut: Who,
    kept_kinds: &'static [Kind],
    /// Who goes on.
    kept: Who,
    change: Change,
    undo: Change,
}

enum Change {
    Apply(String),
    /// A kind and a name.
    Delete(&'static str, &'static str),
    Run(Vec<String>),
    Nothing,
}

const RULES: &str = "kind: Role
mesh: shop
name: callers
spec: {members: [{virtualNode: web}, {virtualNode: intruder}]}
---
kind: DataClass
mesh: shop
name: sealed
spec: {dataClasses: []}
---
kind: DataClass
mesh: shop
name: plain
spec: {}
---
kind: VirtualNode
mesh: shop
name: spare
spec:
  listeners:
  - {portMapping: {port: 8080, protocol: http}}
  - {portMapping: {port: 9090, protocol: http2}}
  - {portMapping: {port: 50051, protocol: grpc}}
  - {portMapping: {port: 6379, protocol: tcp}}
---
kind: PolicyTemplate
mesh: shop
name: all
spec:
  cedar: permit(principal in ?principal, action, resource);
---
kind: Policy
mesh: shop
name: callers
spec: {template: {name: all, principal: 'Role::\"callers\"'}}
---
kind: Policy
mesh: shop
name: others
spec:
  cedar: |
    permit(principal is Workload, action, resource) when { context.peer.federated };
    forbid(principal, action, resource) when { principal.hasTag(\"suspect\") && principal.getTag(\"suspect\") != \"no\" };
    forbid(principal == Node::\"web\", action, resource in DataClass::\"sealed\");
    forbid(principal == Node::\"web\", action, resource == Route::\"orders:8080 /{any}\");
    forbid(principal == Node::\"web\", action, resource == Route::\"orders:9090 /{any}\");
    forbid(principal == Node::\"web\", action, resource == Route::\"orders:50051 shop.Marks/*\");
    forbid(principal == Node::\"web\", action, resource in Node::\"orders\") unless {
      resource in Service::\"orders\" || resource in Service::\"orders-h2\" || resource in Service::\"orders-rpc\" };
    forbid(principal == Node::\"web\", action, resource in Node::\"redis\") unless { resource in Service::\"cache\" };
";

/// Of no consequence.
const PLAIN: &str = ", dataClasses: [plain]";

/// The node `orders`; `talk` is what is said of the route that all use, `None` that there is no such route.
fn orders(talk: Option<&str>) -> String {
    orders_for("{}", talk)
}

/// The same, which takes users so.
fn orders_for(users: &str, talk: Option<&str>) -> String {
    let with = |route: &str, any: &str| {
        let talk = talk.map(|more| format!("{{path: {route}{more}}}, ")).unwrap_or_default();
        format!("users: {users}, routes: [{talk}{{path: '{any}'}}]")
    };
    let (http, grpc) = (with("/talk", "/{any}"), with("shop.Marks/Talk", "shop.Marks/*"));
    format!(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - {{portMapping: {{port: 8080, protocol: http}}, \
         {http}}}\n  - {{portMapping: {{port: 9090, protocol: http2}}, {http}}}\n  - {{portMapping: {{port: 50051, protocol: \
         grpc}}, {grpc}}}\n"
    )
}

/// Where the services are: those of `orders` there, `cache` here.
fn services(orders: &str, redis: &str) -> Change {
    let service = |(name, node, port): (&str, &str, u16)| {
        format!(
            "kind: VirtualService\nmesh: shop\nname: {name}\nspec: {{provider: {{virtualNode: {{virtualNodeName: {node}, port: \
             {port}}}}}}}\n"
        )
    };
    let all = [
        ("orders", orders, 8080),
        ("orders-h2", orders, 9090),
        ("orders-rpc", orders, 50051),
        ("cache", redis, 6379),
    ];
    Change::Apply(all.map(service).join("---\n"))
}

fn outside(app: &MarkedApp, range: &str) -> String {
    format!(
        "kind: ExternalService\nmesh: shop\nname: outside\nspec:\n  hosts: [127.0.0.1]\n  ports: [{{port: {}, protocol: tcp}}, \
         {{port: {}, protocol: http}}]\n  allowedAddresses: [{range}]\n",
        app.tcp().port(),
        app.http().port()
    )
}

/// All that every cell shares.
struct Matrix {
    mesh: MeshBox,
    app: MarkedApp,
    orders: Agent,
    redis: Agent,
    web: Agent,
    intruder: Agent,
    partner: Foreigner,
    /// Each stream of a cell says a byte of its own.
    last_byte: u8,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Something under way.
struct Flow {
    what: String,
    byte: u8,
    ends: Ends,
}

enum Ends {
    /// A request, and whatever must live as long.
    Exchange {
        says: mpsc::Sender<Frame<Bytes>>,
        hears: Incoming,
        is_grpc: bool,
        _held: Box<dyn Any + Send>,
    },
    Stream(Box<dyn Io>),
}

impl Flow {
    async fn say(&mut self) {
        // Where it is cut nobody may take it.
        match &mut self.ends {
            Ends::Exchange { says, is_grpc, .. } => {
                drop(says.send(Frame::data(message(self.byte, *is_grpc))).await);
            }
            Ends::Stream(stream) => drop(stream.write_all(&[self.byte]).await),
        }
    }

    /// Reads until the app says this mark, or to the end.
    async fn hears(&mut self, mark: u8) -> bool {
        let reading = async {
            loop {
                let read = match &mut self.ends {
                    Ends::Exchange { hears, .. } => match hears.frame().await {
                        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                        _ => return false,
                    },
                    Ends::Stream(stream) => {
                        let mut bytes = [0; 256];
                        match stream.read(&mut bytes).await {
                            Ok(read @ 1..) => Bytes::copy_from_slice(&bytes[..read]),
                            _ => return false,
                        }
                    }
                };
                if read.contains(&mark) {
                    return true;
                }
            }
        };
        timeout(PATIENCE, reading)
            .await
            .unwrap_or_else(|_| panic!("{} is neither cut nor goes on", self.what))
    }
}

impl Matrix {
    /// A connection for this, as far as the first agent, or as far as the server where there is no other.
    async fn connect(&self, kind: Kind, who: &Who) -> io::Result<Box<dyn Io>> {
        let agent = match who {
            Who::Web | Who::WebFor(_) | Who::WebOn(_) => &self.web,
            Who::Intruder => &self.intruder,
            Who::Partner => {
                let (at, alpn): (_, &[&[u8]]) = match kind {
                    Http1 | Upgrade => (self.orders.inbound(8080), &[b"http/1.1"]),
                    Http2 => (self.orders.inbound(9090), &[b"h2"]),
                    Grpc => (self.orders.inbound(50051), &[b"h2"]),
                    Tcp | Outside | OutsideHttp | OutsideUpgrade => (self.redis.inbound(6379), &[]),
                };
                return Ok(Box::new(self.partner.connect(at, alpn).await?));
            }
        };
        let at = if kind == Tcp { agent.tcp("cache:6379") } else { agent.outbound() };
        Ok(Box::new(TcpStream::connect(at).await?))
    }

    /// Begins it, and waits until the app has said something.
    async fn begin(&self, kind: Kind, who: &Who, byte: u8) -> io::Result<Flow> {
        let io = self.connect(kind, who).await?;
        let ends = match kind {
            Tcp => Ends::Stream(io),
            Outside => Ends::Stream(self.tunnel(io).await?),
            _ => self.ask(kind, who, io).await?,
        };
        let mut flow = Flow { what: format!("{kind:?} of {who:?}"), byte, ends };
        match flow.hears(self.app.says()).await {
            true => Ok(flow),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The same, tried until endpoints and connections are there.
    async fn begin_soon(&mut self, kind: Kind, who: &Who) -> Flow {
        self.last_byte += 1;
        let what = format!("{kind:?} of {who:?} begins");
        eventually_async(&what, PATIENCE, async || self.begin(kind, who, self.last_byte).await.ok()).await
    }

    async fn tunnel(&self, mut io: Box<dyn Io>) -> io::Result<Box<dyn Io>> {
        let to = self.app.tcp();
        io.write_all(format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await?);
        }
        match head.starts_with(b"HTTP/1.1 200 ") {
            true => Ok(io),
            false => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
        }
    }

    async fn ask(&self, kind: Kind, who: &Who, io: Box<dyn Io>) -> io::Result<Ends> {
        let outside = self.app.http().to_string();
        let to = |host: &str| Request::post("/talk").header("host", host);
        let is_upgrade = matches!(kind, Upgrade | OutsideUpgrade);
        let mut request = match kind {
            Http2 => Request::post("http://orders-h2/talk"),
            Grpc => Request::post("http://orders-rpc/shop.Marks/Talk")
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
            OutsideHttp | OutsideUpgrade => to(&outside),
            Http1 | Upgrade | Tcp | Outside => to("orders"),
        };
        if is_upgrade {
            request = request.method("GET").header("connection", "upgrade").header("upgrade", "marks");
        }
        if let Who::WebFor(token) = who {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Who::WebOn(plan) = who {
            request = request.header("x-plan", *plan);
        }
        let (says, body) = Frames::channel();
        let request = request.body(if is_upgrade { empty() } else { body }).unwrap();
        let io = TokioIo::new(io);
        let (response, held): (_, Box<dyn Any + Send>) = match kind {
            Http2 | Grpc => {
                let (mut sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                (sender.send_request(request).await.map_err(io::Error::other)?, Box::new(sender))
            }
            _ => {
                let (mut sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(connection.with_upgrades());
                (sender.send_request(request).await.map_err(io::Error::other)?, Box::new(sender))
            }
        };
        match (kind, response.status()) {
            (Upgrade | OutsideUpgrade, StatusCode::SWITCHING_PROTOCOLS) => {
                let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
                Ok(Ends::Stream(Box::new(TokioIo::new(upgraded))))
            }
            (_, StatusCode::OK) => {
                Ok(Ends::Exchange { says, hears: response.into_body(), is_grpc: kind == Grpc, _held: held })
            }
            (_, status) => Err(io::Error::other(status.to_string())),
        }
    }

    fn make(&self, change: &Change) {
        match change {
            Change::Apply(yaml) => {
                drop(self.mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], yaml).ok());
            }
            Change::Run(command) => {
                drop(self.mesh.hauberk(&command.iter().map(String::as_str).collect::<Vec<_>>()).ok());
            }
            Change::Delete(kind, name) => {
                self.mesh.hauberk(&["delete", kind, name]).ok();
                self.mesh.wait_enforced();
            }
            Change::Nothing => {}
        }
    }

    async fn try_cell(&mut self, cell: &Cell, mark: u8) {
        let (mut cut, mut kept) = (Vec::new(), Vec::new());
        self.app.forget();
        self.last_byte = 0x7f;
        for &kind in cell.kinds {
            cut.push(self.begin_soon(kind, &cell.cut).await);
        }
        for &kind in cell.kept_kinds {
            kept.push(self.begin_soon(kind, &cell.kept).await);
        }
        self.make(&cell.change);
        // It has returned: nothing that is sent from here on passes where it is forbidden.
        self.app.mark(mark);
        for flow in cut.iter_mut().chain(&mut kept) {
            flow.say().await;
        }
        let what = cell.what;
        for flow in &mut cut {
            assert!(!flow.hears(mark).await, "{what}: {} hears on", flow.what);
        }
        for flow in &mut kept {
            assert!(flow.hears(mark).await, "{what}: {} is cut", flow.what);
            assert!(self.app.hears(flow.byte, PATIENCE).await, "{what}: {} is not heard", flow.what);
        }
        for flow in &cut {
            assert!(!self.app.has_heard(flow.byte), "{what}: {} is heard on", flow.what);
        }
        for &kind in cell.kinds {
            let begun = timeout(PATIENCE, self.begin(kind, &cell.cut, 0)).await.expect("it is answered");
            assert!(begun.is_err(), "{what}: {kind:?} begins again");
        }
        drop((cut, kept));
        self.make(&cell.undo);
    }
}

fn run(command: &[&str]) -> Change {
    Change::Run(command.iter().map(|&word| word.to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_forbids_it_cuts_whatever_is_under_way_before_it_is_said_to_be_enforced() {
    let (login, staff) = (Login::new("login"), Login::new("staff"));
    let (partner, other) = (Partner::new(1), Partner::new(3));
    let mesh = shop::open();
    let app = MarkedApp::start(b'A');
    mesh.apply(&format!(
        "{}---\n{}---\n{}---\n{}---\n{}---\n{RULES}",
        orders(Some(PLAIN)),
        login.resource(""),
        staff.resource(""),
        partner.resource(),
        outside(&app, "127.0.0.0/8")
    ));
    let calls = || AgentOptions::default().tcp("cache:6379");
    let mut matrix = Matrix {
        orders: shop::orders(&mesh, app.http()),
        redis: shop::redis(&mesh, app.tcp()),
        web: mesh.agent("web", calls()),
        intruder: mesh.agent("intruder", calls()),
        partner: partner.workload("billing"),
        mesh,
        app,
        last_byte: 0x7f,
    };
    let serial = stolen(&matrix.web).0.serial().to_string();
    let by_ec = Who::WebFor(login.token("alice", &[]));
    let by_rsa =
        Who::WebFor(login.sign(&json!({"kid": "rsa", "alg": "PS256"}), &login.claims("bob", &[], 600)));
    let keys: Value = serde_json::from_str(&login.jwks()).unwrap();
    let without_ec =
        login.resource("").replace(&login.jwks(), &json!({"keys": [keys["keys"][1]]}).to_string());
    let from_rules = |kind: &str| {
        let found = RULES.split("---\n").find(|resource| resource.starts_with(&format!("kind: {kind}\n")));
        found.unwrap().to_owned()
    };
    let (role, class, template) = (from_rules("Role"), from_rules("DataClass"), from_rules("PolicyTemplate"));
    let by_staff = Who::WebFor(staff.token("carol", &[]));
    let rule = "kind: Policy\nmesh: shop\nname: not-web\nspec: {cedar: 'forbid(principal == Node::\"web\", action, resource);'}\n";
    let by_plan = "kind: Policy
mesh: shop
name: plans
spec:
  cedar: |
    forbid(principal == Node::\"web\", action in [Action::\"http\", Action::\"call\"], resource) unless {
      context.headers.hasTag(\"x-plan\") && context.headers.getTag(\"x-plan\") == [\"gold\"] };
";
    let boundary = rule.replace("kind: Policy", "kind: Boundary");
    let web = |suspect: &str| {
        format!("kind: VirtualNode\nmesh: shop\nname: web\nlabels: {{suspect: '{suspect}'}}\nspec: {{}}\n")
    };
    let cell = |what, kinds, change, undo| Cell {
        what,
        kinds,
        kept_kinds: kinds,
        cut: Who::Web,
        kept: Who::Intruder,
        change,
        undo,
    };
    let apply = |yaml: &str| Change::Apply(yaml.to_owned());
    let cells = [
        cell("rule", ALL, apply(rule), apply(&rule.replace("\"web\"", "\"payments\""))),
        Cell {
            cut: Who::WebOn("lead"),
            kept: Who::WebOn("gold"),
            ..cell(
                "rule that reads what none before it did",
                WITH_FIELDS,
                apply(by_plan),
                Change::Delete("policy", "plans"),
            )
        },
        cell("boundary", ALL, apply(&boundary), apply(&boundary.replace("\"web\"", "\"payments\""))),
        cell("role", ALL, apply(&role.replace("{virtualNode: web}, ", "")), apply(&role)),
        cell("label", ALL, apply(&web("yes")), apply(&web("no"))),
        cell(
            "template",
            ALL,
            apply(&template.replace("resource);", "resource) unless { principal == Node::\"web\" };")),
            apply(&template),
        ),
        cell("route", REQUESTS, Change::Apply(orders(None)), Change::Apply(orders(Some(PLAIN)))),
        cell(
            "data class",
            REQUESTS,
            Change::Apply(orders(Some(", dataClasses: [sealed]"))),
            Change::Apply(orders(Some(PLAIN))),
        ),
        cell("data class within another", REQUESTS, apply(&class.replace("[]", "[plain]")), apply(&class)),
        cell("service elsewhere", IN_THE_MESH, services("spare", "spare"), services("orders", "redis")),
        Cell {
            kept: by_rsa.clone(),
            ..cell(
                "users required",
                REQUESTS,
                Change::Apply(orders_for("{mode: REQUIRED}", Some(PLAIN))),
                Change::Apply(orders(Some(PLAIN))),
            )
        },
        Cell {
            cut: by_staff,
            kept: by_rsa.clone(),
            ..cell(
                "issuer gone",
                REQUESTS,
                Change::Delete("jwtissuer", "staff"),
                Change::Apply(staff.resource("")),
            )
        },
        Cell {
            cut: by_ec,
            kept: by_rsa,
            ..cell("issuer", REQUESTS, Change::Apply(without_ec), Change::Apply(login.resource("")))
        },
        Cell {
            cut: Who::Partner,
            kept: Who::Web,
            ..cell("bundle", IN_THE_MESH, Change::Apply(other.resource()), Change::Apply(partner.resource()))
        },
        Cell {
            cut: Who::Partner,
            kept: Who::Web,
            ..cell(
                "bundle gone",
                IN_THE_MESH,
                Change::Delete("federatedtrustdomain", "partner.test"),
                Change::Apply(partner.resource()),
            )
        },
        Cell {
            kept_kinds: IN_THE_MESH,
            kept: Who::Web,
            ..cell(
                "host outside",
                &[Outside, OutsideHttp, OutsideUpgrade],
                Change::Apply(outside(&matrix.app, "10.0.0.0/8")),
                Change::Apply(outside(&matrix.app, "127.0.0.0/8")),
            )
        },
        cell(
            "quarantine",
            IN_THE_MESH,
            run(&["quarantine", "node", "web", "--wait=20s"]),
            run(&["quarantine", "node", "web", "--undo", "--wait=20s"]),
        ),
        cell("revocation", IN_THE_MESH, run(&["revoke", "serial", &serial, "--wait=20s"]), Change::Nothing),
    ];
    for (mark, cell) in (b'B'..).zip(&cells) {
        matrix.try_cell(cell, mark).await;
    }
}
