//! The agent while it runs, and how it stops.

use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::agent::v1 as pb;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::listeners::ListenerError;
use super::network::Network;
use super::open_files::OpenFiles;
use super::signals::{Signals, exit_code, is_stop};
use super::{AppError, LAST_WORDS};
use crate::child::{Child, ChildError};
use crate::clock::millis;
use crate::config::Config;
use crate::resident;
use crate::status::Status;

/// How long the news that we are draining may take to reach callers before connections are refused.
const ANNOUNCE: Duration = Duration::from_millis(500);

/// Everything that runs.
pub(super) struct Running {
    pub(super) config: Arc<Config>,
    pub(super) status: Arc<Status>,
    pub(super) signals: Signals,
    pub(super) open_files: OpenFiles,
    pub(super) stop: CancellationToken,
    pub(super) stop_inbound: CancellationToken,
    pub(super) tasks: JoinSet<()>,
    pub(super) inbound: JoinSet<Result<(), ListenerError>>,
    pub(super) child: Option<Child>,
    pub(super) network: Network,
    /// Here so that the session outlives the listeners.
    pub(super) _registrations: watch::Sender<pb::Register>,
}

/// What happened next.
enum Event {
    Signal(Signal),
    Ready,
    ChildEnded(Result<u8, ChildError>),
    Failed(AppError),
}

impl Running {
    /// Until there is a reason to stop, and until that is done; the exit code.
    pub(super) async fn until_stopped(mut self) -> Result<u8, AppError> {
        let outcome = self.serve().await;
        let begun = tokio::select! {
            stopped = stop_in_order(&self.config, &self.status, &self.stop_inbound, &mut self.inbound, &mut self.child) => {
                Ok(stopped)
            }
            signal = self.signals.next_stop() => Err(signal),
        };
        self.stop.cancel();
        match (outcome, begun) {
            (_, Err(signal)) => {
                if let Some(child) = &self.child {
                    child.send(Signal::KILL);
                }
                tracing::warn!(event = "stopped", reason = "a second signal");
                Ok(exit_code(signal))
            }
            (Err(error), _) => Err(error),
            (Ok(code), Ok(of_child)) => {
                let all_ended = async { while self.tasks.join_next().await.is_some() {} };
                if timeout(LAST_WORDS, all_ended).await.is_err() {
                    tracing::warn!(event = "tasks_cut_off", count = self.tasks.len());
                }
                tracing::info!(event = "stopped");
                Ok(of_child.or(code).unwrap_or(0))
            }
        }
    }

    /// Until there is a reason to stop; the child's exit code, if that is it.
    async fn serve(&mut self) -> Result<Option<u8>, AppError> {
        let mut is_ready = false;
        loop {
            match self.next_event(is_ready).await {
                Event::Ready => {
                    is_ready = true;
                    let addresses =
                        serde_json::to_string(&*self.status.addresses.borrow()).unwrap_or_default();
                    tracing::info!(event = "ready", addresses);
                    match resident::release_code() {
                        Ok(bytes) => tracing::debug!(event = "code_released", bytes),
                        Err(error) => tracing::debug!(event = "code_not_released", %error),
                    }
                    if !self.config.command.is_empty() {
                        let outbound = self.status.addresses.borrow().outbound;
                        let child = Child::start(&self.config.command, outbound)?;
                        self.open_files.restore(child.pid());
                        self.child = Some(child);
                    }
                }
                Event::Signal(signal) if is_stop(signal) => {
                    tracing::info!(event = "stopping", signal = signal.as_raw());
                    return Ok(None);
                }
                Event::Signal(signal) => {
                    if let Some(child) = &self.child {
                        child.send(signal);
                    }
                }
                Event::ChildEnded(code) => {
                    self.child = None;
                    return Ok(Some(code?));
                }
                Event::Failed(error) => return Err(error),
            }
        }
    }

    async fn next_event(&mut self, is_ready: bool) -> Event {
        loop {
            let child_ended = async {
                match &mut self.child {
                    Some(child) => child.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = self.signals.next() => return Event::Signal(signal),
                () = self.status.ready(), if !is_ready => return Event::Ready,
                code = child_ended => return Event::ChildEnded(code),
                () = self.network.gone() => return Event::Failed(AppError::NetworkGone),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended {
                        return Event::Failed(error.into());
                    }
                }
                Some(ended) = self.inbound.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Event::Failed(error.into()),
                    Err(error) => return Event::Failed(error.into()),
                },
            }
        }
    }
}

/// Drains, then ends the child; its exit code, if there was one.
async fn stop_in_order(
    config: &Config,
    status: &Status,
    stop_inbound: &CancellationToken,
    inbound: &mut JoinSet<Result<(), ListenerError>>,
    child: &mut Option<Child>,
) -> Option<u8> {
    status.draining.send_replace(true);
    let somebody_is_told = *status.connected.borrow() && !status.addresses.borrow().inbound.is_empty();
    tokio::time::sleep(config.drain_delay.unwrap_or(if somebody_is_told {
        ANNOUNCE
    } else {
        Duration::ZERO
    }))
    .await;
    stop_inbound.cancel();
    let drained = async { while inbound.join_next().await.is_some() {} };
    if timeout(config.drain_timeout, drained).await.is_err() {
        tracing::warn!(event = "drain_cut_off", after_ms = millis(config.drain_timeout));
        inbound.abort_all();
    }
    let child = child.as_mut()?;
    child.send(Signal::TERM);
    match timeout(config.drain_timeout, child.wait()).await {
        Ok(ended) => ended.ok(),
        Err(_) => {
            tracing::warn!(event = "child_killed", after_ms = millis(config.drain_timeout));
            child.send(Signal::KILL);
            child.wait().await.ok()
        }
    }
}
