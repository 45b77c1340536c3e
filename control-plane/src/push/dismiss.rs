//! Where an agent is told that it is nobody any longer: its virtual node is gone, its certificate is revoked, or its node is
//! in quarantine. It denies everything from then on, and says so.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hauberk_proto::agent::v1::{self as agent, FromAgent, ToAgent, from_agent, to_agent::Message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tracing::{error, info, warn};

use super::Push;
use super::close::Close;
use super::pace::Pace;
use super::session::content;
use crate::audit::{Act, Actor};
use crate::instances::Peer;
use crate::revocation::Mark;

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

/// Tells the agent that its node is gone, and takes note of its obedience. Nobody is sent to it any longer, whether it
/// obeys or not.
pub(super) async fn dismiss<S>(
    push: &Push,
    peer: &Peer,
    incoming: &mut S,
    outgoing: &mpsc::Sender<Result<ToAgent, Status>>,
) where
    S: Stream<Item = Result<FromAgent, Status>> + Unpin,
{
    let (epoch, revision) = {
        let compilation = push.compilation.borrow();
        (compilation.epoch, compilation.revision)
    };
    let gone = Message::NodeGone(agent::NodeGone { epoch, revision });
    let is_answer = |message: &from_agent::Message| match message {
        from_agent::Message::Acknowledge(agent::Acknowledge { epoch: of, revision: at, service }) => {
            (*of, *at) == (epoch, revision) && service.is_empty()
        }
        _ => false,
    };
    if send_away(push, peer, ([gone], is_answer), incoming, outgoing).await
        && let Err(error) = push.instances.dismissed(&*push.store, peer, push.clock.now()).await
    {
        error!(event = "dismissal_not_recorded", instance = %peer.instance, spiffe_id = %peer.spiffe_id, %error,
            "it denies everything, and is named as one that may not until its certificate expires");
    }
}

/// Tells the agent that it is on the denylist, likewise. Whom to believe goes before it: the list may be signed by a key that
/// followed another while the agent was away, and a list that it does not believe it would not obey.
pub(super) async fn deny<S>(
    push: &Push,
    peer: &Peer,
    incoming: &mut S,
    outgoing: &mpsc::Sender<Result<ToAgent, Status>>,
) where
    S: Stream<Item = Result<FromAgent, Status>> + Unpin,
{
    // The list first, so that whoever signed it is among those whom the other tells of.
    let denylist = Arc::clone(&push.denylist.borrow());
    let trust = agent::Trust::clone(&push.trust.borrow());
    let Mark { epoch, revision } = denylist.mark;
    let told = [Message::Trust(trust), Message::Denylist(denylist.signed.clone())];
    let is_answer = |message: &from_agent::Message| match message {
        from_agent::Message::AcknowledgeDenylist(message) => {
            (message.epoch, message.revision) == (epoch, revision)
        }
        _ => false,
    };
    if send_away(push, peer, (told, is_answer), incoming, outgoing).await {
        // Not for good: a quarantine ends. Whoever is on the list is not waited for, so that it need not be durable.
        push.instances.obeyed(peer, push.clock.now());
    }
}

/// Whether the agent obeys.
async fn send_away<S, const N: usize>(
    push: &Push,
    peer: &Peer,
    (told, is_answer): ([Message; N], impl Fn(&from_agent::Message) -> bool),
    incoming: &mut S,
    outgoing: &mpsc::Sender<Result<ToAgent, Status>>,
) -> bool
where
    S: Stream<Item = Result<FromAgent, Status>> + Unpin,
{
    push.endpoints.forget(&peer.spiffe_id, peer.instance);
    let obeys = async {
        for message in told {
            outgoing.send(Ok(ToAgent { message: Some(message) })).await.map_err(|_| Close::Gone)?;
        }
        let mut pace = Pace::new();
        loop {
            if content(pace.next(incoming).await)?.is_some_and(|message| is_answer(&message)) {
                return Ok::<_, Close>(());
            }
        }
    };
    match timeout(OBEYS_WITHIN, obeys).await {
        Ok(Ok(())) => {
            info!(event = "instance_dismissed", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
                "it denies everything, since it is let in nowhere any longer");
            true
        }
        Ok(Err(_)) | Err(_) => {
            warn!(event = "instance_not_dismissed", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
                "it has not confirmed that it denies everything, although it is let in nowhere any longer");
            false
        }
    }
}
