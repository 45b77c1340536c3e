//! The agent API's `Mesh` service: the door of a session.

use std::sync::Arc;

use hauberk_proto::agent::v1::mesh_server::{Mesh, MeshServer};
use hauberk_proto::agent::v1::{FromAgent, ToAgent};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;
use crate::instances::{IssuedTo, Peer};
use crate::issuance::Ledger;
use crate::push::Push;

/// The largest message that an agent may send.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>, push: &Arc<Push>) -> MeshServer<MeshService> {
    let service = MeshService { ledger: Arc::clone(&control.ledger), push: Arc::clone(push) };
    MeshServer::new(service).max_decoding_message_size(LARGEST_MESSAGE)
}

pub(super) struct MeshService {
    ledger: Arc<Ledger>,
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Mesh for MeshService {
    type SyncStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let CallContext { caller, source, channel: _ } = CallContext::of(&request)?;
        let Caller::Agent { peer, instance } = caller else {
            return Err(Status::permission_denied("only agents synchronise here"));
        };
        let record = self.ledger.instance(instance).await.map_err(|error| status::of_store(&error))?;
        let node_uid = record.and_then(|record| record.node_uid);
        let certificate = IssuedTo { serial: peer.serial(), issued_at: None, not_after: peer.not_after() };
        let proof = Some(peer.clone());
        let peer = Peer::new(peer.id().clone(), *instance, node_uid, certificate, source.parse().ok())
            .ok_or_else(|| Status::permission_denied("only nodes and gateways synchronise here"))?;
        let peer = Peer { proof, ..peer };
        Ok(Response::new(ReceiverStream::new(self.push.accept(peer, request.into_inner()))))
    }
}
