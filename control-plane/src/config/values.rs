//! How the texts of settings are read. An error says what would be right.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hauberk_identity::Name;

use crate::attestation::ReviewCluster;

/// How log events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A name in the control plane's own certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectName {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl std::fmt::Display for SubjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a path is needed".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// The loader looks for others in more than one place.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        Ok(PathBuf::from(text))
    } else {
        Err(format!("{text:?} is not an absolute path such as /usr/lib/softhsm/libsofthsm2.so"))
    }
}

/// As long as tokens hold it (PKCS#11 §3.2, `CK_TOKEN_INFO`).
pub(super) fn token_label(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 32 || text.ends_with(' ') {
        Err(format!("{text:?} is not the label of a token: 1 to 32 bytes, without spaces at the end"))
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address and port such as 127.0.0.1:7444 or [::]:7443"))
}

impl SubjectName {
    /// Reads a DNS name or an IP address.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        subject_name(text)
    }
}

pub(super) fn subject_name(text: &str) -> Result<SubjectName, String> {
    if let Ok(address) = text.parse() {
        return Ok(SubjectName::Ip(address));
    }
    if hauberk_tls::is_dns_name(text) {
        Ok(SubjectName::Dns(text.to_ascii_lowercase()))
    } else {
        Err(format!("{text:?} is neither a DNS name nor an IP address"))
    }
}

/// `NAME=HOST:PORT=DIRECTORY`.
pub(super) fn review_cluster(text: &str) -> Result<ReviewCluster, String> {
    let wrong = || {
        format!(
            "{text:?} is not NAME=HOST:PORT=DIRECTORY, such as \
             prod=kubernetes.default.svc:443=/var/run/secrets/kubernetes.io/serviceaccount"
        )
    };
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (server, credentials) = rest.split_once('=').ok_or_else(wrong)?;
    let (host, port) = server.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = Name::parse(name).map_err(|error| format!("{text:?}: {error}"))?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    if !hauberk_tls::is_dns_name(host) && host.parse::<IpAddr>().is_err() || !credentials.starts_with('/') {
        return Err(wrong());
    }
    Ok(ReviewCluster { name, host: host.to_owned(), port, credentials: credentials.into() })
}

/// The URL of an OpenID Connect issuer: `https://`, a host, and no slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerUrl {
    url: String,
    path: String,
}

impl IssuerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no issuer's URL such as https://oidc.shop.example: https, no query, no slash at the end"
            )
        };
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let host = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let path = uri.path().trim_end_matches('/').to_owned();
        let url = format!("https://{host}{path}");
        // As it was written, or nobody who compares it as text would find it the same.
        if url == text { Ok(Self { url, path }) } else { Err(wrong()) }
    }

    /// The path under which its documents are, such as `/mesh`; mostly empty.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl std::fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let (least_text, most_text) = (in_words(least), in_words(most));
    let duration = text
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|parsed| Duration::try_from(parsed).ok())
        .ok_or_else(|| format!("{text:?} is not a duration such as 90s, 30m or 1h"))?;
    if duration < least || duration > most {
        return Err(format!("{text:?} is outside of {least_text} to {most_text}"));
    }
    Ok(duration)
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            Err(format!("{text:?} is not a log filter such as info or hauberk_control_plane=debug: {error}"))
        }
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(format!("{text:?} is none of auto, json, text")),
    }
}

fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 3_600 && seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        seconds if seconds >= 60 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}
