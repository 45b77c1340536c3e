//! TCP streams inside HTTP/2: what one stream of a tunnel carries, and a tunnel's limits.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::meter::{Direction, Meter};
use super::pump::cut;
use super::strict::MAX_HEAD;

/// TCP streams on one tunnel.
pub(crate) const MAX_STREAMS: usize = 128;
/// Bytes under way on one TCP stream.
const STREAM_WINDOW: u32 = 512 << 10;
/// Room for all of them, so that streams whose app does not read cannot hold up the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
/// The largest frame. Fewer frames cost less; larger ones hold up other streams.
const FRAME: u32 = 64 << 10;
/// Bytes of one stream that wait to be written before its source is read no further.
const SEND_BUFFER: usize = 256 << 10;
/// The least and the most that is read from a socket at once.
const MIN_READ: usize = 4 << 10;
const MAX_READ: usize = 64 << 10;
/// Streams that a caller may reset before they were looked at (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 32;

/// How tunnels are accepted.
pub(crate) fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS);
    builder
}

/// How tunnels are opened.
pub(crate) fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Copies both ways between a socket and a stream of a tunnel, until both directions have ended, one has failed, or
/// `meter` is cut. `outward` is the direction from the socket into the tunnel; `early` is what has been read of it
/// already.
///
/// The end of one direction is passed on while the other goes on. After a failure each side is told that the stream
/// was broken off, by RST_STREAM or by a TCP reset, so that nobody takes the part that came for the whole.
///
/// # Errors
/// One side failed; or `PermissionDenied` where it was cut.
pub(crate) async fn pump(
    socket: &mut TcpStream,
    early: Bytes,
    mut send: SendStream<Bytes>,
    receive: RecvStream,
    meter: &Meter,
    outward: Direction,
) -> io::Result<()> {
    let inward = match outward {
        Direction::In => Direction::Out,
        Direction::Out => Direction::In,
    };
    if !early.is_empty() {
        meter.count(outward, early.len());
        send.send_data(early, false).map_err(broken)?;
    }
    let mut out = Outward { send, read_size: MIN_READ, has_reserved: false, is_done: false };
    let mut back = Inward { receive, held: Bytes::new(), phase: InwardPhase::Receiving };
    let outcome = std::future::poll_fn(|cx| {
        if meter.poll_cut(Direction::In, cx.waker()) {
            return Poll::Ready(Err(cut()));
        }
        let out = out.poll(cx, socket, (meter, outward))?;
        let back = back.poll(cx, socket, (meter, inward))?;
        if out.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await;
    if outcome.is_err() {
        out.send.send_reset(Reason::CANCEL);
        // Only a courtesy to the peer of a socket that may be broken anyhow.
        let _ = socket.set_zero_linger();
    }
    outcome
}

/// From the socket into the tunnel.
struct Outward {
    send: SendStream<Bytes>,
    read_size: usize,
    has_reserved: bool,
    is_done: bool,
}

impl Outward {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        (meter, direction): (&Meter, Direction),
    ) -> Poll<io::Result<()>> {
        while !self.is_done {
            // A buffer, and a share of the tunnel's window, are taken only when there is something to send.
            if socket.poll_read_ready(cx)?.is_pending() {
                if self.has_reserved {
                    self.send.reserve_capacity(0);
                    self.has_reserved = false;
                }
                return Poll::Pending;
            }
            let room = ready!(self.poll_room(cx))?;
            let mut buffer = BytesMut::with_capacity(room);
            let read = {
                let mut space = (&mut buffer).limit(room);
                let reading = pin!(socket.read_buf(&mut space));
                match reading.poll(cx)? {
                    Poll::Ready(read) => read,
                    Poll::Pending => continue,
                }
            };
            // Asked after the read, as in `pump`.
            if meter.is_cut() {
                return Poll::Ready(Err(cut()));
            }
            self.is_done = read == 0;
            if read == self.read_size {
                self.read_size = (read * 2).min(MAX_READ);
            }
            meter.count(direction, read);
            self.send.send_data(buffer.freeze(), self.is_done).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }

    /// How much may be sent now; never nothing.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(self.read_size);
        self.has_reserved = true;
        loop {
            match self.send.capacity() {
                0 => match ready!(self.send.poll_capacity(cx)) {
                    Some(grown) => drop(grown.map_err(broken)?),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => return Poll::Ready(Ok(room.min(self.read_size))),
            }
        }
    }
}

/// From the tunnel to the socket.
struct Inward {
    receive: RecvStream,
    /// Received, and not written yet.
    held: Bytes,
    phase: InwardPhase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InwardPhase {
    Receiving,
    ShuttingDown,
    Done,
}

impl Inward {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        (meter, direction): (&Meter, Direction),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.held.is_empty() {
                if meter.is_cut() {
                    return Poll::Ready(Err(cut()));
                }
                let written = ready!(Pin::new(&mut *socket).poll_write(cx, &self.held))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.held.advance(written);
                meter.count(direction, written);
                // Only now may the other side send as much again.
                self.receive.flow_control().release_capacity(written).map_err(broken)?;
            }
            match self.phase {
                InwardPhase::Receiving => match ready!(self.receive.poll_data(cx)) {
                    Some(data) => self.held = data.map_err(broken)?,
                    None => self.phase = InwardPhase::ShuttingDown,
                },
                InwardPhase::ShuttingDown => {
                    ready!(Pin::new(&mut *socket).poll_shutdown(cx))?;
                    self.phase = InwardPhase::Done;
                }
                InwardPhase::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
