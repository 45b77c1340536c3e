//! Where a request is routed: from the host that the app names to a port of a virtual service.
//!
//! `orders` and `orders:8080` name the service `orders`. Without a port the service must have only one of the kind that
//! is asked for, or one with the scheme's default number. A name that is no service's is answered 502, never 404, which
//! apps would take for the service's own answer; and the answer says what to do, since it goes to our own app.

use std::fmt;
use std::sync::Arc;

use hauberk_policy::Protocol;
use http::StatusCode;
use thiserror::Error;

use crate::mesh::{Service, ServicePort, Services, Unknown};
use crate::wire::headers::split_host;

/// The stable name of the reason that no service is called so.
pub(super) const UNKNOWN_SERVICE: &str = "unknown_service";

/// The port that `http://` means.
const HTTP_PORT: u16 = 80;

/// A port of a service.
#[derive(Debug, Clone)]
pub(super) struct Route {
    service: Arc<Service>,
    index: usize,
}

/// What an app wants to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Tcp,
}

/// Why there is no route. The fault is the app's or the configuration's, but for [`Unknown::NoAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum RouteError {
    #[error("the request names no host; name a virtual service in Host, for instance `Host: orders`")]
    NoHost,
    #[error("no virtual service {name:?}: {why}; `hauberk get virtualservices` lists those there are")]
    Unknown { name: String, why: Unknown },
    #[error("virtual service {service:?} has no port {port}; it has {ports}")]
    NoSuchPort { service: String, port: u16, ports: Ports },
    #[error(
        "virtual service {service:?} has several ports; name one of {ports}, for instance \"{service}:{first}\""
    )]
    WhichPort { service: String, ports: Ports, first: u16 },
    #[error(
        "port {port} of virtual service {service:?} is TCP; bind it with `--tcp 127.0.0.1:PORT={service}:{port}`"
    )]
    PortIsTcp { service: String, port: u16 },
    #[error(
        "port {port} of virtual service {service:?} is not TCP; send plain HTTP requests for it to the agent"
    )]
    PortIsHttp { service: String, port: u16 },
}

/// Numbers of ports, as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ports(Vec<u16>);

impl Route {
    /// Finds the route for `host` or `host:port`.
    pub(super) async fn find(services: &Services, authority: &str, kind: Kind) -> Result<Self, RouteError> {
        let (name, port) = split_host(authority).ok_or(RouteError::NoHost)?;
        // Names of services know case, hosts do not; clients write hosts in lower case.
        let lower = name.to_ascii_lowercase();
        let service = match services.lookup(name).or_else(|| services.lookup(&lower)) {
            Some(service) => service,
            None => match services.want(&lower).await {
                Ok(service) => service,
                Err(_) if lower != name => services.want(name).await.map_err(|why| unknown(name, why))?,
                Err(why) => return Err(unknown(name, why)),
            },
        };
        Self::to(service, port, kind)
    }

    /// The port of a known service.
    pub(super) fn to(service: Arc<Service>, port: Option<u16>, kind: Kind) -> Result<Self, RouteError> {
        let name = || service.name.to_string();
        let ports = || Ports(service.ports.iter().map(|port| port.number).collect());
        let fits = |port: &ServicePort| (port.protocol == Protocol::Tcp) == (kind == Kind::Tcp);
        let index = match port {
            Some(wanted) => {
                let found = service.ports.iter().position(|port| port.number == wanted);
                let only_default = found.is_none() && wanted == HTTP_PORT && kind == Kind::Http;
                match found {
                    Some(index) => Some(index),
                    // Many clients write the default port out.
                    None if only_default => only(&service.ports, fits),
                    None => None,
                }
                .ok_or_else(|| RouteError::NoSuchPort {
                    service: name(),
                    port: wanted,
                    ports: ports(),
                })?
            }
            None => only(&service.ports, fits)
                .or_else(|| {
                    service
                        .ports
                        .iter()
                        .position(|port| kind == Kind::Http && port.number == HTTP_PORT && fits(port))
                })
                .or_else(|| (service.ports.len() == 1).then_some(0))
                .ok_or_else(|| RouteError::WhichPort {
                    service: name(),
                    ports: ports(),
                    first: service.ports.first().map_or(0, |port| port.number),
                })?,
        };
        match service.ports.get(index) {
            Some(port) if fits(port) => Ok(Self { service, index }),
            Some(port) if kind == Kind::Http => {
                Err(RouteError::PortIsTcp { service: name(), port: port.number })
            }
            Some(port) => Err(RouteError::PortIsHttp { service: name(), port: port.number }),
            None => Err(RouteError::NoSuchPort { service: name(), port: 0, ports: ports() }),
        }
    }

