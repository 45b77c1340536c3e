//! Everything that an agent does, as it begins.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::listeners::advertised_ip;
use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::{Config, TcpBinding};
use crate::connections::Connections;
use crate::context::Context;
use crate::credentials::{Credentials, Issued};
use crate::decisions::{AccessLog, Decisions};
use crate::enroll::{self, EnrollError};
use crate::health::Health;
use crate::local_http;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::outbound::{Outbound, TcpService};
use crate::random;
use crate::renew::{Expiry, Renewal, Revocation};
use crate::state::{State, StoredIdentity, TokenDigest};
use crate::status::{Joined, Status};
use crate::sync::{Held, Recipient, Sync, ViewAge};
use crate::telemetry::LogFilter;
use crate::workloads::{self, ApiSocket, Board, Front};

/// How long to wait for the control plane's news before we go on with what is on disk.
const SETTLE: Duration = Duration::from_secs(3);

/// What there is from the beginning, and the tasks that have been started so far.
pub(super) struct Start {
    pub(super) config: Arc<Config>,
    pub(super) clock: Clock,
    pub(super) state: Arc<State>,
    pub(super) mesh: Mesh,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: JoinSet<()>,
}

/// What there is once we are somebody.
pub(super) struct Member {
    pub(super) connections: Arc<Connections>,
    credentials: Credentials,
    recipient: Recipient,
    decisions: Arc<Decisions>,
    instance: InstanceId,
    issued_at: UnixMillis,
    used_token: Option<TokenDigest>,
}

impl Start {
    /// Answers probes and administrators.
    pub(super) fn serve_probes(&mut self, health: TcpListener, admin: TcpListener, log_filter: LogFilter) {
        let answers = Arc::new(Health(Arc::clone(&self.status)));
        self.tasks.spawn(local_http::serve(health, answers, self.stop.clone()));
        let answers = Arc::new(Admin { status: Arc::clone(&self.status), log_filter });
        self.tasks.spawn(local_http::serve(admin, answers, self.stop.clone()));
    }

    /// Lets programs ask the Workload API, who are told to wait until we are somebody.
    pub(super) fn accept_programs(&mut self, socket: ApiSocket, connections: usize) -> Arc<Front> {
        let metrics = Arc::clone(&self.metrics);
        let front = Front::new(Board::new(true), metrics, &self.state, self.clock, self.stop.clone());
        workloads::accept(socket, connections, &front, &mut self.tasks);
        front
    }

    /// Waits for a certificate; and the address at which others reach us.
    pub(super) async fn join(&self) -> Result<(Issued, IpAddr), EnrollError> {
        let issued = enroll::obtain(&self.config, &self.state, self.clock, &self.stop).await?;
        Ok((issued, advertised_ip(&self.config, &self.state).await))
    }

    /// Puts in force what was issued.
    pub(super) fn become_member(
        &self,
        issued: Issued,
        access_log: Option<AccessLog>,
    ) -> Result<Member, AppError> {
        let StoredIdentity { instance, issued_at, used_token, .. } = issued.identity;
        let decisions = Arc::new(Decisions::new(self.clock, instance, random::bytes()?, access_log));
        let recipient = Recipient::of(issued.identity.svid.id())?;
        let credentials = Credentials::new(issued, Arc::clone(&self.state))?;
        let connections = Connections::new(Context {
            clock: self.clock,
            identity: credentials.live().clone(),
            trust: credentials.trust_changes(),
            mesh: self.mesh.clone(),
            decisions: Arc::clone(&decisions),
            metrics: Arc::clone(&self.metrics),
        });
        self.status.joined(Joined {
            credentials: credentials.clone(),
            decisions: Arc::clone(&decisions),
            connections: Arc::clone(&connections),
        });
        self.mesh.gate.set_certificate_valid(true);
        Ok(Member { connections, credentials, recipient, decisions, instance, issued_at, used_token })
    }

