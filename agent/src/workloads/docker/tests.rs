use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::looks::Looks;
use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

/// A socket at which an Engine answers, and how often it was asked.
struct FakeEngine {
    socket: PathBuf,
    asked: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl FakeEngine {
    /// Answers every request for `ID` with these bytes, as they are.
    fn answering(answer: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut head) = (stream.unwrap(), Vec::new());
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                assert!(
                    head.starts_with(&format!("GET /containers/{ID}/json HTTP/1.1\r\nhost: docker\r\n")),
                    "{head}"
                );
                count.fetch_add(1, Ordering::SeqCst);
                // Whoever has heard enough hangs up.
                let _ = stream.write_all(&answer);
            }
        });
        Self { socket, asked, _folder: folder }
    }

    fn saying(body: &Value) -> Self {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self::answering([head.into_bytes(), body.into_bytes()].concat())
    }

    fn engine(&self) -> Engine {
        Engine::new(self.socket.clone())
    }
}

/// As `GET /containers/ID/json` of a real Engine, shortened.
fn inspected(pid: u32) -> Value {
    json!({
        "Id": ID, "Created": "2026-11-28T04:30:32.128200385Z", "Path": "/pause", "Args": [],
        "State": {"Status": "running", "Running": true, "Paused": false, "Dead": false, "Pid": pid, "ExitCode": 0},
        "Image": format!("sha256:{}", "f0".repeat(32)), "Name": "/worker", "RestartCount": 0,
        "HostConfig": {"Binds": null, "CgroupnsMode": "host"},
        "Config": {
            "Hostname": "0123456789ab", "Image": "registry.example:5000/worker:1", "Cmd": null,
            "Env": ["PATH=/usr/bin", "PASSWORD=secret", "NAME=worker", "ODD"],
            "Labels": {"com.example.name": "worker", "com.example:name": "worker"}
        }
    })
}

fn selectors(texts: &[&str]) -> BTreeSet<Selector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn ask(engine: &Engine) -> Result<Option<Container>, EngineError> {
    let groups = Cgroups::parse(&format!("0::/docker/{ID}")).unwrap();
    engine.inspect(&groups.container().unwrap().unwrap().id).await
}

#[tokio::test]
async fn a_container_is_read_and_its_secrets_are_not_told() {
    let container = ask(&FakeEngine::saying(&inspected(7)).engine()).await.unwrap().unwrap();
    assert_eq!(container.pid(), 7);
    let plain = [
        "docker:label:com.example.name:worker",
        "docker:image_id:registry.example:5000/worker:1",
        &format!("docker:image_config_digest:sha256:{}", "f0".repeat(32)),
    ];
    assert_eq!(container.selectors(&BTreeSet::new()), selectors(&plain));
    let told = container.selectors(&selectors(&["docker:env:NAME=worker", "docker:env:NAME=other"]));
    assert_eq!(told, selectors(&[plain.as_slice(), &["docker:env:NAME=worker"]].concat()));
    assert!(!format!("{container:?}").contains("secret"));
}

#[tokio::test]
async fn what_is_no_running_container_is_none_and_what_is_no_answer_an_error() {
    let change = |path: &str, value: Value| {
        let mut changed = inspected(7);
        *changed.pointer_mut(path).unwrap() = value;
        FakeEngine::saying(&changed)
    };
    let gone = FakeEngine::answering(
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 31\r\n\r\n{\"message\":\"No such container\"}\n".to_vec(),
    );
    for engine in [change("/State/Running", json!(false)), change("/State/Pid", json!(0)), gone] {
        assert!(ask(&engine.engine()).await.unwrap().is_none());
    }
    let large =
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n".to_vec(), vec![b' '; 2_000_000]].concat();
    for (engine, wanted) in [
        (change("/Id", json!(OTHER)), "another container"),
        (change("/State/Pid", json!("7")), "malformed"),
        (
            FakeEngine::answering(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ),
            "500",
        ),
        (FakeEngine::answering(large), "more than"),
        (FakeEngine::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec()), "cannot be read"),
        (FakeEngine::answering(b"SSH-2.0-OpenSSH\r\n".to_vec()), "broke"),
    ] {
        let problem = ask(&engine.engine()).await.unwrap_err().to_string();
        assert!(problem.contains(wanted), "{wanted}: {problem}");
    }
    let nowhere = Engine::new("/nonexistent/docker.sock".into());
    assert!(ask(&nowhere).await.unwrap_err().to_string().contains("cannot be connected to"));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_silent_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(matches!(ask(&Engine::new(socket)).await, Err(EngineError::TimedOut)));
}

/// A process that is in no container.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn whoever_is_in_no_container_is_not_asked_about() {
    let fake = FakeEngine::saying(&inspected(std::process::id()));
    let docker = Docker::new(fake.socket.clone());
    let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let caller = Arc::new(Caller::of(&ours, &Looks::new(CancellationToken::new())).unwrap());
    let groups = caller.process().unwrap().cgroups().unwrap();
    if groups.container().is_ok_and(|membership| membership.is_none()) {
        assert_eq!(docker.selectors(&caller, &BTreeSet::new()).await.unwrap(), BTreeSet::new());
        assert_eq!(fake.asked.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn what_a_program_has_mounted_proves_nothing() {
    let sleeper = Sleeper::start();
    let process = Process::hold(i32::try_from(sleeper.0.id()).unwrap()).unwrap();
    let id = |text: &str| Cgroups::parse(&format!("0::/{text}")).unwrap().container().unwrap().unwrap().id;
    let at = |path: &str, mounted: Option<&str>| {
        let groups = Cgroups::parse(&format!("0::{path}")).unwrap();
        Whereabouts { membership: groups.container().unwrap(), groups, mounted: mounted.map(id) }
    };
    let first = at(&format!("/docker/{ID}"), None);
    assert!(at(&format!("/docker/{ID}/below"), None).is_beside(&first));
    for forged in [
        at("/user.slice", Some(ID)),
        at("/", Some(ID)),
        at(&format!("/docker/{OTHER}/{ID}"), None),
        at(&format!("/docker/{OTHER}"), Some(ID)),
        at("/", None),
    ] {
        assert!(!forged.is_beside(&first));
    }
    // Told from within the container: the first process must say the same.
    let within = at("/", Some(ID));
    assert!(within.is_beside(&at("/", Some(ID))));
    assert!(!within.is_beside(&at("/", Some(OTHER))) && !within.is_beside(&at("/", None)));
    assert!(!at("/below", Some(ID)).is_beside(&at("/", Some(ID))));
    Whereabouts::of(&process).unwrap();
}
