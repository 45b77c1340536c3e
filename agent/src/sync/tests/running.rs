//! An agent with a stream that the test holds the other end of.

use super::*;
use crate::testing::Stream;

pub(super) struct Running {
    pub(super) agent: Agent,
    pub(super) credentials: Credentials,
    pub(super) workloads: Board,
    /// Where its streams come from.
    pub(super) plane: ControlPlane,
    /// The first of them.
    pub(super) stream: Stream,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
    _registrations: watch::Sender<pb::Register>,
}

impl Running {
    pub(super) async fn start(agent: Agent, held: Held) -> Self {
        let mut plane = ControlPlane::start(&agent.authorities).await;
        let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
        let issued = Issued { identity, trust: agent.authorities.stored_trust() };
        let credentials = Credentials::new(issued, Arc::clone(&agent.state)).unwrap();
        let (clock, workloads) = (Clock::system(), Board::new(false));
        let registrations = watch::Sender::new(pb::Register::default());
        let sync = Sync {
            control_plane: crate::testing::config(plane.address, agent.directory.path(), &[]).control_plane,
            clock,
            credentials: credentials.clone(),
            recipient: recipient(),
            mesh: agent.mesh.clone(),
            decisions: Arc::new(Decisions::new(clock, "0123456789".parse().unwrap(), [1; 4], None)),
            workloads: workloads.clone(),
            metrics: Arc::default(),
            registrations: registrations.subscribe(),
            connected: watch::Sender::new(false),
            settled: watch::Sender::new(false),
        };
        let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        tasks.spawn(sync.run(held, stop.clone()));
        let stream = plane.streams.recv().await.unwrap();
        Self { agent, credentials, workloads, plane, stream, stop, tasks, _registrations: registrations }
    }

    pub(super) async fn stopped(mut self) -> Agent {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.agent
    }
}
