//! Programs that are known by their container or their systemd unit: a real Docker Engine, real control groups.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hauberk_integration_tests::{Agent, AgentOptions, Excuse, MeshBox, binary, eventually, excuse};

use crate::{
    shop::{PATIENCE, SMALL_SHOP},
    workload_api::enrollment,
};

const DOCKER: &str = "/var/run/docker.sock";

fn shop(arguments: &[&str]) -> (MeshBox, Agent, PathBuf) {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let socket = mesh.folder().join("run").join("api.sock");
    let options =
        AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
    let options = arguments.iter().fold(options, |options, argument| options.argument(argument));
    let agent = mesh.agent("web", options);
    (mesh, agent, socket)
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), text)
}

/// The paths of the identities that `api fetch x509` shows.
fn paths(said: &str) -> Vec<String> {
    let ids = said.lines().filter_map(|line| line.strip_prefix("spiffe://box.test/workload/test/"));
    ids.map(str::to_owned).collect()
}

fn waits_for_nothing(mesh: &MeshBox, agent: &Agent, names: &[&str]) {
    mesh.wait_enforced();
    eventually("every certificate is there", PATIENCE, || {
        let log = agent.process.log();
        let is_there = |name: &&str| {
            log.lines().any(|line| line.contains("workload_certificate") && line.contains(*name))
        };
        names.iter().all(is_there).then_some(())
    });
}

/// An image that holds next to nothing: what runs in it is the host's. Removed when dropped.
struct TestImage(String);

impl TestImage {
    fn build(folder: &Path) -> Self {
        let context = folder.join("image");
        fs::create_dir(&context).unwrap();
        fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY Dockerfile /\nLABEL com.example.tier=batch\n",
        )
        .unwrap();
        let name = format!("hauberk-it-{}:1", std::process::id());
        let (ok, said) = run(Command::new("docker").args(["build", "--quiet", "--tag", &name]).arg(&context));
        assert!(ok, "{said}");
        Self(name)
    }

    fn digest(&self) -> String {
        let (ok, said) =
            run(Command::new("docker").args(["image", "inspect", "--format", "{{.Id}}", &self.0]));
        assert!(ok, "{said}");
        said.trim().to_owned()
    }

    /// What a program in a container of this image is given.
    fn fetch(&self, socket: &Path, options: &[&str]) -> (bool, String) {
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--network", "none"]);
        for folder in ["/usr", "/lib", "/lib64"].into_iter().filter(|folder| Path::new(folder).exists()) {
            command.arg("--volume").arg(format!("{folder}:{folder}:ro"));
        }
        let program = binary("hauberk-agent");
        command.arg("--volume").arg(format!("{}:/hauberk-agent:ro", program.display()));
        command.arg("--volume").arg(format!("{}:/run/hauberk:rw", socket.parent().unwrap().display()));
        command.args(options).arg(&self.0);
        run(command.args(["/hauberk-agent", "api", "fetch", "x509", "--socket", "/run/hauberk/api.sock"]))
    }
}

impl Drop for TestImage {
    fn drop(&mut self) {
        run(Command::new("docker").args(["image", "rm", "--force", &self.0]));
    }
}

#[test]
fn a_container_is_known_by_what_the_docker_engine_tells() {
    let has_engine =
        Command::new("docker").args(["version"]).output().is_ok_and(|output| output.status.success());
    if !has_engine || !Path::new(DOCKER).exists() {
        return excuse(Excuse::DockerEngine, &format!("on {DOCKER}"));
    }
    let (mesh, agent, socket) = shop(&["--docker-socket", DOCKER]);
    let image = TestImage::build(mesh.folder());
    for (name, selector) in [
        ("by-digest", format!("docker:image_config_digest:{}", image.digest())),
        ("by-env", "docker:env:NAME=worker".to_owned()),
        ("by-image", format!("docker:image_id:{}", image.0)),
        ("by-label", "docker:label:com.example.name:worker".to_owned()),
        ("by-other-label", "docker:label:com.example.name:other".to_owned()),
    ] {
        mesh.apply(&enrollment(name, "web", &selector, ""));
    }
    let all = ["by-digest", "by-env", "by-image", "by-label", "by-other-label"];
    waits_for_nothing(&mesh, &agent, &all);

    let worker =
        ["--label", "com.example.name=worker", "--env", "NAME=worker", "--env", "PASSWORD=topsecret"];
    let (ok, said) = image.fetch(&socket, &worker);
    assert!(ok, "{said}\n{}", agent.process.log());
    assert_eq!(paths(&said), all[..4]);
    let (ok, said) = image.fetch(&socket, &["--label", "com.example.name=other"]);
    assert!(ok, "{said}");
    assert_eq!(paths(&said), ["by-digest", "by-image", "by-other-label"]);

    // In no container, and once nothing of it is asked for any longer.
    let (ok, said) =
        run(Command::new(binary("hauberk-agent")).args(["api", "fetch", "x509", "--socket"]).arg(&socket));
    assert!(!ok && said.contains("no identity for this program"), "{said}");
    for name in ["by-digest", "by-image", "by-other-label"] {
        mesh.hauberk(&["delete", "enrollment", name]).ok();
    }
    eventually("a container is refused", PATIENCE, || {
        let (ok, _) = image.fetch(&socket, &["--env", "PASSWORD=topsecret"]);
        (!ok).then_some(())
    });
    let log = agent.process.log();
    let refused = log.lines().rfind(|line| line.contains("workload_denied")).unwrap();
    assert!(refused.contains("docker:label:com.example.tier:batch"), "what is true of it is told: {refused}");
    assert!(!log.contains("topsecret"));
}

/// A control group of systemd's hierarchy, named as systemd names that of a service. Removed when dropped.
struct Group(PathBuf);

impl Group {
    /// `None` where we may make none.
    fn make(unit: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
        let group = root.join(format!("hauberk-it-{}.slice", std::process::id())).join(unit);
        fs::create_dir_all(&group).ok()?;
        Some(Self(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = fs::remove_dir(self.0.parent().unwrap());
    }
}

#[test]
fn a_service_of_systemd_is_known_by_its_control_group() {
    let Some(group) = Group::make("worker.service") else {
        return excuse(Excuse::Kernel, "a control group");
    };
    let (mesh, agent, socket) = shop(&[]);
    mesh.apply(&enrollment("by-unit", "web", "systemd:id:worker.service", ""));
    mesh.apply(&enrollment("by-other-unit", "web", "systemd:id:other.service", ""));
    waits_for_nothing(&mesh, &agent, &["by-unit", "by-other-unit"]);
    let program = binary("hauberk-agent");
    let fetch = |shell: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{shell} exec \"$@\""), "sh"]).arg(&program);
        run(command.args(["api", "fetch", "x509", "--socket"]).arg(&socket))
    };
    let (ok, said) = fetch(&format!("echo $$ > {}/cgroup.procs;", group.0.display()));
    assert!(ok, "{said}\n{}", agent.process.log());
    assert_eq!(paths(&said), ["by-unit"]);
    let (ok, said) = fetch("");
    assert!(!ok, "{said}");
}
