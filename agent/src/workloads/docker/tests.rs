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

/// Where a process is of which /proc says this. `ID`, `OTHER` and `POD` stand for what engines make up.
fn told(cgroup: &str, mountinfo: &str) -> Whereabouts {
    let filled = |text: &str| {
        let pod = "poda2830d0d_b0f0_4ff0_81b5_0ee4e299cf80";
        text.replace("OTHER", OTHER).replace("ID", ID).replace("POD", pod)
    };
    let groups = Cgroups::parse(&filled(cgroup)).unwrap();
    let membership = groups.container().unwrap();
    let mounted = match membership {
        Some(_) => None,
        None => mounted_container(&filled(mountinfo)).unwrap(),
    };
    Whereabouts { groups, membership, mounted }
}

/// All hierarchies of version 1, as a host has them.
const V1: [&str; 7] =
    ["11:memory", "10:cpu,cpuacct", "7:blkio", "5:pids", "3:devices", "2:freezer", "1:name=systemd"];

/// A process of version 1 that is at this path in each hierarchy; systemd has it in a service of version 2.
fn v1(path: &str) -> String {
    let lines = V1.map(|hierarchy| format!("{hierarchy}:{path}\n"));
    format!("{}0::/system.slice/containerd.service\n", lines.concat())
}

/// Of version 1, within a container that has a namespace of its own for groups: these are bound into it.
const V1_MOUNTS: &str = "\
1090 1081 0:85 / / rw,relatime master:331 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/AB,upperdir=/var/lib/docker/overlay2/OTHER/diff
1101 1090 0:88 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
1102 1101 0:89 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
1103 1102 0:29 /docker/ID /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:11 - cgroup cgroup rw,xattr,name=systemd
1104 1102 0:34 /docker/ID /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:16 - cgroup cgroup rw,memory
1120 1090 8:1 /var/lib/docker/containers/ID/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw
";

/// Of version 2, within a container whose groups are told from itself.
const V2_PRIVATE_MOUNTS: &str = "\
812 601 0:53 / / rw,relatime master:270 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/CD,upperdir=/var/lib/docker/overlay2/OTHER/diff
823 812 0:57 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
824 823 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
840 812 8:1 /var/lib/docker/containers/ID/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw
";

/// The same with the group of the host's tree as the root of the mount.
const V2_MOUNTS: &str = "\
812 601 0:53 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/containers/storage/overlay/l/EF
824 823 0:28 /../../docker-ID.scope /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
";

#[test]
fn the_containers_of_each_engine_are_found_where_it_puts_them() {
    const POD: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-POD.slice";
    let unified = |path: &str| format!("0::{path}\n");
    for (engine, cgroup, mountinfo, wanted) in [
        ("Docker by cgroupfs, version 1", v1("/docker/ID"), "", Some(ID)),
        ("Docker by systemd, version 1", v1("/system.slice/docker-ID.scope"), "", Some(ID)),
        ("Docker, version 1, told from within", v1("/"), V1_MOUNTS, Some(ID)),
        (
            "Docker by systemd, version 2",
            unified("/system.slice/docker-ID.scope"),
            V2_PRIVATE_MOUNTS,
            Some(ID),
        ),
        ("Docker by cgroupfs, version 2", unified("/docker/ID"), V2_PRIVATE_MOUNTS, Some(ID)),
        (
            "Docker, rootless",
            unified("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope"),
            "",
            Some(ID),
        ),
        ("Docker, version 2, from beside it", unified("/../docker-ID.scope"), "", Some(ID)),
        ("Docker, version 2, told from within", unified("/"), V2_MOUNTS, Some(ID)),
        // Neither its groups nor its mounts of groups name it, and its other mounts are of its own making.
        ("Docker, version 2, of a namespace of its own", unified("/"), V2_PRIVATE_MOUNTS, None),
        ("Podman by systemd", unified("/machine.slice/libpod-ID.scope/container"), "", Some(ID)),
        (
            "Podman in a pod",
            unified("/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope/container"),
            "",
            Some(ID),
        ),
        (
            "Podman, rootless",
            unified("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container"),
            "",
            Some(ID),
        ),
        ("Podman by cgroupfs, version 1", v1("/libpod_parent/libpod-ID"), "", Some(ID)),
        (
            "containerd under a kubelet, by systemd",
            unified(&format!("{POD}/cri-containerd-ID.scope")),
            "",
            Some(ID),
        ),
        ("CRI-O", unified(&format!("{POD}/crio-ID.scope")), "", Some(ID)),
        ("a kubelet by cgroupfs, version 1", v1("/kubepods/burstable/POD/ID"), "", Some(ID)),
        (
            "a kubelet within a container",
            unified(&format!("/docker/OTHER/kubelet.slice{POD}/cri-containerd-ID.scope")),
            "",
            Some(ID),
        ),
        ("an Engine within a container", unified("/system.slice/docker-OTHER.scope/docker/ID"), "", Some(ID)),
        ("an init system within a container", unified("/docker/ID/init.scope"), "", Some(ID)),
        ("no container", unified("/user.slice/user-1000.slice/session-3.scope"), V2_PRIVATE_MOUNTS, None),
        (
            "no container, which sees mounts of one",
            unified("/system.slice/nginx.service"),
            "840 812 8:1 /var/lib/docker/containers/ID/hosts /h rw - ext4 /dev/sda1 rw\n",
            None,
        ),
    ] {
        let here = told(&cgroup, mountinfo);
        assert_eq!(here.container().map(ContainerId::as_str), wanted, "{engine}");
        assert_eq!(here.is_beside(&told(&cgroup, mountinfo)), wanted.is_some(), "{engine}");
        // Who is in the group of another container, or in none, is not beside it.
        let elsewhere =
            told(&cgroup.replace("ID", &"e".repeat(64)), &mountinfo.replace("ID", &"e".repeat(64)));
        assert!(!here.is_beside(&elsewhere) && !elsewhere.is_beside(&here), "{engine}");
        assert!(!here.is_beside(&told("0::/user.slice\n", "")), "{engine}");
    }
}

