//! Where the configuration is put together and checked.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hauberk_identity::TrustDomain;
use toml::{Table, Value};

use super::values::{self, on_or_off};
use super::{Config, ConfigError, EnrollmentName, EvidenceSource, Join, Pin, RunFlags};

/// Where EC2 instances find their metadata service.
const IMDS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// The settings that a file may hold, named as the flags are.
const NAMES: [&str; 26] = [
    "control-plane",
    "state-dir",
    "join-token-file",
    "enrollment",
    "x509pop-certificate",
    "x509pop-key",
    "kubernetes-token-file",
    "aws-identity-document",
    "aws-metadata-endpoint",
    "root-fingerprint",
    "bundle-file",
    "trust-domain",
    "outbound",
    "tcp",
    "listener",
    "advertise-ip",
    "admin",
    "health",
    "workload-api-socket",
    "docker-socket",
    "drain-delay",
    "drain-timeout",
    "log",
    "log-format",
    "access-log",
    "command",
];

pub(super) fn load(
    flags: RunFlags,
    leftover: impl Fn(&str) -> Option<OsString>,
) -> Result<Config, ConfigError> {
    let mut mistakes = Vec::new();
    let file = flags.config.as_deref().map(|path| read(path, &mut mistakes)).unwrap_or_default();
    if leftover("HAUBERK_JOIN_TOKEN").is_some() {
        mistakes.push(
            "HAUBERK_JOIN_TOKEN: a secret does not belong in the environment; put it in a file and name that by \
             HAUBERK_JOIN_TOKEN_FILE"
                .to_owned(),
        );
    }
    let mut settings = Settings { file, mistakes };
    let config = settings.check(flags);
    let mut mistakes = settings.mistakes;
    match config {
        Some(config) => {
            check_together(&config, &mut mistakes);
            if mistakes.is_empty() { Ok(config) } else { Err(ConfigError { mistakes }) }
        }
        None => Err(ConfigError { mistakes }),
    }
}

struct Settings {
    file: Table,
    mistakes: Vec<String>,
}

