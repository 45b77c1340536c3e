//! One agent of the mesh in the box.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;

use crate::{
    MeshBox, Process, binary,
    control_plane::{in_a_file_name, path},
    eventually,
    process::set_clock,
};

/// How an agent is started.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Listener port → the app's address.
    pub apps: Vec<(u16, SocketAddr)>,
    /// Services bound to local ports: `redis:6379`.
    pub tcp: Vec<String>,
    /// An existing state directory; none: a new one.
    pub state_dir: Option<PathBuf>,
    /// An existing token file; none: a new token.
    pub token_file: Option<PathBuf>,
    /// The roots to trust; none: the mesh's.
    pub bundle_file: Option<PathBuf>,
    /// Where to look for the control plane; none: where it is.
    pub control_plane: Option<String>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// A command for the agent to start.
    pub child: Vec<String>,
    /// The most files that the system lets it open; none: as many as this process may.
    pub open_files: Option<u32>,
    /// By how much its clock is off, as faketime writes it (`-2h`), or an absolute path of a file that says so, and its
    /// library; none: it is right.
    pub clock: Option<(String, PathBuf)>,
    /// The program; none: the agent that was built.
    pub program: Option<PathBuf>,
}

impl AgentOptions {
    /// With an app behind a listener port.
    pub fn app(mut self, port: u16, address: SocketAddr) -> Self {
        self.apps.push((port, address));
        self
    }

    /// With a service bound to a local port.
    pub fn tcp(mut self, service: &str) -> Self {
        self.tcp.push(service.to_owned());
        self
    }

    /// Without access lines.
    pub fn quiet(self) -> Self {
        self.argument("--access-log").argument("off")
    }

    /// With so many files, sockets among them, and no more.
    pub fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// With a clock that is off.
    pub fn clock(mut self, offset: &str, faketime: &Path) -> Self {
        self.clock = Some((offset.to_owned(), faketime.to_owned()));
        self
    }

    /// With more arguments.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    node: String,
    state_dir: PathBuf,
    options: AgentOptions,
    control_plane: String,
    bundle: PathBuf,
    addresses: Value,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Agent {
    pub(crate) fn start(mesh: &MeshBox, node: &str, mut options: AgentOptions) -> Self {
        let agent = Self::spawn(mesh, node, &mut options);
        agent.ready()
    }

    /// Starts an agent and does not wait for it.
    pub fn spawn(mesh: &MeshBox, node: &str, options: &mut AgentOptions) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = || mesh.folder().join(format!("agent-{}-{number}", in_a_file_name(node)));
        let state_dir = options.state_dir.clone().unwrap_or_else(own);
        let shows_evidence = options.arguments.iter().any(|argument| argument == "--enrollment");
        if options.token_file.is_none() && !state_dir.exists() && !shows_evidence {
            options.token_file = Some(mesh.token_file(node, &[]));
        }
        let bundle = options.bundle_file.clone().unwrap_or_else(|| mesh.bundle_file());
        let control_plane = options.control_plane.clone().unwrap_or_else(|| mesh.agent_address().to_owned());
        let process = launch(mesh.folder(), node, &state_dir, options, &control_plane, &bundle);
        Self {
            process,
            node: node.to_owned(),
            state_dir,
            options: options.clone(),
            control_plane,
            bundle,
            addresses: Value::Null,
        }
    }

    /// The same agent, once it is ready.
    pub fn ready(mut self) -> Self {
        self.wait_ready();
        self
    }

    /// Ends it at once and starts it again with the state it had.
    pub fn restart(&mut self, folder: &Path) {
        self.relaunch(folder);
        self.wait_ready();
    }

    /// The same, without waiting until it is ready: perhaps it should not be.
    pub fn relaunch(&mut self, folder: &Path) {
        self.process.kill();
        self.process =
            launch(folder, &self.node, &self.state_dir, &self.options, &self.control_plane, &self.bundle);
    }

    /// From the next start on its clock is off by this, or right.
    pub fn set_clock(&mut self, clock: Option<(String, PathBuf)>) {
        self.options.clock = clock;
    }

    /// Where its state lies.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Where its app sends HTTP.
    pub fn outbound(&self) -> SocketAddr {
        self.address(&self.addresses["outbound"])
    }

    /// Its local admin.
    pub fn admin(&self) -> SocketAddr {
        self.address(&self.addresses["admin"])
    }

    /// Its health listener.
    pub fn health(&self) -> SocketAddr {
        self.address(&self.addresses["health"])
    }

    /// Where it takes mesh traffic for a listener port.
    pub fn inbound(&self, port: u16) -> SocketAddr {
        self.address(&self.addresses["inbound"][port.to_string()])
    }

    /// Where a bound TCP service is reached.
    pub fn tcp(&self, service: &str) -> SocketAddr {
        self.address(&self.addresses["tcp"][service])
    }

    fn address(&self, value: &Value) -> SocketAddr {
        let text = value.as_str().unwrap_or_else(|| panic!("no such address: {}", self.addresses));
        text.parse().unwrap()
    }

    /// Waits until it is ready.
    pub fn wait_ready(&mut self) {
        let file = self.state_dir.join("addresses.json");
        let process = &mut self.process;
        self.addresses = eventually(&format!("{} is ready", self.node), Duration::from_secs(30), || {
            assert!(process.is_running(), "the agent ended:\n{}", process.log());
            let read = || serde_json::from_str::<Value>(&fs::read_to_string(&file).ok()?).ok();
            let health = read()?["health"].as_str()?.parse().ok()?;
            // Read again: listeners that were bound meanwhile are told there before it is ready.
            (crate::get(health, "health", "/readyz").ok()?.status == 200).then(read)?
        });
        // What is in force comes to the disk a moment later, and a test may kill the agent at once.
        let view = self.state_dir.join("node-view");
        eventually(&format!("{}'s view is on its disk", self.node), Duration::from_secs(30), || {
            view.exists().then_some(())
        });
    }
}

fn launch(
    folder: &Path,
    node: &str,
    state_dir: &Path,
    options: &AgentOptions,
    control_plane: &str,
    bundle: &Path,
) -> Process {
    let _ = fs::remove_file(state_dir.join("addresses.json"));
    let program = options.program.clone().unwrap_or_else(|| binary("hauberk-agent"));
    let mut command = match options.open_files {
        None => Command::new(program),
        Some(most) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()]);
            shell.arg(program);
            shell
        }
    };
    if let Some(clock) = &options.clock {
        set_clock(&mut command, clock);
    }
    command
        .args(["run", "--control-plane", control_plane, "--state-dir", path(state_dir)])
        .args(["--bundle-file", path(bundle), "--advertise-ip", "127.0.0.1"])
        .args(&options.arguments);
    for listener in ["--outbound", "--admin", "--health"] {
        if !options.arguments.iter().any(|argument| argument == listener) {
            command.args([listener, "127.0.0.1:0"]);
        }
    }
    if let Some(file) = &options.token_file {
        command.args(["--join-token-file", path(file)]);
    }
    for (port, app) in &options.apps {
        command.args(["--listener", &format!("{port},inbound=127.0.0.1:0,app={app}")]);
    }
    for service in &options.tcp {
        command.args(["--tcp", &format!("127.0.0.1:0={service}")]);
    }
    if !options.child.is_empty() {
        command.arg("--").args(&options.child);
    }
    let name = state_dir.file_name().and_then(|name| name.to_str()).unwrap_or(node).to_owned();
    Process::start(&name, folder, command)
}
