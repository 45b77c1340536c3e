//! How single values are written. Each error says what would be right.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hauberk_identity::Name;
use tracing_subscriber::EnvFilter;

use super::{EnrollmentName, HostPort, ListenerConfig, LogFormat, TcpBinding};

pub(super) fn host_port(text: &str) -> Result<HostPort, String> {
    let wanted = "write HOST:PORT, such as control-plane:7443 or [::1]:7443";
    let (host, port) = text.rsplit_once(':').ok_or(wanted)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .filter(|inner| inner.parse::<Ipv6Addr>().is_ok())
            .ok_or("the address in brackets is not IPv6")?,
        None => host,
    };
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    if !is_name(host) && host.parse::<IpAddr>().is_err()
        || text.matches(':').count() > 1 && !text.starts_with('[')
    {
        return Err(wanted.to_owned());
    }
    Ok(HostPort { host: host.to_owned(), port: port_number(port)? })
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

pub(super) fn enrollment(text: &str) -> Result<EnrollmentName, String> {
    let (mesh, name) = text.split_once('/').ok_or("write MESH/NAME, such as shop/machines")?;
    let name_of = |text| Name::parse(text).map_err(|error| error.to_string());
    Ok(EnrollmentName { mesh: name_of(mesh)?, name: name_of(name)? })
}

/// The system takes 107 bytes of a Unix socket's path.
pub(super) fn unix_socket(text: &str) -> Result<PathBuf, String> {
    // As `SPIFFE_ENDPOINT_SOCKET` of those who connect writes it.
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("write an absolute path, such as /run/hauberk/api.sock".to_owned());
    }
    if path.len() > 107 {
        return Err("a socket's path has at most 107 bytes".to_owned());
    }
    Ok(path.into())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// Where whoever connects acts in the node's name.
pub(super) fn speaks_as_node(text: &str) -> Result<SocketAddr, String> {
    loopback(
        text,
        "whoever reaches this address calls services with this node's identity; use a loopback address, such as \
         127.0.0.1, which only programs on this host (or in this pod) reach",
    )
}

pub(super) fn admin(text: &str) -> Result<SocketAddr, String> {
    loopback(
        text,
        "whoever reaches this address administers the agent; use a loopback address, such as 127.0.0.1 (probes and \
         scrapers have --health)",
    )
}

/// Where EC2 serves metadata by IPv6: a unique local address, which no other of its networks has.
const EC2_BY_IPV6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 80);

/// Whoever answers there says which instance this is.
pub(super) fn metadata_endpoint(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    let is_near = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    (is_near || address == EC2_BY_IPV6).then_some(address).ok_or_else(|| {
        "whoever answers there says which instance this is; use a loopback or link-local address, where no router leads, or EC2's own \
         for IPv6, [fd00:ec2::254]:80"
            .to_owned()
    })
}

fn loopback(text: &str, why: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().is_loopback() { Ok(address) } else { Err(why.to_owned()) }
}

pub(super) fn advertised_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| "write an IP address")?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err("nobody can connect to this address".to_owned());
    }
    Ok(ip)
}

/// `20s`, or several such from the largest unit to the smallest: `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = "write a number with ms, s, m or h, such as 20s or 1m30s";
    let (mut rest, mut total, mut smallest) = (text, 0_u64, u64::MAX);
    loop {
        let (number, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let (unit, after) = after.split_at(after.bytes().take_while(u8::is_ascii_lowercase).count());
        let number: u64 = number.parse().map_err(|_| wanted)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wanted.to_owned()),
        };
        if millis >= smallest {
            return Err(wanted.to_owned());
        }
        (rest, smallest) = (after, millis);
        total = total.saturating_add(number.saturating_mul(millis));
        if rest.is_empty() {
            break;
        }
    }
    if total <= 24 * 3_600_000 {
        Ok(Duration::from_millis(total))
    } else {
        Err("a day is the most".to_owned())
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("write auto, json or text".to_owned()),
    }
}

pub(super) fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

pub(super) fn tcp_binding(text: &str) -> Result<TcpBinding, String> {
    let (local, service) = text.split_once('=').ok_or(
        "write IP:PORT=SERVICE[:PORT], such as 127.0.0.1:6379=redis, or IP:PORT=external/NAME[:PORT]",
    )?;
    let local = speaks_as_node(local)?;
    let (is_external, service) = match service.strip_prefix("external/") {
        Some(service) => (true, service),
        None => (false, service),
    };
    let (service, port) = match service.split_once(':') {
        Some((service, port)) => (service, Some(port_number(port)?)),
        None => (service, None),
    };
    let service = Name::parse(service).map_err(|error| error.to_string())?;
    Ok(TcpBinding { local, is_external, service, port })
}

pub(super) fn listener(text: &str) -> Result<ListenerConfig, String> {
    let mut parts = text.split(',');
    let mut listener = ListenerConfig::default_for(port_number(parts.next().unwrap_or_default())?);
    let mut seen = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=IP:PORT"))?;
        if seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
        let value = address(value).map_err(|mistake| format!("{key}: {mistake}"))?;
        match key {
            "inbound" => listener.inbound = Some(value),
            "app" => listener.app = value,
            "advertise" if value.ip().is_unspecified() || value.port() == 0 => {
                return Err("advertise: nobody can connect to this address".to_owned());
            }
            "advertise" => listener.advertise = Some(value),
            _ => return Err(format!("{key:?} is none of inbound, app, advertise")),
        }
    }
    Ok(listener)
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is no port; ports are 1 to 65535")),
    }
}
