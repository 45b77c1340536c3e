//! What an instance registers, parsed at the door.

use std::net::SocketAddr;

use hauberk_proto::agent::v1 as agent;
use thiserror::Error;

/// How many ports one instance may register.
const MAX_PORTS: usize = 64;

/// Where one instance takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    ports: Vec<RegisteredPort>,
    /// It wants no new traffic.
    pub draining: bool,
}

/// One port of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredPort {
    /// The listener's port.
    pub listener_port: u16,
    /// Where its mesh traffic goes.
    pub address: SocketAddr,
    /// Whether it wants any.
    pub healthy: bool,
}

/// Why a registration is not taken. The fault is the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistrationError {
    /// Too many ports.
    #[error("at most {MAX_PORTS} ports can be registered, these are {0}")]
    TooMany(usize),
    /// Not a port.
    #[error("ports[{index}].listener_port: {value} is no port")]
    Port {
        /// Which registration.
        index: usize,
        /// What was sent.
        value: u32,
    },
    /// Not an address and port.
    #[error("ports[{index}].address: not of the form IP:port")]
    Address {
        /// Which registration.
        index: usize,
    },
    /// An address that no caller can use.
    #[error("ports[{index}].address: {address} cannot be called: {why}")]
    Unusable {
        /// Which registration.
        index: usize,
        /// What was sent.
        address: SocketAddr,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Registration {
    /// Reads a registration. Several addresses of one listener are fine; loopback is, too: that is how a mesh on one
    /// host looks.
    ///
    /// # Errors
    /// Names the first field that is wrong; nothing is taken then.
    pub fn parse(message: &agent::Register) -> Result<Self, RegistrationError> {
        let agent::Register { ports, draining } = message;
        if ports.len() > MAX_PORTS {
            return Err(RegistrationError::TooMany(ports.len()));
        }
        let mut ports =
            ports.iter().enumerate().map(parse_port).collect::<Result<Vec<_>, RegistrationError>>()?;
        ports.sort_by_key(|port| (port.listener_port, port.address));
        ports.dedup();
        Ok(Self { ports, draining: *draining })
    }

    /// The ports in the order of their numbers.
    pub fn ports(&self) -> &[RegisteredPort] {
        &self.ports
    }

    /// Where new traffic may go.
    pub fn open_ports(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        let open = self.ports.iter().filter(|port| port.healthy && !self.draining);
        open.map(|port| (port.listener_port, port.address))
    }

    /// As it is stored.
    pub fn to_message(&self) -> agent::Register {
        let ports = self.ports.iter().map(|port| agent::Registration {
            listener_port: port.listener_port.into(),
            address: port.address.to_string(),
            healthy: port.healthy,
        });
        agent::Register { ports: ports.collect(), draining: self.draining }
    }
}

fn parse_port((index, message): (usize, &agent::Registration)) -> Result<RegisteredPort, RegistrationError> {
    let agent::Registration { listener_port, address, healthy } = message;
    let port = u16::try_from(*listener_port).ok().filter(|port| *port != 0);
    let listener_port = port.ok_or(RegistrationError::Port { index, value: *listener_port })?;
    let address: SocketAddr = address.parse().map_err(|_| RegistrationError::Address { index })?;
    let broadcast = matches!(address.ip(), std::net::IpAddr::V4(ip) if ip.is_broadcast());
    let why = match () {
        () if address.port() == 0 => Some("its port is 0"),
        () if address.ip().to_canonical().is_unspecified() => Some("it stands for every address of a host"),
        () if address.ip().to_canonical().is_multicast() || broadcast => Some("it stands for many hosts"),
        () => None,
    };
    match why {
        Some(why) => Err(RegistrationError::Unusable { index, address, why }),
        None => Ok(RegisteredPort { listener_port, address, healthy: *healthy }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(address: &str) -> agent::Register {
        let ports = vec![agent::Registration { listener_port: 8080, address: address.into(), healthy: true }];
        agent::Register { ports, draining: false }
    }

    #[test]
    fn loopback_and_both_families_are_taken() {
        for address in ["127.0.0.1:1", "10.0.0.1:8080", "[::1]:65535", "[2001:db8::1]:80"] {
            let registration = Registration::parse(&register(address)).unwrap();
            assert_eq!(registration.open_ports().collect::<Vec<_>>(), [(8080, address.parse().unwrap())]);
            assert_eq!(Registration::parse(&registration.to_message()), Ok(registration));
        }
    }

    #[test]
    fn what_no_caller_can_use_is_refused() {
        for address in [
            "0.0.0.0:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "255.255.255.255:80",
            "10.0.0.1:0",
        ] {
            let refused = Registration::parse(&register(address));
            assert!(matches!(refused, Err(RegistrationError::Unusable { index: 0, .. })), "{address}");
        }
        for address in ["", "10.0.0.1", "orders:80", "10.0.0.1:65536", " 10.0.0.1:80", "10.0.0.1:80\n"] {
            assert_eq!(
                Registration::parse(&register(address)),
                Err(RegistrationError::Address { index: 0 }),
                "{address:?}"
            );
        }
    }

    #[test]
    fn ports_are_counted_and_in_range() {
        let one = agent::Registration { listener_port: 1, address: "10.0.0.1:1".into(), healthy: true };
        let many = agent::Register { ports: vec![one.clone(); 65], draining: false };
        assert_eq!(Registration::parse(&many), Err(RegistrationError::TooMany(65)));
        for value in [0, 65_536, u32::MAX] {
            let wrong = agent::Registration { listener_port: value, ..one.clone() };
            let message = agent::Register { ports: vec![wrong], draining: false };
            assert_eq!(Registration::parse(&message), Err(RegistrationError::Port { index: 0, value }));
        }
    }

    #[test]
    fn the_unhealthy_and_the_draining_take_no_traffic() {
        let mut message = register("10.0.0.1:80");
        message.draining = true;
        assert_eq!(Registration::parse(&message).unwrap().open_ports().count(), 0);
        let mut message = register("10.0.0.1:80");
        message.ports[0].healthy = false;
        assert_eq!(Registration::parse(&message).unwrap().open_ports().count(), 0);
    }
}