impl Settings {
    /// Parses every setting. `None` where one that has no default is missing or wrong.
    fn check(&mut self, flags: RunFlags) -> Option<Config> {
        let RunFlags {
            config: _,
            control_plane,
            state_dir,
            join_token_file,
            enrollment,
            x509pop_certificate,
            x509pop_key,
            kubernetes_token_file,
            aws_identity_document,
            aws_metadata_endpoint,
            root_fingerprint,
            bundle_file,
            trust_domain,
            outbound,
            tcp,
            listener,
            advertise_ip,
            admin,
            health,
            workload_api_socket,
            docker_socket,
            drain_delay,
            drain_timeout,
            log,
            log_format,
            access_log,
            command,
        } = flags;
        let control_plane = self.one("control-plane", control_plane, values::host_port);
        if control_plane.is_none()
            && !self.mistakes.iter().any(|mistake| mistake.starts_with("control-plane"))
        {
            self.mistakes.push(
                "control-plane: where is it? Give --control-plane HOST:PORT or HAUBERK_CONTROL_PLANE"
                    .to_owned(),
            );
        }
        let fingerprint = self.one("root-fingerprint", root_fingerprint, |text| {
            text.parse().map_err(|error: hauberk_tls::FingerprintError| error.to_string())
        });
        let bundle = self.one("bundle-file", bundle_file, values::path);
        let pin = match (fingerprint, bundle) {
            (Some(_), Some(_)) => {
                self.mistakes.push("root-fingerprint, bundle-file: give one of them, not both".to_owned());
                None
            }
            (Some(fingerprint), None) => Some(Pin::RootFingerprint(fingerprint)),
            (None, bundle) => bundle.map(Pin::BundleFile),
        };
        let trust_domain = self.one("trust-domain", trust_domain, |text| {
            TrustDomain::parse(text).map_err(|error| error.to_string())
        });
        let join_token_file = self.one("join-token-file", join_token_file, values::path);
        let enrollment = self.one("enrollment", enrollment, values::enrollment);
        let certificate = self.one("x509pop-certificate", x509pop_certificate, values::path);
        let key = self.one("x509pop-key", x509pop_key, values::path);
        let x509pop = self.x509pop(certificate, key);
        let token = self.one("kubernetes-token-file", kubernetes_token_file, values::path);
        let aws = self.one("aws-identity-document", aws_identity_document, on_or_off).unwrap_or(false);
        let imds = self.one("aws-metadata-endpoint", aws_metadata_endpoint, values::metadata_endpoint);
        let aws = aws.then(|| EvidenceSource::Aws { imds: imds.unwrap_or(IMDS) });
        let evidence = [x509pop, token.map(|token| EvidenceSource::Kubernetes(token.into())), aws];
        let join = self.join(join_token_file, enrollment, evidence.into_iter().flatten().collect());
        let state_dir = self.one("state-dir", state_dir, values::path);
        let outbound = self.one("outbound", outbound, |text| {
            values::speaks_as_node(text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/'))
        });
        let tcp = self.many("tcp", tcp, values::tcp_binding);
        let listeners = self.many("listener", listener, values::listener);
        let advertise_ip = self.one("advertise-ip", advertise_ip, values::advertised_ip);
        let admin = self.one("admin", admin, values::admin);
        let health = self.one("health", health, values::address);
        let workload_api_socket = self.one("workload-api-socket", workload_api_socket, values::unix_socket);
        let docker_socket = self.one("docker-socket", docker_socket, values::unix_socket);
        let drain_delay = self.one("drain-delay", drain_delay, values::duration);
        let drain_timeout = self.one("drain-timeout", drain_timeout, values::duration);
        let log_filter = self.one("log", log, values::log_filter);
        let log_format = self.one("log-format", log_format, values::log_format);
        let access_log = self.one("access-log", access_log, on_or_off);
        let command = self.command(command);
        Some(Config {
            control_plane: control_plane?,
            state_dir: state_dir.unwrap_or_else(|| "/var/lib/hauberk-agent".into()),
            join,
            pin,
            trust_domain,
            outbound: outbound.unwrap_or_else(|| loopback(15001)),
            tcp,
            listeners,
            advertise_ip,
            admin: admin.unwrap_or_else(|| loopback(15000)),
            health: health.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 15020))),
            workload_api_socket,
            docker_socket,
            drain_delay,
            drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(20)),
            log_filter: log_filter.unwrap_or_else(|| "info".to_owned()),
            log_format: log_format.unwrap_or(super::LogFormat::Auto),
            access_log: access_log.unwrap_or(true),
            command,
        })
    }

    fn x509pop(&mut self, certificate: Option<PathBuf>, key: Option<PathBuf>) -> Option<EvidenceSource> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(EvidenceSource::X509Pop { certificate: certificate.into(), key: key.into() })
            }
            (None, None) => None,
            _ => {
                let mistake = "x509pop-certificate, x509pop-key: one is of no use without the other";
                self.mistakes.push(mistake.to_owned());
                None
            }
        }
    }

    /// The one way to get a first certificate, if there is any.
    fn join(
        &mut self,
        token_file: Option<PathBuf>,
        enrollment: Option<EnrollmentName>,
        mut evidence: Vec<EvidenceSource>,
    ) -> Option<Join> {
        if evidence.len() > 1 {
            self.mistakes.push("enrollment: give evidence of one kind".to_owned());
            return None;
        }
        let mistake = match (token_file, enrollment, evidence.pop()) {
            (None, None, None) => return None,
            (Some(file), None, None) => return Some(Join::TokenFile(file.into())),
            (None, Some(enrollment), Some(evidence)) => return Some(Join::Evidence { enrollment, evidence }),
            (Some(_), ..) => "join-token-file: an agent joins by a token or by evidence, not by both",
            (None, Some(_), None) => {
                "enrollment: what is shown to it? Give --x509pop-certificate and --x509pop-key, --kubernetes-token-file, or \
                 --aws-identity-document on"
            }
            (None, None, Some(_)) => "enrollment: which one judges the evidence? Give --enrollment MESH/NAME",
        };
        self.mistakes.push(mistake.to_owned());
        None
    }

    fn one<T>(
        &mut self,
        name: &str,
        given: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        // An empty variable is how many tools pass "not set".
        let text = match given.filter(|text| !text.is_empty()) {
            Some(text) => text,
            None => match self.file.remove(name)? {
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                Value::Boolean(is_on) => if is_on { "on" } else { "off" }.to_owned(),
                _ => {
                    self.mistakes.push(format!("{name}: write one text"));
                    return None;
                }
            },
        };
        self.parse(name, &text, parse)
    }

    fn many<T>(
        &mut self,
        name: &str,
        given: Vec<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut texts: Vec<String> = given.into_iter().filter(|text| !text.is_empty()).collect();
        let from_file = self.file.remove(name);
        if texts.is_empty() {
            texts = from_file.map(|value| self.texts(name, value)).unwrap_or_default();
        }
        texts.iter().filter_map(|text| self.parse(name, text.trim(), &parse)).collect()
    }

    fn command(&mut self, given: Vec<OsString>) -> Vec<OsString> {
        match self.file.remove("command") {
            Some(value) if given.is_empty() => {
                self.texts("command", value).into_iter().map(Into::into).collect()
            }
            _ => given,
        }
    }

    fn texts(&mut self, name: &str, value: Value) -> Vec<String> {
        let texts = match value {
            Value::Array(values) => values
                .into_iter()
                .map(|value| match value {
                    Value::String(text) => Some(text),
                    Value::Integer(number) => Some(number.to_string()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        texts.unwrap_or_else(|| {
            self.mistakes.push(format!("{name}: write a list of texts, such as [\"…\", \"…\"]"));
            Vec::new()
        })
    }

    fn parse<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(text).map_err(|mistake| self.mistakes.push(format!("{name}: {text:?}: {mistake}"))).ok()
    }
}

fn read(path: &Path, mistakes: &mut Vec<String>) -> Table {
    let mut wrong = |what: &dyn Display| {
        mistakes.push(format!("config: {}: {what}", path.display()));
        Table::new()
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return wrong(&error),
    };
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => return wrong(&error.to_string().trim_end()),
    };
    for unknown in table.keys().filter(|key| !NAMES.contains(&key.as_str())) {
        wrong(&format!("there is no setting {unknown:?}; there are {}", NAMES.join(", ")));
    }
    table
}

/// What each setting alone cannot show.
fn check_together(config: &Config, mistakes: &mut Vec<String>) {
    if config.docker_socket.is_some() && config.workload_api_socket.is_none() {
        mistakes.push(
            "docker-socket: nobody asks who is in which container without workload-api-socket".to_owned(),
        );
    }
    let mut ports = HashSet::new();
    for listener in &config.listeners {
        if !ports.insert(listener.port) {
            mistakes.push(format!("listener: port {} is described twice", listener.port));
        }
        if listener.inbound.is_some_and(|inbound| inbound == listener.app) {
            mistakes.push(format!(
                "listener: port {}: the agent and the app cannot both listen on {}",
                listener.port, listener.app
            ));
        }
    }
    let bound = [("outbound", config.outbound), ("admin", config.admin), ("health", config.health)];
    let tcp = config.tcp.iter().map(|binding| ("tcp", binding.local));
    let inbound = config.listeners.iter().filter_map(|listener| Some(("listener", listener.inbound?)));
    let mut taken = Vec::<(&str, SocketAddr)>::new();
    for (name, address) in
        bound.into_iter().chain(tcp).chain(inbound).filter(|(_, address)| address.port() != 0)
    {
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == address) {
            mistakes.push(format!("{name}: {address} is taken by {other} already"));
        }
        taken.push((name, address));
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
