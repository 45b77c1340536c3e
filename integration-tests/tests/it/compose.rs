//! The demo in containers: deploy/demo/compose.yaml with the image that `make image` built, driven from inside, since
//! its apps are reachable from nowhere else.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hauberk_integration_tests::{CommandOutput, Excuse, binary, eventually, excuse, free_port};

/// Containers start slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const ORDER: &str = "http://orders/orders/1";
const CHARGE: &str = "POST http://payments/charge";

fn wanted() -> bool {
    if std::env::var_os("HAUBERK_TEST_COMPOSE").is_none_or(|value| value != "1") {
        excuse(Excuse::NotAskedFor, "needs Docker and the image of `make image`; set HAUBERK_TEST_COMPOSE=1");
        return false;
    }
    true
}

/// The demo under a project name of its own, so that it meddles with no other; taken down when dropped.
struct Shop {
    project: String,
    admin_port: u16,
    home: tempfile::TempDir,
}

impl Shop {
    fn up() -> Self {
        let shop = Self {
            project: format!("hauberk-test-{}", std::process::id()),
            admin_port: free_port().port(),
            home: tempfile::tempdir().unwrap(),
        };
        shop.start();
        shop
    }

    fn start(&self) {
        self.compose(&["up", "-d", "--no-build"]).ok();
    }

    /// Compose v2 where it is there, else v1.
    fn compose(&self, arguments: &[&str]) -> CommandOutput {
        let v2 = Command::new("docker").args(["compose", "version"]).output();
        let mut command = if v2.is_ok_and(|output| output.status.success()) {
            let mut docker = Command::new("docker");
            docker.arg("compose");
            docker
        } else {
            Command::new("docker-compose")
        };
        command
            .arg("-f")
            .arg(root().join("deploy/demo/compose.yaml"))
            .args(["-p", &self.project])
            .args(arguments)
            .env("HAUBERK_ADMIN_PORT", self.admin_port.to_string())
            .env("HAUBERK_DEMO_LOG", "info");
        run(command)
    }

    /// Takes the containers down and leaves the volumes. Engines are known that keep an endpoint of a container that is
    /// gone, and so its network, until they are restarted: that is no fault of ours, and the next `up` takes the same
    /// network.
    fn down(&self) {
        let down = self.compose(&["down", "--timeout", "5"]);
        if down.code != 0 && down.stderr.contains("has active endpoints") {
            assert_eq!(self.containers(), "", "{}", down.stderr);
            eprintln!("the engine keeps the network of containers that are gone: {}", down.stderr.trim());
        } else {
            down.ok();
        }
    }

    /// The ids of all its containers.
    fn containers(&self) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project);
        docker(&["ps", "--all", "--quiet", "--filter", &project]).ok().stdout
    }

    fn in_container(&self, service: &str, arguments: &[&str]) -> CommandOutput {
        self.compose(&[["exec", "-T", service, "hauberk"].as_slice(), arguments].concat())
    }

    /// The command line inside the control plane's container.
    fn hauberk(&self, arguments: &[&str]) -> CommandOutput {
        self.in_container("control-plane", arguments)
    }

    /// One call through a node's agent.
    fn call(&self, node: &str, target: &str) -> CommandOutput {
        self.in_container(node, &["demo", "probe", "call", target])
    }

    /// Asked until it goes through: for the moment after a start, when endpoints are still on their way.
    fn goes_through(&self, when: &str, node: &str, target: &str) -> String {
        let mut last = String::new();
        eventually(&format!("{when}: {node} calls {target}"), PATIENCE, || {
            let output = self.call(node, target);
            let said = format!("{}{}", output.stdout, output.stderr);
            if said != last {
                eprintln!("{when}: {node}: {}", said.trim());
                last.clone_from(&said);
            }
            (output.code == 0).then_some(said)
        })
    }

    /// The whole chain works, and so does the sidecar at its end.
    fn works(&self, when: &str) {
        let answer = self.goes_through(when, "web", ORDER);
        assert!(answer.contains("200"), "{answer}");
        eventually(&format!("{when}: payments answers orders"), PATIENCE, || {
            let answer = self.call("web", ORDER).stdout;
            (answer.contains("\"status\":200")).then_some(answer)
        });
    }

    /// Those that a plain `down` leaves to Docker.
    fn anonymous_volumes(&self) -> Vec<String> {
        let containers = self.containers();
        let format = "{{range .Mounts}}{{println .Name}}{{end}}";
        let inspect: Vec<&str> =
            ["inspect", "--format", format].into_iter().chain(containers.lines()).collect();
        let mounts = docker(&inspect).ok().stdout;
        let is_anonymous =
            |name: &&str| name.len() == 64 && name.chars().all(|digit| digit.is_ascii_hexdigit());
        mounts.lines().filter(is_anonymous).map(str::to_owned).collect()
    }

    fn connected(&self, node: &str) -> usize {
        let listed = self.hauberk(&["get", "instances"]);
        listed
            .stdout
            .lines()
            .filter(|line| line.contains(&format!("shop/{node} ")) && line.contains(" connected "))
            .count()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.compose(&["ps"]).stdout);
            eprintln!("{}", self.compose(&["logs", "--no-color", "--tail=15"]).stdout);
        }
        self.compose(&["down", "--volumes", "--timeout", "5"]);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn docker(arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new("docker");
    command.args(arguments);
    run(command)
}

