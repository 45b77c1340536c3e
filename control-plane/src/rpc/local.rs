//! Local administration: a Unix socket in the data directory, for whoever may open it. It is the way back in when
//! every credential has expired, while the running process holds the store's lock.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hauberk_identity::Name;
use hauberk_proto::admin::v1::local_admin_client::LocalAdminClient;
use hauberk_proto::admin::v1::local_admin_server::{LocalAdmin, LocalAdminServer};
use hauberk_proto::admin::v1::{Credential, IssueCredentialRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Endpoint, Uri};
use tonic::{Request, Response, Status};
use tower::service_fn;

use super::{LARGEST_REQUEST, message, server, status};
use crate::access::{AccessLayer, CallContext, ConnectionInfo};
use crate::app::ControlPlane;

/// What a path of a Unix socket may be long, with room to spare (the system's limit is 108).
const LONGEST_PATH: usize = 100;

/// How many calls a connection may have open, and how many bytes of one and of all of them wait unread.
const CONCURRENT_CALLS: u32 = 16;
const WINDOWS: (u32, u32) = (64 * 1024, 128 * 1024);

/// Local administration that does not work.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket cannot be made.
    #[error("cannot listen on {}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("nothing answers on {}: is the control plane running, with this data directory?", .path.display())]
    NobodyThere {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// The control plane refused.
    #[error("{}", .0.message())]
    Refused(Status),
    /// The server failed.
    #[error("the local administration failed")]
    Serve(#[from] tonic::transport::Error),
}

/// The socket of local administration, bound. Its file goes when it is dropped.
pub struct LocalSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl LocalSocket {
    /// Binds the socket at `path`, 0600. The caller holds the store's lock, so that a socket which is there already is
    /// a dead process's.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, LocalError> {
        match listen(path) {
            Ok(listener) => Ok(Self { listener: Some(listener), path: path.to_owned() }),
            Err(source) => Err(LocalError::Listen { path: path.to_owned(), source }),
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// Serves local administration until `stop`.
///
/// # Errors
/// When the server itself fails.
pub async fn serve_local(
    control: Arc<ControlPlane>,
    mut socket: LocalSocket,
    access: AccessLayer,
    stop: CancellationToken,
) -> Result<(), LocalError> {
    let Some(listener) = socket.listener.take() else { return Ok(()) };
    let incoming = UnixListenerStream::new(listener).map(|accepted| accepted.map(LocalConnection));
    let routes = Routes::new(
        LocalAdminServer::new(LocalAdminService { control }).max_decoding_message_size(LARGEST_REQUEST),
    );
    server::builder(CONCURRENT_CALLS, WINDOWS)
        .layer(access)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Asks the control plane behind `socket` for an admin's credential.
///
/// # Errors
/// When nobody answers, or the answer is no.
pub async fn issue_through_socket(
    socket: &Path,
    request: IssueCredentialRequest,
) -> Result<Credential, LocalError> {
    let path = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let (_directory, address) = short_address(&path)?;
            UnixStream::connect(address).await.map(TokioIo::new)
        }
    });
    let channel = Endpoint::from_static("http://local")
        .connect_with_connector(connector)
        .await
        .map_err(|source| LocalError::NobodyThere { path: socket.to_owned(), source })?;
    // The message alone is for people: as a source, the whole status would be told after it.
    let issued =
        LocalAdminClient::new(channel).issue_credential(request).await.map_err(LocalError::Refused)?;
    Ok(issued.into_inner())
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_directory, address) = short_address(socket)?;
    let listener = UnixListener::bind(address)?;
    // Until here nobody else can reach it: the data directory is 0700.
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A path to the same socket that is short enough for the system, and what must live while it is used.
fn short_address(socket: &Path) -> io::Result<(Option<File>, PathBuf)> {
    match (socket.parent(), socket.file_name()) {
        (Some(directory), Some(name)) if socket.as_os_str().len() > LONGEST_PATH => {
            let directory = File::open(directory)?;
            let address = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            Ok((Some(directory), address))
        }
        _ => Ok((None, socket.to_owned())),
    }
}

struct LocalAdminService {
    control: Arc<ControlPlane>,
}

#[tonic::async_trait]
impl LocalAdmin for LocalAdminService {
    async fn issue_credential(
        &self,
        request: Request<IssueCredentialRequest>,
    ) -> Result<Response<Credential>, Status> {
        let actor = CallContext::of(&request)?.actor();
        let IssueCredentialRequest { name, roles, csr } = request.into_inner();
        let name = Name::parse(&name).map_err(|error| status::bad_field("name", error))?;
        let roles = message::parse_roles(&roles)
            .map_err(|number| status::bad_field("roles", format!("{number} is no role")))?;
        let control = &self.control;
        let credential = control
            .admins
            .issue_locally(&name, &roles, &csr, &actor)
            .await
            .map_err(|error| status::of_admin(&error))?;
        Ok(Response::new(message::credential(&credential, &control.authority, control.admin_server())))
    }
}

struct LocalConnection(UnixStream);

impl Connected for LocalConnection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo::Local { uid: self.0.peer_cred().ok().map(|peer| peer.uid()) }
    }
}

impl AsyncRead for LocalConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for LocalConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_refusal_is_told_once() {
        let refused = LocalError::Refused(Status::unavailable("try again"));
        assert_eq!(refused.to_string(), "try again");
        assert!(refused.source().is_none(), "it would be told after that");
    }
}
