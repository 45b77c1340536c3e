//! How the instances of a virtual node are found.

use std::net::{IpAddr, SocketAddr};

use hauberk_proto::convert::{Dns, IpPreference};
use hauberk_proto::mesh::v1 as wire;
use wire::service_discovery::Discovery as WireDiscovery;

use super::choice;
use super::problem::{Fault, Problems};
use super::virtual_node::Listener;

/// The most fixed endpoints of a node.
const MOST_ENDPOINTS: usize = 1_000;
/// The longest host name (RFC 1035 §2.3.4).
const LONGEST_HOSTNAME: usize = 253;

/// How a node's instances are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// They register themselves.
    Registered,
    /// By a DNS name.
    Dns(Dns),
    /// They are these.
    Fixed(Vec<FixedEndpoint>),
}

/// One address of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedEndpoint {
    address: IpAddr,
    /// The listener it serves; `None`: all of them, each at its own port.
    listener: Option<u16>,
    port: Option<u16>,
}

impl Discovery {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(super) fn parse(
        discovery: &wire::ServiceDiscovery,
        listeners: &[Listener],
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::ServiceDiscovery { discovery } = discovery;
        match discovery {
            Some(WireDiscovery::Dns(dns)) => parse_dns(dns, problems).map(Self::Dns),
            Some(WireDiscovery::Fixed(fixed)) => Some(Self::Fixed(parse_fixed(fixed, listeners, problems))),
            Some(WireDiscovery::Registered(wire::RegisteredDiscovery {})) => Some(Self::Registered),
            None => {
                let help = "write dns, fixed or registered, or leave it out: agents register themselves";
                problems.invalid_but("spec.serviceDiscovery", "it is empty", help);
                None
            }
        }
    }
}

fn parse_dns(dns: &wire::DnsDiscovery, problems: &mut Problems) -> Option<Dns> {
    let wire::DnsDiscovery { hostname, response_type, ip_preference } = dns;
    let field = "spec.serviceDiscovery.dns";
    if !is_hostname(hostname) {
        let message = format!("{hostname:?} is not a host name");
        problems.invalid(format!("{field}.hostname"), message);
    }
    let kinds = [("LOADBALANCER", false), ("ENDPOINTS", true)];
    let all_addresses = response_type
        .as_deref()
        .and_then(|word| choice::choose(problems, &format!("{field}.responseType"), word, &kinds));
    let preferences = [
        ("IPv4_PREFERRED", IpPreference::Ipv4Preferred),
        ("IPv4_ONLY", IpPreference::Ipv4Only),
        ("IPv6_PREFERRED", IpPreference::Ipv6Preferred),
        ("IPv6_ONLY", IpPreference::Ipv6Only),
    ];
    let ip_preference = ip_preference
        .as_deref()
        .and_then(|word| choice::choose(problems, &format!("{field}.ipPreference"), word, &preferences));
    Some(Dns {
        hostname: hostname.clone(),
        all_addresses: all_addresses.unwrap_or_default(),
        ip_preference: ip_preference.unwrap_or_default(),
    })
}

/// RFC 1123 §2.1, and underscores, which service names in DNS have.
fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= LONGEST_HOSTNAME && text.split('.').all(is_label)
}

fn parse_fixed(
    fixed: &wire::FixedDiscovery,
    listeners: &[Listener],
    problems: &mut Problems,
) -> Vec<FixedEndpoint> {
    let wire::FixedDiscovery { endpoints } = fixed;
    let field = "spec.serviceDiscovery.fixed.endpoints";
    if endpoints.is_empty() {
        problems.invalid_but(
            field,
            "it is empty",
            "list at least one address, or leave serviceDiscovery out",
        );
    }
    if endpoints.len() > MOST_ENDPOINTS {
        let message = format!("{} endpoints are too many: at most {MOST_ENDPOINTS}", endpoints.len());
        problems.invalid_but(field, message, "use dns, or let agents register themselves");
    }
    let endpoints = endpoints.iter().enumerate().take(MOST_ENDPOINTS);
    endpoints
        .filter_map(|(index, endpoint)| {
            FixedEndpoint::parse(endpoint, listeners, &format!("{field}[{index}]"), problems)
        })
        .collect()
}

impl FixedEndpoint {
    fn parse(
        endpoint: &wire::FixedEndpoint,
        listeners: &[Listener],
        field: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::FixedEndpoint { address, listener_port, port } = endpoint;
        let before = problems.count();
        let ip = match address.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                problems.invalid(format!("{field}.address"), format!("nobody can be reached at {ip}"));
                None
            }
            Ok(ip) => Some(ip),
            Err(_) => {
                let message = format!("{address:?} is not an IP address");
                problems.invalid_but(format!("{field}.address"), message, "use dns for a host name");
                None
            }
        };
        let mut number = |name: &str, number: &Option<u32>| {
            number.and_then(|_| choice::port(problems, &format!("{field}.{name}"), *number))
        };
        let (listener, port) = (number("listenerPort", listener_port), number("port", port));
        // A port that is given alone is that of the listener as well.
        let (named, wanted) =
            if listener_port.is_some() { ("listenerPort", listener) } else { ("port", port) };
        if let Some(wanted) = wanted
            && !listeners.iter().any(|listener| listener.port() == wanted)
        {
            let help = (named == "port").then(|| "name the listener as listenerPort".to_owned());
            let message = format!("there is no listener with port {wanted}");
            problems.report(Fault::Invalid, format!("{field}.{named}"), message, help);
        }
        let ip = ip?;
        (problems.count() == before).then_some(Self { address: ip, listener: wanted, port })
    }

    /// Where this endpoint serves the listener with the given port, if it does.
    pub fn serving(&self, listener: u16) -> Option<SocketAddr> {
        let serves = self.listener.is_none_or(|own| own == listener);
        serves.then(|| SocketAddr::new(self.address, self.port.unwrap_or(listener)))
    }
}