    /// Starts whatever does not serve traffic itself: what is on disk, what is done from time to time, the certificate,
    /// the Workload API, and the stream to the control plane.
    pub(super) fn start_tasks(
        &mut self,
        member: &Member,
        programs: Option<&Front>,
        registrations: &watch::Sender<pb::Register>,
    ) {
        let age = Arc::new(ViewAge::new());
        let held = Held::load(
            Arc::clone(&self.state),
            self.mesh.clone(),
            member.recipient.clone(),
            &member.credentials.trust().view_keys,
            Arc::clone(&age),
        );
        self.tasks.spawn(age.watch(Arc::clone(&self.mesh.gate), self.clock, self.stop.clone()));
        self.tasks.spawn({
            let (connections, stop) = (Arc::clone(&member.connections), self.stop.clone());
            async move { connections.enforce(stop).await }
        });
        self.tasks.spawn({
            let (services, stop) = (Arc::clone(&self.mesh.services), self.stop.clone());
            async move { services.drop_idle(stop).await }
        });
        self.tasks.spawn({
            let (endpoints, stop) = (Arc::clone(&self.mesh.endpoints), self.stop.clone());
            async move { endpoints.keep_resolved(stop).await }
        });
        self.keep_certificate(member);
        let board = programs.map_or_else(|| Board::new(false), |front| front.board().clone());
        let parts = (member.credentials.clone(), member.connections.context());
        workloads::start(programs, &self.config, parts, &mut self.tasks, &self.stop);
        let sync = Sync {
            control_plane: self.config.control_plane.clone(),
            clock: self.clock,
            credentials: member.credentials.clone(),
            recipient: member.recipient.clone(),
            mesh: self.mesh.clone(),
            workloads: board,
            decisions: Arc::clone(&member.decisions),
            metrics: Arc::clone(&member.connections.context().metrics),
            registrations: registrations.subscribe(),
            connected: self.status.connected.clone(),
            settled: self.status.settled.clone(),
        };
        self.tasks.spawn(sync.run(held, self.stop.clone()));
        self.tasks.spawn({
            let (settled, stop) = (self.status.settled.clone(), self.stop.clone());
            async move {
                // Until then or until we stop, whichever is first; after that nobody waits for it.
                let _ = timeout(SETTLE, stop.cancelled()).await;
                settled.send_replace(true);
            }
        });
    }

    fn keep_certificate(&mut self, member: &Member) {
        let credentials = member.credentials.clone();
        let expiry = Expiry::new(credentials.clone(), Arc::clone(&self.mesh.gate), self.clock);
        self.tasks.spawn(expiry.run(self.stop.clone()));
        let revocation = Revocation::new(
            Arc::clone(&self.config),
            Arc::clone(&self.state),
            credentials.clone(),
            Arc::clone(&self.mesh.denied),
        );
        let renewal = Renewal {
            config: Arc::clone(&self.config),
            state: Arc::clone(&self.state),
            clock: self.clock,
            credentials,
            decisions: Arc::clone(&member.decisions),
            revocation: Arc::new(revocation),
            instance: member.instance,
            issued_at: member.issued_at,
            used_token: member.used_token,
        };
        self.tasks.spawn(renewal.run(self.stop.clone()));
    }

    /// Local apps are served until everything else has stopped, for they may need others while they end.
    pub(super) fn serve_outbound(
        &mut self,
        http: TcpListener,
        tcp: Vec<(TcpBinding, TcpListener)>,
        outbound: Arc<Outbound>,
    ) {
        self.tasks.spawn({
            let (outbound, stop) = (Arc::clone(&outbound), self.stop.clone());
            async move { outbound.maintain(stop).await }
        });
        for (TcpBinding { local: _, is_external, service, port }, listener) in tcp {
            let (outbound, stop) = (Arc::clone(&outbound), self.stop.clone());
            let service = TcpService { is_external, name: service, port };
            self.tasks.spawn(async move { outbound.serve_tcp(listener, service, stop).await });
        }
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            outbound.serve_http(http, stop).await;
            outbound.finish().await;
        });
    }
}
