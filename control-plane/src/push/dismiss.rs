//! Where an agent is told that its virtual node is gone: it denies everything from then on, and says so.

use std::time::Duration;

use futures_util::Stream;
use hauberk_proto::agent::v1::{self as agent, FromAgent, ToAgent, from_agent, to_agent::Message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tracing::{info, warn};

use super::Push;
use super::close::Close;
use super::pace::Pace;
use super::session::content;
use crate::audit::{Act, Actor};
use crate::instances::Peer;

/// How long the agent may take to obey. It comes back, and is told again.
const OBEYS_WITHIN: Duration = Duration::from_secs(10);

/// Records that the agent was sent away.
pub(super) async fn record(push: &Push, peer: &Peer, close: &Close) {
    if push.instances.records_dismissal(peer) {
        let source = peer.address.map(|address| address.to_string()).unwrap_or_default();
        let actor = Actor { name: peer.spiffe_id.to_string(), source };
        let object = format!("instance {}", peer.instance);
        push.audit.record_refusal(Act::refused(&actor, "mesh.sync", object, close)).await;
    }
}

/// Tells the agent, and takes note of its obedience. Nobody is sent to it any longer, whether it obeys or not.
pub(super) async fn dismiss<S>(
    push: &Push,
    peer: &Peer,
    incoming: &mut S,
    outgoing: &mpsc::Sender<Result<ToAgent, Status>>,
) where
    S: Stream<Item = Result<FromAgent, Status>> + Unpin,
{
    push.endpoints.forget(&peer.spiffe_id, peer.instance);
    let (epoch, revision) = {
        let compilation = push.compilation.borrow();
        (compilation.epoch, compilation.revision)
    };
    let gone = Message::NodeGone(agent::NodeGone { epoch, revision });
    let obeys = async {
        outgoing.send(Ok(ToAgent { message: Some(gone) })).await.map_err(|_| Close::Gone)?;
        let mut pace = Pace::new();
        loop {
            if let Some(from_agent::Message::Acknowledge(message)) = content(pace.next(incoming).await)? {
                let agent::Acknowledge { epoch: of, revision: at, service } = message;
                if (of, at) == (epoch, revision) && service.is_empty() {
                    return Ok::<_, Close>(());
                }
            }
        }
    };
    match timeout(OBEYS_WITHIN, obeys).await {
        Ok(Ok(())) => {
            push.instances.dismissed(peer, push.clock.now());
            info!(event = "instance_dismissed", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
                "it denies everything, since its virtual node is gone");
        }
        Ok(Err(_)) | Err(_) => {
            warn!(event = "instance_not_dismissed", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
                "it has not confirmed that it denies everything, although its virtual node is gone");
        }
    }
}
