//! Endpoints as the control plane tells them, and as they are kept.

use std::net::SocketAddr;

use hauberk_identity::{InstanceId, SpiffeId};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::convert::listener_port;
use thiserror::Error;

use crate::mesh::{Endpoint, Endpoints};

/// An update of endpoints that says something impossible. The fault is the control plane's.
#[derive(Debug, Error)]
#[error("{field} of the endpoints' update: {problem}")]
pub(super) struct BadEndpoints {
    field: &'static str,
    problem: String,
}

/// Reads an update. Those of the disk count as unconfirmed, whatever they were.
pub(super) fn read(
    update: &pb::EndpointsUpdate,
    is_fresh: bool,
) -> Result<(SpiffeId, u16, Vec<Endpoint>), BadEndpoints> {
    let bad = |field, problem: String| BadEndpoints { field, problem };
    let pb::EndpointsUpdate { spiffe_id, listener_port: port, endpoints } = update;
    let target = SpiffeId::parse(spiffe_id).map_err(|error| bad("spiffe_id", error.to_string()))?;
    let port = listener_port("listener_port", *port).map_err(|error| bad("port", error.to_string()))?;
    let endpoints = endpoints
        .iter()
        .map(|pb::Endpoint { address, instance_id, confirmed }| {
            let address: SocketAddr =
                address.parse().map_err(|_| bad("address", format!("{address:?} is no IP:port")))?;
            InstanceId::parse(instance_id).map_err(|error| bad("instance_id", error.to_string()))?;
            Ok(Endpoint { address, instance: instance_id.clone(), confirmed: *confirmed && is_fresh })
        })
        .collect::<Result<Vec<_>, BadEndpoints>>()?;
    Ok((target, port, endpoints))
}

/// All that are registered, for the disk.
pub(super) fn to_keep(endpoints: &Endpoints) -> Vec<pb::EndpointsUpdate> {
    let all = endpoints.registered_snapshot().into_iter();
    all.map(|(id, port, endpoints)| pb::EndpointsUpdate {
        spiffe_id: id.to_string(),
        listener_port: port.into(),
        endpoints: endpoints
            .iter()
            .map(|endpoint| pb::Endpoint {
                address: endpoint.address.to_string(),
                instance_id: endpoint.instance.clone(),
                confirmed: endpoint.confirmed,
            })
            .collect(),
    })
    .collect()
}