fn run(mut command: Command) -> CommandOutput {
    let output = command.stdin(Stdio::null()).output().unwrap();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_shop_runs_in_containers() {
    if !wanted() {
        return;
    }
    let shop = Shop::up();
    shop.works("after the first start");

    // Denied, explained, past the agent, allowed.
    let denied = eventually("the intruder is denied", PATIENCE, || {
        let output = shop.call("intruder", CHARGE);
        assert_ne!(output.code, 0, "nobody permitted it: {output:?}");
        output.stdout.split_once("denied: ").map(|(_, id)| id.split_whitespace().next().unwrap().to_owned())
    });
    let explained = shop.hauberk(&["explain", &denied]).ok().stdout;
    assert!(explained.contains("intruder") && explained.contains("hauberk allow"), "{explained}");
    for app in ["payments:9000", "orders:9000"] {
        let bypass = shop.in_container("intruder", &["demo", "probe", "connect", app]);
        assert_eq!(bypass.code, 1, "{app} is reachable past its agent: {bypass:?}");
    }
    let agent = shop.in_container("intruder", &["demo", "probe", "connect", "payments:8080"]);
    assert_eq!(agent.code, 0, "the probe finds what does listen: {agent:?}");
    // Told once twenty calls of web were answered, and before anybody permits what it tells of.
    eventually("the story tells the denial", PATIENCE, || {
        let story = shop.compose(&["logs", "--no-color", "story"]).stdout;
        story.contains("DENIED by default").then_some(())
    });
    shop.hauberk(&["allow", "intruder", "payments", "--methods", "POST", "--path", "/charge", "--wait"]).ok();
    let allowed = shop.call("intruder", CHARGE);
    assert_eq!(allowed.code, 0, "enforced means now: {allowed:?}");

    an_admin_logs_in_from_the_host(&shop);

    // The control plane goes, the calls go on.
    shop.compose(&["stop", "control-plane"]).ok();
    for _ in 0..5 {
        let call = shop.call("web", ORDER);
        assert_eq!(call.code, 0, "without a control plane: {call:?}");
    }
    shop.compose(&["start", "control-plane"]).ok();
    eventually("the agents are back", PATIENCE, || (shop.connected("orders") == 1).then_some(()));

    shop.compose(&["up", "-d", "--no-build", "--scale", "orders=3"]).ok();
    eventually("three instances of orders", PATIENCE, || (shop.connected("orders") == 3).then_some(()));
    shop.works("with three instances");

    shop.compose(&["restart"]);
    shop.works("after a restart of everything");
    shop.compose(&["restart", "payments"]).ok();
    shop.works("after the sidecar's app alone was restarted");

    // Back to one: what the other two leave is Docker's.
    let of_three = shop.anonymous_volumes();
    assert_eq!(of_three.len(), 3, "only orders has volumes without a name");
    shop.compose(&["up", "-d", "--no-build", "--force-recreate"]).ok();
    shop.works("after all containers were made anew");

    assert_eq!(shop.anonymous_volumes().len(), 1, "a container made anew keeps its volume");
    shop.down();
    docker(&[["volume", "rm"].as_slice(), &of_three.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        .ok();
    shop.start();
    shop.works("after down and up");
    assert_eq!(shop.call("intruder", CHARGE).code, 0, "policies have survived");
}

/// With a login token made inside, and the command line of this machine.
fn an_admin_logs_in_from_the_host(shop: &Shop) {
    let made = shop.hauberk(&["admin", "create", "visitor", "--role", "viewer"]).ok();
    let fingerprint =
        made.stderr.split_once("--root-fingerprint ").unwrap().1.split_whitespace().next().unwrap();
    let token = shop.home.path().join("token");
    std::fs::write(&token, &made.stdout).unwrap();
    let hauberk = |arguments: &[&str]| {
        let mut command = Command::new(binary("hauberk"));
        command.args(arguments).env("HAUBERK_HOME", shop.home.path());
        run(command)
    };
    let server = format!("127.0.0.1:{}", shop.admin_port);
    let token = token.to_str().unwrap();
    hauberk(&["login", "--server", &server, "--root-fingerprint", fingerprint, "--token-file", token]).ok();
    let nodes = hauberk(&["get", "virtualnodes"]).ok().stdout;
    assert!(nodes.contains("payments"), "{nodes}");
}
