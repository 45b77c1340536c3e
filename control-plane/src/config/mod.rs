//! What an operator may set: each setting by flag, by `HAUBERK_*` variable or in a TOML file, in this order of
//! precedence. All mistakes are reported together.

mod process;
mod sources;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attestation::ReviewCluster;
use crate::authority::TokenSettings;
use crate::jwt_svid::LONGEST_TOKEN_LIFE;
use sources::Sources;
pub use values::{IssuerUrl, LogFormat, SubjectName};

/// The names of all settings, as flags and in the file; variables are `HAUBERK_` and the name in capitals.
pub const NAMES: &[&str] = &[
    "data-dir",
    "agent-listen",
    "admin-listen",
    "health-listen",
    "san",
    "svid-ttl",
    "jwt-svid-ttl",
    "oidc-listen",
    "oidc-issuer",
    "oidc-certificate",
    "oidc-key",
    "bundle-listen",
    "bundle-certificate",
    "bundle-key",
    "web-roots",
    "token-review",
    "upstream-certificate",
    "upstream-key",
    "upstream-root",
    "upstream-context",
    "kek-file",
    "pkcs11-module",
    "pkcs11-token",
    "pkcs11-pin-file",
    "log",
    "log-format",
    "shutdown-deadline",
];

/// Where everything is kept unless told otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/hauberk";

/// Everything the control plane can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The data directory, 0700.
    pub data_dir: PathBuf,
    /// Where agents connect.
    pub agent_listen: SocketAddr,
    /// Where admins connect.
    pub admin_listen: SocketAddr,
    /// Where probes and scrapers connect, in plain HTTP.
    pub health_listen: SocketAddr,
    /// DNS names and IP addresses of the control plane's own certificate; empty: those given to `init`, else
    /// localhost and the host's name.
    pub sans: Vec<SubjectName>,
    /// The life of an agent's certificate.
    pub svid_ttl: Duration,
    /// The life of a JWT-SVID.
    pub jwt_svid_ttl: Duration,
    /// Where the keys that verify JWT-SVIDs are served, over HTTPS; nowhere unless told.
    pub oidc_listen: Option<SocketAddr>,
    /// The URL that JWT-SVIDs name as their issuer, under which those keys are found.
    pub oidc_issuer: Option<IssuerUrl>,
    /// Certificate chain and private key of that listener; without them, the control plane's own.
    pub oidc_certificate: Option<CertificateFiles>,
    /// Where our trust bundle is served over HTTPS, for other trust domains; nowhere unless told.
    pub bundle_listen: Option<SocketAddr>,
    /// Certificate chain and private key of that listener (profile `https_web`); without them, the control plane's own
    /// (`https_spiffe`).
    pub bundle_certificate: Option<CertificateFiles>,
    /// The roots of the web, PEM, by which bundle endpoints of others are verified; unless told, the system's.
    pub web_roots: Option<PathBuf>,
    /// The Kubernetes clusters that can be asked whose a token is.
    pub token_review: Vec<ReviewCluster>,
    /// Who signs our issuing authorities, if that is not a root of our own.
    pub upstream: Option<UpstreamSettings>,
    /// The file of the key-encryption key.
    pub kek_file: PathBuf,
    /// The PKCS#11 token in which keys of authorities are made; without it they are sealed in the registry.
    pub token: Option<TokenSettings>,
    /// Which log events are written, in the syntax of tracing-subscriber's `EnvFilter`.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,
    /// How long a graceful stop may take.
    pub shutdown_deadline: Duration,
    /// The file that these came from, in part; read again on SIGHUP.
    pub file: Option<PathBuf>,
}

/// A certificate chain and its private key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key, PKCS#8, SEC 1 or PKCS#1.
    pub key: PathBuf,
}

/// Who signs our issuing authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamSettings {
    /// An operator's authority.
    Files {
        /// Its certificate and key.
        files: CertificateFiles,
        /// The root, where it is not a self-signed certificate in the first file.
        root: Option<PathBuf>,
    },
    /// Another Hauberk, as the admin of this context file.
    Context(PathBuf),
}

