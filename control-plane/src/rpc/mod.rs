//! The gRPC surface: which services stand on which listener, and what lies between a socket and a service.
//!
//! A service gets an `Arc<ControlPlane>` and finds the caller in the request by
//! [`CallContext::of`](crate::access::CallContext::of); the access table has been applied by then.

mod admins;
mod agent;
mod audit;
mod authorities;
mod drafts;
mod explain;
mod federation;
mod findings;
mod flows;
mod identities;
mod listener;
mod local;
mod mesh_sync;
pub mod message;
mod page;
mod parent;
mod policies;
mod record;
mod refused;
mod resources;
mod revocations;
mod rollout;
mod server;
pub mod status;
mod svid_tokens;
mod system;
mod workloads;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tonic::service::Routes;

use crate::app::ControlPlane;
use crate::bulkhead::Bulkhead;
use crate::federation::Federation;
use crate::push::Push;
use crate::resources::Resources;
pub use listener::{Deadlines, Limits, Listening};
pub use local::{LocalError, LocalSocket, issue_through_socket, serve_local};
pub use parent::{Parent, ParentError, Told};
pub use policies::answer_offline;
pub use server::serve;

/// The largest request of an RPC that carries little, in bytes; the services whose requests carry more say so.
const LARGEST_REQUEST: usize = 64 * 1024;

/// The largest request of a service that anybody may call, in bytes: a request for a certificate, which has less than
/// 2 KiB with the longest keys in use, and a token.
const LARGEST_PUBLIC_REQUEST: usize = 16 * 1024;

/// The largest question about health, in bytes: it names a service.
const LARGEST_HEALTH_REQUEST: usize = 1024;

/// What agents reach.
pub async fn agent_routes(control: &Arc<ControlPlane>, push: &Arc<Push>) -> Routes {
    Routes::new(agent::service(control))
        .add_service(mesh_sync::service(control, push))
        .add_service(workloads::service(control))
        .add_service(svid_tokens::service(control))
        .add_service(health_service(AGENT_SERVICES).await)
}

/// What admins reach.
///
/// # Errors
/// When reflection cannot read our own descriptors.
pub async fn admin_routes(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
    federation: &Arc<Federation>,
) -> Result<Routes, tonic_reflection::server::Error> {
    let drafts = Arc::new(Bulkhead::of_drafts());
    Ok(Routes::new(health_service(ADMIN_SERVICES).await)
        .add_service(admins::service(control))
        .add_service(audit::service(control))
        .add_service(authorities::service(control, resources, push))
        .add_service(federation::service(control, resources, federation))
        .add_service(flows::service(push))
        .add_service(identities::service(control, push))
        .add_service(policies::service(control, resources, push, &drafts))
        .add_service(record::service(control, resources, push, &drafts))
        .add_service(resources::service(control, resources))
        .add_service(revocations::service(control))
        .add_service(rollout::service(control, resources, push))
        .add_service(system::service(control, resources, push, federation))
        .add_service(reflection().build_v1()?.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(LARGEST_REQUEST)))
}

/// The services of the agent listener, as health names them.
const AGENT_SERVICES: &[&str] = &[
    "hauberk.agent.v1.Enrollment",
    "hauberk.agent.v1.Mesh",
    "hauberk.agent.v1.Workloads",
    "hauberk.agent.v1.SvidTokens",
    "grpc.health.v1.Health",
];

/// The services of the admin listener, as reflection lists them and health names them.
const ADMIN_SERVICES: &[&str] = &[
    "hauberk.admin.v1.Admins",
    "hauberk.admin.v1.Audit",
    "hauberk.admin.v1.Authorities",
    "hauberk.admin.v1.Federation",
    "hauberk.admin.v1.Flows",
    "hauberk.admin.v1.Identities",
    "hauberk.admin.v1.Policies",
    "hauberk.admin.v1.Record",
    "hauberk.admin.v1.Resources",
    "hauberk.admin.v1.Revocations",
    "hauberk.admin.v1.Rollout",
    "hauberk.admin.v1.System",
    "grpc.health.v1.Health",
];

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(hauberk_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    ADMIN_SERVICES.iter().fold(builder, |builder, name| builder.with_service_name(*name))
}

/// Answers `SERVING` for the process as a whole and for each of these services: a listener that answers at all serves.
async fn health_service(
    services: &[&str],
) -> tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService> {
    let reporter = tonic_health::server::HealthReporter::new();
    for service in services {
        reporter.set_service_status(*service, tonic_health::ServingStatus::Serving).await;
    }
    tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(reporter),
    )
    .max_decoding_message_size(LARGEST_HEALTH_REQUEST)
}
