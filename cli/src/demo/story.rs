//! What happens in a shop of containers, as the control plane hears it.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use hauberk_proto::admin::v1::{ListInstancesRequest, ObserveRequest};
use hauberk_proto::agent::v1::{Decision, Verdict};
use tokio::time::{sleep, timeout};

use super::account::{Account, Place};
use super::caller::Answer;
use super::error::DemoError;
use super::processes::told_to_stop;
use super::up::{NODES, Node};
use crate::arguments::Global;
use crate::commands::decision::{caller_name, short_name};
use crate::error::CommandError;
use crate::session::Session;

/// How long one conversation lasts; the next renews the credential where that is due.
const CONVERSATION: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(250);
/// From one attempt to reach the control plane to the next.
const RETRY: Duration = Duration::from_secs(1);

/// Tells the story until it is told to stop.
pub(super) async fn run(global: &Global) -> Result<ExitCode, DemoError> {
    let stop = told_to_stop()?;
    let mut account = Account::new(Place::Containers);
    let mut is_introduced = false;
    let telling = async {
        loop {
            if let Err(error) = converse(global, &mut account, &mut is_introduced).await {
                account.control_plane_away(&error.to_string());
                sleep(RETRY).await;
            }
        }
    };
    tokio::select! {
        never = telling => match never {},
        () = stop => Ok(ExitCode::SUCCESS),
    }
}

async fn converse(
    global: &Global,
    account: &mut Account,
    is_introduced: &mut bool,
) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    account.control_plane(&session.context.server, None);
    if !*is_introduced {
        everybody(&session).await?;
        account.agents(nodes().count());
        *is_introduced = true;
    }
    // That it has lasted long enough is no error.
    timeout(CONVERSATION, listen(&session, account))
        .await
        .map_or(Ok(()), |ended| ended.map(|never| match never {}))
}

/// Who is there in containers.
fn nodes() -> impl Iterator<Item = &'static Node> {
    NODES.iter().filter(|node| !node.is_for_people)
}

/// Waits until each node has an instance that is connected.
async fn everybody(session: &Session) -> Result<(), CommandError> {
    loop {
        let request = ListInstancesRequest::default();
        let instances = session.identities().list_instances(request).await?.into_inner().instances;
        let is_there = |name: &str| instances.iter().any(|one| one.node == name && one.connected);
        if nodes().all(|node| is_there(node.name)) {
            return Ok(());
        }
        sleep(POLL).await;
    }
}

async fn listen(session: &Session, account: &mut Account) -> Result<Infallible, CommandError> {
    let mut stream = session.flows().observe(ObserveRequest::default()).await?.into_inner();
    while let Some(batch) = stream.message().await? {
        for decision in batch.decisions {
            let caller = caller_name(&decision.caller, &decision.node);
            match (caller.as_str(), short_name(&decision.node).as_str()) {
                ("web", "orders") => account.web(Ok(answer(decision))),
                ("intruder", "payments") => account.intruder(Ok(answer(decision))),
                _ => {}
            }
        }
    }
    Err(CommandError::failed("the control plane ended the stream"))
}

/// What the caller was answered.
fn answer(decision: Decision) -> Answer {
    let denied = decision.verdict() == Verdict::Deny;
    Answer {
        status: if denied { 403 } else { u16::try_from(decision.status).unwrap_or_default() },
        decision: denied.then_some(decision.id),
        body: String::new(),
    }
}
