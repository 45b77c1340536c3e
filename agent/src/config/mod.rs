//! What the agent is told: flags before `HAUBERK_*` variables before the file before defaults.
//!
//! Every mistake is found and reported together.

mod flags;
mod settings;
mod values;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hauberk_identity::{Name, TrustDomain};
use hauberk_tls::Fingerprint;
use thiserror::Error;

use crate::secret_file::SecretFile;

pub use flags::{
    ApiCommand, FetchFlags, Fetched, Flags, HealthzFlags, RunFlags, Subcommand, ValidateFlags, Validated,
    WatchFlags,
};

/// Everything that is configured, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the control plane's agent API is.
    pub control_plane: HostPort,
    /// The directory that only this agent uses.
    pub state_dir: PathBuf,
    /// What a certificate is got by, for as long as there is none.
    pub join: Option<Join>,
    /// How the control plane is known before there is a bundle.
    pub pin: Option<Pin>,
    /// Whose control plane that is, where the root does not say.
    pub trust_domain: Option<TrustDomain>,
    /// Where local apps send HTTP.
    pub outbound: SocketAddr,
    /// Local ports that lead to TCP services.
    pub tcp: Vec<TcpBinding>,
    /// The node's listeners that are not to be where they are by default.
    pub listeners: Vec<ListenerConfig>,
    /// The address that other agents reach us by; by default the one that the control plane is reached from.
    pub advertise_ip: Option<IpAddr>,
    /// Where local administrators ask.
    pub admin: SocketAddr,
    /// Where probes and scrapers ask.
    pub health: SocketAddr,
    /// Where the SPIFFE Workload API is served; nowhere by default.
    pub workload_api_socket: Option<PathBuf>,
    /// Where the Docker Engine is asked of containers.
    pub docker_socket: Option<PathBuf>,
    /// How long the agent goes on as before once it is told to stop.
    pub drain_delay: Option<Duration>,
    /// How long requests may take to end after that.
    pub drain_timeout: Duration,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Whether there is a line for each request and connection.
    pub access_log: bool,
    /// The app that runs as our child; empty for none.
    pub command: Vec<OsString>,
}

/// A host by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The name or address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What a first certificate is got by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// A join token, in this file.
    TokenFile(SecretFile),
    /// Evidence of where the agent runs.
    Evidence {
        /// What judges it.
        enrollment: EnrollmentName,
        /// Where it comes from.
        evidence: EvidenceSource,
    },
}

/// Names an enrollment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentName {
    /// Its mesh.
    pub mesh: Name,
    /// Its name there.
    pub name: Name,
}

/// Where evidence comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceSource {
    /// A certificate of this machine and its key.
    X509Pop {
        /// The chain in PEM.
        certificate: SecretFile,
        /// The key in PEM.
        key: SecretFile,
    },
    /// The token of this pod's service account, in this file.
    Kubernetes(SecretFile),
    /// The identity document of this EC2 instance.
    Aws {
        /// Its metadata service.
        imds: SocketAddr,
    },
}

/// How the control plane is known at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// By its root's SHA-256.
    RootFingerprint(Fingerprint),
    /// By the roots in this file.
    BundleFile(PathBuf),
}

/// A local port that leads to a TCP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpBinding {
    /// Where local apps connect.
    pub local: SocketAddr,
    /// The service is an external one.
    pub is_external: bool,
    /// The virtual service, or external service.
    pub service: Name,
    /// Its port; may be left out where it has only one.
    pub port: Option<u16>,
}

/// Where one listener of the node really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its number in the mesh.
    pub port: u16,
    /// Where mutual TLS is accepted; by default the advertised address with the listener's number.
    pub inbound: Option<SocketAddr>,
    /// Where the app listens.
    pub app: SocketAddr,
    /// What other agents are told; by default where mutual TLS is accepted.
    pub advertise: Option<SocketAddr>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// As text on a terminal, as JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Everything that is wrong with the configuration. The fault is whoever wrote it.
#[derive(Debug, Error, PartialEq, Eq)]
pub struct ConfigError {
    /// Each names the setting and says what would be right.
    pub mistakes: Vec<String>,
}

impl Config {
    /// Reads the configuration file, if one is named, and checks everything.
    ///
    /// `leftover` looks up variables that no flag stands for, so that a secret in the environment is noticed.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn load(flags: RunFlags, leftover: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        settings::load(flags, leftover)
    }
}

impl HostPort {
    /// `HOST:PORT`, IPv6 in brackets, as URLs have it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl ListenerConfig {
    /// What holds for a listener of the view that no flag mentions: the app is on loopback, at the same number.
    pub fn default_for(port: u16) -> Self {
        Self { port, inbound: None, app: SocketAddr::from(([127, 0, 0, 1], port)), advertise: None }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the configuration has mistakes:")?;
        self.mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

#[cfg(test)]
mod tests;
