//! Ten lives of a certificate: what is held open lives on as long as its peer renews, and not a moment longer.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hauberk_integration_tests::{
    Agent, AgentOptions, App, MeshBox, Process, dial, eventually, free_port, skip, wants_longest_tests,
};
use hauberk_proto::admin::v1::{Instance, ListInstancesRequest, identities_client::IdentitiesClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    grpc::{call_streaming, channel, until_reachable},
    load::Load,
    peer::Peer,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
    streaming_app::StreamingApp,
};

const LIFE: Duration = Duration::from_secs(60);
const LIVES: u32 = 10;
/// Between one use of a connection and the next.
const STEP: Duration = Duration::from_millis(100);

/// A way to the control plane that can be taken away.
struct Bridge {
    address: SocketAddr,
    is_gone: Arc<AtomicBool>,
}

impl Bridge {
    fn to(target: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (target, is_gone) = (target.to_owned(), Arc::new(AtomicBool::new(false)));
        let gone = Arc::clone(&is_gone);
        thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                if gone.load(Ordering::Relaxed) {
                    continue;
                }
                let there = TcpStream::connect(&target).unwrap();
                carry(here.try_clone().unwrap(), there.try_clone().unwrap(), &gone);
                carry(there, here, &gone);
            }
        });
        Self { address, is_gone }
    }

    fn take_away(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, gone: &Arc<AtomicBool>) {
    let gone = Arc::clone(gone);
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = std::io::Read::read(&mut from, &mut buffer) {
            if gone.load(Ordering::Relaxed) || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
    });
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Redis, and a connection to it by way of an agent.
struct Redis(BufReader<TcpStream>);

impl Redis {
    fn server(mesh: &MeshBox) -> Option<(Process, SocketAddr)> {
        let program = std::path::Path::new("/usr/bin/redis-server");
        if !program.exists() {
            skip("redis-server is not installed");
            return None;
        }
        let address = free_port();
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
        command.args(["--timeout", "0"]).current_dir(mesh.folder());
        let server = Process::start("redis", mesh.folder(), command);
        eventually("Redis listens", PATIENCE, || TcpStream::connect(address).ok());
        Some((server, address))
    }

    fn connect(agent: &Agent) -> Self {
        eventually("Redis answers", PATIENCE, || {
            let stream = TcpStream::connect(agent.tcp("cache:6379")).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut redis = Self(BufReader::new(stream));
            redis.count().map(|_| redis)
        })
    }

    /// One more, if the connection still holds.
    fn count(&mut self) -> Option<u64> {
        self.0.get_mut().write_all(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").ok()?;
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        line.trim().strip_prefix(':')?.parse().ok()
    }
}

/// The instances of a node, and when their certificates end.
async fn instances(mesh: &MeshBox, node: &str) -> BTreeMap<String, Duration> {
    let channel = dial::channel(mesh.admin_address(), dial::admin(mesh));
    let request = ListInstancesRequest { mesh: "shop".to_owned(), node: node.to_owned() };
    let listed = IdentitiesClient::new(channel).list_instances(request).await.unwrap().into_inner().instances;
    let end = |instance: &Instance| {
        let end = instance.certificate_not_after.unwrap();
        Duration::new(end.seconds.try_into().unwrap(), end.nanos.try_into().unwrap())
    };
    listed.iter().map(|instance| (instance.id.clone(), end(instance))).collect()
}

/// Holds an opaque connection to Redis as a client without an agent does; when it was answered for the last time, and
/// when it was found cut.
async fn foreign_client(peer: Peer, address: SocketAddr) -> (Duration, Duration) {
    let mut stream = peer.connect("redis", address, &[]).await.unwrap();
    let mut last = Duration::ZERO;
    let mut answer = [0; 7];
    while stream.write_all(b"PING\r\n").await.is_ok() && stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"+PONG\r\n");
        last = now();
        tokio::time::sleep(STEP).await;
    }
    (last, now())
}

/// Whether something that was answered at `last`, and found cut at `found`, was cut when a certificate ended. Between
/// the two a busy machine may let any time pass.
fn assert_cut_at(end: Duration, (last, found): (Duration, Duration)) {
    let [last, found] = [last, found].map(|at| at.as_secs_f64() - end.as_secs_f64());
    eprintln!("answered at {last:+.1} s and cut at {found:+.1} s from the end of the certificate");
    assert!(last <= 2.0 && found >= -1.0, "{last:+.1} s, {found:+.1} s");
}

/// Ten minutes and more: a Redis connection and a gRPC stream are held through ten lives of their certificates, with
/// calls going on beside; whoever cannot renew is cut when its certificate expires, and so is a client without an
/// agent.
#[test]
fn ten_lives() {
    if !wants_longest_tests() {
        return;
    }
    let mesh = shop::open_with(&["--svid-ttl", "1m"]);
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let Some((_server, address)) = Redis::server(&mesh) else { return };
    let (app, streaming) = (App::start("payments"), StreamingApp::start());
    let redis = shop::redis(&mesh, address);
    let _orders = shop::orders(&mesh, streaming.address());
    let _payments = mesh.agent("payments", AgentOptions::default().app(8080, app.address()));
    let runtime = Runtime::new().unwrap();
    let bridge = Bridge::to(mesh.agent_address());
    let mut lonely = AgentOptions::default().tcp("cache:6379");
    lonely.control_plane = Some(bridge.address.to_string());
    let lonely = mesh.agent("web", lonely);
    let lonely_id = runtime.block_on(instances(&mesh, "web")).into_keys().next().unwrap();
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    get_until(&web, "payments", "/", 200);

    let (mut held, mut doomed) = (Redis::connect(&web), Redis::connect(&lonely));
    let (questions, mut answers) = runtime.block_on(async {
        let channel = channel(web.outbound(), "orders-rpc");
        until_reachable(&channel).await;
        let (questions, receiver) = mpsc::channel(1);
        let both = call_streaming(&channel, "/test.Echo/Both", ReceiverStream::new(receiver)).await.unwrap();
        (questions, both.into_inner())
    });
    let mut use_both = || {
        let number = held.count().expect("the connection is held").to_string();
        runtime.block_on(async {
            questions.send(number.clone()).await.unwrap();
            let answer = timeout(PATIENCE, answers.message()).await.unwrap().unwrap();
            assert_eq!(answer, Some(number), "the stream is held");
        });
    };
    let load = Load::with_pauses(web.outbound(), "payments", Duration::from_millis(50));
    let (svid, key) = runtime.block_on(dial::join(&mesh, "web"));
    let foreign = runtime.spawn(foreign_client(Peer::with(&mesh, &svid, &key), redis.inbound(6379)));

    let begun = now();
    // Renewed for as long as there is a way, and then not.
    while now() - begun < LIFE * 2 {
        doomed.count().expect("while it can renew it is held");
        use_both();
        thread::sleep(STEP);
    }
    bridge.take_away();
    let end = runtime.block_on(instances(&mesh, "web"))[&lonely_id];
    let mut last = now();
    while doomed.count().is_some() {
        last = now();
        assert!(last < end + LIFE, "it lives on");
        use_both();
        thread::sleep(STEP);
    }
    assert_cut_at(end, (last, now()));
    let last = runtime.block_on(async { timeout(PATIENCE, foreign).await.unwrap().unwrap() });
    assert_cut_at(Duration::from_millis(svid.validity().not_after().0), last);

    while now() - begun < LIFE * LIVES {
        use_both();
        thread::sleep(STEP);
    }
    load.finish();
}