#[test]
fn what_watches_a_container_is_not_in_it() {
    let first = told("0::/machine.slice/libpod-ID.scope/container\n", "");
    for beside in
        ["/machine.slice/libpod-conmon-ID.scope", "/machine.slice/libpod-ID.scope.d/x", "/machine.slice/ID"]
    {
        assert!(!told(&format!("0::{beside}\n"), "").is_beside(&first), "{beside}");
    }
    // What an init system of its own has moved further down is.
    assert!(told("0::/machine.slice/libpod-ID.scope/container/init.scope\n", "").is_beside(&first));
}

#[tokio::test]
async fn what_each_engine_says_of_a_container_is_read() {
    let digest = format!("sha256:{}", "f0".repeat(32));
    let by_digest = format!("docker:image_config_digest:{digest}");
    let state = json!({"Status": "running", "Running": true, "Paused": false, "Restarting": false, "OOMKilled": false,
        "Dead": false, "Pid": 4242, "ExitCode": 0, "Error": "", "StartedAt": "2026-11-28T04:30:32.3Z"});
    let engines = [
        (
            "Docker 20.10",
            json!({"Id": ID, "State": state, "Image": digest, "Name": "/web", "Driver": "overlay2", "AppArmorProfile": "docker-default",
                "HostConfig": {"NetworkMode": "default", "CgroupnsMode": "private", "Cgroup": ""}, "GraphDriver": {"Name": "overlay2"},
                "Config": {"Hostname": "0123456789ab", "User": "", "Env": ["PATH=/usr/bin"], "Cmd": ["sh"], "Image": "web:1",
                    "Entrypoint": null, "OnBuild": null, "Labels": {}}}),
            vec!["docker:image_id:web:1", by_digest.as_str()],
        ),
        (
            "Docker 28, of a store of containerd's",
            json!({"Id": ID, "State": state, "Image": digest, "Name": "/web", "Platform": "linux",
                "ImageManifestDescriptor": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", "0d".repeat(32))},
                "Config": {"Image": "registry.example/web@sha256:0d", "Env": [], "Labels": {"com.docker.compose.service": "web"}}}),
            vec![
                "docker:image_id:registry.example/web@sha256:0d",
                by_digest.as_str(),
                "docker:label:com.docker.compose.service:web",
            ],
        ),
        (
            "Podman, as it answers who speaks to Docker",
            json!({"Id": ID, "State": {"Status": "running", "Running": true, "Pid": 4242, "Health": null}, "Image": digest, "Name": "/web",
                "HostConfig": {"CgroupMode": "private"},
                "Config": {"Hostname": "0123456789ab", "Env": ["container=podman"], "Image": "docker.io/library/web:1", "Labels": null}}),
            vec!["docker:image_id:docker.io/library/web:1", by_digest.as_str()],
        ),
        (
            "one that says no more than it must",
            json!({"Id": ID, "State": {"Running": true, "Pid": 4242}, "Image": "f0f0", "Config": {"Image": ""}}),
            vec![],
        ),
    ];
    for (engine, answer, expected) in engines {
        let container = ask(&FakeEngine::saying(&answer).engine()).await.unwrap().unwrap();
        assert_eq!(container.pid(), 4242, "{engine}");
        assert_eq!(container.selectors(&BTreeSet::new()), selectors(&expected), "{engine}");
    }
    // Podman says so of one that has ended.
    let ended = json!({"Id": ID, "State": {"Status": "exited", "Running": false, "Pid": 0, "ExitCode": 137}, "Image": digest,
        "Config": {"Image": "web:1", "Labels": null, "Env": null}});
    assert!(ask(&FakeEngine::saying(&ended).engine()).await.unwrap().is_none());
    // Of no number that a process may have.
    let negative = json!({"Id": ID, "State": {"Running": true, "Pid": -1}, "Image": digest, "Config": {"Image": "web:1"}});
    assert!(ask(&FakeEngine::saying(&negative).engine()).await.unwrap().is_none());
}
