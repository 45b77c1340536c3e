//! The agent API's `Mesh` service: the door of a session.

use std::sync::Arc;

use hauberk_proto::agent::v1::mesh_server::{Mesh, MeshServer};
use hauberk_proto::agent::v1::{FromAgent, ToAgent};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::access::{CallContext, Caller};
use crate::instances::{IssuedTo, Peer};
use crate::push::Push;

/// The largest message that an agent may send.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// The service, ready to be mounted.
pub(super) fn service(push: &Arc<Push>) -> MeshServer<MeshService> {
    MeshServer::new(MeshService { push: Arc::clone(push) }).max_decoding_message_size(LARGEST_MESSAGE)
}

pub(super) struct MeshService {
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Mesh for MeshService {
    type SyncStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let CallContext { caller, source } = CallContext::of(&request)?;
        let Caller::Agent { peer, instance } = caller else {
            return Err(Status::permission_denied("only agents synchronise here"));
        };
        let certificate = IssuedTo { serial: peer.serial(), issued_at: None, not_after: peer.not_after() };
        let peer = Peer::new(peer.id().clone(), *instance, certificate, source.parse().ok())
            .ok_or_else(|| Status::permission_denied("only nodes and gateways synchronise here"))?;
        Ok(Response::new(ReceiverStream::new(self.push.accept(peer, request.into_inner()))))
    }
}
