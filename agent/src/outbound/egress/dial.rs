//! Where a host outside of the mesh is resolved and connected to: at no other address than its external service allows.
//! The address that was looked at is the one that is connected to, and nothing resolves the name again.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

use super::super::Outbound;
use super::PATIENCE;
use crate::connections::Destination;
use crate::mesh::{External, Mesh};
use crate::wire::budget::SocketPlace;
use crate::wire::socket::{self, ConnectError};

/// How many addresses of a host are tried.
const MOST_ADDRESSES: usize = 4;

/// Names that the system gives addresses to by itself.
const HOSTS: &str = "/etc/hosts";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The name leads nowhere.
    #[error("{host} cannot be resolved: {source}")]
    Resolve { host: Box<str>, source: io::Error },
    /// The name leads to addresses alone at which nothing is called.
    #[error("{host} has no address that may be called")]
    Refused { host: Box<str> },
    /// Nobody answers there.
    #[error("{address} cannot be reached: {source}")]
    Connect { address: SocketAddr, source: ConnectError },
}

/// Resolves the host, and connects to one of its addresses.
pub(super) async fn dial(
    outbound: &Outbound,
    external: &External,
    to: &Destination,
) -> Result<(TcpStream, SocketPlace, SocketAddr), DialError> {
    let mesh = &outbound.connections.context().mesh;
    let resolved =
        resolve(to).await.map_err(|source| DialError::Resolve { host: to.host.clone(), source })?;
    let mut failure = DialError::Refused { host: to.host.clone() };
    for address in reachable(resolved, external, mesh).into_iter().take(MOST_ADDRESSES) {
        match socket::connect_within(&outbound.outside, address, PATIENCE).await {
            Ok((stream, place)) => return Ok((stream, place, address)),
            Err(source) => failure = DialError::Connect { address, source },
        }
    }
    Err(failure)
}

async fn resolve(to: &Destination) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = to.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, to.port)]);
    }
    let lookup = async {
        // What the host's own table says of it, which knows no last dot.
        if to.host.contains('.')
            && let Ok(table) = tokio::fs::read_to_string(HOSTS).await
        {
            let told: Vec<_> = listed(&table, &to.host).map(|ip| SocketAddr::new(ip, to.port)).collect();
            if !told.is_empty() {
                return Ok(told);
            }
        }
        Ok(tokio::net::lookup_host((&*absolute(&to.host), to.port)).await?.collect())
    };
    let answer = tokio::time::timeout(PATIENCE, lookup).await;
    answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The name as it stands: what search domains would make of one with a dot is another's, which nobody permitted. One
/// without is none of the internet's.
fn absolute(host: &str) -> Cow<'_, str> {
    if host.contains('.') { Cow::Owned(format!("{host}.")) } else { Cow::Borrowed(host) }
}

/// The addresses that a table of hosts, in the form of /etc/hosts, has for a name.
fn listed(table: &str, host: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(move |line| {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let mut words = line.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(host)).then_some(address)
    })
}

/// The addresses of an answer that are called, in their order and each in its one spelling. Never those of agents: what
/// is called there is decided by who it is that calls, and this would be nobody.
fn reachable(resolved: Vec<SocketAddr>, external: &External, mesh: &Mesh) -> Vec<SocketAddr> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let may_be_called = |address: &SocketAddr| {
        external.may_be_at(address.ip())
            && !mesh.own_sockets.holds(*address)
            && !mesh.endpoints.holds(*address)
    };
    resolved.into_iter().map(canonical).filter(may_be_called).collect()
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{Name, TrustDomain};
    use hauberk_policy::PolicySlice;
    use hauberk_proto::convert::{self, Egress};

    use super::*;

    fn external(allowed: &[&str]) -> std::sync::Arc<External> {
        let name = |text: &str| Name::parse(text).unwrap();
        let described = convert::External {
            name: name("api"),
            hosts: vec!["api.example".to_owned()],
            ports: Vec::new(),
            allowed: allowed.iter().map(|range| range.parse().unwrap()).collect(),
        };
        let scope = described.scope(&TrustDomain::parse("shop.example").unwrap(), &name("shop"));
        let egress = Egress { externals: vec![described], policies: PolicySlice::default() };
        External::all(egress, &scope, None).unwrap().remove(0)
    }

    fn called(answer: &[&str], external: &External, mesh: &Mesh) -> Vec<String> {
        let answer = answer.iter().map(|text| text.parse().unwrap()).collect();
        reachable(answer, external, mesh).into_iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn an_answer_that_points_inside_is_not_called() {
        let mesh = Mesh::new();
        let answer = [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "127.0.0.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "10.0.0.1:80",
            "[64:ff9b::7f00:1]:80",
            "[::ffff:1.1.1.1]:80",
            "1.0.0.1:80",
        ];
        // What is left of a mixed answer is called, and nothing else of it.
        assert_eq!(called(&answer, &external(&[]), &mesh), ["1.1.1.1:80", "1.0.0.1:80"]);
        assert_eq!(called(&answer[..8], &external(&[]), &mesh), [""; 0]);
        let inside = external(&["127.0.0.0/8", "169.254.169.254"]);
        let allowed = ["169.254.169.254:80", "169.254.169.254:80", "127.0.0.1:80", "127.0.0.1:80"];
        assert_eq!(called(&answer[..8], &inside, &mesh), allowed);
    }

    #[test]
    fn a_name_is_looked_for_as_it_stands() {
        assert_eq!(absolute("api.example"), "api.example.");
        assert_eq!(absolute("localhost"), "localhost");
        let table = "127.0.0.1 localhost\n10.0.0.7\tapi  API.partner.example. # internal.example\n\
                     nonsense api.partner.example\n#10.0.0.8 api.partner.example\n::1 api.partner.example";
        let of = |host| listed(table, host).map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(of("api.partner.example"), ["10.0.0.7", "::1"]);
        assert_eq!(of("localhost"), ["127.0.0.1"]);
        for other in ["partner.example", "internal.example", "api.partner.example.shop", "127.0.0.1"] {
            assert_eq!(of(other), [""; 0]);
        }
    }

    #[test]
    fn agents_are_not_called() {
        let mesh = Mesh::new();
        mesh.own_sockets.set(vec!["127.0.0.1:15000".parse().unwrap()]);
        let inside = external(&["127.0.0.0/8", "::1"]);
        let answer = ["127.0.0.1:15000", "[::ffff:127.0.0.1]:15000", "127.0.0.1:15009"];
        assert_eq!(called(&answer, &inside, &mesh), ["127.0.0.1:15009"]);
    }
}
