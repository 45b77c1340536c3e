//! Hosts outside of the mesh, as they are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hauberk_identity::Name;
use hauberk_policy::AddressRange;
use hauberk_proto::convert::{External, ExternalPort, ExternalProtocol};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::is_dns_name;

use super::choice;
use super::problem::Problems;

/// The most hosts, ports and ranges of one.
const MOST_HOSTS: usize = 32;
const MOST_PORTS: usize = 16;
const MOST_RANGES: usize = 32;

const PROTOCOLS: [(&str, ExternalProtocol); 3] =
    [("http", ExternalProtocol::Http), ("tls", ExternalProtocol::Tls), ("tcp", ExternalProtocol::Tcp)];

/// Hosts that nodes of the mesh may call, if policies permit it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalService {
    hosts: Vec<String>,
    ports: Vec<ExternalPort>,
    allowed: Vec<AddressRange>,
}

impl ExternalService {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::ExternalServiceSpec, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::ExternalServiceSpec { hosts, ports, allowed_addresses, description } = spec;
        choice::description(problems, description.as_deref());
        let hosts = read_hosts(hosts, problems);
        let ports = read_ports(ports, problems);
        let allowed = read_ranges(allowed_addresses, problems);
        (problems.count() == before).then_some(Self { hosts, ports, allowed })
    }

    /// Names in DNS and IP addresses, in order.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Its ports, by number.
    pub fn ports(&self) -> &[ExternalPort] {
        &self.ports
    }

    /// As nodes' views have it.
    pub(crate) fn of_view(&self, name: &Name) -> External {
        let Self { hosts, ports, allowed } = self.clone();
        External { name: name.clone(), hosts, ports, allowed }
    }
}

fn read_hosts(hosts: &[String], problems: &mut Problems) -> Vec<String> {
    if hosts.is_empty() {
        let help = "write hosts: and the names that apps call, such as api.partner.example";
        problems.invalid_but("spec.hosts", "it is missing", help);
    }
    if hosts.len() > MOST_HOSTS {
        problems.invalid("spec.hosts", format!("{} hosts are too many: at most {MOST_HOSTS}", hosts.len()));
    }
    let mut read = BTreeSet::new();
    for (index, host) in hosts.iter().enumerate().take(MOST_HOSTS) {
        let field = format!("spec.hosts[{index}]");
        match host_of(host) {
            Ok(host) if read.contains(&host) => {
                problems.invalid(field, format!("{host:?} stands here twice"));
            }
            Ok(host) => drop(read.insert(host)),
            Err((message, help)) => problems.invalid_but(field, message, help),
        }
    }
    read.into_iter().collect()
}

/// A host in the one spelling in which agents compare it.
fn host_of(text: &str) -> Result<String, (String, String)> {
    let wrong = |message: &str, help: &str| Err((format!("{text:?} {message}"), help.to_owned()));
    if let Ok(address) = text.parse::<IpAddr>() {
        let canonical = address.to_canonical().to_string();
        return if canonical == text {
            Ok(canonical)
        } else {
            wrong("is an IP address in another spelling than its own", &format!("write {canonical}"))
        };
    }
    if text.contains('*') {
        return wrong(
            "stands for many hosts",
            "write each host out: what is reached by a pattern is whatever an app likes to ask for",
        );
    }
    if !is_dns_name(text) || is_number(text.rsplit('.').next().unwrap_or_default()) {
        return wrong(
            "is neither a name in DNS nor an IP address",
            "write a host alone, without scheme, port, path or last dot, such as api.partner.example",
        );
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return wrong("has capitals", &format!("write {}", text.to_ascii_lowercase()));
    }
    Ok(text.to_owned())
}