    /// The service.
    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Its port. It is always there; a route is made only with a valid index.
    pub(super) fn port(&self) -> Option<&ServicePort> {
        self.service.ports.get(self.index)
    }
}

impl RouteError {
    /// The status that tells the app, and the stable name of the reason.
    pub(super) fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoHost => (StatusCode::BAD_REQUEST, "no_host"),
            Self::Unknown { why: Unknown::NoAnswer, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "control_plane_unreachable")
            }
            Self::Unknown { why: Unknown::TooMany, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "too_many_services")
            }
            Self::Unknown { .. } => (StatusCode::BAD_GATEWAY, UNKNOWN_SERVICE),
            Self::NoSuchPort { .. } | Self::WhichPort { .. } => (StatusCode::BAD_GATEWAY, "unknown_port"),
            Self::PortIsTcp { .. } | Self::PortIsHttp { .. } => (StatusCode::BAD_GATEWAY, "wrong_protocol"),
        }
    }
}

fn unknown(name: &str, why: Unknown) -> RouteError {
    RouteError::Unknown { name: name.to_owned(), why }
}

/// The only port that fits.
fn only(ports: &[ServicePort], fits: impl Fn(&ServicePort) -> bool) -> Option<usize> {
    let mut fitting = ports.iter().enumerate().filter(|(_, port)| fits(port));
    match (fitting.next(), fitting.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, port) in self.0.iter().enumerate() {
            write!(f, "{}{port}", if index == 0 { "" } else { ", " })?;
        }
        if self.0.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_identity::Name;

    fn service(ports: &[(u16, Protocol)]) -> Arc<Service> {
        let ports = ports.iter().map(|(number, protocol)| ServicePort {
            number: *number,
            protocol: *protocol,
            targets: Vec::new(),
        });
        Arc::new(Service {
            name: Name::parse("orders").unwrap(),
            epoch: 1,
            revision: 1,
            digest: [0; 32],
            ports: ports.collect(),
        })
    }

    fn found(ports: &[(u16, Protocol)], port: Option<u16>, kind: Kind) -> Result<u16, RouteError> {
        Route::to(service(ports), port, kind).map(|route| route.port().unwrap().number)
    }

    #[test]
    fn finds_the_port() {
        use Protocol::{Grpc, Http, Tcp};
        assert_eq!(found(&[(8080, Http)], None, Kind::Http), Ok(8080));
        assert_eq!(found(&[(8080, Http)], Some(80), Kind::Http), Ok(8080));
        assert_eq!(found(&[(8080, Http), (9000, Tcp)], None, Kind::Http), Ok(8080));
        assert_eq!(found(&[(8080, Http), (9000, Tcp)], None, Kind::Tcp), Ok(9000));
        assert_eq!(found(&[(80, Http), (9000, Grpc)], None, Kind::Http), Ok(80));
        assert_eq!(found(&[(80, Http), (9000, Grpc)], Some(9000), Kind::Http), Ok(9000));
    }

    #[test]
    fn says_what_to_do_otherwise() {
        use Protocol::{Http, Tcp};
        let text = |ports: &[(u16, Protocol)], port, kind| found(ports, port, kind).unwrap_err().to_string();
        assert_eq!(
            text(&[(8080, Http), (8081, Http)], None, Kind::Http),
            "virtual service \"orders\" has several ports; name one of 8080, 8081, for instance \"orders:8080\""
        );
        assert_eq!(
            text(&[(8080, Http)], Some(81), Kind::Http),
            "virtual service \"orders\" has no port 81; it has 8080"
        );
        assert!(text(&[(6379, Tcp)], None, Kind::Http).contains("--tcp 127.0.0.1:PORT=orders:6379"));
        assert!(text(&[(80, Http)], Some(80), Kind::Tcp).contains("not TCP"));
        assert!(text(&[], None, Kind::Http).contains("none"));
    }
}
