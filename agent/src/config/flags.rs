//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};

/// Stands beside a service: mutual TLS, routing and authorization.
#[derive(Debug, Parser)]
#[command(name = "hauberk-agent", version, about, disable_help_subcommand = true)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub subcommand: Subcommand,
}

/// What the binary can do.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Run the agent, and COMMAND as its child once it is ready
    Run(Box<RunFlags>),
    /// Ask a running agent whether it is ready; exit 0 if so, 1 if not
    Healthz(HealthzFlags),
    /// Ask the SPIFFE Workload API as any program does
    #[command(subcommand)]
    Api(ApiCommand),
    /// Print the version
    Version,
}

/// Flags of `healthz`.
#[derive(Debug, Args)]
pub struct HealthzFlags {
    /// The agent's health listener; an unspecified address means this host
    #[arg(long, value_name = "IP:PORT", env = "HAUBERK_HEALTH", default_value = "127.0.0.1:15020")]
    pub address: String,
}

/// What `api` can do.
#[derive(Debug, clap::Subcommand)]
pub enum ApiCommand {
    /// Show, or write to files, what this program is given
    Fetch(FetchFlags),
    /// Keep files of what this program is given up to date, for programs that only read files
    Watch(WatchFlags),
    /// Verify a token as any program does; exit 0 if it proves what it says, 1 if not, 2 if nobody knows
    Validate(ValidateFlags),
}

/// Flags of `api fetch`.
#[derive(Debug, Args)]
pub struct FetchFlags {
    /// Identities with their keys, tokens, or what to verify others by
    #[arg(value_enum)]
    pub what: Fetched,
    /// The agent's --workload-api-socket
    #[arg(long, value_name = "PATH", env = "SPIFFE_ENDPOINT_SOCKET")]
    pub socket: String,
    /// Write svid.N.pem, svid.N.key and bundle.N.pem, N from 0, federated.TRUST-DOMAIN.pem and crl.pem into this directory
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// For whom tokens are; may be repeated
    #[arg(long, value_name = "NAME", required_if_eq("what", "jwt"))]
    pub audience: Vec<String>,
    /// A token of this identity alone [default: of each that this program has]
    #[arg(long, value_name = "SPIFFE-ID")]
    pub spiffe_id: Option<String>,
}

/// Flags of `api watch`.
#[derive(Debug, Args)]
pub struct WatchFlags {
    /// The agent's --workload-api-socket
    #[arg(long, value_name = "PATH", env = "SPIFFE_ENDPOINT_SOCKET")]
    pub socket: String,
    /// Write svid.pem, svid.key, bundle.pem, crl.pem, jwks.json and federated/ into this directory: all of them change at once
    #[arg(long, value_name = "DIR")]
    pub write: PathBuf,
    /// Which identity, where this program has several [default: the first]
    #[arg(long, value_name = "SPIFFE-ID")]
    pub spiffe_id: Option<String>,
    /// Write a token for an audience into another file of the directory too; may be repeated
    #[arg(long, value_name = "FILE=AUDIENCE")]
    pub jwt: Vec<String>,
    /// Who may read keys and tokens
    #[arg(long, value_name = "OCTAL", default_value = "0600")]
    pub key_mode: String,
    /// End once the files are there
    #[arg(long)]
    pub once: bool,
    /// Send this signal after each change, such as HUP
    #[arg(long, value_name = "NAME", requires = "pid_file")]
    pub signal: Option<String>,
    /// To the process whose number stands in this file
    #[arg(long, value_name = "FILE", requires = "signal")]
    pub pid_file: Option<PathBuf>,
    /// Run this after each change, and wait for its end for a minute at most
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Flags of `api validate`.
#[derive(Debug, Args)]
pub struct ValidateFlags {
    /// What is verified
    #[arg(value_enum)]
    pub what: Validated,
    /// The agent's --workload-api-socket
    #[arg(long, value_name = "PATH", env = "SPIFFE_ENDPOINT_SOCKET")]
    pub socket: String,
    /// For whom the token must be
    #[arg(long, value_name = "NAME")]
    pub audience: String,
    /// The file that holds the token; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub token_file: PathBuf,
}

/// What is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Validated {
    /// A JWT-SVID.
    Jwt,
}

/// What is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fetched {
    /// X.509-SVIDs.
    X509,
    /// Trust bundles.
    Bundle,
    /// JWT-SVIDs.
    Jwt,
}

