//! The sockets that are bound before anything else, and who serves them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use thiserror::Error;
use tokio::net::TcpListener;

use crate::addresses::Addresses;
use crate::config::{Config, TcpBinding};
use crate::workloads::{ApiSocket, SocketError};

/// Bound, and not served yet.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) outbound: TcpListener,
    pub(super) tcp: Vec<(TcpBinding, TcpListener)>,
    pub(super) admin: TcpListener,
    pub(super) health: TcpListener,
    pub(super) workload_api: Option<ApiSocket>,
    pub(super) addresses: Addresses,
}

/// A socket cannot be bound. The fault is whoever configured it, or another program's.
#[derive(Debug, Error)]
pub enum SocketsError {
    /// One of TCP.
    #[error("--{setting}: {address} cannot be bound: {source}")]
    Tcp {
        /// Which.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The Workload API's.
    #[error(transparent)]
    WorkloadApi(#[from] SocketError),
}

impl Sockets {
    pub(super) async fn bind(config: &Config) -> Result<Self, SocketsError> {
        let (outbound, outbound_address) = bind("outbound", config.outbound).await?;
        let (admin, admin_address) = bind("admin", config.admin).await?;
        let (health, health_address) = bind("health", config.health).await?;
        let mut tcp = Vec::new();
        let mut tcp_addresses = BTreeMap::new();
        for binding in &config.tcp {
            let (socket, address) = bind("tcp", binding.local).await?;
            let prefix = if binding.is_external { "external/" } else { "" };
            let name = match binding.port {
                Some(port) => format!("{prefix}{}:{port}", binding.service),
                None => format!("{prefix}{}", binding.service),
            };
            tcp_addresses.insert(name, address);
            tcp.push((binding.clone(), socket));
        }
        let addresses = Addresses {
            outbound: outbound_address,
            admin: admin_address,
            health: health_address,
            tcp: tcp_addresses,
            inbound: BTreeMap::new(),
            is_complete: false,
        };
        let workload_api = config.workload_api_socket.as_deref().map(ApiSocket::bind).transpose()?;
        Ok(Self { outbound, tcp, admin, health, workload_api, addresses })
    }
}

async fn bind(setting: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), SocketsError> {
    let failed = |source| SocketsError::Tcp { setting, address, source };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}
