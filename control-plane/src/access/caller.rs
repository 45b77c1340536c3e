//! Who calls: what the connection proves, and what that makes the caller.

use std::net::SocketAddr;

use hauberk_identity::{InstanceId, Name};
use hauberk_tls::PeerIdentity;
use hauberk_tls::device::ChannelBinding;

use crate::admins::Role;
use crate::audit::Actor;
use crate::room::{Call, Calls};

/// What is known of a connection; the layer finds it in a request's extensions.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one of a connection, and nearly all are TLS")]
pub enum ConnectionInfo {
    /// TLS over TCP.
    Tls {
        /// From where.
        address: SocketAddr,
        /// The verified certificate, where one was presented.
        peer: Option<PeerIdentity>,
        /// What names the connection, for evidence that is good on this one alone.
        channel: ChannelBinding,
        /// Where calls are noted: whoever has proved nothing keeps the place as long as one is under way.
        calls: Option<Calls>,
    },
    /// The Unix socket of local administration.
    Local {
        /// The user at the other end, if the system says.
        uid: Option<u32>,
    },
}

impl ConnectionInfo {
    /// Notes a call, until what is returned is dropped.
    pub fn begin_call(&self) -> Option<Call> {
        match self {
            Self::Tls { calls, .. } => calls.as_ref().map(Calls::begin),
            Self::Local { .. } => None,
        }
    }
}

/// Who calls, after the access table has let them.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody in particular: of a public RPC.
    Anybody,
    /// An agent.
    Agent {
        /// What its certificate proves: who it is, and until when.
        peer: PeerIdentity,
        /// Which instance it is.
        instance: InstanceId,
    },
    /// An admin.
    Admin {
        /// The name.
        name: Name,
        /// What the admin may do.
        roles: Vec<Role>,
        /// What the certificate proves.
        peer: PeerIdentity,
    },
    /// Whoever can open the Unix socket.
    Local {
        /// The user.
        uid: Option<u32>,
    },
}

/// What services find in the extensions of every request: who calls, and from where.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// Who.
    pub caller: Caller,
    /// `IP:port`, or `unix`.
    pub source: String,
    /// What names the connection; `None` on the Unix socket.
    pub channel: Option<ChannelBinding>,
}

impl CallContext {
    /// The caller, as audit records name it.
    pub fn actor(&self) -> Actor {
        let name = match &self.caller {
            Caller::Anybody => "unauthenticated".to_owned(),
            Caller::Agent { peer, .. } | Caller::Admin { peer, .. } => peer.id().to_string(),
            Caller::Local { uid: Some(uid) } => format!("local:uid={uid}"),
            Caller::Local { uid: None } => "local".to_owned(),
        };
        Actor { name, source: self.source.clone() }
    }

    /// Whether the caller is an admin who has this role, or is an owner.
    pub fn has_role(&self, role: Role) -> bool {
        self.roles().iter().any(|has| *has == role || *has == Role::Owner)
    }

    /// The roles of an admin; nobody else has any.
    pub fn roles(&self) -> &[Role] {
        match &self.caller {
            Caller::Admin { roles, .. } => roles,
            Caller::Anybody | Caller::Agent { .. } | Caller::Local { .. } => &[],
        }
    }

    /// The same with the request's message.
    ///
    /// # Errors
    /// As [`CallContext::of`].
    pub fn with_message<T>(request: tonic::Request<T>) -> Result<(Self, T), tonic::Status> {
        let context = Self::of(&request)?.clone();
        Ok((context, request.into_inner()))
    }

    /// The context of a request that has passed the layer.
    ///
    /// # Errors
    /// When it has not: a service is mounted without the layer, and every call of it is refused.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, tonic::Status> {
        request
            .extensions()
            .get::<Self>()
            .ok_or_else(|| tonic::Status::permission_denied("the caller is unknown"))
    }
}