// All values are texts here, so that they are checked together and not up to the first mistake.
/// Flags of `run`.
#[derive(Debug, Args, Default)]
pub struct RunFlags {
    /// A TOML file with any of these settings, named as the flags are
    #[arg(long, value_name = "FILE", env = "HAUBERK_CONFIG_FILE")]
    pub config: Option<PathBuf>,
    /// The control plane's agent API
    #[arg(long, value_name = "HOST:PORT", env = "HAUBERK_CONTROL_PLANE")]
    pub control_plane: Option<String>,
    /// Keeps key, certificate and last view; one agent alone may use it [default: /var/lib/hauberk-agent]
    #[arg(long, value_name = "DIR", env = "HAUBERK_STATE_DIR")]
    pub state_dir: Option<String>,
    /// A file that holds a join token; needed until there is a certificate
    #[arg(long, value_name = "FILE", env = "HAUBERK_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<String>,
    /// Join by evidence instead of a token, which this enrollment judges; takes the flags of one kind of evidence, below
    #[arg(long, value_name = "MESH/NAME", env = "HAUBERK_ENROLLMENT")]
    pub enrollment: Option<String>,
    /// Evidence: this machine's certificate in PEM, with those between it and the enrollment's authority after it
    #[arg(long, value_name = "FILE", env = "HAUBERK_X509POP_CERTIFICATE")]
    pub x509pop_certificate: Option<String>,
    /// Its private key, of which possession is proved
    #[arg(long, value_name = "FILE", env = "HAUBERK_X509POP_KEY")]
    pub x509pop_key: Option<String>,
    /// Evidence: the token of this pod's service account, from a projected volume
    #[arg(long, value_name = "FILE", env = "HAUBERK_KUBERNETES_TOKEN_FILE")]
    pub kubernetes_token_file: Option<String>,
    /// Evidence: this EC2 instance's identity document, from its metadata service: on or off [default: off]
    #[arg(long, value_name = "on|off", env = "HAUBERK_AWS_IDENTITY_DOCUMENT")]
    pub aws_identity_document: Option<String>,
    /// Where that service is: a loopback or link-local address, or fd00:ec2::254, as IP:PORT [default: 169.254.169.254:80]
    #[arg(long, value_name = "IP:PORT", env = "HAUBERK_AWS_METADATA_ENDPOINT")]
    pub aws_metadata_endpoint: Option<String>,
    /// SHA-256 of the control plane's root, as `init` prints it; for the first contact
    #[arg(long, value_name = "HEX", env = "HAUBERK_ROOT_FINGERPRINT")]
    pub root_fingerprint: Option<String>,
    /// A file with the control plane's roots in PEM, instead of the fingerprint
    #[arg(long, value_name = "FILE", env = "HAUBERK_BUNDLE_FILE")]
    pub bundle_file: Option<String>,
    /// The trust domain, where the root that is pinned names none [default: the one that it names]
    #[arg(long, value_name = "NAME", env = "HAUBERK_TRUST_DOMAIN")]
    pub trust_domain: Option<String>,
    /// Where local apps send HTTP, by Host header or as to a proxy [default: 127.0.0.1:15001]
    #[arg(long, value_name = "IP:PORT", env = "HAUBERK_OUTBOUND")]
    pub outbound: Option<String>,
    /// A local port that leads to a TCP service, or out of the mesh to `external/NAME`; may be repeated
    #[arg(long, value_name = "IP:PORT=SERVICE[:PORT]", env = "HAUBERK_TCP", value_delimiter = ';')]
    pub tcp: Vec<String>,
    /// Where a listener of the node is and where its app is; may be repeated
    #[arg(
        long,
        value_name = "PORT[,inbound=IP:PORT][,app=IP:PORT][,advertise=IP:PORT]",
        env = "HAUBERK_LISTENER",
        value_delimiter = ';'
    )]
    pub listener: Vec<String>,
    /// The address that other agents reach us by [default: the one that the control plane is reached from]
    #[arg(long, value_name = "IP", env = "HAUBERK_ADVERTISE_IP")]
    pub advertise_ip: Option<String>,
    /// Local administration: /config, /drain, /log-filter, /metrics [default: 127.0.0.1:15000]
    #[arg(long, value_name = "IP:PORT", env = "HAUBERK_ADMIN")]
    pub admin: Option<String>,
    /// Probes and scrapers: /livez, /readyz, /metrics [default: 0.0.0.0:15020]
    #[arg(long, value_name = "IP:PORT", env = "HAUBERK_HEALTH")]
    pub health: Option<String>,
    /// Serve the SPIFFE Workload API on this Unix socket, for programs that the node's enrollments name [default: nowhere]
    #[arg(long, value_name = "PATH", env = "HAUBERK_WORKLOAD_API_SOCKET")]
    pub workload_api_socket: Option<String>,
    /// Ask the Docker Engine on this Unix socket what container a program is in, for selectors `docker:…` [default: nobody]
    #[arg(long, value_name = "PATH", env = "HAUBERK_DOCKER_SOCKET")]
    pub docker_socket: Option<String>,
    /// How long the agent goes on as before once it is told to stop, with callers told to go elsewhere: for an app in
    /// another container that is told at the same moment and needs its agent to finish [default: 500ms where there
    /// are callers to tell]
    #[arg(long, value_name = "DURATION", env = "HAUBERK_DRAIN_DELAY")]
    pub drain_delay: Option<String>,
    /// How long requests may take to end after that [default: 20s]
    #[arg(long, value_name = "DURATION", env = "HAUBERK_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<String>,
    /// What is logged, such as info or hauberk_agent=debug,info [default: info]
    #[arg(long, value_name = "FILTER", env = "HAUBERK_LOG")]
    pub log: Option<String>,
    /// auto, json or text [default: auto]
    #[arg(long, value_name = "FORMAT", env = "HAUBERK_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// One JSON line on standard error for each request and connection: on or off [default: on]
    #[arg(long, value_name = "on|off", env = "HAUBERK_ACCESS_LOG")]
    pub access_log: Option<String>,
    /// The app: started once the agent is ready, stopped with it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