/// One mistake: where it is and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// `--svid-ttl`, `HAUBERK_SVID_TTL`, or `hauberk.toml: svid-ttl`.
    pub place: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Settings that cannot be used: every mistake in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the settings; never empty.
    pub mistakes: Vec<Mistake>,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the configuration has mistakes:")?;
        for mistake in &self.mistakes {
            write!(f, "\n  {}: {}", mistake.place, mistake.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The values given on the command line, by the name of the setting.
pub type Flags = BTreeMap<&'static str, Vec<String>>;

impl Settings {
    /// Reads all settings: `flags` before `variables` (the environment) before the file that `file` or
    /// `HAUBERK_CONFIG` names.
    ///
    /// # Errors
    /// All mistakes of all three at once.
    pub fn load(
        flags: &Flags,
        variables: &BTreeMap<String, String>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut sources = Sources::open(flags, variables, file);
        let data_dir = sources.one("data-dir", PathBuf::from(DEFAULT_DATA_DIR), values::path);
        let oidc_listen = sources.one("oidc-listen", None, |text| values::address(text).map(Some));
        let oidc_issuer = sources.one("oidc-issuer", None, |text| IssuerUrl::parse(text).map(Some));
        let oidc_certificate = certificate_files(&mut sources, "oidc-certificate", "oidc-key");
        let bundle_listen = sources.one("bundle-listen", None, |text| values::address(text).map(Some));
        let bundle_certificate = certificate_files(&mut sources, "bundle-certificate", "bundle-key");
        if bundle_certificate.is_some() && bundle_listen.is_none() {
            sources.needs("bundle-certificate", "bundle-listen");
        }
        if oidc_listen.is_some() && oidc_issuer.is_none() {
            sources.needs("oidc-listen", "oidc-issuer");
        }
        if oidc_certificate.is_some() && oidc_listen.is_none() {
            sources.needs("oidc-certificate", "oidc-listen");
        }
        let upstream = upstream(&mut sources);
        let settings = Self {
            agent_listen: sources.one("agent-listen", listen(Ipv4Addr::UNSPECIFIED, 7443), values::address),
            admin_listen: sources.one("admin-listen", listen(Ipv4Addr::LOCALHOST, 7444), values::address),
            health_listen: sources.one("health-listen", listen(Ipv4Addr::LOCALHOST, 7445), values::address),
            sans: sources.many("san", values::subject_name),
            svid_ttl: sources.one("svid-ttl", Duration::from_secs(3_600), |text| {
                values::duration(text, Duration::from_secs(60), Duration::from_secs(86_400))
            }),
            jwt_svid_ttl: sources.one("jwt-svid-ttl", Duration::from_secs(300), |text| {
                values::duration(text, Duration::from_secs(60), LONGEST_TOKEN_LIFE)
            }),
            oidc_listen,
            oidc_issuer,
            oidc_certificate,
            bundle_listen,
            bundle_certificate,
            web_roots: sources.one("web-roots", None, |text| values::path(text).map(Some)),
            token_review: sources.many("token-review", values::review_cluster),
            upstream,
            kek_file: sources.one("kek-file", data_dir.join("key-encryption-key"), values::path),
            token: token(&mut sources),
            log: sources.one("log", "info".to_owned(), values::log_filter),
            log_format: sources.one("log-format", LogFormat::Auto, values::log_format),
            shutdown_deadline: sources.one("shutdown-deadline", Duration::from_secs(20), |text| {
                values::duration(text, Duration::from_secs(1), Duration::from_secs(600))
            }),
            file: sources.file(),
            data_dir,
        };
        sources.finish()?;
        Ok(settings)
    }

    /// Where the Unix socket of local administration is.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// The embedded store.
    pub fn registry_directory(&self) -> PathBuf {
        self.data_dir.join("registry")
    }

    /// Where the addresses that were bound are told to programs.
    pub fn addresses_file(&self) -> PathBuf {
        self.data_dir.join("addresses.json")
    }
}

/// Both or neither.
fn certificate_files(
    sources: &mut Sources<'_>,
    certificate_name: &str,
    key_name: &str,
) -> Option<CertificateFiles> {
    let certificate = sources.one(certificate_name, None, |text| values::path(text).map(Some));
    let key = sources.one(key_name, None, |text| values::path(text).map(Some));
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
        (Some(_), None) => {
            sources.needs(certificate_name, key_name);
            None
        }
        (None, Some(_)) => {
            sources.needs(key_name, certificate_name);
            None
        }
        (None, None) => None,
    }
}

/// Files, or a context, or neither.
fn upstream(sources: &mut Sources<'_>) -> Option<UpstreamSettings> {
    let files = certificate_files(sources, "upstream-certificate", "upstream-key");
    let root = sources.one("upstream-root", None, |text| values::path(text).map(Some));
    let context = sources.one("upstream-context", None, |text| values::path(text).map(Some));
    match (files, context) {
        (Some(_), Some(_)) => {
            sources.excludes("upstream-context", "upstream-certificate");
            None
        }
        (Some(files), None) => Some(UpstreamSettings::Files { files, root }),
        (None, context) => {
            if root.is_some() {
                sources.needs("upstream-root", "upstream-certificate");
            }
            context.map(UpstreamSettings::Context)
        }
    }
}

/// All three or none.
fn token(sources: &mut Sources<'_>) -> Option<TokenSettings> {
    const NAMES: [&str; 3] = ["pkcs11-module", "pkcs11-token", "pkcs11-pin-file"];
    let [module_name, label_name, pin_file_name] = NAMES;
    let module = sources.one(module_name, None, |text| values::absolute_path(text).map(Some));
    let label = sources.one(label_name, None, |text| values::token_label(text).map(Some));
    let pin_file = sources.one(pin_file_name, None, |text| values::path(text).map(Some));
    let is_given = [module.is_some(), label.is_some(), pin_file.is_some()];
    let missing = NAMES.iter().zip(is_given).find(|(_, is_given)| !is_given);
    let given = NAMES.iter().zip(is_given).find(|(_, is_given)| *is_given);
    if let (Some((given, _)), Some((missing, _))) = (given, missing) {
        sources.needs(given, missing);
    }
    Some(TokenSettings { module: module?, label: label?, pin_file: pin_file? })
}

fn listen(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(address, port))
}
