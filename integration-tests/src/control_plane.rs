//! A control plane in a temporary folder, and the command line that drives it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Agent, AgentOptions, Process, binary, bounded, eventually, finished, free_port, process::set_clock,
};

/// How long a command may take that ends by itself.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Panics unless the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// How a control plane is founded and run.
#[derive(Debug, Clone, Default)]
pub struct MeshOptions {
    /// The trust domain; none: `box.test`.
    pub trust_domain: Option<String>,
    /// More arguments of `init`.
    pub init: Vec<String>,
    /// More arguments of `run`.
    pub run: Vec<String>,
    /// Variables of both.
    pub variables: Vec<(String, String)>,
}

/// A control plane, its folder, and a context for the command line.
#[derive(Debug)]
pub struct MeshBox {
    // Before the folder, which holds the log that a failed test shows.
    control_plane: Option<Process>,
    folder: TempDir,
    options: MeshOptions,
    admin: String,
    agent: String,
    health: String,
    clock: Option<(String, PathBuf)>,
}

impl MeshBox {
    /// Initialises and starts a control plane for the trust domain `box.test`.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more arguments for `run`.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in("box.test", arguments)
    }

    /// The same for another trust domain.
    pub fn start_in(trust_domain: &str, arguments: &[&str]) -> Self {
        Self::start_as(MeshOptions {
            trust_domain: Some(trust_domain.to_owned()),
            run: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..MeshOptions::default()
        })
    }

    /// The same in any way.
    pub fn start_as(options: MeshOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("hauberk-it-").tempdir().unwrap();
        let mut mesh = Self {
            folder,
            control_plane: None,
            options,
            admin: String::new(),
            agent: String::new(),
            health: String::new(),
            clock: None,
        };
        let data = mesh.data_dir();
        let trust_domain = mesh.options.trust_domain.as_deref().unwrap_or("box.test");
        let init = ["init", "--trust-domain", trust_domain, "--context", "box", "--data-dir", path(&data)];
        let more = mesh.options.init.iter().map(String::as_str);
        mesh.run_binary("hauberk-control-plane", init.into_iter().chain(more), None).ok();
        // It is to have them again after a restart.
        let (admin, agent) = (free_port().to_string(), free_port().to_string());
        mesh.start_control_plane(&admin, &agent);
        mesh
    }

    /// How the next start differs.
    pub fn options(&mut self) -> &mut MeshOptions {
        &mut self.options
    }

    /// The temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The control plane's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder().join("control-plane")
    }

    /// The folder that holds the command line's contexts.
    pub fn cli_home(&self) -> PathBuf {
        self.folder().join("cli")
    }

    /// Address of the admin API.
    pub fn admin_address(&self) -> &str {
        &self.admin
    }

    /// Address of the agent API.
    pub fn agent_address(&self) -> &str {
        &self.agent
    }

    /// Address of the health listener.
    pub fn health_address(&self) -> &str {
        &self.health
    }

    /// The running control plane.
    pub fn control_plane(&mut self) -> &mut Process {
        self.control_plane.as_mut().expect("the control plane runs")
    }

    /// Processor time that the control plane has used so far, in seconds.
    pub fn control_plane_cpu_seconds(&self) -> f64 {
        self.control_plane.as_ref().map_or(0.0, Process::cpu_seconds)
    }

    /// Ends the control plane at once.
    pub fn kill_control_plane(&mut self) {
        if let Some(mut process) = self.control_plane.take() {
            process.kill();
        }
    }

    /// From the next start on its clock is off by this, as faketime writes it and with its library, or right. An
    /// absolute path: of a file that says by how much, which is read whenever the clock is.
    pub fn set_clock(&mut self, clock: Option<(String, PathBuf)>) {
        self.clock = clock;
    }

    /// Starts it again on the addresses it had.
    pub fn restart_control_plane(&mut self) {
        self.kill_control_plane();
        let (admin, agent) = (self.admin.clone(), self.agent.clone());
        self.start_control_plane(&admin, &agent);
    }

    /// Tries to start a control plane on this data directory, which must end by itself, and says how it ended. Every
    /// listener that the arguments do not name gets a free port.
    pub fn refused_start(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = Command::new(binary("hauberk-control-plane"));
        command.args(["run", "--data-dir", path(&self.data_dir())]).args(arguments);
        command.envs(self.options.variables.iter().cloned());
        for listener in ["--agent-listen", "--admin-listen", "--health-listen"] {
            if !arguments.contains(&listener) {
                command.args([listener, "127.0.0.1:0"]);
            }
        }
        let name = format!("refused-{}", fs::read_dir(self.folder()).unwrap().count());
        let mut process = Process::start(&name, self.folder(), command);
        let status = process.wait(Duration::from_secs(30));
        CommandOutput { code: status.code().unwrap_or(-1), stdout: String::new(), stderr: process.log() }
    }

    /// Starts the control plane and ends it at once after this long, wherever it is by then.
    pub fn kill_while_starting(&mut self, after: Duration) {
        self.kill_control_plane();
        let mut process =
            Process::start("control-plane", self.folder(), self.run_command("127.0.0.1:0", "127.0.0.1:0"));
        std::thread::sleep(after);
        process.kill();
    }

    /// Runs `hauberk-control-plane` with these arguments.
    pub fn control_plane_command(&self, arguments: &[&str]) -> CommandOutput {
        self.run_binary("hauberk-control-plane", arguments.iter().copied(), None)
    }

    /// Starts it again, or says how it refused to start.
    pub fn try_restart_control_plane(&mut self) -> Option<CommandOutput> {
        self.kill_control_plane();
        let addresses = self.data_dir().join("addresses.json");
        let _ = fs::remove_file(&addresses);
        let name = format!("restart-{}", fs::read_dir(self.folder()).unwrap().count());
        let mut process =
            Process::start(&name, self.folder(), self.run_command("127.0.0.1:0", "127.0.0.1:0"));
        let status = eventually("the control plane is ready or ends", Duration::from_secs(30), || {
            if addresses.exists() {
                return Some(None);
            }
            (!process.is_running()).then(|| Some(process.wait(Duration::from_secs(1))))
        });
        match status {
            Some(status) => {
                let stderr = process.log();
                Some(CommandOutput { code: status.code().unwrap_or(-1), stdout: String::new(), stderr })
            }
            None => {
                process.kill();
                self.restart_control_plane();
                None
            }
        }
    }

    /// Runs `hauberk` with these arguments.
    pub fn hauberk(&self, arguments: &[&str]) -> CommandOutput {
        self.run_binary("hauberk", arguments.iter().copied(), None)
    }

    /// Runs `hauberk` with something on standard input.
    pub fn hauberk_with_input(&self, arguments: &[&str], input: &str) -> CommandOutput {
        self.run_binary("hauberk", arguments.iter().copied(), Some(input))
    }

    /// Runs `hauberk` and reads its standard output as JSON.
    pub fn hauberk_json(&self, arguments: &[&str]) -> Value {
        let output = self.hauberk(arguments).ok();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
    }

    /// Applies resources.
    pub fn apply(&self, yaml: &str) -> CommandOutput {
        self.hauberk_with_input(&["apply", "-f", "-"], yaml).ok()
    }

    /// Waits until everything is enforced.
    pub fn wait_enforced(&self) {
        self.hauberk(&["wait", "--timeout", "20s"]).ok();
    }

    /// A join token for a node, `web`, or a gateway, `gateway/edge`, in a 0600 file.
    pub fn token_file(&self, node: &str, more: &[&str]) -> PathBuf {
        let (option, name) = match node.strip_prefix("gateway/") {
            Some(gateway) => ("--gateway", gateway),
            None => ("--node", node),
        };
        let number = fs::read_dir(self.folder()).unwrap().count();
        let file = self.folder().join(format!("token-{}-{number}", in_a_file_name(node)));
        let arguments = ["token", "create", option, name, "--out", path(&file)];
        self.hauberk(&[&arguments[..], more].concat()).ok();
        file
    }

    /// SHA-256 of the root, hexadecimal.
    pub fn root_fingerprint(&self) -> String {
        let output = self.hauberk_json(&["token", "create", "--node", "web", "-o", "json"]);
        output["rootFingerprint"].as_str().unwrap().to_owned()
    }

    /// The mesh's roots, PEM, as the context holds them.
    pub fn bundle_pem(&self) -> String {
        self.context("bundle_pem")
    }

    /// The same in a file.
    pub fn bundle_file(&self) -> PathBuf {
        let file = self.folder().join("bundle.pem");
        // Agents that start meanwhile read it: never half written.
        let new = tempfile::NamedTempFile::new_in(self.folder()).unwrap();
        fs::write(new.path(), self.bundle_pem()).unwrap();
        new.persist(&file).unwrap();
        file
    }

    /// A value of the command line's own context.
    pub fn context(&self, name: &str) -> String {
        let text = fs::read_to_string(self.cli_home().join("contexts.toml")).unwrap();
        let contexts: toml::Table = text.parse().unwrap();
        contexts["contexts"]["box"][name].as_str().unwrap().to_owned()
    }

    /// Starts an agent for a node and waits until it is ready.
    pub fn agent(&self, node: &str, options: AgentOptions) -> Agent {
        Agent::start(self, node, options)
    }

    fn start_control_plane(&mut self, admin: &str, agent: &str) {
        let addresses = self.data_dir().join("addresses.json");
        let _ = fs::remove_file(&addresses);
        let mut process = Process::start("control-plane", self.folder(), self.run_command(admin, agent));
        let found = eventually("the control plane is ready", Duration::from_secs(30), || {
            assert!(process.is_running(), "the control plane ended:\n{}", process.log());
            let text = fs::read_to_string(&addresses).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        });
        let address = |name: &str| found[name].as_str().unwrap_or_else(|| panic!("{found}")).to_owned();
        (self.admin, self.agent, self.health) = (address("admin"), address("agent"), address("health"));
        self.control_plane = Some(process);
        let contexts = self.cli_home().join("contexts.toml");
        let text = fs::read_to_string(&contexts).unwrap();
        let lines: Vec<String> = text
            .lines()
            .map(|line| match line.trim_start().starts_with("server ") {
                true => format!("server = {:?}", self.admin),
                false => line.to_owned(),
            })
            .collect();
        fs::write(&contexts, lines.join("\n") + "\n").unwrap();
    }

    fn run_command(&self, admin: &str, agent: &str) -> Command {
        let mut command = Command::new(binary("hauberk-control-plane"));
        command
            .args(["run", "--data-dir", path(&self.data_dir())])
            .args(["--agent-listen", agent, "--admin-listen", admin, "--health-listen", "127.0.0.1:0"])
            .args(&self.options.run)
            .envs(self.options.variables.iter().cloned())
            .env("HAUBERK_HOME", self.cli_home());
        if let Some(clock) = &self.clock {
            set_clock(&mut command, clock);
        }
        command
    }

    fn run_binary<'a>(
        &self,
        name: &str,
        arguments: impl Iterator<Item = &'a str>,
        input: Option<&str>,
    ) -> CommandOutput {
        let arguments: Vec<&str> = arguments.collect();
        let mut child = bounded(&binary(name), COMMAND_DEADLINE)
            .args(&arguments)
            .envs(self.options.variables.iter().cloned())
            .env("HAUBERK_HOME", self.cli_home())
            .env("NO_COLOR", "1")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // The command may refuse before it has read everything.
            let _ = std::io::Write::write_all(&mut pipe, input.as_bytes());
        }
        let output = finished(&format!("{name} {}", arguments.join(" ")), child);
        CommandOutput {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A node's name where files are named after it.
pub(crate) fn in_a_file_name(node: &str) -> String {
    node.replace('/', "-")
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
