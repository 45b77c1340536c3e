//! Notices that the network namespace has been left behind.
//!
//! A sidecar container joins the network namespace of another container. When that one is started anew it gets a new
//! namespace, and the sidecar stays in the old one, which reaches nobody and which nobody reaches. Nothing can be done
//! from within: the sidecar has to be started again.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::HostPort;

/// The interfaces of our network namespace, one a line after two lines of titles.
const INTERFACES: &str = "/proc/self/net/dev";
/// How often they are looked at while the control plane is away.
const LOOK: Duration = Duration::from_secs(1);

/// What is needed to tell a lost namespace from a control plane that is away.
#[derive(Debug)]
pub(super) struct Network {
    connected: watch::Receiver<bool>,
    /// Loopback alone is enough where the control plane is on this very host.
    needs_interfaces: bool,
}

impl Network {
    pub(super) fn new(control_plane: &HostPort, connected: watch::Receiver<bool>) -> Self {
        Self { connected, needs_interfaces: !is_loopback(&control_plane.host) }
    }

    /// Returns once the namespace has lost every interface but loopback. Looks only while there is no control plane.
    pub(super) async fn gone(&self) {
        if !self.needs_interfaces {
            return std::future::pending().await;
        }
        let mut connected = self.connected.clone();
        loop {
            if connected.wait_for(|connected| !connected).await.is_err() {
                return std::future::pending().await;
            }
            // Where the file cannot be read nothing is known, and the agent goes on.
            if tokio::fs::read_to_string(INTERFACES).await.is_ok_and(|text| has_loopback_alone(&text)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn has_loopback_alone(text: &str) -> bool {
    let mut names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).peekable();
    names.peek().is_some() && names.all(|name| name == "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: &str = "Inter-|   Receive   |  Transmit\n face |bytes  packets|bytes  packets\n";

    #[test]
    fn only_a_namespace_with_loopback_alone_is_lost() {
        let lost = format!("{TITLES}    lo: 1120 12 0 0\n");
        assert!(has_loopback_alone(&lost));
        assert!(!has_loopback_alone(&format!("{lost}  eth0: 7 1 0 0\n")));
        assert!(!has_loopback_alone(&format!("  {TITLES}wlan0:7 1 0 0\n    lo: 1120 12 0 0\n")));
        assert!(!has_loopback_alone(TITLES), "a file without interfaces says nothing");
        assert!(!has_loopback_alone(""));
    }

    #[test]
    fn a_control_plane_on_this_host_needs_no_interface() {
        for host in ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["control-plane", "10.0.0.1", "fe80::1", "localhost.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