/// Whether resolvers take a name that ends so for an address of IPv4: `2130706433`, `0x7f.1`, `0177.0.0.1`.
pub(super) fn is_number(label: &str) -> bool {
    let digits = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn read_ports(ports: &[wire::ExternalPort], problems: &mut Problems) -> Vec<ExternalPort> {
    if ports.is_empty() {
        problems.invalid_but("spec.ports", "it is missing", "write ports: [{port: 443, protocol: tls}]");
    }
    if ports.len() > MOST_PORTS {
        problems.invalid("spec.ports", format!("{} ports are too many: at most {MOST_PORTS}", ports.len()));
    }
    let mut read: BTreeMap<u16, ExternalPort> = BTreeMap::new();
    for (index, wire::ExternalPort { port, protocol }) in ports.iter().enumerate().take(MOST_PORTS) {
        let field = format!("spec.ports[{index}]");
        let number = choice::port(problems, &format!("{field}.port"), *port);
        let protocol = choice::choose(problems, &format!("{field}.protocol"), protocol, &PROTOCOLS);
        let Some((number, protocol)) = number.zip(protocol) else { continue };
        if read.insert(number, ExternalPort { number, protocol }).is_some() {
            problems.invalid(format!("{field}.port"), format!("port {number} stands here twice"));
        }
    }
    read.into_values().collect()
}

fn read_ranges(ranges: &[String], problems: &mut Problems) -> Vec<AddressRange> {
    if ranges.len() > MOST_RANGES {
        let message = format!("{} ranges are too many: at most {MOST_RANGES}", ranges.len());
        problems.invalid("spec.allowedAddresses", message);
    }
    let mut read = BTreeSet::new();
    for (index, text) in ranges.iter().enumerate().take(MOST_RANGES) {
        let field = format!("spec.allowedAddresses[{index}]");
        match text.parse::<AddressRange>() {
            Ok(range) if !read.insert(range) => {
                problems.invalid(field, format!("{range} stands here twice"));
            }
            Ok(_) => {}
            Err(error) => problems.invalid(field, format!("{text:?}: {error}")),
        }
    }
    read.into_iter().collect()
}

/// Whether an address that is a host by itself is one that is never reached without a range that holds it.
pub(super) fn is_out_of_reach(host: &str, allowed: &[AddressRange]) -> bool {
    let address: Option<IpAddr> =
        host.parse().ok().or_else(|| (host == "localhost").then_some(Ipv4Addr::LOCALHOST.into()));
    address.is_some_and(|address| !hauberk_policy::may_be_reached(address, allowed))
}

impl ExternalService {
    /// Hosts that are addresses at which nothing is ever called.
    pub(super) fn unreachable(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(String::as_str).filter(|host| is_out_of_reach(host, &self.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(hosts: &[&str], ports: &[(u32, &str)], ranges: &[&str]) -> Result<ExternalService, Vec<String>> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let port = |(port, protocol): &(u32, &str)| wire::ExternalPort {
            port: Some(*port),
            protocol: (*protocol).to_owned(),
        };
        let spec = wire::ExternalServiceSpec {
            hosts: texts(hosts),
            ports: ports.iter().map(port).collect(),
            allowed_addresses: texts(ranges),
            description: None,
        };
        let mut problems = Problems::default();
        let parsed = ExternalService::parse(&spec, &mut problems);
        let told = problems
            .into_sorted()
            .into_iter()
            .map(|problem| format!("{}: {}", problem.field, problem.description()));
        parsed.ok_or_else(|| told.collect())
    }

    #[test]
    fn hosts_are_exact_names_and_addresses_in_their_one_spelling() {
        let good =
            parse(&["b.example", "a-1.example", "192.0.2.7", "2001:db8::1", "db"], &[(443, "tls")], &[]);
        let hosts = ["192.0.2.7", "2001:db8::1", "a-1.example", "b.example", "db"];
        assert_eq!(good.unwrap().hosts(), hosts);
        for host in [
            "",
            "*.example",
            "https://a.example",
            "a.example:443",
            "a.example.",
            "a..example",
            "a_b.example",
            "A.example",
            "user@a.example",
            "a.example/x",
            "[::1]",
            "::ffff:127.0.0.1",
            "2001:DB8::1",
            "2001:db8:0::1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "010.0.0.1",
            "1.2.3.4.5",
            "a.0x1",
        ] {
            let problems = parse(&[host], &[(443, "tls")], &[]).unwrap_err();
            assert_eq!(problems.len(), 1, "{host}: {problems:?}");
            assert!(problems[0].starts_with("spec.hosts[0]: "), "{host}: {problems:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let problems = parse(&[], &[], &["10.0.0.1/8", "::/0", "::/0"]).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        let problems = parse(&["a", "a"], &[(0, "tls"), (80, "https"), (5, "tcp"), (5, "http")], &[]);
        assert_eq!(problems.unwrap_err().len(), 4);
    }

    #[test]
    fn addresses_that_are_never_reached_are_known() {
        let of = |host: &str, ranges: &[&str]| {
            let parsed = parse(&[host], &[(80, "http")], ranges).unwrap();
            parsed.unreachable().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("169.254.169.254", &[]), ["169.254.169.254"]);
        assert_eq!(of("localhost", &[]), ["localhost"]);
        assert!(of("127.0.0.1", &["127.0.0.0/8"]).is_empty());
        assert!(of("a.example", &[]).is_empty());
    }
}
