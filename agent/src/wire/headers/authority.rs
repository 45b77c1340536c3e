//! Whom a request is for.

use std::net::Ipv6Addr;

use http::header;
use http::{Method, Request, Version};

use super::HeaderProblem;

/// Host, without a last dot, and port of `host` or `host:port`.
pub(crate) fn split_host(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then_some((host, port))
}

/// The authority that a request is for.
///
/// # Errors
/// It names none, or may be read as naming two.
pub(crate) fn host<B>(request: &Request<B>) -> Result<String, HeaderProblem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeaderProblem::DuplicateHost);
    }
    let host = match host {
        Some(host) => Some(host.to_str().map_err(|_| HeaderProblem::BadHost)?),
        None => None,
    };
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    match (target, host) {
        (Some(target), Some(host)) if !is_host_of(target, host, request.method()) => {
            Err(HeaderProblem::ConflictingHost)
        }
        // Whoever passes over an absolute target would find none (RFC 9112 §3.2).
        (Some(_), None) if request.version() == Version::HTTP_11 => Err(HeaderProblem::NoHost),
        (Some(target), _) if is_authority(target) => Ok(target.to_owned()),
        (None, Some(host)) if is_authority(host) => Ok(host.to_owned()),
        (None, None) if request.version() == Version::HTTP_10 => Ok(String::new()),
        (None, None) => Err(HeaderProblem::NoHost),
        _ => Err(HeaderProblem::BadHost),
    }
}

/// Whether a `Host` is that of a target. Many clients leave out the port that is usual beside a CONNECT.
fn is_host_of(target: &str, host: &str, method: &Method) -> bool {
    let without_port = target.rsplit_once(':').filter(|_| *method == Method::CONNECT);
    target.eq_ignore_ascii_case(host) || without_port.is_some_and(|(name, _)| name.eq_ignore_ascii_case(host))
}

/// A name or an address, with or without a port (RFC 9110 §7.2): nothing that servers cut in different places.
fn is_authority(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
            (labels.all(|label| !label.is_empty() && label.bytes().all(allowed)), port)
        }
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}
